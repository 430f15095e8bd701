//! Sagas: their steps, what each may read of the steps before it, and whose answer the client gets.

use super::call::{Fillings, probe, target};
use super::flow::json_template;
use super::{name, time_allowed};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{self, At, CallText, Component, File, Json, Name, Table};
use crate::shape::shorten;
use model::flow::{JsonTemplate, Method};
use model::name::SagaName;
use model::queue::{CALL_VALUES, QueuedRoute, SAGA_STEPS_LIMIT, Saga, SagaCall, SagaStep};
use model::workload::Route;
use std::collections::BTreeMap;
use std::ops::Range;

/// The sagas of a file whose routes are `routes`. Those that something is wrong with may be missing; then there are
/// findings.
pub(super) fn sagas(file: &File, routes: &[Route], findings: &mut Findings) -> BTreeMap<SagaName, Saga> {
    let mut sagas = BTreeMap::new();
    for (key, raw) in &file.saga {
        let Some(name) = name(key, SagaName::new, findings) else { continue };
        let idempotent = idempotent(&name, routes);
        let saga = saga(key, raw, &file.component, idempotent, findings);
        sagas.extend(saga.map(|saga| (name, saga)));
    }
    sagas
}

/// Whether what a saga calls honours keys, where its steps do not say: what all the routes that use it say.
fn idempotent(name: &SagaName, routes: &[Route]) -> bool {
    let queued = routes.iter().filter_map(|route| route.queue.as_ref());
    let mut using = queued.filter(|queued: &&QueuedRoute| queued.saga.as_ref() == Some(name)).peekable();
    using.peek().is_some() && using.all(|queued| queued.idempotent)
}

fn saga(
    key: &At<Name>,
    raw: &raw::Saga,
    components: &Table<Name, Component>,
    idempotent: bool,
    findings: &mut Findings,
) -> Option<Saga> {
    let Some(last) = raw.step.last() else {
        let message = format!("saga `{}` has no step", shorten(key));
        let help = format!(
            "such as:\n[[saga.{}.step]]\nname = \"charge\"\npost = \"payments:/charges\"",
            shorten(key)
        );
        findings.add(Wrong::at(key.span(), message).label("no step").help(help));
        return None;
    };
    if raw.step.len() > SAGA_STEPS_LIMIT {
        let message = format!("{} steps; at most {SAGA_STEPS_LIMIT}", raw.step.len());
        findings.add(Wrong::at(key.span(), message).label("of this saga"));
        return None;
    }
    names_collide(&raw.step, findings);
    let steps: Vec<_> =
        (0..raw.step.len()).map(|at| step(&raw.step, at, components, idempotent, findings)).collect();
    let answer = match &raw.answer {
        Some(answer) => answering(answer, &raw.step, findings)?,
        None => last.name.to_string(),
    };
    Some(Saga { answer, steps: steps.into_iter().collect::<Option<_>>()? })
}

/// A step is read by its name, so that no two may share one, and none may be called as what is read otherwise.
fn names_collide(steps: &[At<raw::SagaStep>], findings: &mut Findings) {
    let mut taken: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    for step in steps {
        if CALL_VALUES.contains(&&**step.name) {
            let message = format!("a step cannot be called `{}`", &**step.name);
            let help = "`{body:…}` is the client's request and `{key}` the key that a call is sent with";
            findings.add(Wrong::at(step.name.span(), message).label("choose another name").help(help));
        }
        match taken.get(&**step.name) {
            Some(first) => {
                let message = format!("two steps are called `{}`", shorten(&step.name));
                let wrong = Wrong::at(step.name.span(), message).label("the second");
                findings.add(wrong.also(first.clone(), "the first"));
            }
            None => drop(taken.insert(&step.name, step.name.span())),
        }
    }
}

/// The step whose answer the client gets.
fn answering(raw: &At<Name>, steps: &[At<raw::SagaStep>], findings: &mut Findings) -> Option<String> {
    let names = || steps.iter().map(|step| &**step.name);
    if names().any(|name| *name == ***raw) {
        return Some(raw.to_string());
    }
    let label = nearest(raw, names());
    let label = label.map_or_else(|| "no such step".to_owned(), |near| format!("did you mean `{near}`?"));
    let message = format!("the saga has no step `{}`", shorten(raw));
    let help = format!("its steps are {}", list(names()));
    findings.add(Wrong::at(raw.span(), message).label(label).help(help));
    None
}

