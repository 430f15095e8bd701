#![expect(clippy::unwrap_used, reason = "these are the bodies of tests, which a macro names")]

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::running::{Data, Running, on_each_database, order, send};

async fn an_order_is_taken_and_found_again(data: Data) {
    let shop = Running::start(&data);
    let price = |sku: &str| {
        let path = format!("/api/products/{sku}");
        let shop = &shop;
        async move { shop.get(&path).await.json()["price"].as_i64().unwrap() }
    };
    let (first, second) = (price("SHOE-00001").await, price("SHOE-00002").await);
    let items = json!([{ "sku": "SHOE-00001", "quantity": 2 }, { "sku": "SHOE-00002", "quantity": 99 }]);
    let answer =
        shop.post_order(&json!({ "customer": "ada", "ref": "a/1 ü", "items": items, "note": "x" })).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    let taken = answer.json();
    assert_eq!(answer.header("location"), Some(format!("/api/orders/{}", taken["id"]).as_str()));
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert_eq!((&taken["customer"], &taken["ref"]), (&json!("ada"), &json!("a/1 ü")));
    assert_eq!(taken["total"], 2 * first + 99 * second);
    assert_eq!(
        taken["items"],
        json!([
            { "sku": "SHOE-00001", "quantity": 2, "price": first },
            { "sku": "SHOE-00002", "quantity": 99, "price": second },
        ])
    );
    let created = taken["created"].as_str().unwrap();
    assert!(created.len() == 24 && created.starts_with("20") && created.ends_with('Z'), "{created}");

    assert_eq!(shop.get(&format!("/api/orders/{}", taken["id"])).await.json(), taken);
    assert_eq!(shop.get("/api/orders?ref=a%2F1+%C3%BC").await.json(), json!({ "items": [taken] }));
    assert_eq!(shop.get("/api/products/SHOE-00002").await.json()["stock"], 1_000_000 - 99);
    assert_eq!(shop.count_orders().await, 1);
}

async fn what_is_not_there_is_not_found(data: Data) {
    let shop = Running::start(&data);
    assert_eq!(shop.count_orders().await, 0);
    assert_eq!(shop.get("/api/orders?ref=none").await.json(), json!({ "items": [] }));
    shop.get("/api/orders").await.problem(400);
    for id in ["1", "-1", "x", "99999999999999999999"] {
        shop.get(&format!("/api/orders/{id}")).await.problem(404);
    }
}

async fn the_same_reference_twice_is_two_orders(data: Data) {
    let shop = Running::start(&data);
    let wish = order("twice", "SHOE-00001", 1);
    let (first, second) = (shop.post_order(&wish).await.json(), shop.post_order(&wish).await.json());
    assert_ne!(first["id"], second["id"]);
    assert_eq!(shop.get("/api/orders?ref=twice").await.json(), json!({ "items": [first, second] }));
}

async fn a_wrong_order_is_refused_with_its_field_and_changes_nothing(data: Data) {
    let shop = Running::start(&data);
    let line = json!({ "sku": "SHOE-00001", "quantity": 1 });
    let table = [
        (json!({ "ref": "r", "items": [line] }), "customer"),
        (json!({ "customer": "c", "items": [line] }), "ref"),
        (json!({ "customer": "c", "ref": "r".repeat(101), "items": [line] }), "ref"),
        (json!({ "customer": "c", "ref": "r", "items": [] }), "items"),
        (json!({ "customer": "c", "ref": "r", "items": vec![&line; 51] }), "items"),
        (
            json!({ "customer": "c", "ref": "r", "items": [line, { "sku": "SHOE-0", "quantity": 1 }] }),
            "items[1].sku",
        ),
        (order("r", "SHOE-00001", 0), "items[0].quantity"),
        (order("r", "SHOE-00001", 100), "items[0].quantity"),
    ];
    for (wish, field) in table {
        let problem = shop.post_order(&wish).await.problem(422);
        assert_eq!(problem["field"], field, "{problem}");
    }
    assert_eq!(shop.count_orders().await, 0);
    assert_eq!(shop.get("/api/products/SHOE-00001").await.json()["stock"], 1_000_000);
}

async fn what_is_not_json_is_400_and_what_is_too_large_413(data: Data) {
    let shop = Running::start(&data);
    for body in ["", "{", "customer=ada", "{\"customer\":\"\u{0}\"}"] {
        send(shop.address(), "POST", "/api/orders", &[], body).await.problem(400);
    }
    let mut body = order("large", "SHOE-00001", 1).to_string();
    body.push_str(&" ".repeat(64 * 1024 - body.len()));
    assert_eq!(send(shop.address(), "POST", "/api/orders", &[], body.clone()).await.status, 201);
    body.push(' ');
    send(shop.address(), "POST", "/api/orders", &[], body).await.problem(413);
    assert_eq!(shop.count_orders().await, 1);
}

