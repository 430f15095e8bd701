//! Whether a PostgreSQL server lets clients in: the first message of a connection and the answer to it.
//!
//! Written by hand, because no more is wanted: nobody logs in, so no password travels. What answers is untrusted: at
//! most [`ANSWER_LIMIT`] bytes of it are read.

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Version 3.0 of the protocol (PostgreSQL manual, 55.7, StartupMessage).
const VERSION: u32 = 196_608;

/// The longest answer, in bytes. An error has a few hundred.
const ANSWER_LIMIT: u32 = 8192;

/// `cannot_connect_now`: it is starting, recovering or stopping (PostgreSQL manual, appendix A).
const NOT_NOW: &[u8] = b"57P03";

/// What a server answered to a client that would like to come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// It asks for a password, or refuses this client for reasons of its own.
    Answers,
    /// It does not let anybody in yet, or what answers is no such server. Goes after "it".
    NotYet(String),
}

/// Asks to come in, and hangs up. The caller limits the time.
pub(crate) async fn greet(stream: &mut TcpStream, user: &str, database: &str) -> Greeting {
    match exchange(stream, user, database).await {
        Ok(greeting) => greeting,
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            Greeting::NotYet("closed the connection without an answer".to_owned())
        }
        Err(cause) => Greeting::NotYet(format!("broke the connection: {cause}")),
    }
}

async fn exchange(stream: &mut TcpStream, user: &str, database: &str) -> io::Result<Greeting> {
    stream.write_all(&startup(user, database)).await?;
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    if !matches!(kind, b'R' | b'E') || !(4..=ANSWER_LIMIT).contains(&length) {
        return Ok(Greeting::NotYet("answered something that is not PostgreSQL".to_owned()));
    }
    // Read to its end also where it is not looked at: a connection closed with something unread is reset, and the
    // server would log that.
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    let said = |kind: u8| field(&body, kind).unwrap_or_default();
    if kind == b'E' && said(b'C') == NOT_NOW {
        return Ok(Greeting::NotYet(format!("answered: {}", String::from_utf8_lossy(said(b'M')))));
    }
    Ok(Greeting::Answers)
}

fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = VERSION.to_be_bytes().to_vec();
    for word in ["user", user, "database", database] {
        body.extend_from_slice(word.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("names are short");
    [length.to_be_bytes().as_slice(), &body].concat()
}

/// One field of an ErrorResponse: a byte for its kind, then a text that ends with 0.
fn field(body: &[u8], kind: u8) -> Option<&[u8]> {
    let mut fields = body.split(|byte| *byte == 0);
    fields.find_map(|field| field.strip_prefix(&[kind]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn the_first_message_is_as_in_the_manual() {
        let expected = b"\0\0\0\x1d\0\x03\0\0user\0me\0database\0db\0\0";
        assert_eq!(expected.len(), 0x1d);
        assert_eq!(startup("me", "db"), expected);
    }

    #[tokio::test]
    async fn who_lets_clients_in_is_told_from_who_does_not() {
        let error = |code: &str, text: &str| {
            let body = format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0");
            [b"E".as_slice(), &(u32::try_from(body.len()).unwrap() + 4).to_be_bytes(), body.as_bytes()]
                .concat()
        };
        let not_yet = |text: &str| Greeting::NotYet(text.to_owned());
        let junk = "answered something that is not PostgreSQL";
        let cases = [
            (b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec(), Greeting::Answers),
            (
                error("57P03", "the database system is starting up"),
                not_yet("answered: the database system is starting up"),
            ),
            (error("53300", "sorry, too many clients already"), Greeting::Answers),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), not_yet(junk)),
            (b"E\xff\xff\xff\xff".to_vec(), not_yet(junk)),
            (b"R\0\0\0\x03".to_vec(), not_yet(junk)),
            (b"E\0\0".to_vec(), not_yet("closed the connection without an answer")),
            (b"".to_vec(), not_yet("closed the connection without an answer")),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (answer, expected) in cases {
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 0x1d];
                stream.read_exact(&mut asked).await.unwrap();
                assert_eq!(asked.as_slice(), startup("me", "db"));
                stream.write_all(&answer).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let client = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                greet(&mut stream, "me", "db").await
            };
            assert_eq!(tokio::join!(server, client).1, expected, "{answer:?}");
        }
    }
}
