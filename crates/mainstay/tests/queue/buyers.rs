//! Buyers who insist: each repeats an order, with its key, until somebody says that it is taken; and what is found of
//! their orders in the end.
#![expect(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::{Answer, Environment, PATIENCE, get, send, wait_until};

/// Between two tries of one order.
const INSIST: Duration = Duration::from_millis(50);

/// An order that its buyer was told of.
#[derive(Debug, Clone)]
pub struct Sale {
    pub reference: String,
    pub told: Told,
    /// Whether it was asked for more than once.
    pub repeated: bool,
}

/// What a buyer was told.
#[derive(Debug, Clone)]
pub enum Told {
    /// The service's own answer, or that of a saga.
    Answer(u16),
    /// It is accepted: this is where its answer will be.
    Accepted(String),
}

/// Which buyers come.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// They come at the same time, each with one order after the other.
    pub buyers: usize,
    /// Each buyer's orders. None: until they are stopped.
    pub orders: Option<usize>,
    /// Which orders do not wait for their answer (RFC 7240, `respond-async`).
    pub hurried: Hurried,
    /// What they order, by buyer and number.
    pub order: fn(usize, usize) -> String,
}

/// Of a buyer's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurried {
    None,
    EverySecond,
    All,
}

/// Buyers, until they are stopped or have enough.
pub struct Buyers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Sale>>>,
}

impl Buyers {
    pub fn come(address: SocketAddr, crowd: Crowd) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let buy = |buyer: usize| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                let mut sales = Vec::new();
                while !stop.load(Ordering::Relaxed) && crowd.orders.is_none_or(|orders| sales.len() < orders)
                {
                    let hurried = match crowd.hurried {
                        Hurried::None => false,
                        Hurried::EverySecond => sales.len() % 2 == 1,
                        Hurried::All => true,
                    };
                    let key = format!("b{buyer}-{}", sales.len());
                    let order = (crowd.order)(buyer, sales.len());
                    sales.push(buy(address, buyer, key, &order, hurried));
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                sales
            })
        };
        let threads = (0..crowd.buyers).map(buy).collect();
        Self { stop, acknowledged, threads }
    }

    /// Orders that somebody has acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more are acknowledged.
    pub fn more_are_acknowledged(&self, more: usize) {
        let wanted = self.acknowledged() + more;
        wait_until("orders are acknowledged", || (self.acknowledged() >= wanted).then_some(()));
    }

    /// Waits for the last order of each, and gives all of them, by buyer in the order of their acknowledgement.
    pub fn stop(mut self) -> Vec<Vec<Sale>> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// The same, once they all have had enough.
    pub fn have_enough(mut self) -> Vec<Vec<Sale>> {
        self.join()
    }

    fn join(&mut self) -> Vec<Vec<Sale>> {
        self.threads.drain(..).map(|thread| thread.join().expect("every order is acknowledged")).collect()
    }
}

impl Drop for Buyers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Asks until the order is acknowledged, each time with the same key.
fn buy(address: SocketAddr, buyer: usize, reference: String, order: &str, hurried: bool) -> Sale {
    // As a browser that was here before: it stays with one release while users shift.
    let cookie = format!("mainstay-affinity={buyer:016x}");
    let deadline = Instant::now() + PATIENCE;
    let mut fields = vec![
        ("content-type", "application/json"),
        ("idempotency-key", reference.as_str()),
        ("cookie", cookie.as_str()),
    ];
    fields.extend(hurried.then_some(("prefer", "respond-async")));
    let mut repeated = false;
    loop {
        let came = send(address, "POST", "/api/orders", &fields, order);
        match came.as_ref().ok().and_then(told) {
            Some(told) => return Sale { told, repeated, reference },
            None => assert!(
                Instant::now() < deadline,
                "{reference} is not acknowledged within {PATIENCE:?}: {came:?}"
            ),
        }
        repeated = true;
        // waits on a condition: an answer that counts
        std::thread::sleep(INSIST);
    }
}

/// Whether an answer is a word that counts: a job's own answer, or 202. Without a job nothing was accepted.
fn told(answer: &Answer) -> Option<Told> {
    answer.field("mainstay-job")?;
    match answer.status {
        202 => Some(Told::Accepted(answer.field("location")?.to_owned())),
        status => Some(Told::Answer(status)),
    }
}

/// Each order has a reference of its own, which is its key.
pub fn one_by_one(buyer: usize, number: usize) -> String {
    order(&format!("buyer {buyer}"), &format!("b{buyer}-{number}"))
}

/// The body of an order of one piece.
pub fn order(customer: &str, reference: &str) -> String {
    let items = [json!({ "sku": "SHOE-00001", "quantity": 1 })];
    json!({ "customer": customer, "ref": reference, "items": items }).to_string()
}

/// `mainstay queue status --json`; None while no gateway answers.
pub fn queue(environment: &Environment) -> Option<Value> {
    let ran = environment.mainstay(&["--json", "queue", "status", "here"]);
    (ran.code == 0).then(|| ran.json())
}

/// Waits until the queue is as wanted.
pub fn queue_is(environment: &Environment, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, || queue(environment).filter(&wanted))
}

