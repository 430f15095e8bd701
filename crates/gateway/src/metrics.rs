//! What is counted. Each worker writes cells of its own, so that counting is an addition and never a contest
//! between cores; they are summed when somebody asks.

use crate::fault::Fault;
use crate::limits::{ROUTE_SERIES, STAMPS_COUNTED, STAMPS_MEASURED};
use crate::measures::{StampRoutes, Sum, bucket_of};
use crate::routes::Routes;
use crate::watch::Tally;
use api::gateway::{Measures, StampMeasures};
use model::name::StampId;
use model::workload::{OTHER_ROUTE, Route};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A number one thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only one thread may: this is a load and a store.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's cells; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) requests: Count,
    pub(crate) failed: Count,
    pub(crate) bytes_in: Count,
    pub(crate) bytes_out: Count,
    pub(crate) retries: Count,
    pub(crate) held: Count,
    /// Answered by the queue: without a fault, and on no stamp.
    pub(crate) queued: Count,
    pub(crate) previous: Count,
    pub(crate) lines_dropped: Count,
    pub(crate) spans_dropped: Count,
    pub(crate) faults: ByFault,
}

/// One of each kind of fault.
#[derive(Debug)]
pub(crate) struct ByFault([Count; Fault::ALL.len()]);

impl Default for ByFault {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

impl std::ops::Index<usize> for ByFault {
    type Output = Count;
    fn index(&self, fault: usize) -> &Count {
        &self.0[fault]
    }
}

/// One worker's cells for one stamp.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct StampCells {
    /// Answers by class, 1xx first; 0 is for exchanges without one.
    pub(crate) classes: [Count; 6],
    /// Requests with an outcome, as its routes have them.
    pub(crate) requests: Count,
    /// Errors, as its routes have them.
    pub(crate) errors: Count,
    /// Connections its instances did not take, and requests for which there was no instance.
    pub(crate) connect_failures: Count,
}

/// The cells of one stamp, one for each worker.
#[derive(Debug)]
pub(crate) struct StampCounts {
    pub(crate) stamp: StampId,
    name: String,
    pub(crate) workers: Box<[StampCells]>,
}

impl StampCounts {
    fn sum(&self, cell: impl Fn(&StampCells) -> &Count) -> u64 {
        self.workers.iter().map(|cells| cell(cells).get()).sum()
    }

    /// What the guard looks at.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            requests: self.sum(|cells| &cells.requests),
            errors: self.sum(|cells| &cells.errors),
            connect_failures: self.sum(|cells| &cells.connect_failures),
        }
    }
}

/// All cells of the gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) workers: Box<[Counts]>,
    /// Bundles' lines that the writer could not write.
    pub(crate) lines_failed: AtomicU64,
    /// Spans that a collector took.
    pub(crate) spans_exported: AtomicU64,
    /// Spans that it did not take.
    pub(crate) spans_refused: AtomicU64,
    /// Named last, last. Locked by new tables and by scrapes, never by requests.
    stamps: Mutex<Vec<Arc<StampCounts>>>,
    /// Likewise.
    routes: Mutex<Vec<Arc<StampRoutes>>>,
}

/// What a scrape needs to know besides the cells.
pub(crate) struct Scrape<'a> {
    pub(crate) routes: &'a Routes,
    pub(crate) revision: u64,
    pub(crate) connections: u64,
    pub(crate) held: u64,
    pub(crate) draining: bool,
}

