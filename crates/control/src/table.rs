//! What the gateway is to serve: worked out from the state of the release, and from which instances are ready.

use crate::agent::Agent;
use crate::stamp::Stamp;
use api::gateway::{Guard, Persist, Table, TableInstance, TableStamp};
use model::machine::{self, Course, Side, State};

/// So many connections that a new release's instances do not take bring its users back at once: one more than a
/// restart of one instance between two looks.
const CONNECT_FAILURES_LIMIT: u32 = 3;

impl Agent {
    /// Wants a table, unless it is the one that is wanted already. Gives its serial.
    pub(crate) fn want(&mut self, table: Table, persist: Persist) -> u64 {
        match &self.wanted {
            Some((serial, how, wanted)) if *wanted == table && *how == persist => *serial,
            _ => {
                let serial = self.router.want(table.clone(), persist);
                self.wanted = Some((serial, persist, table));
                serial
            }
        }
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
        if [candidate, fallback].into_iter().flatten().any(|stamp| !stamp.known()) {
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
            guard: (course.has_old && (machine::offers(state) || machine::falls_back(state))).then_some(
                Guard {
                    max_excess_errors: policy.max_excess_errors,
                    max_connect_failures: CONNECT_FAILURES_LIMIT,
                },
            ),
        })
    }
}

fn table_stamp(stamp: &Stamp) -> TableStamp {
    let configuration = &stamp.release.configuration;
    let instances = stamp.views().filter(|(id, _)| id.component == configuration.gateway.default).filter_map(
        |(id, view)| Some(TableInstance { index: id.index, address: view.ready()?, pid: view.pid? }),
    );
    TableStamp {
        stamp: stamp.id,
        release: stamp.id.release(),
        name: stamp.release.name.clone(),
        instances: instances.collect(),
        settings: configuration.gateway.clone(),
    }
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
