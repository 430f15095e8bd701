//! The process: starts everything in order, and ends everything in order.

use crate::admin::{Admin, Reach};
use crate::apply::Applier;
use crate::desk::{Desk, Outlets};
use crate::hold::Waiting;
use crate::limits::{ACCEPT_PAUSE, CONNECTIONS, DRAIN_TIME};
use crate::lines::{self, Bundle, Lines};
use crate::metrics::Metrics;
use crate::routes::Routes;
use crate::stored;
use crate::traces::{self, Finished};
use crate::worker::{self, Crew, Order, Shared, Worker};
use api::folder::StateFolder;
use arc_swap::ArcSwap;
use queue::JournalOptions;
use std::cell::Cell;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc::{Sender, unbounded_channel};
use tokio::sync::oneshot;

/// What a gateway is given.
#[derive(Debug)]
pub struct Options {
    /// The environment's state folder, which must be there.
    pub folder: StateFolder,
    /// The listening sockets for users. Each is shared by all workers.
    pub http: Vec<TcpListener>,
    /// The listening socket for `/metrics` and `/.mainstay/health`, and nothing else.
    pub admin: Option<TcpListener>,
    /// Threads that serve connections. 0: one for each core.
    pub workers: usize,
    /// How the file of the queue is opened, if there is a queue.
    pub journal: JournalOptions,
}

/// Why a gateway cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A folder or socket in the state folder cannot be made.
    #[error("{path} cannot be made: {cause}", path = path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        cause: io::Error,
    },
    /// A listening socket cannot be used.
    #[error("a listening socket cannot be used: {0}")]
    Listener(#[source] io::Error),
    /// The operating system has no thread, descriptor or signal to give.
    #[error("the gateway cannot start: {0}")]
    Machine(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT, then drains and returns.
///
/// Draining: nothing is accepted any more, answers say `Connection: close`, idle client connections are closed
/// after a second, and requests in flight may end for 30 s; then they are cut. The listening sockets stay open as
/// long as others hold them, and what comes in waits in their backlog.
///
/// Blocks. Must not be called in an asynchronous context.
///
/// # Errors
/// [`RunError`]; nothing is served then.
pub fn run(options: Options) -> Result<(), RunError> {
    run_until(options, async {
        let signal = |kind| tokio::signal::unix::signal(kind);
        let (terminate, interrupt) = (
            signal(tokio::signal::unix::SignalKind::terminate()),
            signal(tokio::signal::unix::SignalKind::interrupt()),
        );
        match (terminate, interrupt) {
            (Ok(mut terminate), Ok(mut interrupt)) => tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            },
            (Err(cause), _) | (_, Err(cause)) => {
                tracing::error!(%cause, "signals cannot be listened to: the gateway stops");
            }
        }
    })
}

/// The same as [`run`], draining when `stop` is ready instead of on signals. `stop` is polled in a tokio runtime.
///
/// # Errors
/// As [`run`].
pub fn run_until(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    run_draining(options, stop, DRAIN_TIME)
}

fn run_draining(
    options: Options,
    stop: impl Future<Output = ()>,
    drain_time: Duration,
) -> Result<(), RunError> {
    raise_open_files();
    let folder = &options.folder;
    for path in [folder.run(), folder.logs()] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|cause| RunError::Folder { path, cause })?;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if options.workers == 0 { cores } else { options.workers };
    let shared = Arc::new(Shared {
        routes: Arc::new(ArcSwap::from_pointee(Routes::default())),
        // The last cells are the courier's.
        metrics: Metrics::new(workers + 1),
        connections: std::iter::repeat_with(|| AtomicUsize::new(0)).take(workers).collect(),
        ended: tokio::sync::Notify::new(),
        waiting: Waiting::default(),
        desk: Desk::new(folder.queue_db(), options.journal.clone()),
        folder: folder.clone(),
    });
    let boot = stored::boot_id().map_err(RunError::Machine)?;
    let applier = Applier::load(Arc::clone(&shared), folder.table(), boot);
    let (lines, writer) =
        lines::start(folder.access_log(), Arc::clone(&shared)).map_err(RunError::Machine)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(RunError::Machine)?;
    // Without a mark, traces do not say whose they are.
    let workload = folder.read_mark().ok();
    let workload = workload.map(|mark| (mark.workload.to_string(), mark.environment.to_string()));
    let (traced, exporter) = traces::start(Arc::clone(&shared), workload).map_err(RunError::Machine)?;
    let (crew, threads) = hire(workers, &shared, &lines, &traced)?;
    shared.desk.staff(Outlets { lines, traced: traced.clone() });
    shared.desk.look(&shared, &shared.routes.load());
    drop(traced);
    let admin = Admin::new(Arc::clone(&shared), applier);
    let socket = options.folder.gateway_socket();
    let outcome = runtime.block_on(async {
        let crew = Rc::new(crew);
        let accepting = listen(options, &admin, &crew)?;
        stop.await;
        admin.draining.set(true);
        drain(accepting, &crew, threads, drain_time).await;
        Ok(())
    });
    let _ = fs::remove_file(socket);
    shared.desk.drain();
    shared.desk.close();
    // Connections of the admin protocol end here; then the writer has nobody left to write for.
    drop(runtime);
    let _ = writer.join();
    exporter.finish();
    outcome
}

