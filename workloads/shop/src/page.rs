//! The front page.

use crate::catalog::Product;

/// Products shown on it.
const SHOWN: usize = 8;

/// The front page over some products, as HTML.
pub(crate) fn front(products: &[Product]) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Shoes</title></head>\n\
         <body>\n<h1>Shoes</h1>\n<ul>\n",
    );
    for product in products.iter().take(SHOWN) {
        let name = escape(&product.name);
        let description = escape(&product.description);
        let (whole, cents) = (product.price / 100, product.price % 100);
        html.push_str(&format!("<li><b>{name}</b> {whole}.{cents:02}<br>{description}</li>\n"));
    }
    html.push_str("</ul>\n</body>\n</html>\n");
    html
}

/// Makes a text harmless in HTML, in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
