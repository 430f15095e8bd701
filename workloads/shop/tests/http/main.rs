//! The shop as its customers and operators meet it: real processes, real sockets, real files, real servers.

mod desk;
mod lock;
mod mailer;
mod migrations;
mod mishaps;
mod openapi;
mod orders;
mod outages;
mod pages;
mod processes;
mod products;
mod releases;
mod running;
mod server;
mod services;
