//! Content filters: what they select, what is none, and what they may cost.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use bytes::Bytes;
use postrider_core::filter::{Content, ContentFilter};
use serde_json::{Map, Value, json};

fn matches(filter: Value, data: &Value, meta: &Value) -> bool {
    let (data, meta) = (Bytes::from(data.to_string()), Bytes::from(meta.to_string()));
    let content = Content::new(&data, Some(&meta));
    ContentFilter::new(filter).unwrap().matches(&content)
}

/// An order, as a shop publishes it.
fn an_order() -> (Value, Value) {
    let data = json!({
        "amount": 150, "currency": "EUR", "at": "2026-03-20T14:31:15Z", "big": 9_007_199_254_740_993_i64,
        "customer": { "vip": true, "name": "Ada", "none": null },
        "items": [{ "sku": "a-1", "price": 3 }, { "sku": "b-2", "price": 40 }], "tags": ["new", "gift"], "empty": [],
    });
    (data, json!({ "region": "eu-1" }))
}

fn each_selects(conditions: impl IntoIterator<Item = (Value, bool)>) {
    let (data, meta) = an_order();
    for (filter, wanted) in conditions {
        assert_eq!(matches(filter.clone(), &data, &meta), wanted, "{filter}");
    }
}

#[test]
fn conditions_on_values_select_what_they_say() {
    each_selects([
        (json!({ "data.amount": 150 }), true),
        (json!({ "data.amount": 150.0 }), true),
        (json!({ "data.amount": "150" }), false),
        (
            json!({ "data": { "amount": { "$gte": 150, "$lt": 151 } } }),
            true,
        ),
        (json!({ "data.amount": { "$gt": 150 } }), false),
        (json!({ "data.amount": { "$lte": 149.9 } }), false),
        (json!({ "data.amount": { "$gt": "1" } }), false),
        (
            json!({ "data.at": { "$gte": "2026-03-20", "$lt": "2026-03-21" } }),
            true,
        ),
        // A double has no such number.
        (json!({ "data.big": 9_007_199_254_740_992_i64 }), false),
        (
            json!({ "data.big": { "$gt": 9_007_199_254_740_992_i64 } }),
            true,
        ),
        (json!({ "data.currency": { "$in": ["USD", "EUR"] } }), true),
        (
            json!({ "data.currency": { "$nin": ["USD", "EUR"] } }),
            false,
        ),
        (json!({ "data.currency": { "$ne": "USD" } }), true),
        (
            json!({ "data.currency": { "$startsWith": "E", "$endsWith": "R" } }),
            true,
        ),
        (json!({ "data.amount": { "$startsWith": "1" } }), false),
        (
            json!({ "data.customer.vip": true, "meta.region": "eu-1" }),
            true,
        ),
        (
            json!({ "data.customer.vip": true, "meta.region": "us-1" }),
            false,
        ),
        (
            json!({ "data.customer": { "$eq": { "vip": true } } }),
            false,
        ),
        (json!({ "data.nothing": { "$exists": false } }), true),
        (json!({ "data.customer.none": { "$exists": true } }), true),
        (json!({ "data.customer.none": null }), true),
        (json!({ "data.nothing": null }), false),
        // What is not there is not equal, and not in a list.
        (json!({ "data.nothing": { "$ne": 1 } }), true),
        (json!({ "data.nothing.below": { "$nin": [1] } }), true),
        (json!({ "data.nothing": { "$lt": 1 } }), false),
    ]);
}

#[test]
fn conditions_on_lists_and_on_conditions_select_what_they_say() {
    each_selects([
        // Any element of a list.
        (json!({ "data.tags": "gift" }), true),
        (json!({ "data.tags": ["new", "gift"] }), true),
        (json!({ "data.tags": { "$ne": "gift" } }), false),
        (json!({ "data.tags.0": "gift" }), false),
        (json!({ "data.items.sku": { "$startsWith": "b-" } }), true),
        (json!({ "data.items.1.price": 40 }), true),
        (json!({ "data.items.price": { "$gt": 40 } }), false),
        (json!({ "data.empty": { "$exists": true } }), true),
        (
            json!({ "$or": [{ "data.amount": 1 }, { "data.currency": "EUR" }] }),
            true,
        ),
        (
            json!({ "$and": [{ "data.amount": 1 }, { "data.currency": "EUR" }] }),
            false,
        ),
        (json!({ "$not": { "data.currency": "EUR" } }), false),
        (
            json!({ "data": { "$or": [{ "amount": 1 }, { "customer": { "vip": true } }] } }),
            true,
        ),
        (json!({ "data.amount": { "$not": { "$gt": 200 } } }), true),
        (
            json!({ "data.amount": { "$or": [{ "$lt": 10 }, { "$gt": 100 }] } }),
            true,
        ),
    ]);
}

#[test]
fn what_was_stored_before_it_was_refused_means_what_it_did() {
    let stored = json!({ "data.amount.$gte": 100 });
    let data = Bytes::from_static(b"{\"amount\": 150}");
    let filter = ContentFilter::from(stored.clone());
    assert!(filter.is_understood() && !filter.matches(&Content::new(&data, None)));
    assert!(ContentFilter::new(stored).is_err());
}