async fn a_key_brings_the_first_order_back(data: Data) {
    let shop = Running::start(&data);
    let wish = order("once", "SHOE-00001", 3);
    let first = shop.post_order_with_key(&wish, "k1").await;
    assert_eq!((first.status.as_u16(), first.header("idempotent-replayed")), (201, None));
    // What is asked for counts, not how it is written.
    let again = json!({ "items": wish["items"], "ref": wish["ref"], "customer": wish["customer"] });
    let again = shop.post_order_with_key(&again, "k1").await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!((&again.body, again.header("location")), (&first.body, first.header("location")));

    for other in
        [order("once", "SHOE-00001", 4), order("once", "SHOE-00002", 3), order("more", "SHOE-00001", 3)]
    {
        shop.post_order_with_key(&other, "k1").await.problem(422);
    }
    assert_eq!(shop.post_order_with_key(&wish, "k2").await.header("idempotent-replayed"), None);
    assert_eq!(shop.count_orders().await, 2);
    assert_eq!(shop.get("/api/products/SHOE-00001").await.json()["stock"], 1_000_000 - 6);
}

async fn a_key_brings_its_order_back_after_the_stock_is_gone(data: Data) {
    let shop = Running::start(&data);
    data.run("UPDATE products SET stock = 1 WHERE sku = 'SHOE-00001'").await;
    let wish = order("last", "SHOE-00001", 1);
    let first = shop.post_order_with_key(&wish, "k").await;
    shop.post_order(&wish).await.problem(409);
    assert_eq!(shop.post_order_with_key(&wish, "k").await.body, first.body);
}

async fn a_refused_order_does_not_use_up_its_key(data: Data) {
    let shop = Running::start(&data);
    shop.post_order_with_key(&order("r", "SHOE-0", 1), "k").await.problem(422);
    assert_eq!(shop.post_order_with_key(&order("r", "SHOE-00001", 1), "k").await.status, 201);
}

async fn a_key_is_one_header_of_limited_length(data: Data) {
    let shop = Running::start(&data);
    let body = order("r", "SHOE-00001", 1).to_string();
    let (long, longest) = ("k".repeat(256), "k".repeat(255));
    let key = "idempotency-key";
    for headers in [&[(key, "")][..], &[(key, &long)], &[(key, "ü")], &[(key, "a"), (key, "a")]] {
        send(shop.address(), "POST", "/api/orders", headers, body.clone()).await.problem(400);
    }
    assert_eq!(send(shop.address(), "POST", "/api/orders", &[(key, &longest)], body).await.status, 201);
    assert_eq!(shop.count_orders().await, 1);
}

/// The same request from several connections at once, spread over `shops`.
async fn all_at_once(
    shops: &[&Running],
    count: usize,
    key: Option<&'static str>,
    wish: &Value,
) -> Vec<crate::running::Answer> {
    let mut asking = JoinSet::new();
    for shop in shops.iter().cycle().take(count) {
        let (address, body) = (shop.address(), wish.to_string());
        asking.spawn(async move {
            let headers: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
            send(address, "POST", "/api/orders", &headers, body).await
        });
    }
    asking.join_all().await
}

async fn one_key_from_eight_connections_and_two_processes_is_one_order(data: Data) {
    let (one, two) = (Running::start(&data), Running::start_release(&data, "v2"));
    let answers = all_at_once(&[&one, &two], 8, Some("k"), &order("once", "SHOE-00001", 1)).await;
    let replays =
        answers.iter().filter(|answer| answer.header("idempotent-replayed") == Some("true")).count();
    for answer in &answers {
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(replays, 7);
    assert_eq!(one.count_orders().await, 1);
    assert_eq!(two.get("/api/products/SHOE-00001").await.json()["stock"], 999_999);
}

async fn stock_is_never_sold_twice(data: Data) {
    let (one, two) = (Running::start(&data), Running::start(&data));
    data.run("UPDATE products SET stock = 11 WHERE sku = 'SHOE-00001'").await;
    let answers = all_at_once(&[&one, &two], 16, None, &order("rush", "SHOE-00001", 2)).await;
    let sold = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(sold, 5);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        let problem = answer.problem(409);
        assert!(problem["detail"].as_str().unwrap().contains("SHOE-00001"), "{problem}");
    }
    assert_eq!(one.count_orders().await, 5);
    assert_eq!(one.get("/api/products/SHOE-00001").await.json()["stock"], 1);
}

