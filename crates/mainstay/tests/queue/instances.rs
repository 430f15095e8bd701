//! Services that make use of queued routes themselves.

use crate::buyers::drained;
use crate::stage::MAINSTAY;
use testkit::{Environment, get, send};

/// Puts what it is sent to `/later` into the queue of its own environment, and counts what comes of it.
const SERVICE: &str = r#"
import http.server, os, sys, urllib.request

class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with open(done) as file:
            self.answer(200, file.read().encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/later":
            fields = {"Prefer": "respond-async", "Idempotency-Key": body.decode()}
            url = os.environ["MAINSTAY_URL"] + "/api/mails"
            request = urllib.request.Request(url, data=body, headers=fields, method="POST")
            with urllib.request.urlopen(request, timeout=20) as answer:
                self.answer(answer.status, answer.headers.get("Location", "").encode())
            return
        with open(done, "a") as file:
            file.write(body.decode() + "\n")
        self.answer(200, b"sent")

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

done = os.path.join(sys.argv[2], "done")
open(done, "a").close()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"#;

#[test]
fn an_instance_queues_by_the_address_that_it_is_given() {
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
            ready     = {{ get = "/", timeout = "20s" }}
            [route."POST /api/mails"]
            queue           = {{ wait = "1s" }}
            idempotency_key = "required"
            [environment.here]
            class  = "staging"
            listen = {{ http = "{address}" }}
            "#
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    let queued = || send(address, "POST", "/later", &[], "a-mail").expect("the gateway answers");
    let answer = queued();
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(answer.body.starts_with("/.mainstay/jobs/"), "{answer:?}");
    drained(&environment);
    // The key is known.
    let answer = queued();
    assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{answer:?}");
    assert_eq!(get(address, "/").expect("somebody serves").body, "a-mail\n");
}
