//! The catalogue: pages of products, one product, and search by words.

use serde::Serialize;

use crate::database::{Connection, Error, Row, Words};

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
    fn from_row(row: &Row<'_>) -> Result<Self, Error> {
        Ok(Self {
            sku: row.text(0)?,
            name: row.text(1)?,
            brand: row.text(2)?,
            price: row.int(3)?,
            description: row.text(4)?,
            stock: row.int(5)?,
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
pub(crate) fn page(connection: &mut Connection, number: i64) -> Result<Page, Error> {
    let sql = connection.sql();
    let last = highest(connection)?;
    // Ids have no gaps, so a page is a range of them: as cheap at the end as at the beginning. Saturating,
    // because a range beyond every id is as empty as the page that was asked for.
    let before = number.saturating_sub(1).saturating_mul(PAGE_SIZE);
    let range = [before.saturating_add(1).into(), before.saturating_add(PAGE_SIZE).into()];
    let items = connection.query(&sql.page, &range, Product::from_row)?;
    Ok(Page { items, pages: (last + PAGE_SIZE - 1) / PAGE_SIZE })
}

/// The number of the last product, 0 when there is none: the cheapest question about the catalogue.
pub(crate) fn highest(connection: &mut Connection) -> Result<i64, Error> {
    let sql = connection.sql();
    let last = connection.query_first(sql.last_product, &[], |row| row.int_or_null(0))?;
    Ok(last.flatten().unwrap_or(0))
}

/// The product with this SKU.
pub(crate) fn product(connection: &mut Connection, sku: &str) -> Result<Option<Product>, Error> {
    // PostgreSQL keeps no text with a NUL in it and refuses to look for one.
    if sku.contains('\0') {
        return Ok(None);
    }
    let sql = connection.sql();
    connection.query_first(&sql.product, &[sku.into()], Product::from_row)
}

/// The products that have a word beginning with each of the words of `text`, in the order of the catalogue.
/// Ranking them would have to look at every match before the first could be shown, and the words of a shoe
/// are much alike.
pub(crate) fn search(connection: &mut Connection, text: &str) -> Result<Vec<Product>, Error> {
    let sql = connection.sql();
    let Some(expression) = match_expression(sql.words, text) else { return Ok(Vec::new()) };
    connection.query(&sql.search, &[(&expression).into(), SEARCH_LIMIT.into()], Product::from_row)
}

/// The words of `text` as an expression of prefixes, `None` when it has no word. Only letters and digits get
/// through, so nothing a customer types is read as an operator.
fn match_expression(kind: Words, text: &str) -> Option<String> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| match kind {
            Words::Fts5 => format!("\"{word}\"*"),
            Words::Tsquery => format!("'{word}':*"),
        })
        .collect();
    if words.is_empty() {
        return None;
    }
    Some(words.join(match kind {
        Words::Fts5 => " ",
        Words::Tsquery => " & ",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(match_expression(Words::Fts5, text).as_deref(), expected, "{text:?}");
        }
        let expression = match_expression(Words::Tsquery, "a:* | b'c");
        assert_eq!(expression.as_deref(), Some("'a':* & 'b':* & 'c':*"));
    }
}
