//! The variables that every service, hook and store begins with.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where services reach the gateway of their environment.
const GATEWAY_VARIABLE: &str = "MAINSTAY_URL";

/// What services see of the agent's own variables: all of them where the environment was made by a command,
/// the usual few otherwise, so that nothing of a person's shell becomes part of a service by accident. Besides, where
/// the gateway listens, so that services can make use of queued routes themselves.
pub(crate) fn base_env(inherit_all: bool, gateway: SocketAddr) -> BTreeMap<String, String> {
    const USUAL: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"];
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| inherit_all || USUAL.contains(&name.as_str()) || name.starts_with("LC_"))
        .filter(|(name, _)| name != crate::crash::VARIABLE)
        .chain([(GATEWAY_VARIABLE.to_owned(), gateway_url(gateway))])
        .collect()
}

/// The gateway's address as services reach it: one that stands for all is reached by loopback.
fn gateway_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_reach_the_gateway_on_their_own_machine() {
        for (listen, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
            ("10.0.0.7:80", "http://10.0.0.7:80"),
        ] {
            assert_eq!(gateway_url(listen.parse().unwrap()), url);
        }
        let env = base_env(false, ([0, 0, 0, 0], 81).into());
        assert_eq!(env[GATEWAY_VARIABLE], "http://127.0.0.1:81");
    }
}
