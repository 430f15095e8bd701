//! Measures the gateway while a release is under way: for the gate, and for the ledger of the release.

use crate::ledger;
use crate::router::Router;
use api::clock::unix_ms;
use api::gateway::{Measures, RouteMeasures};
use model::name::{ReleaseNumber, StampId};
use stats::histogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::records::Records;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

/// How often the gateway is measured.
const EVERY: Duration = Duration::from_secs(1);
/// After so many points of a release's ledger each takes ten times as long, so that a long one stays small.
const COARSER_AFTER: u32 = 1800;
/// The longest a point takes.
const COARSEST: u32 = 60;
/// How many increments may wait for a gate that is busy; it misses the oldest beyond that.
const INCREMENTS_KEPT: usize = 16;

/// The release that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watching {
    pub(crate) release: ReleaseNumber,
    pub(crate) old: Option<StampId>,
    pub(crate) candidate: StampId,
    pub(crate) state: &'static str,
    /// The candidate's users of 10,000.
    pub(crate) weight: u16,
    /// Whether an agent before this one has measured it, and what it had not recorded yet is not known.
    pub(crate) resumed: bool,
}

/// What is seen of the release under way, for status.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) release: Option<ReleaseNumber>,
    pub(crate) weight: u16,
    /// What the gate compares by at the moment, in words.
    pub(crate) gate: Option<String>,
}

/// What was counted between two looks.
#[derive(Debug, Clone)]
pub(crate) struct Increment {
    pub(crate) span: Duration,
    pub(crate) stamps: BTreeMap<StampId, BTreeMap<String, Counted>>,
    /// Whether it is not known what was counted by a gateway that has ended.
    pub(crate) incomplete: bool,
}

/// What was counted of one route on one stamp.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) halves: [Histogram; 2],
}

/// Measures while it is told to. Clones are the same one; the task ends with the last.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    watching: watch::Sender<Option<Watching>>,
    live: watch::Sender<Live>,
    increments: broadcast::Sender<Arc<Increment>>,
}

impl Observer {
    pub(crate) fn start(router: Router, records: Records) -> Self {
        let (watching, watched) = watch::channel(None);
        let (increments, _) = broadcast::channel(INCREMENTS_KEPT);
        let observer = Self { watching, live: watch::Sender::new(Live::default()), increments };
        tokio::spawn(run(router, records, watched, observer.increments.downgrade()));
        observer
    }

    /// Measures for this release from now on, or for none.
    pub(crate) fn watch(&self, watching: Option<Watching>) {
        let live = Live {
            release: watching.as_ref().map(|watching| watching.release),
            weight: watching.as_ref().map_or(0, |watching| watching.weight),
            gate: None,
        };
        self.live.send_replace(live);
        self.watching.send_if_modified(|now| std::mem::replace(now, watching.clone()) != watching);
    }

    /// What is seen of the release under way.
    pub(crate) fn live(&self) -> watch::Receiver<Live> {
        self.live.subscribe()
    }

    /// What the gate says at the moment.
    pub(crate) fn tell(&self, gate: String) {
        self.live.send_modify(|live| live.gate = Some(gate));
    }

    /// What is counted from now on.
    pub(crate) fn increments(&self) -> broadcast::Receiver<Arc<Increment>> {
        self.increments.subscribe()
    }
}

async fn run(
    router: Router,
    records: Records,
    mut watched: watch::Receiver<Option<Watching>>,
    increments: broadcast::WeakSender<Arc<Increment>>,
) {
    loop {
        let Some(first) = watched.borrow_and_update().clone() else {
            if watched.changed().await.is_err() {
                return;
            }
            continue;
        };
        if measure(&router, &records, first, &mut watched, &increments).await.is_err() {
            return;
        }
    }
}

/// The observer is gone.
struct Gone;

