//! Where forms hand in orders when this process does not take them itself: an address that takes `POST /api/orders`
//! as the shop does, and may answer 202 first, with a `Location` that says how far the order is (RFC 9110, 15.3.3).
//! So a form can be sent while the database is away.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::problem::Problem;

/// How long one exchange with the desk may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer read from it, in bytes.
const ANSWER_LIMIT: usize = 256 * 1024;
/// The longest path of an order on its way, in bytes.
pub(crate) const PATH_LIMIT: usize = 500;

/// The desk's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desk {
    /// Host and port.
    authority: String,
}

/// A text that is no address of a desk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoDesk;

impl fmt::Display for NoDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is a URL without a path, such as http://127.0.0.1:8080")
    }
}

impl std::error::Error for NoDesk {}

/// Where forms hand orders in; an empty text is here, as without one.
#[derive(Clone, Debug)]
pub(crate) struct OrdersUrl(pub(crate) Option<Desk>);

impl FromStr for OrdersUrl {
    type Err = NoDesk;

    fn from_str(text: &str) -> Result<Self, NoDesk> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|desk| Self(Some(desk))) }
    }
}

impl FromStr for Desk {
    type Err = NoDesk;

    fn from_str(text: &str) -> Result<Self, NoDesk> {
        let authority = text.strip_prefix("http://").ok_or(NoDesk)?.trim_end_matches('/');
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(fits) {
            return Err(NoDesk);
        }
        let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority })
    }
}

/// How far an order is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Taken, under this number.
    Taken(i64),
    /// Received, and on its way: this path says more later.
    Received(String),
}

struct Reply {
    status: StatusCode,
    location: Option<String>,
    json: Value,
}

impl Desk {
    /// Hands an order in. What the desk refuses is the error, with the same status.
    pub(crate) async fn hand_in(&self, order: &Value, key: &str) -> Result<Progress, Problem> {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/orders")
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key);
        let reply = self.exchange(request, order.to_string()).await?;
        match (reply.status, &reply.location) {
            (StatusCode::ACCEPTED, Some(path)) => Ok(Progress::Received(own_path(path)?)),
            _ => reply.taken(),
        }
    }

    /// How far the order is whose path this is. An order that the desk cannot say anything of just now is still on its
    /// way.
    pub(crate) async fn progress(&self, path: &str) -> Result<Progress, Problem> {
        let path = own_path(path)?;
        let received = Ok(Progress::Received(path.clone()));
        let look = Request::builder().uri(&path);
        let Ok(reply) = self.exchange(look, String::new()).await else { return received };
        match (reply.status, reply.state(), &reply.location) {
            (StatusCode::SEE_OTHER, _, Some(answer)) => {
                let Ok(reply) = self.exchange(Request::builder().uri(own_path(answer)?), String::new()).await
                else {
                    return received;
                };
                reply.taken()
            }
            (_, Some("dead" | "dropped"), _) => {
                let detail = "the order could not be finished; somebody is looking into it";
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
            (_, Some("rejected" | "cancelled"), _) => {
                let detail = "the order could not be taken; nothing was charged";
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
            (StatusCode::OK | StatusCode::ACCEPTED, Some(_), _) => received,
            (status, _, _) if status.is_server_error() || status == StatusCode::ACCEPTED => received,
            (_, _, _) => reply.taken(),
        }
    }

    async fn exchange(&self, request: axum::http::request::Builder, body: String) -> Result<Reply, Problem> {
        let request = request
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Problem::bad_request("this is not the path of an order"))?;
        let log = |why: &str| crate::log(&format!("the desk for orders at {}: {why}", self.authority));
        let away = |error: std::io::Error| {
            log(&error.to_string());
            Problem::unavailable("orders cannot be handed in just now; nothing was done")
        };
        let lost = |why: &str| {
            log(why);
            Problem::unavailable(
                "it is not known whether the order was received; send the same form again, it is one order",
            )
        };
        let exchange = async {
            let stream = TcpStream::connect(&self.authority).await.map_err(away)?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = handshake.map_err(|error| lost(&error.to_string()))?;
            let talk = async {
                let response =
                    sender.send_request(request).await.map_err(|error| lost(&error.to_string()))?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, ANSWER_LIMIT).collect().await;
                let body = body.map_err(|error| lost(&error.to_string()))?.to_bytes();
                let location = head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
                let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
                Ok(Reply { status: head.status, location: location.map(str::to_owned), json })
            };
            tokio::pin!(talk);
            // The connection moves while it is waited for; its end says no more than the talk's.
            tokio::select! {
                reply = &mut talk => reply,
                _ = connection => talk.await,
            }
        };
        let late = || lost(&format!("no answer within {} s", EXCHANGE_LIMIT.as_secs()));
        tokio::time::timeout(EXCHANGE_LIMIT, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Reply {
    fn state(&self) -> Option<&str> {
        self.json.get("state").and_then(Value::as_str)
    }

    /// The order in an answer that is final.
    fn taken(&self) -> Result<Progress, Problem> {
        match self.json.get("id").and_then(Value::as_i64).filter(|_| self.status.is_success()) {
            Some(id) => Ok(Progress::Taken(id)),
            None => {
                let detail = self.json.get("detail").and_then(Value::as_str);
                let status = if self.status.is_success() { StatusCode::BAD_GATEWAY } else { self.status };
                Err(Problem::new(status, detail.unwrap_or("the order could not be taken")))
            }
        }
    }
}

/// A path on the desk itself, whatever host stands before it.
fn own_path(location: &str) -> Result<String, Problem> {
    let path =
        location.split_once("://").map_or(location, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let fits = path.starts_with('/') && path.len() <= PATH_LIMIT && PathAndQuery::try_from(path).is_ok();
    fits.then(|| path.to_owned()).ok_or_else(|| Problem::bad_request("this is not the path of an order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desk_is_a_host_and_a_port() {
        let table = [
            ("http://127.0.0.1:8080", Ok("127.0.0.1:8080")),
            ("http://127.0.0.1:8080/", Ok("127.0.0.1:8080")),
            ("http://[::1]:80", Ok("[::1]:80")),
            ("http://shop.example", Ok("shop.example:80")),
            ("https://shop.example", Err(NoDesk)),
            ("http://", Err(NoDesk)),
            ("http://u@h/", Err(NoDesk)),
            ("http://h/path", Err(NoDesk)),
        ];
        for (text, expected) in table {
            assert_eq!(
                text.parse::<Desk>().as_ref().map(|desk| desk.authority.as_str()),
                expected.as_ref().copied()
            );
        }
    }

    #[test]
    fn only_paths_are_followed_and_only_on_the_desk() {
        assert_eq!(own_path("/jobs/1?a=b").unwrap(), "/jobs/1?a=b");
        assert_eq!(own_path("http://elsewhere.example/jobs/1").unwrap(), "/jobs/1");
        let long = format!("/{}", "x".repeat(PATH_LIMIT));
        for bad in ["", "jobs/1", "/a b", long.as_str()] {
            assert_eq!(own_path(bad).unwrap_err().status(), StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
