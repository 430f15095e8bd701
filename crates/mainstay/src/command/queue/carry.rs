//! `queue export` and `queue import`: jobs as lines of JSON.

use super::{by_uid, must_serve, read};
use crate::environment::Found;
use crate::failure::Failure;
use crate::output::Output;
use api::PROTOCOL_VERSION;
use api::queue::{Exported, ExportedJob, Import, Imported, PAGE_LIMIT, Page};
use http::Method;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

/// `mainstay queue export ENV [FILE]`.
pub(super) async fn export(found: &Found, file: &Path, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let mut target: Box<dyn Write> = match file == Path::new("-") {
        true => Box::new(io::stdout().lock()),
        // It holds what users sent: their owner's alone, and nothing is overwritten.
        false => Box::new(BufWriter::new(create(file)?)),
    };
    let (mut after, mut jobs) = (0, 0);
    loop {
        let page = Page { after, limit: PAGE_LIMIT };
        let exported: Exported = found.gateway().call(Method::POST, "/v1/queue/export", &page).await?;
        for job in &exported.jobs {
            let line = serde_json::to_string(job).map_err(|e| Failure::machine(e.to_string()))?;
            writeln!(target, "{line}")?;
        }
        jobs += exported.jobs.len();
        output.progress(&format!("{jobs} jobs are written"));
        match exported.next {
            Some(next) => after = next,
            None => break,
        }
    }
    target.flush()?;
    output.progress_over();
    Ok(ExitCode::SUCCESS)
}

fn create(file: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|cause| Failure::usage(format!("{} cannot be made: {cause}", file.display())))
}

/// `mainstay queue import ENV [FILE]`.
pub(super) async fn import(found: &Found, file: &Path, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let text = String::from_utf8(read(file)?)
        .map_err(|_| Failure::usage(format!("{} is not text", file.display())))?;
    // All lines are read before any job is taken on.
    let mut jobs: Vec<ExportedJob> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        jobs.push(serde_json::from_str(line).map_err(|cause| {
            Failure::usage(format!("line {} of {} is no exported job: {cause}", number + 1, file.display()))
        })?);
    }
    let mut all = Imported::default();
    for page in jobs.chunks(PAGE_LIMIT as usize) {
        let request = Import { v: PROTOCOL_VERSION, by_uid: by_uid(), jobs: page.to_vec() };
        let imported: Imported = found.gateway().call(Method::POST, "/v1/queue/import", &request).await?;
        all.accepted += imported.accepted;
        all.repeated += imported.repeated;
        all.refused.extend(imported.refused);
        output.progress(&format!("{} of {} jobs", all.accepted + all.repeated, jobs.len()));
    }
    output.progress_over();
    let mut text =
        format!("{} jobs are taken on; {} were there already, by their keys", all.accepted, all.repeated);
    for (id, why) in &all.refused {
        text.push_str(&format!("\n{id} is not taken on: {why}"));
    }
    output.data(text, &super::json(&all));
    Ok(if all.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
