//! What bridges moments in which an instance or a stamp is away: live probes, held requests, the stamp before.

use super::template::path;
use super::{duration, time_allowed};
use crate::error::{Findings, Wrong};
use crate::raw::{self, At, HOLD_LONGEST, Json, LIVE_EVERY, LIVE_TIMEOUT, RouteText};
use crate::shape::shorten;
use model::away::{Hold, Live, PreviousStamp};
use model::flow::Method;

/// None when the path is wrong; then there is a finding.
pub(super) fn live(raw: &raw::Live, findings: &mut Findings) -> Option<Live> {
    let every = time_allowed(raw.every.as_ref(), LIVE_EVERY, findings);
    let timeout = time_allowed(raw.timeout.as_ref(), LIVE_TIMEOUT, findings);
    path(&raw.get, findings).then(|| Live { get: raw.get.to_string(), every, timeout })
}

pub(super) fn hold(raw: Option<&raw::Hold>, findings: &mut Findings) -> Hold {
    let default = Hold::default();
    let Some(raw) = raw else { return default };
    let time = duration(raw.time.as_ref(), default.time, findings);
    if let Some(at) = raw.time.as_ref().filter(|_| time > HOLD_LONGEST) {
        let message = format!("a request cannot be held for \"{}\"", shorten(at));
        let help = "clients and what stands in between give up long before; a write that must not be lost is better \
                    queued";
        findings.add(Wrong::at(at.span(), message).label("at most 1m").help(help));
    }
    Hold { requests: raw.requests.unwrap_or(default.requests), time }
}

/// None when the stamp before is not asked.
pub(super) fn previous_stamp(
    key: &At<RouteText>,
    method: Method,
    raw: &At<raw::PreviousStamp>,
    findings: &mut Findings,
) -> Option<PreviousStamp> {
    let example = "previous_stamp = true, or previous_stamp = { files = \"public\" }";
    let asked = match &raw.0 {
        Json::Bool(false) => return None,
        Json::Bool(true) => PreviousStamp { files: None },
        Json::Table(table) => {
            if let Some((name, value)) = table.iter().find(|(name, _)| *name != "files") {
                let message = format!("unknown key `{}`", shorten(name));
                let wrong = Wrong::at(value.span(), message).label("not a key here");
                findings.add(wrong.help("`previous_stamp` has the key `files`"));
            }
            PreviousStamp { files: files(raw, table.get("files"), findings) }
        }
        Json::Integer(_) | Json::Float(_) | Json::Text(_) | Json::List(_) => {
            let message = "`previous_stamp` is neither true nor false nor a table";
            findings.add(Wrong::at(raw.span(), message).label("not true or false").help(example));
            return None;
        }
    };
    if method != Method::Get {
        let message =
            format!("`previous_stamp` is for GET, and this route is for {}", shorten(method.as_str()));
        let wrong = Wrong::at(raw.span(), message).label("only for GET");
        let help = "only what changes nothing can be asked of two stamps; HEAD goes with its GET";
        findings.add(wrong.also(key.span(), "of this route").help(help));
    }
    Some(asked)
}

/// A folder inside the artifact.
fn files(table: &At<raw::PreviousStamp>, raw: Option<&At<Json>>, findings: &mut Findings) -> Option<String> {
    let help = "a folder inside the artifact, such as \"public\" or \"dist/assets\"";
    let Some(raw) = raw else {
        let message = "`previous_stamp` has no `files`";
        findings.add(Wrong::at(table.span(), message).label("`files` is missing").help(help));
        return None;
    };
    let Json::Text(text) = &**raw else {
        findings.add(Wrong::at(raw.span(), "`files` is not a text").label("not a folder").help(help));
        return None;
    };
    let text = text.strip_suffix('/').unwrap_or(text);
    // The artifact itself is no such folder: the service's own code lies there.
    let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if !text.split('/').all(fits) {
        let message = format!("\"{}\" is not a folder inside the artifact", shorten(text));
        findings.add(Wrong::at(raw.span(), message).label("not a folder inside it").help(help));
        return None;
    }
    Some(text.to_owned())
}
