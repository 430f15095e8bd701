//! The routes: from HTTP to the catalogue and the orders, and back.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalog::{self, Product};
use crate::database::Database;
use crate::desk::Desk;
use crate::failings::Failings;
use crate::mishaps::Mishaps;
use crate::orders::{self, NewOrder, Order, Placed};
use crate::problem::Problem;
use crate::release::Release;
use crate::web;

/// The largest body read, in bytes; a larger one is answered with 413.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;
/// The longest idempotency key, in bytes.
const KEY_LIMIT: usize = 255;
/// The longest text searched for, in characters.
pub(crate) const SEARCH_TEXT_LIMIT: usize = 200;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const SHOP_RELEASE: HeaderName = HeaderName::from_static("x-shop-release");

/// What every request shares.
pub(crate) struct Shop {
    pub(crate) database: Database,
    /// Where forms hand orders in, when not here.
    pub(crate) desk: Option<Desk>,
    release: Release,
    failings: Failings,
}

impl Shop {
    pub(crate) fn new(database: Database, release: Release, failings: Failings, desk: Option<Desk>) -> Self {
        Self { database, desk, release, failings }
    }

    /// The currency of its prices, when the release knows it.
    pub(crate) fn currency(&self) -> Option<&'static str> {
        self.release.currency()
    }

    fn show<'a>(&self, products: &'a [Product]) -> Vec<Shown<'a>> {
        products.iter().map(|product| self.show_one(product)).collect()
    }

    fn show_one<'a>(&self, product: &'a Product) -> Shown<'a> {
        Shown { product, currency: self.release.currency() }
    }
}

/// A product as this release shows it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    product: &'a Product,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'static str>,
}

#[derive(Serialize)]
struct ShownPage<'a> {
    items: Vec<Shown<'a>>,
    page: i64,
    pages: i64,
}

/// A list as it is answered.
#[derive(Serialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
}

type Routes<const N: usize> = [(&'static str, &'static [&'static str], MethodRouter<Arc<Shop>>); N];

/// The routes below `/api` with their methods, which `openapi.json` names too.
fn api() -> Routes<6> {
    [
        ("/api/products", &["get"], get(list_products)),
        ("/api/products/search", &["get"], get(search_products)),
        ("/api/products/{sku}", &["get"], get(show_product)),
        ("/api/orders", &["get", "post"], get(find_orders).post(place_order)),
        ("/api/orders/count", &["get"], get(count_orders)),
        ("/api/orders/{id}", &["get", "delete"], get(show_order).delete(cancel_order)),
    ]
}

/// All routes of the shop; every answer says in `X-Shop-Release` which release gave it.
pub(crate) fn router(shop: Arc<Shop>, mishaps: Mishaps) -> Router {
    let name = HeaderValue::from_static(shop.release.name());
    let mut routes = web::routes()
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/openapi.json", get(openapi));
    let mut orders = Router::new();
    for (path, _, methods) in api() {
        orders = orders.route(path, methods);
    }
    routes = routes.merge(mishaps.befall(StatusCode::CONFLICT, orders));
    let routes = routes
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know that method; see Allow")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT));
    shop.failings
        .spoil(shop.release, routes)
        .layer(map_response(move |mut response: Response| {
            response.headers_mut().insert(SHOP_RELEASE, name.clone());
            std::future::ready(response)
        }))
        .with_state(shop)
}

pub(crate) type Shared = State<Arc<Shop>>;
pub(crate) type Answer = Result<Response, Problem>;

/// Whether requests can be served: the database answers, and the release is not one that never gets ready.
async fn readyz(State(shop): Shared) -> Answer {
    if shop.release == Release::V3Broken {
        return Err(Problem::unavailable("starting"));
    }
    shop.database.read(catalog::highest).await??;
    Ok(Json(json!({ "status": "ready" })).into_response())
}

/// Whether the process is alive; asks nothing else, so that a slow database does not get it restarted.
async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// What is below `/api`, for programs (OpenAPI 3.1).
const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[derive(Deserialize)]
struct PageQuery {
    page: Option<String>,
}

async fn list_products(State(shop): Shared, query: Result<Query<PageQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(bad_query)?;
    let number = page_number(query.page.as_deref().unwrap_or("1"))?;
    let page = shop.database.read(move |connection| catalog::page(connection, number)).await??;
    let shown = ShownPage { items: shop.show(&page.items), page: number, pages: page.pages };
    Ok(Json(shown).into_response())
}

/// A page of the catalogue, from 1.
pub(crate) fn page_number(text: &str) -> Result<i64, Problem> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        Ok(_) | Err(_) => {
            Err(Problem::bad_request(format!("page must be a whole number from 1, is `{text}`")))
        }
    }
}

#[derive(Deserialize)]
struct SearchQuery {
    q: Option<String>,
}

async fn search_products(State(shop): Shared, query: Result<Query<SearchQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(bad_query)?;
    let text = query.q.unwrap_or_default();
    let length = text.chars().count();
    if text.trim().is_empty() || length > SEARCH_TEXT_LIMIT {
        let detail =
            format!("q must have 1 to {SEARCH_TEXT_LIMIT} characters and not be blank, has {length}");
        return Err(Problem::bad_request(detail));
    }
    let found = shop.database.read(move |connection| catalog::search(connection, &text)).await??;
    Ok(Json(Items { items: shop.show(&found) }).into_response())
}

async fn show_product(State(shop): Shared, sku: Result<Path<String>, PathRejection>) -> Answer {
    let Path(sku) = sku.map_err(bad_path)?;
    let found = shop.database.read(move |connection| catalog::product(connection, &sku)).await??;
    let product = found.ok_or_else(|| Problem::not_found("there is no such product"))?;
    Ok(Json(shop.show_one(&product)).into_response())
}

/// The order of checks is the order of cost: headers, body, fields, database.
async fn place_order(State(shop): Shared, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Answer {
    let key = idempotency_key(&headers)?;
    let body = body.map_err(bad_body)?;
    let json: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    let new = NewOrder::check(&json)?;
    let placed =
        shop.database.write(move |connection| orders::place(connection, &new, key.as_deref())).await??;
    Ok(match placed {
        Placed::New(order) => created(&order),
        Placed::Before(order) => {
            let mut response = created(&order);
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            response
        }
    })
}

fn created(order: &Order) -> Response {
    let location = format!("/api/orders/{}", order.id);
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(order)).into_response()
}

/// The key in the headers, if there is one; anything but one good key is refused.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=KEY_LIMIT).contains(&key.len()) && keys.next().is_none() => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => Err(Problem::bad_request(format!(
            "Idempotency-Key must be there once, with 1 to {KEY_LIMIT} visible ASCII characters"
        ))),
    }
}

