//! Flows, made ready to be played many times.

use crate::connection::FullRequest;
use crate::values::{Values, percent_encoded};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Uri};
use http_body_util::Full;
use model::flow::{Flow, JsonPath as PathText, JsonTemplate, Method, Objective, Step};
use model::name::FlowName;
use model::template::{MissingValue, Template};
use model::workload::Class;
use serde_json::Value;
use serde_json_path::JsonPath;
use std::borrow::Cow;
use std::fmt;

/// The header that lets a service recognise a repeated request (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is played when a workload has no flow that may be.
pub(crate) const BUILT_IN: &str = "built-in";

/// A flow ready to be played.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) objective: Objective,
    pub(crate) steps: Vec<StepScript>,
    pub(crate) ledger: Option<LedgerScript>,
    /// The last step that writes.
    pub(crate) last_write: Option<usize>,
}

/// One step ready to be played.
#[derive(Debug)]
pub(crate) struct StepScript {
    /// Its number from 1, its method and its path, as the workload file has it.
    pub(crate) label: String,
    pub(crate) method: Method,
    pub(crate) expect: Expected,
    pub(crate) save: Vec<(String, JsonPath)>,
    number: usize,
    path: Template,
    headers: Vec<(HeaderName, Template)>,
    json: Option<JsonTemplate>,
}

/// How the writes of a flow are looked up.
#[derive(Debug)]
pub(crate) struct LedgerScript {
    pub(crate) reference: Template,
    pub(crate) confirm: Template,
    pub(crate) count: JsonPath,
    /// Whether `confirm` uses more than the reference and the environment: values of its play.
    pub(crate) needs_play: bool,
}

impl LedgerScript {
    /// Where `reference` is looked up; `values` are those of its play, when `needs_play`.
    pub(crate) fn confirm_path(
        &self,
        reference: &str,
        values: Option<&Values>,
        environment: &str,
    ) -> Result<String, MissingValue> {
        self.confirm.render(|name| match (name, values) {
            ("ref", _) => Some(percent_encoded(Cow::Borrowed(reference))),
            (name, Some(values)) => values.in_path(name),
            ("environment.name", None) => Some(percent_encoded(Cow::Borrowed(environment))),
            (_, None) => None,
        })
    }
}

/// The status an answer must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Exactly(u16),
    Below(u16),
}

impl Expected {
    pub(crate) fn holds(self, status: u16) -> bool {
        match self {
            Self::Exactly(expected) => status == expected,
            Self::Below(limit) => status < limit,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(status) => write!(f, "{status}"),
            Self::Below(limit) => write!(f, "below {limit}"),
        }
    }
}

/// Why a flow cannot be played at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    #[error("`{path}` is no JSONPath: {cause}")]
    JsonPath { path: String, cause: serde_json_path::ParseError },
    #[error("`{0}` is not the name of a header")]
    Header(String),
    #[error("it has no steps")]
    NoSteps,
}

/// Why the values of a play make no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Missing(#[from] MissingValue),
    #[error("`{0}` is no path: it must begin with `/` and have no spaces or control characters")]
    Path(String),
    #[error("the value of header `{name}` cannot be sent: {value:?}")]
    Header { name: HeaderName, value: String },
}

/// Why `flow` is not played in an environment of `class`; none when it is.
pub(crate) fn barred(flow: &Flow, class: Class) -> Option<&'static str> {
    match class {
        Class::Production if flow.writes() && !flow.production => {
            Some("it writes, and does not say `production = true`")
        }
        Class::Production | Class::Staging | Class::Development => None,
    }
}

impl Script {
    pub(crate) fn new(name: &FlowName, flow: &Flow) -> Result<Self, ScriptError> {
        let steps = flow.steps.iter().enumerate().map(|(index, step)| StepScript::new(index + 1, step));
        let steps = steps.collect::<Result<Vec<_>, _>>()?;
        if steps.is_empty() {
            return Err(ScriptError::NoSteps);
        }
        let ledger = match &flow.ledger {
            None => None,
            Some(ledger) => Some(LedgerScript {
                reference: ledger.reference.clone(),
                confirm: ledger.confirm.clone(),
                count: parsed(&ledger.count)?,
                needs_play: ledger.confirm.names().any(|name| name != "ref" && name != "environment.name"),
            }),
        };
        Ok(Self {
            name: name.to_string(),
            weight: flow.weight,
            objective: flow.objective,
            last_write: flow.steps.iter().rposition(|step| !step.method.is_safe()),
            steps,
            ledger,
        })
    }

