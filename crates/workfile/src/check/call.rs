//! Requests that the queue makes: whom they go to, and what is filled in: `{body:JSONPATH}`, `{STEP:JSONPATH}` and
//! `{key}`.

use super::component::{Kind, kinds};
use super::template::{Known, cannot_be_in_path, explain, inside, unfit_in_path};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, CallText, Component, Name, PathText, Table};
use crate::shape::shorten;
use model::name::ComponentName;
use model::template::{Template, TemplateError};
use std::borrow::Cow;
use std::ops::Range;

/// What can be filled in at one place.
#[derive(Default)]
pub(super) struct Fillings<'s> {
    /// The steps whose answers are there by then.
    pub(super) answered: Vec<&'s str>,
    /// The steps whose answers are not, and where these are named: for a better message.
    pub(super) later: Vec<(&'s str, Range<usize>)>,
}

impl Fillings<'_> {
    /// Reads a text. None when it is wrong; then there is a finding.
    pub(super) fn text(&self, raw: &str, span: Range<usize>, findings: &mut Findings) -> Option<Template> {
        self.after(raw, 0, span, findings)
    }

    /// Reads the path with its query that stands behind the first `from` bytes of `raw`.
    fn path(&self, raw: &str, from: usize, span: Range<usize>, findings: &mut Findings) -> Option<Template> {
        let template = self.after(raw, from, span.clone(), findings)?;
        // What is filled in is percent-encoded when it is.
        let shown = template.render(|_| Some(Cow::Borrowed("x"))).unwrap_or_default();
        if let Some((_, c)) = unfit_in_path(&shown) {
            findings.add(cannot_be_in_path(c, span));
            return None;
        }
        Some(template)
    }

    fn after(&self, raw: &str, from: usize, span: Range<usize>, findings: &mut Findings) -> Option<Template> {
        if raw.contains('\0') {
            findings.add(Wrong::at(span, "a text here cannot hold the character NUL"));
            return None;
        }
        let wrong = match Template::parse(&raw[from..], |name| self.unfit(name).is_none()) {
            Ok(template) => return Some(template),
            Err(TemplateError::Unknown { name, at }) => {
                let place = inside(raw, span, at + from, name.len() + 2, findings);
                let unfit = self.unfit(&name).unwrap_or_default();
                let wrong = Wrong::at(place, unfit.message).label(unfit.label).help(self.help());
                match self.later.iter().find(|(step, _)| unfit.later.as_deref() == Some(*step)) {
                    Some((_, place)) => wrong.also(place.clone(), "answered only then"),
                    None => wrong,
                }
            }
            Err(TemplateError::Unclosed { at }) => {
                explain(&TemplateError::Unclosed { at: at + from }, raw, span, &Known::of(&[]), findings)
            }
            Err(TemplateError::Unopened { at }) => {
                explain(&TemplateError::Unopened { at: at + from }, raw, span, &Known::of(&[]), findings)
            }
        };
        findings.add(wrong);
        None
    }

    /// Why nothing can be filled in for `{name}`.
    fn unfit(&self, name: &str) -> Option<Unfit> {
        let unfit = |message: String, label: &str| {
            let later = name.split_once(':').map(|(source, _)| source.to_owned());
            Some(Unfit { message, label: label.to_owned(), later })
        };
        let Some((source, path)) = name.split_once(':') else {
            if name == "key" {
                return None;
            }
            let message = format!("`{{{}}}` means nothing here", shorten(name));
            let known = name == "body" || self.answered.contains(&name);
            return unfit(message, if known { "a JSONPath is missing: `{body:$.id}`" } else { "unknown" });
        };
        if source == "body" || self.answered.contains(&source) {
            let error = serde_json_path::JsonPath::parse(path).err()?;
            let message = format!("\"{}\" is not a JSONPath (RFC 9535)", shorten(path));
            let label = if path.starts_with('$') { error.message() } else { "does not begin with `$`" };
            return unfit(message, label);
        }
        if self.later.iter().any(|(step, _)| *step == source) {
            let message = format!("`{{{}}}` reads an answer that is not there yet", shorten(name));
            return unfit(message, "used here");
        }
        let near = nearest(source, self.answered.iter().copied().chain(["body"]));
        let label = near.map_or_else(|| "no such step".to_owned(), |near| format!("did you mean `{near}`?"));
        unfit(format!("there is no `{}` that could be read here", shorten(source)), &label)
    }

    fn help(&self) -> String {
        let paths: Vec<_> =
            self.answered.iter().chain(&["body"]).map(|source| format!("{{{source}:JSONPATH}}")).collect();
        let known = list(paths.iter().map(String::as_str).chain(["{key}"]));
        format!("known here: {known}; a literal brace is written twice: `{{{{`")
    }
}

/// Why nothing can be filled in.
#[derive(Default)]
struct Unfit {
    message: String,
    label: String,
    /// What it reads, if it reads something.
    later: Option<String>,
}

/// The path that is asked whether something has happened.
pub(super) fn probe(raw: &At<PathText>, findings: &mut Findings) -> Option<Template> {
    if !raw.starts_with('/') {
        let message = format!("\"{}\" is not a path: a path begins with `/`", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("does not begin with `/`"));
        return None;
    }
    Fillings::default().path(raw, 0, raw.span(), findings)
}

/// Whom a call goes to, and its path.
pub(super) fn target(
    raw: &At<CallText>,
    components: &Table<Name, Component>,
    fillings: &Fillings<'_>,
    findings: &mut Findings,
) -> Option<(ComponentName, Template)> {
    let Some((name, path)) = raw.split_once(':').filter(|(_, path)| path.starts_with('/')) else {
        let message = format!("\"{}\" is not a component and a path", shorten(raw));
        let help = "such as \"payments:/charges\"";
        findings.add(Wrong::at(raw.span(), message).label("not a component and a path").help(help));
        return None;
    };
    let fits = || components.iter().filter(|(_, raw)| not_called(raw).is_none()).map(|(key, _)| &***key);
    let place = inside(raw, raw.span(), 0, name.len(), findings);
    let help = format!("what can be called: {}", list(fits()));
    let known = components.iter().find(|(key, _)| &****key == name);
    let to = match known.map(|(_, component)| not_called(component)) {
        None => {
            let label = nearest(name, fits());
            let label = label
                .map_or_else(|| "no such component".to_owned(), |near| format!("did you mean `{near}`?"));
            let message = format!("there is no component `{}`", shorten(name));
            findings.add(Wrong::at(place, message).label(label).help(help));
            None
        }
        Some(Some(why)) => {
            let message = format!("`{}` cannot be called: it is {why}", shorten(name));
            findings.add(Wrong::at(place, message).label("cannot be called").help(help));
            None
        }
        // A name that is no name was told of where the component stands.
        Some(None) => ComponentName::new(name).ok(),
    };
    let path = fillings.path(raw, raw.len() - path.len(), raw.span(), findings);
    to.zip(path)
}

/// Why a component cannot be called. None when it can, or when it is not known what it is.
fn not_called(raw: &Component) -> Option<&'static str> {
    match (kinds(raw).as_slice(), &raw.http) {
        ([Kind::Service(_)] | [], Some(http)) if !**http => Some("a worker, which has no port"),
        ([kind @ (Kind::Store(_) | Kind::StoreAt(_))], _) => Some(kind.noun()),
        (_, _) => None,
    }
}
