//! The client of the two HTTP protocols: one request, one connection, over a unix socket.

use crate::problem::Problem;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// The largest answer that is read, unless it is said otherwise: [`Client::with_answer_limit`].
pub const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// Why a call has no answer of the wanted type.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens on the socket: the process is not there (yet).
    #[error("nothing listens on {socket}")]
    NotThere {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// The connection broke, or took too long. Whether the call took effect is not known.
    #[error("no answer from {socket}: {message}")]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        message: String,
    },
    /// The other process refused.
    #[error(transparent)]
    Refused(#[from] Problem),
}

/// Speaks to the process behind one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    answer_limit: usize,
}

impl Client {
    /// A client for the process behind `socket`; every call ends after `timeout`.
    pub fn new(socket: PathBuf, timeout: Duration) -> Self {
        Self { socket, timeout, answer_limit: ANSWER_LIMIT }
    }

    /// The same for answers of up to `bytes`; a larger one is none.
    #[must_use]
    pub fn with_answer_limit(self, bytes: usize) -> Self {
        Self { answer_limit: bytes, ..self }
    }

    /// GET `path`.
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, CallError> {
        self.call(http::Method::GET, path, &()).await
    }

    /// `method` on `path` with `body` as JSON.
    pub async fn call<A: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, CallError> {
        let no_answer = |message: String| CallError::NoAnswer { socket: self.socket.clone(), message };
        let text = self.text(method, path, body).await?;
        // A 204 has no body; `()` reads from `null`.
        let text = if text.is_empty() { Bytes::from_static(b"null") } else { text };
        serde_json::from_slice(&text).map_err(|e| no_answer(format!("an answer that does not parse: {e}")))
    }

    /// The same, without reading the answer as JSON.
    pub async fn text(
        &self,
        method: http::Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Bytes, CallError> {
        let late = || CallError::NoAnswer {
            socket: self.socket.clone(),
            message: format!("none within {:?}", self.timeout),
        };
        tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await.map_err(|_| late())?
    }

    async fn exchange(
        &self,
        method: http::Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Bytes, CallError> {
        let no_answer = |message: String| CallError::NoAnswer { socket: self.socket.clone(), message };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|cause| CallError::NotThere { socket: self.socket.clone(), cause })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| no_answer(e.to_string()))?;
        let json = serde_json::to_vec(body).expect("messages have string keys and finite numbers");
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "mainstay")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json)))
            .map_err(|e| no_answer(e.to_string()))?;
        // Both halves are driven here, so that nothing outlives the call.
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| no_answer(e.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.answer_limit)
                .collect()
                .await
                .map_err(|e| no_answer(e.to_string()))?
                .to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => Err(CallError::Refused(problem)),
                Err(_) => Err(no_answer(format!("{status}: {}", String::from_utf8_lossy(&body)))),
            }
        };
        tokio::pin!(answer);
        tokio::pin!(connection);
        tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }
}
