//! A queue on a real journal, with a courier and an upstream that are played by the test, and a clock that is moved
//! by hand.

mod age;
mod deliver;
mod keys;
mod operate;
mod order;
mod sagas;
mod stage;
mod torture;
