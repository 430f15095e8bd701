//! What the gateway does.

use super::{name, time_allowed};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, File, Gateway, GatewayLimits as RawLimits, Host, SizeText};
use crate::shape::shorten;
use crate::text::parse_size;
use model::name::ComponentName;
use model::workload::{GatewayLimits, GatewaySettings};
use std::net::Ipv6Addr;

/// None when it is not known who gets the requests; then there is a finding.
pub(super) fn settings(file: &File, findings: &mut Findings) -> Option<GatewaySettings> {
    let none = Gateway::default();
    let raw = file.gateway.as_ref().unwrap_or(&none);
    let default = default(file, raw, findings);
    let hosts = raw.hosts.iter().flatten().filter_map(|raw| host(raw, findings)).collect();
    let limits = limits(raw.limits.as_ref(), findings);
    Some(GatewaySettings { default: default?, hosts, access_log: raw.access_log.unwrap_or(true), limits })
}

fn default(file: &File, raw: &Gateway, findings: &mut Findings) -> Option<ComponentName> {
    let known = || file.component.keys().map(|name| &***name);
    let Some(default) = &raw.default else {
        let mut components = file.component.keys();
        let first = components.next()?;
        let Some(second) = components.next() else { return name(first, ComponentName::new, findings) };
        let message = format!("which component gets the requests? There are {}", list(known()));
        let help = format!("say so:\n[gateway]\ndefault = \"{}\"", &***first);
        let wrong = Wrong::at(second.span(), message).label("or this one?").also(first.span(), "this one");
        findings.add(wrong.help(help));
        return None;
    };
    if !file.component.contains_key(default) {
        let label = nearest(default, known());
        let label =
            label.map_or_else(|| "no such component".to_owned(), |near| format!("did you mean `{near}`?"));
        let message = format!("there is no component `{}`", shorten(default));
        let help = format!("the components are {}", list(known()));
        findings.add(Wrong::at(default.span(), message).label(label).help(help));
        return None;
    }
    name(default, ComponentName::new, findings)
}

/// A host as it stands in a request, lower-cased, without its port (RFC 9110, 7.2; RFC 3986, 3.2.2).
fn host(raw: &At<Host>, findings: &mut Findings) -> Option<String> {
    let host = raw.to_ascii_lowercase();
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(fits) && host.split('.').all(|label| !label.is_empty())
        }
    };
    if !fits {
        let message = format!("\"{}\" is not a host name", shorten(raw));
        let help = "without scheme, port and path, such as \"shop.example\"; other alphabets as `xn--…`";
        findings.add(Wrong::at(raw.span(), message).label("not a host name").help(help));
    }
    fits.then_some(host)
}

fn limits(raw: Option<&RawLimits>, findings: &mut Findings) -> GatewayLimits {
    let default = GatewayLimits::default();
    let Some(raw) = raw else { return default };
    let mut time = |raw: Option<_>, default| time_allowed(raw, default, findings);
    GatewayLimits {
        connect_timeout: time(raw.connect_timeout.as_ref(), default.connect_timeout),
        first_byte_timeout: time(raw.first_byte_timeout.as_ref(), default.first_byte_timeout),
        idle_timeout: time(raw.idle_timeout.as_ref(), default.idle_timeout),
        body: size(raw.body.as_ref(), default.body, findings),
        in_flight: raw.in_flight.unwrap_or(default.in_flight),
    }
}

fn size(raw: Option<&At<SizeText>>, default: u64, findings: &mut Findings) -> u64 {
    let Some(raw) = raw else { return default };
    parse_size(raw).unwrap_or_else(|error| {
        let message = format!("\"{}\" is not a size", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("not a size").help(error.to_string()));
        default
    })
}
