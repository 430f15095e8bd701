//! How many requests the engine makes per second of its own processor time: `cargo bench -p validate`.
//!
//! The service answers from threads of its own, so that only the engine's thread is counted.

use model::flow::{Expect, Flow, Method, Objective, Step};
use model::name::FlowName;
use model::template::Template;
use model::workload::Class;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use tokio::sync::watch;
use validate::{LoadOptions, Plan, Target, load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    let step = Step {
        method: Method::Get,
        path: Template::literal("/api/products?page=1"),
        headers: BTreeMap::new(),
        json: None,
        expect: Expect { status: Some(200) },
        save: BTreeMap::new(),
    };
    let flow = Flow {
        weight: 1,
        objective: Objective::default(),
        ledger: None,
        production: false,
        steps: vec![step],
    };
    let flows = BTreeMap::from([(FlowName::new("browse")?, flow)]);
    let target = Target { address, host: None, headers: Vec::new(), environment: "bench".into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for rate in [100.0, 1_000.0, 10_000.0, 20_000.0] {
        let plan = Plan::constant(rate, Duration::from_secs(3))?;
        let options = LoadOptions { max_connections: 32, ..LoadOptions::new(plan, Class::Development) };
        let (_keep, stop) = watch::channel(false);
        let before = thread_seconds();
        let report = runtime.block_on(load(target.clone(), &flows, options, |_| {}, stop));
        let spent = thread_seconds() - before;
        println!("{}", report.text());
        println!("{:.0} requests per second of the engine's thread\n", report.requests as f64 / spent);
    }
    Ok(())
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Answers every request on `stream`; requests have no body, and one read holds one of them.
fn answer(mut stream: TcpStream) {
    let body = "x".repeat(1024);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut request = [0; 4096];
    let mut end = [0; 4];
    while let Ok(read) = stream.read(&mut request) {
        let Some(from) = read.checked_sub(end.len()) else { return };
        end.copy_from_slice(&request[from..read]);
        if end == *b"\r\n\r\n" && stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
