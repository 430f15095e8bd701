//! One simulated release, judged by everything in this crate as a gate would use it.

use crate::world::{Random, Second, Service, Weather};
use stats::block::{BlockBuilder, BlockInput};
use stats::errors::{self, Counts, ErrorTest, ErrorVerdict};
use stats::exposure::Exposure;
use stats::histogram::Histogram;
use stats::latency::{LatencyTest, LatencyVerdict, Quantile};
use stats::objective::{self, ObjectiveTest, ObjectiveVerdict};
use stats::tail::{self, TailTest, TailVerdict};
use std::fmt;
use std::time::Duration;

/// The candidate's share of the traffic, each for so many seconds.
pub(crate) const STEPS: [(f64, u64); 3] = [(0.1, 30), (0.5, 30), (1.0, 60)];
/// The share of errors of every healthy release.
pub(crate) const BASE_ERRORS: f64 = 0.000_5;
/// How many users may be hurt.
const MAX_EXCESS: u64 = 10;
/// The objective's share of errors.
const ERRORS_LIMIT: f64 = 0.01;
/// How often a gateway looks at the users hurt.
const TICKS: u64 = 10;

/// What is wrong with the candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing: the very same release.
    None,
    /// Everything takes so many times as long.
    Slow(f64),
    /// This share of the requests takes 300 ms more.
    Tail(f64),
    /// This share of the requests fails.
    Errors(f64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("identical"),
            Self::Slow(times) => write!(f, "{times} times as long"),
            Self::Tail(share) => write!(f, "300 ms more for {} %", share * 100.0),
            Self::Errors(share) => write!(f, "{} % errors", share * 100.0),
        }
    }
}

/// Which rule blamed the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Users hurt.
    Exposure,
    /// More errors.
    Errors,
    /// p50 or p95, against the active one.
    Blocks,
    /// p50 or p95, alone, against what the active one did before.
    BlocksAlone,
    /// More very slow requests.
    Tail,
    /// More errors, alone, than the active one had before.
    ErrorsAlone,
    /// The objective's share of errors.
    ObjectiveErrors,
    /// The objective's p99.
    ObjectiveP99,
}

/// What became of a release.
pub(crate) struct Outcome {
    /// By what and after how many seconds it was blamed.
    pub(crate) blamed: Option<(Rule, f64)>,
    /// Users who met the fault until then.
    pub(crate) hurt: u64,
}

/// The machine a release runs on.
pub(crate) struct Machine<'a> {
    /// Service times.
    pub(crate) service: &'a Service,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Noise from second to second.
    pub(crate) sd: f64,
}

/// The tests of one release with one route, at the levels the crate proposes.
struct Gate {
    exposure: Exposure,
    errors: ErrorTest,
    builder: BlockBuilder,
    latency: LatencyTest,
    tail: TailTest,
    errors_alone: Option<ObjectiveTest>,
    objective_errors: ObjectiveTest,
    objective_p99: ObjectiveTest,
    p99_limit_us: u64,
}

impl Gate {
    fn new(service: &Service) -> Self {
        // An objective is set with room: three times what 99 of 100 requests take in calm weather.
        let p99_limit_us = (3.0 * service.p99()) as u64;
        Self {
            exposure: Exposure::default(),
            errors: ErrorTest::new(errors::ALPHA),
            builder: BlockBuilder::new(),
            latency: LatencyTest::new(),
            tail: TailTest::new(tail::ALPHA),
            errors_alone: None,
            objective_errors: ObjectiveTest::errors(ERRORS_LIMIT, objective::ALPHA),
            objective_p99: ObjectiveTest::p99(p99_limit_us, objective::ALPHA),
            p99_limit_us,
        }
    }

    fn weights_changed(&mut self, alone: bool) {
        self.exposure.weights_changed();
        self.errors.weights_changed();
        self.builder.weights_changed(alone);
        if alone {
            let before = self.errors.finding().counts;
            let (requests, errors) = (before.active_requests, before.active_errors);
            self.errors_alone = ObjectiveTest::errors_as_before(requests, errors, objective::ALPHA);
        }
    }

    fn tick(&mut self, counts: Counts) -> Option<Rule> {
        self.exposure.observe(counts);
        self.exposure.exceeds(MAX_EXCESS).then_some(Rule::Exposure)
    }

