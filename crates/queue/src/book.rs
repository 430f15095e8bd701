//! What a queue knows in memory: which jobs are pending, in which order, and what holds each of them up.
//!
//! A pending job lies in exactly one place: in its route's line, behind another one of its value of order, with its
//! upstream, put off until some time, in doubt, or busy (under way, or being written). The request itself is on disk;
//! a job takes 16 bytes here. Nothing in this module waits, reads the clock or knows of the disk.

mod hand;
mod line;
mod order;
mod pick;

pub(crate) use line::{Entry, FRESH, PROBE, Train};
pub(crate) use order::Lanes;
pub(crate) use pick::{Pick, Picked};

use crate::call::Upstream;
use crate::clock::Moment;
use crate::job::JobState;
use crate::keys::HashedMap;
use crate::pace::{Pace, Permission};
use crate::submission::Traffic;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

/// Routes that are told apart; jobs of further ones lie in the last one's line. Far above what a workload file may
/// have, also over many releases.
const ROUTES_LIMIT: usize = 1 << line::ROUTE_BITS;

/// The place of a route among the lines.
pub(crate) type RouteIndex = u16;
/// The place of an upstream among those that are known.
pub(crate) type UpstreamIndex = usize;

/// The jobs of one route that were not attempted yet, or of which it is not known whom they are for.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) traffic: Traffic,
    pub(crate) name: Arc<str>,
    pub(crate) paused: bool,
    /// Whether the last release that one of its jobs was for honours no keys: calls are announced on disk then, also
    /// of jobs whose own settings do not ask for that.
    pub(crate) announces: bool,
    /// Whom its jobs are first for. None: not known before one of them is read.
    pub(crate) first: Option<UpstreamIndex>,
    fresh: Train,
    /// Those that go before the fresh ones.
    again: VecDeque<Entry>,
    /// What came up while it was paused.
    held: Vec<(Option<UpstreamIndex>, Entry)>,
}

/// An upstream, and the jobs that are due and for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) traffic: Traffic,
    pub(crate) upstream: Upstream,
    pub(crate) pace: Pace,
    ready: VecDeque<Entry>,
}

/// A job that was attempted and is to be again.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    pub(crate) entry: Entry,
    /// Attempts that have begun.
    pub(crate) attempts: u32,
    /// Those of them that use none up.
    pub(crate) excused: u32,
    /// How often it was tried in a row, what was not sent among them: by this its pauses grow.
    pub(crate) tries: u32,
    /// From when its age counts. None: that is to be read.
    pub(crate) from_ms: Option<i64>,
    /// Whom it is for. None: not known before it is read.
    pub(crate) upstream: Option<UpstreamIndex>,
    /// Whether it waits only because its upstream did not work: then it goes on as soon as that does.
    pub(crate) hurries: bool,
    /// Whether an attempt may have happened although it was not answered so.
    pub(crate) doubted: bool,
    /// Whether its calls are announced on disk although its own settings do not ask for that.
    pub(crate) announce: bool,
    timer: u64,
    queued: bool,
}

/// A job whose outcome is unknown.
#[derive(Debug, Clone)]
pub(crate) struct InDoubt {
    pub(crate) entry: Entry,
    pub(crate) attempts: u32,
    pub(crate) excused: u32,
    pub(crate) from_ms: Option<i64>,
    /// Whom a probe asks.
    pub(crate) upstream: Option<UpstreamIndex>,
    /// Probes that were made.
    pub(crate) probes: u32,
    /// Of these, how many in a row said that it did not happen.
    pub(crate) denials: u32,
    /// Since when its last attempt is over for this side: it may go on in the service for a while.
    pub(crate) since: Moment,
    timer: u64,
    /// The timer that ends its hold on those behind it.
    hold: u64,
    queued: bool,
}

/// A job that an operator or its client has in hand: the courier leaves it alone.
#[derive(Debug, Clone)]
enum Aside {
    /// What becomes of it is being written; its entry, if it came up meanwhile.
    Claimed(Option<Box<(Option<UpstreamIndex>, Entry)>>),
    /// It is settled, and its entry has yet to come up.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    at: Moment,
    seq: u64,
    due: Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Scheduled(u64),
    Again(u64),
    Probe(u64),
    Hold { id: u64, order: u64 },
}

