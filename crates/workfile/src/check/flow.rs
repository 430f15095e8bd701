//! Flows: their steps, what these keep for later ones, and how writes are looked up.

use super::template::{Known, field_value, json_path, path, template, text};
use super::time_allowed;
use crate::error::{Findings, Wrong};
use crate::raw::{self, At, Json, Name, PathText, Table, ValueName};
use crate::shape::shorten;
use crate::text::{DURATION_LIMIT, ShareError, parse_share};
use model::flow::{Expect, FLOW_VALUES, Flow, JsonPath, JsonTemplate, Ledger, Method, Objective, Step};
use model::template::Template;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// The names that mean something in `confirm`: it is asked after the run, when of an intent only its
/// reference is left.
const CONFIRM_VALUES: &[&str] = &["ref", "environment.name"];

/// None when a step is missing something; then there are findings.
pub(super) fn flow(name: &At<Name>, raw: &raw::Flow, findings: &mut Findings) -> Option<Flow> {
    if raw.step.is_empty() {
        let message = format!("flow `{}` has no step", shorten(name));
        let help = format!("such as:\n[[flow.{}.step]]\nget = \"/\"", shorten(name));
        findings.add(Wrong::at(name.span(), message).label("no step").help(help));
    }
    let steps: Vec<_> = (0..raw.step.len()).map(|index| step(&raw.step, index, findings)).collect();
    let ledger = raw.ledger.as_ref().map(|raw| ledger(raw, findings));
    Some(Flow {
        weight: raw.weight.unwrap_or(1),
        objective: objective(raw.objective.as_ref(), findings),
        ledger: match ledger {
            Some(ledger) => Some(ledger?),
            None => None,
        },
        production: raw.production.unwrap_or(false),
        steps: steps.into_iter().collect::<Option<_>>()?,
    })
}

fn objective(raw: Option<&raw::Objective>, findings: &mut Findings) -> Objective {
    let (errors, p99) = raw.map_or((None, None), |raw| given(raw, findings));
    Objective { errors: errors.unwrap_or(Objective::default().errors), p99 }
}

/// What an objective says, without what it leaves to the default.
pub(super) fn given(raw: &raw::Objective, findings: &mut Findings) -> (Option<f64>, Option<Duration>) {
    let errors = raw.errors.as_ref().and_then(|raw| share(raw, findings));
    let p99 = raw.p99.as_ref().map(|p99| time_allowed(Some(p99), DURATION_LIMIT, findings));
    (errors, p99)
}

/// A share from 0 to 1.
pub(super) fn share(raw: &At<raw::ShareText>, findings: &mut Findings) -> Option<f64> {
    let wrong = |error: ShareError| {
        let message = format!("\"{}\" is not a share", shorten(raw));
        Wrong::at(raw.span(), message).label("not a share").help(error.to_string())
    };
    parse_share(raw).map_err(|error| findings.add(wrong(error))).ok()
}

fn ledger(raw: &raw::Ledger, findings: &mut Findings) -> Option<Ledger> {
    let reference = template(&raw.reference, &Known::of(FLOW_VALUES), findings);
    let confirm = path(&raw.confirm.get, findings)
        .then(|| template(&raw.confirm.get, &Known::of(CONFIRM_VALUES), findings))
        .flatten();
    let count = json_path(&raw.confirm.count, findings);
    Some(Ledger { reference: reference?, confirm: confirm?, count: count? })
}

/// What steps before `index` saved can be used in it; what it and later ones save cannot yet.
fn known(steps: &[At<raw::Step>], index: usize) -> Known<'_> {
    let mut known = Known::of(FLOW_VALUES);
    let (before, after) = steps.split_at(index);
    for step in before {
        known.names.extend(step.save.keys().map(|name| &***name).filter(|name| !FLOW_VALUES.contains(name)));
    }
    known.later =
        after.iter().flat_map(|step| step.save.keys()).map(|name| (&***name, name.span())).collect();
    known
}

fn step(steps: &[At<raw::Step>], index: usize, findings: &mut Findings) -> Option<Step> {
    let raw = &steps[index];
    let known = known(steps, index);
    let request = method(raw, findings);
    let path = request
        .filter(|(_, target)| path(target, findings))
        .and_then(|(_, target)| template(target, &known, findings));
    let json = body(raw, request.map(|(method, _)| method), &known, findings);
    let headers = headers(raw, &known, findings);
    let save = save(&raw.save, findings);
    Some(Step {
        method: request?.0,
        path: path?,
        headers,
        json,
        expect: Expect { status: raw.expect.as_ref().and_then(|expect| expect.status) },
        save,
    })
}

