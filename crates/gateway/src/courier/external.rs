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
        self.connect_trusting(machine).await
    }

    async fn connect_trusting(
        &self,
        trust: impl FnOnce() -> Result<Arc<ClientConfig>, String>,
    ) -> io::Result<Line> {
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
fn machine() -> Result<Arc<ClientConfig>, String> {
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
    let config = trusting(roots)?;
    Ok(Arc::clone(TRUST.get_or_init(|| config)))
}

fn trusting(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| format!("TLS cannot be set up: {cause}"))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
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
        for bad in
            ["", "pay.example", "/path", "ftp://pay.example", "http://u:p@pay.example", "http://a/?b=c"]
        {
            assert!(External::read(bad).is_err(), "{bad}");
        }
    }

    /// A TLS server for `localhost`, and the certificate it has.
    fn server() -> (u16, tokio_rustls::rustls::pki_types::CertificateDer<'static>) {
        use std::io::{Read as _, Write as _};
        use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, socket.unwrap());
                let mut head = [0; 1024];
                // Who does not trust it has gone.
                let Ok(read) = stream.read(&mut head) else { continue };
                assert!(head[..read].starts_with(b"POST /charges HTTP/1.1\r\n"));
                stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\npaid").unwrap();
            }
        });
        (port, certificate)
    }

    #[test]
    fn only_who_is_trusted_is_called() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        let (port, certificate) = server();
        let with = |known: bool| {
            let mut roots = RootCertStore::empty();
            if known {
                roots.add(certificate.clone()).unwrap();
            }
            trusting(roots)
        };
        runtime.block_on(async {
            let external = External::read(&format!("https://localhost:{port}")).unwrap();
            let mut line = external.connect_trusting(|| with(true)).await.unwrap();
            let request = http::Request::post("/charges").header("host", "localhost");
            let request = request.body(http_body_util::Full::new(bytes::Bytes::from_static(b"{}"))).unwrap();
            let answer = line.exchange(request).await.unwrap();
            assert_eq!((answer.head.status.as_u16(), &answer.body[..]), (201, &b"paid"[..]));
            assert!(external.connect_trusting(|| with(false)).await.is_err(), "nobody vouches for it");
            // The certificate is for another name.
            let other = External::read(&format!("https://127.0.0.1:{port}")).unwrap();
            assert!(other.connect_trusting(|| with(true)).await.is_err());
            // And plain HTTP is no TLS.
            let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = plain.local_addr().unwrap();
            std::thread::spawn(move || {
                use std::io::Write as _;
                let (mut socket, _) = plain.accept().unwrap();
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            });
            let external = External::read(&format!("https://localhost:{}", address.port())).unwrap();
            assert!(external.connect_trusting(|| with(true)).await.is_err());
        });
    }
}