/// A worker's thread, and how to learn that it has ended.
struct Hand {
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

fn hire(
    workers: usize,
    shared: &Arc<Shared>,
    lines: &SyncSender<Bundle>,
    traced: &Sender<Finished>,
) -> Result<(Crew, Vec<Hand>), RunError> {
    let mut orders = Vec::new();
    let mut hands = Vec::new();
    for index in 0..workers {
        let (order, ordered) = unbounded_channel();
        let (end, ended) = oneshot::channel();
        let (shared, lines, traced) = (Arc::clone(shared), lines.clone(), traced.clone());
        let seed = getrandom::u64().map_err(|cause| RunError::Machine(io::Error::other(cause)))?;
        let runtime = move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default())
        };
        let body = move || {
            // A worker without a runtime, or one that panics, leaves connections unserved without a word: the
            // process ends instead, and the keeper starts another.
            let _alarm = Alarm;
            let runtime = runtime().expect("the operating system gives a worker its event queue");
            let worker = Worker::new(index, shared, Lines::new(lines), traced, seed);
            runtime.block_on(worker::work(Rc::clone(&worker), ordered));
            // Cuts what is left, and notes it.
            drop(runtime);
            worker.finish();
            let _ = end.send(());
        };
        let named = std::thread::Builder::new().name(format!("worker-{index}"));
        hands.push(Hand { thread: named.spawn(body).map_err(RunError::Machine)?, ended });
        orders.push(order);
    }
    Ok((Crew { shared: Arc::clone(shared), orders, turn: Cell::new(0) }, hands))
}

/// Ends the process when its thread panics.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Starts to listen everywhere. Returned are the tasks that accept users.
fn listen(
    options: Options,
    admin: &Rc<Admin>,
    crew: &Rc<Crew>,
) -> Result<Vec<tokio::task::JoinHandle<()>>, RunError> {
    let mut accepting = Vec::new();
    for listener in options.http {
        accepting.push(tokio::task::spawn_local(accept(adopt(listener)?, Rc::clone(crew))));
    }
    let agent = bind(&options.folder.gateway_socket())?;
    tokio::task::spawn_local(accept_agent(agent, Rc::clone(admin)));
    if let Some(listener) = options.admin {
        tokio::task::spawn_local(accept_anybody(adopt(listener)?, Rc::clone(admin)));
    }
    Ok(accepting)
}

/// Ends the accepting, then the workers: when they have nothing left, or cut after `drain_time`.
async fn drain(
    accepting: Vec<tokio::task::JoinHandle<()>>,
    crew: &Crew,
    hands: Vec<Hand>,
    drain_time: Duration,
) {
    for task in accepting {
        task.abort();
        // The listener is dropped with the task, before the workers are told.
        let _ = task.await;
    }
    crew.tell(|| Order::Drain);
    let desk = &crew.shared.desk;
    desk.hurry();
    let (mut ends, mut threads) = (Vec::new(), Vec::new());
    for Hand { thread, ended } in hands {
        ends.push(ended);
        threads.push(thread);
    }
    let all = async {
        // What is still taken on is dispatched too, so that it is not found half-way at the next start.
        let clients = async {
            while crew.shared.connections() > 0 {
                crew.shared.ended.notified().await;
            }
        };
        // Those who take longer get no more of the courier's time.
        let _ = tokio::time::timeout(drain_time / 2, clients).await;
        desk.drain();
        for end in &mut ends {
            let _ = end.await;
        }
        desk.delivered().await;
    };
    if tokio::time::timeout(drain_time, all).await.is_err() {
        crew.tell(|| Order::Cut);
    }
    // The workers have ended, or do so at once.
    for thread in threads {
        let _ = thread.join();
    }
}

