//! What the gateway is to serve: worked out from the state of the release, and from which instances are ready.

use crate::agent::Agent;
use crate::instance::View;
use crate::stamp::Stamp;
use api::gateway::{GatewayState, Guard, Persist, Table, TableInstance, TableStamp, TableUpstream};
use model::machine::{self, Course, Side, State};
use model::name::{ComponentName, InstanceId};
use std::collections::BTreeMap;

/// So many connections that a new release's instances do not take bring its users back at once: one more than a
/// restart of one instance between two looks.
const CONNECT_FAILURES_LIMIT: u32 = 3;

impl Agent {
    /// Wants the table of a state, unless it is the one that is wanted already. Gives its serial.
    pub(crate) fn want(&mut self, state: &State, table: Table, persist: Persist) -> u64 {
        if let Some(current) = &mut self.current {
            current.told = Some(state.clone());
        }
        match &self.wanted {
            Some((serial, how, wanted)) if *wanted == table && *how == persist => *serial,
            _ => {
                let serial = self.router.want(table.clone(), persist);
                self.wanted = Some((serial, persist, table));
                serial
            }
        }
    }

    /// The state whose table the gateway has. Of what an agent before this one told it only as much is known as it
    /// says itself; none when that is not what this state asks for.
    pub(crate) fn told(&self) -> Option<State> {
        let current = self.current.as_ref()?;
        if current.told.is_some() {
            return current.told.clone();
        }
        let state = &current.record.state;
        // An instance that this agent has found and not yet seen to be ready may well be answering users.
        if !self.stamps.values().all(Stamp::settled) {
            return None;
        }
        let (table, gateway) = (self.table(state)?, self.router.view().gateway?);
        serves(&gateway, &table).then(|| state.clone())
    }

    /// What the gateway is to serve in `state`. None while an instance of a stamp it names has not been looked
    /// for: it may well be serving.
    pub(crate) fn table(&self, state: &State) -> Option<Table> {
        let record = &self.current.as_ref()?.record;
        let id = match machine::serving(state) {
            Side::Old => record.old,
            Side::Candidate => Some(record.number.stamp()),
        };
        let active = id.and_then(|id| self.stamps.get(&id));
        if active.is_some_and(|stamp| !stamp.known()) {
            return None;
        }
        let candidate = self.stamps.get(&record.number.stamp()).filter(|_| machine::offers(state));
        let fallback = record.old.and_then(|id| self.stamps.get(&id)).filter(|_| machine::falls_back(state));
        let previous = self.previous(state, active);
        if [candidate, fallback, previous].into_iter().flatten().any(|stamp| !stamp.known()) {
            return None;
        }
        let course = &self.current.as_ref()?.course;
        let policy = &self.current.as_ref()?.request.configuration.policy;
        Some(Table {
            preview_token: self.preview_token.clone(),
            trusted_proxies: self.mark.listen.trusted_proxies.clone(),
            active: active.map(table_stamp),
            candidate: candidate.map(table_stamp),
            weight: machine::weight(course, state),
            fallback: fallback.map(table_stamp),
            previous: previous.map(table_stamp),
            kept: self.kept_artifact(state, active),
            guard: (course.has_old && (machine::offers(state) || machine::falls_back(state))).then_some(
                Guard {
                    max_excess_errors: policy.max_excess_errors,
                    max_connect_failures: CONNECT_FAILURES_LIMIT,
                },
            ),
        })
    }
}

/// Whether the gateway gives its users to the stamps of this table, in these shares.
fn serves(gateway: &GatewayState, table: &Table) -> bool {
    let stamp = |stamp: &Option<TableStamp>| stamp.as_ref().map(|stamp| stamp.stamp);
    (gateway.active, gateway.candidate, gateway.weight)
        == (stamp(&table.active), stamp(&table.candidate), table.weight)
}

fn table_stamp(stamp: &Stamp) -> TableStamp {
    let configuration = &stamp.release.configuration;
    TableStamp {
        stamp: stamp.id,
        release: stamp.id.release(),
        name: stamp.release.name.clone(),
        instances: ready(stamp, &configuration.gateway.default),
        settings: configuration.gateway.clone(),
        upstreams: upstreams(stamp),
    }
}

/// Where sagas reach what they call, but for the service that gets the requests. Not only what the stamp's own sagas
/// call: one that a release has begun that is taken back by now is finished, or undone, on this stamp.
fn upstreams(stamp: &Stamp) -> BTreeMap<ComponentName, TableUpstream> {
    let configuration = &stamp.release.configuration;
    let services = configuration.services.iter().filter(|(_, service)| service.http).map(|(name, _)| name);
    let others = services.chain(configuration.externals.keys());
    let others = others.filter(|name| **name != configuration.gateway.default);
    let upstream = |name: &ComponentName| match configuration.externals.get(name) {
        Some(external) => TableUpstream::Url(external.url.clone()),
        None => TableUpstream::Instances(ready(stamp, name)),
    };
    others.map(|name| (name.clone(), upstream(name))).collect()
}

/// The instances of a component that are ready.
fn ready(stamp: &Stamp, component: &ComponentName) -> Vec<TableInstance> {
    let views = stamp.views().filter(|(id, _)| id.component == *component);
    let ready = |(id, view): (&InstanceId, View)| {
        Some(TableInstance { index: id.index, address: view.ready()?, pid: view.pid? })
    };
    views.filter_map(ready).collect()
}

/// A table acts before the gateway has stored it: the state it follows from is recorded, and a gateway that dies in
/// between begins with the table before, whose stamp is kept warm. Only where there is no such stamp is it stored
/// first.
pub(crate) fn persist_of(course: &Course, state: &State) -> Persist {
    match *state == State::Switching && !course.has_old {
        true => Persist::First,
        false => Persist::After,
    }
}