/// How often this has happened since the gateway started.
pub fn count(queue: &Value, what: &str) -> usize {
    let count = queue["counts"][what].as_u64().unwrap_or_else(|| panic!("no count of {what}: {queue}"));
    usize::try_from(count).expect("not that many")
}

/// Jobs that are not settled.
pub fn depth(queue: &Value) -> u64 {
    queue["depth"].as_u64().expect("a depth")
}

/// Waits until nothing is left to be delivered; as long as the backlog shrinks it is waited for. Whoever looks while
/// a gateway is being replaced sees none.
pub fn drained(environment: &Environment) -> Value {
    let (mut least, mut last) = (u64::MAX, Instant::now());
    loop {
        let status = queue(environment);
        if let Some(status) = &status {
            let depth = depth(status);
            if depth == 0 {
                return status.clone();
            }
            if depth < least {
                (least, last) = (depth, Instant::now());
            }
        }
        assert!(last.elapsed() < PATIENCE, "{least} jobs do not get less: {status:?}");
        // waits on a condition
        std::thread::sleep(INSIST);
    }
}

/// What an address says, as JSON; asked again while nobody answers there, or not with 200.
pub fn document(address: SocketAddr, path: &str) -> Value {
    wait_until(path, || {
        let answer = get(address, path).ok().filter(|answer| answer.status == 200)?;
        serde_json::from_str(&answer.body).ok()
    })
}

/// The members that a search found.
fn found(address: SocketAddr, path: &str) -> Vec<Value> {
    document(address, path)["items"].as_array().expect("items").clone()
}

/// Where an external's sandbox listens.
pub fn sandbox(environment: &Environment, component: &str) -> SocketAddr {
    wait_until(&format!("{component} is there"), || {
        let status = environment.status()?;
        let stamps = status["stamps"].as_array()?;
        let active = stamps.iter().find(|stamp| stamp["role"] == "active")?;
        let instances = active["instances"].as_array()?;
        let one = instances.iter().find(|one| one["component"] == component && one["ready"] == true)?;
        let port = u16::try_from(one["port"].as_u64()?).ok()?;
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    })
}

/// What is found of a sale that is a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traces {
    /// Charges with its reference, of which so many were refunded.
    pub charges: usize,
    pub refunded: usize,
    pub orders: usize,
    pub labels: usize,
}

impl Traces {
    pub const COMPLETE: Self = Self { charges: 1, refunded: 0, orders: 1, labels: 1 };

    /// Whether nothing is left of it: what was charged is refunded.
    pub fn is_undone(&self) -> bool {
        self.charges == self.refunded && self.charges <= 1 && self.orders == 0 && self.labels == 0
    }
}

/// What is found of each sale, by its reference.
pub fn traces(environment: &Environment, sales: &[Vec<Sale>]) -> BTreeMap<String, Traces> {
    let (payments, shipping) = (sandbox(environment, "payments"), sandbox(environment, "shipping"));
    let look = |sale: &Sale| {
        let reference = &sale.reference;
        let charges = found(payments, &format!("/charges?ref={reference}"));
        let traces = Traces {
            charges: charges.len(),
            refunded: charges.iter().filter(|charge| charge["refunded"] == true).count(),
            orders: found(environment.address, &format!("/api/orders?ref={reference}")).len(),
            labels: found(shipping, &format!("/labels?ref={reference}")).len(),
        };
        (reference.clone(), traces)
    };
    sales.iter().flatten().map(look).collect()
}

/// Every sale is there once, in the order in which its buyer was told of it. Gives how many there are.
pub fn assert_all_are_there_once(environment: &Environment, sales: &[Vec<Sale>]) -> usize {
    for of_one in sales {
        let mut last = 0;
        for sale in of_one {
            let orders = found(environment.address, &format!("/api/orders?ref={}", sale.reference));
            assert_eq!(orders.len(), 1, "{sale:?}: {orders:?}");
            let number = orders[0]["id"].as_u64().expect("a number");
            assert!(number > last, "{sale:?} came before the one before it: {number} after {last}");
            last = number;
        }
    }
    sales.iter().map(Vec::len).sum()
}

/// The answer that a sale had in the end: where it was accepted with 202, it is found where its buyer was told. A job
/// without one is told by its state.
pub fn answer(environment: &Environment, sale: &Sale) -> Result<u16, String> {
    let location = match &sale.told {
        Told::Answer(status) => return Ok(*status),
        Told::Accepted(location) => location,
    };
    let ask = |path: &str| wait_until("the gateway answers", || get(environment.address, path).ok());
    let job = ask(location);
    match job.status {
        303 => Ok(ask(job.field("location").expect("an address")).status),
        200 => {
            let body: Value = serde_json::from_str(&job.body).expect("JSON");
            Err(body["state"].as_str().expect("a state").to_owned())
        }
        other => panic!("{sale:?}: its job answers {other}: {job:?}"),
    }
}

/// How often there was which answer.
pub fn answers(environment: &Environment, sales: &[Vec<Sale>]) -> BTreeMap<Result<u16, String>, usize> {
    let mut counts = BTreeMap::new();
    for sale in sales.iter().flatten() {
        *counts.entry(answer(environment, sale)).or_insert(0) += 1;
    }
    counts
}
