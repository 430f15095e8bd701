use super::*;
use serde_json::json;

fn lines(count: usize) -> Value {
    (0..count).map(|n| json!({ "sku": format!("S{n}"), "quantity": 1 })).collect()
}

#[test]
fn the_first_wrong_field_is_named() {
    let good = json!([{ "sku": "S", "quantity": 1 }]);
    let long = "ä".repeat(TEXT_LIMIT + 1);
    let table = [
        (json!([]), ""),
        (json!("order"), ""),
        (json!({}), "customer"),
        (json!({ "customer": 7, "ref": "r", "items": good }), "customer"),
        (json!({ "customer": "", "ref": "r", "items": good }), "customer"),
        (json!({ "customer": long, "ref": "r", "items": good }), "customer"),
        (json!({ "customer": "c", "items": good }), "ref"),
        (json!({ "customer": "c", "ref": " ", "items": good }), "ref"),
        (json!({ "customer": "c", "ref": long, "items": good }), "ref"),
        (json!({ "customer": "c", "ref": "r" }), "items"),
        (json!({ "customer": "c", "ref": "r", "items": {} }), "items"),
        (json!({ "customer": "c", "ref": "r", "items": [] }), "items"),
        (json!({ "customer": "c", "ref": "r", "items": lines(ITEMS_LIMIT + 1) }), "items"),
        (json!({ "customer": "c", "ref": "r", "items": ["S"] }), "items[0].sku"),
        (json!({ "customer": "c", "ref": "r", "items": [{ "quantity": 1 }] }), "items[0].sku"),
        (json!({ "customer": "c", "ref": "r", "items": [{ "sku": "S" }] }), "items[0].quantity"),
    ];
    for (json, field) in table {
        assert_eq!(NewOrder::check(&json).unwrap_err().field, field, "{json}");
    }
}

#[test]
fn a_quantity_is_a_whole_number_from_1_to_99() {
    for quantity in [json!(0), json!(100), json!(-1), json!(1.5), json!("1"), json!(null), json!(u64::MAX)] {
        let order = json!({ "customer": "c", "ref": "r", "items": [
            { "sku": "S", "quantity": 99 }, { "sku": "T", "quantity": quantity },
        ] });
        assert_eq!(NewOrder::check(&order).unwrap_err().field, "items[1].quantity", "{quantity}");
    }
}

#[test]
fn a_product_is_named_once() {
    let order = json!({ "customer": "c", "ref": "r", "items": [
        { "sku": "S", "quantity": 99 }, { "sku": "S", "quantity": 1 },
    ] });
    assert_eq!(NewOrder::check(&order).unwrap_err().field, "items[1].sku");
}

#[test]
fn limits_themselves_are_allowed() {
    let reference = "ä".repeat(TEXT_LIMIT);
    let order = json!({ "customer": "c", "ref": reference, "items": lines(ITEMS_LIMIT), "note": "ignored" });
    let order = NewOrder::check(&order).unwrap();
    assert_eq!(order.items.len(), ITEMS_LIMIT);
    assert_eq!(order.reference, reference);
}
