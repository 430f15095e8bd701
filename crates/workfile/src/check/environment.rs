//! What an environment is, and where its gateway listens.

use crate::error::{Findings, Wrong};
use crate::raw::{self, At, LISTEN};
use crate::shape::shorten;
use model::workload::{Class, Listen};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, Range};
use std::str::FromStr;

pub(super) fn class(
    settings: Option<&raw::Environment>,
    name: &str,
    place: Range<usize>,
    findings: &mut Findings,
) -> Option<Class> {
    match settings?.class {
        Some(raw::Class::Production) => Some(Class::Production),
        Some(raw::Class::Staging) => Some(Class::Staging),
        Some(raw::Class::Development) => Some(Class::Development),
        None => {
            let help = "add class = \"development\", \"staging\" or \"production\", or like = \"another environment\"";
            let message = format!("environment `{}` has no `class`", shorten(name));
            findings.add(Wrong::at(place, message).label("`class` is missing").help(help));
            None
        }
    }
}

pub(super) fn listen(raw: Option<&raw::Listen>, findings: &mut Findings) -> Listen {
    let default = || LISTEN.parse().expect("the default is an address");
    let http = raw.and_then(|raw| raw.http.as_ref());
    let admin = raw.and_then(|raw| raw.admin.as_ref());
    let listen = Listen {
        http: http.and_then(|http| address(http, findings)).unwrap_or_else(default),
        admin: admin.and_then(|admin| address(admin, findings)),
        trusted_proxies: proxies(raw, findings),
    };
    if let (Some(place), true) = (admin, listen.admin == Some(listen.http) && listen.http.port() != 0) {
        let message = format!("`http` and `admin` cannot share the address {}", listen.http);
        let wrong = Wrong::at(place.span(), message).label("the same address");
        findings.add(match http {
            Some(http) => wrong.also(http.span(), "`http`"),
            None => wrong.help(format!("left out, `http` is \"{LISTEN}\"")),
        });
    }
    listen
}

fn address(raw: &At<raw::Address>, findings: &mut Findings) -> Option<SocketAddr> {
    let help = "an IP address and a port, such as \"127.0.0.1:8080\", \"0.0.0.0:80\" or \"[::]:80\"";
    parse(raw, "an address", help, findings)
}

fn proxies(raw: Option<&raw::Listen>, findings: &mut Findings) -> Vec<IpAddr> {
    let proxies = raw.and_then(|raw| raw.trusted_proxies.as_ref());
    let help = "one address without port or mask, such as \"10.0.0.1\"";
    proxies.into_iter().flatten().filter_map(|proxy| parse(proxy, "an IP address", help, findings)).collect()
}

fn parse<T: Deref<Target = str>, V: FromStr>(
    raw: &At<T>,
    what: &str,
    help: &str,
    findings: &mut Findings,
) -> Option<V> {
    let parsed = raw.parse().ok();
    if parsed.is_none() {
        let message = format!("\"{}\" is not {what}", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label(format!("not {what}")).help(help));
    }
    parsed
}