async fn an_order_is_taken_whole_or_not_at_all(data: Data) {
    let shop = Running::start(&data);
    data.run("UPDATE products SET stock = 0 WHERE sku = 'SHOE-00002'").await;
    let items = json!([{ "sku": "SHOE-00001", "quantity": 1 }, { "sku": "SHOE-00002", "quantity": 1 }]);
    shop.post_order(&json!({ "customer": "ada", "ref": "r", "items": items })).await.problem(409);
    assert_eq!(shop.get("/api/products/SHOE-00001").await.json()["stock"], 1_000_000);
    assert_eq!(shop.count_orders().await, 0);
}

async fn cancelling_gives_the_pieces_back_once(data: Data) {
    let shop = Running::start(&data);
    let items = json!([{ "sku": "SHOE-00002", "quantity": 2 }, { "sku": "SHOE-00001", "quantity": 1 }]);
    let wish = json!({ "customer": "ada", "ref": "r", "items": items });
    let kept = shop.post_order(&wish).await.json();
    let gone = shop.post_order_with_key(&wish, "k").await.json();
    let path = format!("/api/orders/{}", gone["id"]);
    for _ in 0..2 {
        let answer = send(shop.address(), "DELETE", &path, &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0), "{answer:?}");
    }
    assert_eq!(shop.get("/api/products/SHOE-00002").await.json()["stock"], 1_000_000 - 2);
    assert_eq!(shop.get("/api/products/SHOE-00001").await.json()["stock"], 1_000_000 - 1);
    shop.get(&path).await.problem(404);
    assert_eq!(shop.get("/api/orders?ref=r").await.json(), json!({ "items": [kept] }));
    assert_eq!(shop.count_orders().await, 1);
    // Its key does not bring it back to life, and nobody else gets it.
    shop.post_order_with_key(&wish, "k").await.problem(409);
    assert_eq!(shop.count_orders().await, 1);
    for id in ["99999", "x", "-1"] {
        send(shop.address(), "DELETE", &format!("/api/orders/{id}"), &[], "").await.problem(404);
    }
}

async fn orders_of_the_same_products_in_any_order_are_all_taken(data: Data) {
    let (one, two) = (Running::start(&data), Running::start_release(&data, "v2"));
    let mut asking = JoinSet::new();
    for number in 0..60 {
        let (a, b) =
            if number % 2 == 0 { ("SHOE-00001", "SHOE-00002") } else { ("SHOE-00002", "SHOE-00001") };
        let items = json!([{ "sku": a, "quantity": 1 }, { "sku": b, "quantity": 1 }]);
        let wish = json!({ "customer": "ada", "ref": "r", "items": items }).to_string();
        let address = if number % 3 == 0 { one.address() } else { two.address() };
        asking.spawn(async move { send(address, "POST", "/api/orders", &[], wish).await });
    }
    let answers = asking.join_all().await;
    let taken = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(taken, 60, "{answers:?}");
    assert_eq!(one.get("/api/products/SHOE-00002").await.json()["stock"], 1_000_000 - 60);
}

async fn no_text_with_a_nul_is_taken_or_found(data: Data) {
    let shop = Running::start(&data);
    let mut wish = order("r", "SHOE-00001", 1);
    wish["customer"] = json!("a\0b");
    assert_eq!(shop.post_order(&wish).await.problem(422)["field"], "customer");
    shop.get("/api/products/a%00b").await.problem(404);
    assert_eq!(shop.get("/api/orders?ref=a%00b").await.json(), json!({ "items": [] }));
}

on_each_database! {
    cancelling_gives_the_pieces_back_once,
    orders_of_the_same_products_in_any_order_are_all_taken,
    no_text_with_a_nul_is_taken_or_found,
    an_order_is_taken_and_found_again,
    what_is_not_there_is_not_found,
    the_same_reference_twice_is_two_orders,
    a_wrong_order_is_refused_with_its_field_and_changes_nothing,
    what_is_not_json_is_400_and_what_is_too_large_413,
    a_key_brings_the_first_order_back,
    a_key_brings_its_order_back_after_the_stock_is_gone,
    a_refused_order_does_not_use_up_its_key,
    a_key_is_one_header_of_limited_length,
    one_key_from_eight_connections_and_two_processes_is_one_order,
    stock_is_never_sold_twice,
    an_order_is_taken_whole_or_not_at_all,
}