/// What is pending.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) lines: Vec<Line>,
    pub(crate) targets: Vec<Target>,
    pub(crate) paused: bool,
    carried: HashedMap<u64, Carried>,
    doubtful: HashedMap<u64, InDoubt>,
    busy: HashedMap<u64, ()>,
    aside: HashedMap<u64, Aside>,
    lanes: Lanes,
    /// What is due later, and was not attempted.
    scheduled: HashedMap<u64, Entry>,
    timers: BinaryHeap<Reverse<Timer>>,
    /// Timers of scheduled jobs that are settled.
    stale: usize,
    seq: u64,
    turn: usize,
    concurrency: u32,
    /// Jobs that are not settled, and the bytes of their requests.
    pub(crate) depth: u64,
    pub(crate) max_depth: u64,
    pub(crate) bytes: u64,
    /// Jobs in doubt that no longer held up those behind them.
    pub(crate) holds_expired: u64,
}

impl Book {
    /// Nothing is pending. `concurrency` is how many calls may be under way to one upstream.
    pub(crate) fn new(concurrency: u32) -> Self {
        Self {
            lines: Vec::new(),
            targets: Vec::new(),
            paused: false,
            carried: HashedMap::default(),
            doubtful: HashedMap::default(),
            busy: HashedMap::default(),
            aside: HashedMap::default(),
            lanes: Lanes::default(),
            scheduled: HashedMap::default(),
            stale: 0,
            timers: BinaryHeap::new(),
            seq: 0,
            turn: 0,
            concurrency,
            depth: 0,
            max_depth: 0,
            bytes: 0,
            holds_expired: 0,
        }
    }

    pub(crate) fn set_concurrency(&mut self, concurrency: u32) {
        self.concurrency = concurrency;
        self.targets.iter_mut().for_each(|target| target.pace.set_most(concurrency));
    }

    /// The line of a route, new if it is.
    pub(crate) fn line(&mut self, traffic: Traffic, name: &str) -> RouteIndex {
        let is_it = |line: &Line| line.traffic == traffic && &*line.name == name;
        if let Some(known) = self.lines.iter().position(is_it) {
            return known as RouteIndex;
        }
        if self.lines.len() < ROUTES_LIMIT {
            self.lines.push(Line {
                traffic,
                name: Arc::from(name),
                paused: false,
                announces: false,
                first: None,
                fresh: Train::default(),
                again: VecDeque::new(),
                held: Vec::new(),
            });
        }
        (self.lines.len() - 1) as RouteIndex
    }

    /// The place of an upstream, new if it is.
    pub(crate) fn target(&mut self, traffic: Traffic, upstream: &Upstream) -> UpstreamIndex {
        let is_it = |target: &Target| target.traffic == traffic && target.upstream == *upstream;
        if let Some(known) = self.targets.iter().position(is_it) {
            return known;
        }
        let pace = Pace::new(self.concurrency);
        self.targets.push(Target { traffic, upstream: upstream.clone(), pace, ready: VecDeque::new() });
        self.targets.len() - 1
    }

    /// Notes whom the jobs in the line of `entry` are first for: not by one of other traffic, of which that is known
    /// only once it is read.
    pub(crate) fn is_first_for(&mut self, entry: &Entry, upstream: UpstreamIndex) {
        let line = &mut self.lines[entry.route()];
        if line.traffic == self.targets[upstream].traffic {
            line.first = Some(upstream);
        }
    }

    /// Counts a job that is new, or pending again.
    pub(crate) fn count(&mut self, bytes: u64) {
        self.depth += 1;
        self.max_depth = self.max_depth.max(self.depth);
        self.bytes += bytes;
    }

    /// Counts a job that is settled, or was not accepted.
    pub(crate) fn uncount(&mut self, bytes: u64) {
        self.depth = self.depth.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Takes the lane of a job at once, if it can be called now and nothing of its route is before it. Its entry is
    /// then busy, and the caller has to begin its call.
    pub(crate) fn go_at_once(&mut self, entry: &Entry, upstream: UpstreamIndex, now: Moment) -> bool {
        // What has become due is before it, although nobody has looked since.
        if !self.fire(now) {
            return false;
        }
        let line = &self.lines[entry.route()];
        let free = !self.paused && !line.paused && line.fresh.is_empty() && line.again.is_empty();
        let may = self.targets[upstream].pace.may_call(now) == Permission::Yes;
        if !free || !may || !self.lanes.is_free(entry.order) {
            return false;
        }
        self.lanes.take(entry);
        self.busy.insert(entry.id(), ());
        true
    }

    /// Adds a job that is due now to the end of its line.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.lines[entry.route()].fresh.push(entry);
    }

