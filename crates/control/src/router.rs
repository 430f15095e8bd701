//! What the gateway is told: one task brings the latest wanted table to it, whatever happens to the gateway.

use api::client::{CallError, Client};
use api::gateway::{Applied, ClosedSlot, GatewayState, Measures, Persist, PutTable, Table, TableUpstream};
use model::name::{FenceToken, InstanceId, StampId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// How long one call to the gateway may take. It answers after an fsync at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a table that could not be brought is tried again. A gateway is started again within this order.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// How rarely it is tried when that goes on.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// How often the gateway is looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked at while a stamp drains.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often in a row an instance must be seen to be left alone by the gateway: one of its threads may have chosen it
/// just before the table changed.
const QUIET_LOOKS: u32 = 2;

/// A table to bring.
#[derive(Debug, Clone)]
struct Wanted {
    /// Counts the tables wanted by this agent, from 1; 0 is none yet.
    serial: u64,
    persist: Persist,
    table: Option<Table>,
}

/// What is known of the gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouterView {
    /// The last table it has taken on, by its serial.
    pub(crate) applied: u64,
    /// Slots that were closed, with their last dispatch.
    pub(crate) closed: BTreeMap<StampId, ClosedSlot>,
    /// As last seen; none when it did not answer.
    pub(crate) gateway: Option<GatewayState>,
    /// Why the last try did not work.
    pub(crate) error: Option<String>,
}

/// Speaks to the gateway. Clones speak through the same task.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<RouterView>,
    client: Client,
}

impl Router {
    /// Starts the task. It ends with the last clone of the router.
    pub(crate) fn start(socket: PathBuf, fence: FenceToken) -> Self {
        let client = Client::new(socket, CALL_TIMEOUT);
        let none = Wanted { serial: 0, persist: Persist::After, table: None };
        let (wanted, to_bring) = watch::channel(none);
        let (publish, view) = watch::channel(RouterView::default());
        tokio::spawn(bring(client.clone(), fence, to_bring, publish));
        Self { wanted, view, client }
    }

    /// Wants `table` from now on; earlier ones that were not brought yet are forgotten. Gives its serial.
    pub(crate) fn want(&self, table: Table, persist: Persist) -> u64 {
        let mut serial = 0;
        self.wanted.send_modify(|wanted| {
            serial = wanted.serial + 1;
            *wanted = Wanted { serial, persist, table: Some(table) };
        });
        serial
    }

    /// Waits until the gateway has taken on the table with this serial, or a later one.
    pub(crate) async fn applied(&self, serial: u64) -> RouterView {
        let mut view = self.view.clone();
        let view = view.wait_for(|view| view.applied >= serial).await;
        view.expect("the task lives as long as a router does").clone()
    }

    /// What is known now.
    pub(crate) fn view(&self) -> RouterView {
        self.view.borrow().clone()
    }

    /// Asks the gateway how it is; none when it does not answer.
    pub(crate) async fn look(&self) -> Option<GatewayState> {
        self.client.get("/v1/state").await.ok()
    }

    /// What the gateway has measured; none when it does not answer.
    pub(crate) async fn measures(&self) -> Option<Measures> {
        self.client.get("/v1/measures").await.ok()
    }

    /// Waits until the gateway sends an instance nothing more and has nothing in flight on it, or `patience` is over.
    /// False when the gateway may still send it something.
    pub(crate) async fn let_go(&self, id: &InstanceId, pid: u32, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            if tokio::time::Instant::now() >= deadline {
                return self.left_out(id, pid);
            }
            // One that does not answer may well be sending.
            let has = self.look().await.is_none_or(|state| {
                let loads = &state.instances;
                loads.iter().any(|load| (load.stamp, load.index, load.pid) == (id.stamp, id.index, pid))
            });
            quiet = if has { 0 } else { quiet + 1 };
            tokio::time::sleep(DRAIN_LOOK_EVERY).await;
        }
        true
    }

    /// Whether the gateway has taken on the latest table, and the instance is not in it.
    fn left_out(&self, id: &InstanceId, pid: u32) -> bool {
        let wanted = self.wanted.borrow();
        let named = wanted.table.as_ref().is_none_or(|table| names(table, id.stamp, pid));
        !named && self.view.borrow().applied >= wanted.serial
    }

    /// Waits until nothing is in flight on a closed slot, or `patience` is over. Gives what is left.
    pub(crate) async fn drained(&self, stamp: StampId, patience: Duration) -> u64 {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            // One that does not answer may well have requests in flight. One that was started again has none
            // on a slot it never had.
            let left = self.look().await.map_or(1, |state| {
                state.closed.iter().filter(|slot| slot.stamp == stamp).map(|slot| slot.in_flight).sum()
            });
            if left == 0 || tokio::time::Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(DRAIN_LOOK_EVERY).await;
        }
    }
}

/// Whether the gateway sends something to the process of a stamp when it has this table.
fn names(table: &Table, stamp: StampId, pid: u32) -> bool {
    let stamps = [&table.active, &table.candidate, &table.fallback, &table.previous].into_iter().flatten();
    let called = |upstream: &TableUpstream| match upstream {
        TableUpstream::Instances(all) => all.iter().any(|instance| instance.pid == pid),
        TableUpstream::Url(_) => false,
    };
    stamps.filter(|known| known.stamp == stamp).any(|known| {
        known.instances.iter().any(|instance| instance.pid == pid) || known.upstreams.values().any(called)
    })
}

