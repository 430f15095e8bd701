//! The three wires, each as lean as it can be: requests are copied from a template, answers are read as far as the
//! load needs.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Bytes of every body.
pub(crate) const BODY_BYTES: usize = 512;
/// The most bytes of an HTTP answer's head; a longer one ends the load.
const HEAD_LIMIT: usize = 16 * 1024;
/// Where writes go: a NATS subject and stream, a Redis list.
const NATS_SUBJECT: &str = "queue";
const REDIS_LIST: &str = "queue";

/// What a load speaks.
#[derive(Clone)]
pub(crate) enum Protocol {
    /// POST over HTTP/1.1 with `Idempotency-Key` (RFC 9112).
    Http {
        /// From the request line to the key, and from there to the body.
        around_key: (String, String),
    },
    /// PUB to JetStream with an inbox of its own for each message, on which the stream acknowledges.
    Nats,
    /// RPUSH (RESP2).
    Redis,
}

/// What was found at the start of what was read.
pub(crate) enum Found {
    /// Not yet a whole answer.
    More,
    /// So many bytes that answer nothing, and what is to be sent for them.
    Aside(usize, &'static [u8]),
    /// So many bytes that answer the oldest request.
    Answer { bytes: usize, good: bool, said: String },
}

impl Protocol {
    pub(crate) fn http(address: SocketAddr, path: &str, prefer: Option<&str>) -> Self {
        let prefer = prefer.map(|text| format!("Prefer: {text}\r\n")).unwrap_or_default();
        let start = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {BODY_BYTES}\r\n{prefer}Idempotency-Key: \""
        );
        Self::Http { around_key: (start, "\"\r\n\r\n".to_owned()) }
    }

    pub(crate) fn is_http(&self) -> bool {
        matches!(self, Self::Http { .. })
    }

    /// What a connection begins with.
    pub(crate) fn greeting(&self, connection: usize) -> Vec<u8> {
        match self {
            Self::Http { .. } | Self::Redis => Vec::new(),
            Self::Nats => format!(
                "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\n\
                 SUB _INBOX.{connection}.* 1\r\n"
            )
            .into_bytes(),
        }
    }

    /// Appends a request whose body and key are `key`'s own.
    pub(crate) fn request(&self, connection: usize, key: &str, out: &mut Vec<u8>) {
        match self {
            Self::Http { around_key: (start, end) } => {
                for part in [start.as_str(), key, end.as_str()] {
                    out.extend_from_slice(part.as_bytes());
                }
                body(key, out);
            }
            Self::Nats => {
                let mut head = String::with_capacity(80);
                write!(head, "PUB {NATS_SUBJECT} _INBOX.{connection}.{key} {BODY_BYTES}\r\n")
                    .expect("text takes all that is written");
                out.extend_from_slice(head.as_bytes());
                body(key, out);
                out.extend_from_slice(b"\r\n");
            }
            Self::Redis => {
                let mut head = String::with_capacity(48);
                let length = REDIS_LIST.len();
                write!(head, "*3\r\n$5\r\nRPUSH\r\n${length}\r\n{REDIS_LIST}\r\n${BODY_BYTES}\r\n")
                    .expect("text takes all that is written");
                out.extend_from_slice(head.as_bytes());
                body(key, out);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Reads the next answer; the oldest of `keys` is the one that it has to be for.
    pub(crate) fn answer(&self, read: &[u8], keys: &VecDeque<String>) -> Result<Found, String> {
        match self {
            Self::Http { .. } => http_answer(read),
            Self::Nats => nats_answer(read, keys.front().map(String::as_str)),
            Self::Redis => redis_answer(read),
        }
    }
}

/// What makes a stream that writes every message through to the disk, and is answered once.
pub(crate) fn nats_stream() -> Vec<u8> {
    let stream = format!(
        "{{\"name\":\"{NATS_SUBJECT}\",\"subjects\":[\"{NATS_SUBJECT}\"],\"storage\":\"file\",\"retention\":\"limits\",\
         \"num_replicas\":1}}"
    );
    format!("PUB $JS.API.STREAM.CREATE.{NATS_SUBJECT} _INBOX.0.stream {}\r\n{stream}\r\n", stream.len())
        .into_bytes()
}

/// A JSON object of [`BODY_BYTES`] that names the key.
fn body(key: &str, out: &mut Vec<u8>) {
    const START: &str = r#"{"ref":""#;
    const MIDDLE: &str = r#"","note":""#;
    const END: &str = r#""}"#;
    let begin = out.len();
    for part in [START, key, MIDDLE] {
        out.extend_from_slice(part.as_bytes());
    }
    out.resize(begin + BODY_BYTES - END.len(), b'x');
    out.extend_from_slice(END.as_bytes());
}

fn http_answer(read: &[u8]) -> Result<Found, String> {
    let Some(end) = memchr::memmem::find(read, b"\r\n\r\n") else {
        if read.len() > HEAD_LIMIT {
            return Err(format!("an answer whose head is longer than {HEAD_LIMIT} bytes"));
        }
        return Ok(Found::More);
    };
    let head = &read[..end];
    let length = content_length(head).ok_or_else(|| format!("no length in `{}`", text(head)))?;
    let bytes = end + 4 + length;
    if read.len() < bytes {
        return Ok(Found::More);
    }
    let status = head.get(9..12).map(text).ok_or_else(|| format!("no status in `{}`", text(head)))?;
    Ok(Found::Answer { bytes, good: status.starts_with('2'), said: status })
}

/// `Content-Length` of a request's or answer's head, without the empty line.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    field(head, b"content-length").and_then(|value| text(value).trim().parse().ok())
}

/// The value of the first field with this lower-case name.
pub(crate) fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    memchr::memchr_iter(b'\n', head).find_map(|at| {
        let line = &head[at + 1..];
        let found = line.len() > name.len()
            && line[..name.len()].eq_ignore_ascii_case(name)
            && line[name.len()] == b':';
        let value = found.then(|| &line[name.len() + 1..])?;
        Some(&value[..memchr::memchr(b'\r', value).unwrap_or(value.len())])
    })
}

fn nats_answer(read: &[u8], oldest: Option<&str>) -> Result<Found, String> {
    let Some(end) = memchr::memmem::find(read, b"\r\n") else { return Ok(Found::More) };
    let line = text(&read[..end]);
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PING"] => Ok(Found::Aside(end + 2, b"PONG\r\n")),
        ["PONG" | "+OK" | "INFO", ..] => Ok(Found::Aside(end + 2, b"")),
        ["MSG", subject, _, length] => {
            let length: usize = length.parse().map_err(|_| format!("no length in `{line}`"))?;
            let bytes = end + 2 + length + 2;
            if read.len() < bytes {
                return Ok(Found::More);
            }
            let key = subject.rsplit('.').next();
            if key != oldest {
                return Err(format!("an acknowledgement for {key:?} where one for {oldest:?} was due"));
            }
            let said = text(&read[end + 2..end + 2 + length]);
            let good = !said.contains("\"error\"");
            Ok(Found::Answer { bytes, good, said: if good { "ok".to_owned() } else { said } })
        }
        // HMSG is what "no responders" comes as: there is no such stream.
        _ => Err(format!("the server said `{line}`")),
    }
}

fn redis_answer(read: &[u8]) -> Result<Found, String> {
    let Some(end) = memchr::memmem::find(read, b"\r\n") else { return Ok(Found::More) };
    let good = read[0] == b':';
    let said = if good { "ok".to_owned() } else { text(&read[..end]) };
    Ok(Found::Answer { bytes: end + 2, good, said })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