    /// The same for one that has just been accepted. Whether somebody has to look for what goes next: not while its
    /// upstream has all that it may have, because the end of a call is looked at anyway, and not behind others that
    /// wait for a time that is noted.
    pub(crate) fn arrive(&mut self, entry: Entry, now: Moment) -> bool {
        // As above. More than go off in one go are not waited for: the lock is not held for so long.
        self.fire(now);
        let line = &self.lines[entry.route()];
        let empty = line.fresh.is_empty() && line.again.is_empty();
        let is_news = match line.first.map(|upstream| self.targets[upstream].pace.may_call(now)) {
            _ if self.paused || line.paused => false,
            Some(Permission::Full) => false,
            Some(Permission::NotBefore(_)) => empty,
            Some(Permission::Yes | Permission::Trial) | None => true,
        };
        self.push(entry);
        is_news
    }

    /// Adds a job that is due later, and in order only from then on.
    pub(crate) fn schedule(&mut self, entry: Entry, at: Moment) {
        self.add_timer(at, Due::Scheduled(entry.id()));
        self.scheduled.insert(entry.id(), entry);
    }

    /// Puts a job off that was attempted; it goes on holding up those behind it. It is no longer busy.
    pub(crate) fn put_off(&mut self, mut carried: Carried, at: Moment) {
        self.lanes.take(&carried.entry);
        let id = carried.entry.id();
        self.busy.remove(&id);
        carried.timer = self.add_timer(at, Due::Again(id));
        carried.queued = false;
        self.doubtful.remove(&id);
        self.carried.insert(id, carried);
    }

    /// Gives a job back that was picked and not called, to be picked first as soon as its upstream allows it.
    pub(crate) fn give_back(&mut self, entry: Entry, upstream: UpstreamIndex) {
        self.busy.remove(&entry.id());
        // There it is found, should its job be taken out.
        if let Some(doubt) = self.doubtful.get_mut(&entry.id()) {
            doubt.upstream = Some(upstream);
        }
        if let Some(carried) = self.carried.get_mut(&entry.id()) {
            carried.upstream = Some(upstream);
        }
        self.targets[upstream].ready.push_front(entry);
    }

    /// What is known of a job that was attempted before.
    pub(crate) fn carried(&self, id: u64) -> Option<&Carried> {
        self.carried.get(&id)
    }

    /// What is known of a job in doubt.
    pub(crate) fn doubtful(&self, id: u64) -> Option<&InDoubt> {
        self.doubtful.get(&id)
    }

    pub(crate) fn unknown_now(&self) -> u64 {
        self.doubtful.len() as u64
    }

    /// Notes that it is not known what became of a job, and asks at `probe`, if at all. Until `hold` it holds up
    /// those behind it. It is no longer busy.
    pub(crate) fn doubt(&mut self, mut doubt: InDoubt, hold: Option<Moment>, probe: Option<Moment>) {
        let id = doubt.entry.id();
        let order = doubt.entry.order;
        self.busy.remove(&id);
        self.carried.remove(&id);
        if let Some(hold) = hold.filter(|_| order != 0) {
            self.lanes.take(&doubt.entry);
            doubt.hold = self.add_timer(hold, Due::Hold { id, order });
        }
        doubt.queued = false;
        if let Some(probe) = probe {
            doubt.timer = self.add_timer(probe, Due::Probe(id));
        }
        self.doubtful.insert(id, doubt);
    }

    /// Puts the next probe of a job in doubt off; whether it holds up others stays as it is.
    pub(crate) fn probe_later(&mut self, id: u64, denials: u32, at: Option<Moment>) {
        self.busy.remove(&id);
        let timer = at.map(|at| self.add_timer(at, Due::Probe(id)));
        if let Some(doubt) = self.doubtful.get_mut(&id) {
            doubt.probes = doubt.probes.saturating_add(1);
            doubt.denials = denials;
            doubt.queued = false;
            doubt.timer = timer.unwrap_or_default();
        }
    }

    /// A busy job is settled, or was not accepted: the next one of its value goes on.
    pub(crate) fn settle(&mut self, id: u64, order: u64) {
        self.busy.remove(&id);
        self.carried.remove(&id);
        self.doubtful.remove(&id);
        self.release(id, order);
    }

