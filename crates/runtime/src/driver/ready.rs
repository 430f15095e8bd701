//! When an instance may get requests: it listens on the port it was told, itself, and answers there.

use super::instance::{Instance, describe_exit, quote};
use super::{blocking, probe};
use crate::postgres::{Greeting, greet};
use crate::process::{Look, look, reaches_itself};
use api::shim::Exit;
use model::workload::Ready;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How soon an instance is looked at again; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How long it is left alone at most between two looks.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// What a timeout counts as that is longer than clocks can tell.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long one GET may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked for on other ports; that reads the sockets of all its processes.
const ELSEWHERE_LOOK: Duration = Duration::from_millis(500);

/// How long it may answer HTTP elsewhere, and not listen where it was told, until that counts as final.
pub const ELSEWHERE_AFTER: Duration = Duration::from_secs(2);

/// How many times in a row a port must be seen to be a stranger's. Processes come and go while they are
/// looked at, and what one has just opened may not have been seen to be its own.
const STRANGER_LOOKS: u32 = 3;

/// How many of its last lines an instance that ended is quoted with.
const LINES: usize = 10;

/// Why an instance is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReady {
    /// It ended.
    Exited {
        /// How.
        exit: Exit,
        /// After how long.
        after: Duration,
        /// The last lines it printed.
        lines: Vec<String>,
    },
    /// It listens, but not where it was told.
    Elsewhere {
        /// The port it was told.
        told: u16,
        /// Where it listens.
        listens: BTreeSet<(IpAddr, u16)>,
    },
    /// Another process has the port.
    Stranger {
        /// The port.
        port: u16,
    },
    /// It took too long.
    Timeout {
        /// The port it was told.
        port: u16,
        /// How long it could take.
        limit: Duration,
        /// What was seen last.
        last: LastSeen,
        /// The last lines it printed.
        lines: Vec<String>,
    },
}

/// What was seen last of an instance that did not become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastSeen {
    /// Nothing listened on the port.
    Silent,
    /// The answer to the path had this status.
    Status {
        /// The path.
        path: String,
        /// The status.
        status: u16,
    },
    /// There was no HTTP answer to the path.
    NoAnswer {
        /// The path.
        path: String,
        /// What came instead.
        what: String,
    },
    /// It was a database that did not let clients in.
    NotYet {
        /// What it said.
        what: String,
    },
    /// Something listened on the port, but its processes do not let themselves be looked into.
    Hidden,
}

impl fmt::Display for LastSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("nothing listens there"),
            Self::Status { path, status } => write!(f, "GET {path} was answered with {status}"),
            Self::NoAnswer { path, what } => write!(f, "GET {path}: it {what}"),
            Self::NotYet { what } => write!(f, "it {what}"),
            Self::Hidden => f.write_str(
                "something listens there, but whether it is the instance cannot be seen, as it runs as \
                 another user or with privileges of its own; hint: run it as this user",
            ),
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { exit, after, lines } => {
                write!(f, "{} after {:.1} s", describe_exit(exit), after.as_secs_f64())?;
                quote(f, lines)
            }
            Self::Elsewhere { told, listens } => {
                let listens: Vec<String> = listens
                    .iter()
                    .map(|(address, port)| SocketAddr::from((*address, *port)).to_string())
                    .collect();
                write!(
                    f,
                    "listens on {}, was told port {told}; hint: use {{port}} in `run` or `env`, or $PORT",
                    listens.join(" and ")
                )
            }
            Self::Stranger { port } => {
                write!(f, "another process listens on its port {port}; hint: ss -ltnp 'sport = :{port}'")
            }
            Self::Timeout { port, limit, last, lines } => {
                write!(f, "was not ready on port {port} within {limit:?}: {last}")?;
                quote(f, lines)
            }
        }
    }
}

impl std::error::Error for NotReady {}

impl Instance {
    /// Waits until the instance may get requests, and says at which address: one of its own processes
    /// listens on the port it was told, on loopback or on all addresses, and answers `ready.get` with 2xx
    /// or 3xx (without `get`: answers `GET /` with any HTTP status).
    ///
    /// The time counts from the start of the instance, or from its adoption; one look is always taken.
    /// Cancel-safe.
    ///
    /// # Errors
    /// See [`NotReady`]. The instance is left as it is.
    pub async fn ready(&self, ready: &Ready) -> Result<SocketAddr, NotReady> {
        let path = ready.get.as_deref().unwrap_or("/");
        let question = Question::Http { path, must_succeed: ready.get.is_some() };
        self.unless_ended(Watch::new(self, question, ready.timeout).run()).await
    }

