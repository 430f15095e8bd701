//! Orders: what a valid one is, taking one, and finding them again.

use serde::Serialize;
use serde_json::Value;

use crate::clock;
use crate::database::{Connection, Error, Row, Value as Parameter};

/// The longest customer, reference or SKU, in characters.
const TEXT_LIMIT: usize = 100;
/// The most lines in one order.
const ITEMS_LIMIT: usize = 50;
/// The most pieces of one product in one order.
const QUANTITY_LIMIT: i64 = 99;
/// The most orders one reference finds. The reference is the customer's own, so a careless one could name
/// every order there is.
const FOUND_LIMIT: i64 = 1_000;
/// What orders are taken in.
const CURRENCY: &str = "EUR";

/// An order that was checked but not yet taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewOrder {
    customer: String,
    reference: String,
    items: Vec<NewItem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NewItem {
    sku: String,
    quantity: i64,
}

/// An order that was taken.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Order {
    pub(crate) id: i64,
    #[serde(rename = "ref")]
    pub(crate) reference: String,
    pub(crate) customer: String,
    pub(crate) items: Vec<Item>,
    /// In cents.
    total: i64,
    /// When it was taken, RFC 3339 in UTC.
    pub(crate) created: String,
    /// Of `total` and prices, when the release knows it.
    #[serde(skip)]
    currency: Option<String>,
    /// Cancelled orders are shown to nobody.
    #[serde(skip)]
    cancelled: bool,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) quantity: i64,
    /// Of one piece, in cents, when the order was taken.
    pub(crate) price: i64,
}

impl Order {
    /// What it costs, in cents, and in which currency when the release knows it.
    pub(crate) fn total(&self) -> (i64, Option<&str>) {
        (self.total, self.currency.as_deref())
    }

    fn is_for(&self, new: &NewOrder) -> bool {
        self.customer == new.customer
            && self.reference == new.reference
            && self.items.len() == new.items.len()
            && self.items.iter().zip(&new.items).all(|(a, b)| a.sku == b.sku && a.quantity == b.quantity)
    }
}

/// A field of an order that is missing or wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct FieldError {
    /// As in `items[0].quantity`.
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl NewOrder {
    /// Checks an order as it came; the first field that is wrong is the error. Unknown fields are ignored.
    pub(crate) fn check(json: &Value) -> Result<Self, FieldError> {
        if !json.is_object() {
            return Err(FieldError::new("", "an order is a JSON object"));
        }
        let customer = text(json, "customer", "customer")?;
        let reference = text(json, "ref", "ref")?;
        let Some(lines) = json.get("items").and_then(Value::as_array) else {
            return Err(FieldError::new("items", "must be a list of {sku, quantity}"));
        };
        if lines.is_empty() || lines.len() > ITEMS_LIMIT {
            let reason = format!("must have 1 to {ITEMS_LIMIT} lines, has {}", lines.len());
            return Err(FieldError::new("items", reason));
        }
        let mut items: Vec<NewItem> = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let sku = text(line, "sku", &format!("items[{index}].sku"))?;
            if items.iter().any(|item| item.sku == sku) {
                let reason = format!("`{sku}` is in this order already; put the quantities together");
                return Err(FieldError::new(format!("items[{index}].sku"), reason));
            }
            items.push(NewItem { sku, quantity: quantity(line, index)? });
        }
        Ok(Self { customer, reference, items })
    }
}

fn text(json: &Value, key: &str, field: &str) -> Result<String, FieldError> {
    let Some(value) = json.get(key).and_then(Value::as_str) else {
        return Err(FieldError::new(field, "must be a text"));
    };
    let length = value.chars().count();
    if value.trim().is_empty() || length > TEXT_LIMIT {
        let reason = format!("must have 1 to {TEXT_LIMIT} characters and not be blank, has {length}");
        return Err(FieldError::new(field, reason));
    }
    // PostgreSQL cannot keep it.
    if value.contains('\0') {
        return Err(FieldError::new(field, "must not have a NUL character"));
    }
    Ok(value.to_owned())
}

