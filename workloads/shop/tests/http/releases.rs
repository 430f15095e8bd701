use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::running::{Data, Running, command, order};

const RELEASES: [&str; 10] = [
    "v1",
    "v2",
    "v3-slow",
    "v3-slow-tail",
    "v3-errors",
    "v3-leak",
    "v3-crash",
    "v3-broken",
    "v3-broken-schema",
    "v3-identical",
];

#[tokio::test]
async fn each_release_names_itself_on_every_answer() {
    for release in RELEASES {
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
    for release in RELEASES {
        let status = if release == "v3-broken" { 503 } else { 200 };
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
async fn the_failing_release_fails_every_nth_request_before_the_database() {
    let data = Data::new();
    let shop = Running::start_with(&data, "v3-errors", &["--error-every", "3"]);
    let mut statuses = Vec::new();
    for _ in 0..7 {
        // Neither probes nor pages count.
        assert_eq!(shop.get("/readyz").await.status, 200);
        statuses.push(shop.post_order(&order("r", "SHOE-00001", 1)).await.status.as_u16());
    }
    assert_eq!(statuses, [201, 201, 500, 201, 201, 500, 201]);
    assert_eq!(shop.count_orders().await, 5);
    shop.get("/api/products").await.problem(500);
}

#[tokio::test]
async fn the_failing_release_fails_one_request_in_fifty_unless_told_otherwise() {
    let data = Data::new();
    let shop = Running::start_release(&data, "v3-errors");
    for number in 1..=100 {
        let status = shop.get("/api/products/SHOE-00001").await.status;
        assert_eq!(status.as_u16(), if number % 50 == 0 { 500 } else { 200 }, "{number}");
    }
}

#[tokio::test]
async fn the_slow_release_takes_longer_for_everything() {
    let data = Data::new();
    let shop = Running::start_with(&data, "v3-slow", &["--slow-ms", "150"]);
    for path in ["/healthz", "/", "/api/products"] {
        let since = Instant::now();
        assert_eq!(shop.get(path).await.status, 200);
        assert!(since.elapsed() >= Duration::from_millis(150), "{path}: {:?}", since.elapsed());
    }
}

#[tokio::test]
async fn the_release_with_a_slow_tail_takes_longer_now_and_then() {
    let data = Data::new();
    let shop = Running::start_with(&data, "v3-slow-tail", &["--tail-every", "5", "--tail-ms", "2000"]);
    let mut slow = Vec::new();
    for number in 1..=10 {
        let since = Instant::now();
        assert_eq!(shop.get("/api/products/SHOE-00001").await.status, 200);
        if since.elapsed() >= Duration::from_millis(2000) {
            slow.push(number);
        }
    }
    // That the others are not slow cannot be told by the clock of a busy machine, but by the answers' number.
    assert!(slow.contains(&5) && slow.contains(&10) && slow.len() < 10, "{slow:?}");
}

#[tokio::test]
async fn the_leaking_release_holds_on_to_memory() {
    let data = Data::new();
    let sound = Running::start_release(&data, "v3-identical");
    let leaking = Running::start_with(&data, "v3-leak", &["--leak-bytes", "1000000"]);
    let before = (sound.memory(), leaking.memory());
    for _ in 0..50 {
        assert_eq!(sound.get("/api/products/SHOE-00001").await.status, 200);
        assert_eq!(leaking.get("/api/products/SHOE-00001").await.status, 200);
    }
    let grown = (sound.memory() - before.0, leaking.memory() - before.1);
    assert!(grown.0 < 25_000_000 && grown.1 > 45_000_000, "{grown:?}");
}

#[tokio::test]
async fn the_crashing_release_aborts_after_its_last_answer() {
    use std::os::unix::process::ExitStatusExt as _;
    let data = Data::new();
    let mut shop = Running::start_with(&data, "v3-crash", &["--crash-after", "3"]);
    for _ in 0..3 {
        assert_eq!(shop.get("/readyz").await.status, 200);
        assert_eq!(shop.get("/api/products").await.status, 200);
    }
    let mut stream = std::net::TcpStream::connect(shop.address()).unwrap();
    stream.write_all(b"GET /api/products HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    assert_eq!(shop.wait_for_exit().await.signal(), Some(6));
    let mut answer = Vec::new();
    // A connection may end with a reset too.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty());
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
