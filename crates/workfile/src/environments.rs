//! What each environment sees: the file with the environment's overlay merged in, still as typed and with
//! every value at the place it was written.

use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, Environment, File, Name, Table};
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most environments in one file; the file is checked once for each.
pub(crate) const ENVIRONMENTS_LIMIT: usize = 64;

/// The environment of a file that names none.
const LOCAL: &str = "local";

/// The file as one environment sees it: it names only this environment, `like` is resolved, and its overlay
/// is part of the file's own tables.
pub(crate) struct Seen<'t> {
    pub(crate) environment: String,
    /// Where the environment is named.
    pub(crate) place: Range<usize>,
    pub(crate) tree: DeTable<'t>,
}

/// One [`Seen`] for each environment that can be resolved; the findings tell of the others.
pub(crate) fn resolve<'t>(file: &File, tree: &DeTable<'t>, findings: &mut Findings) -> Vec<Seen<'t>> {
    if file.environment.is_empty() {
        return vec![local(tree)];
    }
    if file.environment.len() > ENVIRONMENTS_LIMIT {
        let place = file.environment.keys().map(At::span).max_by_key(|span| span.start).unwrap_or_default();
        let message = format!("{} environments; at most {ENVIRONMENTS_LIMIT}", file.environment.len());
        findings.add(Wrong::at(place, message));
        return Vec::new();
    }
    overlays_of_unknown_components(file, findings);
    let mut seen = Vec::new();
    for name in file.environment.keys() {
        if let Some(chain) = chain(name, &file.environment, findings) {
            let tree = merged(&chain, tree);
            seen.push(Seen { environment: name.to_string(), place: name.span(), tree });
        }
    }
    seen
}

fn local<'t>(tree: &DeTable<'t>) -> Seen<'t> {
    let text = |text: &'static str| Spanned::new(0..0, DeValue::String(text.into()));
    let table = |key: &'static str, value| {
        let mut table = DeTable::new();
        table.insert(Spanned::new(0..0, key.into()), value);
        Spanned::new(0..0, DeValue::Table(table))
    };
    let mut tree = tree.clone();
    let environment = table(LOCAL, table("class", text("development")));
    tree.insert(Spanned::new(0..0, "environment".into()), environment);
    Seen { environment: LOCAL.to_owned(), place: 0..0, tree }
}

fn overlays_of_unknown_components(file: &File, findings: &mut Findings) {
    let known = || file.component.keys().map(|name| &***name);
    for (environment, settings) in &file.environment {
        for name in settings.component.keys().filter(|name| !file.component.contains_key(*name)) {
            let label = nearest(name, known());
            let label = label
                .map_or_else(|| "no such component".to_owned(), |near| format!("did you mean `{near}`?"));
            let message =
                format!("environment `{}` overrides `{}`, which is no component", &***environment, &***name);
            let help = format!("the components are {}", list(known()));
            findings.add(Wrong::at(name.span(), message).label(label).help(help));
        }
    }
}

/// The environment and all it is like, itself last. None when there is no end to it or a name is unknown.
fn chain<'f>(
    start: &'f At<Name>,
    environments: &'f Table<Name, Environment>,
    findings: &mut Findings,
) -> Option<Vec<&'f str>> {
    let mut chain = vec![&***start];
    let mut visited = BTreeSet::from([&***start]);
    let mut settings = environments.get(start)?;
    let mut links = Vec::new();
    while let Some(like) = &settings.like {
        let Some(next) = environments.get(like) else {
            let known = || environments.keys().map(|name| &***name);
            let label = nearest(like, known());
            let label = label
                .map_or_else(|| "no such environment".to_owned(), |near| format!("did you mean `{near}`?"));
            let message = format!("there is no environment `{}`", &***like);
            let help = format!("the environments are {}", list(known()));
            findings.add(Wrong::at(like.span(), message).label(label).help(help));
            return None;
        };
        links.push((chain[0], like));
        if !visited.insert(like) {
            // Told once, by the environment whose name comes first in the circle.
            if ***like == ***start && visited.iter().all(|name| *name >= &***start) {
                findings.add(circle(&links));
            }
            return None;
        }
        chain.insert(0, like);
        settings = next;
    }
    Some(chain)
}

