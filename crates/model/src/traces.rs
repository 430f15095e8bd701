//! Where traces of requests go, and of how many.

use serde::{Deserialize, Serialize};

/// The share of requests that are traced where nothing is said.
pub const DEFAULT_SHARE: f64 = 0.01;

/// Traces of requests, exported by OTLP over plain HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traces {
    /// An absolute `http` URL; spans go to `/v1/traces` below it.
    pub endpoint: String,
    /// How many of the requests are traced of which no trusted proxy has decided it, from 0 to 1.
    pub share: f64,
}
