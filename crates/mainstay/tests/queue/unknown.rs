//! A service that keeps no keys: what it is sent twice happens twice. So nothing is, once its outcome is not known.

use crate::buyers::{Sale, Told, drained, queue, queue_is};
use crate::stage::{MAINSTAY, kill};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use testkit::{Environment, get, send, wait_until};

/// Writes down each order when it begins and does it a moment later; some it has done without ever saying so.
const SERVICE: &str = r#"
import http.server, json, os, random, sys, time

class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, b"{}")

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(random.uniform(0, 0.02))
        line = json.dumps({"ref": order["ref"], "attempt": self.headers["Mainstay-Attempt"], "key": self.headers["Idempotency-Key"]})
        os.write(done, (line + "\n").encode())
        time.sleep(random.uniform(0, 0.02))
        if order["customer"] == "hung up on":
            self.close_connection = True
            return
        self.answer(201, b'{"taken":true}')

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

done = os.open(os.path.join(sys.argv[2], "done"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
http.server.ThreadingHTTPServer.request_queue_size = 64
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"#;

/// How long buyers come while processes are killed, and how many there are.
const UNREST: Duration = Duration::from_secs(12);
const BUYERS: usize = 8;

fn up() -> Environment {
    let environment = Environment::new(MAINSTAY, "here");
    environment.write("site/service.py", SERVICE);
    let address = environment.address;
    environment.write(
        "mainstay.toml",
        &format!(
            r#"
            [workload]
            name = "w"
            [component.front]
            run       = ["python3", "service.py", "{{port}}", "{{data}}"]
            artifact  = "site"
            instances = 2
            ready     = {{ get = "/", timeout = "20s" }}
            [route."POST /api/orders"]
            queue           = {{ wait = "1s", attempt_timeout = "5s" }}
            idempotency_key = "required"
            [environment.here]
            class  = "staging"
            listen = {{ http = "{address}" }}
            "#
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    environment
}

/// How often each order was done.
fn done(environment: &Environment) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(environment.state().join("data/done")).unwrap_or_default();
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("lines are written whole");
        *counts.entry(line["ref"].as_str().expect("a reference").to_owned()).or_insert(0) += 1;
    }
    counts
}

fn ordered(environment: &Environment, customer: &str, reference: &str) -> Option<Sale> {
    let fields = [("content-type", "application/json"), ("idempotency-key", reference), ("prefer", "wait=1")];
    let body = serde_json::json!({ "customer": customer, "ref": reference }).to_string();
    let answer = send(environment.address, "POST", "/api/orders", &fields, &body).ok()?;
    answer.field("mainstay-job")?;
    let told = match answer.status {
        202 => Told::Accepted(answer.field("location")?.to_owned()),
        status => Told::Answer(status),
    };
    Some(Sale { reference: reference.to_owned(), told, repeated: false })
}

/// All jobs in this state, page by page.
fn listed(environment: &Environment, state: &str) -> Vec<Value> {
    let (mut jobs, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let arguments = ["--json", "queue", "list", "here", "--only", state, "-n", "7", "--after", &after];
        let list = environment.mainstay(&arguments).ok().json();
        jobs.extend(list["jobs"].as_array().expect("jobs").clone());
        match list["next"].as_u64() {
            Some(next) => after = next.to_string(),
            None => return jobs,
        }
    }
}

/// Kills the gateway and instances, one after the other, while buyers come.
fn unrest(environment: &Environment) -> Vec<Sale> {
    std::thread::scope(|scope| {
        let end = Instant::now() + UNREST;
        let buy = |buyer: usize| {
            move || {
                let mut sales = Vec::new();
                for number in 0.. {
                    let reference = format!("b{buyer}-{number}");
                    // Repeated until somebody says what became of it: the key is the gateway's to keep.
                    sales.push(wait_until("it is acknowledged", || ordered(environment, "any", &reference)));
                    if Instant::now() > end {
                        break;
                    }
                }
                sales
            }
        };
        let buyers: Vec<_> = (0..BUYERS).map(|buyer| scope.spawn(buy(buyer))).collect();
        let mut turn = 0;
        while Instant::now() < end {
            let before = done(environment).len();
            if let Some(status) = environment.status() {
                let pid = match turn % 2 {
                    0 => status["gateway"]["pid"].clone(),
                    _ => status["stamps"][0]["instances"][turn / 2 % 2]["pid"].clone(),
                };
                if pid.is_u64() {
                    kill(&pid);
                    turn += 1;
                }
            }
            wait_until("orders are done again, or it is over", || {
                (done(environment).len() > before + 20 || Instant::now() > end).then_some(())
            });
        }
        assert!(turn > 3, "{turn} kills");
        buyers.into_iter().flat_map(|buyer| buyer.join().expect("a buyer")).collect()
    })
}

/// The number of a job, and the reference of its order.
fn reference(environment: &Environment, job: &Value) -> (String, String) {
    let id = job["id"].to_string();
    let shown = environment.mainstay(&["--json", "queue", "show", "here", &id]).ok().json();
    assert_eq!(shown["job"]["state"], "unknown", "{shown}");
    (id, shown["key"].as_str().expect("its key").to_owned())
}

#[test]
fn what_may_have_happened_is_not_sent_again_and_an_operator_says_what_became_of_it() {
    let environment = up();
    let mut sales = unrest(&environment);
    // One that certainly happened, and of which nobody heard.
    let hung_up_on = wait_until("it is acknowledged", || ordered(&environment, "hung up on", "hung-up-on"));
    sales.push(hung_up_on);
    queue_is(&environment, "nothing is under way", |status| {
        let states = &status["states"];
        status["depth"] == states["unknown"] && states["unknown"].as_u64() > Some(0)
    });

    let unknown: BTreeMap<String, String> = listed(&environment, "unknown")
        .iter()
        .map(|job| reference(&environment, job))
        .map(|(id, reference)| (reference, id))
        .collect();
    assert!(unknown.contains_key("hung-up-on"), "{unknown:?}");
    let counts = done(&environment);
    for (reference, count) in &counts {
        assert_eq!(*count, 1, "{reference} was sent again");
    }
    let mut known = 0;
    for sale in sales.iter().filter(|sale| !unknown.contains_key(&sale.reference)) {
        assert_eq!(counts.get(&sale.reference), Some(&1), "{sale:?} is lost");
        known += 1;
    }
    assert!(known > 100, "{known}");
    if let Told::Accepted(location) = &sales.last().expect("the last one").told {
        let job = get(environment.address, location).expect("the gateway answers");
        assert_eq!((job.status, job.body.contains("\"unknown\"")), (200, true), "{job:?}");
    }

    // The operator looks into the service's own books.
    for (reference, id) in &unknown {
        let found = if counts.contains_key(reference) { "--delivered" } else { "--not-delivered" };
        environment.mainstay(&["queue", "resolve", "here", id, found]).ok();
    }
    let status = drained(&environment);
    assert_eq!(status["states"]["unknown"], Value::Null, "{status}");
    let counts = done(&environment);
    for sale in &sales {
        assert_eq!(counts.get(&sale.reference), Some(&1), "{sale:?}");
    }
    let again = environment.mainstay(&["queue", "resolve", "here", "1", "--delivered"]);
    assert_ne!(again.code, 0, "a job that is done has nothing to be resolved: {again:?}");
    let log = environment.mainstay(&["--json", "queue", "log", "here"]).ok().json();
    let resolved = log["operations"].as_array().expect("operations").iter();
    let resolved =
        resolved.filter(|one| one["verb"].as_str().is_some_and(|verb| verb.starts_with("resolve")));
    assert_eq!(resolved.count(), unknown.len().min(500), "{log}");
    assert!(queue(&environment).is_some());
}
