//! When an instance counts as ready, and what is said when it does not.

#![expect(clippy::unwrap_used, reason = "tests")]

mod place;

use api::shim::Start;
use model::workload::Ready;
use place::{PATIENCE, Place, soon, wait_until};
use runtime::ports::Ports;
use runtime::process::listening_ports;
use runtime::{Instance, LastSeen, NotReady};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Answers every request with STATUS; listens on ADDRESS and PORT. With LATE it first waits for that file.
const SERVER: &str = r"
import http.server, os, socket, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = int(os.environ['STATUS'])
        if os.path.exists('well'): status = 200
        print('asked', self.path, flush=True)
        self.send_response(status if self.path == '/health' else 404)
        self.end_headers()
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ':' in os.environ['ADDRESS'] else socket.AF_INET
while 'LATE' in os.environ and not os.path.exists(os.environ['LATE']): time.sleep(0.01)
print('listening', flush=True)
Server((os.environ['ADDRESS'], int(os.environ['PORT'])), Handler).serve_forever()
";

fn free_port() -> u16 {
    // The tests run at the same time, as threads or as processes: each begins elsewhere in its block.
    static TURN: AtomicU64 = AtomicU64::new(0);
    let turn = u64::from(std::process::id()) + TURN.fetch_add(1, Ordering::Relaxed);
    Ports::new(&format!("tests in {}", std::process::id()), turn).allocate(&BTreeSet::new()).unwrap()
}

fn server(place: &Place, address: &str, status: u16) -> Start {
    let mut start = place.start("api", &["python3", "-c", SERVER]);
    start.port = free_port();
    for (name, value) in
        [("ADDRESS", address), ("PORT", &start.port.to_string()), ("STATUS", &status.to_string())]
    {
        start.env.push((name.to_owned(), value.to_owned()));
    }
    start
}

fn ready(get: Option<&str>, timeout: Duration) -> Ready {
    Ready { get: get.map(str::to_owned), timeout }
}

const HEALTH: Option<&str> = Some("/health");

async fn is_ready(instance: &Instance, get: Option<&str>) -> SocketAddr {
    let ready = ready(get, PATIENCE);
    soon("ready", instance.ready(&ready)).await.unwrap_or_else(|not| panic!("{not}"))
}

async fn not_ready(instance: &Instance, ready: &Ready) -> NotReady {
    soon("a verdict", instance.ready(ready)).await.unwrap_err()
}

#[tokio::test]
async fn an_instance_is_ready_where_it_listens_and_answers() {
    for (address, reached) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")] {
        let place = Place::new();
        let start = server(&place, address, 302);
        let instance = place.driver(1).start(&start).await.unwrap();
        let at = is_ready(&instance, HEALTH).await;
        assert_eq!(at.to_string(), format!("{reached}:{}", start.port));
        let pids: Vec<u32> = instance.family().members().iter().map(|member| member.pid).collect();
        assert!(listening_ports(&pids).contains(&(address.parse().unwrap(), start.port)));
        soon("stop", instance.stop(PATIENCE)).await.unwrap();
    }
}

