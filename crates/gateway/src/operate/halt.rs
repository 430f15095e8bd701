//! Deliveries that stop, and go on.

use super::{read, refused, status, to_json};
use crate::routes::Routes;
use crate::worker::Shared;
use api::problem::{Code, Problem};
use api::queue as wire;
use queue::{Filter, JobId, JobState, Queue};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) async fn pause(
    shared: &Arc<Shared>,
    queue: &Queue,
    body: &[u8],
) -> Result<serde_json::Value, Problem> {
    let request: wire::PauseRequest = read(body)?;
    if let Some(route) = &request.route {
        must_be_known(&shared.routes.load(), queue, route).await?;
    }
    let changed = queue.pause(request.route.as_deref(), request.by_uid).await.map_err(refused)?;
    to_json(&wire::Halted { unchanged: !changed, status: status(&shared.desk).await })
}

/// Whatever is paused may go on, also what is no route any longer.
pub(super) async fn resume(
    shared: &Arc<Shared>,
    queue: &Queue,
    body: &[u8],
) -> Result<serde_json::Value, Problem> {
    let request: wire::PauseRequest = read(body)?;
    let changed = queue.resume(request.route.as_deref(), request.by_uid).await.map_err(refused)?;
    to_json(&wire::Halted { unchanged: !changed, status: status(&shared.desk).await })
}

/// Refuses what is neither a queued route of a stamp that takes requests nor one whose jobs are pending: a pause would
/// hold up nothing, and whoever mistyped it would believe otherwise.
async fn must_be_known(routes: &Routes, queue: &Queue, route: &str) -> Result<(), Problem> {
    let targets = [&routes.active, &routes.candidate].into_iter().flatten();
    let queued = targets.flat_map(|target| &target.settings.routes).filter(|route| route.queue.is_some());
    let queued: BTreeSet<String> = queued.map(|route| route.name()).collect();
    if queued.contains(route) {
        return Ok(());
    }
    let pending = Filter {
        states: vec![JobState::Waiting, JobState::Dispatching, JobState::Unknown],
        route: Some(route.to_owned()),
        ..Filter::default()
    };
    if !queue.list(pending, JobId(0), 1).await.map_err(refused)?.is_empty() {
        return Ok(());
    }
    let queued: Vec<String> = queued.iter().map(|route| format!("\"{route}\"")).collect();
    let there_are = match queued.is_empty() {
        true => "no route is queued".to_owned(),
        false => format!("queued are {}", queued.join(", ")),
    };
    let message = format!("\"{route}\" is no queued route, and no job of it is pending; {there_are}");
    Err(Problem::new(Code::BadRequest, message))
}