/// Measures one release to its end.
async fn measure(
    router: &Router,
    records: &Records,
    mut watching: Watching,
    watched: &mut watch::Receiver<Option<Watching>>,
    increments: &broadcast::WeakSender<Arc<Increment>>,
) -> Result<(), Gone> {
    let mut before: Option<Measures> = router.measures().await;
    let (mut looked, mut ticks, mut points) = (Instant::now(), 0_u32, 0_u32);
    let mut asked = looked;
    let mut open = ledger::Open::new(unix_ms());
    if watching.resumed {
        open.incomplete();
    }
    loop {
        let ended = tokio::select! {
            changed = watched.changed() => {
                changed.map_err(|_| Gone)?;
                match watched.borrow_and_update().clone() {
                    // A state more: what was counted before it belongs to the one before.
                    Some(next) if next.release == watching.release => Some(Some(next)),
                    Some(_) | None => Some(None),
                }
            }
            () = tokio::time::sleep_until(looked.max(asked) + EVERY) => None,
        };
        let now = Instant::now();
        asked = now;
        let measures = router.measures().await;
        match (measures, &before) {
            (Some(measures), Some(known)) => {
                let increment = Arc::new(since(Some(known), &measures, now - looked));
                open.add(Some(known), &measures, &increment, &watching);
                if let Some(increments) = increments.upgrade() {
                    // Without a gate nobody listens.
                    let _ = increments.send(increment);
                }
                (before, looked, ticks) = (Some(measures), now, ticks + 1);
            }
            // Without a first reading nothing can be told from what was there before.
            (measures, None) => {
                open.incomplete();
                (before, looked) = (measures, now);
            }
            // One that does not answer is asked again, but at an end there is no other time.
            (None, Some(_)) if ended.is_some() => open.incomplete(),
            (None, Some(_)) => continue,
        }
        if ended.is_some() || ticks >= span_ticks(points) {
            let point = open.close(&watching, unix_ms());
            (ticks, points) = (0, points + 1);
            let at_ms = point.at_ms;
            let text = serde_json::to_string(&point).expect("a point has string keys");
            // A disk that is full loses the ledger of a moment, and nothing else.
            if let Err(error) = records.add_ledger(watching.release, at_ms, text).await {
                tracing::warn!("a moment of the ledger is not recorded: {error}");
            }
        }
        match ended {
            Some(None) => return Ok(()),
            Some(Some(next)) => watching = next,
            None => {}
        }
    }
}

/// How many looks the next point takes.
fn span_ticks(points: u32) -> u32 {
    10_u32.saturating_pow(points / COARSER_AFTER).min(COARSEST)
}

/// What was counted since `before`. Another gateway began at zero.
fn since(before: Option<&Measures>, now: &Measures, span: Duration) -> Increment {
    let before = before.filter(|before| before.pid == now.pid);
    let mut stamps = BTreeMap::new();
    for stamp in &now.stamps {
        let earlier = before.and_then(|before| before.stamps.iter().find(|known| known.stamp == stamp.stamp));
        let mut routes = BTreeMap::new();
        for route in &stamp.routes {
            let earlier =
                earlier.and_then(|earlier| earlier.routes.iter().find(|known| known.route == route.route));
            if earlier.is_some_and(|earlier| earlier.requests == route.requests) {
                continue;
            }
            routes.insert(route.route.clone(), counted(earlier, route));
        }
        stamps.insert(stamp.stamp, routes);
    }
    Increment { span, stamps, incomplete: before.is_none() }
}

fn counted(earlier: Option<&RouteMeasures>, now: &RouteMeasures) -> Counted {
    let half = |index: usize| {
        let mut histogram: Histogram =
            now.halves[index].iter().map(|(bucket, count)| (usize::from(*bucket), *count)).collect();
        if let Some(earlier) = earlier {
            let known: Histogram =
                earlier.halves[index].iter().map(|(bucket, count)| (usize::from(*bucket), *count)).collect();
            histogram = histogram.since(&known);
        }
        histogram
    };
    Counted {
        requests: now.requests.saturating_sub(earlier.map_or(0, |earlier| earlier.requests)),
        errors: now.errors.saturating_sub(earlier.map_or(0, |earlier| earlier.errors)),
        halves: [half(0), half(1)],
    }
}

#[cfg(test)]
mod tests;
