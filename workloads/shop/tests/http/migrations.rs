#![expect(clippy::unwrap_used, reason = "these are the bodies of tests, which a macro names")]

use std::process::Output;

use tokio::task::JoinSet;

use crate::running::{Answer, Data, Running, command, named, on_each_database, order, send, wait_until};

fn migrate(data: &Data, phase: &str, release: &str) -> Output {
    data.shop(&["migrate", phase, "--release", release])
}

fn migrated(data: &Data, phase: &str, release: &str) {
    let output = migrate(data, phase, release);
    assert!(output.status.success(), "{phase} {release}: {output:?}");
}

fn schema(data: &Data) -> String {
    let output = data.shop(&["schema"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `count` orders, taken by `v1`, in one statement.
async fn many_old_orders(data: &Data, count: u32) {
    let numbers =
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})");
    let rows = "SELECT 'r' || i, 'ada', 1, '2026-01-01T00:00:00.000Z' FROM n";
    data.run(&format!("INSERT INTO orders (ref, customer, total, created) {numbers} {rows}")).await;
}

async fn without_currency(data: &Data) -> String {
    data.text("SELECT CAST(count(*) AS text) FROM orders WHERE currency IS NULL").await
}

async fn works(shop: &Running, reference: &str) {
    assert_eq!(shop.get("/api/products?page=1").await.status, 200);
    assert_eq!(shop.get("/api/products/search?q=boot").await.status, 200);
    let taken = shop.post_order(&order(reference, "SHOE-00001", 1)).await;
    assert_eq!(taken.status, 201, "{taken:?}");
    let path = format!("/api/orders?ref={reference}");
    assert_eq!(shop.get(&path).await.json()["items"][0], taken.json());
}

async fn old_and_new_work_side_by_side_until_the_old_is_gone(data: Data) {
    assert_eq!(schema(&data), "0 none");
    let old = Running::start_release(&data, "v1");
    assert_eq!(schema(&data), "1 base");
    works(&old, "before").await;
    migrated(&data, "expand", "v1");
    assert_eq!(schema(&data), "1 base");

    migrated(&data, "expand", "v2");
    assert_eq!(schema(&data), "2 expanded");
    works(&old, "old-on-expanded").await;
    let new = Running::start_release(&data, "v2");
    works(&new, "new-on-expanded").await;
    works(&old, "old-beside-new").await;
    assert_eq!(new.get("/api/orders?ref=before").await.json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(without_currency(&data).await, "0");

    migrated(&data, "contract", "v1");
    assert_eq!(schema(&data), "2 expanded");
    migrated(&data, "contract", "v2");
    assert_eq!(schema(&data), "3 contracted");
    works(&new, "new-on-contracted").await;
    works(&Running::start_release(&data, "v3-identical"), "next-on-contracted").await;
    // Had anybody contracted too early, the old release would have shown it, and it does not start any more.
    old.post_order(&order("too-late", "SHOE-00001", 1)).await.problem(500);
    let refused = data.shop(&["serve", "--port", "0", "--release", "v1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("schema 3"), "{refused:?}");
    assert_eq!(new.count_orders().await, 6);

    for (phase, release) in [("expand", "v2"), ("contract", "v2"), ("expand", "v1"), ("expand", "v3-slow")] {
        migrated(&data, phase, release);
        assert_eq!(schema(&data), "3 contracted", "{phase} {release}");
    }
}

async fn contracting_comes_after_expanding(data: Data) {
    let old = Running::start_release(&data, "v1");
    let output = migrate(&data, "contract", "v2");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expand"), "{output:?}");
    assert_eq!(schema(&data), "1 base");
    works(&old, "untouched").await;
}

async fn a_migration_killed_half_way_goes_on(data: Data) {
    let old = Running::start_release(&data, "v1");
    many_old_orders(&data, 50).await;
    let mut slow = named(&data, command(&data));
    slow.args(["migrate", "expand", "--release", "v2", "--batch", "10", "--pause-ms", "600000"]);
    let half = Running::spawn(slow);
    half.wait_for_line("orders up to 10 have");
    drop(half);
    assert_eq!(without_currency(&data).await, "40");
    assert_eq!(schema(&data), "1 base");
    // What is taken meanwhile has its currency already.
    works(&old, "half-way").await;
    assert_eq!(without_currency(&data).await, "40");

    migrated(&data, "expand", "v2");
    assert_eq!((without_currency(&data).await.as_str(), schema(&data).as_str()), ("0", "2 expanded"));
    // Rows that something from before the trigger left behind are found by contracting too.
    data.run("UPDATE orders SET currency = NULL WHERE id <= 30").await;
    let mut slow = named(&data, command(&data));
    slow.args(["migrate", "contract", "--release", "v2", "--batch", "10", "--pause-ms", "600000"]);
    let half = Running::spawn(slow);
    half.wait_for_line("orders up to 10 have");
    drop(half);
    assert_eq!((without_currency(&data).await.as_str(), schema(&data).as_str()), ("20", "2 expanded"));
    migrated(&data, "contract", "v2");
    assert_eq!((without_currency(&data).await.as_str(), schema(&data).as_str()), ("0", "3 contracted"));
}

async fn orders_are_taken_while_it_migrates(data: Data) {
    let old = Running::start_release(&data, "v1");
    many_old_orders(&data, 300).await;
    let mut moving = named(&data, command(&data));
    moving.args(["migrate", "expand", "--release", "v2", "--batch", "10", "--pause-ms", "20"]);
    let mut moving = Running::spawn(moving);
    moving.wait_for_line("orders have a currency");
    let mut taken = 0;
    let mut asking: JoinSet<Answer> = JoinSet::new();
    wait_until("it ends", async || {
        let (address, body) = (old.address(), order("meanwhile", "SHOE-00001", 1).to_string());
        asking.spawn(async move { send(address, "POST", "/api/orders", &[], body).await });
        let answer = asking.join_next().await.unwrap().unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        taken += 1;
        moving.has_ended()
    })
    .await;
    assert!(moving.wait_for_exit().await.success());
    assert_eq!((without_currency(&data).await.as_str(), schema(&data).as_str()), ("0", "2 expanded"));
    assert_eq!(old.count_orders().await, 300 + taken);
}

/// Ready all the while, so that only what users do shows it.
async fn the_broken_migration_breaks_reading_for_the_old_release(data: Data) {
    let old = Running::start_release(&data, "v2");
    works(&old, "before").await;
    let refused = data.shop(&["serve", "--port", "0", "--release", "v3-broken-schema"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    works(&old, "still").await;

    migrated(&data, "expand", "v3-broken-schema");
    assert_eq!(schema(&data), "4 renamed");
    assert_eq!(old.get("/readyz").await.status, 200);
    old.get("/api/products?page=1").await.problem(500);
    works(&Running::start_release(&data, "v3-broken-schema"), "new").await;
    let restarted = Running::start_release(&data, "v2");
    restarted.get("/api/products?page=1").await.problem(500);

    // The way out: the migration of the release that is to go on.
    migrated(&data, "expand", "v2");
    assert_eq!(schema(&data), "2 expanded");
    works(&old, "after").await;
    migrated(&data, "contract", "v2");
    migrated(&data, "expand", "v3-broken-schema");
    migrated(&data, "expand", "v2");
    assert_eq!(schema(&data), "3 contracted");
}

async fn migrations_at_once_do_not_disturb_each_other(data: Data) {
    let old = Running::start_release(&data, "v1");
    many_old_orders(&data, 200).await;
    for (phase, reached) in [("expand", "2 expanded"), ("contract", "3 contracted")] {
        let mut all: Vec<Running> = (0..3)
            .map(|_| {
                let mut moving = named(&data, command(&data));
                moving.args(["migrate", phase, "--release", "v2", "--batch", "7"]);
                Running::spawn(moving)
            })
            .collect();
        for moving in &mut all {
            let ended = moving.wait_for_exit().await;
            assert!(ended.success(), "{phase}: {}", moving.wait_for_line("stopped"));
        }
        assert_eq!((without_currency(&data).await.as_str(), schema(&data).as_str()), ("0", reached));
        if phase == "expand" {
            works(&old, "after").await;
        }
    }
    works(&Running::start_release(&data, "v2"), "at-last").await;
}

on_each_database! {
    old_and_new_work_side_by_side_until_the_old_is_gone,
    contracting_comes_after_expanding,
    a_migration_killed_half_way_goes_on,
    orders_are_taken_while_it_migrates,
    the_broken_migration_breaks_reading_for_the_old_release,
    migrations_at_once_do_not_disturb_each_other,
}