#[derive(Deserialize)]
struct OrdersQuery {
    #[serde(rename = "ref")]
    reference: Option<String>,
}

async fn find_orders(State(shop): Shared, query: Result<Query<OrdersQuery>, QueryRejection>) -> Answer {
    let Query(query) = query.map_err(bad_query)?;
    let Some(reference) = query.reference else {
        return Err(Problem::bad_request("orders are found by their reference: /api/orders?ref=…"));
    };
    let found = shop.database.read(move |connection| orders::by_reference(connection, &reference)).await??;
    Ok(Json(Items { items: found }).into_response())
}

async fn count_orders(State(shop): Shared) -> Answer {
    let count = shop.database.read(orders::count).await??;
    Ok(Json(json!({ "count": count })).into_response())
}

async fn show_order(State(shop): Shared, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(bad_path)?;
    // Whatever is not a number is the number of no order.
    let found = match id.parse() {
        Ok(id) => shop.database.read(move |connection| orders::by_id(connection, id)).await??,
        Err(_) => None,
    };
    let order = found.ok_or_else(|| Problem::not_found("there is no such order"))?;
    Ok(Json(order).into_response())
}

async fn cancel_order(State(shop): Shared, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(bad_path)?;
    let found = match id.parse() {
        Ok(id) => shop.database.write(move |connection| orders::cancel(connection, id)).await??,
        Err(_) => false,
    };
    if !found {
        return Err(Problem::not_found("there is no such order"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) fn bad_query(rejection: QueryRejection) -> Problem {
    Problem::new(rejection.status(), rejection.body_text())
}

pub(crate) fn bad_path(rejection: PathRejection) -> Problem {
    Problem::new(rejection.status(), rejection.body_text())
}

pub(crate) fn bad_body(rejection: BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(rejection.status(), format!("a body has at most {BODY_LIMIT} bytes"));
    }
    Problem::new(rejection.status(), rejection.body_text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_openapi_document_names_every_route_with_its_statuses() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        let served: BTreeSet<(String, String)> = api()
            .into_iter()
            .flat_map(|(path, methods, _)| {
                methods.iter().map(|method| (path.to_owned(), (*method).to_owned()))
            })
            .collect();
        let mut named = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                named.insert((path.clone(), method.clone()));
                let statuses = operation["responses"].as_object().unwrap();
                assert!(statuses.keys().any(|status| status.starts_with('2')), "{method} {path}");
                for always in ["500", "503"] {
                    assert!(statuses.contains_key(always), "{method} {path}: {always}");
                }
            }
        }
        assert_eq!(named, served);
    }

    /// A reference that leads nowhere makes the whole document useless to a program.
    #[test]
    fn every_reference_of_the_openapi_document_leads_somewhere() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut left = vec![&document];
        let mut seen = 0;
        while let Some(value) = left.pop() {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
                seen += 1;
            }
            left.extend(value.as_object().into_iter().flat_map(|object| object.values()));
            left.extend(value.as_array().into_iter().flatten());
        }
        assert!(seen > 10, "{seen}");
    }
}
