//! From what was typed to what it means: one [`Configuration`] for one environment. Everything that is wrong
//! is collected; a value that cannot be had is stood in for, so that the rest is still looked at.

mod away;
mod call;
mod component;
mod environment;
mod external;
mod flow;
mod gateway;
mod queue;
mod release;
mod route;
mod saga;
mod service;
mod store;
mod template;

use crate::error::{Findings, Wrong};
use crate::raw::{At, DurationText, File};
use crate::text::parse_duration;
use model::flow::Flow;
use model::name::{EnvironmentName, FlowName, NameError, WorkloadName};
use model::workload::{Class, Configuration};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::time::Duration;

/// The environment that the file is looked at from.
struct Seen<'n> {
    name: &'n str,
    /// Where it is named; empty when the file names none.
    place: Range<usize>,
    /// None when it has none; then there is a finding.
    class: Option<Class>,
}

/// Checks `file`, the file as the environment called `name` at `place` sees it. None when something was
/// found, and perhaps for an environment whose fault an earlier one has told of already.
pub(crate) fn configuration(
    file: &File,
    name: &str,
    place: Range<usize>,
    findings: &mut Findings,
) -> Option<Configuration> {
    let workload = self::name(&file.workload.name, WorkloadName::new, findings);
    let environment = match EnvironmentName::new(name) {
        Ok(environment) => Some(environment),
        Err(error) => {
            findings.add(wrong_name(place.clone(), &error));
            None
        }
    };
    let settings = file.environment.values().next();
    let class = environment::class(settings, name, place.clone(), findings);
    let listen = environment::listen(settings.and_then(|settings| settings.listen.as_ref()), findings);
    let seen = Seen { name, place, class };
    let components = component::components(&file.component, &seen, findings);
    let flows = flows(file, findings);
    let routes = route::routes(file, &flows, findings);
    let gateway = gateway::settings(file, routes, findings);
    // Without a class there is a finding already, and only the rest of the table is still looked at.
    let policy = release::policy(file.release.as_ref(), class.unwrap_or(Class::Production), findings);
    let notify = release::notify(file.notify.as_ref(), findings);
    findings.is_empty().then_some(())?;
    Some(Configuration {
        workload: workload?,
        environment: environment?,
        class: class?,
        listen,
        services: components.services,
        stores: components.stores,
        externals: components.externals,
        gateway: gateway?,
        flows,
        policy,
        notify,
    })
}

fn flows(file: &File, findings: &mut Findings) -> BTreeMap<FlowName, Flow> {
    let mut flows = BTreeMap::new();
    for (key, raw) in &file.flow {
        let name = name(key, FlowName::new, findings);
        let flow = flow::flow(key, raw, findings);
        flows.extend(name.zip(flow));
    }
    flows
}

/// A name by its rule.
fn name<T: Deref<Target = str>, N>(
    raw: &At<T>,
    rule: impl Fn(&str) -> Result<N, NameError>,
    findings: &mut Findings,
) -> Option<N> {
    rule(raw).map_err(|error| findings.add(wrong_name(raw.span(), &error))).ok()
}

fn wrong_name(span: Range<usize>, error: &NameError) -> Wrong {
    Wrong::at(span, error.to_string()).label("not a name")
}

/// A duration that may be zero.
fn duration(raw: Option<&At<DurationText>>, default: Duration, findings: &mut Findings) -> Duration {
    let Some(raw) = raw else { return default };
    parse_duration(raw).unwrap_or_else(|error| {
        let message = format!("\"{}\" is not a duration", crate::shape::shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("not a duration").help(error.to_string()));
        default
    })
}

/// A duration that would make no sense as zero: with it nothing could ever succeed.
fn time_allowed(raw: Option<&At<DurationText>>, default: Duration, findings: &mut Findings) -> Duration {
    let found = duration(raw, default, findings);
    if let (Some(raw), true) = (raw, found.is_zero()) {
        findings.add(Wrong::at(raw.span(), "with no time at all nothing can succeed").label("zero"));
    }
    found
}
