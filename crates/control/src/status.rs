//! The environment at a glance, from what the loop holds.

use crate::agent::{Agent, AgentError};
use crate::observe::Live;
use crate::stamp::Stamp;
use api::clock::unix_ms;
use api::operator::{InstanceStatus, ReleaseSummary, StampStatus, Status};
use model::machine::{self, State};
use model::name::StampId;
use model::workload::Configuration;
use store::records::ReleaseRecord;

/// How many releases a status names.
const RELEASES_SHOWN: u32 = 10;

pub(crate) async fn status(agent: &Agent) -> Result<Status, AgentError> {
    let active = agent.active();
    let records = agent.records.latest(RELEASES_SHOWN).await?;
    let releases = records.iter().map(|record| {
        let configuration = record.release.as_ref().map(|release| &release.configuration);
        summary(record, configuration, Some(&agent.observer.live().borrow()))
    });
    let mut stamps: Vec<_> =
        agent.stamps.values().map(|stamp| stamp_status(stamp, role(agent, stamp.id, active))).collect();
    stamps.sort_by_key(|stamp| (Some(stamp.stamp) != active, stamp.stamp));
    Ok(Status {
        v: api::PROTOCOL_VERSION,
        workload: agent.mark.workload.clone(),
        environment: agent.mark.environment.clone(),
        class: agent.mark.class,
        http: agent.mark.listen.http,
        agent_pid: std::process::id(),
        gateway: agent.router.view().gateway,
        active,
        active_ready: active.and_then(|id| agent.stamps.get(&id)).is_some_and(Stamp::ready),
        stamps,
        stores: agent.stores.status(),
        releases: releases.collect(),
    })
}

/// A release in one line. `configuration` tells how long its old stamp is kept, `live` what is seen of the one under
/// way.
pub(crate) fn summary(
    record: &ReleaseRecord,
    configuration: Option<&Configuration>,
    live: Option<&Live>,
) -> ReleaseSummary {
    let live = live.filter(|live| live.release == Some(record.number));
    let ms = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e6);
    let reason = record.state.reason();
    let kept = configuration.filter(|_| record.state == State::Promoted).and_then(|configuration| {
        let limit = machine::deadline(&record.state, configuration)?;
        let spent = unix_ms().saturating_sub(record.state_since_ms);
        Some((limit.as_millis() as u64).saturating_sub(spent))
    });
    ReleaseSummary {
        number: record.number,
        name: record.name.clone(),
        digest: record.release.as_ref().map(|release| release.digest.clone()),
        state: record.state.name().into(),
        ended: record.state.is_final(),
        reason: reason.map(|reason| reason.kind.to_string()),
        reason_text: reason.map(|reason| reason.text.clone()),
        switch_ms: ms(record.switch_ns),
        rollback_ms: ms(record.rollback_ns),
        rehearsal_ms: ms(record.rehearsal_ns),
        gate: live.and_then(|live| live.gate.clone()),
        percent: match machine::serving(&record.state) {
            machine::Side::Candidate => 100.0,
            machine::Side::Old => live.map_or(0.0, |live| f64::from(live.weight) / 100.0),
        },
        created_ms: record.created_ms,
        old_kept_ms: kept,
    }
}

fn role(agent: &Agent, id: StampId, active: Option<StampId>) -> &'static str {
    match agent.release_state() {
        _ if active == Some(id) => "active",
        Some(State::RehearsingForward | State::Switching | State::Baking | State::Promoted) => "previous",
        Some(
            State::Planned
            | State::Expanding
            | State::Provisioning
            | State::Verifying
            | State::Warming
            | State::Shifting { .. }
            | State::RehearsingBack,
        ) => "candidate",
        Some(
            State::TakingBack { .. }
            | State::Retiring
            | State::Contracting
            | State::Done
            | State::Aborting { .. }
            | State::Refused { .. }
            | State::RolledBack { .. },
        )
        | None => "stopping",
    }
}

fn stamp_status(stamp: &Stamp, role: &str) -> StampStatus {
    let instances = stamp.views().map(|(id, view)| InstanceStatus {
        component: id.component.clone(),
        index: id.index,
        port: view.port,
        pid: view.pid,
        ready: view.serves(),
        restarts: view.restarts,
        last_exit: view.last_exit,
        memory: view.memory,
        failing: view.failing,
        replaced: view.replaced,
    });
    StampStatus {
        stamp: stamp.id,
        name: stamp.release.name.clone(),
        role: role.into(),
        instances: instances.collect(),
        all_failing: stamp.all_failing(),
    }
}
