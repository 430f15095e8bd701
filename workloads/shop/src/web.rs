//! The pages for people: find a shoe, buy it, see the order. They work without JavaScript.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection};
use axum::extract::{Form, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use crate::catalog;
use crate::desk::Progress;
use crate::http::{SEARCH_TEXT_LIMIT, Shared, Shop, page_number};
use crate::orders::{self, NewOrder, PlaceError, Placed};
use crate::page::{self, Buying};
use crate::problem::Problem;

/// The longest one-time key a form brings back, in characters; its own have 32.
const KEY_LIMIT: usize = 64;
/// After how many seconds the page of an order on its way looks again.
const LOOK_AGAIN: u32 = 2;

/// The pages' routes.
pub(crate) fn routes() -> Router<Arc<Shop>> {
    Router::new()
        .route("/", get(front))
        .route("/shoes/{sku}", get(shoe))
        .route("/buy", post(buy))
        .route("/received", get(received))
        .route("/orders/{id}", get(order))
}

/// A problem as a page with the same status.
struct Sorry(Problem);

impl<E: Into<Problem>> From<E> for Sorry {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl axum::response::IntoResponse for Sorry {
    fn into_response(self) -> Response {
        let status = self.0.status();
        let html = Html(page::sorry(status.canonical_reason().unwrap_or("Error"), self.0.detail()));
        // Its headers say when to ask again.
        let mut response = self.0.into_response();
        let retry = response.headers_mut().remove(header::RETRY_AFTER);
        let mut response = (status, html).into_response();
        if let Some(retry) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, retry);
        }
        response
    }
}

type Page = Result<Response, Sorry>;

#[derive(Deserialize)]
struct FrontQuery {
    q: Option<String>,
    page: Option<String>,
}

async fn front(State(shop): Shared, query: Result<Query<FrontQuery>, QueryRejection>) -> Page {
    let Query(query) = query.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let text = query.q.unwrap_or_default();
    if text.trim().is_empty() {
        let number = page_number(query.page.as_deref().unwrap_or("1"))?;
        let found = shop.database.read(move |connection| catalog::page(connection, number)).await??;
        return Ok(Html(page::catalogue(&found.items, number, found.pages)).into_response());
    }
    if text.chars().count() > SEARCH_TEXT_LIMIT {
        let detail = format!("what is searched for has at most {SEARCH_TEXT_LIMIT} characters");
        return Err(Problem::bad_request(detail).into());
    }
    let words = text.clone();
    let found = shop.database.read(move |connection| catalog::search(connection, &words)).await??;
    Ok(Html(page::found(&found, &text)).into_response())
}

async fn shoe(State(shop): Shared, sku: Result<Path<String>, PathRejection>) -> Page {
    let Path(sku) = sku.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let buying = Buying { key: one_time_key()?, customer: String::new(), quantity: "1".to_owned() };
    show_shoe(&shop, sku, buying, None).await
}

/// The page of a shoe with its form, and with what was wrong with the form last time.
async fn show_shoe(shop: &Shop, sku: String, buying: Buying, wrong: Option<&Problem>) -> Page {
    let found = shop.database.read(move |connection| catalog::product(connection, &sku)).await??;
    let product = found.ok_or_else(|| Problem::not_found("there is no such shoe"))?;
    let status = wrong.map_or(StatusCode::OK, Problem::status);
    let html = page::shoe(&product, shop.currency(), &buying, wrong.map(Problem::detail));
    // Each form has a key of its own, so no copy of it may be handed to somebody else.
    Ok((status, [(header::CACHE_CONTROL, "no-store")], Html(html)).into_response())
}

/// 128 random bits: the form that is sent twice is one order.
fn one_time_key() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        crate::log(&format!("no random numbers: {error}"));
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the shop is broken")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[derive(Deserialize)]
struct BuyForm {
    sku: String,
    customer: String,
    quantity: String,
    key: String,
}

/// Takes the order and leads to its page; a form with a mistake comes back with what was typed.
async fn buy(State(shop): Shared, form: Result<Form<BuyForm>, FormRejection>) -> Page {
    let Form(form) = form.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let own = form.key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !own || !(1..=KEY_LIMIT).contains(&form.key.len()) {
        return Err(
            Problem::bad_request("the form is not one of this shop's; please open the shoe again").into()
        );
    }
    let quantity = form.quantity.trim().parse::<i64>().ok();
    let reference = format!("web-{}", form.key);
    let wish = json!({
        "customer": form.customer.trim(),
        "ref": reference,
        "items": [{ "sku": form.sku, "quantity": quantity }],
    });
    let key = reference.clone();
    let placed = match (NewOrder::check(&wish), &shop.desk) {
        (Err(error), _) => Err(Problem::from(error)),
        (Ok(_), Some(desk)) => desk.hand_in(&wish, &key).await,
        (Ok(new), None) => {
            let placed =
                shop.database.write(move |connection| orders::place(connection, &new, Some(&key))).await?;
            let placed = placed.map(|placed| match placed {
                Placed::New(order) | Placed::Before(order) => Progress::Taken(order.id),
            });
            placed.map_err(|error| match error {
                PlaceError::KeyReused | PlaceError::Cancelled => Problem::new(
                    StatusCode::CONFLICT,
                    "This form was used for an order already. Press Buy to order once more.",
                ),
                PlaceError::Unknown(_)
                | PlaceError::OutOfStock { .. }
                | PlaceError::KeyRaced
                | PlaceError::Database(_) => error.into(),
            })
        }
    };
    match placed {
        Ok(progress) => Ok(see(&progress)),
        Err(problem) if problem.status().is_client_error() => {
            // Nothing was taken under the old key, so a new one cannot make two orders out of one.
            let buying = Buying { key: one_time_key()?, customer: form.customer, quantity: form.quantity };
            show_shoe(&shop, form.sku, buying, Some(&problem)).await
        }
        Err(problem) => Err(problem.into()),
    }
}

/// Leads to what there is to see of an order.
fn see(progress: &Progress) -> Response {
    let place = match progress {
        Progress::Taken(id) => format!("/orders/{id}"),
        Progress::Received(path) => format!("/received?order={}", encoded(path)),
    };
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

/// A text as it may stand in a query (RFC 3986, 3.4): everything else but what is unreserved is encoded.
fn encoded(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[derive(Deserialize)]
struct ReceivedQuery {
    order: String,
}

/// An order on its way, until it leads to the order itself.
async fn received(State(shop): Shared, query: Result<Query<ReceivedQuery>, QueryRejection>) -> Page {
    let Query(query) = query.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let Some(desk) = &shop.desk else {
        return Err(Problem::not_found("orders are taken at once here").into());
    };
    match desk.progress(&query.order).await? {
        taken @ Progress::Taken(_) => Ok(see(&taken)),
        Progress::Received(_) => {
            Ok(([(header::CACHE_CONTROL, "no-store")], Html(page::received(LOOK_AGAIN))).into_response())
        }
    }
}

async fn order(State(shop): Shared, id: Result<Path<String>, PathRejection>) -> Page {
    let Path(id) = id.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let found = match id.parse() {
        Ok(id) => shop.database.read(move |connection| orders::by_id(connection, id)).await??,
        Err(_) => None,
    };
    let order = found.ok_or_else(|| Problem::not_found("there is no such order"))?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Html(page::order(&order))).into_response())
}
