//! Routes: those the file lists, and those the steps of its flows give.

use super::away;
use super::flow::given;
use super::{name, queue};
use crate::error::{Findings, Wrong};
use crate::near::nearest;
use crate::raw::{At, File, RouteText};
use crate::shape::shorten;
use model::away::PreviousStamp;
use model::flow::{Flow, Method, Objective, Step};
use model::name::FlowName;
use model::queue::QueuedRoute;
use model::workload::{ROUTES_LIMIT, Route};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

const METHODS: [Method; 7] =
    [Method::Get, Method::Head, Method::Options, Method::Post, Method::Put, Method::Patch, Method::Delete];

/// What an objective says, without what it leaves to the default.
#[derive(Clone, Copy, Default)]
struct Asked {
    errors: Option<f64>,
    p99: Option<Duration>,
}

impl Asked {
    /// The strictest of both.
    fn and(self, other: Self) -> Self {
        let errors = match (self.errors, other.errors) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let p99 = match (self.p99, other.p99) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self { errors, p99 }
    }

    fn objective(self) -> Option<Objective> {
        (self.errors.is_some() || self.p99.is_some())
            .then(|| Objective { errors: self.errors.unwrap_or(Objective::default().errors), p99: self.p99 })
    }
}

/// A route on its way, with what the flows ask of it.
struct Draft {
    method: Method,
    path: String,
    own: Option<Objective>,
    flows: Asked,
    previous_stamp: Option<PreviousStamp>,
    queue: Option<QueuedRoute>,
}

/// All routes, by name and each once. A step whose request a listed route fits is that route, so that none is
/// drawn away from what the file says of it; any other step is a route of its own.
pub(super) fn routes(file: &File, flows: &BTreeMap<FlowName, Flow>, findings: &mut Findings) -> Vec<Route> {
    let mut drafts = Vec::new();
    for (key, raw) in &file.route {
        let own = raw.objective.as_ref().and_then(|raw| {
            let (errors, p99) = given(raw, findings);
            Asked { errors, p99 }.objective()
        });
        let Some((method, path)) = pattern(key, findings) else { continue };
        let previous_stamp = raw.previous_stamp.as_ref();
        let previous_stamp = previous_stamp.and_then(|raw| away::previous_stamp(key, method, raw, findings));
        let queue = queue::queued(key, method, raw, &file.saga, findings);
        let flows = Asked::default();
        drafts.push(Draft { method, path: path.to_owned(), own, flows, previous_stamp, queue });
    }
    let listed = drafts.len();
    for (key, raw) in &file.flow {
        let Some(flow) = name(key, FlowName::new, findings).and_then(|name| flows.get(&name)) else {
            continue;
        };
        let asked = raw.objective.as_ref().map_or_else(Asked::default, |raw| {
            let (errors, p99) = given(raw, findings);
            Asked { errors, p99 }
        });
        for step in &flow.steps {
            take(&mut drafts, listed, step, asked);
        }
    }
    if drafts.len() > ROUTES_LIMIT {
        let places = file.route.keys().map(At::span).chain(file.flow.keys().map(At::span));
        let place = places.max_by_key(|span| span.start).unwrap_or_default();
        let message = format!(
            "{} routes, {listed} listed and the rest from flows; at most {ROUTES_LIMIT}",
            drafts.len()
        );
        findings.add(Wrong::at(place, message).help("let one with `*` or `**` stand for many"));
    }
    let routes = drafts.into_iter().map(|draft| Route {
        method: draft.method,
        path: draft.path,
        objective: draft.own.or_else(|| draft.flows.objective()),
        queue: draft.queue,
        previous_stamp: draft.previous_stamp,
    });
    let routes: BTreeMap<_, _> = routes.map(|route| (route.name(), route)).collect();
    routes.into_values().collect()
}

/// Counts a step to the route it is: the first `listed` drafts are those of the file.
fn take(drafts: &mut Vec<Draft>, listed: usize, step: &Step, asked: Asked) {
    let Some(path) = path_of(step) else { return };
    let (file, flows) = drafts.split_at_mut(listed);
    let fits = |draft: &&mut Draft| draft.method == step.method && fits(&draft.path, &path);
    let chosen = file.iter_mut().filter(fits).min_by(|a, b| narrower(&a.path, &b.path));
    let known = flows.iter_mut().find(|draft| draft.method == step.method && draft.path == path);
    match chosen.or(known) {
        Some(draft) => draft.flows = draft.flows.and(asked),
        None => drafts.push(Draft {
            method: step.method,
            path,
            own: None,
            flows: asked,
            previous_stamp: None,
            queue: None,
        }),
    }
}

