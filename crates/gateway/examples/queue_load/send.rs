//! The load: so many requests in flight, or so many a second, for so long.

use crate::protocol::{Found, Protocol, nats_stream};
use crate::tally::Tally;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one answer may take before the load gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// What is sent, to whom and how fast.
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    pub(crate) seconds: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) count: u64,
    /// Requests a second, planned in advance. None: as soon as there is room.
    pub(crate) rate: Option<f64>,
}

/// What all connections share.
struct Load {
    plan: Plan,
    began: Instant,
    ends: Instant,
    /// Makes keys of different loads differ.
    nonce: u64,
    started: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Load {
    /// The number of the next request, and when it is to be sent. None: there is none.
    fn next(&self, now: Instant) -> Option<(u64, Instant)> {
        let number = self.started.get();
        let planned = match self.plan.rate {
            Some(rate) => self.began + Duration::from_secs_f64(number as f64 / rate),
            None => now,
        };
        if planned >= self.ends || number >= self.plan.count {
            return None;
        }
        self.started.set(number + 1);
        Some((number, planned))
    }
}

/// Sends until the time is over or all is acknowledged. The first error ends it.
pub(crate) async fn run(plan: Plan) -> Result<Tally, Box<dyn Error>> {
    let mut streams = Vec::new();
    for number in 0..plan.connections {
        streams.push(connect(&plan, number).await.map_err(|e| format!("{}: {e}", plan.address))?);
    }
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce)?;
    let began = Instant::now();
    let window = (began + plan.warm_up, began + plan.warm_up + plan.seconds);
    let load = Rc::new(Load {
        began,
        ends: window.1,
        nonce: u64::from_le_bytes(nonce),
        started: Cell::new(0),
        tally: RefCell::new(Tally::new(began, window)),
        plan,
    });
    let mut tasks = tokio::task::JoinSet::new();
    let (each, more) =
        (load.plan.in_flight / load.plan.connections, load.plan.in_flight % load.plan.connections);
    for (number, stream) in streams.into_iter().enumerate() {
        let depth = each + usize::from(number < more);
        tasks.spawn_local(talk(load.clone(), number, depth, stream));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let load = Rc::into_inner(load).ok_or("a connection is still in use")?;
    let mut tally = load.tally.into_inner();
    if tally.good() >= load.plan.count {
        tally.ended(Instant::now());
    }
    Ok(tally)
}

/// A connection that is ready for requests.
async fn connect(plan: &Plan, number: usize) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = TcpStream::connect(plan.address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&plan.protocol.greeting(number)).await?;
    if matches!(plan.protocol, Protocol::Nats) && number == 0 {
        stream.write_all(&nats_stream()).await?;
        let (mut read, waiting) = (Vec::new(), VecDeque::from(["stream".to_owned()]));
        loop {
            match plan.protocol.answer(&read, &waiting)? {
                Found::More if stream.read_buf(&mut read).await? == 0 => {
                    return Err("it closed the connection".into());
                }
                Found::More => {}
                Found::Aside(bytes, reply) => {
                    read.drain(..bytes);
                    stream.write_all(reply).await?;
                }
                Found::Answer { good: true, .. } => break,
                Found::Answer { said, .. } => return Err(format!("it made no stream: {said}").into()),
            }
        }
    }
    Ok(stream)
}

/// Keeps `depth` requests in flight on one connection.
async fn talk(load: Rc<Load>, number: usize, depth: usize, mut stream: TcpStream) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("connection {number}: {e}");
    let (mut read, mut out) = (Vec::with_capacity(READ_BYTES), Vec::new());
    let (mut asked, mut keys) = (VecDeque::with_capacity(depth), VecDeque::with_capacity(depth));
    loop {
        while asked.len() < depth
            && let Some((request, planned)) = load.next(Instant::now())
        {
            if planned > Instant::now() {
                // What is written already must not wait for what is planned for later.
                stream.write_all(&out).await.map_err(broken)?;
                out.clear();
                tokio::time::sleep_until(planned.into()).await;
            }
            let key = format!("{:016x}{request:016x}", load.nonce);
            load.plan.protocol.request(number, &key, &mut out);
            asked.push_back(planned);
            keys.push_back(key);
        }
        if asked.is_empty() {
            return Ok(());
        }
        if !out.is_empty() {
            stream.write_all(&out).await.map_err(broken)?;
            out.clear();
        }
        let got = tokio::time::timeout(PATIENCE, stream.read_buf(&mut read)).await;
        if got.map_err(|_| format!("no answer within {PATIENCE:?}"))?.map_err(broken)? == 0 {
            return Err(format!("connection {number} was closed with {} requests in flight", asked.len()));
        }
        let now = Instant::now();
        let mut taken = 0;
        loop {
            match load.plan.protocol.answer(&read[taken..], &keys)? {
                Found::More => break,
                Found::Aside(bytes, reply) => {
                    out.extend_from_slice(reply);
                    taken += bytes;
                }
                Found::Answer { bytes, good, said } => {
                    let planned = asked.pop_front().ok_or("an answer that nobody asked for")?;
                    keys.pop_front();
                    load.tally.borrow_mut().count(planned, now, good, &said)?;
                    taken += bytes;
                }
            }
        }
        read.drain(..taken);
    }
}
