//! Components, and what they need of each other.

use super::template::{Known, path, template};
use super::{duration, name, time_allowed};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, Component, DRAIN_TIMEOUT, Name, READY_TIMEOUT, Table, Variable};
use crate::shape::shorten;
use model::name::ComponentName;
use model::template::Template;
use model::workload::{Limits, NeedsCycle, RUN_VALUES, Ready, Service, start_order};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The most components in one file. Their order is found recursively, and each is a group of processes.
const COMPONENTS_LIMIT: usize = 64;

/// All services. Those that something is wrong with may be missing; then there are findings.
pub(super) fn services(
    components: &Table<Name, Component>,
    findings: &mut Findings,
) -> BTreeMap<ComponentName, Service> {
    let mut services = BTreeMap::new();
    if components.is_empty() {
        let help = "such as:\n[component.api]\nrun = [\"./server\", \"--port\", \"{port}\"]";
        findings
            .add(Wrong::at(0..0, "a workload has at least one component").label("there is none").help(help));
    }
    if components.len() > COMPONENTS_LIMIT {
        let place = components.keys().map(At::span).max_by_key(|span| span.start).unwrap_or_default();
        findings
            .add(Wrong::at(place, format!("{} components; at most {COMPONENTS_LIMIT}", components.len())));
        return services;
    }
    for (key, raw) in components {
        let name = name(key, ComponentName::new, findings);
        let service = service(key, raw, components, findings);
        services.extend(name.map(|name| (name, service)));
    }
    if let Err(NeedsCycle(cycle)) = start_order(&services) {
        findings.add(circle(&cycle, components));
    }
    addresses_collide(components, findings);
    services
}

fn service(
    key: &At<Name>,
    raw: &Component,
    all: &Table<Name, Component>,
    findings: &mut Findings,
) -> Service {
    let ready = raw.ready.as_ref();
    let get = ready.and_then(|ready| ready.get.as_ref()).filter(|get| path(get, findings));
    let ready_timeout = ready.and_then(|ready| ready.timeout.as_ref());
    Service {
        run: run(key, raw, findings),
        artifact: artifact(raw, findings),
        instances: raw.instances.unwrap_or(1),
        needs: needs(raw, all, findings),
        address_as: raw
            .address_as
            .as_ref()
            .filter(|name| variable(name, findings))
            .map(|name| name.to_string()),
        env: env(raw, findings),
        ready: Ready {
            get: get.map(|get| get.to_string()),
            timeout: time_allowed(ready_timeout, READY_TIMEOUT, findings),
        },
        limits: Limits { open_files: raw.limits.as_ref().and_then(|limits| limits.open_files) },
        drain_timeout: duration(raw.drain_timeout.as_ref(), DRAIN_TIMEOUT, findings),
    }
}

fn run(key: &At<Name>, raw: &Component, findings: &mut Findings) -> Vec<Template> {
    let Some(run) = &raw.run else {
        findings.add(Wrong::at(key.span(), format!("component `{}` has no `run`", &***key)));
        return Vec::new();
    };
    let example = "such as [\"./server\", \"--port\", \"{port}\"]";
    match run.first() {
        None => findings.add(Wrong::at(run.span(), "`run` is empty").label("no program").help(example)),
        Some(program) if program.is_empty() => {
            findings.add(Wrong::at(program.span(), "the program's name is empty").help(example));
        }
        Some(_) => {}
    }
    let known = Known::of(RUN_VALUES);
    run.iter().filter_map(|argument| template(argument, &known, findings)).collect()
}

fn artifact(raw: &Component, findings: &mut Findings) -> PathBuf {
    let Some(artifact) = &raw.artifact else { return PathBuf::from(".") };
    if artifact.is_empty() || artifact.contains('\0') {
        let help = "\".\" is the folder of the workload file";
        findings.add(Wrong::at(artifact.span(), "`artifact` is not a file or folder").help(help));
    }
    PathBuf::from(&**artifact)
}

