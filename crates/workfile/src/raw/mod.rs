//! The file as typed. Each type is one table of the file; its documentation and attributes are the source of
//! the JSON Schema, of the table of keys and of the check of shapes, so that none of them can drift.

mod away;
mod component;
mod queue;
mod release;
mod value;

use crate::text::{show_duration, show_share, show_size};
use model::flow::Objective as ObjectiveDefault;
use model::traces::DEFAULT_SHARE;
use model::workload::GatewayLimits as GatewayDefault;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::collections::BTreeMap;

pub(crate) use away::{HOLD_LONGEST, Hold, LIVE_EVERY, LIVE_TIMEOUT, Live, PreviousStamp};
pub(crate) use component::{
    Component, DRAIN_TIMEOUT, HOOK_TIMEOUT, INSTANCES_LIMIT, Limits, MEMORY_LEAST, READY_TIMEOUT, Ready,
    Sandbox, StoreName,
};
pub(crate) use queue::{InFlight, KeyUse, QueueLimits, QueuedRoute, Saga, SagaStep, Switch, Undo};
pub(crate) use release::{Notify, OnInconclusive, Release};
pub(crate) use value::{
    Address, AffinityText, At, CallText, DurationText, HeaderName, Host, Ip, Json, JsonPathText, Name,
    PathText, PrincipalText, RouteText, SchemaText, ShareText, SizeText, UrlText, ValueName, Variable,
};

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
    /// What the workload is made of, by name. At least one. A component is a service (it has `run`; every
    /// release creates it anew), a store (`store` or `url`; one for the environment, it outlives releases) or an
    /// external (`external`; other people run it).
    #[serde(default)]
    #[schemars(schema_with = "components")]
    pub(crate) component: Table<Name, Component>,
    /// What the gateway does with requests.
    pub(crate) gateway: Option<Gateway>,
    /// What requests are told apart by, by method and path such as `"GET /api/products/**"`: `*` stands for one
    /// segment, `**` at the end for any that follow, also none. The steps of flows that no route here fits are routes too.
    #[serde(default)]
    pub(crate) route: Table<RouteText, Route>,
    /// Calls to several services that happen all or are undone, by name: what a queued route can do for a request.
    #[serde(default)]
    pub(crate) saga: Table<Name, Saga>,
    /// What users do, by name: journeys that releases are proven with.
    #[serde(default)]
    pub(crate) flow: Table<Name, Flow>,
    /// Where the workload runs, by name. Without any there is one: `local`, of class `development`.
    #[serde(default)]
    pub(crate) environment: Table<Name, Environment>,
    /// How a release travels.
    pub(crate) release: Option<Release>,
    /// Who is told when the state of a release changes.
    pub(crate) notify: Option<Notify>,
}

/// At least one. What a component is may be left to its environments: a file in one, a server in another.
fn components(generator: &mut SchemaGenerator) -> Schema {
    let component = generator.subschema_for::<Component>();
    let name = Name::json_schema(generator);
    let pattern = name.get("pattern").and_then(serde_json::Value::as_str).unwrap_or_default();
    json_schema!({
        "type": "object",
        "patternProperties": { pattern: component },
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

/// What the gateway does with requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    /// The service that gets the requests. It can be left out when only one answers HTTP.
    pub(crate) default: Option<At<Name>>,
    /// The hosts that requests may be for; others get 421. Empty: any.
    #[schemars(extend("default" = []))]
    pub(crate) hosts: Option<Vec<At<Host>>>,
    /// One JSON line per request in `logs/access.log`.
    #[schemars(extend("default" = true))]
    pub(crate) access_log: Option<bool>,
    /// What keeps a user on one stamp while a release shifts: `"cookie:NAME"`, a cookie of the service's, or
    /// `"header:name"`, a field of the request. Without it, and for requests that have neither, the gateway sets a
    /// cookie of its own, at no other time.
    pub(crate) affinity: Option<At<AffinityText>>,
    /// The limits of a request.
    pub(crate) limits: Option<GatewayLimits>,
    /// Requests that wait while no instance takes them, because all are being started again, instead of failing.
    pub(crate) hold: Option<Hold>,
    /// The limits of the environment's queue: at each, requests to queued routes get 503 with Retry-After.
    pub(crate) queue: Option<QueueLimits>,
    /// Traces of requests, exported by OTLP over HTTP. Without it nothing is traced.
    pub(crate) traces: Option<At<Traces>>,
}

/// Traces of requests, exported by OTLP over HTTP.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traces {
    /// Where a collector listens: a plain `http` URL. Required; spans go to `/v1/traces` below it.
    pub(crate) endpoint: Option<At<UrlText>>,
    /// How many of the requests are traced. What a trusted proxy has decided for a request goes before it.
    #[schemars(extend("default" = show_share(DEFAULT_SHARE)))]
    pub(crate) share: Option<At<ShareText>>,
}

/// What is known of the requests of one method and path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// What it must meet, with the keys of `flow.<name>.objective`. Without it: what the flows must meet whose steps it fits, the strictest of each.
    pub(crate) objective: Option<Objective>,
    /// Whether a GET (and HEAD) that is answered with 404 is asked of the stamp before as well, so that an open page
    /// of the release before still finds its assets: `true`, while that stamp runs (`release.keep_old`);
    /// `{ files = "public" }`, afterwards too: the path is then looked up in this folder of its artifact.
    pub(crate) previous_stamp: Option<At<PreviousStamp>>,
    /// For POST, PUT, PATCH and DELETE: requests are on disk before they are answered, and delivered when the service
    /// can take them. `true`, or a table with what is not as it is by default; `false` turns it off, for an environment.
    pub(crate) queue: Option<At<Switch<QueuedRoute>>>,
    /// Whether requests to a queued route need an `Idempotency-Key`; without one they then get 400.
    #[schemars(extend("default" = "optional"))]
    pub(crate) idempotency_key: Option<At<KeyUse>>,
    /// Whose key it is: a field, a cookie, or a claim of the JWT in `Authorization: Bearer`. It must stay the same when
    /// a token is refreshed. Without it keys are the route's, and with other credentials than the first time (the
    /// `Authorization` field) a key gets 422.
    pub(crate) principal: Option<At<PrincipalText>>,
    /// The saga that is carried out for a request to a queued route, instead of sending it to the service.
    pub(crate) saga: Option<At<Name>>,
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

/// What a flow or route must meet.
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
    /// Overrides and additions: routes, as in `route`. Tables merge, anything else replaces.
    #[serde(default)]
    #[expect(dead_code, reason = "merged with the file's own before it is read; here it gives the shape")]
    pub(crate) route: Table<RouteText, Route>,
    /// Overrides: the keys of `release`. Tables merge, anything else replaces.
    #[expect(dead_code, reason = "merged with the file's own before it is read; here it gives the shape")]
    pub(crate) release: Option<Release>,
    /// Overrides: the keys of `notify`. Tables merge, anything else replaces.
    #[expect(dead_code, reason = "merged with the file's own before it is read; here it gives the shape")]
    pub(crate) notify: Option<Notify>,
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