fn quantity(line: &Value, index: usize) -> Result<i64, FieldError> {
    match line.get("quantity").and_then(Value::as_i64) {
        Some(quantity @ 1..=QUANTITY_LIMIT) => Ok(quantity),
        Some(_) | None => {
            let reason = format!("must be a whole number from 1 to {QUANTITY_LIMIT}");
            Err(FieldError::new(format!("items[{index}].quantity"), reason))
        }
    }
}

/// What became of an order that was asked for.
#[derive(Debug)]
pub(crate) enum Placed {
    /// It was taken now.
    New(Order),
    /// It was taken before, under the same idempotency key; this is the first one.
    Before(Order),
}

/// Why an order was not taken. Nothing was changed, unless `Database` says otherwise: a commit that failed
/// on its way to the disk may still be there after a crash.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// A product that does not exist.
    #[error("an item is unknown")]
    Unknown(#[source] FieldError),
    /// Not enough pieces left.
    #[error("only {left} of `{sku}` are left")]
    OutOfStock { sku: String, left: i64 },
    /// The idempotency key belongs to an order with other content.
    #[error("this idempotency key was used for another order")]
    KeyReused,
    /// The order under this idempotency key was cancelled.
    #[error("the order under this idempotency key was cancelled")]
    Cancelled,
    /// Another order took the key at the very moment; looking again finds it.
    #[error("another order took the idempotency key")]
    KeyRaced,
    /// The database failed, stayed locked or cannot be reached.
    #[error("the database failed")]
    Database(#[from] Error),
}

/// Tries to take an order while others take its key; each loses at most one round to each of them.
const KEY_ROUNDS: usize = 3;

/// Takes an order and its pieces out of stock, in one transaction. A `key` that was used before brings back
/// its order; that the column is unique makes this hold between processes too.
pub(crate) fn place(
    connection: &mut Connection,
    new: &NewOrder,
    key: Option<&str>,
) -> Result<Placed, PlaceError> {
    for _ in 1..KEY_ROUNDS {
        match connection.transaction(|transaction| place_once(transaction, new, key)) {
            Err(PlaceError::KeyRaced) => {}
            done => return done,
        }
    }
    connection.transaction(|transaction| place_once(transaction, new, key))
}

fn place_once(transaction: &mut Connection, new: &NewOrder, key: Option<&str>) -> Result<Placed, PlaceError> {
    let sql = transaction.sql();
    if let Some(key) = key
        && let Some(order) = one(transaction, &sql.order_by_key, key.into())?
    {
        return match order {
            order if !order.is_for(new) => Err(PlaceError::KeyReused),
            order if order.cancelled => Err(PlaceError::Cancelled),
            order => Ok(Placed::Before(order)),
        };
    }
    // In the order of their SKUs, as every transaction does: two that take the same products never wait for
    // each other crosswise.
    let mut order: Vec<usize> = (0..new.items.len()).collect();
    order.sort_by_key(|&index| &new.items[index].sku);
    let mut prices = vec![0; new.items.len()];
    for index in order {
        prices[index] = take_from_stock(transaction, index, &new.items[index])?;
    }
    let items = new.items.iter().zip(prices);
    let items = items.map(|(item, price)| Item { sku: item.sku.clone(), quantity: item.quantity, price });
    insert(transaction, new, items.collect(), key)?.map(Placed::New).ok_or(PlaceError::KeyRaced)
}

/// The price of one piece.
fn take_from_stock(transaction: &mut Connection, index: usize, item: &NewItem) -> Result<i64, PlaceError> {
    let sql = transaction.sql();
    let values = [item.quantity.into(), (&item.sku).into()];
    if let Some(price) = transaction.query_first(&sql.take_stock, &values, |row| row.int(0))? {
        return Ok(price);
    }
    let left = transaction.query_first(sql.stock, &[(&item.sku).into()], |row| row.int(0))?;
    Err(match left {
        Some(left) => PlaceError::OutOfStock { sku: item.sku.clone(), left },
        None => {
            let reason = format!("there is no product `{}`", item.sku);
            PlaceError::Unknown(FieldError::new(format!("items[{index}].sku"), reason))
        }
    })
}

/// `None` when the key is taken.
fn insert(
    transaction: &mut Connection,
    new: &NewOrder,
    items: Vec<Item>,
    key: Option<&str>,
) -> Result<Option<Order>, Error> {
    let sql = transaction.sql();
    let total = items.iter().map(|item| item.price * item.quantity).sum::<i64>();
    let created = clock::now();
    let values = [
        (&new.reference).into(),
        (&new.customer).into(),
        total.into(),
        (&created).into(),
        key.into(),
        CURRENCY.into(),
    ];
    let values = if sql.has_currency { &values[..] } else { &values[..5] };
    let Some(id) = transaction.query_first(sql.insert_order, values, |row| row.int(0))? else {
        return Ok(None);
    };
    for (position, item) in (0_i64..).zip(&items) {
        let values =
            [id.into(), position.into(), (&item.sku).into(), item.quantity.into(), item.price.into()];
        transaction.execute(sql.insert_item, &values)?;
    }
    Ok(Some(Order {
        id,
        reference: new.reference.clone(),
        customer: new.customer.clone(),
        items,
        total,
        created,
        currency: sql.has_currency.then(|| CURRENCY.to_owned()),
        cancelled: false,
    }))
}

/// Cancels an order and gives its pieces back, in one transaction; an order that is cancelled already stays
/// so. Whether there is such an order.
pub(crate) fn cancel(connection: &mut Connection, id: i64) -> Result<bool, Error> {
    connection.transaction(|transaction| {
        let sql = transaction.sql();
        let now = clock::now();
        if transaction.query_first(sql.cancel, &[(&now).into(), id.into()], |row| row.int(0))?.is_none() {
            return Ok(one(transaction, &sql.order_by_id, id.into())?.is_some());
        }
        let mut items = items(transaction, id)?;
        items.sort_by(|a, b| a.sku.cmp(&b.sku));
        for item in items {
            transaction.execute(sql.give_stock, &[item.quantity.into(), (&item.sku).into()])?;
        }
        transaction.execute(sql.drop_mail, &[id.into()])?;
        Ok(true)
    })
}

/// The order with this number, unless it is cancelled.
pub(crate) fn by_id(connection: &mut Connection, id: i64) -> Result<Option<Order>, Error> {
    let sql = connection.sql();
    Ok(one(connection, &sql.order_by_id, id.into())?.filter(|order| !order.cancelled))
}

/// Cancelled or not.
fn one(connection: &mut Connection, sql: &str, value: Parameter<'_>) -> Result<Option<Order>, Error> {
    let Some(mut order) = connection.query_first(sql, &[value], head)? else { return Ok(None) };
    order.items = items(connection, order.id)?;
    Ok(Some(order))
}

/// The orders with this reference, oldest first, at most [`FOUND_LIMIT`] of them, without the cancelled ones.
pub(crate) fn by_reference(connection: &mut Connection, reference: &str) -> Result<Vec<Order>, Error> {
    if reference.contains('\0') {
        return Ok(Vec::new());
    }
    let sql = connection.sql();
    let mut orders = connection.query(&sql.orders_by_ref, &[reference.into(), FOUND_LIMIT.into()], head)?;
    for order in &mut orders {
        order.items = items(connection, order.id)?;
    }
    Ok(orders)
}

/// How many orders there are, without the cancelled ones.
pub(crate) fn count(connection: &mut Connection) -> Result<i64, Error> {
    let sql = connection.sql();
    Ok(connection.query_first(sql.count_orders, &[], |row| row.int(0))?.unwrap_or(0))
}

/// An order without its lines.
fn head(row: &Row<'_>) -> Result<Order, Error> {
    Ok(Order {
        id: row.int(0)?,
        reference: row.text(1)?,
        customer: row.text(2)?,
        items: Vec::new(),
        total: row.int(3)?,
        created: row.text(4)?,
        cancelled: row.text_or_null(5)?.is_some(),
        currency: row.text_or_null(6)?,
    })
}

/// The lines of an order never change once they are there, so reading them after the head, outside a
/// transaction, cannot mix two states.
fn items(connection: &mut Connection, order: i64) -> Result<Vec<Item>, Error> {
    let sql = connection.sql();
    connection.query(sql.items, &[order.into()], |row| {
        Ok(Item { sku: row.text(0)?, quantity: row.int(1)?, price: row.int(2)? })
    })
}

#[cfg(test)]
mod tests;
