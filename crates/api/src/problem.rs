//! What goes wrong, as it travels: a stable code, a sentence, a hint.

use serde::{Deserialize, Serialize};

/// Codes of the operator protocol: stable, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is malformed, or names what does not exist.
    BadRequest,
    /// The state of the environment does not allow it now.
    Conflict,
    /// An older agent speaks.
    Fenced,
    /// Disk, memory or the operating system refused.
    Machine,
    /// The other process speaks another version.
    Version,
}

impl Code {
    /// The HTTP status that carries this code.
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::BadRequest => http::StatusCode::BAD_REQUEST,
            Self::Conflict => http::StatusCode::CONFLICT,
            Self::Fenced => http::StatusCode::PRECONDITION_FAILED,
            Self::Machine => http::StatusCode::INSUFFICIENT_STORAGE,
            Self::Version => http::StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }
}

/// What went wrong, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// What failed, with the value seen.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with a hint, if there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
