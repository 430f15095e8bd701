//! Services and workers, and the parts that stores and stand-ins have in common with them.

use super::away;
use super::component::needs;
use super::gateway::size;
use super::template::{Known, path, template};
use super::{duration, time_allowed};
use crate::error::{Findings, Wrong};
use crate::raw::{self, At, Component, DRAIN_TIMEOUT, MEMORY_LEAST, Name, READY_TIMEOUT, Table, Variable};
use crate::shape::shorten;
use model::template::Template;
use model::workload::{Limits, RUN_VALUES, Ready, Service};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(super) fn service(
    key: &At<Name>,
    raw: &Component,
    run: &At<Vec<At<String>>>,
    all: &Table<Name, Component>,
    findings: &mut Findings,
) -> Service {
    let worker = raw.http.as_ref().filter(|http| !***http);
    if let Some(worker) = worker {
        keys_that_need_a_port(key, raw, worker, findings);
    }
    let known = match worker {
        Some(_) => Known::without_port("a worker has no port"),
        None => Known::of(RUN_VALUES),
    };
    Service {
        run: command("run", run, &known, findings),
        http: worker.is_none(),
        artifact: artifact(raw.artifact.as_ref(), findings),
        instances: raw.instances.as_ref().map_or(1, |instances| **instances),
        needs: needs(raw, all, findings),
        address_as: address_as(raw, findings),
        env: env(raw.env.as_ref(), &known, findings),
        ready: ready(raw.ready.as_deref(), findings),
        live: raw.live.as_ref().and_then(|live| away::live(live, findings)),
        limits: limits(raw.limits.as_deref(), findings),
        drain_timeout: duration(raw.drain_timeout.as_ref(), DRAIN_TIMEOUT, findings),
    }
}

fn keys_that_need_a_port(key: &At<Name>, raw: &Component, worker: &At<bool>, findings: &mut Findings) {
    let keys = [
        (
            "ready",
            raw.ready.as_ref().map(At::span),
            "so nothing can be asked of it: it is ready when it runs",
        ),
        ("live", raw.live.as_ref().map(At::span), "so nothing can be asked of it"),
        ("as", raw.address_as.as_ref().map(At::span), "so it has no address that others could get"),
    ];
    for (name, span, why) in keys {
        let Some(span) = span else { continue };
        let message = format!("`{name}` is not for workers: component `{}` has no port, {why}", shorten(key));
        let wrong = Wrong::at(span, message).label("not for a worker");
        findings.add(wrong.also(worker.span(), "this makes it a worker"));
    }
}

/// Program and arguments, called `what`, which must name a program.
pub(super) fn command(
    what: &str,
    raw: &At<Vec<At<String>>>,
    known: &Known<'_>,
    findings: &mut Findings,
) -> Vec<Template> {
    let example = "such as [\"./server\", \"--port\", \"{port}\"]";
    if raw.is_empty() {
        findings.add(Wrong::at(raw.span(), format!("`{what}` is empty")).label("no program").help(example));
    }
    program_has_a_name(raw, example, findings);
    raw.iter().filter_map(|argument| template(argument, known, findings)).collect()
}

/// An empty text is no program, though a list with it is not empty.
pub(super) fn program_has_a_name(raw: &At<Vec<At<String>>>, example: &str, findings: &mut Findings) {
    if let Some(program) = raw.first().filter(|program| program.is_empty()) {
        findings.add(Wrong::at(program.span(), "the program's name is empty").help(example));
    }
}

pub(super) fn artifact(raw: Option<&At<String>>, findings: &mut Findings) -> PathBuf {
    let Some(artifact) = raw else { return PathBuf::from(".") };
    if artifact.is_empty() || artifact.contains('\0') {
        let help = "\".\" is the folder of the workload file";
        findings.add(Wrong::at(artifact.span(), "`artifact` is not a file or folder").help(help));
    }
    PathBuf::from(&**artifact)
}

pub(super) fn address_as(raw: &Component, findings: &mut Findings) -> Option<String> {
    let name = raw.address_as.as_ref().filter(|name| variable(name, findings))?;
    Some(name.to_string())
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

pub(super) fn env(
    raw: Option<&At<Table<Variable, At<String>>>>,
    known: &Known<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, Template> {
    let mut env = BTreeMap::new();
    for (key, value) in raw.into_iter().flat_map(|env| env.iter()) {
        let fits = variable(key, findings);
        if value.starts_with("secret:") {
            let message = format!("\"{}\": secrets are not part of this version", shorten(value));
            let help = "let the service read it from a file, and give the path of the file here";
            findings.add(Wrong::at(value.span(), message).label("a secret").help(help));
        } else if let Some(value) = template(value, known, findings)
            && fits
        {
            env.insert(key.to_string(), value);
        }
    }
    env
}

pub(super) fn ready(raw: Option<&raw::Ready>, findings: &mut Findings) -> Ready {
    let get = raw.and_then(|ready| ready.get.as_ref()).filter(|get| path(get, findings));
    let timeout = raw.and_then(|ready| ready.timeout.as_ref());
    Ready { get: get.map(|get| get.to_string()), timeout: time_allowed(timeout, READY_TIMEOUT, findings) }
}

pub(super) fn limits(raw: Option<&raw::Limits>, findings: &mut Findings) -> Limits {
    let memory = raw.and_then(|raw| raw.memory.as_ref()).map(|memory| {
        let bytes = size(Some(memory), MEMORY_LEAST, findings);
        if bytes < MEMORY_LEAST {
            let message = format!("\"{}\" is too little memory for any process", shorten(memory));
            findings.add(Wrong::at(memory.span(), message).label("at least 1MiB"));
        }
        bytes
    });
    Limits { open_files: raw.and_then(|raw| raw.open_files), memory }
}