    fn second(&mut self, counts: Counts, candidate: &Histogram, active: &[Histogram; 2]) -> Option<Rule> {
        self.errors.observe(counts);
        if matches!(self.errors.verdict(), ErrorVerdict::Worse(_)) {
            return Some(Rule::Errors);
        }
        if let Some(test) = &mut self.errors_alone {
            test.observe(counts.candidate_requests, counts.candidate_errors);
            if matches!(test.verdict(), ObjectiveVerdict::Fails(_)) {
                return Some(Rule::ErrorsAlone);
            }
        }
        self.objective_errors.observe(counts.candidate_requests, counts.candidate_errors);
        if matches!(self.objective_errors.verdict(), ObjectiveVerdict::Fails(_)) {
            return Some(Rule::ObjectiveErrors);
        }
        self.objective_p99.observe(candidate.count(), candidate.above(self.p99_limit_us));
        if matches!(self.objective_p99.verdict(), ObjectiveVerdict::Fails(_)) {
            return Some(Rule::ObjectiveP99);
        }
        let input = BlockInput { candidate, active_halves: [&active[0], &active[1]] };
        let block = self.builder.push(input, Duration::from_secs(1))?;
        if block.active_halves[0].count() == 0 {
            self.latency.push_alone(&block.candidate);
        } else {
            self.latency.push(block.input());
            self.tail.push(block.input());
        }
        if matches!(self.tail.verdict(), TailVerdict::Worse(_)) {
            return Some(Rule::Tail);
        }
        match self.latency.verdict() {
            LatencyVerdict::Worse(finding) => {
                let known = matches!(finding.which, Quantile::P50 | Quantile::P95);
                assert!(known && finding.candidate_us > finding.allowed_us, "{finding:?}");
                Some(if finding.alone { Rule::BlocksAlone } else { Rule::Blocks })
            }
            LatencyVerdict::Fine { .. } | LatencyVerdict::TooFew { .. } => None,
        }
    }
}

/// Fills a histogram with `n` requests of one side in one tick; gives how many took the long way.
fn serve(into: &mut Histogram, n: u64, side: usize, tick: u64, run: &mut Run<'_>, now: &Second) -> u64 {
    let fault = if side == 0 { run.fault } else { Fault::None };
    let slow = if let Fault::Slow(times) = fault { times } else { 1.0 };
    let factor = (now.factor[side] * slow) as f32;
    let tail = if let Fault::Tail(share) = fault { (share * 65_536.0) as u64 } else { 0 };
    let mut hit = 0;
    for _ in 0..n {
        let bits = run.random.bits();
        let mut us = run.machine.service.draw(bits) * factor;
        if bits >> 16 & 0xffff < tail {
            us += 300_000.0;
            hit += 1;
        }
        if let Some((from, to)) = now.pause[side] {
            let at = (tick as f64 + (bits >> 40) as f64 / (1 << 24) as f64) * 1e6 / TICKS as f64;
            if from <= at && at < to {
                us += (to - at) as f32;
            }
        }
        into.record(us as u64);
    }
    hit
}

struct Run<'a> {
    machine: &'a Machine<'a>,
    fault: Fault,
    random: &'a mut Random,
}

/// Runs a release until it is blamed or over.
pub(crate) fn release(machine: &Machine<'_>, fault: Fault, random: &mut Random) -> Outcome {
    let mut weather = Weather::new(machine.sd, random);
    let mut gate = Gate::new(machine.service);
    let mut run = Run { machine, fault, random };
    let (mut candidate, mut active) = (Histogram::default(), [Histogram::default(), Histogram::default()]);
    let (mut hurt, mut second) = (0, 0_u64);
    let failing = if let Fault::Errors(share) = fault { share } else { BASE_ERRORS };
    for (share, seconds) in STEPS {
        gate.weights_changed(share >= 1.0);
        for _ in 0..seconds {
            let now = weather.next(run.random);
            let mut counts = Counts::default();
            candidate.clear();
            active.iter_mut().for_each(Histogram::clear);
            for tick in 0..TICKS {
                let per_tick = machine.rate / TICKS as f64;
                let arrived = [share, 1.0 - share].map(|s| run.random.poisson(s * per_tick));
                let errors = [(0, failing), (1, BASE_ERRORS)]
                    .map(|(side, p)| run.random.binomial(arrived[side], if now.outage { 0.5 } else { p }));
                let served = [arrived[0] - errors[0], arrived[1] - errors[1]];
                let met = serve(&mut candidate, served[0], 0, tick, &mut run, &now);
                // Alternately: which half the odd one goes to changes from tick to tick.
                let half = (served[1] + tick % 2) / 2;
                serve(&mut active[0], half, 1, tick, &mut run, &now);
                serve(&mut active[1], served[1] - half, 1, tick, &mut run, &now);
                hurt += match fault {
                    Fault::None => 0,
                    Fault::Slow(_) => arrived[0],
                    Fault::Tail(_) => met,
                    Fault::Errors(_) => errors[0],
                };
                let increment = Counts {
                    candidate_requests: arrived[0],
                    candidate_errors: errors[0],
                    active_requests: arrived[1],
                    active_errors: errors[1],
                };
                counts = counts.plus(increment);
                if let Some(rule) = gate.tick(increment) {
                    let at = second as f64 + (tick + 1) as f64 / TICKS as f64;
                    return Outcome { blamed: Some((rule, at)), hurt };
                }
            }
            second += 1;
            if let Some(rule) = gate.second(counts, &candidate, &active) {
                return Outcome { blamed: Some((rule, second as f64)), hurt };
            }
        }
    }
    Outcome { blamed: None, hurt }
}
