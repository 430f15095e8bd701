//! The gateway's own protocol, [`api::gateway`] and [`api::queue`]: everything on the unix socket, health and metrics on the admin
//! address.

use crate::apply::Applier;
use crate::desk;
use crate::limits::{ADMIN_BYTES, ADMIN_CONNECTIONS, ADMIN_TIME};
use crate::metrics::Scrape;
use crate::operate;
use crate::worker::Shared;
use api::problem::{Code, Problem};
use api::queue::CARGO_LIMIT;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What the admin sockets answer from.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) applier: Applier,
    pub(crate) draining: Cell<bool>,
    /// Room for connections.
    pub(crate) room: Arc<Semaphore>,
}

/// Which requests a socket answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of them.
    Agent,
    /// Health and metrics.
    Anybody,
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>, applier: Applier) -> Rc<Self> {
        let room = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
        Rc::new(Self { shared, applier, draining: Cell::new(false), room })
    }

    /// Serves one connection until it ends, at the latest [`ADMIN_TIME`] after it began or the last operation on it
    /// ended: operations may take longer, and whoever waits for one is to be told what came of it.
    pub(crate) async fn serve(self: Rc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin, reach: Reach) {
        let lease = Rc::new(Lease::new(ADMIN_TIME));
        let service = service_fn(|request| {
            let (admin, lease) = (Rc::clone(&self), Rc::clone(&lease));
            async move { Ok::<_, Infallible>(admin.answer(request, reach, &lease).await) }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
        match lease.within(connection).await {
            Some(Ok(())) => {}
            Some(Err(cause)) => tracing::debug!(%cause, "an admin connection ended early"),
            None => tracing::debug!("an admin connection was closed after its time"),
        }
    }

    async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        reach: Reach,
        lease: &Lease,
    ) -> Response<Full<Bytes>> {
        let method = request.method().clone();
        match (request.uri().path(), reach) {
            ("/v1/table", Reach::Agent) if method == Method::PUT => self.put_table(request).await,
            ("/v1/table", Reach::Agent) => wrong_method("PUT"),
            ("/v1/state", Reach::Agent) if method == Method::GET => {
                json(StatusCode::OK, &self.applier.state())
            }
            ("/v1/measures", Reach::Agent) if method == Method::GET => {
                json(StatusCode::OK, &self.shared.metrics.measures())
            }
            ("/metrics", _) if method == Method::GET => self.metrics(),
            ("/.mainstay/health", _) if method == Method::GET => self.health(),
            ("/v1/state" | "/v1/measures", Reach::Agent) | ("/metrics" | "/.mainstay/health", _) => {
                wrong_method("GET")
            }
            (path, Reach::Agent) if path.starts_with(operate::PREFIX) => self.operate(request, lease).await,
            (path, Reach::Agent | Reach::Anybody) => not_here(path),
        }
    }

    async fn put_table(self: Rc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let refused = |code, message: String| refuse(&Problem::new(code, message));
        let text = match Limited::new(request.into_body(), ADMIN_BYTES).collect().await {
            Ok(text) => text.to_bytes(),
            Err(cause) => return refused(Code::BadRequest, format!("the table did not come whole: {cause}")),
        };
        let put = match serde_json::from_slice(&text) {
            Ok(put) => put,
            Err(cause) => return refused(Code::BadRequest, format!("this is no table: {cause}")),
        };
        // An agent that goes away must not leave a table between disk and memory: it is taken on in any case.
        match tokio::task::spawn_local(async move { self.applier.put(put).await }).await {
            Ok(Ok(applied)) => json(StatusCode::OK, &applied),
            Ok(Err(problem)) => refuse(&problem),
            Err(cause) => refused(Code::Machine, format!("taking on the table broke off: {cause}")),
        }
    }

    async fn operate(self: Rc<Self>, request: Request<Incoming>, lease: &Lease) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let (get, post) = (head.method == Method::GET, head.method == Method::POST);
        if !get && !post {
            return wrong_method("GET, POST");
        }
        let body = match Limited::new(body, CARGO_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(cause) => {
                let message = format!("the message did not come whole: {cause}");
                return refuse(&Problem::new(Code::BadRequest, message));
            }
        };
        let path = head.uri.path().to_owned();
        // What was begun is done to its end, whether or not anybody waits for it.
        let done = tokio::task::spawn_local(async move {
            let done = operate::answer(&self.shared, get, &path, &body).await;
            done.ok_or(path)
        });
        match lease.during(done).await {
            Ok(Ok(Ok(value))) => json(StatusCode::OK, &value),
            Ok(Ok(Err(problem))) => refuse(&problem),
            Ok(Err(path)) => not_here(&path),
            Err(cause) => refuse(&Problem::new(Code::Machine, format!("it broke off: {cause}"))),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let routes = self.shared.routes.load();
        let mut text = self.shared.metrics.render(&Scrape {
            routes: &routes,
            revision: self.applier.revision(),
            connections: self.shared.connections() as u64,
            held: u64::from(self.shared.waiting.count()),
            draining: self.draining.get(),
        });
        desk::metrics::render(&self.shared.desk, &mut text);
        answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
    }

    /// 200: a stamp serves, and goes on doing so.
    fn health(&self) -> Response<Full<Bytes>> {
        let routes = self.shared.routes.load();
        let serving = routes.serving().is_some_and(|target| !target.instances.is_empty());
        let (status, word) = match (serving, self.draining.get()) {
            (true, false) => (StatusCode::OK, "serving"),
            (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "no release is serving"),
        };
        json(status, &serde_json::json!({ "status": word }))
    }
}

