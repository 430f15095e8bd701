//! Every error answer, as `application/problem+json` (RFC 9457), in one place.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::database::{self, CallError};
use crate::orders::{FieldError, PlaceError};

/// What `Retry-After` says when the shop is busy, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// An error as the customer gets it; what caused it inside goes to the log instead.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    field: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), field: None }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl Problem {
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        let json = serde_json::to_string(&body).expect("texts and numbers serialise");
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], json).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Full | CallError::Late => Self::unavailable(format!("{error}; nothing was done")),
            CallError::Lost => {
                crate::log(&error.to_string());
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the shop is broken")
            }
        }
    }
}

impl From<database::Error> for Problem {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::Unreachable(cause) => {
                crate::log(&format!("the database cannot be reached: {cause}"));
                Self::unavailable("the database cannot be reached; nothing was done")
            }
            error if error.is_passing() => Self::unavailable("the database is busy; nothing was done"),
            database::Error::Unknown(_) => {
                crate::log(&error.to_string());
                let detail =
                    "the database went away while it was told; ask again with the same Idempotency-Key";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
            database::Error::Sqlite(_) | database::Error::Postgres(_) | database::Error::Thread(_) => {
                crate::log(&format!("the database failed: {error}"));
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the database failed")
            }
        }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        let detail = if error.field.is_empty() { error.reason.clone() } else { error.to_string() };
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, detail, field: Some(error.field) }
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Unknown(field) => field.into(),
            PlaceError::OutOfStock { .. } | PlaceError::Cancelled => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            PlaceError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            PlaceError::KeyRaced => Self::unavailable(format!("{error}; nothing was done")),
            PlaceError::Database(error) => error.into(),
        }
    }
}