impl Metrics {
    pub(crate) fn new(workers: usize) -> Self {
        let cells = std::iter::repeat_with(Counts::default).take(workers).collect();
        Self {
            workers: cells,
            lines_failed: AtomicU64::new(0),
            spans_exported: AtomicU64::new(0),
            spans_refused: AtomicU64::new(0),
            stamps: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    /// The cells of `stamp`, which live on when it is named again. Of more than [`STAMPS_COUNTED`] stamps the
    /// one that was not named for longest is dropped.
    pub(crate) fn of_stamp(&self, stamp: StampId, name: &str) -> Arc<StampCounts> {
        let made = || {
            let workers = std::iter::repeat_with(StampCells::default).take(self.workers.len()).collect();
            StampCounts { stamp, name: name.to_owned(), workers }
        };
        named(&self.stamps, STAMPS_COUNTED, |known| known.stamp == stamp, made)
    }

    /// The routes of `stamp`, likewise with [`STAMPS_MEASURED`].
    pub(crate) fn routes_of(&self, stamp: StampId, routes: &[Route]) -> Arc<StampRoutes> {
        // A stamp has one configuration for all its life. Should it ever be told another one, it is measured anew.
        let other = |known: &StampRoutes| known.stamp == stamp && !known.is_of(stamp, routes);
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| !other(known));
        let made = || StampRoutes::new(stamp, routes, self.workers.len());
        named(&self.routes, STAMPS_MEASURED, |known| known.is_of(stamp, routes), made)
    }

    pub(crate) fn sum(&self, cell: impl Fn(&Counts) -> &Count) -> u64 {
        self.workers.iter().map(|counts| cell(counts).get()).sum()
    }

    /// For the agent.
    pub(crate) fn measures(&self) -> Measures {
        let faults = Fault::ALL.iter().enumerate().map(|(index, fault)| {
            let count = self.sum(|counts| &counts.faults[index]);
            (fault.label().to_owned(), count)
        });
        let faults: BTreeMap<String, u64> = faults.filter(|(_, count)| *count > 0).collect();
        let counted = list(&self.stamps);
        let stamps = list(&self.routes).into_iter().map(|routes| {
            let counts = counted.iter().find(|counts| counts.stamp == routes.stamp);
            let sum = |cell: &dyn Fn(&StampCells) -> &Count| counts.map_or(0, |counts| counts.sum(cell));
            StampMeasures {
                stamp: routes.stamp,
                classes: std::array::from_fn(|class| sum(&|cells| &cells.classes[class])),
                connect_failures: sum(&|cells| &cells.connect_failures),
                routes: routes.report(),
            }
        });
        Measures {
            v: api::PROTOCOL_VERSION,
            pid: std::process::id(),
            at_ns: api::clock::monotonic_ns(),
            requests: self.sum(|counts| &counts.requests),
            retries: self.sum(|counts| &counts.retries),
            held: self.sum(|counts| &counts.held),
            queued: self.sum(|counts| &counts.queued),
            faults,
            stamps: stamps.collect(),
        }
    }

    /// The text format of Prometheus, 0.0.4.
    pub(crate) fn render(&self, scrape: &Scrape<'_>) -> String {
        let mut text = String::with_capacity(4096);
        self.counters(&mut text);
        self.stamps(&mut text);
        self.routes(&mut text);
        self.gauges(&mut text, scrape);
        text
    }

    fn counters(&self, text: &mut String) {
        let failed = self.lines_failed.load(Ordering::Relaxed);
        let refused = self.spans_refused.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("requests_total", "Requests that came to an end.", self.sum(|c| &c.requests)),
            ("failed_total", "Requests that failed here or behind.", self.sum(|c| &c.failed)),
            ("request_bytes_total", "Bytes of requests' bodies.", self.sum(|c| &c.bytes_in)),
            ("response_bytes_total", "Bytes of answers' bodies.", self.sum(|c| &c.bytes_out)),
            ("retries_total", "Requests repeated upstream.", self.sum(|c| &c.retries)),
            ("held_total", "Requests that had to wait for an instance.", self.sum(|c| &c.held)),
            (
                "previous_stamp_total",
                "Requests answered by the stamp before, or from its files.",
                self.sum(|c| &c.previous),
            ),
            (
                "access_lines_dropped_total",
                "Access lines that were not written.",
                self.sum(|c| &c.lines_dropped) + failed,
            ),
            (
                "spans_exported_total",
                "Spans of traces that a collector took.",
                self.spans_exported.load(Ordering::Relaxed),
            ),
            (
                "spans_dropped_total",
                "Spans of traces that no collector took.",
                self.sum(|c| &c.spans_dropped) + refused,
            ),
        ] {
            metric(text, name, "counter", help);
            sample(text, name, "", value);
        }
        metric(text, "errors_total", "counter", "Requests that went wrong, by kind.");
        for (index, fault) in Fault::ALL.iter().enumerate() {
            let labels = format!("{{kind=\"{}\"}}", fault.label());
            sample(text, "errors_total", &labels, self.sum(|c| &c.faults[index]));
        }
    }

    fn stamps(&self, text: &mut String) {
        metric(text, "responses_total", "counter", "Answers by stamp and class of status.");
        let stamps = list(&self.stamps);
        for stamp in &stamps {
            for class in 0..6 {
                let value = stamp.sum(|cells| &cells.classes[class]);
                let class = if class == 0 { "none".to_owned() } else { format!("{class}xx") };
                let (id, name) = (stamp.stamp, label(&stamp.name));
                let labels = format!("{{stamp=\"{id}\",release=\"{name}\",class=\"{class}\"}}");
                sample(text, "responses_total", &labels, value);
            }
        }
        metric(
            text,
            "connect_failures_total",
            "counter",
            "Connections that instances did not take, by stamp.",
        );
        for stamp in &stamps {
            let labels = format!("{{stamp=\"{}\",release=\"{}\"}}", stamp.stamp, label(&stamp.name));
            sample(text, "connect_failures_total", &labels, stamp.sum(|cells| &cells.connect_failures));
        }
    }

