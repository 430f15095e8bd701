//! What bridges moments in which an instance or a stamp is away.

use super::{At, DurationText, Json, PathText};
use crate::text::show_duration;
use model::away::Hold as HoldDefault;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

/// How often an instance is asked whether it still answers when the file does not say.
pub(crate) const LIVE_EVERY: Duration = Duration::from_secs(1);
/// How long its answer may take when the file does not say.
pub(crate) const LIVE_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest that a request can be held.
pub(crate) const HOLD_LONGEST: Duration = Duration::from_secs(60);

/// Whether an instance that runs still answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Live {
    /// The path that must answer 2xx or 3xx.
    pub(crate) get: At<PathText>,
    /// How often each instance is asked.
    #[schemars(extend("default" = show_duration(LIVE_EVERY)))]
    pub(crate) every: Option<At<DurationText>>,
    /// How long the answer may take to begin.
    #[schemars(extend("default" = show_duration(LIVE_TIMEOUT)))]
    pub(crate) timeout: Option<At<DurationText>>,
}

/// Requests that wait while no instance takes them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hold {
    /// How many may wait in the whole gateway at once; more get 503 with Retry-After.
    #[schemars(range(min = 1, max = 10_000), extend("default" = HoldDefault::default().requests))]
    pub(crate) requests: Option<u32>,
    /// How long each may wait, at most a minute; then it gets the error it would have had without. `"0s"`: nobody
    /// waits.
    #[schemars(extend("default" = show_duration(HoldDefault::default().time)))]
    pub(crate) time: Option<At<DurationText>>,
}

/// `true`, `false`, or a table with `files`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct PreviousStamp(pub(crate) Json);

impl JsonSchema for PreviousStamp {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "boolean or { files }".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let table = serde_json::json!({
            "type": "object",
            "properties": { "files": { "type": "string" } },
            "required": ["files"],
            "additionalProperties": false,
        });
        json_schema!({ "title": "boolean or { files }", "anyOf": [{ "type": "boolean" }, table] })
    }
}
