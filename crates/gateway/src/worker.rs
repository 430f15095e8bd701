//! A worker: one thread with a runtime of its own, which serves the connections it is given.
//!
//! A connection, its requests and the upstream connections they use never leave the thread, so nothing on a
//! request's path is locked. What workers share is the routing table, the slots and the instances' counts.

use crate::client::{Client, Phase};
use crate::clock::Clock;
use crate::courier::{self, Carrier};
use crate::desk::Desk;
use crate::fields;
use crate::guard::Guard;
use crate::hold::Waiting;
use crate::ids::{self, Ids, Parts, Random};
use crate::limits::{self, RETRY_COST, RETRY_SAVINGS};
use crate::lines::Lines;
use crate::measures::Outcome;
use crate::metrics::{Counts, Metrics};
use crate::request;
use crate::routes::{Local, Routes, Target};
use crate::traces::Finished;
use crate::upstream::{Pools, Upstream};
use api::folder::StateFolder;
use arc_swap::{ArcSwap, Cache};
use http::{HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use queue::{FirstCall, Queue};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender};

/// What the main thread tells a worker.
pub(crate) enum Order {
    /// A connection to serve.
    Serve(std::net::TcpStream, SocketAddr),
    /// Answers are the last of their connections; the worker ends with its last connection.
    Drain,
    /// The worker ends, whatever is in flight.
    Cut,
}

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) routes: Arc<ArcSwap<Routes>>,
    pub(crate) metrics: Metrics,
    /// Client connections of each worker.
    pub(crate) connections: Box<[AtomicUsize]>,
    /// Told whenever a connection ends, for an accept loop that pauses.
    pub(crate) ended: Notify,
    /// Requests for which there is no instance just now.
    pub(crate) waiting: Waiting,
    /// Where requests to queued routes are taken on.
    pub(crate) desk: Desk,
    /// Where the artifacts lie.
    pub(crate) folder: StateFolder,
}

