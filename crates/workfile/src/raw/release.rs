//! How a release travels, and who hears of it.

use super::{At, DurationText, UrlText};
use crate::text::show_duration;
use model::workload::{Class, ReleasePolicy};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// How a release travels.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Release {
    /// Percent of users on the candidate, step by step: ascending, the last one 100.
    #[schemars(length(min = 1), inner(range(min = 1, max = 100)))]
    #[schemars(extend("default-by-class" = by_class(|policy| json!(policy.shift))))]
    pub(crate) shift: Option<At<Vec<At<u8>>>>,
    /// How long each step below 100 lasts at least.
    #[schemars(extend("default-by-class" = by_class(|policy| json!(show_duration(policy.step_time)))))]
    pub(crate) step_time: Option<At<DurationText>>,
    /// How long everybody is on the candidate, with the old stamp ready to take over, before it is promoted.
    #[schemars(extend("default-by-class" = by_class(|policy| json!(show_duration(policy.bake)))))]
    pub(crate) bake: Option<At<DurationText>>,
    /// How long the candidate is played the flows that only read, before it gets users.
    #[schemars(extend("default-by-class" = by_class(|policy| json!(show_duration(policy.warm_up)))))]
    pub(crate) warm_up: Option<At<DurationText>>,
    /// How long the old stamp stays warm after a promotion.
    #[schemars(extend("default-by-class" = by_class(|policy| json!(show_duration(policy.keep_old)))))]
    pub(crate) keep_old: Option<At<DurationText>>,
    /// Requests that the candidate must have answered in a step before it can pass.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    #[schemars(extend("default-by-class" = by_class(|policy| json!(policy.min_requests))))]
    pub(crate) min_requests: Option<u64>,
    /// How many users may be hurt, beyond what the old stamp's own errors explain, before all go back.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[schemars(extend("default-by-class" = by_class(|policy| json!(policy.max_excess_errors))))]
    pub(crate) max_excess_errors: Option<u32>,
    /// What it means when a step has lasted three times its time, and 10 seconds at least, and still has had too
    /// few requests: the release is taken back, or goes on and says so.
    #[schemars(extend("default-by-class" = by_class(|policy| json!(policy.on_inconclusive))))]
    pub(crate) on_inconclusive: Option<OnInconclusive>,
}

/// What holds by class where nothing is said. Staging and development are alike; a test holds it.
fn by_class(pick: fn(&ReleasePolicy) -> Value) -> Value {
    json!({
        "production": pick(&ReleasePolicy::of(Class::Production)),
        "otherwise": pick(&ReleasePolicy::of(Class::Development)),
    })
}

/// What too few requests mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnInconclusive {
    /// The release is taken back.
    Abort,
    /// It goes on, and says so.
    Continue,
}

/// Who is told when the state of a release changes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Notify {
    /// Program and arguments, run with each change as JSON on its standard input. No shell; braces are literal.
    #[schemars(length(min = 1))]
    pub(crate) command: Option<At<Vec<At<String>>>>,
    /// A plain `http` URL that gets each change as JSON by POST.
    pub(crate) webhook: Option<At<UrlText>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_production_releases_travel_alike() {
        assert_eq!(ReleasePolicy::of(Class::Staging), ReleasePolicy::of(Class::Development));
    }
}
