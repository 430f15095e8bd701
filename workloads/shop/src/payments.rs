//! `shop payments`: takes money and gives it back. A service of its own, which knows nothing of the shop but
//! its price list.

use std::path::Path as FilePath;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::database::Database;
use crate::http::{Answer, IDEMPOTENT_REPLAYED, Items, bad_body, bad_path, bad_query, idempotency_key};
use crate::mishaps::Mishaps;
use crate::orders::FieldError;
use crate::problem::Problem;
use crate::records::{self, Added, Record};
use crate::serve::{self, Address, ServeError};
use crate::shoes;

/// The largest amount of one charge, in cents.
const AMOUNT_LIMIT: i64 = 100_000_000;

/// Serves until a signal; charges are kept in `payments.db` in `data`, or in memory without it.
pub(crate) fn serve(address: Address, data: Option<&FilePath>, mishaps: Mishaps) -> Result<(), ServeError> {
    let file = data.map(|folder| folder.join("payments.db"));
    let database = Arc::new(Database::small(file.as_deref(), records::SCHEMA)?);
    let router =
        Router::new().route("/charges", get(find).post(charge)).route("/charges/{id}/refund", post(refund));
    let router = mishaps.befall(StatusCode::PAYMENT_REQUIRED, router);
    serve::listen(address, "payments", beside_the_shop(router).with_state(database))
}

/// What every service beside the shop answers too.
pub(crate) fn beside_the_shop(router: Router<Arc<Database>>) -> Router<Arc<Database>> {
    router
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .route("/readyz", get(readyz))
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know that method; see Allow")
        })
        .layer(axum::extract::DefaultBodyLimit::max(crate::http::BODY_LIMIT))
}

async fn readyz(State(database): State<Arc<Database>>) -> Answer {
    database.read(records::check).await??;
    Ok(Json(json!({ "status": "ready" })).into_response())
}

/// Adds a record and answers with it, or with the one that was added before under the same key.
pub(crate) async fn add(
    database: &Database,
    headers: &HeaderMap,
    reference: String,
    body: Value,
    shown: fn(&Record) -> Value,
) -> Answer {
    let key = idempotency_key(headers)?;
    let body = body.to_string();
    let added = database
        .write(move |connection| records::add(connection, &reference, &body, key.as_deref()))
        .await??;
    Ok(match added {
        Added::New(record) => (StatusCode::CREATED, Json(shown(&record))).into_response(),
        Added::Before(record) => {
            let mut response = (StatusCode::CREATED, Json(shown(&record))).into_response();
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            response
        }
        Added::KeyReused => {
            let detail = "this idempotency key was used for something else";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
    })
}

/// The body as JSON.
pub(crate) fn json_of(body: Result<Bytes, BytesRejection>) -> Result<Value, Problem> {
    serde_json::from_slice(&body.map_err(bad_body)?)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))
}

/// A text from 1 to 100 characters.
pub(crate) fn text_of(json: &Value, field: &str) -> Result<String, FieldError> {
    match json.get(field).and_then(Value::as_str) {
        Some(text) if (1..=100).contains(&text.chars().count()) => Ok(text.to_owned()),
        Some(_) | None => Err(FieldError::new(field, "must be a text of 1 to 100 characters")),
    }
}

fn shown(record: &Record) -> Value {
    record.shown("refunded")
}

async fn charge(
    State(database): State<Arc<Database>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let json = json_of(body)?;
    let customer = text_of(&json, "customer")?;
    let reference = if json.get("ref").is_some() { text_of(&json, "ref")? } else { String::new() };
    let amount = amount(&json)?;
    let body = json!({ "customer": customer, "ref": reference, "amount": amount });
    add(&database, &headers, reference, body, shown).await
}

/// The amount asked for, or what the items cost by the list.
fn amount(json: &Value) -> Result<i64, FieldError> {
    if let Some(amount) = json.get("amount") {
        return match amount.as_i64() {
            Some(amount @ 1..=AMOUNT_LIMIT) => Ok(amount),
            Some(_) | None => {
                let reason = format!("must be a whole number of cents from 1 to {AMOUNT_LIMIT}");
                Err(FieldError::new("amount", reason))
            }
        };
    }
    let Some(items) = json.get("items").and_then(Value::as_array).filter(|items| !items.is_empty()) else {
        return Err(FieldError::new(
            "amount",
            "there must be an amount, or items as a list of {sku, quantity}",
        ));
    };
    let mut total = 0;
    for (index, item) in items.iter().enumerate() {
        let price = item.get("sku").and_then(Value::as_str).and_then(shoes::list_price);
        let price = price
            .ok_or_else(|| FieldError::new(format!("items[{index}].sku"), "there is no such product"))?;
        let quantity = item.get("quantity").and_then(Value::as_i64).filter(|n| (1..=99).contains(n));
        let quantity = quantity.ok_or_else(|| {
            FieldError::new(format!("items[{index}].quantity"), "must be a whole number from 1 to 99")
        })?;
        total += price * quantity;
    }
    if total > AMOUNT_LIMIT {
        return Err(FieldError::new("items", format!("cost {total} cents, more than {AMOUNT_LIMIT}")));
    }
    Ok(total)
}

async fn refund(State(database): State<Arc<Database>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(bad_path)?;
    let found = match id.parse() {
        Ok(id) => database.write(move |connection| records::undo(connection, id)).await??,
        Err(_) => None,
    };
    let record = found.ok_or_else(|| Problem::not_found("there is no such charge"))?;
    Ok(Json(shown(&record)).into_response())
}

#[derive(Deserialize)]
struct FindQuery {
    #[serde(rename = "ref")]
    reference: Option<String>,
}

async fn find(
    State(database): State<Arc<Database>>,
    query: Result<Query<FindQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(bad_query)?;
    let Some(reference) = query.reference else {
        return Err(Problem::bad_request("charges are found by their reference: /charges?ref=…"));
    };
    let found = database.read(move |connection| records::by_reference(connection, &reference)).await??;
    Ok(Json(Items { items: found.iter().map(shown).collect() }).into_response())
}
