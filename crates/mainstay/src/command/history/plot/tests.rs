use super::*;
use api::operator::LedgerPoint;

fn frame() -> Frame {
    let points: Vec<LedgerPoint> = [1000, 2000, 3000, 9000, 10_000]
        .map(|at_ms| LedgerPoint {
            at_ms,
            span_ms: 1000,
            state: "shifting".into(),
            weight: 0,
            counts: api::operator::LedgerCounts::default(),
            active_p95_ms: None,
            candidate_p95_ms: None,
            not_accounted: false,
        })
        .into();
    let window = Window::new(0, 10_000);
    let moments = crate::command::history::moments::moments(&points, window, 600);
    Frame { window, moments, events: Vec::new(), not_accounted: Vec::new() }
}

#[test]
fn an_axis_has_a_place_for_every_value_and_round_steps() {
    for (highest, step, steps) in [
        (0.0, 1.0, 1),
        (1.0, 0.2, 5),
        (3.0, 1.0, 3),
        (5.0, 1.0, 5),
        (120.0, 50.0, 3),
        (0.04, 0.01, 4),
        (1234.0, 500.0, 3),
        (f64::INFINITY, 1.0, 1),
    ] {
        let axis = Axis::to(highest);
        assert!((axis.step - step).abs() < 1e-9 && axis.steps == steps, "{highest}: {axis:?}");
    }
    let ticks: Vec<String> = Axis::to(0.04).ticks().map(|(_, text)| text).collect();
    assert_eq!(ticks, ["0.00", "0.01", "0.02", "0.03", "0.04"]);
    let ticks: Vec<String> = Axis::to(5000.0).ticks().map(|(_, text)| text).collect();
    assert_eq!(ticks, ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]);
    let ticks: Vec<String> = Axis::to(30.0).ticks().map(|(_, text)| text).collect();
    assert_eq!(ticks, ["0", "10", "20", "30"]);
}

#[test]
fn an_axis_of_time_has_few_steps() {
    for (length, step) in
        [(1, 100), (9_000, 1000), (93_000, 10_000), (600_000, 60_000), (90_000_000, 10_800_000)]
    {
        assert_eq!(time_step(length), step, "{length} ms");
    }
    assert!(u64::MAX / time_step(u64::MAX) <= STEPS);
    assert_eq!(time_text(90_000, 30_000, 240_000), "1:30");
}

#[test]
fn a_line_breaks_where_nothing_is_known_or_measured() {
    let frame = frame();
    let axis = Axis::to(5.0);
    let values = [Some(1.0), Some(2.0), Some(3.0), Some(4.0), Some(5.0)];
    assert_eq!(runs(&values, &frame, &axis).iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
    let values = [Some(1.0), None, Some(3.0), None, None];
    let runs = runs(&values, &frame, &axis);
    // Each is alone, and so as long as its moment.
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0], [(0.0, axis.down(1.0)), (100.0, axis.down(1.0))]);
}

#[test]
fn shares_rise_in_steps() {
    let path = staircase(&[(0, 0), (5000, 5000), (8000, 10_000)], Window::new(0, 10_000));
    assert_eq!(path, "M0.0 190.0H500.0V95.0H800.0V0.0H1000");
    for (weight, text) in [(0, "0 %"), (10_000, "100 %"), (150, "1.5 %"), (5, "0.05 %")] {
        assert_eq!(percent(weight), text);
    }
}

#[test]
fn events_that_are_close_share_a_number() {
    let events = [(0, 1), (10, 2), (20, 3), (5000, 4), (99_999, 5)];
    let mut frame = frame();
    frame.events = events.map(|(at, seq)| (at, seq, String::from("<b>"))).into();
    let svg = marks(&frame);
    assert!(svg.contains(">1–3</text>") && svg.contains(">4</text>"), "{svg}");
    assert!(!svg.contains(">5</text>"), "what happened later has no place: {svg}");
    assert!(!svg.contains("<b>"), "{svg}");
}

#[test]
fn a_gap_is_hatched_and_named() {
    let mut frame = frame();
    assert_eq!(gaps(&frame, "p"), "");
    frame.not_accounted = vec![(3000, 8000)];
    let svg = gaps(&frame, "p");
    assert!(svg.contains("x=\"30.00%\"") && svg.contains("width=\"50.00%\""), "{svg}");
    assert!(svg.contains(">not accounted</text>") && svg.contains("id=\"p-hatch\""), "{svg}");
}
