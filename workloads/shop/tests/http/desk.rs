//! Forms that hand orders in elsewhere, where they may be accepted first and taken later.

#![expect(clippy::unwrap_used, reason = "this plays a service in a test, which fails when it does")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::running::{Answer, Data, Running, order, send};

/// What the desk says of the order it has accepted.
#[derive(Clone, Debug)]
enum Says {
    Waiting,
    Busy,
    Taken(i64),
    Refused,
    Dead,
}

#[derive(Debug)]
struct Desk {
    says: Says,
    handed_in: Vec<(Option<String>, Value)>,
}

type Shared = Arc<Mutex<Desk>>;

async fn hand_in(State(desk): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
    desk.lock().unwrap().handed_in.push((key, serde_json::from_str(&body).unwrap()));
    (StatusCode::ACCEPTED, [(header::LOCATION, "/jobs/1-a?x=1")], "{}").into_response()
}

async fn job(State(desk): State<Shared>) -> Response {
    match desk.lock().unwrap().says {
        Says::Waiting => json!({ "state": "waiting" }).to_string().into_response(),
        Says::Busy => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Says::Dead => json!({ "state": "dead" }).to_string().into_response(),
        Says::Taken(_) | Says::Refused => {
            (StatusCode::SEE_OTHER, [(header::LOCATION, "/jobs/1-a/response")]).into_response()
        }
    }
}

async fn response(State(desk): State<Shared>) -> Response {
    match desk.lock().unwrap().says {
        Says::Taken(id) => (StatusCode::CREATED, json!({ "id": id }).to_string()).into_response(),
        Says::Waiting | Says::Busy | Says::Refused | Says::Dead => {
            (StatusCode::CONFLICT, json!({ "detail": "only 0 of it are left" }).to_string()).into_response()
        }
    }
}

/// A desk that accepts everything; it ends with the set.
async fn desk() -> (Shared, SocketAddr, JoinSet<()>) {
    let desk = Arc::new(Mutex::new(Desk { says: Says::Waiting, handed_in: Vec::new() }));
    let router = Router::new()
        .route("/api/orders", post(hand_in))
        .route("/jobs/1-a", get(job))
        .route("/jobs/1-a/response", get(response))
        .with_state(Arc::clone(&desk));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (desk, address, serving)
}

async fn buy(shop: &Running, quantity: u32) -> Answer {
    let form = format!("key=abc&sku=SHOE-00001&customer=ada&quantity={quantity}");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    send(shop.address(), "POST", "/buy", &headers, form).await
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

fn shop_with(data: &Data, desk: SocketAddr) -> Running {
    Running::start_with(data, "v2", &["--orders-url", &format!("http://{desk}")])
}

#[tokio::test]
async fn an_order_is_received_first_and_its_page_becomes_the_order() {
    let data = Data::new();
    let (desk, address, _serving) = desk().await;
    let shop = shop_with(&data, address);
    let id = shop.post_order(&order("r", "SHOE-00001", 1)).await.json()["id"].as_i64().unwrap();
    let answer = buy(&shop, 2).await;
    let place = answer.header("location").unwrap();
    assert_eq!((answer.status.as_u16(), place), (303, "/received?order=/jobs/1-a%3Fx%3D1"));
    let expected = json!({
        "customer": "ada", "ref": "web-abc", "items": [{ "sku": "SHOE-00001", "quantity": 2 }],
    });
    assert_eq!(desk.lock().unwrap().handed_in, [(Some("web-abc".to_owned()), expected)]);
    for says in [Says::Waiting, Says::Busy] {
        desk.lock().unwrap().says = says.clone();
        let page = shop.get(place).await;
        assert_eq!((page.status.as_u16(), page.header("cache-control")), (200, Some("no-store")));
        let html = text(&page);
        assert!(html.contains("Order received") && !html.contains("<script"), "{says:?} {html}");
        assert!(html.contains("<meta http-equiv=\"refresh\" content=\"2\">"), "{html}");
    }
    desk.lock().unwrap().says = Says::Taken(id);
    let page = shop.get(place).await;
    assert_eq!((page.status.as_u16(), page.header("location")), (303, Some("/orders/1")));
    assert!(text(&shop.get("/orders/1").await).contains("Your order was taken"));
    assert_eq!(shop.count_orders().await, 1, "the shop itself took none from the form");
}

#[tokio::test]
async fn an_order_that_is_not_taken_after_all_says_so() {
    let data = Data::new();
    let (desk, address, _serving) = desk().await;
    let shop = shop_with(&data, address);
    // What became of a charge is not known of one that is dead.
    for (says, part) in [(Says::Refused, "only 0 of it are left"), (Says::Dead, "is looking into it")] {
        desk.lock().unwrap().says = says;
        let page = shop.get("/received?order=/jobs/1-a").await;
        assert_eq!(page.status, 409);
        assert!(text(&page).contains(part), "{}", text(&page));
    }
    for bad in ["/received", "/received?order=jobs", "/received?order=/a%20b"] {
        assert_eq!(shop.get(bad).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_desk_that_is_another_shop_takes_orders_at_once_and_refuses_what_it_would() {
    let (data, other) = (Data::new(), Data::new());
    let back = Running::start(&other);
    let front = shop_with(&data, back.address());
    let answer = buy(&front, 2).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/orders/1")));
    assert_eq!((back.count_orders().await, front.count_orders().await), (1, 0));
    // Another order under the same key.
    let answer = buy(&front, 3).await;
    assert_eq!(answer.status, 422);
    assert!(text(&answer).contains("used for another order"), "{}", text(&answer));
}

#[tokio::test]
async fn without_its_desk_a_form_is_not_taken_and_an_order_stays_on_its_way() {
    let data = Data::new();
    let (_, address, serving) = desk().await;
    let shop = shop_with(&data, address);
    drop(serving);
    let answer = buy(&shop, 1).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("1")));
    assert!(text(&shop.get("/received?order=/jobs/1-a").await).contains("Order received"));
    // And where orders are taken at once, none is ever on its way.
    let data = Data::new();
    let alone = Running::start_with(&data, "v1", &["--orders-url", ""]);
    assert_eq!(alone.get("/received?order=/jobs/1-a").await.status, 404);
}
