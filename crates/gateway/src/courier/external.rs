//! Externals: services run by others, which sagas call by their URL.

use crate::courier::line::{Line, late};
use crate::limits::EXTERNAL_CONNECT_TIME;
use http::Uri;
use http::header::HeaderValue;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where an external is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct External {
    /// None: without TLS.
    tls: Option<ServerName<'static>>,
    name: String,
    port: u16,
    /// As `Host` has it.
    pub(crate) authority: HeaderValue,
    /// What goes before the path of a call: no slash at its end.
    pub(crate) prefix: String,
}

impl External {
    /// Reads an absolute `http` or `https` URL. A query or a fragment has no meaning before a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|cause| format!("`{url}` is no URL: {cause}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(format!("`{url}` is neither an http nor an https URL")),
        };
        let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(format!("`{url}` has more than a host and a path"));
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match secure {
            true => {
                let known = ServerName::try_from(name.clone());
                Some(known.map_err(|cause| format!("`{name}` is no name of a server: {cause}"))?)
            }
            false => None,
        };
        let host = HeaderValue::try_from(authority.as_str());
        let authority_field = host.map_err(|cause| format!("`{authority}` is no host: {cause}"))?;
        Ok(Self {
            tls,
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            name,
            authority: authority_field,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Connects, with TLS where the URL says so. Whatever goes wrong here, no request was sent.
    ///
    /// # Errors
    /// No connection within [`EXTERNAL_CONNECT_TIME`], or none that is to be trusted.
    pub(crate) async fn connect(&self) -> io::Result<Line> {
        let connect = async {
            let socket = TcpStream::connect((self.name.as_str(), self.port)).await?;
            socket.set_nodelay(true)?;
            let Some(name) = &self.tls else { return Line::over(socket).await.map_err(io::Error::other) };
            let connector = TlsConnector::from(trust().map_err(io::Error::other)?);
            let secured = connector.connect(name.clone(), socket).await?;
            Line::over(secured).await.map_err(io::Error::other)
        };
        let limit = EXTERNAL_CONNECT_TIME;
        tokio::time::timeout(limit, connect).await.map_err(|_| late(limit))?
    }
}

/// Whom to trust: the certificates of the machine, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Read once
/// there are any: a machine may get its first ones while the gateway runs.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(known) = TRUST.get() {
        return Ok(Arc::clone(known));
    }
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |cause| format!(": {cause}"));
        let hint = "install the package ca-certificates, or name a file with SSL_CERT_FILE";
        return Err(format!("this machine trusts no certificates{why}; {hint}"));
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| format!("TLS cannot be set up: {cause}"))?;
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    Ok(Arc::clone(TRUST.get_or_init(|| config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, secure, name, port, authority, prefix) in [
            ("http://pay.example", false, "pay.example", 80, "pay.example", ""),
            ("https://pay.example/", true, "pay.example", 443, "pay.example", ""),
            ("https://pay.example:8443/v1/", true, "pay.example", 8443, "pay.example:8443", "/v1"),
            ("http://127.0.0.1:9000/a/b", false, "127.0.0.1", 9000, "127.0.0.1:9000", "/a/b"),
            ("http://[::1]:9000", false, "::1", 9000, "[::1]:9000", ""),
        ] {
            let external = External::read(url).unwrap();
            assert_eq!(external.tls.is_some(), secure, "{url}");
            assert_eq!((external.name.as_str(), external.port), (name, port), "{url}");
            assert_eq!((external.authority.to_str().unwrap(), external.prefix.as_str()), (authority, prefix));
        }
        for bad in ["", "pay.example", "/path", "ftp://pay.example", "http://u:p@pay.example", "http://a/?b=c"] {
            assert!(External::read(bad).is_err(), "{bad}");
        }
    }
}
