//! What stands in the braces of a saga's calls and of probes: values of the client's body, of earlier answers, and
//! the key.

use model::flow::{JsonPath, JsonTemplate};
use model::template::Template;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Compiled paths that are kept. All are forgotten when there are more: a workload file has far fewer.
const PATHS_LIMIT: usize = 1_024;

/// Paths into JSON documents, compiled once.
#[derive(Debug, Default)]
pub(crate) struct Paths(Mutex<HashMap<String, Arc<serde_json_path::JsonPath>>>);

impl Paths {
    /// None: it is no path, which the workload file's check rules out.
    fn compiled(&self, path: &str) -> Option<Arc<serde_json_path::JsonPath>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.get(path) {
            return Some(path.clone());
        }
        let compiled = Arc::new(serde_json_path::JsonPath::parse(path).ok()?);
        if known.len() >= PATHS_LIMIT {
            known.clear();
        }
        known.insert(path.to_owned(), compiled.clone());
        Some(compiled)
    }

    /// What `path` finds in `document`: one value, or a list of several. None: nothing.
    fn find<'d>(&self, path: &str, document: &'d Value) -> Option<Cow<'d, Value>> {
        let compiled = self.compiled(path)?;
        let found = compiled.query(document).all();
        match found.as_slice() {
            [] => None,
            [one] => Some(Cow::Borrowed(*one)),
            many => Some(Cow::Owned(Value::Array(many.iter().map(|value| (*value).clone()).collect()))),
        }
    }

    /// The value by which a request is ordered, as text. None: its body is no JSON, nothing is found, or null.
    pub(crate) fn order_value(&self, path: &JsonPath, body: &[u8]) -> Option<String> {
        let document = serde_json::from_slice(body).ok()?;
        let value = self.find(&path.0, &document)?;
        (!value.is_null()).then(|| value.to_string())
    }
}

/// A value that is not there: which one, and where it was looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoValue {
    /// The client's body is not JSON.
    #[error("`{{{name}}}` is to be read from the request's body, which is not JSON")]
    NoJson {
        /// What stands in braces.
        name: String,
    },
    /// Nothing is found, in the body or in the answer.
    #[error("`{{{name}}}` finds nothing in {place}")]
    Nothing {
        /// What stands in braces.
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// A value that is empty, `.` or `..` and a whole part of a path: that would be another path (RFC 3986, 5.2.4).
    #[error("a value in `{template}` is empty, `.` or `..`, which makes it another path")]
    Elsewhere {
        /// The path with its braces.
        template: String,
    },
    /// A list or a table, where only a text or a number can stand.
    #[error("`{{{name}}}` is a list or a table, which cannot be part of a text")]
    NotText {
        /// What stands in braces.
        name: String,
    },
}

/// What braces stand for.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    paths: &'a Paths,
    key: &'a str,
    /// None: it is not JSON.
    body: Option<Value>,
    /// By step; None: its answer is not JSON.
    answers: Vec<(&'a str, Option<Value>)>,
}

impl<'a> Values<'a> {
    /// Those of a request: its body and its key.
    pub(crate) fn new(paths: &'a Paths, body: &[u8], key: &'a str) -> Self {
        Self { paths, key, body: serde_json::from_slice(body).ok(), answers: Vec::new() }
    }

    /// Adds the answer of a step.
    pub(crate) fn with_answer(mut self, step: &'a str, body: &[u8]) -> Self {
        self.answers.push((step, serde_json::from_slice(body).ok()));
        self
    }

    /// Another key.
    pub(crate) fn with_key(mut self, key: &'a str) -> Self {
        self.key = key;
        self
    }

