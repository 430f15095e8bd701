//! Writes that go wrong on purpose.

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::running::{Data, Running, command, named, order, send};

fn start(data: &Data, args: &[&str], mishaps: &str) -> Running {
    let mut command = named(data, command(data));
    command.args(args).args(["--port", "0"]).env("SHOP_MISHAPS", mishaps);
    let mut running = Running::spawn(command);
    running.wait_until_listening();
    running
}

fn payments(data: &Data, mishaps: &str) -> Running {
    let folder = data.folder();
    start(data, &["payments", "--data", folder.to_str().expect("a readable path")], mishaps)
}

async fn charge(payments: &Running, key: &str) -> u16 {
    let body = json!({ "customer": "ada", "ref": "r", "amount": 5 }).to_string();
    send(payments.address(), "POST", "/charges", &[("idempotency-key", key)], body).await.status.as_u16()
}

async fn charges(payments: &Running) -> Vec<Value> {
    payments.get("/charges?ref=r").await.json()["items"].as_array().expect("a list").clone()
}

/// Sends a charge to a process that dies of it, and waits for its end. Whether it answered.
async fn die_of(mut payments: Running, key: &str) -> bool {
    let stream = TcpStream::connect(payments.address()).await.expect("it listens");
    let body = json!({ "customer": "ada", "ref": "r", "amount": 5 }).to_string();
    let length = body.len();
    let request = format!(
        "POST /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut sent = request.as_bytes();
    let mut stream = stream;
    tokio::io::AsyncWriteExt::write_all_buf(&mut stream, &mut sent).await.expect("it reads");
    let mut answer = Vec::new();
    // How the connection ends is another matter: with the process, or after its answer.
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
    let status = payments.wait_for_exit().await;
    assert!(!status.success(), "{status}");
    answer.starts_with(b"HTTP/1.1 201")
}

#[tokio::test]
async fn a_refusal_and_a_failure_have_done_nothing_and_a_lie_has() {
    for (mishap, status, done) in [("refuse:2", 402, 1), ("fail:2", 500, 1), ("lie:2", 500, 2)] {
        let data = Data::new();
        let payments = payments(&data, mishap);
        assert_eq!([charge(&payments, "a").await, charge(&payments, "b").await], [201, status], "{mishap}");
        assert_eq!(charges(&payments).await.len(), done, "{mishap}");
        // The next one goes well, and is the same charge where that was made.
        assert_eq!(charge(&payments, "b").await, 201, "{mishap}");
        assert_eq!(charges(&payments).await.len(), 2, "{mishap}");
    }
}

#[tokio::test]
async fn a_process_that_dies_has_done_it_and_its_key_says_so() {
    for (mishap, answers) in [("die:1", false), ("answer-and-die:1", true)] {
        let data = Data::new();
        assert_eq!(die_of(payments(&data, mishap), "a").await, answers, "{mishap}");
        let again = payments(&data, "");
        assert_eq!(charges(&again).await.len(), 1, "{mishap}");
        assert_eq!(charge(&again, "a").await, 201);
        assert_eq!(charges(&again).await.len(), 1, "{mishap}");
    }
}

#[tokio::test]
async fn undoing_goes_wrong_by_itself() {
    let data = Data::new();
    let payments = payments(&data, "undo-fail:2");
    assert_eq!([charge(&payments, "a").await, charge(&payments, "b").await], [201, 201]);
    let mut refunds = Vec::new();
    for id in [1, 2, 2] {
        let path = format!("/charges/{id}/refund");
        refunds.push(send(payments.address(), "POST", &path, &[], "").await.status.as_u16());
    }
    assert_eq!(refunds, [200, 500, 200]);
    assert!(charges(&payments).await.iter().all(|charge| charge["refunded"] == true));
}

#[tokio::test]
async fn orders_and_labels_go_wrong_too_and_reading_never_does() {
    let data = Data::new();
    let shop = start(&data, &["serve"], "refuse,undo-fail");
    assert_eq!(shop.post_order(&order("r", "SHOE-00001", 1)).await.status, 409);
    assert_eq!(send(shop.address(), "DELETE", "/api/orders/1", &[], "").await.status, 500);
    assert_eq!((shop.count_orders().await, shop.get("/api/products").await.status.as_u16()), (0, 200));
    let shipping = start(&data, &["shipping"], "refuse");
    let label = send(shipping.address(), "POST", "/labels", &[], json!({ "order": 1 }).to_string()).await;
    assert_eq!((label.status.as_u16(), shipping.get("/readyz").await.status.as_u16()), (409, 200));
}

#[tokio::test]
async fn a_mishap_that_is_none_is_refused() {
    let data = Data::new();
    let output = data.shop(&["payments", "--port", "0", "--mishaps", "fail,explode"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("explode") && said.contains("answer-and-die"), "{said}");
}
