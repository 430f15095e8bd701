//! The points of a ledger as plots show them: how much of the release, and no more of them than can be seen.

use api::operator::{LedgerCounts, LedgerPoint, ReleaseEvent};

/// A moment is at least this long, in milliseconds. A point ends with every change of state, so some are a few
/// milliseconds long, and one request in them would be a peak of hundreds a second.
const SHORTEST_MS: u64 = 500;
/// How much is shown after users have come to rest, in milliseconds, or a fifth of the time before, if that is more.
const REST_MS: u64 = 10_000;
/// What ends a release may be recorded shortly after its last point; in milliseconds.
const LAST_WORD_MS: u64 = 2_000;
/// The states in which no users are moved. An old stamp is kept for minutes in them, which would leave a sliver for
/// the seconds that count.
const AT_REST: [&str; 6] = ["promoted", "retiring", "contracting", "done", "refused", "rolled_back"];

/// The time a plot shows, in milliseconds since 1970. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Window {
    pub(super) fn new(from: u64, to: u64) -> Self {
        Self { from, to: to.max(from.saturating_add(1)) }
    }

    pub(super) fn length(self) -> u64 {
        self.to - self.from
    }

    /// Where a time lies, from 0 to 1.
    pub(super) fn place(self, at: u64) -> f64 {
        at.clamp(self.from, self.to).saturating_sub(self.from) as f64 / self.length() as f64
    }

    pub(super) fn holds(self, at: u64) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// One or several neighbouring points.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moment {
    pub(super) from: u64,
    pub(super) to: u64,
    /// How much of it was counted, in milliseconds.
    span: u64,
    /// The state and the candidate's users of 10,000 at its end.
    pub(super) state: String,
    pub(super) weight: u16,
    pub(super) counts: LedgerCounts,
    /// The highest of its points: percentiles cannot be added up, and a peak must not be lost.
    pub(super) active_p95_ms: Option<f64>,
    pub(super) candidate_p95_ms: Option<f64>,
    /// Whether nothing is known of the time between the moment before and this one.
    pub(super) apart: bool,
    /// How many points it is made of.
    pub(super) points: usize,
}

impl Moment {
    fn of(point: &LedgerPoint, apart: bool) -> Self {
        Self {
            from: point.at_ms.saturating_sub(point.span_ms),
            to: point.at_ms,
            span: point.span_ms,
            state: point.state.clone(),
            weight: point.weight,
            counts: point.counts,
            active_p95_ms: point.active_p95_ms,
            candidate_p95_ms: point.candidate_p95_ms,
            apart,
            points: 1,
        }
    }

    fn add(&mut self, next: &Self) {
        self.to = self.to.max(next.to);
        self.span += next.span;
        self.state.clone_from(&next.state);
        self.weight = next.weight;
        let LedgerCounts {
            active,
            candidate,
            errors,
            retried,
            shed,
            cut,
            failed,
            client_gone,
            refused,
            held,
            queued,
        } = next.counts;
        let sum = &mut self.counts;
        sum.active += active;
        sum.candidate += candidate;
        sum.errors += errors;
        sum.retried += retried;
        sum.shed += shed;
        sum.cut += cut;
        sum.failed += failed;
        sum.client_gone += client_gone;
        sum.refused += refused;
        sum.held += held;
        sum.queued += queued;
        let higher = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        self.active_p95_ms = higher(self.active_p95_ms, next.active_p95_ms);
        self.candidate_p95_ms = higher(self.candidate_p95_ms, next.candidate_p95_ms);
        self.points += next.points;
    }

    /// So many in it, per second; none if it has no length.
    pub(super) fn rate(&self, count: u64) -> Option<f64> {
        (self.span > 0).then(|| count as f64 * 1000.0 / self.span as f64)
    }

    pub(super) fn middle(&self) -> u64 {
        self.from + (self.to - self.from) / 2
    }
}

