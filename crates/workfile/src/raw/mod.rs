//! The file as typed. Each type is one table of the file; its documentation and attributes are the source of
//! the JSON Schema, of the table of keys and of the check of shapes, so that none of them can drift.

mod value;

use crate::text::{show_duration, show_share, show_size};
use model::flow::Objective as ObjectiveDefault;
use model::workload::{GatewayLimits as GatewayDefault, ReleasePolicy};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use value::{
    Address, At, DurationText, HeaderName, Host, Ip, Json, JsonPathText, Name, PathText, ShareText, SizeText,
    ValueName, Variable,
};

/// The most instances of one service.
pub(crate) const INSTANCES_LIMIT: u32 = 64;
/// How long a service may take to become ready when the file does not say.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a service may drain when the file does not say.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Where the gateway of an environment listens when the file does not say.
pub(crate) const LISTEN: &str = "127.0.0.1:8080";

/// A table whose keys are names of the user's own.
pub(crate) type Table<K, V> = BTreeMap<At<K>, V>;

/// The file that says what a workload is and where it runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "mainstay.toml")]
pub(crate) struct File {
    /// The workload as a whole: its name.
    pub(crate) workload: Workload,
    /// What the workload is made of, by name: services, which every release creates anew. At least one.
    #[serde(default)]
    #[schemars(schema_with = "components")]
    pub(crate) component: Table<Name, Component>,
    /// What the gateway does with requests.
    pub(crate) gateway: Option<Gateway>,
    /// What users do, by name: journeys that releases are proven with.
    #[serde(default)]
    pub(crate) flow: Table<Name, Flow>,
    /// Where the workload runs, by name. Without any there is one: `local`, of class `development`.
    #[serde(default)]
    pub(crate) environment: Table<Name, Environment>,
    /// How a release travels.
    pub(crate) release: Option<Release>,
}

/// The components of the file itself are complete; those of an environment only override.
fn components(generator: &mut SchemaGenerator) -> Schema {
    let component = generator.subschema_for::<Component>();
    let mut complete = component;
    complete.insert("required".to_owned(), serde_json::json!(["run"]));
    let name = Name::json_schema(generator);
    let pattern = name.get("pattern").and_then(serde_json::Value::as_str).unwrap_or_default();
    json_schema!({
        "type": "object",
        "patternProperties": { pattern: complete },
        "additionalProperties": false,
        "minProperties": 1,
    })
}

/// The workload itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    /// What it is called: lower-case letters, digits and dashes, beginning with a letter.
    pub(crate) name: At<Name>,
}

/// A service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    /// Program and arguments; no shell. It runs in its artifact and must listen on `{port}` of 127.0.0.1,
    /// which is also in the variable `PORT`. Values in braces are filled in.
    #[schemars(length(min = 1))]
    pub(crate) run: Option<At<Vec<At<String>>>>,
    /// The file or folder with the service's files, relative to the workload file. A release may be given
    /// another.
    #[schemars(extend("default" = "."))]
    pub(crate) artifact: Option<At<String>>,
    /// How many instances run.
    #[schemars(range(min = 1, max = INSTANCES_LIMIT), extend("default" = 1))]
    pub(crate) instances: Option<u32>,
    /// Components that are ready before this one starts.
    #[schemars(extend("default" = []))]
    pub(crate) needs: Option<Vec<At<Name>>>,
    /// The variable by which components that need this one get its address, `http://127.0.0.1:PORT`.
    #[serde(rename = "as")]
    pub(crate) address_as: Option<At<Variable>>,
    /// Environment variables. Values in braces are filled in.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) env: Table<Variable, At<String>>,
    /// When an instance may get requests.
    pub(crate) ready: Option<Ready>,
    /// What an instance may use.
    pub(crate) limits: Option<Limits>,
    /// How long requests in flight may take to end before an instance is told to stop, and again how long it may
    /// take to stop before it is killed.
    #[schemars(extend("default" = show_duration(DRAIN_TIMEOUT)))]
    pub(crate) drain_timeout: Option<At<DurationText>>,
}

/// When an instance may get requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ready {
    /// The path that must answer 2xx or 3xx. Without it any HTTP answer to `GET /` counts.
    pub(crate) get: Option<At<PathText>>,
    /// How long an instance may take from its start.
    #[schemars(extend("default" = show_duration(READY_TIMEOUT)))]
    pub(crate) timeout: Option<At<DurationText>>,
}

/// What an instance may use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Files and sockets open at once (RLIMIT_NOFILE). Without it the limit of the caller holds.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub(crate) open_files: Option<u64>,
}

/// What the gateway does with requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    /// The component that gets the requests. It can be left out when there is only one.
    pub(crate) default: Option<At<Name>>,
    /// The hosts that requests may be for; others get 421. Empty: any.
    #[schemars(extend("default" = []))]
    pub(crate) hosts: Option<Vec<At<Host>>>,
    /// One JSON line per request in `logs/access.log`.
    #[schemars(extend("default" = true))]
    pub(crate) access_log: Option<bool>,
    /// The limits of a request.
    pub(crate) limits: Option<GatewayLimits>,
}