#[tokio::test]
async fn without_a_path_any_answer_will_do_and_with_one_it_must_be_well() {
    let place = Place::new();
    let start = server(&place, "127.0.0.1", 503);
    let instance = place.driver(1).start(&start).await.unwrap();
    is_ready(&instance, None).await;

    let verdict = not_ready(&instance, &ready(HEALTH, Duration::from_millis(1))).await;
    let NotReady::Timeout { last, .. } = &verdict else { panic!("{verdict:?}") };
    assert_eq!(*last, LastSeen::Status { path: "/health".to_owned(), status: 503 });
    let text = verdict.to_string();
    assert!(text.contains("GET /health was answered with 503") && text.contains("asked /health"), "{text}");

    // It becomes well while it is waited for.
    let patience = ready(HEALTH, PATIENCE);
    let waiting = instance.ready(&patience);
    let getting_well = async {
        let before = place.log("api").matches("asked /health").count();
        wait_until("it is asked again", async || place.log("api").matches("asked /health").count() > before)
            .await;
        std::fs::write(place.path("well"), "").unwrap();
    };
    let (outcome, ()) = soon("ready", async { tokio::join!(waiting, getting_well) }).await;
    outcome.unwrap_or_else(|not| panic!("{not}"));
    soon("stop", instance.stop(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_ends_is_quoted() {
    let place = Place::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11; do echo line $i; done; echo no database >&2; exit 1";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    let verdict = not_ready(&instance, &ready(HEALTH, PATIENCE)).await;
    let text = verdict.to_string();
    assert!(text.starts_with("exited with code 1 after "), "{text}");
    assert!(text.contains(" s; last lines of its log:\n  line 3\n  line 4\n"), "{text}");
    assert!(text.ends_with("line 11\n  no database"), "{text}");
}

#[tokio::test]
async fn an_instance_that_listens_elsewhere_is_told_where() {
    let place = Place::new();
    let mut start = server(&place, "127.0.0.1", 200);
    let elsewhere = start.port;
    start.port = free_port();
    let instance = place.driver(1).start(&start).await.unwrap();
    // Long before the time is over: it serves where it was not told to.
    let verdict = not_ready(&instance, &ready(HEALTH, Duration::from_secs(3600))).await;
    let expected = format!(
        "listens on 127.0.0.1:{elsewhere}, was told port {}; hint: use {{port}} in `run` or `env`, or $PORT",
        start.port
    );
    assert_eq!(verdict.to_string(), expected);
    soon("stop", instance.stop(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn a_port_for_something_else_is_no_reason_to_give_up_early() {
    let place = Place::new();
    let script = "import os,socket,time\n\
                  s=socket.create_server(('127.0.0.1',0)); print('debugger', flush=True)\n\
                  time.sleep(1000)";
    let mut start = place.start("api", &["python3", "-c", script]);
    start.port = free_port();
    let instance = place.driver(1).start(&start).await.unwrap();
    place.says("api", "debugger").await;
    // Cut off by the test's own clock, not by a verdict.
    let patience = ready(HEALTH, Duration::from_secs(3600));
    let still = tokio::time::timeout(runtime::ELSEWHERE_AFTER * 2, instance.ready(&patience)).await;
    assert!(still.is_err(), "{still:?}");
    // At the deadline it is said all the same.
    let verdict = not_ready(&instance, &ready(HEALTH, Duration::from_millis(1))).await;
    assert!(matches!(verdict, NotReady::Elsewhere { .. }), "{verdict}");
    soon("stop", instance.stop(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn a_strangers_listener_is_never_taken_for_the_instance() {
    let place = Place::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut start = place.shell("api", "exec sleep 1000");
    start.port = stranger.local_addr().unwrap().port();
    let instance = place.driver(1).start(&start).await.unwrap();
    let verdict = not_ready(&instance, &ready(None, PATIENCE)).await;
    assert_eq!(verdict, NotReady::Stranger { port: start.port });
    soon("stop", instance.stop(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn silence_and_nonsense_are_told_apart() {
    let place = Place::new();
    let instance = place.driver(1).start(&place.shell("api", "exec sleep 1000")).await.unwrap();
    let verdict = not_ready(&instance, &ready(HEALTH, Duration::from_millis(1))).await;
    let expected = "was not ready on port 1 within 1ms: nothing listens there; it printed nothing";
    assert_eq!(verdict.to_string(), expected);
    soon("stop", instance.stop(PATIENCE)).await.unwrap();

    let script = "import os,socket\n\
                  s=socket.create_server(('127.0.0.1',int(os.environ['PORT']))); print('listening', flush=True)\n\
                  while True:\n c,_=s.accept(); c.recv(4096); c.sendall(b'-ERR what?\\r\\n'); c.close()";
    let mut start = place.start("api", &["python3", "-c", script]);
    start.port = free_port();
    start.env.push(("PORT".to_owned(), start.port.to_string()));
    let instance = place.driver(1).start(&start).await.unwrap();
    place.says("api", "listening").await;
    let verdict = not_ready(&instance, &ready(None, Duration::from_millis(1))).await;
    assert!(verdict.to_string().contains("not HTTP: \"-ERR what?\\r\\n\""), "{verdict}");
    soon("stop", instance.stop(PATIENCE)).await.unwrap();
}
