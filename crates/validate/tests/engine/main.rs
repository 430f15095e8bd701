//! The engine against real sockets: a small upstream that answers, stalls, cuts and double-inserts on demand.

// `cfg(test)` tells clippy that everything here is a test, helper functions included.
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod load;
#[cfg(test)]
mod queued;
#[cfg(test)]
mod smoke;
#[cfg(test)]
mod upstream;
