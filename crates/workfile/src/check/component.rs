//! Components: which of the three kinds each one is, and what they need of each other.

use super::external::external;
use super::service::service;
use super::store::store;
use super::{Seen, name};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, Component, Name, StoreName, Table, UrlText};
use crate::shape::shorten;
use model::name::ComponentName;
use model::workload::{External, NeedsCycle, Service, Store, start_order};
use std::collections::BTreeMap;
use std::ops::Range;

/// The most components in one file. Their order is found recursively, and each is a group of processes.
const COMPONENTS_LIMIT: usize = 64;

/// All components, by kind. Those that something is wrong with may be missing; then there are findings.
#[derive(Default)]
pub(super) struct Components {
    pub(super) services: BTreeMap<ComponentName, Service>,
    pub(super) stores: BTreeMap<ComponentName, Store>,
    pub(super) externals: BTreeMap<ComponentName, External>,
}

/// What a component is, with the value that says so.
#[derive(Clone, Copy)]
pub(super) enum Kind<'r> {
    /// It has `run`.
    Service(&'r At<Vec<At<String>>>),
    /// It has `store`.
    Store(&'r At<StoreName>),
    /// It has `url`.
    StoreAt(&'r At<UrlText>),
    /// It has `external`.
    External(&'r At<UrlText>),
}

impl Kind<'_> {
    /// The key that says so.
    fn key(self) -> &'static str {
        match self {
            Self::Service(_) => "run",
            Self::Store(_) => "store",
            Self::StoreAt(_) => "url",
            Self::External(_) => "external",
        }
    }

    /// In a sentence.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Service(_) => "a service",
            Self::Store(_) | Self::StoreAt(_) => "a store",
            Self::External(_) => "an external",
        }
    }

    fn span(self) -> Range<usize> {
        match self {
            Self::Service(run) => run.span(),
            Self::Store(store) => store.span(),
            Self::StoreAt(url) | Self::External(url) => url.span(),
        }
    }
}

/// Every kind that the keys of a component say it is, in their order in the file: one when it is right.
pub(super) fn kinds(raw: &Component) -> Vec<Kind<'_>> {
    let kinds = [
        raw.run.as_ref().map(Kind::Service),
        raw.store.as_ref().map(Kind::Store),
        raw.url.as_ref().map(Kind::StoreAt),
        raw.external.as_ref().map(Kind::External),
    ];
    let mut kinds: Vec<_> = kinds.into_iter().flatten().collect();
    kinds.sort_by_key(|kind| kind.span().start);
    kinds
}

pub(super) fn components(
    all: &Table<Name, Component>,
    seen: &Seen<'_>,
    findings: &mut Findings,
) -> Components {
    let mut found = Components::default();
    if all.is_empty() {
        let help = "such as:\n[component.api]\nrun = [\"./server\", \"--port\", \"{port}\"]";
        findings
            .add(Wrong::at(0..0, "a workload has at least one component").label("there is none").help(help));
    }
    if all.len() > COMPONENTS_LIMIT {
        let place = all.keys().map(At::span).max_by_key(|span| span.start).unwrap_or_default();
        findings.add(Wrong::at(place, format!("{} components; at most {COMPONENTS_LIMIT}", all.len())));
        return found;
    }
    for (key, raw) in all {
        let name = name(key, ComponentName::new, findings);
        let Some(kind) = kind(key, raw, seen, findings) else { continue };
        keys_of_another_kind(key, raw, kind, findings);
        match kind {
            Kind::Service(run) => {
                let service = service(key, raw, run, all, findings);
                found.services.extend(name.map(|name| (name, service)));
            }
            Kind::Store(_) | Kind::StoreAt(_) => {
                let store = store(key, raw, kind, findings);
                found.stores.extend(name.zip(store));
            }
            Kind::External(url) => {
                let (stand_in, external) = external(key, raw, url, seen, findings);
                found.services.extend(name.clone().zip(stand_in));
                found.externals.extend(name.zip(external));
            }
        }
    }
    if let Err(NeedsCycle(cycle)) = start_order(&found.services) {
        findings.add(circle(&cycle, all));
    }
    addresses_collide(all, findings);
    found
}

/// None when it is none of the three, or several at once; then there is a finding.
fn kind<'r>(
    key: &At<Name>,
    raw: &'r Component,
    seen: &Seen<'_>,
    findings: &mut Findings,
) -> Option<Kind<'r>> {
    let component = shorten(key);
    match kinds(raw).as_slice() {
        [only] => Some(*only),
        [] => {
            let message =
                format!("component `{component}` is neither a service, nor a store, nor an external");
            let mut wrong = Wrong::at(key.span(), message).label("no `run`, `store`, `url` or `external`").help(
                "a service has `run`, such as run = [\"./server\", \"--port\", \"{port}\"]; a store has \
                 store = \"sqlite\", store = \"postgres\" or a `url`; an external has external = \"http://…\"",
            );
            if !seen.place.is_empty() {
                wrong = wrong.also(seen.place.clone(), format!("nor does `{}` say", shorten(seen.name)));
            }
            findings.add(wrong);
            None
        }
        [first, second, ..] => {
            let message = match first.noun() == second.noun() {
                true => format!("component `{component}` has `{}` and `{}`", first.key(), second.key()),
                false => format!(
                    "component `{component}` is both {} (`{}`) and {} (`{}`)",
                    first.noun(),
                    first.key(),
                    second.noun(),
                    second.key()
                ),
            };
            let help = match (first, second) {
                (Kind::Store(_) | Kind::StoreAt(_), Kind::Store(_) | Kind::StoreAt(_)) => {
                    "a store is made for the environment (`store`) or exists already (`url`); an environment that \
                     says one of them replaces the other"
                }
                (Kind::External(_), Kind::Service(_)) | (Kind::Service(_), Kind::External(_)) => {
                    "what stands in for an external goes into sandbox = { run = […] }"
                }
                (Kind::Service(_) | Kind::Store(_) | Kind::StoreAt(_) | Kind::External(_), _) => {
                    "make them components of their own"
                }
            };
            let wrong = Wrong::at(second.span(), message).label(format!("`{}`", second.key()));
            findings.add(wrong.also(first.span(), format!("`{}`", first.key())).help(help));
            None
        }
    }
}