fn step(
    steps: &[At<raw::SagaStep>],
    at: usize,
    components: &Table<Name, Component>,
    idempotent: bool,
    findings: &mut Findings,
) -> Option<SagaStep> {
    let raw = &steps[at];
    let step_name = name(&raw.name, |text| SagaName::new(text).map(|_| text.to_owned()), findings);
    let methods = [
        (Method::Post, raw.post.as_ref()),
        (Method::Put, raw.put.as_ref()),
        (Method::Patch, raw.patch.as_ref()),
        (Method::Delete, raw.delete.as_ref()),
    ];
    let request = Request { span: raw.span(), methods, json: raw.json.as_ref() };
    let before = fillings(steps, at);
    let call = call("a step", &request, &before, components, findings);
    let undo = raw.undo.as_ref().map(|raw| undo(raw, steps, at, components, findings));
    let probe = raw.probe.as_ref().and_then(|path| probe(path, findings));
    let default = QueuedRoute::default();
    let timeout = time_allowed(raw.timeout.as_ref(), default.attempt_timeout, findings);
    Some(SagaStep {
        name: step_name?,
        call: call?,
        undo: match undo {
            Some(undo) => Some(undo?),
            None => None,
        },
        attempts: raw.attempts.unwrap_or(default.attempts),
        idempotent: raw.idempotent.unwrap_or(idempotent),
        probe,
        timeout,
    })
}

/// What undoes a step can read its answer too: without one there is nothing to undo.
fn undo(
    raw: &At<raw::Undo>,
    steps: &[At<raw::SagaStep>],
    at: usize,
    components: &Table<Name, Component>,
    findings: &mut Findings,
) -> Option<SagaCall> {
    let methods = [
        (Method::Post, raw.post.as_ref()),
        (Method::Put, raw.put.as_ref()),
        (Method::Patch, raw.patch.as_ref()),
        (Method::Delete, raw.delete.as_ref()),
    ];
    let request = Request { span: raw.span(), methods, json: raw.json.as_ref() };
    call("an undo", &request, &fillings(steps, at + 1), components, findings)
}

/// What can be read when the first `answered` steps are answered.
fn fillings(steps: &[At<raw::SagaStep>], answered: usize) -> Fillings<'_> {
    let (before, after) = steps.split_at(answered);
    Fillings {
        answered: before.iter().map(|step| &**step.name).collect(),
        later: after.iter().map(|step| (&**step.name, step.name.span())).collect(),
    }
}

/// A call as typed.
struct Request<'r> {
    span: Range<usize>,
    methods: [(Method, Option<&'r At<CallText>>); 4],
    json: Option<&'r At<Json>>,
}

fn call(
    what: &str,
    raw: &Request<'_>,
    fillings: &Fillings<'_>,
    components: &Table<Name, Component>,
    findings: &mut Findings,
) -> Option<SagaCall> {
    let json: Option<Option<JsonTemplate>> = raw.json.map(|json| {
        json_template(json, &|text, span, findings| fillings.text(text, span, findings), findings)
    });
    let mut given: Vec<_> =
        raw.methods.iter().filter_map(|(method, call)| Some((*method, (*call)?))).collect();
    given.sort_by_key(|(_, call)| call.span().start);
    let (method, target_text) = match given.as_slice() {
        [only] => *only,
        [] => {
            let help = "one of `post`, `put`, `patch` and `delete`, such as post = \"payments:/charges\"";
            let wrong = Wrong::at(raw.span.clone(), format!("{what} without a call"));
            findings.add(wrong.label("no method").help(help));
            return None;
        }
        [first, second, ..] => {
            let message =
                format!("{what} is one call, this one has {} and {}", first.0.as_str(), second.0.as_str());
            let wrong = Wrong::at(second.1.span(), message).label("a second call");
            findings.add(wrong.also(first.1.span(), "the first").help("make it a step of its own"));
            return None;
        }
    };
    let (to, path) = target(target_text, components, fillings, findings)?;
    let json = match json {
        Some(json) => Some(json?),
        None => None,
    };
    Some(SagaCall { method, to, path, json })
}
