//! The table of keys for people, from the same schema that files are checked by.

use crate::schema::{Kind, Node, schema};
use std::collections::{BTreeMap, VecDeque};

/// Every key of the workload file as a Markdown table, one row each, sorted by key: key, type, default and
/// meaning. `<name>` stands for a name of the user's own.
pub fn key_table() -> String {
    let schema = schema();
    let root = Node::root(&schema);
    let mut table = String::from("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
    rows(root, "", &homes(root), &mut table);
    table
}

/// Where each shared table is explained: at its shortest key. Elsewhere, as in an overlay, it is only named.
fn homes(root: Node<'_>) -> BTreeMap<&str, String> {
    let mut homes = BTreeMap::new();
    let mut queue = VecDeque::from([(root, String::new())]);
    while let Some((node, path)) = queue.pop_front() {
        if let Some(reference) = node.reference() {
            if homes.contains_key(reference) {
                continue;
            }
            homes.insert(reference, path.clone());
        }
        queue.extend(inside(node, &path));
    }
    homes
}

/// What is one step further in than `node`, with its path.
fn inside<'s>(node: Node<'s>, path: &str) -> Vec<(Node<'s>, String)> {
    match node.kind() {
        Kind::Known(known) => {
            let mut keys: Vec<_> = known.iter().collect();
            keys.sort_by_key(|(key, _)| key.as_str());
            let dot = if path.is_empty() { "" } else { "." };
            keys.into_iter().map(|(key, schema)| (node.child(schema), format!("{path}{dot}{key}"))).collect()
        }
        Kind::Named(values) => vec![(values, format!("{path}.<name>"))],
        Kind::Switch(table) => inside(table, path),
        Kind::List(items) => vec![(items, format!("{path}[]"))],
        Kind::Any | Kind::Text | Kind::Choice(_) | Kind::Integer { .. } | Kind::Boolean => Vec::new(),
    }
}

fn rows(node: Node<'_>, path: &str, homes: &BTreeMap<&str, String>, table: &mut String) {
    let known = matches!(node.kind(), Kind::Known(_) | Kind::Switch(_));
    let required: Vec<_> = node.required().collect();
    for (child, path) in inside(node, path) {
        if known {
            let key = path.rsplit('.').next().unwrap_or(&path);
            table.push_str(&row(child, &path, one_at_least(child) || required.contains(&key)));
        }
        let elsewhere = child.reference().and_then(|name| homes.get(name)).is_some_and(|home| *home != path);
        if !elsewhere {
            rows(child, &path, homes, table);
        }
    }
}

/// Whether a table of the user's own, or a list of tables, must have something in it. A list of anything else
/// that may not be empty may still be left out.
fn one_at_least(node: Node<'_>) -> bool {
    match node.kind() {
        Kind::Named(_) => node.get("minProperties").is_some(),
        Kind::List(items) => node.get("minItems").is_some() && matches!(items.kind(), Kind::Known(_)),
        Kind::Any
        | Kind::Text
        | Kind::Choice(_)
        | Kind::Integer { .. }
        | Kind::Boolean
        | Kind::Switch(_)
        | Kind::Known(_) => false,
    }
}

fn row(node: Node<'_>, path: &str, required: bool) -> String {
    let default = if required { "required".to_owned() } else { default(node) };
    let escape = |text: &str| text.replace('|', "\\|");
    format!("| `{path}` | {} | {} | {} |\n", escape(&node.noun()), escape(&default), escape(&node.meaning()))
}

/// What holds where nothing is said. A default is text, a number, or a list of numbers: all these are the same in
/// JSON as in TOML.
fn default(node: Node<'_>) -> String {
    let of_class = |class: &str| node.get("default-by-class").and_then(|by_class| by_class.get(class));
    match (node.get("default"), of_class("production"), of_class("otherwise")) {
        (None, Some(production), Some(otherwise)) if production != otherwise => {
            format!("`{production}` in production, else `{otherwise}`")
        }
        (Some(default), _, _) | (None, Some(default), _) => format!("`{default}`"),
        (None, None, _) => String::new(),
    }
}