/// The limits of a request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayLimits {
    /// The largest body of a request; more gets 413.
    #[schemars(extend("default" = show_size(GatewayDefault::default().body)))]
    pub(crate) body: Option<At<SizeText>>,
    /// Requests in flight on one instance; more get 503 with Retry-After.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = GatewayDefault::default().in_flight))]
    pub(crate) in_flight: Option<u32>,
    /// How long an instance may take to accept a connection; then another is tried, then 502.
    #[schemars(extend("default" = show_duration(GatewayDefault::default().connect_timeout)))]
    pub(crate) connect_timeout: Option<At<DurationText>>,
    /// How long an instance may take to begin its answer; then 504.
    #[schemars(extend("default" = show_duration(GatewayDefault::default().first_byte_timeout)))]
    pub(crate) first_byte_timeout: Option<At<DurationText>>,
    /// How long a body may pause, in either direction; then it is cut.
    #[schemars(extend("default" = show_duration(GatewayDefault::default().idle_timeout)))]
    pub(crate) idle_timeout: Option<At<DurationText>>,
}

/// A user's journey.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flow {
    /// How often it is played, relative to the other flows. 0: only once, to see that it works.
    #[schemars(range(min = 0, max = 1_000_000), extend("default" = 1))]
    pub(crate) weight: Option<u32>,
    /// What it must meet.
    pub(crate) objective: Option<Objective>,
    /// Whether it may be played in production although it writes.
    #[schemars(extend("default" = false))]
    pub(crate) production: Option<bool>,
    /// How its writes are looked up afterwards, so that none is lost or done twice unseen.
    pub(crate) ledger: Option<Ledger>,
    /// Its requests, in order. At least one.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) step: Vec<At<Step>>,
}

/// What a flow must meet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Objective {
    /// The share of requests that may fail.
    #[schemars(extend("default" = show_share(ObjectiveDefault::default().errors)))]
    pub(crate) errors: Option<At<ShareText>>,
    /// The latency that 99 of 100 requests stay under. Without it there is no limit.
    pub(crate) p99: Option<At<DurationText>>,
}

/// How the writes of a flow are looked up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ledger {
    /// The reference that travels with each write, such as `"{uuid}"`.
    #[serde(rename = "ref")]
    pub(crate) reference: At<String>,
    /// Where what was written is found again.
    pub(crate) confirm: Confirm,
}

/// Where what was written is found again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confirm {
    /// The path that lists what exists under `{ref}`.
    pub(crate) get: At<PathText>,
    /// Where the list stands in the answer: an array counts its members, anything else counts 1.
    pub(crate) count: At<JsonPathText>,
}

/// One request: exactly one method with its path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = methods()))]
pub(crate) struct Step {
    /// GET this path. Values in braces are filled in, here and in all paths, headers and bodies.
    pub(crate) get: Option<At<PathText>>,
    /// HEAD this path.
    pub(crate) head: Option<At<PathText>>,
    /// OPTIONS on this path.
    pub(crate) options: Option<At<PathText>>,
    /// POST to this path.
    pub(crate) post: Option<At<PathText>>,
    /// PUT to this path.
    pub(crate) put: Option<At<PathText>>,
    /// PATCH this path.
    pub(crate) patch: Option<At<PathText>>,
    /// DELETE this path.
    pub(crate) delete: Option<At<PathText>>,
    /// Header fields.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) headers: Table<HeaderName, At<String>>,
    /// A JSON body, with `post`, `put`, `patch` or `delete`. Braces in the names of its members are literal.
    pub(crate) json: Option<At<Json>>,
    /// What the answer must be.
    pub(crate) expect: Option<Expect>,
    /// Values kept for later steps, by name, from the JSON of the answer.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) save: Table<ValueName, At<JsonPathText>>,
}

fn methods() -> serde_json::Value {
    let names = ["get", "head", "options", "post", "put", "patch", "delete"];
    names.iter().map(|name| serde_json::json!({ "required": [name] })).collect()
}

/// What the answer must be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// The status. Without it any below 400 will do.
    #[schemars(range(min = 100, max = 599))]
    pub(crate) status: Option<u16>,
}

/// An isolated place that runs the workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Environment {
    /// What it must fulfil. Required unless `like` says it.
    pub(crate) class: Option<Class>,
    /// Another environment whose keys hold here too, except `listen`.
    pub(crate) like: Option<At<Name>>,
    /// Where its gateway listens.
    pub(crate) listen: Option<Listen>,
    /// Overrides by component: the keys of `component.<name>`, all optional. Tables merge, anything else
    /// replaces.
    #[serde(default)]
    pub(crate) component: Table<Name, Component>,
    /// Overrides: the keys of `gateway`. Tables merge, anything else replaces.
    #[expect(dead_code, reason = "merged with the file's own before it is read; here it gives the shape")]
    pub(crate) gateway: Option<Gateway>,
}

/// What an environment must fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// Serves users.
    Production,
    /// Mirrors production's shape and proves releases.
    Staging,
    /// One person's or branch's own.
    Development,
}

/// Where the gateway listens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    /// The address of plain HTTP for users.
    #[schemars(extend("default" = LISTEN))]
    pub(crate) http: Option<At<Address>>,
    /// The address of `/metrics` and `/.mainstay/health`. Without it there is none.
    pub(crate) admin: Option<At<Address>>,
    /// Proxies whose `Forwarded` and `X-Forwarded-*` headers are believed.
    #[schemars(extend("default" = []))]
    pub(crate) trusted_proxies: Option<Vec<At<Ip>>>,
}

/// How a release travels.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Release {
    /// How long the old stamp stays warm after a promotion.
    #[schemars(extend("default" = show_duration(ReleasePolicy::default().keep_old)))]
    pub(crate) keep_old: Option<At<DurationText>>,
}