    fn routes(&self, text: &mut String) {
        let series = self.route_series();
        for (name, help, cell) in [
            (
                "route_requests_total",
                "Requests with an outcome, by stamp and route.",
                &(|sum: &Sum| sum.requests) as &dyn Fn(&Sum) -> u64,
            ),
            ("route_errors_total", "Of these: answered with 5xx, or not, or cut.", &|sum: &Sum| sum.errors),
        ] {
            metric(text, name, "counter", help);
            for (labels, sum) in &series {
                sample(text, name, &format!("{{{labels}}}"), cell(sum));
            }
        }
        metric(text, "route_duration_seconds", "histogram", "From a request's head to its answer's head.");
        for (labels, sum) in &series {
            for power in BOUNDS {
                let (bound, below) = (1_u64 << power, sum.below(bucket_of(1 << power)));
                let labels = format!("{{{labels},le=\"{}.{:06}\"}}", bound / 1_000_000, bound % 1_000_000);
                sample(text, "route_duration_seconds_bucket", &labels, below);
            }
            let count = sum.below(sum.halves[0].len());
            sample(text, "route_duration_seconds_bucket", &format!("{{{labels},le=\"+Inf\"}}"), count);
            let seconds = format!("{}.{:06}", sum.sum_us / 1_000_000, sum.sum_us % 1_000_000);
            sample(text, "route_duration_seconds_sum", &format!("{{{labels}}}"), seconds);
            sample(text, "route_duration_seconds_count", &format!("{{{labels}}}"), count);
        }
    }

    /// Labels and sums of all routes that had requests, newest stamps first: [`ROUTE_SERIES`] of them, and one
    /// `other` for each stamp with what is left.
    fn route_series(&self) -> Vec<(String, Sum)> {
        let mut series = Vec::new();
        let mut room = ROUTE_SERIES;
        for stamp in list(&self.routes).iter().rev() {
            let mut other = Sum::default();
            let labels = |route: &str| format!("stamp=\"{}\",route=\"{}\"", stamp.stamp, label(route));
            for (route, sum) in stamp.sums() {
                if room == 0 || route == OTHER_ROUTE {
                    other.add(&sum);
                } else {
                    room -= 1;
                    series.push((labels(route), sum));
                }
            }
            series.push((labels(OTHER_ROUTE), other));
        }
        series
    }

    fn gauges(&self, text: &mut String, scrape: &Scrape<'_>) {
        metric(text, "in_flight", "gauge", "Requests in flight by stamp.");
        let routes = scrape.routes;
        for (role, target) in [
            ("active", &routes.active),
            ("candidate", &routes.candidate),
            ("fallback", &routes.fallback),
            ("previous", &routes.previous),
        ] {
            if let Some(target) = target {
                let labels = format!("{{stamp=\"{}\",role=\"{role}\"}}", target.slot.stamp);
                sample(text, "in_flight", &labels, target.slot.in_flight());
            }
        }
        for (name, help, value) in [
            ("connections", "Client connections open.", scrape.connections),
            ("held", "Requests that wait for an instance.", scrape.held),
            ("table_revision", "Tables applied since the start.", scrape.revision),
            ("draining", "1 while the gateway goes.", u64::from(scrape.draining)),
        ] {
            metric(text, name, "gauge", help);
            sample(text, name, "", value);
        }
    }
}

/// Upper ends of the buckets in `/metrics`, as powers of two in microseconds: 0.5 ms to 4 s.
const BOUNDS: [u32; 10] = [9, 11, 12, 13, 14, 15, 16, 18, 20, 22];

/// The one of `list` that `is` it, or a new one; as the one that was named last. Of more than `limit` the first is
/// dropped.
fn named<T>(
    list: &Mutex<Vec<Arc<T>>>,
    limit: usize,
    is: impl Fn(&T) -> bool,
    made: impl FnOnce() -> T,
) -> Arc<T> {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    let known = list.iter().position(|known| is(known)).map(|place| list.remove(place));
    let it = known.unwrap_or_else(|| Arc::new(made()));
    list.push(Arc::clone(&it));
    if list.len() > limit {
        list.remove(0);
    }
    it
}

fn list<T>(list: &Mutex<Vec<Arc<T>>>) -> Vec<Arc<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

