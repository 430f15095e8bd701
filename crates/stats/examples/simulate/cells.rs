//! Many releases of one kind, counted.

use crate::release::{Fault, Machine, Outcome, Rule, release};
use crate::world::{Random, Service, Shape};
use std::fmt;
use std::thread;

/// One kind of release on one kind of machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// What is wrong with the candidate.
    pub(crate) fault: Fault,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Mean service time of the fast requests, in milliseconds.
    pub(crate) mean_ms: f64,
    /// How service times are distributed.
    pub(crate) shape: Shape,
    /// Noise from second to second.
    pub(crate) sd: f64,
}

impl Cell {
    /// The random numbers of one trial: no two trials share any, not of different cells either.
    fn random(&self, seed: u64, trial: u64) -> Random {
        let fault = match self.fault {
            Fault::None => 0.0,
            Fault::Slow(by) => 1.0 + by,
            Fault::Tail(share) => 100.0 + share,
            Fault::Errors(share) => 200.0 + share,
        };
        let parts = [fault, self.rate, self.mean_ms, self.sd].map(f64::to_bits);
        let parts = parts.into_iter().chain([seed, trial, u64::from(self.shape == Shape::Smooth)]);
        Random::new(parts.fold(0, |mixed, part| Random::new(mixed ^ part).bits()))
    }
}

/// What became of the releases of a cell.
pub(crate) struct Summary {
    /// How many there were.
    pub(crate) trials: u64,
    /// How many were blamed.
    pub(crate) blamed: u64,
    /// By which rule, the most frequent first.
    pub(crate) rules: Vec<(Rule, u64)>,
    /// Median seconds until one was blamed, of those that were.
    pub(crate) seconds: Option<f64>,
    /// Median users who met the fault, of all.
    pub(crate) hurt: u64,
}

impl Summary {
    /// The share that was blamed, 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        self.blamed as f64 / self.trials as f64
    }
}

impl Summary {
    /// How many were blamed by which rule.
    pub(crate) fn by(&self) -> String {
        let rules: Vec<_> = self.rules.iter().map(|(rule, count)| format!("{rule:?} {count}")).collect();
        rules.join(", ")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds.map_or("–".to_owned(), |s| format!("{s:.0} s"));
        let share = 100.0 * self.share();
        write!(f, "{share:.2} % | {seconds} | {} | {} |", self.hurt, self.by())
    }
}

/// Runs `trials` releases of a cell on so many threads. Each has a seed of its own, so that the result is the
/// same on any number of threads.
pub(crate) fn simulate(cell: Cell, trials: u64, seed: u64, threads: u64) -> Summary {
    let service = Service::new(cell.shape, cell.mean_ms);
    let machine = Machine { service: &service, rate: cell.rate, sd: cell.sd };
    let run = |first: u64| -> Vec<Outcome> {
        let own = (first..trials).step_by(threads.max(1) as usize);
        own.map(|trial| release(&machine, cell.fault, &mut cell.random(seed, trial))).collect()
    };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.max(1)).map(|first| scope.spawn(move || run(first))).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a trial does not panic")).collect()
    });
    let mut times: Vec<f64> = outcomes.iter().filter_map(|o| o.blamed).map(|(_, at)| at).collect();
    let mut hurt: Vec<u64> = outcomes.iter().map(|o| o.hurt).collect();
    times.sort_by(f64::total_cmp);
    hurt.sort_unstable();
    let mut rules: Vec<(Rule, u64)> = Vec::new();
    for (rule, _) in outcomes.iter().filter_map(|o| o.blamed) {
        match rules.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => *count += 1,
            None => rules.push((rule, 1)),
        }
    }
    rules.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Summary {
        trials,
        blamed: times.len() as u64,
        rules,
        seconds: times.get(times.len() / 2).copied(),
        hurt: hurt.get(hurt.len() / 2).copied().unwrap_or_default(),
    }
}
