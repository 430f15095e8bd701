use serde_json::{Value, json};

use crate::running::{Answer, Data, Running, command, send};

fn start(data: &Data, service: &str, kept: bool) -> Running {
    let mut command = command(data);
    command.args([service, "--port", "0"]);
    if kept {
        command.arg("--data").arg(data.folder());
    }
    let mut running = Running::spawn(command);
    running.wait_until_listening();
    running
}

async fn post(service: &Running, path: &str, key: Option<&str>, body: &Value) -> Answer {
    let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    send(service.address(), "POST", path, &headers, body.to_string()).await
}

#[tokio::test]
async fn a_charge_is_made_once_and_refunded_once() {
    let data = Data::new();
    let payments = start(&data, "payments", false);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(payments.get(path).await.status, 200);
    }
    let wish = json!({ "customer": "ada", "ref": "r", "amount": 1234 });
    let first = post(&payments, "/charges", Some("k"), &wish).await;
    let again = post(&payments, "/charges", Some("k"), &wish).await;
    assert_eq!((first.status.as_u16(), &first.json()["amount"]), (201, &json!(1234)));
    assert_eq!((again.status.as_u16(), &again.body), (201, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    post(&payments, "/charges", Some("k"), &json!({ "customer": "ada", "amount": 1 })).await.problem(422);

    let refund = format!("/charges/{}/refund", first.json()["id"]);
    for _ in 0..2 {
        let answer = post(&payments, &refund, None, &Value::Null).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["refunded"]), (200, &json!(true)));
    }
    let found = payments.get("/charges?ref=r").await.json();
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["items"][0]["refunded"], true);
    post(&payments, "/charges/99/refund", None, &Value::Null).await.problem(404);
    payments.get("/charges").await.problem(400);
}

#[tokio::test]
async fn items_are_charged_by_the_list() {
    let data = Data::new();
    let (payments, shop) = (start(&data, "payments", false), Running::start(&data));
    let price = shop.get("/api/products/SHOE-00002").await.json()["price"].as_i64().unwrap();
    let items = json!([{ "sku": "SHOE-00002", "quantity": 3 }]);
    let answer = post(&payments, "/charges", None, &json!({ "customer": "ada", "items": items })).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["amount"]), (201, &json!(3 * price)));
    let table = [
        (json!({ "amount": 1 }), "customer"),
        (json!({ "customer": "ada" }), "amount"),
        (json!({ "customer": "ada", "amount": 0 }), "amount"),
        (json!({ "customer": "ada", "amount": 1, "ref": "" }), "ref"),
        (json!({ "customer": "ada", "items": [{ "sku": "X", "quantity": 1 }] }), "items[0].sku"),
        (json!({ "customer": "ada", "items": [{ "sku": "SHOE-00002" }] }), "items[0].quantity"),
    ];
    for (wish, field) in table {
        assert_eq!(post(&payments, "/charges", None, &wish).await.problem(422)["field"], field, "{wish}");
    }
}

#[tokio::test]
async fn a_label_is_made_and_taken_back() {
    let data = Data::new();
    let shipping = start(&data, "shipping", false);
    assert_eq!(shipping.get("/readyz").await.status, 200);
    let label = post(&shipping, "/labels", Some("k"), &json!({ "order": 7 })).await;
    assert_eq!((label.status.as_u16(), &label.json()["order"]), (201, &json!(7)));
    let again = post(&shipping, "/labels", Some("k"), &json!({ "order": 7 })).await;
    assert_eq!(again.body, label.body);
    post(&shipping, "/labels", None, &json!({ "order": null })).await.problem(422);
    assert_eq!(shipping.get("/labels?order=7").await.json(), json!({ "items": [label.json()] }));
    let path = format!("/labels/{}", label.json()["id"]);
    for _ in 0..2 {
        assert_eq!(send(shipping.address(), "DELETE", &path, &[], "").await.status, 204);
    }
    assert_eq!(shipping.get("/labels?order=7").await.json(), json!({ "items": [] }));
    // A reference of the customer's own is another way to find them.
    let label = post(&shipping, "/labels", None, &json!({ "order": 8, "ref": "r" })).await;
    assert_eq!((label.status.as_u16(), &label.json()["ref"]), (201, &json!("r")));
    assert_eq!(shipping.get("/labels?ref=r").await.json(), json!({ "items": [label.json()] }));
    for path in ["/labels", "/labels?order=8&ref=r"] {
        shipping.get(path).await.problem(400);
    }
    post(&shipping, "/labels", None, &json!({ "order": 8, "ref": "" })).await.problem(422);
    send(shipping.address(), "DELETE", "/labels/99", &[], "").await.problem(404);
}

#[tokio::test]
async fn with_a_folder_they_remember_and_without_they_forget() {
    let data = Data::new();
    let wish = json!({ "customer": "ada", "ref": "r", "amount": 1 });
    for (kept, expected) in [(true, 1), (false, 0)] {
        let mut payments = start(&data, "payments", kept);
        assert_eq!(post(&payments, "/charges", Some("k"), &wish).await.status, 201);
        payments.terminate();
        assert_eq!(payments.wait_for_exit().await.code(), Some(0));
        // Also after one that is killed.
        drop(start(&data, "payments", kept));
        let found = start(&data, "payments", kept).get("/charges?ref=r").await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), expected, "{kept}");
    }
}