/// The points of `window`, at most about `most` of them: neighbours are merged until each is long enough. No moment
/// reaches over a time of which nothing is known.
pub(super) fn moments(points: &[LedgerPoint], window: Window, most: u64) -> Vec<Moment> {
    let long_enough = (window.length() / most.max(1)).max(SHORTEST_MS);
    let mut inside: Vec<&LedgerPoint> =
        points.iter().filter(|point| window.holds(point.at_ms) && point.at_ms > window.from).collect();
    // A clock that was set back would draw lines back too.
    inside.sort_by_key(|point| point.at_ms);
    let mut moments: Vec<Moment> = Vec::new();
    for point in inside {
        let end = moments.last().map(|last| last.to);
        let from = point.at_ms.saturating_sub(point.span_ms);
        let apart = end.is_some_and(|end| from.saturating_sub(end) > long_enough);
        let next = Moment::of(point, apart);
        match moments.last_mut() {
            Some(last) if !apart && last.to.saturating_sub(last.from) < long_enough => last.add(&next),
            _ => moments.push(next),
        }
    }
    // What is left over before a gap or at the end is too short to be a moment of its own.
    let mut long: Vec<Moment> = Vec::with_capacity(moments.len());
    for moment in moments {
        match long.last_mut() {
            Some(last) if !moment.apart && moment.to.saturating_sub(moment.from) < long_enough / 2 => {
                last.add(&moment);
            }
            _ => long.push(moment),
        }
    }
    long
}

/// The candidate's share, as the times from which it was another one.
pub(super) fn shares(points: &[LedgerPoint], window: Window) -> Vec<(u64, u16)> {
    let mut points: Vec<&LedgerPoint> = points.iter().collect();
    points.sort_by_key(|point| point.at_ms);
    let mut shares: Vec<(u64, u16)> = Vec::new();
    for point in points.into_iter().filter(|point| point.at_ms > window.from) {
        let from = point.at_ms.saturating_sub(point.span_ms);
        if from <= window.to && shares.last().is_none_or(|(_, weight)| *weight != point.weight) {
            shares.push((from.max(window.from), point.weight));
        }
    }
    shares
}