    /// `GET /`, expecting any answer that is no failure of the server's.
    pub(crate) fn built_in() -> Self {
        let step = StepScript {
            label: "1 GET /".to_owned(),
            method: Method::Get,
            expect: Expected::Below(500),
            save: Vec::new(),
            number: 1,
            path: Template::literal("/"),
            headers: Vec::new(),
            json: None,
        };
        Self {
            name: BUILT_IN.to_owned(),
            weight: 1,
            objective: Objective::default(),
            steps: vec![step],
            ledger: None,
            last_write: None,
        }
    }
}

impl StepScript {
    fn new(number: usize, step: &Step) -> Result<Self, ScriptError> {
        let mut headers = Vec::with_capacity(step.headers.len());
        for (name, value) in &step.headers {
            let header = HeaderName::try_from(name).map_err(|_| ScriptError::Header(name.clone()))?;
            headers.push((header, value.clone()));
        }
        let save = step.save.iter().map(|(name, path)| Ok((name.clone(), parsed(path)?)));
        Ok(Self {
            label: format!("{number} {} {}", step.method.as_str(), shown(&step.path)),
            method: step.method,
            expect: step.expect.status.map_or(Expected::Below(400), Expected::Exactly),
            save: save.collect::<Result<_, _>>()?,
            number,
            path: step.path.clone(),
            headers,
            json: step.json.clone(),
        })
    }

    /// The path as the workload file has it.
    pub(crate) fn shown_path(&self) -> String {
        shown(&self.path)
    }

    pub(crate) fn writes(&self) -> bool {
        !self.method.is_safe()
    }

    /// Whether a 202 is only the first answer. Where it is what the step expects, it is the last.
    pub(crate) fn is_followed(&self) -> bool {
        self.writes() && self.expect != Expected::Exactly(202)
    }

    /// The request of this step in a play with `values`; `base` are the headers every request has.
    pub(crate) fn request(&self, base: &HeaderMap, values: &Values) -> Result<FullRequest, RequestError> {
        let uri = uri(self.path.render(|name| values.in_path(name))?)?;
        let body = match &self.json {
            Some(json) => {
                let value = filled(json, values)?;
                Bytes::from(serde_json::to_vec(&value).expect("a JSON value has string keys"))
            }
            None => Bytes::new(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method(self.method);
        *request.uri_mut() = uri;
        let mut headers = base.clone();
        if self.json.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if self.writes() {
            let key = HeaderValue::try_from(format!("{}-{}", values.uuid(), self.number));
            headers.insert(IDEMPOTENCY_KEY, key.expect("digits and dashes can be sent"));
        }
        for (name, template) in &self.headers {
            let text = template.render(|name| values.get(name))?;
            let value = HeaderValue::try_from(&text)
                .map_err(|_| RequestError::Header { name: name.clone(), value: text })?;
            headers.insert(name.clone(), value);
        }
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// `path` as the target of a request, in origin form.
pub(crate) fn uri(path: String) -> Result<Uri, RequestError> {
    if !path.starts_with('/') {
        return Err(RequestError::Path(path));
    }
    match PathAndQuery::try_from(path.as_str()) {
        Ok(target) => Ok(Uri::from(target)),
        Err(_) => Err(RequestError::Path(path)),
    }
}

/// A template with its names in braces.
fn shown(template: &Template) -> String {
    let itself = |name: &str| Some(Cow::Owned(format!("{{{name}}}")));
    template.render(itself).expect("every name is shown as itself")
}

fn parsed(path: &PathText) -> Result<JsonPath, ScriptError> {
    JsonPath::parse(&path.0).map_err(|cause| ScriptError::JsonPath { path: path.0.clone(), cause })
}

fn filled(template: &JsonTemplate, values: &Values) -> Result<Value, MissingValue> {
    Ok(match template {
        JsonTemplate::Null => Value::Null,
        JsonTemplate::Bool(value) => Value::Bool(*value),
        JsonTemplate::Integer(value) => Value::from(*value),
        // JSON has no infinities; they become null, as in JavaScript.
        JsonTemplate::Float(value) => Value::from(*value),
        JsonTemplate::Text(text) => Value::String(text.render(|name| values.get(name))?),
        JsonTemplate::List(items) => {
            Value::Array(items.iter().map(|item| filled(item, values)).collect::<Result<_, _>>()?)
        }
        JsonTemplate::Table(entries) => {
            let entry = |(key, value): (&String, _)| Ok((key.clone(), filled(value, values)?));
            Value::Object(entries.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

fn method(method: Method) -> http::Method {
    match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Options => http::Method::OPTIONS,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
    }
}

#[cfg(test)]
mod tests;