/// The pattern of a step's path: the query is cut, and a segment with something filled in is `*`. So is one that
/// could be read as a pattern of its own.
fn path_of(step: &Step) -> Option<String> {
    // No path holds NUL, so it can mark what is filled in.
    let path = step.path.render(|_| Some(Cow::Borrowed("\0"))).ok()?;
    let path = path.split('?').next().unwrap_or_default();
    let open = |segment: &&str| segment.contains(['\0', '*', '{', '}']);
    let segments = path.split('/').map(|segment| if open(&segment) { "*" } else { segment });
    Some(segments.collect::<Vec<_>>().join("/"))
}

/// Whether every request that fits the pattern `path` fits `pattern` too: `*` is any segment that is not empty,
/// `**` any rest, also none.
fn fits(pattern: &str, path: &str) -> bool {
    let mut path = path.split('/');
    for segment in pattern.split('/') {
        match (segment, path.next()) {
            ("**", _) => return true,
            ("*", Some(other)) if !other.is_empty() => {}
            (text, Some(other)) if text == other => {}
            (_, _) => return false,
        }
    }
    path.next().is_none()
}

/// Which of two patterns goes first where both fit: text before `*` before `**`, from the left.
fn narrower(one: &str, other: &str) -> Ordering {
    let rank = |segment| match segment {
        "**" => 2,
        "*" => 1,
        _ => 0,
    };
    one.split('/').map(rank).cmp(other.split('/').map(rank))
}

/// Method and path of a listed route.
fn pattern<'k>(key: &'k At<RouteText>, findings: &mut Findings) -> Option<(Method, &'k str)> {
    let example = "such as [route.\"GET /api/products/*\"]";
    let mut refuse = |message: String, label: &str, help: &str| {
        findings.add(Wrong::at(key.span(), message).label(label).help(help));
        None
    };
    let Some((method, path)) = key.split_once(' ') else {
        let message = format!("\"{}\" is not a method and a path", shorten(key));
        return refuse(message, "not a method and a path", example);
    };
    let Some(found) = METHODS.into_iter().find(|known| known.as_str() == method) else {
        let names = METHODS.map(Method::as_str);
        let upper = method.to_ascii_uppercase();
        let near = names.into_iter().find(|name| *name == upper).or_else(|| nearest(&upper, names));
        let label = near.map_or_else(|| "not a method".to_owned(), |near| format!("did you mean {near}?"));
        let message = format!("\"{}\" is not a method that a route can have", shorten(method));
        return refuse(message, &label, &format!("it is one of {}", names.join(", ")));
    };
    if !path.starts_with('/') {
        let message = format!("the path of a route begins with `/`, \"{}\" does not", shorten(path));
        return refuse(message, "does not begin with `/`", example);
    }
    if path.contains(['{', '}']) {
        let message = format!("the path of a route has no braces, \"{}\" has", shorten(path));
        return refuse(message, "braces", "`*` stands for one segment, whatever is in it");
    }
    if path.contains('?') {
        let message = format!("a route has no query, \"{}\" has", shorten(path));
        return refuse(message, "a query", "requests are told apart by method and path alone");
    }
    if let Some(c) = path.chars().find(|c| c.is_control() || c.is_whitespace() || "<>`#".contains(*c)) {
        let encoded: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let message = format!("a path cannot hold {c:?}");
        return refuse(message, "not a path", &format!("write it as `{encoded}`"));
    }
    let mut segments = path.split('/').rev().peekable();
    if segments.peek() == Some(&"**") {
        segments.next();
    }
    for segment in segments {
        let whole = "`*` stands for one whole segment, `**` for any that follow, at the end only";
        if segment == "**" {
            let message = format!("`**` stands at the end of a path only, not as in \"{}\"", shorten(path));
            return refuse(message, "`**` in the middle", whole);
        }
        if segment.contains('*') && segment != "*" {
            let message = format!("`*` cannot be a part of a segment, as in \"{}\"", shorten(segment));
            return refuse(message, "part of a segment", whole);
        }
    }
    Some((found, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_what_all_its_segments_fit() {
        let table = [
            ("/", "/", true),
            ("/", "/a", false),
            ("/a", "/a/", false),
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/*", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/*", true),
            ("/a/*", "/a", false),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a/*", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", true),
            ("/a/**", "/ab", false),
            ("/a/*", "/a/", false),
            ("/a/*/c", "/a/*/c", true),
            ("/**", "/a/b", true),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn text_goes_before_one_segment_before_any_rest_from_the_left() {
        let table = [("/a", "/*"), ("/*", "/**"), ("/a/**", "/*/b"), ("/a/*", "/a/**"), ("/a/b/*", "/a/*/c")];
        for (first, second) in table {
            assert_eq!(narrower(first, second), Ordering::Less, "{first} {second}");
            assert_eq!(narrower(second, first), Ordering::Greater, "{second} {first}");
        }
    }
}