/// The intervals, in order, those joined that could not be told apart in the window.
pub(super) fn joined(intervals: &[(u64, u64)], window: Window) -> Vec<(u64, u64)> {
    let apart = window.length() / 200;
    let mut sorted: Vec<(u64, u64)> =
        intervals.iter().copied().filter(|(from, to)| *from < window.to && *to > window.from).collect();
    sorted.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in sorted {
        match joined.last_mut() {
            Some(last) if from.saturating_sub(last.1) <= apart => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// The time in which users were moved and, where that is only a part of it, the whole release. Empty without points.
pub(super) fn windows(points: &[LedgerPoint], events: &[ReleaseEvent]) -> Vec<Window> {
    let starts = points.iter().map(|point| point.at_ms.saturating_sub(point.span_ms));
    let (Some(first), Some(last)) = (starts.min(), points.iter().map(|point| point.at_ms).max()) else {
        return Vec::new();
    };
    let began = events.first().map_or(first, |event| event.at_ms.min(first));
    let told = events.last().map_or(last, |event| event.at_ms.min(last.saturating_add(LAST_WORD_MS)));
    let whole = Window::new(began, last.max(told));
    let moving = points.iter().filter(|point| !AT_REST.contains(&point.state.as_str()));
    let Some(rest) = moving.map(|point| point.at_ms).max() else { return vec![whole] };
    let shown = rest.saturating_add(REST_MS.max(rest.saturating_sub(began) / 5));
    let moved = Window::new(began, shown);
    // Less would not be worth a second set of plots.
    if moved.length() < whole.length() / 5 * 3 { vec![moved, whole] } else { vec![whole] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_ms: u64, span_ms: u64, active: u64) -> LedgerPoint {
        LedgerPoint {
            at_ms,
            span_ms,
            state: "shifting".into(),
            weight: 100,
            counts: LedgerCounts { active, errors: 1, cut: 2, ..LedgerCounts::default() },
            active_p95_ms: Some(active as f64),
            candidate_p95_ms: None,
            not_accounted: false,
        }
    }

    #[test]
    fn thousands_of_points_become_hundreds_and_lose_nothing() {
        let mut points: Vec<LedgerPoint> = (1..=5000).map(|i| point(i * 1000, 1000, i)).collect();
        // The order in which they are recorded does not matter.
        points.swap(100, 3000);
        let moments = moments(&points, Window::new(0, 5_000_000), 600);
        assert!((300..=601).contains(&moments.len()), "{} moments", moments.len());
        assert_eq!(moments.iter().map(|m| m.counts.active).sum::<u64>(), 5000 * 5001 / 2);
        assert_eq!(moments.iter().map(|m| m.counts.cut).sum::<u64>(), 10_000);
        assert_eq!(moments.last().and_then(|m| m.active_p95_ms), Some(5000.0), "the highest was lost");
        assert!(moments.windows(2).all(|two| two[0].to <= two[1].from), "moments overlap");
    }

    #[test]
    fn a_point_of_a_few_milliseconds_is_no_peak() {
        let points = [point(1000, 1000, 100), point(1004, 4, 4), point(2004, 1000, 100), point(2006, 2, 2)];
        let moments = moments(&points, Window::new(0, 3000), 600);
        let highest = moments.iter().filter_map(|m| m.rate(m.counts.active)).fold(0.0, f64::max);
        assert!(highest < 110.0, "{highest} a second");
        assert_eq!(moments.iter().map(|m| m.counts.active).sum::<u64>(), 206);
    }

    #[test]
    fn nothing_is_drawn_over_a_time_of_which_nothing_is_known() {
        let points = [point(1000, 1000, 1), point(2000, 1000, 1), point(9000, 1000, 1)];
        let moments = moments(&points, Window::new(0, 9000), 600);
        assert_eq!(moments.iter().map(|m| m.apart).collect::<Vec<_>>(), [false, false, true]);
        // Not even when what comes before it is too short to be a moment of its own.
        let points = [point(4, 4, 1), point(9000, 1000, 1), point(10_000, 1000, 1)];
        let moments = super::moments(&points, Window::new(0, 10_000), 600);
        assert_eq!(moments.iter().map(|m| m.from).collect::<Vec<_>>(), [0, 8000, 9000]);
        let points = [point(1000, 1000, 1), point(9000, 4, 1)];
        assert_eq!(super::moments(&points, Window::new(0, 9000), 600).len(), 2);
    }

    #[test]
    fn a_point_without_length_has_no_rate() {
        let moments = moments(&[point(1000, 0, 5)], Window::new(0, 2000), 600);
        assert_eq!(moments[0].rate(5), None);
    }

    #[test]
    fn shares_are_the_changes_alone() {
        let mut points: Vec<LedgerPoint> = (1..=4).map(|i| point(i * 1000, 1000, 1)).collect();
        points[2].weight = 5000;
        points[3].weight = 5000;
        assert_eq!(shares(&points, Window::new(0, 4000)), [(0, 100), (2000, 5000)]);
    }

    #[test]
    fn intervals_that_touch_are_one() {
        let window = Window::new(0, 100_000);
        assert_eq!(
            joined(&[(5000, 6000), (1000, 2000), (2000, 3000), (200_000, 300_000)], window),
            [(1000, 3000), (5000, 6000)]
        );
    }

    #[test]
    fn a_long_rest_gets_plots_of_its_own() {
        let mut points: Vec<LedgerPoint> = (1..=60).map(|i| point(i * 1000, 1000, 1)).collect();
        assert_eq!(windows(&points, &[]), [Window::new(0, 60_000)]);
        for i in 61..=600 {
            points.push(LedgerPoint { state: "promoted".into(), ..point(i * 1000, 1000, 1) });
        }
        assert_eq!(windows(&points, &[]), [Window::new(0, 72_000), Window::new(0, 600_000)]);
        assert_eq!(windows(&[], &[]), []);
    }
}
