//! Serving: from an open database and an address to a clean end.

use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::database::{self, OpenError, Target};
use crate::desk::Desk;
use crate::failings::Failings;
use crate::http::{self, Shop};
use crate::mishaps::Mishaps;
use crate::release::Release;

/// How long requests in flight may take after a signal to stop: less than the 30 s after which most
/// supervisors kill.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Where to listen.
pub(crate) struct Address {
    pub(crate) host: String,
    /// 0 takes any free one.
    pub(crate) port: u16,
}

/// What to serve, and where.
pub(crate) struct Options {
    pub(crate) address: Address,
    pub(crate) database: Target,
    pub(crate) release: Release,
    pub(crate) failings: Failings,
    pub(crate) mishaps: Mishaps,
    /// Where forms hand orders in, when not here.
    pub(crate) desk: Option<Desk>,
}

/// Why serving did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system gives no runtime, or no signal handler.
    #[error("cannot start serving")]
    Start(#[source] std::io::Error),
    /// The address is taken, not ours, or unknown.
    #[error("cannot listen on {host}:{port}; hint: --port 0 takes any free one")]
    Listen {
        host: String,
        port: u16,
        #[source]
        source: std::io::Error,
    },
    /// The listening socket broke.
    #[error("cannot accept connections any more")]
    Accept(#[source] std::io::Error),
    /// Requests were still in flight when the time to drain was over; they are cut.
    #[error("requests were still in flight {} s after the signal to stop; they are cut", DRAIN_LIMIT.as_secs())]
    Drain,
}

/// Opens the database, then listens, until a signal; then stops accepting, answers what is in flight, closes
/// the database and returns.
pub(crate) fn serve(options: Options) -> Result<(), ServeError> {
    let Options { address, database, release, failings, mishaps, desk } = options;
    let (database, _) = database::open(&database, release)?;
    let shop = Arc::new(Shop::new(database, release, failings, desk));
    listen(address, release.name(), http::router(shop, mishaps))
}

/// Serves `router` until a signal, then answers what is in flight; `name` is what is logged.
pub(crate) fn listen(address: Address, name: &str, router: Router) -> Result<(), ServeError> {
    // One thread is plenty for parsing; the database has threads of its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Start)?;
    runtime.block_on(listening(address, name, router))
}

async fn listening(address: Address, name: &str, router: Router) -> Result<(), ServeError> {
    let Address { host, port } = address;
    let mut signals = Signals::install().map_err(ServeError::Start)?;
    let bound = async {
        let listener = TcpListener::bind((host.as_str(), port)).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, address) = bound.await.map_err(|source| ServeError::Listen { host, port, source })?;
    crate::log(&format!("{name} listening on http://{address}"));

    let listener = listener.tap_io(|connection| {
        // Answers are written in one piece, so there is nothing to gain by holding them back; a connection
        // that refuses the option is slower, not wrong.
        let _ = connection.set_nodelay(true);
    });
    let (stop, stopping) = oneshot::channel::<()>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
        // An error is the sender being dropped, which also means to stop.
        let _ = stopping.await;
    });
    tokio::select! {
        served = serving.into_future() => served.map_err(ServeError::Accept),
        () = async {
            signals.received().await;
            crate::log("stopping: finishing what is in flight");
            let _ = stop.send(());
            tokio::time::sleep(DRAIN_LIMIT).await;
        } => Err(ServeError::Drain),
    }
}

/// SIGTERM and SIGINT: what supervisors and terminals stop a program with.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Cancel-safe: a signal that came is kept until it is received.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
