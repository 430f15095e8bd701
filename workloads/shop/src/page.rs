//! The HTML of the pages. Every text that comes from anywhere goes through `escape`.

use crate::catalog::Product;
use crate::orders::Order;

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:48rem;margin:0 auto;padding:1rem;\
                     color:#1b1b1b;background:#fff}a{color:#0b57a4}li{margin:.6rem 0}label{display:block;\
                     margin:.6rem 0}input,button{font:inherit;padding:.3rem .5rem}table{border-collapse:\
                     collapse}th,td{text-align:left;padding:.2rem 1rem .2rem 0}.wrong{border:2px solid \
                     #b00020;padding:.5rem 1rem}nav a{margin-right:1rem}";

/// What a buyer has typed, and the key of the form it was typed in.
pub(crate) struct Buying {
    pub(crate) key: String,
    pub(crate) customer: String,
    pub(crate) quantity: String,
}

/// A page of the catalogue.
pub(crate) fn catalogue(products: &[Product], number: i64, pages: i64) -> String {
    let mut body = search_form("");
    body.push_str(&list(products));
    body.push_str("<nav aria-label=\"Pages\">");
    if number > 1 {
        body.push_str(&format!("<a rel=\"prev\" href=\"/?page={}\">Previous</a>", number - 1));
    }
    if number < pages {
        body.push_str(&format!("<a rel=\"next\" href=\"/?page={}\">Next</a>", number + 1));
    }
    body.push_str(&format!("Page {number} of {pages}</nav>\n"));
    layout("Shoes", &body)
}

/// What a search found.
pub(crate) fn found(products: &[Product], text: &str) -> String {
    let mut body = search_form(text);
    if products.is_empty() {
        body.push_str(&format!("<p role=\"status\">No shoe has all of “{}”.</p>\n", escape(text)));
    } else {
        body.push_str(&list(products));
    }
    body.push_str("<p><a href=\"/\">All shoes</a></p>\n");
    layout("Shoes found", &body)
}

/// One shoe, with the form to buy it and what was wrong with it.
pub(crate) fn shoe(
    product: &Product,
    currency: Option<&str>,
    buying: &Buying,
    wrong: Option<&str>,
) -> String {
    let (sku, description) = (escape(&product.sku), escape(&product.description));
    let price = money(product.price, currency);
    let stock = product.stock;
    let mut body = format!("<p>{description}</p>\n<p><b>{price}</b>, {stock} in stock</p>\n");
    if let Some(wrong) = wrong {
        body.push_str(&format!("<p class=\"wrong\" role=\"alert\">{}</p>\n", escape(wrong)));
    }
    let (key, customer) = (escape(&buying.key), escape(&buying.customer));
    let quantity = escape(&buying.quantity);
    body.push_str(&format!(
        "<form method=\"post\" action=\"/buy\">\n\
         <input type=\"hidden\" name=\"key\" value=\"{key}\">\n\
         <input type=\"hidden\" name=\"sku\" value=\"{sku}\">\n\
         <label>Your name <input name=\"customer\" value=\"{customer}\" autocomplete=\"name\" maxlength=\"100\" \
         required></label>\n\
         <label>Pairs <input name=\"quantity\" type=\"number\" min=\"1\" max=\"99\" value=\"{quantity}\" \
         required></label>\n\
         <button>Buy</button>\n</form>\n<p><a href=\"/\">All shoes</a></p>\n"
    ));
    layout(&product.name, &body)
}

/// An order that was taken.
pub(crate) fn order(order: &Order) -> String {
    let (total, currency) = order.total();
    let mut body = format!(
        "<p role=\"status\">Thank you, {}. Your order was taken at <time datetime=\"{created}\">{created}</time>.</p>\n\
         <table>\n<thead><tr><th scope=\"col\">Shoe</th><th scope=\"col\">Pairs</th>\
         <th scope=\"col\">Each</th></tr></thead>\n<tbody>\n",
        escape(&order.customer),
        created = escape(&order.created),
    );
    for item in &order.items {
        let (sku, each) = (escape(&item.sku), money(item.price, currency));
        body.push_str(&format!(
            "<tr><td><a href=\"/shoes/{sku}\">{sku}</a></td><td>{}</td><td>{each}</td></tr>\n",
            item.quantity
        ));
    }
    let reference = escape(&order.reference);
    body.push_str(&format!(
        "</tbody>\n</table>\n<p>Total: <b>{}</b></p>\n<p>Reference: {reference}</p>\n\
         <p><a href=\"/\">All shoes</a></p>\n",
        money(total, currency)
    ));
    layout(&format!("Order {}", order.id), &body)
}

/// An order that was received and is on its way. The page asks for itself again after `seconds`, without a script.
pub(crate) fn received(seconds: u32) -> String {
    let body = "<p role=\"status\">Thank you: your order was received. It is being worked on, and this page becomes \
                the order when it is done. You may close it; the order stays.</p>\n\
                <p><a href=\"/\">All shoes</a></p>\n";
    let refresh = format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">");
    layout_with("Order received", &refresh, body)
}

/// What went wrong.
pub(crate) fn sorry(title: &str, detail: &str) -> String {
    let detail = escape(detail);
    layout(title, &format!("<p role=\"alert\">{detail}</p>\n<p><a href=\"/\">All shoes</a></p>\n"))
}

fn search_form(text: &str) -> String {
    format!(
        "<form role=\"search\" action=\"/\">\n<label>Search <input type=\"search\" name=\"q\" value=\"{}\" \
         maxlength=\"200\"></label>\n<button>Search</button>\n</form>\n",
        escape(text)
    )
}

fn list(products: &[Product]) -> String {
    let mut html = String::from("<ul>\n");
    for product in products {
        let (sku, name) = (escape(&product.sku), escape(&product.name));
        let (price, description) = (money(product.price, None), escape(&product.description));
        html.push_str(&format!("<li><a href=\"/shoes/{sku}\">{name}</a> {price}<br>{description}</li>\n"));
    }
    html.push_str("</ul>\n");
    html
}

fn layout(title: &str, body: &str) -> String {
    layout_with(title, "", body)
}

/// With more in its head.
fn layout_with(title: &str, head: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">{head}<title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Cents the way prices are read.
fn money(cents: i64, currency: Option<&str>) -> String {
    let amount = format!("{}.{:02}", cents / 100, cents % 100);
    match currency {
        Some(currency) => format!("{amount} {}", escape(currency)),
        None => amount,
    }
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