    /// The same for a PostgreSQL server, which is ready when it lets clients ask for this database.
    pub(crate) async fn ready_as_postgres(
        &self,
        user: &str,
        database: &str,
        limit: Duration,
    ) -> Result<SocketAddr, NotReady> {
        let question = Question::Postgres { user, database };
        self.unless_ended(Watch::new(self, question, limit).run()).await
    }

    /// Waits until the instance has lived for `time`: all that can be asked of one without a port. The time counts
    /// from its start, or from its adoption. Cancel-safe.
    ///
    /// # Errors
    /// [`NotReady::Exited`] when it ended before.
    pub async fn steady(&self, time: Duration) -> Result<(), NotReady> {
        let began = self.began().at;
        let until = began.checked_add(time).unwrap_or(began + LONGEST);
        self.unless_ended(async {
            sleep_until(until).await;
            Ok(())
        })
        .await
    }

    async fn unless_ended<T>(
        &self,
        outcome: impl Future<Output = Result<T, NotReady>>,
    ) -> Result<T, NotReady> {
        tokio::select! {
            biased;
            exit = self.ended() => Err(NotReady::Exited {
                exit,
                after: self.began().at.elapsed(),
                lines: self.last_lines(LINES),
            }),
            outcome = outcome => outcome,
        }
    }
}

impl Instance {
    /// Where the instance listens on the port it was told, whatever it answers there. For one that has been
    /// ready before and was found again: whether it still is, is not asked.
    ///
    /// Cancel-safe.
    pub async fn listens(&self) -> Option<SocketAddr> {
        let port = self.running().port;
        let (_, address) = connect(port).await?;
        let question = Question::Http { path: "/", must_succeed: false };
        let look = Watch::new(self, question, PROBE_TIMEOUT).look().await;
        let own = look.own.iter().any(|(ip, of)| *of == port && reaches_itself(*ip));
        (own || look.hidden).then_some(address)
    }
}

/// What an instance is asked to see whether it answers.
#[derive(Debug, Clone, Copy)]
enum Question<'a> {
    Http {
        path: &'a str,
        /// Whether only 2xx and 3xx will do.
        must_succeed: bool,
    },
    Postgres {
        user: &'a str,
        database: &'a str,
    },
}

struct Watch<'a> {
    instance: &'a Instance,
    port: u16,
    question: Question<'a>,
    limit: Duration,
    deadline: Instant,
    last: LastSeen,
    strangers: u32,
    /// Since when it answers elsewhere.
    elsewhere_since: Option<Instant>,
    look_elsewhere_at: Instant,
}

impl<'a> Watch<'a> {
    fn new(instance: &'a Instance, question: Question<'a>, limit: Duration) -> Self {
        let began = instance.began().at;
        Self {
            instance,
            port: instance.running().port,
            question,
            limit,
            deadline: began.checked_add(limit).unwrap_or(began + LONGEST),
            last: LastSeen::Silent,
            strangers: 0,
            elsewhere_since: None,
            look_elsewhere_at: Instant::now() + ELSEWHERE_LOOK,
        }
    }

