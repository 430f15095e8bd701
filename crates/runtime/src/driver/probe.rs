//! One GET to see whether an instance answers.
//!
//! Written by hand, because all that is wanted is one status line from one connection that is already open
//! and known to lead to the instance itself: no pool, no redirects, no body. What answers is untrusted:
//! at most [`HEAD_LIMIT`] bytes of it are read before it must have made sense.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest status line, in bytes.
const HEAD_LIMIT: usize = 1024;

/// How much of the rest is read, in bytes and in time, so that the instance does not log a broken pipe.
const REST_LIMIT: u64 = 64 * 1024;
const REST_WAIT: Duration = Duration::from_millis(100);

/// What came instead of an HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The connection ended first.
    Closed,
    /// It broke.
    Broken(String),
    /// Something that is not HTTP; its first bytes.
    NotHttp(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed the connection without an answer"),
            Self::Broken(cause) => write!(f, "broke the connection: {cause}"),
            Self::NotHttp(bytes) => write!(f, "answered something that is not HTTP: {bytes:?}"),
        }
    }
}

/// Whether what listens on `address` answers GET `path` with 2xx or 3xx, on a connection of its own, and begins to do so
/// within `limit`. The error says what it did instead: `answered with 503`. Cancel-safe.
pub async fn alive(address: SocketAddr, path: &str, limit: Duration) -> Result<(), String> {
    let asked = async {
        let mut stream =
            TcpStream::connect(address).await.map_err(|cause| format!("takes no connection: {cause}"))?;
        let status = ask(&mut stream, address, path).await.map_err(|unanswered| unanswered.to_string())?;
        Ok::<_, String>((stream, status))
    };
    let asked = tokio::time::timeout(limit, asked).await;
    let (mut stream, status) = asked.map_err(|_| format!("did not answer within {limit:?}"))??;
    rest(&mut stream).await;
    match status {
        200..400 => Ok(()),
        _ => Err(format!("answered with {status}")),
    }
}

/// Asks for `path` and returns the status. The caller limits the time.
pub(super) async fn get(stream: &mut TcpStream, address: SocketAddr, path: &str) -> Result<u16, Unanswered> {
    let status = ask(stream, address, path).await?;
    rest(stream).await;
    Ok(status)
}

/// Reads the rest of an answer, as far as it comes soon.
async fn rest(stream: &mut TcpStream) {
    let mut rest = stream.take(REST_LIMIT);
    let _ = tokio::time::timeout(REST_WAIT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

async fn ask(stream: &mut TcpStream, address: SocketAddr, path: &str) -> Result<u16, Unanswered> {
    let broken = |cause: io::Error| Unanswered::Broken(cause.to_string());
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: mainstay\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target(path)
    );
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::with_capacity(256);
    loop {
        if let Some(end) = head.iter().position(|b| *b == b'\n') {
            return parse_status(&head[..end]).ok_or_else(|| not_http(&head));
        }
        if head.len() >= HEAD_LIMIT || !might_be_http(&head) {
            return Err(not_http(&head));
        }
        if stream.read_buf(&mut head).await.map_err(broken)? == 0 {
            return Err(if head.is_empty() { Unanswered::Closed } else { not_http(&head) });
        }
    }
}

/// A request target (RFC 9112, 3.2.1) cannot hold spaces and control characters; a path from a file may.
fn target(path: &str) -> String {
    use fmt::Write as _;
    let mut target = String::from(if path.starts_with('/') { "" } else { "/" });
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && byte != b'#' {
            target.push(char::from(byte));
        } else {
            write!(target, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    target
}

fn might_be_http(head: &[u8]) -> bool {
    let start = b"HTTP/1.";
    let length = head.len().min(start.len());
    head[..length] == start[..length]
}

/// RFC 9112, 4: `HTTP/1.1 200 OK`. The reason, and by tolerance the space before it, may be missing.
fn parse_status(line: &[u8]) -> Option<u16> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let code = rest.strip_prefix(b" ")?;
    let (code, reason) = code.split_at_checked(3)?;
    let well_formed = minor.is_ascii_digit()
        && (reason.is_empty() || reason.starts_with(b" "))
        && code.iter().all(u8::is_ascii_digit);
    let status: u16 = std::str::from_utf8(code).ok()?.parse().ok()?;
    (well_formed && (100..600).contains(&status)).then_some(status)
}

fn not_http(head: &[u8]) -> Unanswered {
    Unanswered::NotHttp(String::from_utf8_lossy(&head[..head.len().min(60)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_one_or_it_is_not() {
        let table: &[(&str, Option<u16>)] = &[
            ("HTTP/1.1 200 OK\r", Some(200)),
            ("HTTP/1.0 404 Not Found", Some(404)),
            ("HTTP/1.1 302", Some(302)),
            ("HTTP/1.1 204 ", Some(204)),
            ("HTTP/2 200", None),
            ("HTTP/1.1 2000 OK", None),
            ("HTTP/1.1 20 OK", None),
            ("HTTP/1.1 +20 OK", None),
            ("HTTP/1.1 099 x", None),
            ("HTTP/1.1 600 x", None),
            ("HTTP/1.x 200 OK", None),
            ("SSH-2.0-OpenSSH", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(parse_status(line.as_bytes()), *expected, "{line:?}");
        }
    }

    #[test]
    fn a_path_cannot_smuggle_a_second_request() {
        assert_eq!(target("/health?deep=1&x=%20"), "/health?deep=1&x=%20");
        assert_eq!(target("health"), "/health");
        assert_eq!(target("/a b\r\nX: y#z"), "/a%20b%0D%0AX:%20y%23z");
        assert_eq!(target("/ü"), "/%C3%BC");
    }

    #[tokio::test]
    async fn what_does_not_speak_http_is_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cases: [(&[u8], Result<u16, Unanswered>); 6] = [
            (b"HTTP/1.1 503 Busy\r\nX: y\r\n\r\nbody", Ok(503)),
            (b"HTTP/1.1 200 OK\n", Ok(200)),
            (b"", Err(Unanswered::Closed)),
            (b"+PONG\r\n", Err(Unanswered::NotHttp("+PONG\r\n".to_owned()))),
            (b"HTTP/1.1 no\r\n", Err(Unanswered::NotHttp("HTTP/1.1 no\r\n".to_owned()))),
            (b"HTTP/", Err(Unanswered::NotHttp("HTTP/".to_owned()))),
        ];
        for (answer, expected) in cases {
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let count = stream.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:"));
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let client = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                get(&mut stream, address, "/x").await
            };
            assert_eq!(tokio::join!(server, client).1, expected);
        }
    }
}
