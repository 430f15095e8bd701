//! The JSON Schema of the file, and a view of it for those who read it: the check of shapes and the table of
//! keys.

use crate::raw;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The JSON Schema (2020-12) of the workload file: strict, with descriptions and defaults.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<raw::File>().to_value();
    tidy(&mut schema);
    schema
}

/// TOML has no null, so an optional key is absent and never null; and number formats such as `uint32` say
/// less than the range beside them.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(mut any)) = object.remove("anyOf") {
                any.retain(|schema| schema.get("type").is_none_or(|kind| kind != "null"));
                match <[Value; 1]>::try_from(any) {
                    Ok([Value::Object(only)]) => {
                        for (key, value) in only {
                            object.entry(key).or_insert(value);
                        }
                    }
                    Ok([other]) => drop(object.insert("anyOf".to_owned(), Value::Array(vec![other]))),
                    Err(any) => drop(object.insert("anyOf".to_owned(), Value::Array(any))),
                }
            }
            if object.get("type").is_some_and(|kind| kind == "integer") {
                object.remove("format");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One place of the schema: what is written there, and behind it what it refers to.
#[derive(Clone, Copy)]
pub(crate) struct Node<'s> {
    root: &'s Value,
    own: &'s Value,
    target: Option<&'s Value>,
}

/// What a place of the file may hold.
pub(crate) enum Kind<'s> {
    /// Anything that JSON can say too.
    Any,
    Text,
    /// One of these texts.
    Choice(Vec<&'s str>),
    Integer {
        least: i64,
        most: i64,
    },
    Boolean,
    /// True, false, or a table.
    Switch(Node<'s>),
    List(Node<'s>),
    /// Keys that the file format knows.
    Known(&'s Map<String, Value>),
    /// Keys of the user's own, each with the same kind of value.
    Named(Node<'s>),
}

impl<'s> Node<'s> {
    /// The whole file.
    pub(crate) fn root(schema: &'s Value) -> Self {
        Self { root: schema, own: schema, target: None }
    }

    /// The place at `schema`, somewhere in the same document.
    pub(crate) fn child(self, schema: &'s Value) -> Self {
        let target = Self::reference_of(schema).and_then(|name| self.root.get("$defs")?.get(name));
        Self { root: self.root, own: schema, target }
    }

    fn reference_of(schema: &'s Value) -> Option<&'s str> {
        schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
    }

    /// The name of the shared table this refers to.
    pub(crate) fn reference(self) -> Option<&'s str> {
        Self::reference_of(self.own)
    }

    /// A keyword of the schema; what is written beside a reference comes before what it refers to.
    pub(crate) fn get(self, keyword: &str) -> Option<&'s Value> {
        self.own.get(keyword).or_else(|| self.target?.get(keyword))
    }

    /// What the key means, in one line.
    pub(crate) fn meaning(self) -> String {
        let text = self.get("description").and_then(Value::as_str).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The keys that must be given.
    pub(crate) fn required(self) -> impl Iterator<Item = &'s str> {
        self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// How a value is written, for an example.
    pub(crate) fn example(self) -> Option<&'s str> {
        self.get("examples")?.get(0)?.as_str()
    }

    /// What may stand here.
    pub(crate) fn kind(self) -> Kind<'s> {
        let choices: Vec<&str> = self
            .get("oneOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|choice| choice.get("const")?.as_str())
            .collect();
        if !choices.is_empty() {
            return Kind::Choice(choices);
        }
        if let Some(table) = self.switched() {
            return Kind::Switch(table);
        }
        match self.get("type").and_then(Value::as_str) {
            Some("string") => Kind::Text,
            Some("boolean") => Kind::Boolean,
            Some("integer") => Kind::Integer {
                least: self.get("minimum").and_then(Value::as_i64).unwrap_or(i64::MIN),
                most: self.get("maximum").and_then(Value::as_i64).unwrap_or(i64::MAX),
            },
            Some("array") => self.get("items").map_or(Kind::Any, |items| Kind::List(self.child(items))),
            Some("object") => self.table(),
            Some(_) | None => Kind::Any,
        }
    }

    /// The shared table beside a boolean.
    fn switched(self) -> Option<Node<'s>> {
        let either = self.get("anyOf")?.as_array()?;
        either.iter().find(|one| one.get("type").is_some_and(|kind| kind == "boolean"))?;
        either.iter().find(|one| Self::reference_of(one).is_some()).map(|table| self.child(table))
    }

    fn table(self) -> Kind<'s> {
        if let Some(known) = self.get("properties").and_then(Value::as_object) {
            return Kind::Known(known);
        }
        let by_pattern =
            self.get("patternProperties").and_then(Value::as_object).and_then(|p| p.values().next());
        let by_any = self.get("additionalProperties").filter(|value| value.is_object());
        by_pattern.or(by_any).map_or(Kind::Any, |value| Kind::Named(self.child(value)))
    }

    /// What may stand here, for people: `a duration`, `an array of strings`.
    pub(crate) fn expected(self) -> String {
        match self.kind() {
            Kind::Text => article(self.title().unwrap_or("string")),
            Kind::Any => article(self.title().unwrap_or("value")),
            Kind::Boolean => "true or false".to_owned(),
            Kind::Switch(_) => "true, false or a table".to_owned(),
            Kind::Integer { .. } | Kind::Choice(_) | Kind::List(_) | Kind::Known(_) | Kind::Named(_) => {
                article(&self.noun())
            }
        }
    }

    /// The same without an article, as in the table of keys.
    pub(crate) fn noun(self) -> String {
        match self.kind() {
            Kind::Any => self.title().unwrap_or("value").to_owned(),
            Kind::Text => self.title().unwrap_or("string").to_owned(),
            Kind::Boolean => "boolean".to_owned(),
            Kind::Switch(_) => "boolean or table".to_owned(),
            Kind::Choice(choices) => {
                let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Kind::Integer { least, most } => format!("integer from {least} to {most}"),
            Kind::List(items) => format!("array of {}", items.plural()),
            Kind::Known(_) => "table".to_owned(),
            Kind::Named(values) => format!("table of {}", values.plural()),
        }
    }

    fn plural(self) -> String {
        match self.title() {
            Some(title) if title.ends_with("address") => format!("{title}es"),
            Some(title) => format!("{title}s"),
            None => match self.noun().split_once(' ') {
                Some((noun, rest)) => format!("{noun}s {rest}"),
                None => format!("{}s", self.noun()),
            },
        }
    }

    fn title(self) -> Option<&'s str> {
        self.get("title").and_then(Value::as_str)
    }
}

fn article(noun: &str) -> String {
    if noun.starts_with("one of") {
        return noun.to_owned();
    }
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'I']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
