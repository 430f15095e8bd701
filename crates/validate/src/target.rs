//! What is tested: an address and how to speak to it.

use http::header::{ACCEPT, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use model::workload::Configuration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What is tested. HTTP/1.1 without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The `Host` header. None: the address.
    pub host: Option<String>,
    /// Headers of every request, such as the one that picks a stamp. A step's own header of the same name
    /// replaces them.
    pub headers: Vec<(String, String)>,
    /// The name of the environment: what `{environment.name}` stands for.
    pub environment: String,
}

/// A header of a [`Target`] that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("`{0}` is not the name of a header")]
    Name(String),
    #[error("the value of header `{name}` cannot be sent: {value:?}")]
    Value { name: String, value: String },
}

impl Target {
    /// The gateway of an environment, at the address users take; by loopback when that is every address.
    pub fn of(configuration: &Configuration, http: SocketAddr) -> Self {
        let ip = match http.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Self {
            address: SocketAddr::new(ip, http.port()),
            host: configuration.gateway.hosts.first().cloned(),
            headers: Vec::new(),
            environment: configuration.environment.to_string(),
        }
    }

    /// The headers every request carries.
    pub(crate) fn base_headers(&self) -> Result<HeaderMap, TargetError> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("mainstay"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let host = self.host.clone().unwrap_or_else(|| self.address.to_string());
        let host = ("host".to_owned(), host);
        for (name, value) in std::iter::once(&host).chain(&self.headers) {
            let header = HeaderName::try_from(name).map_err(|_| TargetError::Name(name.clone()))?;
            let text = HeaderValue::try_from(value)
                .map_err(|_| TargetError::Value { name: name.clone(), value: value.clone() })?;
            headers.insert(header, text);
        }
        debug_assert!(headers.contains_key(HOST));
        Ok(headers)
    }
}