/// How long a connection may last.
struct Lease {
    time: Duration,
    until: Cell<Instant>,
    /// An operation is under way, which takes the time it takes.
    working: Cell<bool>,
}

impl Lease {
    fn new(time: Duration) -> Self {
        Self { time, until: Cell::new(Instant::now() + time), working: Cell::new(false) }
    }

    /// Waits for `work`, which does not count; from its end on there is the whole time again. HTTP/1.1 answers one
    /// request after the other, so there is one at most.
    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        self.working.set(true);
        let done = work.await;
        self.working.set(false);
        self.until.set(Instant::now() + self.time);
        done
    }

    /// What comes of `connection`. None: its time was over.
    async fn within<T>(&self, connection: impl Future<Output = T>) -> Option<T> {
        let mut connection = pin!(connection);
        loop {
            let until = self.until.get();
            if let Ok(done) = tokio::time::timeout_at(until, &mut connection).await {
                return Some(done);
            }
            if self.working.get() {
                self.until.set(Instant::now() + self.time);
            } else if self.until.get() == until {
                return None;
            }
        }
    }
}

fn not_here(path: &str) -> Response<Full<Bytes>> {
    let problem = Problem::new(Code::BadRequest, format!("there is no {path} here"));
    json(StatusCode::NOT_FOUND, &problem)
}

fn refuse(problem: &Problem) -> Response<Full<Bytes>> {
    json(problem.code.status(), problem)
}

fn wrong_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let problem = Problem::new(Code::BadRequest, format!("only {allowed} is answered here"));
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &problem);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(value).expect("messages have string keys and finite numbers");
    answer(status, "application/json", text.into())
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const TIME: Duration = Duration::from_millis(20);

    /// Whatever takes longer than a connection may last.
    async fn long() {
        let forever = tokio::time::timeout(5 * TIME, pending::<()>()).await;
        assert!(forever.is_err(), "it ends by its time alone");
    }

    #[tokio::test]
    async fn who_waits_for_an_operation_is_told_what_came_of_it() {
        let lease = Lease::new(TIME);
        let connection = async {
            lease.during(long()).await;
            // The answer is written.
            tokio::task::yield_now().await;
            "told"
        };
        assert_eq!(lease.within(connection).await, Some("told"));
    }

    #[tokio::test]
    async fn who_only_holds_a_connection_loses_it() {
        let lease = Lease::new(TIME);
        assert_eq!(lease.within(pending::<()>()).await, None);
        let idle_afterwards = async {
            lease.during(long()).await;
            pending::<()>().await;
        };
        assert_eq!(lease.within(idle_afterwards).await, None, "also after an operation");
    }
}
