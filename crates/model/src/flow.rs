//! A flow: a user's journey as steps, the one source of smoke and load tests.

use crate::template::Template;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The names that mean something in braces anywhere in a flow, besides what its steps saved.
/// `uuid` is one value per intent: every step of one play of the flow sees the same.
pub const FLOW_VALUES: &[&str] = &["user.id", "uuid", "environment.name"];

/// A user's journey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// How often it is played, relative to the other flows. 0: only in smoke.
    pub weight: u32,
    /// What it must meet.
    pub objective: Objective,
    /// How its writes are looked up afterwards.
    pub ledger: Option<Ledger>,
    /// Whether it may be played in production although it writes.
    pub production: bool,
    /// Its requests, in order. Never empty.
    pub steps: Vec<Step>,
}

impl Flow {
    /// Whether any step uses a method other than GET, HEAD or OPTIONS.
    pub fn writes(&self) -> bool {
        self.steps.iter().any(|step| !step.method.is_safe())
    }
}

/// What a flow must meet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The share of requests that may fail, 0 to 1.
    pub errors: f64,
    /// The latency that 99 of 100 requests stay under, from their planned instant. None: no limit.
    pub p99: Option<Duration>,
}

impl Default for Objective {
    fn default() -> Self {
        Self { errors: 0.01, p99: None }
    }
}

/// How the writes of a flow are looked up after a run: one count per reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The client's own reference of an intent; it is also the value `{ref}` in `confirm`.
    pub reference: Template,
    /// The path and query that lists what exists under `{ref}`.
    pub confirm: Template,
    /// Where the list stands in the answer: every array found counts its members, null counts
    /// nothing, anything else counts 1.
    pub count: JsonPath,
}

/// One request of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: Template,
    /// Request headers.
    pub headers: BTreeMap<String, Template>,
    /// A JSON body.
    pub json: Option<JsonTemplate>,
    /// What the answer must be.
    pub expect: Expect,
    /// Values kept for later steps, by name.
    pub save: BTreeMap<String, JsonPath>,
}

/// The methods a step can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the methods of RFC 9110 and RFC 5789 are their names")]
pub enum Method {
    Get,
    Head,
    Options,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Safe methods change nothing (RFC 9110, 9.2.1).
    pub fn is_safe(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Options => true,
            Self::Post | Self::Put | Self::Patch | Self::Delete => false,
        }
    }

    /// As it stands in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What an answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Expect {
    /// The status. None: any below 400.
    pub status: Option<u16>,
}

/// A path into a JSON document (RFC 9535), checked when the workload file was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonPath(pub String);

/// A JSON value whose texts are templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the kinds of values of RFC 8259")]
pub enum JsonTemplate {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Template),
    List(Vec<JsonTemplate>),
    Table(BTreeMap<String, JsonTemplate>),
}
