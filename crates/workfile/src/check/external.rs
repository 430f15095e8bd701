//! Externals, and what stands in for them where nobody is served.

use super::Seen;
use super::service::{address_as, artifact, command, env, limits, ready};
use super::template::{Known, http_url};
use crate::error::{Findings, Wrong};
use crate::raw::{At, Component, DRAIN_TIMEOUT, Name, Sandbox, UrlText};
use crate::shape::shorten;
use model::workload::{Class, External, RUN_VALUES, Service};

/// The stand-in, or the external itself; below production the first goes before the second. Neither when
/// something is wrong; then there are findings. Both are looked at wherever they are written, so that a slip is
/// seen in development and not by the first release to production.
pub(super) fn external(
    key: &At<Name>,
    raw: &Component,
    url: &At<UrlText>,
    seen: &Seen<'_>,
    findings: &mut Findings,
) -> (Option<Service>, Option<External>) {
    let address_as = address_as(raw, findings);
    if raw.address_as.is_none() {
        let message = format!("external `{}` has no `as`", shorten(key));
        let help = "it is the variable by which those who need it get its URL, such as as = \"PAYMENTS_URL\"";
        findings.add(Wrong::at(key.span(), message).label("`as` is missing").help(help));
    }
    let stand_in = raw.sandbox.as_ref().map(|raw| sandbox(raw, address_as.clone(), findings));
    let stand_in = match seen.class {
        // Without a class there is a finding already; what production would ask for besides is not known.
        Some(Class::Staging | Class::Development) | None => stand_in,
        Some(Class::Production) => None,
    };
    if url.starts_with("secret:") {
        if stand_in.is_none() && seen.class.is_some() {
            findings.add(secret(url, raw, seen));
        }
        return (stand_in, None);
    }
    let what = format!("external `{}`", shorten(key));
    let url = http_url(url, &what, "http://payments.example", findings);
    match stand_in {
        Some(stand_in) => (Some(stand_in), None),
        None => (None, url.map(|url| External { url, address_as })),
    }
}

fn secret(url: &At<UrlText>, raw: &Component, seen: &Seen<'_>) -> Wrong {
    let message = format!("\"{}\": secrets are not part of this version", shorten(url));
    let help = match (seen.class, &raw.sandbox) {
        (Some(Class::Production), Some(_)) => {
            "give the URL itself, such as \"http://payments.example\"; in production no sandbox stands in"
        }
        (Some(Class::Production | Class::Staging | Class::Development) | None, _) => {
            "give the URL itself, such as \"http://payments.example\"; below production a `sandbox` can stand in"
        }
    };
    let wrong = Wrong::at(url.span(), message).label("a secret").help(help);
    if seen.place.is_empty() {
        return wrong;
    }
    wrong.also(seen.place.clone(), format!("needed in `{}`", shorten(seen.name)))
}

fn sandbox(raw: &Sandbox, address_as: Option<String>, findings: &mut Findings) -> Service {
    let known = Known::of(RUN_VALUES);
    Service {
        run: command("run", &raw.run, &known, findings),
        http: true,
        artifact: artifact(raw.artifact.as_ref(), findings),
        instances: 1,
        needs: Vec::new(),
        address_as,
        env: env(raw.env.as_ref(), &known, findings),
        ready: ready(raw.ready.as_ref(), findings),
        live: None,
        limits: limits(raw.limits.as_ref(), findings),
        drain_timeout: DRAIN_TIMEOUT,
    }
}
