//! A server of a few lines, so that it shares no code with the client it tests, and whatever flows need.

use model::flow::{Expect, Flow, JsonPath, JsonTemplate, Method, Objective, Step};
use model::name::FlowName;
use model::template::Template;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use validate::Target;

/// What the server read.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the server does.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A complete answer on a connection that stays.
    Answer(u16, String),
    /// The same with a `Location`.
    Located(u16, String, String),
    /// A complete answer, then the connection is closed without a word.
    AnswerAndClose(u16, String),
    /// These bytes, then the connection is closed.
    Raw(&'static str),
    /// A complete answer after this long.
    Late(Duration, u16, String),
    /// Nothing, on a connection that stays.
    Silence,
}

pub(crate) fn json(status: u16, body: &str) -> Reply {
    Reply::Answer(status, body.to_owned())
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// Dropping it stops the server.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    pub(crate) connections: Arc<Mutex<usize>>,
    _task: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (seen, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let handler: Arc<Handler> = Arc::new(handler);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *opened.lock().unwrap() += 1;
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                open.spawn(async move { serve(stream, &*handler, &seen).await });
            }
        });
        Self { address, requests, connections, _task: task }
    }

    pub(crate) fn target(&self) -> Target {
        target(self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) fn target(address: SocketAddr) -> Target {
    Target { address, host: None, headers: Vec::new(), environment: "staging".into() }
}

async fn serve(mut stream: TcpStream, handler: &Handler, seen: &Mutex<Vec<Request>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await {
        seen.lock().unwrap().push(request.clone());
        let (bytes, stay) = match handler(&request) {
            Reply::Answer(status, body) => (answer(status, &body), true),
            Reply::Located(status, location, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: {length}");
                (format!("{head}\r\n\r\n{body}").into_bytes(), true)
            }
            Reply::AnswerAndClose(status, body) => (answer(status, &body), false),
            Reply::Raw(bytes) => (bytes.as_bytes().to_vec(), false),
            Reply::Late(pause, status, body) => {
                // slow on purpose
                tokio::time::sleep(pause).await;
                (answer(status, &body), true)
            }
            Reply::Silence => std::future::pending().await,
        };
        if stream.write_all(&bytes).await.is_err() || !stay {
            return;
        }
    }
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Reads one request; none when the connection ends. `buffer` keeps what came after it.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        match buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => break end,
            None => more(stream, buffer).await?,
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned()));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    while buffer.len() < end + 4 + length {
        more(stream, buffer).await?;
    }
    let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).unwrap();
    buffer.drain(..end + 4 + length);
    Some(Request { method, path, headers, body })
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}

pub(crate) fn template(text: &str) -> Template {
    Template::parse(text, |_| true).unwrap()
}

pub(crate) fn step(method: Method, path: &str) -> Step {
    Step {
        method,
        path: template(path),
        headers: BTreeMap::new(),
        json: None,
        expect: Expect::default(),
        save: BTreeMap::new(),
    }
}

pub(crate) fn expecting(status: u16, mut step: Step) -> Step {
    step.expect.status = Some(status);
    step
}

pub(crate) fn saving(name: &str, path: &str, mut step: Step) -> Step {
    step.save.insert(name.into(), JsonPath(path.into()));
    step
}

pub(crate) fn sending(name: &str, value: &str, mut step: Step) -> Step {
    step.json =
        Some(JsonTemplate::Table(BTreeMap::from([(name.into(), JsonTemplate::Text(template(value)))])));
    step
}

pub(crate) fn flow(steps: Vec<Step>) -> Flow {
    Flow { weight: 1, objective: Objective::default(), ledger: None, production: false, steps }
}

pub(crate) fn flows(flows: impl IntoIterator<Item = (&'static str, Flow)>) -> BTreeMap<FlowName, Flow> {
    flows.into_iter().map(|(name, flow)| (FlowName::new(name).unwrap(), flow)).collect()
}
