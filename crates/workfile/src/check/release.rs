//! How a release travels, and who hears of it.

use super::duration;
use super::service::program_has_a_name;
use super::template::http_url;
use crate::error::{Findings, Wrong};
use crate::raw::{self, At};
use model::workload::{Class, Notify, OnInconclusive, ReleasePolicy};

/// What the file says, and for the rest what holds for `class`.
pub(super) fn policy(raw: Option<&raw::Release>, class: Class, findings: &mut Findings) -> ReleasePolicy {
    let default = ReleasePolicy::of(class);
    let Some(raw) = raw else { return default };
    let mut time = |raw: Option<_>, default| duration(raw, default, findings);
    ReleasePolicy {
        step_time: time(raw.step_time.as_ref(), default.step_time),
        bake: time(raw.bake.as_ref(), default.bake),
        warm_up: time(raw.warm_up.as_ref(), default.warm_up),
        keep_old: time(raw.keep_old.as_ref(), default.keep_old),
        min_requests: raw.min_requests.unwrap_or(default.min_requests),
        max_excess_errors: raw.max_excess_errors.unwrap_or(default.max_excess_errors),
        on_inconclusive: match raw.on_inconclusive {
            Some(raw::OnInconclusive::Abort) => OnInconclusive::Abort,
            Some(raw::OnInconclusive::Continue) => OnInconclusive::Continue,
            None => default.on_inconclusive,
        },
        shift: raw.shift.as_ref().map_or(default.shift, |shift| self::shift(shift, findings)),
    }
}

/// That each is from 1 to 100 was checked with the shape.
fn shift(raw: &At<Vec<At<u8>>>, findings: &mut Findings) -> Vec<u8> {
    let help = "percent of users step by step, such as [10, 50, 100]; [100] moves them all at once";
    let Some(last) = raw.last() else {
        findings.add(Wrong::at(raw.span(), "`shift` is empty").label("no step").help(help));
        return Vec::new();
    };
    if let Some(pair) = raw.windows(2).find(|pair| *pair[1] <= *pair[0]) {
        let message = format!("the steps of `shift` rise, and {} is not more than {}", *pair[1], *pair[0]);
        let wrong = Wrong::at(pair[1].span(), message).label("not more than the one before");
        findings.add(wrong.also(pair[0].span(), "the one before").help(help));
    } else if **last != 100 {
        let message = format!("the last step of `shift` is 100, not {}", **last);
        findings.add(Wrong::at(last.span(), message).label("not everybody").help(help));
    }
    raw.iter().map(|percent| **percent).collect()
}

pub(super) fn notify(raw: Option<&raw::Notify>, findings: &mut Findings) -> Notify {
    let Some(raw) = raw else { return Notify::default() };
    let command = raw.command.as_ref().map(|command| self::command(command, findings));
    let webhook = raw.webhook.as_ref().and_then(|url| {
        if url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
            let wrong = Wrong::at(url.span(), "a webhook is plain http").label("https");
            let help = "let a command do it: command = [\"curl\", \"--json\", \"@-\", \"https://…\"]";
            findings.add(wrong.help(help));
            return None;
        }
        http_url(url, "the webhook", "http://127.0.0.1:9000/releases", findings)
    });
    Notify { command: command.unwrap_or_default(), webhook }
}

/// An empty list is no command: so an environment can do without one.
fn command(raw: &At<Vec<At<String>>>, findings: &mut Findings) -> Vec<String> {
    program_has_a_name(raw, "such as [\"./notify\"]", findings);
    for argument in raw.iter().filter(|argument| argument.contains('\0')) {
        findings.add(Wrong::at(argument.span(), "a text here cannot hold the character NUL"));
    }
    raw.iter().map(|argument| argument.to_string()).collect()
}
