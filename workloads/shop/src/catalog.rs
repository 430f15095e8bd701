//! The catalogue: pages of products, one product, and search by words.

use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::Serialize;

/// Products on one page.
const PAGE_SIZE: i64 = 20;
/// The most a search finds.
const SEARCH_LIMIT: i64 = 20;

/// A product as customers see it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Product {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) brand: String,
    /// In cents.
    pub(crate) price: i64,
    pub(crate) description: String,
    pub(crate) stock: i64,
}

impl Product {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sku: row.get(0)?,
            name: row.get(1)?,
            brand: row.get(2)?,
            price: row.get(3)?,
            description: row.get(4)?,
            stock: row.get(5)?,
        })
    }
}

/// One page of the catalogue.
pub(crate) struct Page {
    pub(crate) items: Vec<Product>,
    /// How many pages there are.
    pub(crate) pages: i64,
}

/// Page `number`, counted from 1; a page beyond the last has no items.
pub(crate) fn page(connection: &Connection, number: i64) -> rusqlite::Result<Page> {
    let last: Option<i64> =
        connection.prepare_cached("SELECT max(id) FROM products")?.query_row((), |row| row.get(0))?;
    // Ids have no gaps, so a page is a range of them: as cheap at the end as at the beginning. Saturating,
    // because a range beyond every id is as empty as the page that was asked for.
    let before = number.saturating_sub(1).saturating_mul(PAGE_SIZE);
    let range = (before.saturating_add(1), before.saturating_add(PAGE_SIZE));
    let items = connection
        .prepare_cached(
            "SELECT sku, name, brand, price, description, stock FROM products WHERE id BETWEEN ? AND ? ORDER BY id",
        )?
        .query_map(range, Product::from_row)?
        .collect::<Result<_, _>>()?;
    Ok(Page { items, pages: (last.unwrap_or(0) + PAGE_SIZE - 1) / PAGE_SIZE })
}

/// The product with this SKU.
pub(crate) fn product(connection: &Connection, sku: &str) -> rusqlite::Result<Option<Product>> {
    connection
        .prepare_cached("SELECT sku, name, brand, price, description, stock FROM products WHERE sku = ?")?
        .query_row([sku], Product::from_row)
        .optional()
}

/// The products that have a word beginning with each of the words of `text`, in the order of the catalogue.
/// Ranking them would have to look at every match before the first could be shown, and the words of a shoe
/// are much alike.
pub(crate) fn search(connection: &Connection, text: &str) -> rusqlite::Result<Vec<Product>> {
    let Some(expression) = match_expression(text) else { return Ok(Vec::new()) };
    connection
        .prepare_cached(
            "SELECT p.sku, p.name, p.brand, p.price, p.description, p.stock
             FROM product_words JOIN products AS p ON p.id = product_words.rowid
             WHERE product_words MATCH ? ORDER BY product_words.rowid LIMIT ?",
        )?
        .query_map((expression, SEARCH_LIMIT), Product::from_row)?
        .collect()
}

/// The words of `text` as an FTS5 expression of quoted prefixes, `None` when it has no word. Only letters and
/// digits get through, so nothing a customer types is read as an operator.
fn match_expression(text: &str) -> Option<String> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| format!("\"{word}\"*"))
        .collect();
    if words.is_empty() { None } else { Some(words.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::match_expression;

    #[test]
    fn only_words_become_an_expression() {
        let table = [
            ("leather boot", Some("\"leather\"* \"boot\"*")),
            ("  Boot ", Some("\"Boot\"*")),
            ("name:a* OR \"b\"", Some("\"name\"* \"a\"* \"OR\"* \"b\"*")),
            ("a\0b%_", Some("\"a\"* \"b\"*")),
            ("grün", Some("\"grün\"*")),
            ("\"*(-", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(match_expression(text).as_deref(), expected, "{text:?}");
        }
    }
}
