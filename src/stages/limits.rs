//! Every number among the parameters has an upper limit that its kind declares: an absurd one is refused before anything runs.

use serde_json::Value;

use super::registry;

fn without_limit(name: &str, schema: &Value, found: &mut Vec<String>) {
    let is = |kind: &str| match &schema["type"] {
        Value::String(text) => text == kind,
        Value::Array(kinds) => kinds.iter().any(|one| one == kind),
        _ => false,
    };
    if (is("integer") || is("number")) && schema["maximum"].is_null() {
        found.push(name.to_owned());
    }
    if is("array") {
        without_limit(name, &schema["items"], found);
    }
    for one in schema["anyOf"].as_array().into_iter().flatten() {
        without_limit(name, one, found);
    }
}

#[test]
fn every_number_has_an_upper_limit() {
    let mut found = Vec::new();
    for kind in registry() {
        let schema = kind.schema().to_value();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            // Any whole number is a seed.
            if name != "seed" {
                without_limit(&format!("{}.{name}", kind.name()), property, &mut found);
            }
        }
    }
    assert!(found.is_empty(), "declare `#[schemars(range(max = …))]`: {found:?}");
}