fn method<'r>(raw: &'r At<raw::Step>, findings: &mut Findings) -> Option<(Method, &'r At<PathText>)> {
    let given = [
        (Method::Get, &raw.get),
        (Method::Head, &raw.head),
        (Method::Options, &raw.options),
        (Method::Post, &raw.post),
        (Method::Put, &raw.put),
        (Method::Patch, &raw.patch),
        (Method::Delete, &raw.delete),
    ];
    let mut given: Vec<_> =
        given.into_iter().filter_map(|(method, path)| Some((method, path.as_ref()?))).collect();
    given.sort_by_key(|(_, path)| path.span().start);
    match given.as_slice() {
        [only] => Some(*only),
        [] => {
            let help =
                "one of `get`, `head`, `options`, `post`, `put`, `patch` and `delete`, such as get = \"/\"";
            findings.add(Wrong::at(raw.span(), "a step without a request").label("no method").help(help));
            None
        }
        [first, second, ..] => {
            let message =
                format!("a step is one request, this one has {} and {}", first.0.as_str(), second.0.as_str());
            let wrong = Wrong::at(second.1.span(), message).label("a second request");
            findings.add(wrong.also(first.1.span(), "the first").help("make it a step of its own"));
            None
        }
    }
}

fn body(
    raw: &raw::Step,
    method: Option<Method>,
    known: &Known<'_>,
    findings: &mut Findings,
) -> Option<JsonTemplate> {
    let json = raw.json.as_ref()?;
    if let Some(method) = method.filter(|method| method.is_safe()) {
        let message = format!("{} has no body", method.as_str());
        let help = "`json` goes with `post`, `put`, `patch` and `delete`";
        findings.add(Wrong::at(json.span(), message).label("a body").help(help));
    }
    json_template(json, &|value, span, findings| text(value, span, known, findings), findings)
}

/// Reads the texts of a JSON value. None when one is wrong; then there is a finding.
pub(super) type Texts<'t> = dyn Fn(&str, Range<usize>, &mut Findings) -> Option<Template> + 't;

/// None when a text in it is wrong; then there is a finding. The depth was limited when the shape was checked.
pub(super) fn json_template(
    raw: &At<Json>,
    text: &Texts<'_>,
    findings: &mut Findings,
) -> Option<JsonTemplate> {
    Some(match &**raw {
        Json::Bool(value) => JsonTemplate::Bool(*value),
        Json::Integer(value) => JsonTemplate::Integer(*value),
        Json::Float(value) => JsonTemplate::Float(*value),
        Json::Text(value) => JsonTemplate::Text(text(value, raw.span(), findings)?),
        Json::List(items) => {
            let items: Vec<_> = items.iter().map(|item| json_template(item, text, findings)).collect();
            JsonTemplate::List(items.into_iter().collect::<Option<_>>()?)
        }
        Json::Table(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(key, value)| Some((key.clone(), json_template(value, text, findings)?)))
                .collect();
            JsonTemplate::Table(members.into_iter().collect::<Option<_>>()?)
        }
    })
}

fn headers(raw: &raw::Step, known: &Known<'_>, findings: &mut Findings) -> BTreeMap<String, Template> {
    let mut headers = BTreeMap::new();
    for (key, value) in &raw.headers {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if key.is_empty() || !key.bytes().all(token) {
            let message = format!("\"{}\" is not the name of a header", shorten(key));
            findings.add(Wrong::at(key.span(), message).label("not a header name"));
        }
        if field_value(value, findings)
            && let Some(value) = template(value, known, findings)
        {
            headers.insert(key.to_string(), value);
        }
    }
    headers
}

fn save(
    raw: &Table<ValueName, At<raw::JsonPathText>>,
    findings: &mut Findings,
) -> BTreeMap<String, JsonPath> {
    let mut save = BTreeMap::new();
    for (key, value) in raw {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let fits = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && key.bytes().all(inner);
        if FLOW_VALUES.contains(&&***key) {
            let message = format!("`{{{}}}` is built in and cannot be saved", &***key);
            findings.add(Wrong::at(key.span(), message).label("choose another name"));
        } else if !fits {
            let message = format!("\"{}\" is not the name of a value", shorten(key));
            let help = "letters, digits, dashes and underscores, beginning with a letter";
            findings.add(Wrong::at(key.span(), message).label("not a value name").help(help));
        }
        save.extend(json_path(value, findings).map(|path| (key.to_string(), path)));
    }
    save
}