impl Shared {
    /// Client connections open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// What the connections of one worker share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    shared: Arc<Shared>,
    clock: Rc<Clock>,
    routes: RefCell<Cache<Arc<ArcSwap<Routes>>, Arc<Routes>>>,
    /// The targets of the table that was looked at last.
    targets: RefCell<Vec<Rc<Local>>>,
    pools: RefCell<Pools>,
    lines: RefCell<Lines>,
    carrier: Rc<Carrier>,
    /// First calls of queued requests under way.
    carried: Cell<usize>,
    random: Random,
    ids: Ids,
    clients: RefCell<Vec<Rc<Client>>>,
    draining: Cell<bool>,
    cutting: Cell<bool>,
    /// Requests saved up for repetitions.
    savings: Cell<u32>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        lines: Lines,
        traced: Sender<Finished>,
        seed: u64,
    ) -> Rc<Self> {
        let routes = Cache::new(Arc::clone(&shared.routes));
        // What is drawn here tells nothing of what is drawn there.
        let carrier = Carrier::new(Arc::clone(&shared), index, lines.another(), traced, seed.rotate_left(32));
        Rc::new(Self {
            index,
            shared,
            clock: Rc::new(Clock::new()),
            routes: RefCell::new(routes),
            targets: RefCell::default(),
            pools: RefCell::default(),
            lines: RefCell::new(lines),
            carrier,
            carried: Cell::new(0),
            random: Random::new(seed),
            ids: Ids::default(),
            clients: RefCell::default(),
            draining: Cell::new(false),
            cutting: Cell::new(false),
            savings: Cell::new(RETRY_SAVINGS / 10),
        })
    }

    /// Looks at the table that is in place now.
    pub(crate) fn with_routes<T>(&self, look: impl FnOnce(&Routes) -> T) -> T {
        look(self.routes.borrow_mut().load())
    }

    /// This worker's own reference to a target of the table that is in place.
    pub(crate) fn share(&self, target: &Arc<Target>) -> Rc<Local> {
        let mut targets = self.targets.borrow_mut();
        if let Some(known) = targets.iter().find(|known| Arc::ptr_eq(&known.0, target)) {
            return Rc::clone(known);
        }
        // The table has changed. At most four targets are in one.
        if targets.len() >= 4 {
            targets.clear();
        }
        let shared = Rc::new(Local(Arc::clone(target)));
        targets.push(Rc::clone(&shared));
        shared
    }

    /// Whether the forwarding fields from this address are believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.with_routes(|routes| {
            !routes.trusted_proxies.is_empty()
                && routes.trusted_proxies.iter().any(|proxy| proxy.to_canonical() == address)
        })
    }

    /// Whether access lines are written: as the active release says, or the candidate if there is none.
    pub(crate) fn logs(&self) -> bool {
        let logs = |routes: &Routes| {
            let target = routes.active.as_ref().or(routes.candidate.as_ref());
            target.is_none_or(|target| target.settings.access_log)
        };
        self.with_routes(logs)
    }

    /// The share of requests that are traced. None: none are.
    pub(crate) fn traces(&self) -> Option<f64> {
        self.with_routes(|routes| routes.traces().map(|traces| traces.share))
    }

    /// The id of a request: the one in `believed`, if it is sane, or a new one, with a trace it is the id of.
    pub(crate) fn request_id(&self, believed: Option<&HeaderMap>) -> (HeaderValue, Option<HeaderValue>) {
        if let Some(kept) = believed.and_then(fields::sane_request_id) {
            return (kept, None);
        }
        let trace = self.ids.traceparent(&self.random);
        (ids::trace_id(&trace), Some(ids::value(trace)))
    }

    /// A new trace.
    pub(crate) fn traceparent(&self) -> HeaderValue {
        ids::value(self.ids.traceparent(&self.random))
    }

    /// The trace of `parts` as it goes on under `parent`.
    pub(crate) fn hand_on(&self, parts: &Parts, parent: u64) -> HeaderValue {
        ids::value(self.ids.hand_on(parts, parent))
    }

    /// Hands a traced request to the exporter.
    pub(crate) fn export(&self, finished: Finished) {
        self.carrier.export(finished);
    }

    pub(crate) fn random(&self) -> u64 {
        self.random.next()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.metrics.workers[self.index]
    }

    /// An instance of this stamp did not take a connection, or there was none to ask.
    pub(crate) fn connect_failed(&self, target: &Target) {
        target.counts.workers[self.index].connect_failures.add(1);
        self.look_after(target);
    }

    /// Something went wrong on this stamp. Users who are taken from it need not wait for it.
    fn look_after(&self, target: &Target) {
        if self.with_routes(|routes| routes.look_after(target.slot.stamp)) {
            self.shared.waiting.wake();
        }
    }

    /// A request came to an end on this stamp.
    pub(crate) fn record(&self, target: &Target, route: u16, outcome: Outcome) {
        target.routes.record(self.index, route, outcome);
        let cells = &target.counts.workers[self.index];
        cells.requests.add(1);
        if outcome.error {
            cells.errors.add(1);
            self.look_after(target);
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(crate) fn is_cutting(&self) -> bool {
        self.cutting.get()
    }

    pub(crate) fn take_connection(&self, key: u64, ask: bool) -> Option<Box<Upstream>> {
        self.pools.borrow_mut().take(key, ask)
    }

    pub(crate) fn keep(&self, key: u64, upstream: Box<Upstream>) {
        self.pools.borrow_mut().put(key, upstream, self.clock.now());
    }

    /// Makes the first call of a queued request, in a task of its own: its client may go.
    pub(crate) fn carry(self: &Rc<Self>, queue: &Queue, first: FirstCall) {
        let (load, queue) = (Load::new(Rc::clone(self)), queue.clone());
        tokio::task::spawn_local(async move {
            let (worker, Some(call)) = (&load.0, first.take()) else { return };
            tokio::select! {
                biased;
                // It is not to be under way when its job is found again.
                () = worker.shared.desk.shut_down(&queue) => {}
                () = courier::deliver(&worker.carrier, &queue, call) => {}
            }
        });
    }

    pub(crate) fn write_line(&self, line: &[u8]) {
        self.lines.borrow_mut().write(line, self.counts());
    }

    /// A request is served: a fifth of a repetition is saved.
    fn save(&self) {
        self.savings.set((self.savings.get() + 1).min(RETRY_SAVINGS));
    }

    /// Whether a safe request may be repeated; pays for it.
    pub(crate) fn may_repeat(&self) -> bool {
        match self.savings.get().checked_sub(RETRY_COST) {
            Some(left) => {
                self.savings.set(left);
                self.counts().retries.add(1);
                true
            }
            None => false,
        }
    }

    fn enter(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        client.place.set(clients.len());
        clients.push(Rc::clone(client));
    }

    fn leave(&self, client: &Client) {
        let mut clients = self.clients.borrow_mut();
        let place = client.place.get();
        clients.swap_remove(place);
        if let Some(moved) = clients.get(place) {
            moved.place.set(place);
        }
        drop(clients);
        self.shared.connections[self.index].fetch_sub(1, Ordering::Relaxed);
        self.shared.ended.notify_one();
    }

    /// What is done every [`limits::TICK`]: deadlines, idle upstream connections, access lines.
    fn tick(&self) {
        self.clock.advance();
        for client in &*self.clients.borrow() {
            client.tick();
        }
        // This also lets go of tables that were replaced.
        self.with_routes(|routes| {
            self.pools.borrow_mut().sweep(self.clock.now(), routes);
            let there = |target: &Arc<Target>| routes.targets().any(|named| Arc::ptr_eq(named, target));
            self.targets.borrow_mut().retain(|target| there(&target.0));
        });
        self.lines.borrow_mut().hand_over(self.counts());
        self.carrier.tick();
    }

    fn is_idle(&self) -> bool {
        self.clients.borrow().is_empty() && self.carried.get() == 0
    }

    fn drain(&self) {
        self.draining.set(true);
        // Nothing is to be expected from a table any more.
        self.shared.waiting.wake();
        for client in &*self.clients.borrow() {
            if matches!(client.phase(), Phase::Idle | Phase::Head) {
                client.hasten(limits::DRAIN_GRACE);
            }
        }
    }

    /// The end: what was not handed to the writer is.
    pub(crate) fn finish(&self) {
        self.lines.borrow_mut().hand_over(self.counts());
        self.carrier.tick();
    }
}

/// A first call under way, which its worker does not end before unless it is cut.
struct Load(Rc<Worker>);

impl Load {
    fn new(worker: Rc<Worker>) -> Self {
        worker.carried.set(worker.carried.get() + 1);
        worker.shared.desk.carried.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.carried.set(self.0.carried.get() - 1);
        self.0.shared.desk.carried.fetch_sub(1, Ordering::Relaxed);
        abort_if_panicking();
    }
}

/// tokio would keep a task's panic to itself, with slots, instances and jobs in whatever state. The keeper starts
/// another gateway.
fn abort_if_panicking() {
    if std::thread::panicking() {
        std::process::abort();
    }
}

/// Serves connections until the worker is told to end, and the runtime is to be dropped, which cuts what is left.
pub(crate) async fn work(worker: Rc<Worker>, mut orders: UnboundedReceiver<Order>) {
    let mut ticks = tokio::time::interval(limits::TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Serve(socket, peer)) => {
                    let connection = serve(Rc::clone(&worker), socket, peer);
                    // The task ends with its connection, or with the runtime.
                    tokio::task::spawn_local(connection);
                }
                Some(Order::Drain) => worker.drain(),
                Some(Order::Cut) | None => {
                    worker.cutting.set(true);
                    return;
                }
            },
            _ = ticks.tick() => worker.tick(),
        }
        if worker.is_draining() && orders.is_empty() && worker.is_idle() {
            return;
        }
    }
}

