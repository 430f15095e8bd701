//! A service of known capacity, which counts what it gets.

use crate::protocol::{content_length, field};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The most keys that are remembered to tell repeated requests; beyond, they are not told.
const KEYS_LIMIT: usize = 8_000_000;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// What the service can take.
pub(crate) struct Service {
    /// Requests that it works on at once.
    pub(crate) slots: usize,
    /// How long it works on one.
    pub(crate) work: Duration,
    /// Requests in the house; more get 503.
    pub(crate) places: usize,
}

struct House {
    service: Service,
    slots: Semaphore,
    inside: Cell<usize>,
    served: Cell<u64>,
    refused: Cell<u64>,
    /// Served again, by key.
    again: Cell<u64>,
    /// When the first request came, CLOCK_MONOTONIC in seconds.
    first: Cell<Option<f64>>,
    keys: RefCell<HashSet<u64>>,
}

/// Serves until the process is ended.
pub(crate) async fn run(address: SocketAddr, service: Service) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?;
    let house = Rc::new(House {
        slots: Semaphore::new(service.slots),
        service,
        inside: Cell::new(0),
        served: Cell::new(0),
        refused: Cell::new(0),
        again: Cell::new(0),
        first: Cell::new(None),
        keys: RefCell::new(HashSet::new()),
    });
    println!("{}", json!({"listens": listener.local_addr()?}));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let house = house.clone();
        tokio::task::spawn_local(async move {
            // A connection that breaks is its client's business.
            let _ = talk(&house, stream).await;
        });
    }
}

/// Answers one connection's requests, one after the other.
async fn talk(house: &House, mut stream: TcpStream) -> std::io::Result<()> {
    let mut read = Vec::with_capacity(READ_BYTES);
    loop {
        let end = loop {
            let whole = memchr::memmem::find(&read, b"\r\n\r\n")
                .map(|end| (end, end + 4 + content_length(&read[..end]).unwrap_or(0)));
            if let Some((head, bytes)) = whole
                && read.len() >= bytes
            {
                break (head, bytes);
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let answer = answer(house, &read[..end.0]).await;
        read.drain(..end.1);
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn answer(house: &House, head: &[u8]) -> String {
    if head.starts_with(b"GET /stats ") {
        return with_body("200 OK", &stats(house));
    }
    if house.first.get().is_none() {
        house.first.set(Some(monotonic()));
    }
    if house.inside.get() >= house.service.places {
        house.refused.set(house.refused.get() + 1);
        return with_body("503 Service Unavailable", r#"{"full":true}"#);
    }
    house.inside.set(house.inside.get() + 1);
    if !house.service.work.is_zero() {
        let slot = house.slots.acquire().await.expect("the semaphore is never closed");
        tokio::time::sleep(house.service.work).await;
        drop(slot);
    }
    house.inside.set(house.inside.get() - 1);
    house.served.set(house.served.get() + 1);
    if let Some(key) = field(head, b"idempotency-key") {
        let mut keys = house.keys.borrow_mut();
        if keys.len() < KEYS_LIMIT && !keys.insert(short(key)) {
            house.again.set(house.again.get() + 1);
        }
    }
    with_body("201 Created", r#"{"done":true}"#)
}

fn stats(house: &House) -> String {
    json!({
        "now_s": monotonic(),
        "first_s": house.first.get(),
        "served": house.served.get(),
        "refused": house.refused.get(),
        "again": house.again.get(),
    })
    .to_string()
}

fn with_body(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The clock that all processes of a machine share.
fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// FNV-1a: eight bytes for a key, so that millions of them are cheap to remember.
fn short(key: &[u8]) -> u64 {
    key.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
