//! How often the gate blames a release that is no worse, and how soon it finds one that is: the tables of
//! `docs/gate.md`.
//!
//! `cargo run --release -p stats --example simulate -- [TRIALS [SEED]]`, by default 10000 and 1.

#[path = "simulate/cells.rs"]
mod cells;
#[path = "simulate/release.rs"]
mod release;
#[path = "simulate/world.rs"]
mod world;

use cells::{Cell, simulate};
use release::Fault;
use std::process::ExitCode;
use std::time::Instant;
use world::Shape;

const RATES: [f64; 3] = [5.0, 50.0, 1_000.0];
const MEANS: [f64; 3] = [2.0, 20.0, 100.0];
/// The noise under which worse releases are to be found: the higher of the two that identical ones meet.
const SD: f64 = 0.3;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(trials), Ok(seed)) = (arguments.next().unwrap_or(Ok(10_000)), arguments.next().unwrap_or(Ok(1)))
    else {
        eprintln!("usage: simulate [TRIALS [SEED]], both whole numbers");
        return ExitCode::from(2);
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let began = Instant::now();
    println!("{trials} releases per line, seed {seed}\n");
    identical(trials, seed, threads);
    for mean_ms in MEANS {
        worse(mean_ms, trials, seed, threads);
    }
    failing(trials, seed, threads);
    eprintln!("took {:.0} s", began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

/// Releases that are no worse.
fn identical(trials: u64, seed: u64, threads: u64) {
    println!("| identical | service | noise | requests/s | blamed | by |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for shape in [Shape::Smooth, Shape::TwoModes] {
        for (mean_ms, sd, rate) in each(MEANS, [0.1, SD]).flat_map(|(m, s)| RATES.map(|r| (m, s, r))) {
            let cell = Cell { fault: Fault::None, rate, mean_ms, shape, sd };
            let summary = simulate(cell, trials, seed, threads);
            let (noise, share, by) = (sd * 100.0, 100.0 * summary.share(), summary.by());
            println!("| {shape} | {mean_ms} ms | {noise:.0} % | {rate} | {share:.2} % | {by} |");
        }
    }
    println!();
}

/// Releases that are slower, as a whole or at their tail.
fn worse(mean_ms: f64, trials: u64, seed: u64, threads: u64) {
    println!("| worse, {mean_ms} ms | requests/s | found | median time | median users hurt | by |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let faults = [Fault::Slow(1.5), Fault::Slow(2.0), Fault::Slow(3.0), Fault::Tail(0.025)];
    for fault in faults {
        for rate in RATES {
            let cell = Cell { fault, rate, mean_ms, shape: Shape::Smooth, sd: SD };
            println!("| {fault} | {rate} | {}", simulate(cell, trials, seed, threads));
        }
    }
    println!();
}

/// Releases that fail more often.
fn failing(trials: u64, seed: u64, threads: u64) {
    println!("| errors, against 0.05 % | requests/s | found | median time | median users hurt | by |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for errors in [0.005, 0.01, 0.05, 1.0] {
        let fault = Fault::Errors(errors);
        for rate in RATES {
            let cell = Cell { fault, rate, mean_ms: 20.0, shape: Shape::Smooth, sd: SD };
            println!("| {fault} | {rate} | {}", simulate(cell, trials, seed, threads));
        }
    }
    println!();
}

/// Every pair of the two lists.
fn each<const N: usize, const M: usize>(a: [f64; N], b: [f64; M]) -> impl Iterator<Item = (f64, f64)> {
    a.into_iter().flat_map(move |a| b.into_iter().map(move |b| (a, b)))
}