fn circle(links: &[(&str, &At<Name>)]) -> Wrong {
    let mut names: Vec<&str> = links.iter().map(|(name, _)| *name).collect();
    names.extend(names.first().copied());
    let (name, like) = links.last().expect("a circle has a link");
    let message = format!("environments are like each other in a circle: {}", names.join(" → "));
    let wrong = Wrong::at(like.span(), message).label(format!("`{name}` is like `{}`", &****like));
    let earlier = links.iter().rev().skip(1);
    earlier
        .fold(wrong, |wrong, (name, like)| {
            wrong.also(like.span(), format!("`{name}` is like `{}`", &****like))
        })
        .help("take `like` from one of them and give it a `class`")
}

/// The file with the environments of `chain`, the last one counting most, merged in.
fn merged<'t>(chain: &[&str], tree: &DeTable<'t>) -> DeTable<'t> {
    let mut file = tree.clone();
    let Some((key, environments)) = file.remove_entry("environment") else { return file };
    let Some(environments) = as_table(environments) else { return file };
    let Some((own, ancestors)) = chain.split_last() else { return file };
    let mut environment = DeTable::new();
    for ancestor in ancestors {
        let Some(mut table) = environments.get(*ancestor).cloned().and_then(as_table) else { continue };
        table.remove("listen");
        overlay(&mut environment, table);
    }
    let Some((own_key, own_value)) = environments.get_key_value(*own) else { return file };
    let place = own_value.span();
    overlay(&mut environment, as_table(own_value.clone()).unwrap_or_default());
    // What the overlay overrides becomes part of the file's own tables.
    for section in ["component", "gateway", "route", "release", "notify"] {
        if let Some((key, mut over)) = environment.remove_entry(section) {
            if let (DeValue::Table(components), "component") = (over.get_mut(), section) {
                // An overlay of nothing is told of once and must not become a component here.
                let known = file.get(section).and_then(|known| known.get_ref().as_table());
                let unknown = |name: &&str| known.is_none_or(|known| !known.contains_key(*name));
                let names: Vec<_> = components.keys().map(|name| name.get_ref().as_ref()).collect();
                let unknown: Vec<_> = names.into_iter().filter(unknown).map(str::to_owned).collect();
                unknown.iter().for_each(|name| drop(components.remove(name.as_str())));
            }
            let mut wrapped = DeTable::new();
            wrapped.insert(key, over);
            overlay(&mut file, wrapped);
        }
    }
    let mut only = DeTable::new();
    only.insert(own_key.clone(), Spanned::new(place.clone(), DeValue::Table(environment)));
    file.insert(key, Spanned::new(place, DeValue::Table(only)));
    file
}

/// Merges what an environment says. `store` and `url` are two ways to say one thing, so one replaces the other:
/// else an environment could never have a store of its own where the one it is like has a `url`.
fn overlay<'t>(base: &mut DeTable<'t>, over: DeTable<'t>) {
    let components = over.get("component").and_then(|components| components.get_ref().as_table());
    for (name, component) in components.into_iter().flat_map(|components| components.iter()) {
        let says = |key| component.get_ref().as_table().is_some_and(|component| component.contains_key(key));
        let Some(below) = inner(base, "component").and_then(|below| inner(below, name.get_ref())) else {
            continue;
        };
        for (one, other) in [("store", "url"), ("url", "store")] {
            if says(one) && !says(other) {
                below.remove(other);
            }
        }
    }
    merge(base, over);
}

/// The table behind a key.
fn inner<'a, 't>(table: &'a mut DeTable<'t>, key: &str) -> Option<&'a mut DeTable<'t>> {
    match table.get_mut(key)?.get_mut() {
        DeValue::Table(table) => Some(table),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => None,
    }
}

/// The one rule: tables merge, anything else replaces. Keys keep the place of what counts.
fn merge<'t>(base: &mut DeTable<'t>, overlay: DeTable<'t>) {
    for (key, over) in overlay {
        let name = key.get_ref().clone();
        let Some((base_key, mut below)) = base.remove_entry(name.as_ref()) else {
            base.insert(key, over);
            continue;
        };
        let place = over.span();
        match (below.get_mut(), over.into_inner()) {
            (DeValue::Table(table), DeValue::Table(over)) => {
                merge(table, over);
                base.insert(base_key, below);
            }
            (_, over) => drop(base.insert(key, Spanned::new(place, over))),
        }
    }
}

fn as_table<'t>(value: Spanned<DeValue<'t>>) -> Option<DeTable<'t>> {
    match value.into_inner() {
        DeValue::Table(table) => Some(table),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_) => None,
    }
}