async fn bring(
    client: Client,
    fence: FenceToken,
    mut to_bring: watch::Receiver<Wanted>,
    publish: watch::Sender<RouterView>,
) {
    let mut brought = 0;
    let mut pid = None;
    let mut retry_after = RETRY_FIRST;
    loop {
        let wanted = to_bring.borrow_and_update().clone();
        if let Some(table) = wanted.table.filter(|_| wanted.serial > brought) {
            let put = PutTable { v: api::PROTOCOL_VERSION, fence, persist: wanted.persist, table };
            match client.call::<Applied>(http::Method::PUT, "/v1/table", &put).await {
                Ok(applied) => {
                    brought = wanted.serial;
                    retry_after = RETRY_FIRST;
                    publish.send_modify(|view| take_on(view, brought, applied));
                }
                Err(error) => {
                    if retry_after == RETRY_FIRST {
                        complain(&error);
                    }
                    publish.send_modify(|view| {
                        view.error = Some(error.to_string());
                        view.gateway = None;
                    });
                    tokio::time::sleep(retry_after).await;
                    retry_after = (retry_after * 2).min(RETRY_LAST);
                    continue;
                }
            }
        }
        let state: Result<GatewayState, _> = client.get("/v1/state").await;
        if let Ok(state) = &state {
            // A gateway that was started again serves from the table it stored: it is told afresh.
            if state.revision == 0 || pid.is_some_and(|pid| pid != state.pid) {
                brought = 0;
            }
            pid = Some(state.pid);
        }
        publish.send_modify(|view| {
            view.error = state.as_ref().err().map(ToString::to_string);
            view.gateway = state.ok();
        });
        if wanted.serial > brought {
            continue;
        }
        tokio::select! {
            changed = to_bring.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn take_on(view: &mut RouterView, serial: u64, applied: Applied) {
    if let Some(error) = applied.not_stored {
        tracing::error!("the gateway acted on a table it could not store: {error}");
    }
    view.applied = serial;
    view.error = None;
    for slot in applied.closed {
        view.closed.insert(slot.stamp, slot);
    }
}

fn complain(error: &CallError) {
    match error {
        CallError::Refused(problem) => tracing::error!("the gateway refused a table: {problem}"),
        CallError::NotThere { .. } | CallError::NoAnswer { .. } => tracing::warn!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{configuration, gateway};
    use api::gateway::{InstanceLoad, TableInstance, TableStamp};
    use model::name::ComponentName;

    const PID: u32 = 7;

    /// A table whose active stamp sends to these processes, and whose sagas call those.
    fn table(pids: &[u32], called: &[u32]) -> Table {
        let instances = |pids: &[u32]| {
            let instance =
                |pid: &u32| TableInstance { index: 0, address: ([127, 0, 0, 1], 1).into(), pid: *pid };
            pids.iter().map(instance).collect()
        };
        let billing = ComponentName::new("billing").unwrap();
        Table {
            preview_token: "t".into(),
            trusted_proxies: Vec::new(),
            active: Some(TableStamp {
                stamp: StampId(1),
                release: StampId(1).release(),
                name: "one".into(),
                instances: instances(pids),
                settings: configuration().gateway,
                upstreams: [(billing, TableUpstream::Instances(instances(called)))].into(),
            }),
            candidate: None,
            weight: 0,
            fallback: None,
            previous: None,
            kept: None,
            guard: None,
        }
    }

    #[test]
    fn an_instance_is_named_as_long_as_anything_is_sent_to_it() {
        let one = StampId(1);
        assert!(names(&table(&[3, PID], &[]), one, PID));
        assert!(names(&table(&[3], &[PID]), one, PID), "only by sagas");
        assert!(!names(&table(&[3], &[4]), one, PID));
        assert!(!names(&table(&[PID], &[]), StampId(2), PID), "another stamp's");
        let both = Table { previous: table(&[PID], &[]).active, ..table(&[3], &[]) };
        assert!(names(&both, one, PID), "the stamp before is asked as well");
    }

    #[tokio::test]
    async fn an_instance_is_let_go_when_the_gateway_sends_it_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("gateway.sock");
        let seen = gateway(&socket);
        let router = Router::start(socket, FenceToken(1));
        let id = InstanceId { stamp: StampId(1), component: ComponentName::new("api").unwrap(), index: 0 };
        let load = InstanceLoad { stamp: StampId(1), index: 0, pid: PID, in_flight: 1 };
        seen.lock().unwrap().instances = vec![load];
        let short = DRAIN_LOOK_EVERY;
        assert!(!router.let_go(&id, PID, short).await, "what the gateway was told before is not known");
        let serial = router.want(table(&[PID], &[]), Persist::After);
        router.applied(serial).await;
        assert!(!router.let_go(&id, PID, short).await, "it is to be sent requests");
        let serial = router.want(table(&[8], &[]), Persist::After);
        router.applied(serial).await;
        assert!(router.let_go(&id, PID, short).await, "what it has hangs, and nothing more comes");
        seen.lock().unwrap().instances.clear();
        assert!(router.let_go(&id, PID, Duration::from_secs(60)).await);
    }
}
