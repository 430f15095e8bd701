#![expect(clippy::unwrap_used, reason = "these are the bodies of tests, which a macro names")]

use std::collections::HashSet;

use serde_json::Value;

use crate::running::{Data, Running, on_each_database, send};

fn skus(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["sku"].as_str().expect("a sku").to_owned()).collect()
}

async fn pages_hold_every_product_once(data: Data) {
    let shop = Running::start(&data);
    let first = shop.get("/api/products").await;
    assert_eq!(first.status, 200);
    assert_eq!(first.json()["page"], 1);
    assert_eq!(first.json(), shop.get("/api/products?page=1").await.json());

    let pages = first.json()["pages"].as_i64().unwrap();
    assert_eq!(pages, 500);
    let mut seen = HashSet::new();
    for page in 1..=pages {
        let page = skus(&shop.get(&format!("/api/products?page={page}")).await.json());
        assert_eq!(page.len(), 20);
        seen.extend(page);
    }
    assert_eq!(seen.len(), 10_000);
}

async fn a_page_beyond_the_last_is_empty(data: Data) {
    let shop = Running::start(&data);
    for page in ["501", "9223372036854775807"] {
        let answer = shop.get(&format!("/api/products?page={page}")).await;
        assert_eq!(answer.status, 200, "{page}");
        assert_eq!(answer.json()["items"], Value::Array(Vec::new()), "{page}");
        assert_eq!(answer.json()["pages"], 500, "{page}");
    }
}

#[tokio::test]
async fn a_bad_page_is_refused() {
    let data = Data::new();
    let shop = Running::start(&data);
    for query in
        ["page=0", "page=-1", "page=1.5", "page=x", "page=", "page=9223372036854775808", "page=1&page=2"]
    {
        shop.get(&format!("/api/products?{query}")).await.problem(400);
    }
}

async fn a_product_is_found_by_its_sku(data: Data) {
    let shop = Running::start(&data);
    let listed = shop.get("/api/products?page=7").await.json()["items"][3].clone();
    let answer = shop.get(&format!("/api/products/{}", listed["sku"].as_str().unwrap())).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), listed);
    assert_eq!(listed["stock"], 1_000_000);
    for field in ["name", "brand", "description"] {
        assert!(!listed[field].as_str().unwrap().is_empty(), "{field}");
    }
    assert!(listed["price"].as_i64().unwrap() > 0);

    shop.get("/api/products/SHOE-99999").await.problem(404);
    shop.get("/api/products/%27%20OR%201=1").await.problem(404);
    shop.get("/api/products/%FF").await.problem(400);
}

async fn search_finds_words_and_their_beginnings(data: Data) {
    let shop = Running::start(&data);
    let answer = shop.get("/api/products/search?q=LEATH+snea").await;
    assert_eq!(answer.status, 200);
    let found = answer.json()["items"].as_array().unwrap().clone();
    assert_eq!(found.len(), 20, "the limit");
    for item in found {
        let name = item["name"].as_str().unwrap();
        assert!(name.contains("leather") && name.contains("sneaker"), "{name}");
    }

    let one = shop.get("/api/products/SHOE-04711").await.json();
    let mut name = one["name"].as_str().unwrap().replace(' ', "%20");
    let items = shop.get(&format!("/api/products/search?q={name}")).await.json()["items"].clone();
    assert!(items.as_array().unwrap().iter().all(|item| item["name"] == one["name"]), "{items}");
    assert!(!items.as_array().unwrap().is_empty());

    name.push_str("%20zeppelin");
    let items = shop.get(&format!("/api/products/search?q={name}")).await.json()["items"].clone();
    assert_eq!(items, Value::Array(Vec::new()));
}

async fn nothing_typed_into_search_is_an_operator(data: Data) {
    let shop = Running::start(&data);
    for text in ["%22", "*", "name%3A", "a%00b", "NOT", "(", "%27%3B--", "-", "%25", "_"] {
        let answer = shop.get(&format!("/api/products/search?q={text}")).await;
        assert_eq!(answer.status, 200, "{text}: {answer:?}");
    }
    for query in ["", "q=", "q=%20", &format!("q={}", "a".repeat(201))] {
        shop.get(&format!("/api/products/search?{query}")).await.problem(400);
    }
}

#[tokio::test]
async fn every_database_is_filled_alike() {
    let (here, there) = (Data::new(), Data::new());
    let (here, there) = (Running::start(&here), Running::start_release(&there, "v1"));
    for page in [1, 2, 250, 500] {
        let path = format!("/api/products?page={page}");
        assert_eq!(here.get(&path).await.json(), there.get(&path).await.json());
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_problems_too() {
    let data = Data::new();
    let shop = Running::start(&data);
    for path in ["/nothing", "/api", "/api/products/", "/api/orders/1/2"] {
        shop.get(path).await.problem(404);
    }
    let answer = send(shop.address(), "DELETE", "/api/products", &[], "").await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    let answer = send(shop.address(), "PUT", "/api/orders", &[], "{}").await;
    answer.problem(405);

    let answer = send(shop.address(), "HEAD", "/api/products", &[], "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.is_empty());
}

on_each_database! {
    pages_hold_every_product_once,
    a_page_beyond_the_last_is_empty,
    a_product_is_found_by_its_sku,
    search_finds_words_and_their_beginnings,
    nothing_typed_into_search_is_an_operator,
}
