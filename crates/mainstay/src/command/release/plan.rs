//! `release --plan`: the states a release would go through, with what they do and how long they last, and whether the
//! machine has room for it.

use crate::command::show::agent_status;
use crate::environment::Found;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use api::client::CallError;
use api::operator::{Check, Plan, ReleaseRequest};
use http::Method;
use model::machine::Course;
use model::verdict::Verdict;
use model::workload::Configuration;
use std::process::ExitCode;

/// One thing that would happen.
struct Step {
    state: &'static str,
    text: String,
}

/// Prints the plan of a release, and asks for nothing. Exit code 1: the release would be refused.
pub(super) async fn show(
    found: &Found,
    request: &ReleaseRequest,
    output: Output,
) -> Result<ExitCode, Failure> {
    let active = agent_status(found, output).await?.active;
    let course = Course::of(&request.configuration, active.is_some(), request.rehearse);
    let steps = steps(&course, &request.configuration);
    // An agent of before this version does not know of plans; what it refuses is said when it is asked for a release.
    let plan: Option<Plan> = match found.patient_agent().call(Method::POST, "/v1/plan", request).await {
        Ok(plan) => Some(plan),
        Err(CallError::NoAnswer { .. }) => None,
        Err(error @ (CallError::NotThere { .. } | CallError::Refused(_))) => return Err(error.into()),
    };
    let checks = plan.as_ref().map_or(&[][..], |plan| plan.checks.as_slice());
    let mut lines: Vec<String> =
        steps.iter().map(|step| format!("{:20} {}", step.state, step.text)).collect();
    lines.extend(checks.iter().map(line));
    if plan.is_none() {
        lines.push(format!("{:20} the agent does not say whether there is room", "?"));
    }
    let json: Vec<_> =
        steps.iter().map(|step| serde_json::json!({ "state": step.state, "text": step.text })).collect();
    output.data(lines.join("\n"), &serde_json::json!({ "plan": json, "checks": checks }));
    if checks.iter().any(|check| check.verdict == Verdict::Fail) {
        output.next(&[("see what runs", format!("mainstay status {}", found.name))]);
        return Ok(Exit::Verdict.code());
    }
    output.next(&[("do it", format!("mainstay release {}", found.name))]);
    Ok(ExitCode::SUCCESS)
}

/// What was looked at, in one line.
fn line(check: &Check) -> String {
    let word = match check.verdict {
        Verdict::Pass => "fits",
        Verdict::Fail => "does not fit",
        Verdict::Inconclusive | Verdict::Invalid => "note",
    };
    format!("{word:20} {}", check.text)
}

fn steps(course: &Course, configuration: &Configuration) -> Vec<Step> {
    let policy = &configuration.policy;
    let names = |names: Vec<&model::name::ComponentName>| {
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let mut steps = Vec::new();
    let mut add = |state, text: String| steps.push(Step { state, text });
    add(
        "planned",
        format!("store the artifacts of {} components, hash the release", configuration.artifacts().count()),
    );
    if course.expands {
        let stores = names(configuration.expanding().map(|(name, _)| name).collect());
        add("expanding", format!("`expand` of {stores}, then smoke of what serves, on the new schema"));
    }
    let instances: u32 = configuration.services.values().filter(|s| s.http).map(|s| s.instances).sum();
    add("provisioning", format!("start {instances} instances and wait until they are ready"));
    add("verifying", format!("smoke with {} flows on each of them", configuration.flows.len()));
    if course.warms {
        add("warming", format!("{:?} of read flows", policy.warm_up));
    }
    for weight in &course.weights {
        let percent = f64::from(*weight) / 100.0;
        let text = format!(
            "{percent} % of users for {:?} at least and {} requests; back at {} too many errors",
            policy.step_time, policy.min_requests, policy.max_excess_errors
        );
        add("shifting", text);
    }
    add("switching", "all users, in one swap".into());
    if course.rehearses {
        add("rehearsing", "all users back and forward again".into());
    }
    if course.bakes {
        add("baking", format!("{:?} with the stamp before ready to take over", policy.bake));
    }
    if course.has_old {
        add(
            "promoted",
            format!("workers change hands; the stamp before stays warm for {:?}", policy.keep_old),
        );
        add("retiring", "the stamp before drains and stops".into());
    }
    if course.contracts {
        let stores = names(configuration.contracting().map(|(name, _)| name).collect());
        add("contracting", format!("`contract` of {stores}; earlier code cannot come back after that"));
    }
    add("done", "it serves alone".into());
    steps
}
