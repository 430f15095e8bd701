//! The brace grammar, the same everywhere a user's text holds values: `{name}` is a value, `{{` and `}}`
//! are literal braces, anything unknown is an error when the text is read.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A text with values to fill in, checked against the names known where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Text(String),
    Value(String),
}

/// What is wrong with a text in braces. Positions are byte offsets into the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{` without its `}`.
    #[error("`{{` has no `}}`; a literal brace is written `{{{{`")]
    Unclosed {
        /// Where the `{` stands.
        at: usize,
    },
    /// A single `}`.
    #[error("`}}` has no `{{`; a literal brace is written `}}}}`")]
    Unopened {
        /// Where the `}` stands.
        at: usize,
    },
    /// `{name}` with a name that means nothing here.
    #[error("`{{{name}}}` means nothing here")]
    Unknown {
        /// The name between the braces.
        name: String,
        /// Where the `{` stands.
        at: usize,
    },
}

/// A value that a caller of [`Template::render`] did not provide.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no value for `{{{0}}}`")]
pub struct MissingValue(pub String);

impl Template {
    /// Reads `text`; `known` says which names mean something at this place.
    pub fn parse(text: &str, known: impl Fn(&str) -> bool) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(found) = rest.find(['{', '}']) {
            let at = text.len() - rest.len() + found;
            literal.push_str(&rest[..found]);
            let brace = &rest[found..];
            if let Some(after) = brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some(after) = brace.strip_prefix('{') {
                let end = after.find('}').ok_or(TemplateError::Unclosed { at })?;
                let name = &after[..end];
                if !known(name) {
                    return Err(TemplateError::Unknown { name: name.to_owned(), at });
                }
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(Part::Value(name.to_owned()));
                rest = &after[end + 1..];
            } else {
                return Err(TemplateError::Unopened { at });
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    /// A template that is only text: braces in it are literal.
    pub fn literal(text: &str) -> Self {
        Self { parts: vec![Part::Text(text.to_owned())] }
    }

    /// Fills in the values. Errors name the first value that `value` does not know.
    pub fn render<'v>(&self, value: impl Fn(&str) -> Option<Cow<'v, str>>) -> Result<String, MissingValue> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(name) => {
                    out.push_str(&value(name).ok_or_else(|| MissingValue(name.clone()))?);
                }
            }
        }
        Ok(out)
    }

    /// The names used, in order, with repetitions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> bool {
        ["port", "user.id"].contains(&name)
    }

    fn value(name: &str) -> Option<Cow<'static, str>> {
        (name == "port").then_some(Cow::Borrowed("80"))
    }

    #[test]
    fn braces_are_values_or_doubled() {
        let table = [
            ("", ""),
            ("plain", "plain"),
            ("{port}", "80"),
            ("--port={port}!", "--port=80!"),
            ("{{port}}", "{port}"),
            ("{{{port}}}", "{80}"),
            ("é{port}{port}", "é8080"),
        ];
        for (text, expected) in table {
            assert_eq!(Template::parse(text, known).unwrap().render(value).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_an_error_with_its_place() {
        let table = [
            ("a{", TemplateError::Unclosed { at: 1 }),
            ("a}", TemplateError::Unopened { at: 1 }),
            ("é{prt}", TemplateError::Unknown { name: "prt".into(), at: 2 }),
            ("{}", TemplateError::Unknown { name: String::new(), at: 0 }),
        ];
        for (text, expected) in table {
            assert_eq!(Template::parse(text, known), Err(expected), "{text}");
        }
        let missing = Template::parse("{user.id}", known).unwrap().render(value);
        assert_eq!(missing, Err(MissingValue("user.id".into())));
    }
}