    async fn run(mut self) -> Result<SocketAddr, NotReady> {
        let mut pause = FIRST_PAUSE;
        loop {
            // Connecting first is cheap; the kernel's table of sockets is long on a busy machine and is
            // read only when something listens.
            let address = match connect(self.port).await {
                Some((mut stream, address)) => {
                    self.elsewhere_since = None;
                    self.ask(&mut stream, address).await?
                }
                None => {
                    self.last = LastSeen::Silent;
                    self.strangers = 0;
                    self.look_elsewhere().await?;
                    None
                }
            };
            if let Some(address) = address {
                return Ok(address);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Err(self.too_late().await);
            }
            sleep(pause.min(self.deadline - now)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn look(&self) -> Look {
        let (family, port) = (self.instance.family(), self.port);
        blocking(move || {
            let pids: Vec<u32> = family.members().iter().map(|member| member.pid).collect();
            look(&pids, port)
        })
        .await
    }

    /// Something listens on the port: is it the instance, and what does it answer?
    async fn ask(
        &mut self,
        stream: &mut TcpStream,
        address: SocketAddr,
    ) -> Result<Option<SocketAddr>, NotReady> {
        let look = self.look().await;
        let own = look.own.iter().any(|(ip, port)| *port == self.port && reaches_itself(*ip));
        if look.hidden && !own {
            self.last = LastSeen::Hidden;
            return Ok(None);
        }
        // Even beside the instance: where both listen, the kernel may give a connection to either.
        if look.stranger && !look.hidden {
            self.strangers += 1;
            return if self.strangers >= STRANGER_LOOKS {
                Err(NotReady::Stranger { port: self.port })
            } else {
                Ok(None)
            };
        }
        self.strangers = 0;
        if !own {
            // It has closed again meanwhile.
            return Ok(None);
        }
        match self.question.ask(stream, address).await {
            Ok(()) => Ok(Some(address)),
            Err(last) => {
                self.last = last;
                Ok(None)
            }
        }
    }

    /// Nothing listens on the port: perhaps it was not told, or did not listen.
    async fn look_elsewhere(&mut self) -> Result<(), NotReady> {
        let now = Instant::now();
        let http = matches!(self.question, Question::Http { .. });
        if !http || now < self.look_elsewhere_at {
            return Ok(());
        }
        self.look_elsewhere_at = now + ELSEWHERE_LOOK;
        let listens = self.look().await.own;
        // Many services open a port for debugging or metrics first. One that serves users elsewhere speaks
        // HTTP there.
        if !speaks_http(&listens).await {
            self.elsewhere_since = None;
            return Ok(());
        }
        let since = *self.elsewhere_since.get_or_insert(now);
        if now.duration_since(since) >= ELSEWHERE_AFTER {
            return Err(NotReady::Elsewhere { told: self.port, listens });
        }
        Ok(())
    }

    async fn too_late(self) -> NotReady {
        if self.last == LastSeen::Silent {
            let listens = self.look().await.own;
            if !listens.is_empty() {
                return NotReady::Elsewhere { told: self.port, listens };
            }
        }
        let lines = self.instance.last_lines(LINES);
        NotReady::Timeout { port: self.port, limit: self.limit, last: self.last, lines }
    }
}

impl Question<'_> {
    async fn ask(self, stream: &mut TcpStream, address: SocketAddr) -> Result<(), LastSeen> {
        let silent = format!("gave no answer within {PROBE_TIMEOUT:?}");
        match self {
            Self::Http { path, must_succeed } => {
                let no_answer = |what| LastSeen::NoAnswer { path: path.to_owned(), what };
                match timeout(PROBE_TIMEOUT, probe::get(stream, address, path)).await {
                    Ok(Ok(status)) if !must_succeed || (200..400).contains(&status) => Ok(()),
                    Ok(Ok(status)) => Err(LastSeen::Status { path: path.to_owned(), status }),
                    Ok(Err(unanswered)) => Err(no_answer(unanswered.to_string())),
                    Err(_) => Err(no_answer(silent)),
                }
            }
            Self::Postgres { user, database } => {
                match timeout(PROBE_TIMEOUT, greet(stream, user, database)).await {
                    Ok(Greeting::Answers) => Ok(()),
                    Ok(Greeting::NotYet(what)) => Err(LastSeen::NotYet { what }),
                    Err(_) => Err(LastSeen::NotYet { what: silent }),
                }
            }
        }
    }
}

/// A connection to the port on this machine, and the address that took it.
async fn connect(port: u16) -> Option<(TcpStream, SocketAddr)> {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::from((ip, port));
        if let Ok(Ok(stream)) = timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
            return Some((stream, address));
        }
    }
    None
}

async fn speaks_http(listens: &BTreeSet<(IpAddr, u16)>) -> bool {
    let ports: BTreeSet<u16> =
        listens.iter().filter(|(ip, _)| reaches_itself(*ip)).map(|(_, port)| *port).collect();
    for port in ports {
        if let Some((mut stream, address)) = connect(port).await
            && let Ok(Ok(_)) = timeout(PROBE_TIMEOUT, probe::get(&mut stream, address, "/")).await
        {
            return true;
        }
    }
    false
}
