//! What is counted. Each worker writes cells of its own, so that counting is an addition and never a contest
//! between cores; they are summed when somebody asks.

use crate::fault::Fault;
use crate::limits::STAMPS_COUNTED;
use crate::routes::Routes;
use model::name::StampId;
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
    pub(crate) lines_dropped: Count,
    pub(crate) faults: [Count; Fault::ALL.len()],
}

/// One worker's cells for one stamp: answers by class, 1xx first; 0 is for exchanges without one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Classes(pub(crate) [Count; 6]);

/// The cells of one stamp, one for each worker.
#[derive(Debug)]
pub(crate) struct StampCounts {
    stamp: StampId,
    name: String,
    pub(crate) workers: Box<[Classes]>,
}

/// All cells of the gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) workers: Box<[Counts]>,
    /// Bundles' lines that the writer could not write.
    pub(crate) lines_failed: AtomicU64,
    /// Newest last. Locked by new tables and by scrapes, never by requests.
    stamps: Mutex<Vec<Arc<StampCounts>>>,
}

/// What a scrape needs to know besides the cells.
pub(crate) struct Scrape<'a> {
    pub(crate) routes: &'a Routes,
    pub(crate) revision: u64,
    pub(crate) connections: u64,
    pub(crate) draining: bool,
}

impl Metrics {
    pub(crate) fn new(workers: usize) -> Self {
        let cells = std::iter::repeat_with(Counts::default).take(workers).collect();
        Self { workers: cells, lines_failed: AtomicU64::new(0), stamps: Mutex::default() }
    }

    /// The cells of `stamp`, which live on when it is named again. Of more than [`STAMPS_COUNTED`] stamps the
    /// oldest are dropped.
    pub(crate) fn of_stamp(&self, stamp: StampId, name: &str) -> Arc<StampCounts> {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = stamps.iter().find(|known| known.stamp == stamp) {
            return Arc::clone(known);
        }
        let workers = std::iter::repeat_with(Classes::default).take(self.workers.len()).collect();
        let counts = Arc::new(StampCounts { stamp, name: name.to_owned(), workers });
        stamps.push(Arc::clone(&counts));
        if stamps.len() > STAMPS_COUNTED {
            stamps.remove(0);
        }
        counts
    }

    pub(crate) fn sum(&self, cell: impl Fn(&Counts) -> &Count) -> u64 {
        self.workers.iter().map(|counts| cell(counts).get()).sum()
    }

    /// The text format of Prometheus, 0.0.4.
    pub(crate) fn render(&self, scrape: &Scrape<'_>) -> String {
        let mut text = String::with_capacity(4096);
        self.counters(&mut text);
        self.stamps(&mut text);
        self.gauges(&mut text, scrape);
        text
    }

    fn counters(&self, text: &mut String) {
        let failed = self.lines_failed.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("requests_total", "Requests that came to an end.", self.sum(|c| &c.requests)),
            ("failed_total", "Requests that failed here or behind.", self.sum(|c| &c.failed)),
            ("request_bytes_total", "Bytes of requests' bodies.", self.sum(|c| &c.bytes_in)),
            ("response_bytes_total", "Bytes of answers' bodies.", self.sum(|c| &c.bytes_out)),
            ("retries_total", "Requests repeated upstream.", self.sum(|c| &c.retries)),
            (
                "access_lines_dropped_total",
                "Access lines that were not written.",
                self.sum(|c| &c.lines_dropped) + failed,
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
        for stamp in self.stamps.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for class in 0..6 {
                let value = stamp.workers.iter().map(|classes| classes.0[class].get()).sum();
                let class = if class == 0 { "none".to_owned() } else { format!("{class}xx") };
                let (id, name) = (stamp.stamp, label(&stamp.name));
                let labels = format!("{{stamp=\"{id}\",release=\"{name}\",class=\"{class}\"}}");
                sample(text, "responses_total", &labels, value);
            }
        }
    }

    fn gauges(&self, text: &mut String, scrape: &Scrape<'_>) {
        metric(text, "in_flight", "gauge", "Requests in flight by stamp.");
        for (role, target) in [("active", &scrape.routes.active), ("candidate", &scrape.routes.candidate)] {
            if let Some(target) = target {
                let labels = format!("{{stamp=\"{}\",role=\"{role}\"}}", target.slot.stamp);
                sample(text, "in_flight", &labels, target.slot.in_flight());
            }
        }
        for (name, help, value) in [
            ("connections", "Client connections open.", scrape.connections),
            ("table_revision", "Tables applied since the start.", scrape.revision),
            ("draining", "1 while the gateway goes.", u64::from(scrape.draining)),
        ] {
            metric(text, name, "gauge", help);
            sample(text, name, "", value);
        }
    }
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP mainstay_gateway_{name} {help}\n# TYPE mainstay_gateway_{name} {kind}")
        .expect("writing to a String cannot fail");
}

fn sample(text: &mut String, name: &str, labels: &str, value: u64) {
    writeln!(text, "mainstay_gateway_{name}{labels} {value}").expect("writing to a String cannot fail");
}

/// A label's value, escaped as the text format wants it.
fn label(value: &str) -> String {
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
        stamp.workers[0].0[2].add(7);
        stamp.workers[1].0[2].add(1);
        let routes = Routes::default();
        let text = metrics.render(&Scrape { routes: &routes, revision: 3, connections: 9, draining: false });
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