/// Keys that mean nothing for what this component is.
fn keys_of_another_kind(key: &At<Name>, raw: &Component, kind: Kind<'_>, findings: &mut Findings) {
    let (service, store, external) = match kind {
        Kind::Service(_) => (true, false, false),
        Kind::Store(_) | Kind::StoreAt(_) => (false, true, false),
        Kind::External(_) => (false, false, true),
    };
    let keys = [
        ("http", service, "services", raw.http.as_ref().map(At::span)),
        ("instances", service, "services", raw.instances.as_ref().map(At::span)),
        ("needs", service, "services", raw.needs.as_ref().map(At::span)),
        ("ready", service, "services", raw.ready.as_ref().map(At::span)),
        ("live", service, "services", raw.live.as_ref().map(At::span)),
        ("limits", service, "services", raw.limits.as_ref().map(At::span)),
        ("drain_timeout", service, "services", raw.drain_timeout.as_ref().map(At::span)),
        ("artifact", service || store, "services and stores", raw.artifact.as_ref().map(At::span)),
        ("env", service || store, "services and stores", raw.env.as_ref().map(At::span)),
        ("expand", store, "stores", raw.expand.as_ref().map(At::span)),
        ("contract", store, "stores", raw.contract.as_ref().map(At::span)),
        ("hook_timeout", store, "stores", raw.hook_timeout.as_ref().map(At::span)),
        ("schema", store, "stores", raw.schema.as_ref().map(At::span)),
        ("sandbox", external, "externals", raw.sandbox.as_ref().map(At::span)),
    ];
    for (stray, fits, whose, span) in keys {
        let Some(span) = span.filter(|_| !fits) else { continue };
        let component = shorten(key);
        let message = format!("`{stray}` is for {whose}, and component `{component}` is {}", kind.noun());
        let wrong = Wrong::at(span, message).label(format!("not for {}", kind.noun()));
        findings.add(wrong.also(kind.span(), format!("`{}` makes it {}", kind.key(), kind.noun())));
    }
}

/// What a service needs: any component but a worker.
pub(super) fn needs(
    raw: &Component,
    all: &Table<Name, Component>,
    findings: &mut Findings,
) -> Vec<ComponentName> {
    let mut found = Vec::new();
    for need in raw.needs.iter().flat_map(|needs| needs.iter()) {
        let Some(needed) = all.get(need) else {
            let known = || all.keys().map(|name| &***name);
            let label = nearest(need, known());
            let label = label
                .map_or_else(|| "no such component".to_owned(), |near| format!("did you mean `{near}`?"));
            let message = format!("there is no component `{}`", shorten(need));
            let help = format!("the components are {}", list(known()));
            findings.add(Wrong::at(need.span(), message).label(label).help(help));
            continue;
        };
        if let Some(worker) = needed.http.as_ref().filter(|http| !***http) {
            let message = format!("nothing can need the worker `{}`", shorten(need));
            let wrong =
                Wrong::at(need.span(), message).label("a worker").also(worker.span(), "this makes it one");
            let help =
                "a worker runs in the active stamp only: what is made ready before that cannot wait for it";
            findings.add(wrong.help(help));
        } else if let Ok(need) = ComponentName::new(need)
            && !found.contains(&need)
        {
            found.push(need);
        }
    }
    found
}

fn circle(cycle: &[ComponentName], components: &Table<Name, Component>) -> Wrong {
    let links = cycle.windows(2).filter_map(|pair| {
        let (_, component) = components.iter().find(|(key, _)| &****key == pair[0].as_str())?;
        let mut needs = component.needs.iter().flat_map(|needs| needs.iter());
        let need = needs.find(|need| &****need == pair[1].as_str())?;
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

/// One variable cannot hold two addresses, nor an address and a value of the component's own. The hooks of a
/// store get its address as if they needed it.
fn addresses_collide(components: &Table<Name, Component>, findings: &mut Findings) {
    for (key, component) in components {
        let mut taken: BTreeMap<&str, (Option<&str>, Range<usize>)> = BTreeMap::new();
        for own in component.env.iter().flat_map(|env| env.keys()) {
            taken.insert(own, (None, own.span()));
        }
        let itself = (component.store.is_some() || component.url.is_some()).then_some(key);
        for need in component.needs.iter().flat_map(|needs| needs.iter()).chain(itself) {
            let Some((needed, address)) = components
                .get_key_value(need)
                .and_then(|(name, needed)| Some((name, needed.address_as.as_ref()?)))
            else {
                continue;
            };
            match taken.get(&***address) {
                Some((other, place)) if *other != Some(&***needed) => {
                    let other =
                        other.map_or_else(|| "its own `env`".to_owned(), |other| format!("`{other}`"));
                    let message = format!(
                        "component `{}` would get the variable `{}` twice: the address of `{}`, and from {other}",
                        &***key, &***address, &***needed
                    );
                    let wrong = Wrong::at(address.span(), message)
                        .label(format!("for those who need `{}`", &***needed));
                    findings.add(wrong.also(place.clone(), "given here too"));
                }
                Some(_) => {}
                None => drop(taken.insert(address, (Some(&***needed), address.span()))),
            }
        }
    }
}
