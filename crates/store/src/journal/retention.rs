//! Forgets what has been finished for long, a little at a time, and gives room back to the disk.

use super::read::Fault;
use super::row::{Forgotten, JobRow, JobState, Retention};
use super::{FORGET_BYTES_LIMIT, FORGET_LIMIT, read, schema};
use crate::commit::WriteError;
use rusqlite::{Connection, Transaction, params};

/// One part in this many of the file may stay free for new rows; what is free beyond that goes back to the disk.
/// A file in steady use is thus left alone.
const FREE_PART: u64 = 4;
/// Pages that stay free in any case.
const FREE_PAGES: u64 = 1_024;
/// How many pages are given back at once.
const VACUUM_PAGES: u64 = 512;

pub(super) fn forget(t: &Transaction<'_>, retention: Retention) -> Result<Forgotten, WriteError> {
    let limit = retention.limit.min(FORGET_LIMIT) as usize;
    let mut found = Vec::new();
    let finished = retention.finished_before_ms;
    for state in [JobState::Done, JobState::Cancelled, JobState::Dropped] {
        due(t, state, finished, limit, &mut found)?;
    }
    if let Some(held) = retention.held_before_ms {
        for state in [JobState::Rejected, JobState::Dead] {
            due(t, state, held, limit, &mut found)?;
        }
    }
    let sharing = sharing(t, &found)?;
    let more = found.len() == limit || sharing < found.len();
    found.truncate(sharing);
    let held = if retention.held_before_ms.is_some() { held(t, &found)? } else { Vec::new() };
    for sql in [
        "DELETE FROM job WHERE id = ?1",
        "DELETE FROM request WHERE id = ?1",
        "DELETE FROM response WHERE id = ?1",
        "DELETE FROM attempt WHERE job = ?1",
        "DELETE FROM step WHERE job = ?1",
    ] {
        // Table by table, in the order of the rows: neighbours are on the same page.
        let mut delete = t.prepare_cached(sql)?;
        for id in &found {
            delete.execute([id])?;
        }
    }
    let highest = found.iter().copied().max().unwrap_or(0);
    if highest > read::number(t, schema::FORGOTTEN)? {
        // A number is never used twice.
        schema::set_number(t, schema::FORGOTTEN, highest)?;
    }
    if let Some(before) = retention.operations_before_ms {
        t.prepare_cached(
            "DELETE FROM operation WHERE id IN (SELECT id FROM operation WHERE at_ms < ?1 ORDER BY id LIMIT ?2)",
        )?
        .execute(params![before, limit])?;
    }
    let jobs = u32::try_from(found.len()).unwrap_or(u32::MAX);
    Ok(Forgotten { jobs, held, more })
}

/// Those of these jobs that are dead or rejected. One whose row makes no sense is forgotten like others.
fn held(t: &Transaction<'_>, found: &[i64]) -> Result<Vec<JobRow>, WriteError> {
    let mut held = Vec::new();
    for id in found {
        match read::job(t, *id) {
            Ok(Some(row)) if matches!(row.state, JobState::Dead | JobState::Rejected) => held.push(row),
            Ok(_) | Err(Fault::Wrong(_)) => {}
            Err(fault @ Fault::Sql(_)) => return Err(fault.into()),
        }
    }
    Ok(held)
}

/// How many of these jobs, from the first one on, are forgotten together: the last is the one that reaches
/// [`FORGET_BYTES_LIMIT`].
fn sharing(t: &Transaction<'_>, found: &[i64]) -> Result<usize, WriteError> {
    // The length of a blob is read from its row, not from the pages it goes on in.
    let mut query = t.prepare_cached(
        "SELECT coalesce((SELECT length(bytes) FROM request WHERE id = ?1), 0) \
         + coalesce((SELECT length(bytes) FROM response WHERE id = ?1), 0) \
         + (SELECT coalesce(sum(length(record)), 0) FROM step WHERE job = ?1)",
    )?;
    let mut bytes = 0;
    for (place, id) in found.iter().enumerate() {
        if bytes >= FORGET_BYTES_LIMIT {
            return Ok(place);
        }
        bytes += query.query_row([id], |row| row.get::<_, u64>(0))?;
    }
    Ok(found.len())
}

fn due(
    t: &Transaction<'_>,
    state: JobState,
    before_ms: i64,
    limit: usize,
    found: &mut Vec<i64>,
) -> Result<(), WriteError> {
    let mut query = t.prepare_cached(
        "SELECT id FROM job INDEXED BY finished WHERE state = ?1 AND state > 3 AND changed_ms < ?2 \
         ORDER BY changed_ms LIMIT ?3",
    )?;
    let rows = query.query_map(params![state.code(), before_ms, limit - found.len()], |row| row.get(0))?;
    for id in rows {
        found.push(id?);
    }
    Ok(())
}

/// Shortens the file by some pages, if much of it is free.
pub(super) fn give_back(c: &Connection) -> Result<(), WriteError> {
    let pragma = |name| c.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    let beyond = free.saturating_sub((all / FREE_PART).max(FREE_PAGES)).min(VACUUM_PAGES);
    if beyond > 0 {
        let mut shorten = c.prepare(&format!("PRAGMA incremental_vacuum({beyond})"))?;
        // Each step of the statement gives back one page.
        let mut rows = shorten.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
