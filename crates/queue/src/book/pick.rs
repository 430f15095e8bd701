//! Which job goes next.

use super::{Book, Due, Entry, PROBE, Timer, UpstreamIndex};
use crate::clock::Moment;
use crate::pace::Permission;
use std::cmp::Reverse;

/// Jobs that are looked at in one go: those behind others are put there, which takes a moment each, and the book is
/// locked meanwhile.
const LOOKS_LIMIT: usize = 10_000;
/// Timers that go off in one go, for the same reason.
const TIMERS_LIMIT: usize = 10_000;

/// A job that is busy from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picked {
    pub(crate) entry: Entry,
    /// Whom it is for, as far as is known without reading it.
    pub(crate) upstream: Option<UpstreamIndex>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// This.
    Job(Picked),
    /// Nothing yet: look again at once.
    More,
    /// Nothing before this moment, unless something changes.
    Wait(Option<Moment>),
}

impl Book {
    /// Picks the job that goes next.
    pub(crate) fn pick(&mut self, now: Moment) -> Pick {
        if !self.fire(now) {
            return Pick::More;
        }
        let mut wake = self.timers.peek().map(|Reverse(timer)| timer.at);
        if self.paused {
            return Pick::Wait(wake);
        }
        let mut looks = LOOKS_LIMIT;
        let count = self.targets.len();
        self.turn = self.turn.wrapping_add(1);
        for offset in 0..count {
            let upstream = (self.turn + offset) % count;
            let found = match self.targets[upstream].pace.may_call(now) {
                Permission::Full => None,
                Permission::NotBefore(until) => {
                    let wanted = !self.targets[upstream].ready.is_empty() || self.is_wanted(Some(upstream));
                    wake = if wanted { Some(wake.map_or(until, |wake| wake.min(until))) } else { wake };
                    None
                }
                Permission::Yes => self
                    .pick_ready(upstream, &mut looks)
                    .or_else(|| self.pick_from_lines(Some(upstream), &mut looks)),
                // Another job than the one that failed: none is to be used up by an upstream that does not work.
                Permission::Trial => self
                    .pick_from_lines(Some(upstream), &mut looks)
                    .or_else(|| self.pick_ready(upstream, &mut looks)),
            };
            if let Some(entry) = found {
                self.busy.insert(entry.id(), ());
                return Pick::Job(Picked { entry, upstream: Some(upstream) });
            }
        }
        if let Some(entry) = self.pick_from_lines(None, &mut looks) {
            self.busy.insert(entry.id(), ());
            return Pick::Job(Picked { entry, upstream: None });
        }
        if looks == 0 { Pick::More } else { Pick::Wait(wake) }
    }

    /// Whether there is anything that [`pick`](Self::pick) may find before a timer goes off.
    pub(crate) fn has_work(&self) -> bool {
        let has = |line: &super::Line| !line.fresh.is_empty() || !line.again.is_empty();
        self.lines.iter().any(has) || self.targets.iter().any(|target| !target.ready.is_empty())
    }

    /// Whether a line that is first for `upstream` has anything.
    fn is_wanted(&self, upstream: Option<UpstreamIndex>) -> bool {
        let has = |line: &super::Line| !line.fresh.is_empty() || !line.again.is_empty();
        self.lines.iter().any(|line| line.first == upstream && !line.paused && has(line))
    }

    fn pick_ready(&mut self, upstream: UpstreamIndex, looks: &mut usize) -> Option<Entry> {
        while *looks > 0 {
            *looks -= 1;
            let entry = self.targets[upstream].ready.pop_front()?;
            if let Some(entry) = self.pass(Some(upstream), entry) {
                return Some(entry);
            }
        }
        None
    }

    fn pick_from_lines(&mut self, first: Option<UpstreamIndex>, looks: &mut usize) -> Option<Entry> {
        let count = self.lines.len();
        for offset in 0..count {
            let place = (self.turn + offset) % count;
            while *looks > 0 {
                let line = &mut self.lines[place];
                if line.first != first || line.paused {
                    break;
                }
                let Some(entry) = line.again.pop_front().or_else(|| line.fresh.pop()) else { break };
                *looks -= 1;
                if let Some(entry) = self.pass(None, entry) {
                    return Some(entry);
                }
            }
        }
        None
    }

    /// Lets through what nobody has in hand, what is not paused, and what no other job of its value is before.
    fn pass(&mut self, upstream: Option<UpstreamIndex>, entry: Entry) -> Option<Entry> {
        if entry.has(PROBE) && !self.is_asked(entry.id()) {
            return None;
        }
        if self.is_claimed(entry.id()) && !entry.has(PROBE) && !self.lanes.take(&entry) {
            // Also in somebody's hand it keeps its place.
            self.lanes.wait(entry);
            return None;
        }
        let entry = self.sieve(upstream, entry)?;
        let line = &mut self.lines[entry.route()];
        if line.paused {
            line.held.push((upstream, entry));
            return None;
        }
        // A probe asks and changes nothing: it goes whether its job still holds its value or not.
        if !entry.has(PROBE) && !self.lanes.take(&entry) {
            self.lanes.wait(entry);
            return None;
        }
        Some(entry)
    }

    /// Whether a probe of this job is due. An entry that says so may be left over from a doubt that is resolved.
    fn is_asked(&self, id: u64) -> bool {
        self.doubtful.get(&id).is_some_and(|doubt| doubt.queued) && !self.busy.contains_key(&id)
    }

    /// Lets go off what is due. False: there is more.
    pub(super) fn fire(&mut self, now: Moment) -> bool {
        for _ in 0..TIMERS_LIMIT {
            match self.timers.peek() {
                Some(Reverse(timer)) if timer.at <= now => {}
                Some(_) | None => return true,
            }
            let Some(Reverse(Timer { seq, due, .. })) = self.timers.pop() else { return true };
            match due {
                Due::Scheduled(id) => match self.scheduled.remove(&id) {
                    Some(entry) => self.push(entry),
                    None => self.stale = self.stale.saturating_sub(1),
                },
                Due::Again(id) => {
                    let carried = self.carried.get_mut(&id).filter(|c| c.timer == seq && !c.queued);
                    if let Some(carried) = carried {
                        carried.queued = true;
                        let (entry, upstream) = (carried.entry, carried.upstream);
                        self.queue_up(entry, upstream);
                    }
                }
                Due::Probe(id) => {
                    let doubt = self.doubtful.get_mut(&id).filter(|d| d.timer == seq && !d.queued);
                    if let Some(doubt) = doubt {
                        doubt.queued = true;
                        let (entry, upstream) = (doubt.entry.with(PROBE), doubt.upstream);
                        self.queue_up(entry, upstream);
                    }
                }
                Due::Hold { id, order } => {
                    let held = self.doubtful.get(&id).is_some_and(|doubt| doubt.hold == seq);
                    if held && self.lanes.is_held_by(order, id) {
                        self.holds_expired += 1;
                        self.release(id, order);
                    }
                }
            }
        }
        false
    }

    fn queue_up(&mut self, entry: Entry, upstream: Option<UpstreamIndex>) {
        match upstream {
            Some(upstream) => self.targets[upstream].ready.push_back(entry),
            None => self.lines[entry.route()].again.push_back(entry),
        }
    }
}
