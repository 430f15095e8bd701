//! Looks up, after a run, what became of every intended write.

use crate::connection::{FullRequest, Keep};
use crate::engine::Engine;
use crate::ledger::{Fate, Intent, LedgerReport};
use crate::outcome::snippet;
use crate::script::{LedgerScript, uri};
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde_json::Value;
use serde_json_path::JsonPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How many references are looked up at a time: enough to be quick, too few to be a load test of its own.
pub const CONFIRM_CONCURRENCY: usize = 16;

/// How often a reference is looked up when there is no answer, a 5xx or a 429. After the last time it is
/// unverified.
pub const CONFIRM_ATTEMPTS: u32 = 5;

/// After this many references in a row that could not be looked up the rest is unverified as well: the
/// service is gone, and waiting for it a million times would say no more.
pub const CONFIRM_GIVE_UP: u64 = 64;

/// How long the look-up waits for writes that were accepted with 202 and not yet done, when nothing else is said:
/// for all of them together, from its beginning. What is not there by then is lost.
pub const CONFIRM_DRAIN: Duration = Duration::from_secs(60);

/// The pause after the first attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The pause between two looks for a write that was accepted and is not there yet.
const DRAIN_PAUSE: Duration = Duration::from_millis(500);

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the look-ups share.
struct Search {
    engine: Arc<Engine>,
    /// Those that may have to be waited for stand at the end.
    intents: Vec<Intent>,
    /// Until when accepted ones are waited for.
    drained: Instant,
    /// The next intent to look up.
    next: AtomicUsize,
    /// How many could not be looked up since one last could.
    in_a_row: AtomicU64,
}

/// Looks every intent up, and waits up to `drain` for those accepted to be there; `tell` gets how many are done, about once a second. Dropping it stops the
/// look-ups.
pub(crate) async fn confirm(
    engine: Arc<Engine>,
    mut intents: Vec<Intent>,
    drain: Duration,
    mut tell: impl FnMut(u64, u64) + Send,
) -> LedgerReport {
    let of = intents.len();
    intents.sort_by_key(|intent| intent.fate == Fate::Accepted);
    let search = Arc::new(Search {
        engine,
        intents,
        drained: Instant::now() + drain,
        next: AtomicUsize::new(0),
        in_a_row: AtomicU64::new(0),
    });
    let mut seekers = JoinSet::new();
    for _ in 0..CONFIRM_CONCURRENCY.min(of) {
        let search = Arc::clone(&search);
        seekers.spawn(async move { search.seek().await });
    }
    let mut report = LedgerReport::default();
    let mut ticks = tokio::time::interval(TELL_EVERY);
    while !seekers.is_empty() {
        tokio::select! {
            Some(done) = seekers.join_next() => match done {
                Ok(part) => report.merge(part),
                // Nobody cancels a look-up, so that it panicked.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = ticks.tick() => tell(search.next.load(Ordering::Relaxed).min(of) as u64, of as u64),
        }
    }
    report
}

impl Search {
    async fn seek(&self) -> LedgerReport {
        let mut report = LedgerReport::default();
        while let Some(intent) = self.intents.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let script = &self.engine.scripts[intent.flow];
            let ledger = script.ledger.as_ref().expect("only flows with a ledger write intents down");
            let looked_up = if self.in_a_row.load(Ordering::Relaxed) >= CONFIRM_GIVE_UP {
                Err("not looked up: too many before it could not be".to_owned())
            } else {
                self.settled(ledger, intent).await
            };
            match &looked_up {
                Ok(_) => self.in_a_row.store(0, Ordering::Relaxed),
                Err(_) => {
                    self.in_a_row.fetch_add(1, Ordering::Relaxed);
                }
            }
            report.count(&script.name, intent, looked_up);
        }
        report
    }

    /// What looking an intent up says in the end: what was accepted may not be there yet.
    async fn settled(&self, ledger: &LedgerScript, intent: &Intent) -> Result<u64, String> {
        loop {
            let looked_up = self.look_up(ledger, intent).await;
            let waits = intent.fate == Fate::Accepted && Instant::now() < self.drained;
            match looked_up {
                Ok(0) if waits => tokio::time::sleep(DRAIN_PAUSE).await,
                Ok(_) | Err(_) => return looked_up,
            }
        }
    }

    async fn look_up(&self, ledger: &LedgerScript, intent: &Intent) -> Result<u64, String> {
        let path = match &intent.confirm {
            Some(path) => path.to_string(),
            None => ledger
                .confirm_path(&intent.reference, None, &self.engine.environment)
                .map_err(|missing| missing.to_string())?,
        };
        let uri = uri(path).map_err(|error| error.to_string())?;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let again = match self.ask(uri.clone(), &ledger.count).await {
                Ok(count) => return Ok(count),
                Err(LookUpError::Final(why)) => return Err(why),
                Err(LookUpError::Again(why)) => why,
            };
            if attempt >= CONFIRM_ATTEMPTS {
                return Err(format!("{again}, {attempt} times"));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends at the last attempt")
    }

    async fn ask(&self, uri: Uri, count: &JsonPath) -> Result<u64, LookUpError> {
        let mut request: FullRequest = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.engine.base.clone();
        let called = self.engine.client.call(request, Keep::All, self.engine.timeout).await;
        let answer = called.result.map_err(|error| LookUpError::Again(error.to_string()))?;
        let answered = || format!("answered {}: {}", answer.status, snippet(&answer.body));
        match answer.status {
            200..=299 => {}
            // What is looked up by its own address is simply not there.
            404 | 410 => return Ok(0),
            429 | 500..=599 => return Err(LookUpError::Again(answered())),
            _ => return Err(LookUpError::Final(answered())),
        }
        let document = serde_json::from_slice(&answer.body)
            .map_err(|error| LookUpError::Final(format!("{}: no JSON: {error}", answered())))?;
        Ok(members(count, &document))
    }
}

/// Why a look-up has no count.
enum LookUpError {
    /// It may have one later.
    Again(String),
    /// It will not.
    Final(String),
}

/// How many there are: every array found counts its members, null counts nothing, anything else one.
fn members(count: &JsonPath, document: &Value) -> u64 {
    let size = |node: &Value| match node {
        Value::Array(members) => members.len() as u64,
        Value::Null => 0,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => 1,
    };
    count.query(document).iter().map(|node| size(node)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arrays_count_their_members_and_the_rest_counts_one() {
        let table = [
            ("$.items", json!({ "items": [] }), 0),
            ("$.items", json!({ "items": [{}, {}] }), 2),
            ("$.items[*]", json!({ "items": [{}, {}, {}] }), 3),
            ("$.pages[*].items", json!({ "pages": [{ "items": [1, 2] }, { "items": [3] }] }), 3),
            ("$.order", json!({ "order": { "id": 1 } }), 1),
            ("$.order", json!({ "order": null }), 0),
            ("$.order", json!({}), 0),
            ("$.id", json!({ "id": 0 }), 1),
            ("$", json!([1, 2]), 2),
        ];
        for (path, document, expected) in table {
            let path = JsonPath::parse(path).unwrap();
            assert_eq!(members(&path, &document), expected, "{path} of {document}");
        }
    }
}
