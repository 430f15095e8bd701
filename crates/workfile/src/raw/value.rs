//! What stands behind a key: texts of one form each, JSON, and the place of all of them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use toml::Spanned;

/// A value and the bytes of the file it was written in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub(crate) struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// Where it stands, in bytes.
    pub(crate) fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.get_ref()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $type:ident, $title:literal, $pattern:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $type(String);

        impl Deref for $type {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $title.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "title": $title, "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

text!(
    /// A name of a workload, environment, component or flow.
    Name,
    "name",
    "^[a-z][a-z0-9-]{0,62}$",
    "api"
);
text!(
    /// A number and a unit of time.
    DurationText,
    "duration",
    r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$",
    "30s"
);
text!(
    /// A number and a unit of bytes.
    SizeText,
    "size",
    r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|KB|MB|GB)$",
    "64MiB"
);
text!(
    /// A number and `%`.
    ShareText,
    "share",
    r"^[0-9]+(\.[0-9]+)?%$",
    "0.1%"
);
text!(
    /// A path, perhaps with a query, as it stands in a request line.
    PathText,
    "path",
    "^/",
    "/readyz"
);
text!(
    /// A path into a JSON document (RFC 9535).
    JsonPathText,
    "JSONPath",
    r"^\$",
    "$.items"
);
text!(
    /// The name of an environment variable (POSIX.1-2024, 8.1, and lower case).
    Variable,
    "variable name",
    "^[A-Za-z_][A-Za-z0-9_]*$",
    "API_URL"
);
text!(
    /// The name of a value saved for later steps.
    ValueName,
    "value name",
    "^[A-Za-z_][A-Za-z0-9_-]*$",
    "sku"
);
text!(
    /// The name of a header field (RFC 9110, 5.1).
    HeaderName,
    "header name",
    "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
    "Accept"
);
text!(
    /// An IP address and a port.
    Address,
    "address",
    ":[0-9]+$",
    "127.0.0.1:8080"
);
text!(
    /// An IP address.
    Ip,
    "IP address",
    "^[0-9a-fA-F.:]+$",
    "10.0.0.1"
);
text!(
    /// A host name or IP address without a port.
    Host,
    "host name",
    r"^[^:/\s]+$|^\[[0-9a-fA-F:.]+\]$",
    "shop.example"
);

text!(
    /// A method and a path pattern.
    RouteText,
    "route",
    r"^(GET|HEAD|OPTIONS|POST|PUT|PATCH|DELETE) /[^{}?#\s]*$",
    "GET /api/products/*"
);
text!(
    /// A cookie or a field that tells users apart.
    AffinityText,
    "cookie or field",
    "^(cookie:[!#$%&'*+.^_`|~0-9A-Za-z-]+|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+)$",
    "cookie:session"
);
text!(
    /// Where a request says whose it is.
    PrincipalText,
    "field, cookie or claim",
    "^((header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+|claim:.+)$",
    "header:authorization"
);
text!(
    /// A component and a path on it.
    CallText,
    "component and path",
    "^[a-z][a-z0-9-]{0,62}:/",
    "payments:/charges"
);
text!(
    /// An absolute URL.
    UrlText,
    "URL",
    "^[A-Za-z][A-Za-z0-9+.-]*:",
    "http://127.0.0.1:9000"
);
text!(
    /// A version of a schema, or two with all between.
    SchemaText,
    "version range",
    "^[0-9]+(-[0-9]+)?$",
    "2-3"
);

/// A JSON value as far as TOML can write it: without null.
#[derive(Debug)]
pub(crate) enum Json {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<At<Json>>),
    Table(BTreeMap<String, At<Json>>),
}

impl JsonSchema for Json {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "JSON value".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "JSON value" })
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Integer(value))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
                let mut table = BTreeMap::new();
                while let Some((key, value)) = members.next_entry()? {
                    table.insert(key, value);
                }
                Ok(Json::Table(table))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
