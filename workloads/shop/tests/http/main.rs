//! The shop as its customers and operators meet it: real processes, real sockets, real files.

mod orders;
mod processes;
mod products;
mod releases;
mod running;
