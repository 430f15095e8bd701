//! Queued routes and sagas.

use super::{At, CallText, DurationText, Json, JsonPathText, Name, PathText, SizeText};
use crate::text::{show_duration, show_size};
use model::queue::{QueueLimits as LimitsDefault, QueuedRoute as RouteDefault, SAGA_STEPS_LIMIT};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The most attempts that can be asked for: at the longest pause they are more than a month.
pub(crate) const ATTEMPTS_LIMIT: u32 = 100_000;

/// What can be had with all its defaults by `true`, and be turned off by `false`.
#[derive(Debug)]
pub(crate) enum Switch<T> {
    On,
    Off,
    With(Box<T>),
}

/// By hand, because serde's untagged enums forget where a value was written.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Switch<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table")
            }
            fn visit_bool<E>(self, on: bool) -> Result<Switch<T>, E> {
                Ok(if on { Switch::On } else { Switch::Off })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|table| Switch::With(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("boolean or {}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, table] })
    }
}

/// How the requests of a route are written down and delivered.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueuedRoute {
    /// How long a client waits for the service's own answer before it gets 202, at most a minute, where it asks for
    /// nothing else by `Prefer`.
    #[schemars(extend("default" = show_duration(RouteDefault::default().wait)))]
    pub(crate) wait: Option<At<DurationText>>,
    /// Where a JSON body says what it is delivered in order with: requests with the same value here go one after the
    /// other. Without it, and for bodies without such a value, there is no order.
    pub(crate) order_by: Option<At<JsonPathText>>,
    /// How often a delivery is attempted before the job is dead.
    #[schemars(range(min = 1, max = ATTEMPTS_LIMIT), extend("default" = RouteDefault::default().attempts))]
    pub(crate) attempts: Option<u32>,
    /// Whether the service honours `Idempotency-Key`: only then is sent again what may have happened. Of a saga: whether
    /// the services of its steps do.
    #[schemars(extend("default" = RouteDefault::default().idempotent))]
    pub(crate) idempotent: Option<bool>,
    /// A path of the service, with `{body:JSONPATH}` and `{key}`, asked by GET after an attempt with an unknown outcome
    /// where the service is not idempotent: 2xx says that it happened, 404 and 410 that it did not, anything else that
    /// it is still unknown.
    pub(crate) probe: Option<At<PathText>>,
    /// How long a job with an unknown outcome holds up those that are delivered in order behind it.
    #[schemars(extend("default" = show_duration(RouteDefault::default().unknown_hold)))]
    pub(crate) unknown_hold: Option<At<DurationText>>,
    /// How old a job may get, from when it is due, before it is dead.
    #[schemars(extend("default" = show_duration(RouteDefault::default().max_age)))]
    pub(crate) max_age: Option<At<DurationText>>,
    /// The largest body, at most 64MiB; more gets 413.
    #[schemars(extend("default" = show_size(RouteDefault::default().body)))]
    pub(crate) body: Option<At<SizeText>>,
    /// How long one attempt may take until the whole answer is there.
    #[schemars(extend("default" = show_duration(RouteDefault::default().attempt_timeout)))]
    pub(crate) attempt_timeout: Option<At<DurationText>>,
    /// What a request with the key of one that is not done gets: 202 with the same `Location`, or 409.
    #[schemars(extend("default" = "accepted"))]
    pub(crate) in_flight: Option<InFlight>,
}

/// What a repeated request gets while the first one is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InFlight {
    /// 202.
    Accepted,
    /// 409.
    Conflict,
}

/// Whether requests need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyUse {
    /// Without one they get 400.
    Required,
    /// Without one each is a new one.
    Optional,
}

/// The limits of an environment's queue.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueueLimits {
    /// Jobs that are not done.
    #[schemars(range(min = 1, max = 100_000_000), extend("default" = LimitsDefault::default().jobs))]
    pub(crate) jobs: Option<u64>,
    /// Bytes of their requests on disk.
    #[schemars(extend("default" = show_size(LimitsDefault::default().bytes)))]
    pub(crate) bytes: Option<At<SizeText>>,
    /// How long what is done is kept, with its answer and its key; a day at least.
    #[schemars(extend("default" = show_duration(LimitsDefault::default().retention)))]
    pub(crate) retention: Option<At<DurationText>>,
    /// Deliveries in flight to one service or external.
    #[schemars(range(min = 1, max = 10_000), extend("default" = LimitsDefault::default().concurrency))]
    pub(crate) concurrency: Option<u32>,
    /// The longest pause between two attempts.
    #[schemars(extend("default" = show_duration(LimitsDefault::default().longest_pause)))]
    pub(crate) longest_pause: Option<At<DurationText>>,
}

/// Calls to several services that happen all, or are undone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saga {
    /// The step whose answer the client gets. Without it the last one's.
    pub(crate) answer: Option<At<Name>>,
    /// Its calls, in order. At least one.
    #[serde(default)]
    #[schemars(length(min = 1, max = SAGA_STEPS_LIMIT))]
    pub(crate) step: Vec<At<SagaStep>>,
}

/// One call: exactly one method with a component and a path. Values in braces are filled in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = unsafe_methods()))]
pub(crate) struct SagaStep {
    /// Its name, by which later steps read its answer: `{NAME:JSONPATH}`.
    pub(crate) name: At<Name>,
    /// POST to this path of a service or an external.
    pub(crate) post: Option<At<CallText>>,
    /// PUT to it.
    pub(crate) put: Option<At<CallText>>,
    /// PATCH it.
    pub(crate) patch: Option<At<CallText>>,
    /// DELETE it.
    pub(crate) delete: Option<At<CallText>>,
    /// The JSON body. Without it the client's own body is sent. A text that is one value in braces and nothing else is
    /// that JSON value, whatever its type.
    pub(crate) json: Option<At<Json>>,
    /// What undoes it when a later step has failed. Without it what follows this step is tried until it succeeds, and
    /// nothing is undone any more.
    pub(crate) undo: Option<At<Undo>>,
    /// How often it is attempted before it has failed.
    #[schemars(range(min = 1, max = ATTEMPTS_LIMIT), extend("default" = RouteDefault::default().attempts))]
    pub(crate) attempts: Option<u32>,
    /// Whether this service honours `Idempotency-Key`. Without it: what the queued routes of this saga say of all.
    pub(crate) idempotent: Option<bool>,
    /// As `probe` of a queued route, on the same service.
    pub(crate) probe: Option<At<PathText>>,
    /// How long one attempt may take until the whole answer is there.
    #[schemars(extend("default" = show_duration(RouteDefault::default().attempt_timeout)))]
    pub(crate) timeout: Option<At<DurationText>>,
}

/// What undoes a step: exactly one method with a component and a path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = unsafe_methods()))]
pub(crate) struct Undo {
    /// POST to this path of a service or an external.
    pub(crate) post: Option<At<CallText>>,
    /// PUT to it.
    pub(crate) put: Option<At<CallText>>,
    /// PATCH it.
    pub(crate) patch: Option<At<CallText>>,
    /// DELETE it.
    pub(crate) delete: Option<At<CallText>>,
    /// The JSON body. Without it there is none. The step's own answer can be read too.
    pub(crate) json: Option<At<Json>>,
}

fn unsafe_methods() -> serde_json::Value {
    let names = ["post", "put", "patch", "delete"];
    names.iter().map(|name| serde_json::json!({ "required": [name] })).collect()
}