fn adopt(listener: TcpListener) -> Result<tokio::net::TcpListener, RunError> {
    let adopt = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    adopt().map_err(RunError::Listener)
}

/// Binds the agent's socket, in place of one that a killed gateway left behind.
fn bind(path: &Path) -> Result<UnixListener, RunError> {
    let bind = || {
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            Ok(()) | Err(_) => {}
        }
        // The folder is the owner's alone, so nobody gets in before the mode is set.
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|cause| RunError::Folder { path: path.to_owned(), cause })
}

/// Takes connections from one listening socket and gives them to workers. At [`CONNECTIONS`] it pauses until one
/// has ended: who comes meanwhile waits in the backlog.
async fn accept(listener: tokio::net::TcpListener, crew: Rc<Crew>) {
    loop {
        while crew.shared.connections() >= CONNECTIONS {
            crew.shared.ended.notified().await;
        }
        match listener.accept().await {
            Ok((socket, peer)) => match socket.into_std() {
                Ok(socket) => crew.give(socket, peer),
                Err(cause) => tracing::warn!(%cause, "an accepted connection cannot be handed on"),
            },
            Err(cause) => {
                // Without descriptors every attempt fails at once; a pause leaves the others room to end.
                tracing::warn!(%cause, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_agent(listener: UnixListener, admin: Rc<Admin>) {
    loop {
        let room = Arc::clone(&admin.room).acquire_owned().await;
        match listener.accept().await {
            Ok((socket, _)) => {
                let admin = Rc::clone(&admin);
                tokio::task::spawn_local(async move {
                    admin.serve(socket, Reach::Agent).await;
                    drop(room);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn accept_anybody(listener: tokio::net::TcpListener, admin: Rc<Admin>) {
    // Room of their own: strangers must not keep the agent out.
    let room = Arc::new(tokio::sync::Semaphore::new(crate::limits::ADMIN_CONNECTIONS));
    loop {
        let room = Arc::clone(&room).acquire_owned().await;
        match listener.accept().await {
            Ok((socket, _)) => {
                let admin = Rc::clone(&admin);
                tokio::task::spawn_local(async move {
                    admin.serve(socket, Reach::Anybody).await;
                    drop(room);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Every connection is a descriptor; the soft limit is often only 1024.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(cause) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%cause, "the limit on open files stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::Stored;
    use api::folder::STATE_VERSION;
    use api::gateway::{Table, TableInstance, TableStamp};
    use model::name::{ComponentName, FenceToken, ReleaseNumber};
    use model::workload::GatewaySettings;
    use std::io::{Read as _, Write as _};

    fn store_table(folder: &StateFolder, address: std::net::SocketAddr) {
        let release = ReleaseNumber(1);
        let settings = GatewaySettings::of(ComponentName::new("a").unwrap());
        let instances = vec![TableInstance { index: 0, address, pid: 1 }];
        let stamp = TableStamp {
            stamp: release.stamp(),
            release,
            name: "r1".into(),
            instances,
            settings,
            upstreams: Default::default(),
        };
        let table = Table {
            preview_token: "t".into(),
            trusted_proxies: vec![],
            active: Some(stamp),
            candidate: None,
            weight: 0,
            fallback: None,
            guard: None,
            previous: None,
            kept: None,
        };
        let boot = stored::boot_id().unwrap();
        stored::store(&folder.table(), &Stored { v: STATE_VERSION, boot, fence: FenceToken(1), table })
            .unwrap();
    }

    #[test]
    fn what_does_not_end_in_time_is_cut_and_noted() {
        let temp = tempfile::tempdir().unwrap();
        let folder = StateFolder::new(temp.path());
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        store_table(&folder, upstream.local_addr().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (folder_of, journal) = (folder.clone(), JournalOptions::default());
        let options = Options { folder: folder_of, http: vec![listener], admin: None, workers: 1, journal };
        let (stop, stopped) = oneshot::channel::<()>();
        let gateway = std::thread::spawn(move || {
            let stop = async {
                let _ = stopped.await;
            };
            run_draining(options, stop, Duration::from_millis(50))
        });
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        // The service has the request, and never answers.
        let (mut socket, _) = upstream.accept().unwrap();
        assert!(socket.read(&mut [0; 16]).unwrap() > 0);
        stop.send(()).unwrap();
        gateway.join().unwrap().unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty());
        let line: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(folder.access_log()).unwrap()).unwrap();
        assert_eq!((line["error"].as_str(), line["path"].as_str()), (Some("drain_cut"), Some("/never")));
    }
}
