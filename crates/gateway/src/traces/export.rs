//! Traced requests on their way to a collector: handed over by the workers and the courier, sent by one thread.
//!
//! Nobody waits for a collector. What it does not take in time is dropped and counted, by whoever has it when too much
//! waits, by the exporter when it gives a message up.

use super::{Finished, otlp};
use crate::limits::{
    EXPORT_ANSWER_BYTES, EXPORT_END, EXPORT_PAUSE, EXPORT_PAUSE_MOST, EXPORT_TIME, EXPORT_TRIES,
    TRACED_BATCH, TRACED_GATHER, TRACED_WAITING,
};
use crate::worker::Shared;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// The thread that exports.
pub(crate) struct Exporter {
    thread: JoinHandle<()>,
    /// Dropped when the workers have ended.
    stop: oneshot::Sender<()>,
}

/// Starts it. `workload`: the names of the workload and the environment, where they are known.
///
/// # Errors
/// The operating system has no thread or event queue to give.
pub(crate) fn start(
    shared: Arc<Shared>,
    workload: Option<(String, String)>,
) -> io::Result<(Sender<Finished>, Exporter)> {
    let (sender, finished) = channel(TRACED_WAITING);
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut export =
        Export { shared, resource: otlp::resource(workload), endpoint: String::new(), failing: false };
    let thread = std::thread::Builder::new().name("traces".into()).spawn(move || {
        let end = async {
            // Ready when the other end is dropped.
            let _ = stopped.await;
            tokio::time::sleep(EXPORT_END).await;
        };
        runtime.block_on(async {
            tokio::select! {
                () = export.run(finished) => {}
                () = end => {}
            }
        });
        // Looking up a name takes a thread that cannot be interrupted.
        runtime.shutdown_background();
    })?;
    Ok((sender, Exporter { thread, stop }))
}

impl Exporter {
    /// Waits until everything was sent, [`EXPORT_END`] at the longest. All senders have to be gone.
    pub(crate) fn finish(self) {
        let Self { thread, stop } = self;
        drop(stop);
        let _ = thread.join();
    }
}

struct Export {
    shared: Arc<Shared>,
    resource: Resource,
    /// The latest there was: what was traced before traces were switched off still goes there.
    endpoint: String,
    /// Whether the message before was given up.
    failing: bool,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// It may be sent again, after a time if the collector names one.
    #[error("{text}")]
    ForNow { text: String, after: Option<Duration> },
    #[error("{0}")]
    ForGood(String),
}

impl Export {
    /// Until nobody can hand anything over any more, and all of it was sent or given up.
    async fn run(&mut self, mut finished: Receiver<Finished>) {
        while let Some(first) = finished.recv().await {
            let mut batch = vec![first];
            let gathered = tokio::time::sleep(TRACED_GATHER);
            tokio::pin!(gathered);
            while batch.len() < TRACED_BATCH {
                tokio::select! {
                    next = finished.recv() => match next {
                        Some(next) => batch.push(next),
                        None => break,
                    },
                    () = &mut gathered => break,
                }
            }
            self.send(&batch).await;
        }
    }

    /// Sends a message, or gives it up. Says so where that is a change.
    async fn send(&mut self, batch: &[Finished]) {
        if let Some(endpoint) = self.shared.routes.load().traces().map(|traces| &traces.endpoint)
            && *endpoint != self.endpoint
        {
            self.endpoint.clone_from(endpoint);
            self.failing = false;
        }
        let spans: u64 = batch.iter().map(Finished::spans).sum();
        let metrics = &self.shared.metrics;
        match self.deliver(otlp::message(&self.resource, batch).encode_to_vec().into()).await {
            Ok(rejected) => {
                let rejected = rejected.min(spans);
                metrics.spans_exported.fetch_add(spans - rejected, Ordering::Relaxed);
                metrics.spans_refused.fetch_add(rejected, Ordering::Relaxed);
                if self.failing {
                    tracing::info!(endpoint = self.endpoint, "traces are exported again");
                }
                self.failing = false;
            }
            Err(refused) => {
                metrics.spans_refused.fetch_add(spans, Ordering::Relaxed);
                if !self.failing {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        "traces are not exported: {refused}; spans are dropped and counted until they are"
                    );
                }
                self.failing = true;
            }
        }
    }

    /// Sends a message until it is taken or given up. Gives how many spans of it the collector did not want.
    async fn deliver(&self, message: Bytes) -> Result<u64, Refused> {
        let tries = if self.failing { 1 } else { EXPORT_TRIES };
        let mut tried = 0;
        loop {
            tried += 1;
            let late = || {
                let text = format!("no answer within {EXPORT_TIME:?}");
                Err(Refused::ForNow { text, after: None })
            };
            let sent = tokio::time::timeout(EXPORT_TIME, post(&self.endpoint, message.clone())).await;
            match sent.unwrap_or_else(|_| late()) {
                Err(Refused::ForNow { after, .. }) if tried < tries => {
                    let pause = after.unwrap_or(EXPORT_PAUSE).clamp(EXPORT_PAUSE, EXPORT_PAUSE_MOST);
                    tokio::time::sleep(pause).await;
                }
                end @ (Ok(_) | Err(Refused::ForNow { .. } | Refused::ForGood(_))) => return end,
            }
        }
    }
}

/// One try, on a connection of its own (OTLP 1.x, "OTLP/HTTP").
async fn post(endpoint: &str, message: Bytes) -> Result<u64, Refused> {
    let for_now = |text: String| Refused::ForNow { text, after: None };
    let uri: Uri = endpoint.parse().map_err(|cause| Refused::ForGood(format!("{cause}")))?;
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((bare, uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|cause| for_now(format!("no connection: {cause}")))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|cause| for_now(cause.to_string()))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/v1/traces", uri.path().trim_end_matches('/')))
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(CONNECTION, "close")
        .body(Full::new(message))
        .map_err(|cause| Refused::ForGood(cause.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|cause| for_now(cause.to_string()))?;
        taken(response).await
    };
    // Both halves are driven here, so that nothing outlives the try.
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

/// What the collector says. Only with 429, 502, 503 and 504 a message may be sent again.
async fn taken(response: Response<Incoming>) -> Result<u64, Refused> {
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER);
    let after = after.and_then(|after| after.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let body = Limited::new(response.into_body(), EXPORT_ANSWER_BYTES).collect().await;
    if status.is_success() {
        // A collector that took all of it says nothing; one that answers in another format is believed to have.
        let answer = body.ok().and_then(|body| ExportTraceServiceResponse::decode(body.to_bytes()).ok());
        let partial = answer.and_then(|answer| answer.partial_success);
        return Ok(partial.map_or(0, |partial| partial.rejected_spans.max(0).unsigned_abs()));
    }
    let again = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    let text = format!("the collector answers {status}");
    match again.contains(&status) {
        true => Err(Refused::ForNow { text, after }),
        false => Err(Refused::ForGood(text)),
    }
}
