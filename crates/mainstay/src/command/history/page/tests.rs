use super::*;
use api::operator::{Decision, Ledger, LedgerPoint};
use model::name::{EnvironmentName, ReleaseNumber, WorkloadName};
use model::workload::Class;

const BEGAN: u64 = 1_767_225_600_000;
const NASTY: &str = "<script>alert(1)</script>\"'&";

fn status() -> Status {
    Status {
        v: 1,
        workload: WorkloadName::new("shop").unwrap(),
        environment: EnvironmentName::new("production").unwrap(),
        class: Class::Production,
        http: ([127, 0, 0, 1], 8080).into(),
        agent_pid: 1,
        gateway: None,
        active: None,
        active_ready: true,
        stamps: Vec::new(),
        stores: Vec::new(),
        releases: Vec::new(),
    }
}

fn event(seq: u64, after_ms: u64, state: &str, text: &str) -> ReleaseEvent {
    ReleaseEvent { seq, at_ms: BEGAN + after_ms, state: state.into(), text: text.into(), decision: None }
}

fn history(points: Vec<LedgerPoint>) -> History {
    let mut ledger = Ledger { points, ..Ledger::default() };
    for point in &ledger.points {
        let (sum, more) = (&mut ledger.total, point.counts);
        sum.active += more.active;
        sum.candidate += more.candidate;
        sum.errors += more.errors;
        sum.cut += more.cut;
        sum.failed += more.failed;
        sum.shed += more.shed;
        if point.not_accounted {
            ledger.not_accounted.push((point.at_ms - point.span_ms, point.at_ms));
        }
    }
    History {
        release: ReleaseSummary {
            number: ReleaseNumber(4),
            name: "spring-sale".into(),
            digest: Some(model::name::Digest::from_bytes([0xab; 32])),
            state: "rolled_back".into(),
            ended: true,
            reason: Some("latency".into()),
            reason_text: Some("slower than the active stamp".into()),
            switch_ms: Some(3.21),
            rollback_ms: Some(7.04),
            rehearsal_ms: None,
            gate: None,
            percent: 0.0,
            created_ms: BEGAN,
            old_kept_ms: None,
        },
        events: vec![event(1, 0, "planned", "asked for"), event(2, 2500, "rolled_back", "it is gone")],
        ledger,
    }
}

fn point(after_s: u64, counts: LedgerCounts) -> LedgerPoint {
    LedgerPoint {
        at_ms: BEGAN + after_s * 1000,
        span_ms: 1000,
        state: "shifting".into(),
        weight: 2500,
        counts,
        active_p95_ms: Some(12.0),
        candidate_p95_ms: Some(25.5),
        not_accounted: false,
    }
}

fn served(active: u64, candidate: u64) -> LedgerCounts {
    LedgerCounts { active, candidate, ..LedgerCounts::default() }
}

