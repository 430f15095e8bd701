//! `shop lock`: a database that is away for those who write.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::running::{Data, Running, command, named, on_each_database, order, wait_until};

on_each_database!(
    writes_wait_for_the_end_of_a_lock_and_reads_do_not,
    a_lock_ends_with_its_time_or_its_process
);

/// A process that has the lock.
fn locked(data: &Data, arguments: &[&str]) -> Child {
    let mut command = named(data, command(data));
    let mut child = command.arg("lock").args(arguments).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it can be read");
    assert!(line.contains("locked"), "{line:?}: {:?}", child.wait_with_output());
    child
}

async fn writes_wait_for_the_end_of_a_lock_and_reads_do_not(data: Data) {
    let shop = Running::start(&data);
    let lock = locked(&data, &[]);
    let wish = order("r", "SHOE-00001", 1);
    // It waits for some seconds by itself.
    let refused = shop.post_order_with_key(&wish, "k").await;
    refused.problem(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    for path in ["/readyz", "/api/products/SHOE-00001", "/api/orders?ref=r", "/api/orders/count"] {
        assert_eq!(shop.get(path).await.status, 200, "{path}");
    }
    assert_eq!(shop.count_orders().await, 0);

    // Its standard input ends with its handle.
    let ended = lock.wait_with_output().expect("it runs and ends");
    assert!(ended.status.success(), "{ended:?}");
    wait_until("orders are taken again", async || shop.post_order_with_key(&wish, "k").await.status == 201)
        .await;
    assert_eq!(shop.count_orders().await, 1);
}

async fn a_lock_ends_with_its_time_or_its_process(data: Data) {
    let shop = Running::start(&data);
    let ended = locked(&data, &["--for", "1ms"]).wait_with_output().expect("it runs and ends");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(shop.post_order(&order("one", "SHOE-00001", 1)).await.status, 201);

    let mut lock = locked(&data, &["--for", "10m"]);
    let (address, wish) = (shop.address(), order("two", "SHOE-00001", 1).to_string());
    let asking = tokio::spawn(async move {
        crate::running::send(address, "POST", "/api/orders", &[("idempotency-key", "k")], wish).await
    });
    lock.kill().expect("it runs and ends");
    lock.wait().expect("it runs and ends");
    let first = asking.await.expect("it runs and ends");
    // On a busy machine it may have waited for too long before.
    assert!([201, 503].contains(&first.status.as_u16()), "{first:?}");
    wait_until("orders are taken again", async || {
        let again = shop.post_order_with_key(&order("two", "SHOE-00001", 1), "k").await;
        again.status == 201
    })
    .await;
    assert_eq!(shop.count_orders().await, 2);
}

#[test]
fn what_cannot_be_locked_is_said() {
    let data = Data::new();
    let folder = data.folder();
    let folder = folder.to_str().unwrap();
    let table: [(&[&str], i32, &str); 3] = [
        (&["lock", "--data", folder], 1, "cannot open the database"),
        (&["lock", "--data", folder, "--for", "11m"], 2, "at most 600 s"),
        (&["lock"], 2, "no database is named"),
    ];
    for (arguments, code, part) in table {
        let output = command(&data).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}
