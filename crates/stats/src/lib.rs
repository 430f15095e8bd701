//! Pure functions on numbers: whether a candidate does worse than the active one on the same traffic, said
//! only when chance is no explanation. What is compared, and how often it errs, is in `docs/gate.md`.
//!
//! Here live the latency histogram, the blocks of traffic that are compared, the tests, and their findings in
//! plain words. Never here: releases, environments, clocks, threads and IO. Time comes as a number of elapsed
//! seconds, requests come as counts, and the same numbers always give the same answer.
//!
//! | question | module | kind of test |
//! | --- | --- | --- |
//! | does the candidate fail more often? | [`errors`] | e-process on the side each error fell on |
//! | is it slower? | [`latency`] | paired blocks, 8 of the last 10 |
//! | are its slowest requests more? | [`tail`] | e-process on one sign per block |
//! | does it meet what was promised? | [`objective`] | e-process on a share |
//! | how many users has it hurt so far? | [`exposure`] | an estimate with a margin |
//!
//! An e-process is a number that starts at 1 and that, as long as the candidate is no worse, is expected
//! never to grow: the chance that it *ever* reaches 1/α, at any of any number of looks, is at most α (Ville
//! 1939; Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference",
//! 2023).

pub mod block;
pub mod errors;
mod evidence;
pub mod exposure;
pub mod histogram;
pub mod latency;
pub mod objective;
pub mod tail;
mod text;