/// Every element is closed by its own end, in order; enough of a parser to see text that has become markup.
fn well_formed(html: &str) {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let (before, rest) = html.split_once("<style>").unwrap();
    let after = rest.split_once("</style>").unwrap().1;
    for part in before.split('<').skip(1).chain(after.split('<').skip(1)) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("`<{part}` is not closed"));
        let name = tag.split_whitespace().next().unwrap_or_default();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes something else");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn the_page_says_what_became_of_the_release() {
    let html = page(&status(), &history((1..=60).map(|i| point(i, served(100, 30))).collect()));
    well_formed(&html);
    for said in [
        "shop/production",
        "Release r4",
        "spring-sale",
        "rolled back",
        "slower than the active stamp",
        "3.2 ms",
        "7.0 ms",
        "abababababab",
        "answered by the stamp that served before</th><td>6,000</td>",
        "answered by the candidate</th><td>1,800</td>",
        "Latency, 95th percentile",
        "active stamp: at most 100, after 0.50 s",
        "No request of this time went wrong",
        "+2.500 s",
    ] {
        assert!(html.contains(said), "`{said}` is not on the page");
    }
    assert!(!html.contains("rehearsed back"), "what did not happen is told");
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let mut history = history(vec![point(1, served(1, 1)), point(2, served(1, 1))]);
    history.release.name = NASTY.into();
    history.release.state = NASTY.into();
    history.release.reason_text = Some(NASTY.into());
    history.release.ended = false;
    history.release.gate = Some(NASTY.into());
    for point in &mut history.ledger.points {
        point.state = NASTY.into();
    }
    let numbers = serde_json::json!({ NASTY: NASTY });
    let (check, route, text) = (NASTY.to_owned(), Some(NASTY.to_owned()), NASTY.to_owned());
    let checks = vec![Check { check, route, verdict: Verdict::Fail, text, numbers }];
    let decision = Some(Decision { verdict: Verdict::Fail, checks });
    history.events.push(ReleaseEvent { decision, ..event(3, 1500, NASTY, NASTY) });
    let html = page(&status(), &history);
    assert!(!html.contains("<script"), "a script got in");
    assert!(html.matches("&lt;script&gt;").count() >= 12, "something of it is not shown");
    well_formed(&html);
}

#[test]
fn the_page_needs_nothing_else() {
    let html = page(&status(), &history((1..=20).map(|i| point(i, served(9, 9))).collect()));
    for outside in ["<script", "<link", "<img", "<iframe", "@import", "src=", "href=", "http://", "https://"]
    {
        assert!(!html.contains(outside), "`{outside}` is on the page");
    }
    assert!(html.replace("url(#", "").split("url(").count() == 1, "something is fetched");
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn an_empty_ledger_is_said() {
    let mut history = history(Vec::new());
    let html = page(&status(), &history);
    well_formed(&html);
    assert!(html.contains("its ledger is empty") && !html.contains("<figure"));
    history.events.clear();
    let html = page(&status(), &history);
    well_formed(&html);
    assert!(html.contains("Nothing is recorded of this release yet"));
}

#[test]
fn what_went_wrong_is_plotted_and_what_did_not_is_named() {
    let wrong = LedgerCounts { errors: 3, cut: 1, ..served(50, 50) };
    let mut points: Vec<LedgerPoint> = (1..=40).map(|i| point(i, served(50, 50))).collect();
    points[20].counts = wrong;
    points[30].not_accounted = true;
    let html = page(&status(), &history(points));
    well_formed(&html);
    assert!(html.contains("Requests that went wrong"));
    assert!(html.contains("None: failed in the gateway, shed because of a limit."));
    assert!(html.contains("class=\"line errors\"") && html.contains("class=\"line cut\""));
    assert!(!html.contains("class=\"line shed\""));
    assert!(html.contains("not accounted: 00:00:30.000 to 00:00:31.000"));
    assert!(html.contains("url(#p-losses-hatch)"));
}

#[test]
fn ids_are_unique_with_two_sets_of_plots() {
    let mut points: Vec<LedgerPoint> = (1..=4000).map(|i| point(i, served(50, 50))).collect();
    points.iter_mut().skip(40).for_each(|point| point.state = "promoted".into());
    points[5].not_accounted = true;
    let html = page(&status(), &history(points));
    well_formed(&html);
    assert!(html.contains("The whole release, 66 min 40 s"));
    let mut ids: Vec<&str> =
        html.split(" id=\"").skip(1).map(|part| part.split_once('"').unwrap().0).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert!(all >= 12 && ids.len() == all, "{ids:?}");
    // Four thousand points: the page stays small enough to be mailed.
    assert!(html.len() < 200_000, "{} bytes", html.len());
}

#[test]
fn zeros_beside_something_are_kept() {
    let values = [0.0, 0.0, 2.0, 0.0, 0.0, 0.0].map(Some);
    assert_eq!(without_rest(&values), [None, Some(0.0), Some(2.0), Some(0.0), None, None]);
}
