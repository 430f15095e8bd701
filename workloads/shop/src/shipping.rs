//! `shop shipping`: makes labels for parcels and takes them back. A service of its own.

use std::path::Path as FilePath;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::database::Database;
use crate::http::{Answer, Items, bad_path, bad_query};
use crate::mishaps::Mishaps;
use crate::payments::{add, beside_the_shop, json_of, text_of};
use crate::problem::Problem;
use crate::records::{self, Record};
use crate::serve::{self, Address, ServeError};

/// Serves until a signal; labels are kept in `shipping.db` in `data`, or in memory without it.
pub(crate) fn serve(address: Address, data: Option<&FilePath>, mishaps: Mishaps) -> Result<(), ServeError> {
    let file = data.map(|folder| folder.join("shipping.db"));
    let database = Arc::new(Database::small(file.as_deref(), records::SCHEMA)?);
    let router =
        Router::new().route("/labels", get(find).post(make)).route("/labels/{id}", delete(take_back));
    let router = mishaps.befall(StatusCode::CONFLICT, router);
    serve::listen(address, "shipping", beside_the_shop(router).with_state(database))
}

fn shown(record: &Record) -> Value {
    record.shown("cancelled")
}

/// Orders are numbers to the shop; a text is as good.
async fn make(
    State(database): State<Arc<Database>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let json = json_of(body)?;
    let order = match json.get("order").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => text_of(&json, "order")?,
    };
    let mut body = json!({ "order": json["order"] });
    if json.get("ref").is_some() {
        body["ref"] = text_of(&json, "ref")?.into();
    }
    add(&database, &headers, order, body, shown).await
}

async fn take_back(State(database): State<Arc<Database>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(bad_path)?;
    let found = match id.parse() {
        Ok(id) => database.write(move |connection| records::undo(connection, id)).await??,
        Err(_) => None,
    };
    found.ok_or_else(|| Problem::not_found("there is no such label"))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct FindQuery {
    order: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
}

/// Labels that were taken back are gone.
async fn find(
    State(database): State<Arc<Database>>,
    query: Result<Query<FindQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(bad_query)?;
    let found = match (query.order, query.reference) {
        (Some(order), None) => {
            database.read(move |connection| records::by_reference(connection, &order)).await??
        }
        (None, Some(reference)) => {
            database.read(move |connection| records::by_customers_reference(connection, &reference)).await??
        }
        (Some(_), Some(_)) | (None, None) => {
            let detail =
                "labels are found by their order or their reference: /labels?order=… or /labels?ref=…";
            return Err(Problem::bad_request(detail));
        }
    };
    let items = found.iter().filter(|record| !record.undone).map(shown).collect();
    Ok(Json(Items { items }).into_response())
}