pub(crate) fn metric(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP mainstay_gateway_{name} {help}\n# TYPE mainstay_gateway_{name} {kind}")
        .expect("writing to a String cannot fail");
}

pub(crate) fn sample(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    writeln!(text, "mainstay_gateway_{name}{labels} {value}").expect("writing to a String cannot fail");
}

/// A label's value, escaped as the text format wants it.
pub(crate) fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_count_is_summed() {
        let metrics = Metrics::new(2);
        metrics.workers[0].requests.add(2);
        metrics.workers[1].requests.add(3);
        metrics.workers[1].faults[Fault::Timeout as usize].add(1);
        let stamp = metrics.of_stamp(StampId(4), "a\"b");
        stamp.workers[0].classes[2].add(7);
        stamp.workers[1].classes[2].add(1);
        let routes = Routes::default();
        let text = metrics.render(&Scrape {
            routes: &routes,
            revision: 3,
            connections: 9,
            held: 0,
            draining: false,
        });
        for line in [
            "mainstay_gateway_requests_total 5",
            "mainstay_gateway_errors_total{kind=\"timeout\"} 1",
            "mainstay_gateway_responses_total{stamp=\"s4\",release=\"a\\\"b\",class=\"2xx\"} 8",
            "mainstay_gateway_connections 9",
            "mainstay_gateway_table_revision 3",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn routes_beyond_the_limit_are_added_to_other() {
        const ROUTES: usize = 400;
        let metrics = Metrics::new(1);
        let route = |n: usize| Route {
            method: model::flow::Method::Get,
            path: format!("/{n}"),
            objective: None,
            queue: None,
            previous_stamp: None,
        };
        let routes: Vec<Route> = (0..ROUTES).map(route).collect();
        for id in 1..=3 {
            let measured = metrics.routes_of(StampId(id), &routes);
            for route in 0..ROUTES {
                let outcome = crate::measures::Outcome { error: false, latency_us: Some(600) };
                measured.record(0, u16::try_from(route).unwrap(), outcome);
            }
        }
        let series = metrics.route_series();
        assert_eq!(series.len(), ROUTE_SERIES + 3);
        assert_eq!(series.iter().map(|(_, sum)| sum.requests).sum::<u64>(), 3 * ROUTES as u64);
        assert_eq!(series.last().unwrap().0, "stamp=\"s1\",route=\"other\"");
        assert_eq!(series.last().unwrap().1.requests, 200);
        let mut text = String::new();
        metrics.routes(&mut text);
        for line in [
            "mainstay_gateway_route_duration_seconds_bucket{stamp=\"s3\",route=\"GET /7\",le=\"0.000512\"} 0",
            "mainstay_gateway_route_duration_seconds_bucket{stamp=\"s3\",route=\"GET /7\",le=\"0.002048\"} 1",
            "mainstay_gateway_route_duration_seconds_sum{stamp=\"s3\",route=\"GET /7\"} 0.000600",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is missing");
        }
    }

    #[test]
    fn a_stamp_is_measured_anew_when_its_routes_change_and_forgotten_after_three_others() {
        let metrics = Metrics::new(1);
        let route = Route {
            method: model::flow::Method::Get,
            path: "/".into(),
            objective: None,
            queue: None,
            previous_stamp: None,
        };
        let first = metrics.routes_of(StampId(1), &[]);
        assert!(Arc::ptr_eq(&first, &metrics.routes_of(StampId(1), &[])));
        let second = metrics.routes_of(StampId(1), std::slice::from_ref(&route));
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(metrics.measures().stamps.len(), 1);
        for id in 2..=STAMPS_MEASURED as u64 {
            metrics.routes_of(StampId(id), &[]);
        }
        assert!(Arc::ptr_eq(&second, &metrics.routes_of(StampId(1), std::slice::from_ref(&route))));
        metrics.routes_of(StampId(9), &[]);
        assert!(
            metrics.measures().stamps.iter().all(|stamp| stamp.stamp != StampId(2)),
            "named least lately"
        );
    }

    #[test]
    fn a_stamp_keeps_its_cells_and_old_stamps_are_dropped() {
        let metrics = Metrics::new(1);
        let first = metrics.of_stamp(StampId(1), "a");
        assert!(Arc::ptr_eq(&first, &metrics.of_stamp(StampId(1), "a")));
        for id in 2..=1 + STAMPS_COUNTED as u64 {
            metrics.of_stamp(StampId(id), "b");
        }
        assert!(!Arc::ptr_eq(&first, &metrics.of_stamp(StampId(1), "a")));
    }
}
