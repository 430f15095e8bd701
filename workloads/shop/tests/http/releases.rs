use crate::running::{Data, Running, command, order};

#[tokio::test]
async fn each_release_names_itself_on_every_answer() {
    for release in ["v1", "v2", "v3-broken", "v3-errors"] {
        let data = Data::new();
        let shop = Running::start_release(&data, release);
        for path in ["/", "/healthz", "/readyz", "/api/products", "/api/products/x", "/nothing"] {
            assert_eq!(shop.get(path).await.header("x-shop-release"), Some(release), "{path}");
        }
    }
}

#[tokio::test]
async fn only_from_v2_on_products_have_a_currency() {
    let data = Data::new();
    let (one, two) = (Running::start_release(&data, "v1"), Running::start_release(&data, "v2"));
    for path in ["/api/products?page=2", "/api/products/search?q=boot"] {
        assert_eq!(one.get(path).await.json()["items"][0].get("currency"), None, "{path}");
        assert_eq!(two.get(path).await.json()["items"][0]["currency"], "EUR", "{path}");
    }
    let mut product = two.get("/api/products/SHOE-00009").await.json();
    assert_eq!(product["currency"], "EUR");
    product.as_object_mut().unwrap().remove("currency");
    assert_eq!(product, one.get("/api/products/SHOE-00009").await.json());
}

#[tokio::test]
async fn all_are_healthy_and_all_but_the_broken_one_get_ready() {
    for (release, status) in [("v1", 200), ("v2", 200), ("v3-broken", 503), ("v3-errors", 200)] {
        let data = Data::new();
        let shop = Running::start_release(&data, release);
        assert_eq!(shop.get("/healthz").await.status, 200, "{release}");
        let ready = shop.get("/readyz").await;
        assert_eq!(ready.status, status, "{release}");
        if status == 503 {
            assert_eq!(ready.problem(503)["detail"], "starting");
        }
    }
}

#[tokio::test]
async fn a_shop_whose_tables_are_gone_is_alive_but_not_ready() {
    let data = Data::new();
    let shop = Running::start(&data);
    data.database().execute("ALTER TABLE products RENAME TO elsewhere", ()).unwrap();
    assert_eq!(shop.get("/healthz").await.status, 200);
    assert!(shop.get("/readyz").await.status.is_server_error());
}

#[tokio::test]
async fn the_failing_release_fails_every_order_before_the_database() {
    let data = Data::new();
    let shop = Running::start_release(&data, "v3-errors");
    for _ in 0..3 {
        shop.post_order(&order("r", "SHOE-00001", 1)).await.problem(500);
    }
    assert_eq!(shop.count_orders().await, 0);
}

#[tokio::test]
async fn the_failing_release_can_fail_every_nth_order() {
    let data = Data::new();
    let mut command = command(&data);
    command.args(["serve", "--port", "0", "--release", "v3-errors", "--data"]).arg(data.folder());
    let mut shop = Running::spawn({
        command.env("SHOP_ERROR_EVERY", "3");
        command
    });
    shop.wait_until_listening();
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(shop.post_order(&order("r", "SHOE-00001", 1)).await.status.as_u16());
    }
    assert_eq!(statuses, [201, 201, 500, 201, 201, 500, 201]);
    assert_eq!(shop.count_orders().await, 5);
}

#[tokio::test]
async fn the_release_and_the_rest_may_come_from_the_surroundings() {
    let data = Data::new();
    std::fs::write(data.working_folder().join("release"), "v2\n").unwrap();
    let mut command = command(&data);
    command.arg("serve").env("PORT", "0").env("SHOP_DATA", data.folder());
    let mut shop = Running::spawn(command);
    shop.wait_until_listening();
    assert_eq!(shop.get("/healthz").await.header("x-shop-release"), Some("v2"));
    assert!(data.folder().join("shop.db").exists());
}