fn needs(raw: &Component, all: &Table<Name, Component>, findings: &mut Findings) -> Vec<ComponentName> {
    let mut found = Vec::new();
    for need in raw.needs.iter().flatten() {
        if !all.contains_key(need) {
            let known = || all.keys().map(|name| &***name);
            let label = nearest(need, known());
            let label = label
                .map_or_else(|| "no such component".to_owned(), |near| format!("did you mean `{near}`?"));
            let message = format!("there is no component `{}`", shorten(need));
            findings.add(
                Wrong::at(need.span(), message)
                    .label(label)
                    .help(format!("the components are {}", list(known()))),
            );
        } else if let Ok(need) = ComponentName::new(need)
            && !found.contains(&need)
        {
            found.push(need);
        }
    }
    found
}

fn variable(raw: &At<Variable>, findings: &mut Findings) -> bool {
    let first = raw.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = first && raw.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !fits {
        let message = format!("\"{}\" is not the name of a variable", shorten(raw));
        let help = "letters, digits and underscores, not beginning with a digit";
        findings.add(Wrong::at(raw.span(), message).label("not a variable name").help(help));
    }
    fits
}

fn env(raw: &Component, findings: &mut Findings) -> BTreeMap<String, Template> {
    let known = Known::of(RUN_VALUES);
    let mut env = BTreeMap::new();
    for (key, value) in &raw.env {
        let fits = variable(key, findings);
        if value.starts_with("secret:") {
            let message = format!("\"{}\": secrets are not part of this version", shorten(value));
            let help = "let the service read it from a file, and give the path of the file here";
            findings.add(Wrong::at(value.span(), message).label("a secret").help(help));
        } else if let Some(value) = template(value, &known, findings)
            && fits
        {
            env.insert(key.to_string(), value);
        }
    }
    env
}

fn circle(cycle: &[ComponentName], components: &Table<Name, Component>) -> Wrong {
    let links = cycle.windows(2).filter_map(|pair| {
        let (_, component) = components.iter().find(|(key, _)| &****key == pair[0].as_str())?;
        let need = component.needs.iter().flatten().find(|need| &****need == pair[1].as_str())?;
        Some((need.span(), format!("`{}` needs `{}`", pair[0], pair[1])))
    });
    let mut links: Vec<_> = links.collect();
    let (span, label) = links.pop().unwrap_or_default();
    let message = NeedsCycle(cycle.to_vec()).to_string();
    let wrong = Wrong::at(span, message)
        .label(label)
        .help("none of them could start first: take one of the needs away");
    links.into_iter().fold(wrong, |wrong, (span, label)| wrong.also(span, label))
}

/// One variable cannot hold two addresses, nor an address and a value of the component's own.
fn addresses_collide(components: &Table<Name, Component>, findings: &mut Findings) {
    for (key, component) in components {
        let mut taken: BTreeMap<&str, (&str, std::ops::Range<usize>)> = BTreeMap::new();
        for own in component.env.keys() {
            taken.insert(own, ("its own `env`", own.span()));
        }
        for need in component.needs.iter().flatten() {
            let Some((needed, address)) = components
                .get_key_value(need)
                .and_then(|(name, needed)| Some((name, needed.address_as.as_ref()?)))
            else {
                continue;
            };
            match taken.get(&***address) {
                Some((other, place)) if *other != &***needed => {
                    let message = format!(
                        "component `{}` would get the variable `{}` twice: the address of `{}`, and from {other}",
                        &***key, &***address, &***needed
                    );
                    let wrong = Wrong::at(address.span(), message)
                        .label(format!("for those who need `{}`", &***needed));
                    findings.add(wrong.also(place.clone(), "given here too"));
                }
                Some(_) => {}
                None => drop(taken.insert(address, (&***needed, address.span()))),
            }
        }
    }
}
