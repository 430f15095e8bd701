//! Whether a second deployment fits on this machine beside the one that serves, and whether the two can be compared:
//! from numbers to verdicts, pure. Where the numbers come from is `capacity::look`.

mod look;

use api::operator::Check;
use api::problem::{Code, Problem};
use model::name::ComponentName;
use model::verdict::Verdict;
use model::workload::{Configuration, Service};
use serde_json::json;
use std::collections::BTreeMap;

/// What stays free on the disk of the state folder, in bytes: for records, logs, and what services write while two
/// deployments run.
pub(crate) const DISK_RESERVE: u64 = 64 * 1024 * 1024;

/// What was seen of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Bytes that can be had without swapping. None: the system does not say.
    pub(crate) memory_available: Option<u64>,
    /// Resident bytes of stamps that are gone before the second deployment starts.
    pub(crate) memory_freed: u64,
    /// Of the stamp that serves, by component: how many instances run, and their resident bytes together.
    pub(crate) resident: BTreeMap<ComponentName, (u64, u64)>,
    /// Bytes free for this user where artifacts are stored. None: the system does not say.
    pub(crate) disk_free: Option<u64>,
    /// Bytes of earlier artifacts that go before the new ones are stored.
    pub(crate) disk_freed: u64,
    /// Bytes of the artifacts to store. None: they cannot be listed, which is said when they are stored.
    pub(crate) artifacts: Option<u64>,
    /// Ports that can be had, those of stamps that are gone by then among them.
    pub(crate) ports_free: u64,
    /// The most open files a process of this user may have. None: as many as it likes.
    pub(crate) open_files: Option<u64>,
}

/// What a release needs of the machine, against what there is, and against what serves.
pub(crate) fn checks(new: &Configuration, old: Option<&Configuration>, seen: &Seen) -> Vec<Check> {
    let mut checks = vec![memory(new, seen), disk(seen), ports(new, seen), open_files(new, seen)];
    checks.extend(old.map(|old| limits(old, new)));
    checks
}

/// Why a release is refused, when a check fails.
pub(crate) fn refusal(checks: &[Check]) -> Option<Problem> {
    let failed: Vec<&Check> = checks.iter().filter(|check| check.verdict == Verdict::Fail).collect();
    let first = failed.first()?;
    let texts: Vec<&str> = failed.iter().map(|check| check.text.as_str()).collect();
    let message = format!("the release does not fit beside what serves: {}", texts.join("; "));
    let hint = match first.check.as_str() {
        "memory" => "lower `limits.memory` or `instances`, or free memory on this machine",
        "disk" => "free space where the state folder lies, or build a smaller artifact",
        "ports" => "lower `instances`, or see what else listens there: ss -ltn",
        _ => "lower `limits.open_files`, or raise LimitNOFILE of whoever starts mainstay",
    };
    Some(Problem::new(Code::Machine, message).hint(hint))
}

fn memory(new: &Configuration, seen: &Seen) -> Check {
    let (mut needed, mut parts, mut unknown) = (0_u64, Vec::new(), Vec::new());
    for (name, service) in &new.services {
        let (instances, resident) = seen.resident.get(name).copied().unwrap_or_default();
        let measured = (instances > 0).then(|| resident / instances);
        let Some(each) = service.limits.memory.or(measured) else {
            unknown.push(name.as_str());
            continue;
        };
        let all = each.saturating_mul(service.instances.into());
        // Workers never run twice: those of the stamp before have stopped when these start.
        let more = if service.http { all } else { all.saturating_sub(resident) };
        let by = if service.limits.memory.is_some() { "`limits.memory`" } else { "measured" };
        parts.push(format!("{name} {} × {} {by}", service.instances, size(each)));
        needed = needed.saturating_add(more);
    }
    let available = seen.memory_available.map(|available| available.saturating_add(seen.memory_freed));
    let verdict = match available {
        Some(available) if needed > available => Verdict::Fail,
        Some(_) if unknown.is_empty() => Verdict::Pass,
        Some(_) | None => Verdict::Inconclusive,
    };
    let mut text = format!("memory: {} needed", size(needed));
    if !parts.is_empty() {
        text += &format!(" ({})", parts.join(", "));
    }
    text += &available.map_or_else(
        || ", and the system does not say how much is available".to_owned(),
        |available| format!(", {} available", size(available)),
    );
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        text += &format!("; not known of {names}, without `limits.memory` and without an instance that runs");
    }
    let numbers = json!({ "needed": needed, "available": available, "unknown": unknown });
    check("memory", verdict, text, numbers)
}

