use super::*;
use model::template::Template;
use model::workload::{Limits, Ready, Service};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn service(instances: u32, memory: Option<u64>) -> Service {
    Service {
        run: vec![Template::literal("x")],
        http: true,
        artifact: ".".into(),
        instances,
        needs: Vec::new(),
        address_as: None,
        env: BTreeMap::new(),
        ready: Ready { get: None, timeout: Duration::from_secs(1) },
        live: None,
        limits: Limits { open_files: None, memory },
        drain_timeout: Duration::from_secs(1),
    }
}

fn configuration(services: &[(&str, Service)]) -> Configuration {
    let mut configuration = crate::testing::configuration();
    let named = |(name, service): &(&str, Service)| (ComponentName::new(name).unwrap(), service.clone());
    configuration.services = services.iter().map(named).collect();
    configuration
}

fn roomy() -> Seen {
    Seen {
        memory_available: Some(1024 * MIB),
        disk_free: Some(1024 * MIB),
        artifacts: Some(MIB),
        ports_free: 200,
        open_files: Some(4096),
        ..Seen::default()
    }
}

fn resident(of: &[(&str, u64, u64)]) -> BTreeMap<ComponentName, (u64, u64)> {
    of.iter()
        .map(|(name, instances, bytes)| (ComponentName::new(name).unwrap(), (*instances, *bytes)))
        .collect()
}

#[track_caller]
fn verdict(check: &Check, verdict: Verdict, texts: &[&str]) {
    assert_eq!(check.verdict, verdict, "{check:?}");
    for text in texts {
        assert!(check.text.contains(text), "no `{text}` in {check:?}");
    }
}

#[test]
fn memory_is_what_is_allowed_or_else_what_was_measured() {
    use Verdict::{Fail, Inconclusive, Pass};
    let worker = |memory| Service { http: false, ..service(1, memory) };
    type Case<'a> = (&'a str, Vec<(&'a str, Service)>, Vec<(&'a str, u64, u64)>, u64, Verdict, Vec<&'a str>);
    let table: Vec<Case<'_>> = vec![
        (
            "allowed",
            vec![("api", service(2, Some(512 * MIB)))],
            vec![],
            0,
            Pass,
            vec!["1 GiB needed", "api 2 × 512 MiB"],
        ),
        (
            "too much",
            vec![("api", service(2, Some(513 * MIB)))],
            vec![],
            0,
            Fail,
            vec!["1026 MiB needed", "1 GiB available"],
        ),
        ("what goes makes room", vec![("api", service(2, Some(513 * MIB)))], vec![], 2 * MIB, Pass, vec![]),
        // Two instances hold 200 MiB together, and there are to be six.
        (
            "measured",
            vec![("api", service(6, None))],
            vec![("api", 2, 200 * MIB)],
            0,
            Pass,
            vec!["600 MiB needed", "measured"],
        ),
        (
            "measured too much",
            vec![("api", service(11, None))],
            vec![("api", 2, 200 * MIB)],
            0,
            Fail,
            vec!["api 11 × 100 MiB"],
        ),
        (
            "a limit goes before",
            vec![("api", service(1, Some(10 * MIB)))],
            vec![("api", 1, 900 * MIB)],
            0,
            Pass,
            vec!["10 MiB needed"],
        ),
        (
            "unknown",
            vec![("api", service(9, None))],
            vec![],
            0,
            Inconclusive,
            vec!["0 B needed", "not known of api"],
        ),
        (
            "unknown and too much",
            vec![("api", service(9, None)), ("web", service(1, Some(2048 * MIB)))],
            vec![],
            0,
            Fail,
            vec!["web 1 × 2 GiB", "not known of api"],
        ),
        (
            "a worker changes hands",
            vec![("mail", worker(None))],
            vec![("mail", 1, 1000 * MIB)],
            0,
            Pass,
            vec!["0 B needed"],
        ),
        (
            "a worker grows",
            vec![("mail", worker(Some(1500 * MIB)))],
            vec![("mail", 1, 500 * MIB)],
            0,
            Pass,
            vec!["1000 MiB needed"],
        ),
        ("beyond all numbers", vec![("api", service(64, Some(u64::MAX / 2)))], vec![], 0, Fail, vec![]),
    ];
    for (name, services, held, freed, expected, texts) in table {
        let seen = Seen { resident: resident(&held), memory_freed: freed, ..roomy() };
        let check = memory(&configuration(&services), &seen);
        assert_eq!(check.verdict, expected, "{name}: {check:?}");
        verdict(&check, expected, &texts);
    }
    let silent = Seen { memory_available: None, ..roomy() };
    verdict(
        &memory(&configuration(&[("api", service(1, Some(MIB)))]), &silent),
        Inconclusive,
        &["does not say"],
    );
}