    /// What waits only because `upstream` did not work goes on.
    pub(crate) fn hurry(&mut self, upstream: UpstreamIndex) {
        let waits =
            |carried: &&mut Carried| carried.upstream == Some(upstream) && carried.hurries && !carried.queued;
        let ready = &mut self.targets[upstream].ready;
        for carried in self.carried.values_mut().filter(waits) {
            carried.queued = true;
            ready.push_back(carried.entry);
        }
    }

    fn add_timer(&mut self, at: Moment, due: Due) -> u64 {
        self.seq += 1;
        self.timers.push(Reverse(Timer { at, seq: self.seq, due }));
        self.seq
    }

    /// Lets the next job of this value go on, if `id` held it up.
    fn release(&mut self, id: u64, order: u64) {
        let mut last = id;
        while let Some(next) = self.lanes.release(last, order) {
            last = next.id();
            let gone = matches!(self.aside.get(&next.id()), Some(Aside::Gone));
            // One that is in somebody's hand holds the value until it is let out of it.
            if let Some(next) = self.sieve(None, next) {
                self.lines[next.route()].again.push_back(next);
            }
            if !gone {
                return;
            }
        }
    }

    /// Lets through what nobody has in hand.
    fn sieve(&mut self, upstream: Option<UpstreamIndex>, entry: Entry) -> Option<Entry> {
        match self.aside.get_mut(&entry.id()) {
            None => Some(entry),
            Some(Aside::Claimed(kept)) => {
                *kept = Some(Box::new((upstream, entry)));
                None
            }
            Some(Aside::Gone) => {
                self.aside.remove(&entry.id());
                None
            }
        }
    }

    /// Holds a route up, or lets it go on.
    pub(crate) fn pause(&mut self, route: &str, paused: bool) {
        for traffic in [Traffic::Users, Traffic::Preview] {
            let line = self.line(traffic, route);
            let line = &mut self.lines[usize::from(line)];
            line.paused = paused;
            if paused {
                continue;
            }
            for (upstream, entry) in std::mem::take(&mut line.held) {
                match upstream {
                    Some(upstream) => self.targets[upstream].ready.push_back(entry),
                    None => line.again.push_back(entry),
                }
            }
        }
    }

    /// Where a pending job is, as far as it matters to whom it is shown.
    pub(crate) fn state(&self, id: u64) -> JobState {
        if self.doubtful.contains_key(&id) {
            JobState::Unknown
        } else if self.busy.contains_key(&id) {
            JobState::Dispatching
        } else {
            JobState::Waiting
        }
    }

    /// The job that has been pending and due for the longest, of those that hold up others and of the first of each
    /// line: numbers rise with time.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let lines = self.lines.iter().flat_map(|line| [line.fresh.first(), line.again.front().copied()]);
        let held = self.lines.iter().flat_map(|line| line.held.iter().map(|(_, entry)| entry.id()));
        let ready = self.targets.iter().filter_map(|target| target.ready.front()).map(|entry| entry.id());
        let others = self.carried.keys().chain(self.doubtful.keys()).chain(self.busy.keys()).copied();
        lines.flatten().map(|entry| entry.id()).chain(held).chain(ready).chain(others).min()
    }

    /// The first fresh job of each line that nobody has in hand, to see how old it is.
    pub(crate) fn heads(&self) -> Vec<Entry> {
        let heads = self.lines.iter().filter_map(|line| line.fresh.first());
        heads.filter(|entry| !self.aside.contains_key(&entry.id())).collect()
    }
}

impl Carried {
    /// One that pauses for reasons of its own.
    pub(crate) fn new(entry: Entry, attempts: u32) -> Self {
        Self {
            entry: entry.without(FRESH | PROBE),
            attempts,
            excused: 0,
            tries: 0,
            from_ms: None,
            upstream: None,
            hurries: false,
            doubted: false,
            announce: false,
            timer: 0,
            queued: false,
        }
    }
}

impl InDoubt {
    /// One that was not asked for yet, and whose last attempt was over at `since`.
    pub(crate) fn new(entry: Entry, attempts: u32, since: Moment) -> Self {
        Self {
            entry: entry.without(FRESH | PROBE),
            attempts,
            excused: 0,
            from_ms: None,
            upstream: None,
            probes: 0,
            denials: 0,
            since,
            timer: 0,
            hold: 0,
            queued: false,
        }
    }
}

#[cfg(test)]
mod tests;
