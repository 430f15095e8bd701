#![expect(clippy::unwrap_used, reason = "these are the bodies of tests, which a macro names")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::running::{Data, Running, command, named, on_each_database, order, send, wait_until};

fn start(data: &Data) -> Running {
    let mut command = named(data, command(data));
    command.args(["mailer", "--release", "v2"]);
    let mailer = Running::spawn(command);
    mailer.wait_for_line("mailer: sending to");
    mailer
}

fn lines(path: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn mailed(data: &Data) -> Vec<i64> {
    lines(data.folder().join("outbox.jsonl")).iter().map(|mail| mail["order"].as_i64().unwrap()).collect()
}

fn log(data: &Data) -> Vec<Value> {
    lines(data.folder().join("mailer.log.jsonl"))
}

async fn buy(shop: &Running, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let taken = shop.post_order(&order("r", "SHOE-00001", 1)).await;
        ids.push(taken.json()["id"].as_i64().unwrap());
    }
    ids
}

async fn unsent(data: &Data) -> String {
    data.text("SELECT CAST(count(*) AS text) FROM mails WHERE sent IS NULL OR claimed IS NULL").await
}

async fn every_order_is_mailed_once_and_in_order(data: Data) {
    let shop = Running::start_release(&data, "v1");
    let mut ids = buy(&shop, 20).await;
    let mut mailer = start(&data);
    ids.extend(buy(&shop, 20).await);
    wait_until("all are mailed", async || mailed(&data).len() >= 40).await;
    wait_until("all are ticked off", async || unsent(&data).await == "0").await;
    assert_eq!(mailed(&data), ids);
    mailer.terminate();
    let since = Instant::now();
    assert_eq!(mailer.wait_for_exit().await.code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());

    // A killed one leaves nothing out and nothing twice either.
    let cancelled = buy(&shop, 1).await[0];
    send(shop.address(), "DELETE", &format!("/api/orders/{cancelled}"), &[], "").await;
    for _ in 0..5 {
        let mailer = start(&data);
        ids.extend(buy(&shop, 10).await);
        drop(mailer);
    }
    let _mailer = start(&data);
    wait_until("all are mailed", async || mailed(&data).len() >= ids.len()).await;
    wait_until("all are ticked off", async || unsent(&data).await == "0").await;
    let mut once = mailed(&data);
    once.sort_unstable();
    assert_eq!(once, ids);
}

async fn what_a_killed_mailer_began_is_finished_once(data: Data) {
    let shop = Running::start_release(&data, "v2");
    let ids = buy(&shop, 3).await;
    // As if it had been killed after it claimed three mails, wrote one, and half of the next.
    data.run("UPDATE mails SET claimed = '2026-01-01T00:00:00.000Z'").await;
    std::fs::create_dir_all(data.folder()).unwrap();
    let text = format!("{{\"order\":{},\"at_ms\":1}}\n{{\"order\":{}", ids[0], ids[1]);
    std::fs::write(data.folder().join("outbox.jsonl"), text).unwrap();
    let _mailer = start(&data);
    wait_until("all are ticked off", async || unsent(&data).await == "0").await;
    assert_eq!(mailed(&data), ids);
}

on_each_database! {
    every_order_is_mailed_once_and_in_order,
    what_a_killed_mailer_began_is_finished_once,
}

#[tokio::test]
async fn its_log_shows_when_it_lived() {
    let data = Data::new();
    let mut mailer = start(&data);
    wait_until("it beats", async || log(&data).len() > 10).await;
    mailer.terminate();
    assert!(mailer.wait_for_exit().await.success());
    let log = log(&data);
    assert_eq!(log[0]["event"], "started");
    assert_eq!(log[log.len() - 1]["event"], "stopped");
    assert!(log[1..log.len() - 1].iter().all(|sign| sign["event"] == "beat"), "{log:?}");
    for sign in &log {
        assert_eq!((&sign["pid"], &sign["release"]), (&mailer.id().into(), &"v2".into()));
    }
    assert!(log.is_sorted_by_key(|sign| sign["at_ms"].as_u64()), "{log:?}");
}

#[tokio::test]
async fn the_outbox_may_be_elsewhere() {
    let data = Data::new();
    let shop = Running::start(&data);
    let outbox = data.working_folder().join("mail/out.jsonl");
    let mut command = named(&data, command(&data));
    command.arg("mailer").env("MAIL_OUTBOX", &outbox);
    let _mailer = Running::spawn(command);
    let ids = buy(&shop, 1).await;
    wait_until("it is mailed", async || lines(outbox.clone()).len() == 1).await;
    assert_eq!(lines(outbox.clone())[0]["order"], ids[0]);
    assert!(outbox.with_file_name("mailer.log.jsonl").exists());
}
