//! A queue on a real journal, with a courier and an upstream that are played by the test, and a clock that is moved
//! by hand.

#![expect(clippy::unwrap_used, reason = "clippy knows tests, but not what they stand on")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test names what it wants, and anything else fails it")]

mod age;
mod deliver;
mod doubt;
mod early;
mod forgetting;
mod held;
mod imports;
mod keys;
mod operate;
mod order;
mod power_cut;
mod sagas;
mod stage;
mod torture;