/// Leaves the worker's list however the connection ends.
struct Presence {
    worker: Rc<Worker>,
    client: Rc<Client>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.worker.leave(&self.client);
        abort_if_panicking();
    }
}

async fn serve(worker: Rc<Worker>, socket: std::net::TcpStream, peer: SocketAddr) {
    let client = Client::new(peer, Rc::clone(&worker.clock));
    worker.enter(&client);
    let _presence = Presence { worker: Rc::clone(&worker), client: Rc::clone(&client) };
    if worker.is_draining() {
        client.hasten(limits::DRAIN_GRACE);
    }
    // Small answers must not wait for an acknowledgement of what went before.
    let socket = match socket.set_nodelay(true).and_then(|()| TcpStream::from_std(socket)) {
        Ok(socket) => socket,
        Err(cause) => {
            tracing::warn!(%cause, "an accepted connection cannot be served");
            return;
        }
    };
    let guarded = TokioIo::new(Guard::new(socket, Rc::clone(&client)));
    let service = {
        let (worker, client) = (Rc::clone(&worker), Rc::clone(&client));
        service_fn(move |request| {
            worker.save();
            request::serve(Rc::clone(&worker), Rc::clone(&client), request)
        })
    };
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(limits::BUFFER_BYTES)
            // Heads and idle connections have deadlines of their own: hyper's timer is one allocation a request.
            .header_read_timeout(None)
            .serve_connection(guarded, service)
    );
    let end = std::future::poll_fn(|cx| client.polled(cx, |cx| connection.as_mut().poll(cx))).await;
    if let Err(cause) = end {
        tracing::debug!(%peer, %cause, "a client's connection ended early");
    }
}

/// The main thread's end of the workers.
pub(crate) struct Crew {
    pub(crate) shared: Arc<Shared>,
    pub(crate) orders: Vec<UnboundedSender<Order>>,
    /// Whose turn it is among equals.
    pub(crate) turn: Cell<usize>,
}

impl Crew {
    /// Gives a connection to the worker with the fewest, in turn among equals.
    pub(crate) fn give(&self, socket: std::net::TcpStream, peer: SocketAddr) {
        let workers = self.orders.len();
        let turn = self.turn.get();
        let load = |index: &usize| self.shared.connections[*index].load(Ordering::Relaxed);
        // The first of equals is taken, so the search begins after the one that was taken last.
        let chosen = (turn..turn + workers).map(|index| index % workers).min_by_key(load).unwrap_or_default();
        self.turn.set((chosen + 1) % workers);
        self.shared.connections[chosen].fetch_add(1, Ordering::Relaxed);
        // A worker that is gone took the process with it, or the gateway is about to return.
        let _ = self.orders[chosen].send(Order::Serve(socket, peer));
    }

    /// Tells all workers.
    pub(crate) fn tell(&self, order: fn() -> Order) {
        for worker in &self.orders {
            // One that has ended needs not be told.
            let _ = worker.send(order());
        }
    }
}
