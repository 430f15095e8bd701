//! Every statement of the shop, made once for the kind of database and for the release.
//!
//! Releases differ in two columns: from `v2` on orders have a `currency`, and `v3-broken-schema` calls the
//! `price` of a product `amount`.

use crate::release::Release;

/// The statements. Parameters are in the order of `$1`, `$2`, …; which columns come back is in the text.
#[derive(Debug)]
pub(crate) struct Sql {
    /// How words become the expression that `search` takes.
    pub(crate) words: Words,
    /// → the highest number of a product
    pub(crate) last_product: &'static str,
    /// number from, to → products
    pub(crate) page: String,
    /// sku → product
    pub(crate) product: String,
    /// expression, limit → products
    pub(crate) search: String,
    /// pieces, sku → price; nothing when there are not enough
    pub(crate) take_stock: String,
    /// pieces, sku
    pub(crate) give_stock: &'static str,
    /// sku → stock
    pub(crate) stock: &'static str,
    /// ref, customer, total, created, key, and with `has_currency` the currency → id; nothing when the key is
    /// taken
    pub(crate) insert_order: &'static str,
    pub(crate) has_currency: bool,
    /// order, position, sku, quantity, price
    pub(crate) insert_item: &'static str,
    /// id → order
    pub(crate) order_by_id: String,
    /// key → order
    pub(crate) order_by_key: String,
    /// ref, limit → orders, without the cancelled ones
    pub(crate) orders_by_ref: String,
    /// order → lines
    pub(crate) items: &'static str,
    /// → how many orders, without the cancelled ones
    pub(crate) count_orders: &'static str,
    /// time, order → id; nothing when it is cancelled or unknown
    pub(crate) cancel: &'static str,
    /// order: no mail is sent for it unless one is on its way
    pub(crate) drop_mail: &'static str,
    /// limit → orders whose mail nobody has begun with
    pub(crate) mails_owed: &'static str,
    /// time, order → order; nothing when somebody else has it
    pub(crate) claim_mail: &'static str,
    /// → orders whose mail was begun and not finished
    pub(crate) mails_begun: &'static str,
    /// time, order
    pub(crate) mail_sent: &'static str,
}

/// How a search for words is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// SQLite FTS5.
    Fts5,
    /// PostgreSQL `tsquery`.
    Tsquery,
}

impl Sql {
    pub(super) fn of_sqlite(release: Release) -> Self {
        let search = format!(
            "SELECT {} FROM product_words JOIN products AS p ON p.id = product_words.rowid
             WHERE product_words MATCH $1 ORDER BY product_words.rowid LIMIT $2",
            product_columns(release)
        );
        Self::new(release, Words::Fts5, search)
    }

    pub(super) fn of_postgres(release: Release) -> Self {
        let search = format!(
            "SELECT {} FROM products AS p WHERE p.words @@ to_tsquery('simple', $1) ORDER BY p.id LIMIT $2",
            product_columns(release)
        );
        Self::new(release, Words::Tsquery, search)
    }

    fn new(release: Release, words: Words, search: String) -> Self {
        let product = product_columns(release);
        let price = price_column(release);
        let has_currency = release.has_currency();
        let currency = if has_currency { "coalesce(currency, 'EUR')" } else { "NULL" };
        let order = format!("SELECT id, ref, customer, total, created, cancelled, {currency} FROM orders");
        Self {
            words,
            last_product: "SELECT max(id) FROM products",
            page: format!("SELECT {product} FROM products AS p WHERE p.id BETWEEN $1 AND $2 ORDER BY p.id"),
            product: format!("SELECT {product} FROM products AS p WHERE p.sku = $1"),
            search,
            take_stock: format!(
                "UPDATE products SET stock = stock - $1 WHERE sku = $2 AND stock >= $1 RETURNING {price}"
            ),
            give_stock: "UPDATE products SET stock = stock + $1 WHERE sku = $2",
            stock: "SELECT stock FROM products WHERE sku = $1",
            insert_order: if has_currency {
                "INSERT INTO orders (ref, customer, total, created, idempotency_key, currency)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (idempotency_key) DO NOTHING RETURNING id"
            } else {
                "INSERT INTO orders (ref, customer, total, created, idempotency_key)
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (idempotency_key) DO NOTHING RETURNING id"
            },
            has_currency,
            insert_item: "INSERT INTO order_items (order_id, position, sku, quantity, price)
                          VALUES ($1, $2, $3, $4, $5)",
            order_by_id: format!("{order} WHERE id = $1"),
            order_by_key: format!("{order} WHERE idempotency_key = $1"),
            orders_by_ref: format!("{order} WHERE ref = $1 AND cancelled IS NULL ORDER BY id LIMIT $2"),
            items: "SELECT sku, quantity, price FROM order_items WHERE order_id = $1 ORDER BY position",
            count_orders: "SELECT count(*) FROM orders WHERE cancelled IS NULL",
            cancel: "UPDATE orders SET cancelled = $1 WHERE id = $2 AND cancelled IS NULL RETURNING id",
            drop_mail: "DELETE FROM mails WHERE order_id = $1 AND claimed IS NULL",
            mails_owed: "SELECT order_id FROM mails WHERE sent IS NULL AND claimed IS NULL
                         ORDER BY order_id LIMIT $1",
            claim_mail: "UPDATE mails SET claimed = $1 WHERE order_id = $2 AND claimed IS NULL
                         RETURNING order_id",
            mails_begun: "SELECT order_id FROM mails WHERE sent IS NULL AND claimed IS NOT NULL ORDER BY order_id",
            mail_sent: "UPDATE mails SET sent = $1 WHERE order_id = $2",
        }
    }
}

fn product_columns(release: Release) -> String {
    format!("p.sku, p.name, p.brand, p.{}, p.description, p.stock", price_column(release))
}

fn price_column(release: Release) -> &'static str {
    if release.renames_price() { "amount" } else { "price" }
}