fn disk(seen: &Seen) -> Check {
    let available = seen.disk_free.map(|free| free.saturating_add(seen.disk_freed));
    let needed = seen.artifacts.map(|artifacts| artifacts.saturating_add(DISK_RESERVE));
    let (verdict, text) = match (needed, available) {
        (Some(needed), Some(available)) => {
            let text = format!(
                "disk: {} needed (artifacts {}, reserve {}), {} available",
                size(needed),
                size(needed - DISK_RESERVE),
                size(DISK_RESERVE),
                size(available)
            );
            (if needed > available { Verdict::Fail } else { Verdict::Pass }, text)
        }
        (None, _) => (Verdict::Inconclusive, "disk: the artifacts cannot be listed".to_owned()),
        (Some(_), None) => {
            (Verdict::Inconclusive, "disk: the system does not say how much is free".to_owned())
        }
    };
    check("disk", verdict, text, json!({ "needed": needed, "available": available }))
}

fn ports(new: &Configuration, seen: &Seen) -> Check {
    let servers = new.services.values().filter(|service| service.http);
    let needed: u64 = servers.map(|service| u64::from(service.instances)).sum();
    let available = seen.ports_free;
    let verdict = if needed > available { Verdict::Fail } else { Verdict::Pass };
    let text =
        format!("ports: {needed} needed, one for each instance, {available} of the environment's are free");
    check("ports", verdict, text, json!({ "needed": needed, "available": available }))
}

/// A limit of each process, so that two deployments need no more of it than one.
fn open_files(new: &Configuration, seen: &Seen) -> Check {
    let limits = new.services.iter().filter_map(|(name, service)| Some((service.limits.open_files?, name)));
    let most = limits.max();
    let needed = most.map(|(limit, _)| limit);
    let (verdict, text) = match (most, seen.open_files) {
        (None, _) => (Verdict::Pass, "open files: no limit is asked for".to_owned()),
        (Some((limit, name)), None) => {
            (Verdict::Pass, format!("open files: {limit} needed by {name}, there is no limit"))
        }
        (Some((limit, name)), Some(hard)) => {
            let verdict = if limit > hard { Verdict::Fail } else { Verdict::Pass };
            (verdict, format!("open files: {limit} needed by {name}, {hard} available to a process"))
        }
    };
    check("open_files", verdict, text, json!({ "needed": needed, "available": seen.open_files }))
}

/// Deployments with other limits are not compared as equals, which people should know; it is no reason against.
fn limits(old: &Configuration, new: &Configuration) -> Check {
    let differ = differences(old, new);
    let (verdict, text) = match differences_text(&differ) {
        None => (Verdict::Pass, "limits: the same as those of the stamp that serves".to_owned()),
        Some(text) => (Verdict::Inconclusive, text),
    };
    check("limits", verdict, text, json!({ "differ": differ }))
}

/// What is said where limits differ, for the record of a release.
pub(crate) fn differences_text(differ: &[String]) -> Option<String> {
    (!differ.is_empty())
        .then(|| format!("limits differ: {}; the gate compares unequal deployments", differ.join(", ")))
}

/// The limits that are others than before, by name: of the components that are in both, and of requests.
pub(crate) fn differences(old: &Configuration, new: &Configuration) -> Vec<String> {
    let mut differ = Vec::new();
    let mut compare = |name: String, old: String, new: String| {
        if old != new {
            differ.push(format!("{name} {old} → {new}"));
        }
    };
    let bytes = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), size);
    let count = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    let both = new.services.iter().filter_map(|(name, new)| Some((name, old.services.get(name)?, new)));
    for (name, old, new) in both {
        let mut service = |key: &str, value: &dyn Fn(&Service) -> String| {
            compare(format!("{name}.{key}"), value(old), value(new));
        };
        service("memory", &|service| bytes(service.limits.memory));
        service("open_files", &|service| count(service.limits.open_files));
        service("instances", &|service| service.instances.to_string());
    }
    let (old, new) = (&old.gateway.limits, &new.gateway.limits);
    compare("gateway.in_flight".into(), old.in_flight.to_string(), new.in_flight.to_string());
    compare("gateway.body".into(), size(old.body), size(new.body));
    for (key, old, new) in [
        ("connect_timeout", old.connect_timeout, new.connect_timeout),
        ("first_byte_timeout", old.first_byte_timeout, new.first_byte_timeout),
        ("idle_timeout", old.idle_timeout, new.idle_timeout),
    ] {
        compare(format!("gateway.{key}"), format!("{old:?}"), format!("{new:?}"));
    }
    differ
}

fn check(name: &str, verdict: Verdict, text: String, numbers: serde_json::Value) -> Check {
    Check { check: name.into(), route: None, verdict, text, numbers }
}

/// Bytes for people: whole in the largest unit that divides them, unless that is a long number.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
    const LONG: u64 = 10_000;
    let whole = UNITS.into_iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    match whole.unwrap_or(("B", 0)) {
        (unit, bits) if bytes >> bits < LONG => format!("{} {unit}", bytes >> bits),
        _ => {
            let (unit, bits) = UNITS.into_iter().find(|(_, bits)| bytes >> bits > 0).unwrap_or(("B", 0));
            format!("{:.2} {unit}", bytes as f64 / (1_u64 << bits) as f64)
        }
    }
}

#[cfg(test)]
mod tests;
