//! `queue repair`.

use super::text::plain;
use super::{by_uid, json, must_serve};
use crate::environment::Found;
use crate::failure::Failure;
use crate::output::Output;
use api::PROTOCOL_VERSION;
use api::queue::{RepairRequest, Repaired};
use http::Method;
use std::process::ExitCode;

/// `mainstay queue repair ENV`. The gateway does it, which alone may have the file open: it refuses while the file is
/// in order.
pub(super) async fn repair(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    output.say("reading what can be read; the damaged file is kept");
    let request = RepairRequest { v: PROTOCOL_VERSION, by_uid: by_uid() };
    let repaired: Repaired = found.patient_gateway().call(Method::POST, "/v1/queue/repair", &request).await?;
    let mut text = format!(
        "{} jobs and {} answers are saved; {} jobs are lost\nthe damaged file is {}",
        repaired.jobs, repaired.responses, repaired.lost, repaired.aside
    );
    if !repaired.lost_ids.is_empty() {
        let ids: Vec<String> = repaired.lost_ids.iter().map(u64::to_string).collect();
        text.push_str(&format!("\nlost: {}", ids.join(", ")));
    }
    for note in &repaired.notes {
        text.push_str(&format!("\n{}", plain(note)));
    }
    output.data(text, &json(&repaired));
    output.next(&[("see what goes on", format!("mainstay queue status {}", found.name))]);
    Ok(if repaired.lost == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
