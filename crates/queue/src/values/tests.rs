use super::*;
use serde_json::json;

fn template(text: &str) -> Template {
    Template::parse(text, |_| true).unwrap()
}

const BODY: &[u8] =
    br#"{"customer":"a/b?c","items":[{"sku":"x","n":2},{"sku":"y","n":3}],"note":null,"vip":true}"#;

fn values(paths: &Paths) -> Values<'_> {
    Values::new(paths, BODY, "k 1").with_answer("charge", br#"{"id":42}"#).with_answer("mail", b"sent")
}

#[test]
fn values_in_paths_are_data() {
    let paths = Paths::default();
    let values = values(&paths);
    for (text, expected) in [
        ("/plain", "/plain"),
        ("/o/{body:$.customer}", "/o/a%2Fb%3Fc"),
        ("/charges/{charge:$.id}/refund?key={key}", "/charges/42/refund?key=k%201"),
        ("/{body:$.vip}/x{body:$.note}", "/true/x"),
        ("/{body:$.items[1].sku}{body:$.items[1].sku}", "/yy"),
    ] {
        assert_eq!(values.path(&template(text)).unwrap(), expected);
    }
}

#[test]
fn a_value_cannot_lead_elsewhere() {
    let paths = Paths::default();
    let of = |path: &str, id: &str| {
        let body = serde_json::json!({ "id": id }).to_string();
        let values = Values::new(&paths, body.as_bytes(), "k");
        (values.path(&template(path)).is_ok(), values.check_path(&template(path)).is_ok())
    };
    for bad in ["", ".", ".."] {
        assert_eq!(of("/payments/{body:$.id}/capture", bad), (false, false), "{bad:?}");
        assert_eq!(of("/payments/{body:$.id}?a=b", bad), (false, false), "{bad:?}");
        // Elsewhere than as a whole part it is data, and what the template says itself is meant.
        for good in ["/a/x{body:$.id}", "/a?b={body:$.id}", "/a//{key}/../{body:$.id}c"] {
            assert_eq!(of(good, bad), (true, true), "{good} {bad:?}");
        }
    }
    assert_eq!(of("/a/{body:$.id}", "..a"), (true, true));
    // An answer of an earlier step is not there yet when the request is submitted.
    let values = Values::new(&paths, b"{}", "k");
    assert!(values.check_path(&template("/a/{charge:$.id}")).is_ok());
    let values = values.with_answer("charge", br#"{"id":".."}"#);
    assert!(matches!(values.path(&template("/a/{charge:$.id}")), Err(NoValue::Elsewhere { .. })));
}

#[test]
fn a_text_that_is_one_value_is_that_value() {
    let paths = Paths::default();
    let text = |text: &str| JsonTemplate::Text(template(text));
    let table = [
        ("a", text("{body:$.items}")),
        ("b", text("{charge:$.id}")),
        ("c", text("no {charge:$.id}")),
        ("d", JsonTemplate::List(vec![text("{body:$.note}"), text("{key}"), JsonTemplate::Float(0.5)])),
        ("e", text("{body:$.items[*].sku}")),
        ("f", text("{{}}")),
        ("g", text("{body:$.vip}{body:$.vip}")),
    ];
    let table = JsonTemplate::Table(table.into_iter().map(|(name, item)| (name.to_owned(), item)).collect());
    let expected = json!({
        "a": [{"sku": "x", "n": 2}, {"sku": "y", "n": 3}],
        "b": 42,
        "c": "no 42",
        "d": [null, "k 1", 0.5],
        "e": ["x", "y"],
        "f": "{}",
        "g": "truetrue",
    });
    assert_eq!(values(&paths).json(&table).unwrap(), expected);
}

#[test]
fn what_is_missing_is_named() {
    let paths = Paths::default();
    let of = |text: &str| values(&paths).path(&template(text)).unwrap_err().to_string();
    assert_eq!(of("/{body:$.nobody}"), "`{body:$.nobody}` finds nothing in the request's body");
    assert_eq!(of("/{charge:$.no}"), "`{charge:$.no}` finds nothing in the answer of step `charge`");
    assert_eq!(of("/{mail:$.id}"), "`{mail:$.id}` finds nothing in the answer of step `mail`");
    assert_eq!(of("/{ship:$.id}"), "`{ship:$.id}` finds nothing in the answer of step `ship`");
    assert_eq!(
        of("/{body:$.items}"),
        "`{body:$.items}` is a list or a table, which cannot be part of a text"
    );
    let not_json = Values::new(&paths, b"a=b", "k");
    let error = not_json.check(&template("{body:$.a}{ship:$.b}{key}")).unwrap_err().to_string();
    assert_eq!(error, "`{body:$.a}` is to be read from the request's body, which is not JSON");
    assert_eq!(not_json.check(&template("{ship:$.b}{key}")), Ok(()));
    assert!(
        values(&paths)
            .check_json(&JsonTemplate::List(vec![JsonTemplate::Text(template("{body:$.no}"))]))
            .is_err()
    );
}

#[test]
fn values_of_order() {
    let paths = Paths::default();
    let of = |path: &str, body: &[u8]| paths.order_value(&JsonPath(path.into()), body);
    assert_eq!(of("$.customer", BODY).as_deref(), Some("\"a/b?c\""));
    assert_eq!(of("$.items[*].n", BODY).as_deref(), Some("[2,3]"));
    for (path, body) in
        [("$.note", BODY), ("$.no", BODY), ("$.a", b"no json"), ("$.a", b""), ("not a path", BODY)]
    {
        assert_eq!(of(path, body), None, "{path}");
    }
    assert_ne!(of("$.a", br#"{"a":1}"#), of("$.a", br#"{"a":"1"}"#));
}
