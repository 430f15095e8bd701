//! What customers see while the PostgreSQL server is away.

use crate::running::{Data, Running, order, wait_until};

#[tokio::test]
async fn a_server_that_is_away_is_503_and_comes_back() {
    let Some(mut data) = Data::postgres() else { return };
    let shop = Running::start_release(&data, "v2");
    let kept = shop.post_order_with_key(&order("kept", "SHOE-00001", 1), "k1").await.json();
    data.server().kill();
    assert_eq!(shop.get("/healthz").await.status, 200);
    let readiness = shop.get("/readyz").await;
    readiness.problem(503);
    assert_eq!(readiness.header("retry-after"), Some("1"));
    shop.get("/api/products").await.problem(503);
    shop.post_order_with_key(&order("new", "SHOE-00001", 1), "k2").await.problem(503);

    data.server().start_again();
    wait_until("it is ready again", async || shop.get("/readyz").await.status == 200).await;
    assert_eq!(shop.get(&format!("/api/orders/{}", kept["id"])).await.json(), kept);
    assert_eq!(shop.count_orders().await, 1);
    let taken = shop.post_order_with_key(&order("new", "SHOE-00001", 1), "k2").await;
    assert_eq!((taken.status.as_u16(), taken.header("idempotent-replayed")), (201, None));
}

#[tokio::test]
async fn an_answer_that_says_nothing_was_done_is_true_while_the_server_crashes() {
    let Some(mut data) = Data::postgres() else { return };
    let shop = Running::start_release(&data, "v2");
    let mut taken = 0;
    let mut refused = 0;
    for round in 0..3 {
        let (address, mut asking) = (shop.address(), tokio::task::JoinSet::new());
        for number in 0..40 {
            let body = order(&format!("{round}-{number}"), "SHOE-00001", 1).to_string();
            asking.spawn(async move {
                let answer = crate::running::send(address, "POST", "/api/orders", &[], body).await;
                (format!("{round}-{number}"), answer.status.as_u16())
            });
        }
        let mut answers = vec![asking.join_next().await.unwrap().unwrap()];
        data.server().kill();
        answers.extend(asking.join_all().await);
        data.server().start_again();
        wait_until("it is ready again", async || shop.get("/readyz").await.status == 200).await;
        for (reference, status) in answers {
            let found = shop.get(&format!("/api/orders?ref={reference}")).await.json();
            let count = found["items"].as_array().unwrap().len();
            match status {
                201 => {
                    assert_eq!(count, 1, "{reference}");
                    taken += 1;
                }
                503 => {
                    assert_eq!(count, 0, "{reference}");
                    refused += 1;
                }
                // The one answer that does not know.
                500 => assert!(count <= 1, "{reference}"),
                other => panic!("{reference}: {other}"),
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn a_wrong_database_is_said_without_its_password() {
    let Some(mut data) = Data::postgres() else { return };
    let right = data.server().url();
    let table = [
        (right.replace("s3cret", "wrong-w0rd"), 1, "password authentication failed"),
        (right.replace("/postgres", "/nowhere"), 1, "nowhere"),
        ("sqlite:relative/wrong-w0rd".to_owned(), 2, "not absolute"),
        ("mysql://shop:wrong-w0rd@h/d".to_owned(), 2, "`mysql`"),
    ];
    for (url, code, part) in table {
        let output = data.shop(&["serve", "--port", "0", "--database", &url]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part) && !said.contains("s3cret"), "{said}");
        assert!(!said.contains("wrong-w0rd") || url.starts_with("sqlite:"), "{said}");
    }
}
