use std::collections::{BTreeMap, BTreeSet};

use crate::running::{Data, Running, order, send};

/// The methods of each path of the document are those that the shop itself allows, and the statuses that it
/// gives are named.
#[tokio::test]
async fn the_document_says_what_the_shop_does() {
    let data = Data::new();
    let shop = Running::start_release(&data, "v2");
    let answer = shop.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    let mut statuses: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{sku}", "SHOE-00001").replace("{id}", "1");
        let refused = send(shop.address(), "PATCH", &concrete, &[], "").await;
        refused.problem(405);
        let allowed: BTreeSet<String> =
            refused.header("allow").unwrap().split(',').map(|method| method.trim().to_lowercase()).collect();
        let named = operations.as_object().unwrap();
        let allowed: BTreeSet<&str> = allowed.iter().map(String::as_str).filter(|m| *m != "head").collect();
        assert_eq!(allowed, named.keys().map(String::as_str).collect(), "{path}");
        for (method, operation) in named {
            let named = operation["responses"].as_object().unwrap().keys().cloned().collect();
            statuses.insert((path.clone(), method.clone()), named);
        }
    }

    let good = order("r", "SHOE-00001", 1).to_string();
    let empty = order("r", "SHOE-00002", 1).to_string();
    data.run("UPDATE products SET stock = 0 WHERE sku = 'SHOE-00002'").await;
    let large = " ".repeat(70_000);
    let table = [
        ("/api/products", "get", "", "", 200),
        ("/api/products", "get", "?page=0", "", 400),
        ("/api/products/search", "get", "?q=boot", "", 200),
        ("/api/products/search", "get", "", "", 400),
        ("/api/products/{sku}", "get", "SHOE-00001", "", 200),
        ("/api/products/{sku}", "get", "%FF", "", 400),
        ("/api/products/{sku}", "get", "none", "", 404),
        ("/api/orders", "post", "", &good, 201),
        ("/api/orders", "post", "", "{", 400),
        ("/api/orders", "post", "", &empty, 409),
        ("/api/orders", "post", "", &large, 413),
        ("/api/orders", "post", "", "{}", 422),
        ("/api/orders", "get", "?ref=r", "", 200),
        ("/api/orders", "get", "", "", 400),
        ("/api/orders/count", "get", "", "", 200),
        ("/api/orders/{id}", "get", "1", "", 200),
        ("/api/orders/{id}", "get", "%FF", "", 400),
        ("/api/orders/{id}", "get", "x", "", 404),
        ("/api/orders/{id}", "delete", "1", "", 204),
        ("/api/orders/{id}", "delete", "%FF", "", 400),
        ("/api/orders/{id}", "delete", "x", "", 404),
    ];
    for (path, method, rest, body, expected) in table {
        let target = match path.split_once('{') {
            Some((start, _)) => format!("{start}{rest}"),
            None => format!("{path}{rest}"),
        };
        let answer = send(shop.address(), &method.to_uppercase(), &target, &[], body.to_owned()).await;
        assert_eq!(answer.status, expected, "{method} {target}");
        let left = statuses.get_mut(&(path.to_owned(), method.to_owned())).unwrap();
        assert!(left.remove(&expected.to_string()), "{method} {path}: {expected} is not in the document");
    }
    // Left are only those that need a broken database.
    for (operation, left) in statuses {
        assert_eq!(left, BTreeSet::from(["500".to_owned(), "503".to_owned()]), "{operation:?}");
    }
}
