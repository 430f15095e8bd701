//! `smoke` and `load`.

use crate::environment::Found;
use crate::failure::{Exit, Failure};
use crate::flags::LoadFlags;
use crate::follow::persist;
use crate::output::Output;
use model::flow::{Expect, Flow, Method, Objective, Step};
use model::name::FlowName;
use model::template::Template;
use model::verdict::Verdict;
use model::workload::Configuration;
use std::collections::BTreeMap;
#[cfg(feature = "demo")]
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tokio::sync::watch;
use validate::{LoadOptions, Plan, SmokeOptions, Target};

/// `mainstay smoke ENV`.
pub(crate) async fn smoke(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let (configuration, target) = serving(found, output).await?;
    let report =
        validate::smoke(&target, &configuration.flows, &SmokeOptions::new(configuration.class)).await;
    let json = serde_json::to_value(&report).map_err(|e| Failure::machine(e.to_string()))?;
    output.data(format!("{}: {}", report.verdict, report.text()), &json);
    output.next(&[("play them under load", format!("mainstay load {} --rate 50/s --for 30s", found.name))]);
    Ok(exit(report.verdict))
}

/// `mainstay load ENV`.
pub(crate) async fn load(found: &Found, flags: &LoadFlags, output: Output) -> Result<ExitCode, Failure> {
    let (mut configuration, target) = serving(found, output).await?;
    if configuration.flows.is_empty() {
        output.say("no flows are described: playing GET / for any answer below 400");
        configuration.flows = built_in();
    }
    let plan = Plan::constant(flags.rate, flags.duration).map_err(|e| Failure::usage(e.to_string()))?;
    let mut options = LoadOptions::new(plan, configuration.class);
    options.seed = match flags.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(|e| Failure::machine(format!("no random numbers: {e}")))?,
    };
    options.cpu = Some(|| std::fs::read_to_string("/proc/stat").ok());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            // A run that has ended needs no stop.
            let _ = stop.send(true);
        }
    });
    output.say(format!("{} flows/s for {:?} on {}", flags.rate, flags.duration, target.address));
    let progress = |progress: &validate::Progress| output.progress(&progress.line());
    let report = validate::load(target, &configuration.flows, options, progress, stopped).await;
    output.progress_over();
    let json = serde_json::to_value(&report).map_err(|e| Failure::machine(e.to_string()))?;
    output.data(report.text(), &json);
    output.next(&[
        ("see what serves", format!("mainstay status {}", found.name)),
        ("release a changed version", found.release_command()),
    ]);
    Ok(exit(report.verdict))
}

/// What serves now, and where.
async fn serving(found: &Found, output: Output) -> Result<(Configuration, Target), Failure> {
    found.must_be_up().await?;
    let agent = found.agent();
    let configuration: Configuration = persist(output, async || agent.get("/v1/configuration").await).await?;
    let target = Target::of(&configuration, found.mark()?.listen.http);
    Ok((configuration, target))
}

/// Played when the workload describes no flow.
fn built_in() -> BTreeMap<FlowName, Flow> {
    let step = Step {
        method: Method::Get,
        path: Template::literal("/"),
        headers: BTreeMap::new(),
        json: None,
        expect: Expect::default(),
        save: BTreeMap::new(),
    };
    let flow = Flow {
        weight: 1,
        objective: Objective::default(),
        ledger: None,
        production: true,
        steps: vec![step],
    };
    BTreeMap::from([(FlowName::new("root").expect("a name"), flow)])
}

fn exit(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail | Verdict::Inconclusive | Verdict::Invalid => Exit::Verdict.code(),
    }
}

/// `mainstay demo`.
#[cfg(feature = "demo")]
pub(crate) async fn demo(keep: bool, output: Output) -> Result<ExitCode, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let options = demo::Options { program: std::env::current_exe()?, keep, terminal };
    let say = |told: demo::Told<'_>| match told {
        demo::Told::Line(line) => {
            output.progress_gone();
            output.say(line);
        }
        demo::Told::Progress(line) => output.progress(line),
    };
    let told = demo::run(&options, say).await;
    output.progress_gone();
    let summary = told.map_err(|error| Failure::machine(error.to_string()))?;
    let json = serde_json::to_value(&summary).map_err(|e| Failure::machine(e.to_string()))?;
    output.say("");
    output.data(summary.table(), &json);
    output.next(&[("the same with your own service", "mainstay run -- ./app --port {port}".into())]);
    Ok(if summary.broken.is_empty() { ExitCode::SUCCESS } else { Exit::Verdict.code() })
}
