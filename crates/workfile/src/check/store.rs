//! Stores, and the hooks that change what is in them.

use super::component::Kind;
use super::service::{address_as, artifact, env, program_has_a_name};
use super::template::{Known, any_url, template};
use super::time_allowed;
use crate::error::{Findings, Wrong};
use crate::raw::{At, Component, HOOK_TIMEOUT, Name, SchemaText, StoreName};
use crate::shape::shorten;
use model::template::Template;
use model::workload::{SchemaRange, Store, StoreKind};

/// None when its address or the range of its schema is wrong; then there are findings.
pub(super) fn store(
    key: &At<Name>,
    raw: &Component,
    kind: Kind<'_>,
    findings: &mut Findings,
) -> Option<Store> {
    let known = Known::without_port("a hook has no port");
    let kind = match kind {
        Kind::Store(name) => match **name {
            StoreName::Sqlite => Some(StoreKind::Sqlite),
            StoreName::Postgres => Some(StoreKind::Postgres),
        },
        Kind::StoreAt(url) => {
            let what = format!("store `{}`", shorten(key));
            any_url(url, &what, "postgres://user:password@host/name", findings).map(StoreKind::Url)
        }
        Kind::Service(_) | Kind::External(_) => None,
    };
    let schema = raw.schema.as_ref().map(|schema| range(schema, findings));
    let store = Store {
        kind: kind?,
        address_as: address_as(raw, findings),
        artifact: artifact(raw.artifact.as_ref(), findings),
        expand: hook(raw.expand.as_ref(), &known, findings),
        contract: hook(raw.contract.as_ref(), &known, findings),
        env: env(raw.env.as_ref(), &known, findings),
        hook_timeout: time_allowed(raw.hook_timeout.as_ref(), HOOK_TIMEOUT, findings),
        schema: match schema {
            Some(range) => Some(range?),
            None => None,
        },
    };
    Some(store)
}

/// An empty list is no hook: so an environment can do without one.
fn hook(raw: Option<&At<Vec<At<String>>>>, known: &Known<'_>, findings: &mut Findings) -> Vec<Template> {
    let Some(raw) = raw else { return Vec::new() };
    program_has_a_name(raw, "such as [\"./server\", \"migrate\"]", findings);
    raw.iter().filter_map(|argument| template(argument, known, findings)).collect()
}

fn range(raw: &At<SchemaText>, findings: &mut Findings) -> Option<SchemaRange> {
    let (oldest, newest) = raw.split_once('-').unwrap_or((raw, raw));
    let version = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let example = "one version, such as \"3\", or the oldest and the newest, such as \"2-3\"";
    let (Some(oldest), Some(newest)) = (version(oldest), version(newest)) else {
        let message = format!("\"{}\" is not a range of versions", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("not a range of versions").help(example));
        return None;
    };
    if oldest > newest {
        let message = format!("the oldest version, {oldest}, is newer than the newest, {newest}");
        findings.add(Wrong::at(raw.span(), message).label("the wrong way round").help(example));
        return None;
    }
    Some(SchemaRange { oldest, newest })
}
