//! Orders: what a valid one is, taking one, and finding them again.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior};
use serde::Serialize;
use serde_json::Value;

/// The longest customer, reference or SKU, in characters.
const TEXT_LIMIT: usize = 100;
/// The most lines in one order.
const ITEMS_LIMIT: usize = 50;
/// The most pieces of one product in one order.
const QUANTITY_LIMIT: i64 = 99;
/// The most orders one reference finds. The reference is the customer's own, so a careless one could name
/// every order there is.
const FOUND_LIMIT: i64 = 1_000;

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
    reference: String,
    customer: String,
    items: Vec<Item>,
    /// In cents.
    total: i64,
    /// When it was taken, RFC 3339 in UTC.
    created: String,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize)]
struct Item {
    sku: String,
    quantity: i64,
    /// Of one piece, in cents, when the order was taken.
    price: i64,
}

impl Order {
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
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
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
    /// SQLite failed or stayed locked.
    #[error("the database failed")]
    Database(#[from] rusqlite::Error),
}

/// Takes an order and its pieces out of stock, in one transaction. A `key` that was used before brings back
/// its order; that the column is unique makes this hold between processes too.
pub(crate) fn place(
    connection: &mut Connection,
    new: &NewOrder,
    key: Option<&str>,
) -> Result<Placed, PlaceError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(key) = key
        && let Some(order) = by_key(&transaction, key)?
    {
        return if order.is_for(new) { Ok(Placed::Before(order)) } else { Err(PlaceError::KeyReused) };
    }
    let mut items = Vec::with_capacity(new.items.len());
    for (index, item) in new.items.iter().enumerate() {
        items.push(take_from_stock(&transaction, index, item)?);
    }
    let order = insert(&transaction, new, items, key)?;
    transaction.commit()?;
    Ok(Placed::New(order))
}

fn take_from_stock(transaction: &Transaction<'_>, index: usize, item: &NewItem) -> Result<Item, PlaceError> {
    let price: Option<i64> = transaction
        .prepare_cached(
            "UPDATE products SET stock = stock - ?1 WHERE sku = ?2 AND stock >= ?1 RETURNING price",
        )?
        .query_row((item.quantity, &item.sku), |row| row.get(0))
        .optional()?;
    if let Some(price) = price {
        return Ok(Item { sku: item.sku.clone(), quantity: item.quantity, price });
    }
    let left: Option<i64> = transaction
        .prepare_cached("SELECT stock FROM products WHERE sku = ?")?
        .query_row([&item.sku], |row| row.get(0))
        .optional()?;
    Err(match left {
        Some(left) => PlaceError::OutOfStock { sku: item.sku.clone(), left },
        None => {
            let reason = format!("there is no product `{}`", item.sku);
            PlaceError::Unknown(FieldError::new(format!("items[{index}].sku"), reason))
        }
    })
}

fn insert(
    transaction: &Transaction<'_>,
    new: &NewOrder,
    items: Vec<Item>,
    key: Option<&str>,
) -> rusqlite::Result<Order> {
    let total = items.iter().map(|item| item.price * item.quantity).sum();
    let (id, created) = transaction
        .prepare_cached(
            "INSERT INTO orders (ref, customer, total, created, idempotency_key)
             VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?) RETURNING id, created",
        )?
        .query_row((&new.reference, &new.customer, total, key), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut line = transaction.prepare_cached(
        "INSERT INTO order_items (order_id, position, sku, quantity, price) VALUES (?, ?, ?, ?, ?)",
    )?;
    for (position, item) in (0_i64..).zip(&items) {
        line.execute((id, position, &item.sku, item.quantity, item.price))?;
    }
    Ok(Order { id, reference: new.reference.clone(), customer: new.customer.clone(), items, total, created })
}

/// The order with this number.
pub(crate) fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Order>> {
    one(connection, "SELECT id, ref, customer, total, created FROM orders WHERE id = ?", id)
}

fn by_key(connection: &Connection, key: &str) -> rusqlite::Result<Option<Order>> {
    one(connection, "SELECT id, ref, customer, total, created FROM orders WHERE idempotency_key = ?", key)
}

fn one(connection: &Connection, sql: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<Option<Order>> {
    let head = connection.prepare_cached(sql)?.query_row([value], head).optional()?;
    head.map(|order| with_items(connection, order)).transpose()
}

/// The orders with this reference, oldest first, at most [`FOUND_LIMIT`] of them.
pub(crate) fn by_reference(connection: &Connection, reference: &str) -> rusqlite::Result<Vec<Order>> {
    let heads: Vec<Order> = connection
        .prepare_cached(
            "SELECT id, ref, customer, total, created FROM orders WHERE ref = ? ORDER BY id LIMIT ?",
        )?
        .query_map((reference, FOUND_LIMIT), head)?
        .collect::<Result<_, _>>()?;
    heads.into_iter().map(|order| with_items(connection, order)).collect()
}

/// How many orders there are.
pub(crate) fn count(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT count(*) FROM orders")?.query_row((), |row| row.get(0))
}

fn head(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get(0)?,
        reference: row.get(1)?,
        customer: row.get(2)?,
        items: Vec::new(),
        total: row.get(3)?,
        created: row.get(4)?,
    })
}

/// Orders never change once they are there, so reading the lines after the head, outside a transaction,
/// cannot mix two states.
fn with_items(connection: &Connection, mut order: Order) -> rusqlite::Result<Order> {
    order.items = connection
        .prepare_cached("SELECT sku, quantity, price FROM order_items WHERE order_id = ? ORDER BY position")?
        .query_map([order.id], |row| {
            Ok(Item { sku: row.get(0)?, quantity: row.get(1)?, price: row.get(2)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok(order)
}

#[cfg(test)]
mod tests;
