#![expect(clippy::unwrap_used, reason = "these are the bodies of tests, which a macro names")]

use crate::running::{Answer, Data, Running, on_each_database, send};

fn html(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let html = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("<html lang=\"en\">"), "{html}");
    assert!(!html.contains("<script"), "{html}");
    html
}

/// The value of a hidden field of the form.
fn hidden(html: &str, name: &str) -> String {
    let (_, rest) = html.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

async fn buy(shop: &Running, key: &str, customer: &str, quantity: &str) -> Answer {
    let form = format!("key={key}&sku=SHOE-00001&customer={customer}&quantity={quantity}");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    send(shop.address(), "POST", "/buy", &headers, form).await
}

async fn a_shoe_is_found_and_bought(data: Data) {
    let shop = Running::start_release(&data, "v2");
    let front = html(&shop.get("/").await);
    assert!(front.contains("href=\"/?page=2\"") && !front.contains("Previous"), "{front}");
    assert!(html(&shop.get("/?page=500").await).contains("Previous"));
    let name = shop.get("/api/products/SHOE-00001").await.json()["name"].as_str().unwrap().to_owned();
    let found = html(&shop.get(&format!("/?q={}", name.replace(' ', "+"))).await);
    assert!(found.contains(&format!("<a href=\"/shoes/SHOE-00001\">{name}</a>")), "{found}");
    assert!(html(&shop.get("/?q=zeppelin").await).contains("No shoe has all of"));

    let page = shop.get("/shoes/SHOE-00001").await;
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let form = html(&page);
    let key = hidden(&form, "key");
    assert_ne!(key, hidden(&html(&shop.get("/shoes/SHOE-00001").await), "key"));
    assert_eq!(hidden(&form, "sku"), "SHOE-00001");

    let bought = buy(&shop, &key, "Ada+%3Cb%3E", "2").await;
    assert_eq!(bought.status, 303, "{bought:?}");
    let place = bought.header("location").unwrap();
    let order = html(&shop.get(place).await);
    assert!(order.contains("Thank you, Ada &lt;b&gt;.") && order.contains("165.90 EUR"), "{order}");

    // Sent twice, it is still one order.
    assert_eq!(buy(&shop, &key, "Ada+%3Cb%3E", "2").await.header("location"), Some(place));
    assert_eq!(shop.count_orders().await, 1);
    // The same form with something else in it is asked about.
    let other = buy(&shop, &key, "Ada", "3").await;
    assert_eq!(other.status, 409);
    let form = html(&other);
    assert!(form.contains("used for an order already") && hidden(&form, "key") != key, "{form}");
    assert_eq!(buy(&shop, &hidden(&form, "key"), "Ada", "3").await.status, 303);
    assert_eq!(shop.count_orders().await, 2);
}

async fn a_mistake_brings_the_form_back(data: Data) {
    let shop = Running::start_release(&data, "v1");
    data.run("UPDATE products SET stock = 5 WHERE sku = 'SHOE-00001'").await;
    let table = [
        ("", "1", 422, "customer"),
        ("Ada", "0", 422, "quantity"),
        ("Ada", "x", 422, "quantity"),
        ("Ada", "6", 409, "only 5"),
    ];
    for (customer, quantity, status, part) in table {
        let answer = buy(&shop, "abc", customer, quantity).await;
        assert_eq!(answer.status, status, "{customer:?} {quantity:?}");
        let form = html(&answer);
        assert!(form.contains("role=\"alert\"") && form.contains(part), "{form}");
        assert_eq!(hidden(&form, "customer"), customer);
    }
    assert_eq!(buy(&shop, "a%22b", "Ada", "1").await.status, 400);
    for (path, status) in [("/shoes/x", 404), ("/orders/1", 404), ("/orders/x", 404), ("/?page=0", 400)] {
        let answer = shop.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(html(&answer).contains("role=\"alert\""), "{path}");
    }
    assert_eq!(shop.count_orders().await, 0);
}

async fn no_text_is_ever_run(data: Data) {
    let shop = Running::start(&data);
    data.run("UPDATE products SET name = '<script>alert(\"1\")</script> & more' WHERE id = 1").await;
    let safe = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; more";
    for path in ["/", "/shoes/SHOE-00001"] {
        assert!(html(&shop.get(path).await).contains(safe), "{path}");
    }
    let typed = html(&shop.get("/?q=%22%3E%3Cscript%3Ea").await);
    assert!(typed.contains("value=\"&quot;&gt;&lt;script&gt;a\""), "{typed}");
    let again = html(&buy(&shop, "abc", "%22%3E%3Cscript%3Ea", "%22%3E%3Cscript%3E").await);
    assert!(again.contains("value=\"&quot;&gt;&lt;script&gt;a\""), "{again}");
}

on_each_database! {
    a_shoe_is_found_and_bought,
    a_mistake_brings_the_form_back,
    no_text_is_ever_run,
}