#[test]
fn what_is_no_filter_is_told_where() {
    let deep = (0..20).fold(json!({ "data.a": 1 }), |inner, _| json!({ "$not": inner }));
    let many: Map<String, Value> = (0..60).map(|n| (format!("data.a{n}"), json!(1))).collect();
    for (filter, wanted) in [
        (json!([]), "a filter must be an object"),
        (json!({}), "must have a condition"),
        (json!({ "amount": 1 }), "write \"data.amount\""),
        (json!({ "data..a": 1 }), "data..a has an empty part"),
        (
            json!({ "data.a.$gte": 1 }),
            "data.a.$gte has the operator $gte in its path: write",
        ),
        (
            json!({ "data": { "a.$exists": true } }),
            "data.a.$exists has the operator $exists in its path",
        ),
        (
            json!({ "data.$not": 1 }),
            "data.$not has the operator $not in its path",
        ),
        (
            json!({ "data.a": { "$regex": "a" } }),
            "data.a has the operator \"$regex\"",
        ),
        (json!({ "$gt": 1 }), "$gt belongs behind a path"),
        (json!({ "$where": 1 }), "the operator \"$where\""),
        (
            json!({ "data.a": { "$in": [] } }),
            "$in of data.a must be a list of 1 to 100",
        ),
        (
            json!({ "data.a": { "$in": 3 } }),
            "$in of data.a must be a list of 1 to 100",
        ),
        (
            json!({ "data.a": { "$gt": true } }),
            "$gt of data.a must be a number or a text",
        ),
        (
            json!({ "data.a": { "$exists": 1 } }),
            "$exists of data.a must be true or false",
        ),
        (
            json!({ "data.a": { "$startsWith": 1 } }),
            "$startsWith of data.a must be a text",
        ),
        (json!({ "$or": [] }), "$or must be a list of conditions"),
        (json!({ "$or": [1] }), "$or must be an object of conditions"),
        (
            json!({ "$not": {} }),
            "$not must be an object of conditions",
        ),
        (deep, "nested at most"),
        (Value::Object(many), "at most 50 conditions"),
        (json!({ "data.a": "x".repeat(5_000) }), "at most 4096 bytes"),
    ] {
        let error = ContentFilter::new(filter.clone()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{filter}: {error}");
    }
}

#[test]
fn filters_that_would_look_too_long_let_the_event_through() {
    let data = Bytes::from(json!({ "list": vec![0; 100_000] }).to_string());
    let content = Content::new(&data, None);
    let filter = ContentFilter::new(json!({ "data.list": 1 })).unwrap();
    let mut asked = 1;
    while !filter.matches(&content) {
        asked += 1;
        assert!(asked < 1_000, "the steps are never used up");
    }
    assert!(asked > 1);
    // From then on each filter does.
    let never = ContentFilter::new(json!({ "data.list.5": 9 })).unwrap();
    assert!(never.matches(&content));
    assert_eq!(never.unmet(&content), None);
}

#[test]
fn it_tells_the_condition_that_is_not_met() {
    let data = Bytes::from(r#"{"amount":5,"currency":"EUR"}"#);
    let content = Content::new(&data, None);
    let filter = json!({ "data.currency": "EUR", "data.amount": { "$gte": 100 } });
    let filter = ContentFilter::new(filter).unwrap();
    let unmet = filter.unmet(&content);
    assert_eq!(unmet.as_deref(), Some(r#"{"data.amount":{"$gte":100}}"#));
}

#[test]
fn an_event_that_cannot_be_read_goes_through() {
    // Both are accepted, and sent byte for byte.
    for data in [
        r#"{"amount":5,"note":"\ud83d"}"#,
        r#"{"amount":5,"big":1e400}"#,
    ] {
        let data = Bytes::from(data);
        let filter = ContentFilter::new(json!({ "data.amount": { "$gte": 100 } })).unwrap();
        assert!(filter.matches(&Content::new(&data, None)));
    }
}

#[test]
fn meta_that_is_not_there_is_not_there() {
    let data = Bytes::from("{}");
    let content = || Content::new(&data, None);
    for (filter, wanted) in [
        (json!({ "meta": { "$exists": true } }), false),
        (json!({ "meta": { "$exists": false } }), true),
        (json!({ "meta": null }), false),
        (json!({ "meta.a": { "$ne": 1 } }), true),
    ] {
        let read = ContentFilter::new(filter.clone()).unwrap();
        assert_eq!(read.matches(&content()), wanted, "{filter}");
    }
}

#[test]
fn what_is_typed_may_have_lines_and_no_key_twice() {
    let list: Vec<u32> = (0..100).collect();
    let list = json!({ "$in": list });
    let long =
        json!({ "data.a": list, "data.b": list, "data.c": list, "data.d": list, "data.e": list });
    let typed = serde_json::to_string_pretty(&long).unwrap();
    assert!(typed.len() > 4_096, "{}", typed.len());
    assert_eq!(typed.parse::<ContentFilter>().unwrap().written(), &long);
    let twice = r#"{"data.a": {"$gte": 1}, "data.a": {"$lt": 5}}"#;
    let error = twice.parse::<ContentFilter>().unwrap_err().to_string();
    assert!(error.contains("data.a"), "{error}");
}

#[test]
fn a_stored_filter_of_a_newer_version_lets_every_event_through() {
    let stored = r#"{"data.a":{"$regex":"x"}}"#;
    let filter: ContentFilter = serde_json::from_str(stored).unwrap();
    assert!(!filter.is_understood());
    let data = Bytes::from("{}");
    assert!(filter.matches(&Content::new(&data, None)));
    assert_eq!(serde_json::to_string(&filter).unwrap(), stored);
}
