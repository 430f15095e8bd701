//! What the gateway does.

use super::away;
use super::component::{Kind, kinds};
use super::flow::share;
use super::template::http_url;
use super::{name, queue, saga, time_allowed};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{
    AffinityText, At, Component, File, Gateway, GatewayLimits as RawLimits, Host, SizeText,
    Traces as RawTraces,
};
use crate::shape::shorten;
use crate::text::parse_size;
use model::name::ComponentName;
use model::traces::{DEFAULT_SHARE, Traces};
use model::workload::{Affinity, GatewayLimits, GatewaySettings, Route};
use std::net::Ipv6Addr;

/// None when it is not known who gets the requests; then there is a finding.
pub(super) fn settings(file: &File, routes: Vec<Route>, findings: &mut Findings) -> Option<GatewaySettings> {
    let none = Gateway::default();
    let raw = file.gateway.as_ref().unwrap_or(&none);
    let default = default(file, raw, findings);
    let hosts = raw.hosts.iter().flatten().filter_map(|raw| host(raw, findings)).collect();
    let affinity = raw.affinity.as_ref().and_then(|raw| affinity(raw, findings));
    let limits = limits(raw.limits.as_ref(), findings);
    let traces = raw.traces.as_ref().and_then(|raw| traces(raw, findings));
    let queue = queue::limits(raw.queue.as_ref(), findings);
    let sagas = saga::sagas(file, &routes, findings);
    Some(GatewaySettings {
        hosts,
        access_log: raw.access_log.unwrap_or(true),
        limits,
        routes,
        affinity: affinity.unwrap_or_default(),
        hold: away::hold(raw.hold.as_ref(), findings),
        traces,
        queue,
        sagas,
        ..GatewaySettings::of(default?)
    })
}

/// Where traces go: a request line is made of the URL, so it ends with its path.
fn traces(raw: &At<RawTraces>, findings: &mut Findings) -> Option<Traces> {
    let share = raw.share.as_ref().map_or(Some(DEFAULT_SHARE), |raw| share(raw, findings));
    let Some(url) = &raw.endpoint else {
        let help = "where a collector listens, such as endpoint = \"http://127.0.0.1:4318\"";
        findings.add(
            Wrong::at(raw.span(), "`traces` has no `endpoint`").label("`endpoint` is missing").help(help),
        );
        return None;
    };
    if url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
        let help = "spans leave by plain http: let a collector on this machine carry them on by https";
        let wrong = Wrong::at(url.span(), "traces are exported by plain http").label("https");
        findings.add(wrong.help(help));
        return None;
    }
    let endpoint = http_url(url, "the collector of traces", "http://127.0.0.1:4318", findings)?;
    if endpoint.contains('?') {
        let message = "`/v1/traces` is appended to the URL of a collector, so it has no query";
        findings.add(Wrong::at(url.span(), message).label("has a query"));
        return None;
    }
    Some(Traces { endpoint, share: share? })
}

/// Why a component cannot get the requests. None when it can, or when it is not known what it is.
fn no_requests_for(raw: &Component) -> Option<&'static str> {
    match (kinds(raw).as_slice(), &raw.http) {
        ([Kind::Service(_)] | [], Some(http)) if !**http => Some("a worker, which has no port"),
        ([kind @ (Kind::Store(_) | Kind::StoreAt(_) | Kind::External(_))], _) => Some(kind.noun()),
        (_, _) => None,
    }
}

fn default(file: &File, raw: &Gateway, findings: &mut Findings) -> Option<ComponentName> {
    let fits = || file.component.iter().filter(|(_, raw)| no_requests_for(raw).is_none()).map(|(key, _)| key);
    let known = || list(fits().map(|name| &***name));
    let Some(default) = &raw.default else {
        // What a component is that is not one thing was asked already, and the answer may settle this too.
        if file.component.values().any(|raw| kinds(raw).len() != 1) {
            return None;
        }
        let mut services = fits();
        let Some(first) = services.next() else {
            if let Some(any) = file.component.keys().next() {
                let help = "requests go to a service: a component with `run` and without http = false";
                let message = "there is no component that gets the requests";
                findings.add(Wrong::at(any.span(), message).label("not this one").help(help));
            }
            return None;
        };
        let Some(second) = services.next() else { return name(first, ComponentName::new, findings) };
        let message = format!("which component gets the requests? There are {}", known());
        let help = format!("say so:\n[gateway]\ndefault = \"{}\"", &***first);
        let wrong = Wrong::at(second.span(), message).label("or this one?").also(first.span(), "this one");
        findings.add(wrong.help(help));
        return None;
    };
    let help = format!("the components that can are {}", known());
    let Some(component) = file.component.get(default) else {
        let label = nearest(default, fits().map(|name| &***name));
        let label =
            label.map_or_else(|| "no such component".to_owned(), |near| format!("did you mean `{near}`?"));
        let message = format!("there is no component `{}` that could get the requests", shorten(default));
        findings.add(Wrong::at(default.span(), message).label(label).help(help));
        return None;
    };
    if let Some(why) = no_requests_for(component) {
        let message = format!("`{}` cannot get the requests: it is {why}", shorten(default));
        findings.add(Wrong::at(default.span(), message).label("cannot get requests").help(help));
        return None;
    }
    name(default, ComponentName::new, findings)
}

/// What tells users apart: a cookie's name (RFC 6265, 4.1.1) or a field's (RFC 9110, 5.1) is a token, and fields
/// are the same in either case.
fn affinity(raw: &At<AffinityText>, findings: &mut Findings) -> Option<Affinity> {
    let token = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !name.is_empty() && name.bytes().all(fits)
    };
    let affinity = match raw.split_once(':') {
        Some(("cookie", name)) if token(name) => Some(Affinity::Cookie(name.to_owned())),
        Some(("header", name)) if token(name) => Some(Affinity::Header(name.to_ascii_lowercase())),
        Some(_) | None => None,
    };
    if affinity.is_none() {
        let message = format!("\"{}\" is not a cookie or a field", shorten(raw));
        let help = "such as \"cookie:session\" or \"header:x-user\"";
        findings.add(Wrong::at(raw.span(), message).label("not a cookie or a field").help(help));
    }
    affinity
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

/// A size; the default where it is wrong.
pub(super) fn size(raw: Option<&At<SizeText>>, default: u64, findings: &mut Findings) -> u64 {
    let Some(raw) = raw else { return default };
    parse_size(raw).unwrap_or_else(|error| {
        let message = format!("\"{}\" is not a size", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("not a size").help(error.to_string()));
        default
    })
}
