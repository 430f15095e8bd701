use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::running::{Answer, DEADLINE, Data, Running, command, order, send, wait_until};

fn serve(data: &Data) -> Command {
    let mut command = command(data);
    command.args(["serve", "--port", "0", "--data"]).arg(data.folder());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn processes_that_start_at_once_make_one_database() {
    let data = Data::new();
    let mut shops: Vec<Running> = (0..4).map(|_| Running::spawn(serve(&data))).collect();
    for shop in &mut shops {
        shop.wait_until_listening();
        assert_eq!(shop.get("/api/products").await.json()["pages"], 500);
    }
    let (products, mode): (i64, String) = {
        let database = data.database();
        let products = database.query_row("SELECT count(*) FROM products", (), |row| row.get(0)).unwrap();
        (products, database.query_row("PRAGMA journal_mode", (), |row| row.get(0)).unwrap())
    };
    assert_eq!((products, mode.as_str()), (10_000, "wal"));
}

/// Turning a new file into WAL mode is refused at once while another process writes to it, however patient
/// the connection is; the shop has to insist by itself.
#[tokio::test]
async fn a_new_file_that_is_locked_is_waited_for() {
    let data = Data::new();
    std::fs::create_dir(data.folder()).unwrap();
    std::fs::write(data.folder().join("shop.db"), "").unwrap();
    let lock = data.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut shop = Running::spawn(serve(&data));
    wait_until("it goes to sleep again and again", async || shop.pauses() > 50).await;
    lock.execute_batch("ROLLBACK").unwrap();
    shop.wait_until_listening();
    assert_eq!(shop.get("/readyz").await.status, 200);
}

/// Asks until the order is taken; 503 says that nothing was done, so asking again is safe.
async fn insist(address: SocketAddr, body: String) {
    let until = Instant::now() + DEADLINE;
    loop {
        let answer = send(address, "POST", "/api/orders", &[], body.clone()).await;
        if answer.status == 201 {
            return;
        }
        answer.problem(503);
        assert!(Instant::now() < until, "the order was never taken");
    }
}

#[tokio::test]
async fn two_processes_write_side_by_side() {
    let data = Data::new();
    let (one, two) = (Running::start_release(&data, "v1"), Running::start_release(&data, "v2"));
    let mut asking = JoinSet::new();
    for number in 0..100 {
        let address = if number % 2 == 0 { one.address() } else { two.address() };
        let body = order(&format!("ref-{number}"), "SHOE-00042", 1).to_string();
        asking.spawn(insist(address, body));
    }
    asking.join_all().await;
    assert_eq!((one.count_orders().await, two.count_orders().await), (100, 100));
    assert_eq!(one.get("/api/products/SHOE-00042").await.json()["stock"], 1_000_000 - 100);
    for number in 0..100 {
        let found = two.get(&format!("/api/orders?ref=ref-{number}")).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{number}");
    }
}

#[tokio::test]
async fn orders_survive_a_kill() {
    let data = Data::new();
    let shop = Running::start(&data);
    let taken = shop.post_order(&order("kept", "SHOE-00001", 1)).await.json();
    drop(shop);
    let shop = Running::start_release(&data, "v2");
    assert_eq!(shop.get(&format!("/api/orders/{}", taken["id"])).await.json(), taken);
}

/// `Expect: 100-continue` shows without guessing that the request has arrived: the server sends it when it
/// begins to read the body.
#[tokio::test]
async fn sigterm_answers_what_is_in_flight_and_accepts_no_more() {
    let data = Data::new();
    let mut shop = Running::start(&data);
    let body = order("late", "SHOE-00001", 1).to_string();
    let mut stream = TcpStream::connect(shop.address()).await.unwrap();
    let head = format!(
        "POST /api/orders HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = vec![0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut interim).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{interim:?}");

    // One connection that asks nothing must not hold up the end.
    let idle = TcpStream::connect(shop.address()).await.unwrap();
    shop.terminate();
    shop.wait_for_line("stopping");
    wait_until("it accepts no more", async || TcpStream::connect(shop.address()).await.is_err()).await;

    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(shop.wait_for_exit().await.code(), Some(0));
    drop(idle);

    let shop = Running::start(&data);
    assert_eq!(shop.count_orders().await, 1);
}

/// Sends as many orders at once as the shop can have at work and in line, and one more.
fn fill_the_line(shop: &Running) -> JoinSet<Answer> {
    let mut asking = JoinSet::new();
    for number in 0..1 + 128 + 1 {
        let (address, body) = (shop.address(), order(&format!("r{number}"), "SHOE-00001", 1).to_string());
        asking.spawn(async move { send(address, "POST", "/api/orders", &[], body).await });
    }
    asking
}

#[tokio::test]
async fn a_full_line_is_refused_and_what_was_in_it_is_done() {
    let data = Data::new();
    let shop = Running::start(&data);
    let lock = data.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut asking = fill_the_line(&shop);
    // Nothing can be taken while the lock is held, so the first answer is a refusal.
    let refused = asking.join_next().await.unwrap().unwrap();
    let problem = refused.problem(503);
    assert!(problem["detail"].as_str().unwrap().contains("too many"), "{problem}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(shop.get("/api/products/SHOE-00001").await.status, 200, "reading goes on");
    lock.execute_batch("ROLLBACK").unwrap();

    let mut taken = 0;
    for answer in asking.join_all().await {
        if answer.status == 201 {
            taken += 1;
        } else {
            // A slow disk may let the last ones wait for too long.
            answer.problem(503);
        }
    }
    assert!(taken > 1, "{taken}");
    assert_eq!(shop.count_orders().await, taken);
}

#[tokio::test]
async fn an_order_in_line_counts_even_when_its_customer_hangs_up() {
    let data = Data::new();
    let shop = Running::start(&data);
    let before = shop.open_files();
    let lock = data.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut asking = fill_the_line(&shop);
    // One is refused, so all others are at work or in line.
    asking.join_next().await.unwrap().unwrap().problem(503);
    asking.shutdown().await;
    wait_until("the shop sees them hang up", async || shop.open_files() <= before + 5).await;
    lock.execute_batch("ROLLBACK").unwrap();
    // Not all: a slow disk may let the last ones wait for too long.
    wait_until("their orders are taken", async || shop.count_orders().await > 10).await;
}

#[tokio::test]
async fn a_database_that_stays_locked_is_503_and_takes_nothing() {
    let data = Data::new();
    let shop = Running::start(&data);
    let lock = data.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let wish = order("r", "SHOE-00001", 1);
    let refused = shop.post_order_with_key(&wish, "k").await;
    let problem = refused.problem(503);
    assert!(problem["detail"].as_str().unwrap().contains("busy"), "{problem}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    lock.execute_batch("ROLLBACK").unwrap();
    let answer = shop.post_order_with_key(&wish, "k").await;
    assert_eq!((answer.status.as_u16(), answer.header("idempotent-replayed")), (201, None));
    assert_eq!(shop.count_orders().await, 1);
}

#[test]
fn seeding_is_done_once() {
    let data = Data::new();
    let seed = || command(&data).args(["seed", "--data"]).arg(data.folder()).output().unwrap();
    let first = seed();
    assert!(first.status.success() && stderr(&first).contains("10000 products"), "{first:?}");
    data.database().execute("UPDATE products SET stock = 5 WHERE id = 1", ()).unwrap();
    let second = seed();
    assert!(second.status.success() && stderr(&second).contains("already"), "{second:?}");
    let stock: i64 =
        data.database().query_row("SELECT stock FROM products WHERE id = 1", (), |row| row.get(0)).unwrap();
    assert_eq!(stock, 5);
}

#[test]
fn a_database_of_another_shop_is_refused_by_its_version() {
    let data = Data::new();
    assert!(command(&data).args(["seed", "--data"]).arg(data.folder()).status().unwrap().success());
    data.database().execute_batch("PRAGMA user_version = 7").unwrap();
    let output = serve(&data).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("schema 7"), "{output:?}");
}

#[test]
fn what_cannot_be_started_says_why() {
    let data = Data::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = data.folder();
    let folder = folder.to_str().unwrap();
    let file = data.working_folder().join("file");
    std::fs::write(&file, "text").unwrap();
    let file = file.to_str().unwrap();
    let table: [(&[&str], i32, &str); 8] = [
        (&[], 2, "Usage"),
        (&["serve"], 2, "--port"),
        (&["serve", "--data", folder], 2, "--port"),
        (&["serve", "--port", "0", "--data", folder, "--release", "v9"], 2, "`v9`"),
        (&["serve", "--port", "0", "--data", folder, "--release", file], 2, "`text`"),
        (&["serve", "--port", "0", "--data", folder, "--error-every", "0"], 2, "--error-every"),
        (&["serve", "--port", &port, "--data", folder], 1, &port),
        (&["serve", "--port", "0", "--data", file], 1, file),
    ];
    for (args, code, part) in table {
        let output = command(&data).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(stderr(&output).contains(part), "{args:?}: {output:?}");
    }
}