    fn get(&self, name: &str) -> Result<Cow<'_, Value>, NoValue> {
        if name == "key" {
            return Ok(Cow::Owned(Value::String(self.key.to_owned())));
        }
        let (source, path) = name.split_once(':').unwrap_or((name, "$"));
        let nothing = |place: String| NoValue::Nothing { name: name.to_owned(), place };
        let (document, place) = if source == "body" {
            let body = self.body.as_ref().ok_or_else(|| NoValue::NoJson { name: name.to_owned() })?;
            (body, "the request's body".to_owned())
        } else {
            let place = format!("the answer of step `{source}`");
            let answer = self.answers.iter().find(|(step, _)| *step == source);
            let Some((_, Some(answer))) = answer else { return Err(nothing(place)) };
            (answer, place)
        };
        self.paths.find(path, document).ok_or_else(|| nothing(place))
    }

    fn text(&self, name: &str) -> Result<String, NoValue> {
        match &*self.get(name)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(yes) => Ok(yes.to_string()),
            Value::Null => Ok(String::new()),
            Value::Array(_) | Value::Object(_) => Err(NoValue::NotText { name: name.to_owned() }),
        }
    }

    fn render(&self, template: &Template, shown: impl Fn(String) -> String) -> Result<String, NoValue> {
        let mut missing = None;
        let mut values = HashMap::new();
        for name in template.names() {
            match self.text(name) {
                Ok(text) => _ = values.insert(name, shown(text)),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        if let Some(error) = missing {
            return Err(error);
        }
        let rendered = template.render(|name| values.get(name).map(|text| Cow::Borrowed(text.as_str())));
        rendered.map_err(|missing| NoValue::Nothing { name: missing.0, place: "the request".into() })
    }

    /// A path and query: a value in it is data, so that it cannot become another path.
    pub(crate) fn path(&self, template: &Template) -> Result<String, NoValue> {
        let path = self.render(template, |text| percent_encoded(&text))?;
        is_within(template, &path).then_some(path).ok_or_else(|| elsewhere(template))
    }

    /// A JSON document. A text that is one value and nothing else is that value, whatever its type.
    pub(crate) fn json(&self, template: &JsonTemplate) -> Result<Value, NoValue> {
        Ok(match template {
            JsonTemplate::Null => Value::Null,
            JsonTemplate::Bool(yes) => Value::Bool(*yes),
            JsonTemplate::Integer(number) => Value::from(*number),
            JsonTemplate::Float(number) => Value::from(*number),
            JsonTemplate::Text(text) => match whole(text) {
                Some(name) => self.get(&name)?.into_owned(),
                None => Value::String(self.render(text, |text| text)?),
            },
            JsonTemplate::List(items) => {
                Value::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?)
            }
            JsonTemplate::Table(table) => {
                let members = table.iter().map(|(name, item)| Ok((name.clone(), self.json(item)?)));
                Value::Object(members.collect::<Result<_, NoValue>>()?)
            }
        })
    }

    /// Whether everything that `template` wants of the request's body is there. What it wants of answers is not
    /// known before there are any.
    pub(crate) fn check(&self, template: &Template) -> Result<(), NoValue> {
        let mut of_body = template.names().filter(|name| name.starts_with("body:"));
        of_body.try_for_each(|name| self.get(name).map(drop))
    }

    /// As [`check`](Self::check), of a path.
    pub(crate) fn check_path(&self, template: &Template) -> Result<(), NoValue> {
        self.check(template)?;
        let known = template.names().filter(|name| name.starts_with("body:"));
        let known = known.map(|name| Ok((name, percent_encoded(&self.text(name)?))));
        let known = known.collect::<Result<HashMap<_, _>, NoValue>>()?;
        // What is not known yet may be anything: it is looked at when it is.
        let shown = |name: &str| {
            Some(known.get(name).map_or(Cow::Borrowed("x"), |text| Cow::Borrowed(text.as_str())))
        };
        match template.render(shown) {
            Ok(path) if !is_within(template, &path) => Err(elsewhere(template)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// As [`check`](Self::check), in a document.
    pub(crate) fn check_json(&self, template: &JsonTemplate) -> Result<(), NoValue> {
        match template {
            JsonTemplate::Null
            | JsonTemplate::Bool(_)
            | JsonTemplate::Integer(_)
            | JsonTemplate::Float(_) => Ok(()),
            JsonTemplate::Text(text) => self.check(text),
            JsonTemplate::List(items) => items.iter().try_for_each(|item| self.check_json(item)),
            JsonTemplate::Table(table) => table.values().try_for_each(|item| self.check_json(item)),
        }
    }
}

/// The name of the value that `template` is, if it is one value and nothing else.
fn whole(template: &Template) -> Option<String> {
    let mut names = template.names();
    let name = names.next()?.to_owned();
    if names.next().is_some() {
        return None;
    }
    // Rendered with nothing for its value, only a template without text is empty.
    let rest = template.render(|_| Some(Cow::Borrowed(""))).ok()?;
    rest.is_empty().then_some(name)
}

fn elsewhere(template: &Template) -> NoValue {
    let braces = template.render(|name| Some(Cow::Owned(format!("{{{name}}}"))));
    NoValue::Elsewhere { template: braces.unwrap_or_default() }
}

/// Whether no value has made a part of the path of `rendered` one that leads elsewhere. What the template itself says
/// is meant: parts that are the same with any value are left alone.
fn is_within(template: &Template, rendered: &str) -> bool {
    let Ok(usual) = template.render(|_| Some(Cow::Borrowed("x"))) else { return true };
    // Values are encoded, so neither has more parts than the other.
    let parts = |path: &str| -> Vec<String> {
        path.split('?').next().unwrap_or_default().split('/').map(str::to_owned).collect()
    };
    let both = parts(rendered).into_iter().zip(parts(&usual));
    both.filter(|(part, usual)| part != usual).all(|(part, _)| !matches!(part.as_str(), "" | "." | ".."))
}

/// Everything but the unreserved characters of RFC 3986 (2.3) as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests;