#[test]
fn disk_ports_and_files_are_counted() {
    use Verdict::{Fail, Inconclusive, Pass};
    for (free, freed, artifacts, expected) in [
        (Some(65 * MIB), 0, Some(MIB), Pass),
        (Some(65 * MIB - 1), 0, Some(MIB), Fail),
        (Some(65 * MIB - 1), 1, Some(MIB), Pass),
        (Some(0), 0, None, Inconclusive),
        (None, 0, Some(MIB), Inconclusive),
    ] {
        let seen = Seen { disk_free: free, disk_freed: freed, artifacts, ..roomy() };
        verdict(&disk(&seen), expected, &["disk: "]);
    }
    let worker = Service { http: false, ..service(9, None) };
    let three = configuration(&[("api", service(2, None)), ("web", service(1, None)), ("mail", worker)]);
    for (free, expected) in [(3, Pass), (2, Fail)] {
        verdict(&ports(&three, &Seen { ports_free: free, ..roomy() }), expected, &["3 needed"]);
    }
    for (limit, hard, expected) in [
        (None, Some(1), Pass),
        (Some(4096), Some(4096), Pass),
        (Some(4097), Some(4096), Fail),
        (Some(4097), None, Pass),
    ] {
        let mut api = service(1, None);
        api.limits.open_files = limit;
        let seen = Seen { open_files: hard, ..roomy() };
        verdict(
            &open_files(&configuration(&[("api", api), ("web", service(1, None))]), &seen),
            expected,
            &[],
        );
    }
}

#[test]
fn everything_that_does_not_fit_is_one_refusal() {
    let fits = configuration(&[("api", service(1, Some(MIB)))]);
    assert_eq!(refusal(&checks(&fits, None, &roomy())), None);
    let large = configuration(&[("api", service(300, Some(1024 * MIB)))]);
    let problem = refusal(&checks(&large, Some(&fits), &roomy())).expect("it does not fit");
    assert_eq!(problem.code, Code::Machine);
    for text in ["memory: 300 GiB needed", "1 GiB available", "ports: 300 needed"] {
        assert!(problem.message.contains(text), "{problem:?}");
    }
    assert!(!problem.message.contains("limits differ"), "{problem:?}");
    assert!(problem.hint.is_some_and(|hint| hint.contains("`limits.memory`")));
}

#[test]
fn limits_that_differ_are_named_and_refuse_nothing() {
    let old = configuration(&[("api", service(2, Some(256 * MIB))), ("gone", service(1, None))]);
    verdict(&limits(&old, &old), Verdict::Pass, &["the same"]);
    let mut new = configuration(&[("api", service(3, Some(512 * MIB))), ("new", service(1, Some(MIB)))]);
    new.services.values_mut().for_each(|service| service.limits.open_files = Some(1000));
    new.gateway.limits.in_flight = 10;
    new.gateway.limits.idle_timeout = Duration::from_millis(1500);
    assert_eq!(
        differences(&old, &new),
        [
            "api.memory 256 MiB → 512 MiB",
            "api.open_files none → 1000",
            "api.instances 2 → 3",
            "gateway.in_flight 1024 → 10",
            "gateway.idle_timeout 60s → 1.5s",
        ]
    );
    let check = limits(&old, &new);
    verdict(
        &check,
        Verdict::Inconclusive,
        &["limits differ: api.memory 256 MiB → 512 MiB, ", "unequal deployments"],
    );
    assert_eq!(refusal(&[check]), None);
}

#[test]
fn sizes_are_read_by_people() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (256 * MIB, "256 MiB"),
        (1026 * MIB, "1026 MiB"),
        (3_345_678_848, "3.12 GiB"),
        (3 << 39, "1536 GiB"),
    ] {
        assert_eq!(size(bytes), text);
    }
}
