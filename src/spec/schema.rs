//! The JSON Schema of the language, for editors: completion, help and red underlines while typing.

use serde_json::{Map, Value, json};

use super::params::Declared;
use crate::stage::{AnyStage, Arity, Input};

/// [`schema`] as it stands in `docs/pipeline.schema.json`.
pub fn schema_text(kinds: &[&dyn AnyStage]) -> String {
    serde_json::to_string_pretty(&schema(kinds)).expect("a schema is plain data") + "\n"
}

/// The JSON Schema (2020-12) of pipelines. Write it to `docs/pipeline.schema.json` with
/// `statcell schema > docs/pipeline.schema.json`, and name it in a pipeline's first line: `#:schema ../docs/pipeline.schema.json`.
pub fn schema(kinds: &[&dyn AnyStage]) -> Value {
    let mut definitions = Map::from_iter([(RANGE.to_owned(), range())]);
    for kind in kinds {
        stage(*kind, &mut definitions);
    }
    let references: Vec<Value> =
        kinds.iter().map(|kind| json!({ "$ref": format!("#/$defs/{}", kind.name()) })).collect();
    let names = json!({ "pattern": "^[A-Za-z0-9_-]+$" });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "statcell pipeline",
        "type": "object",
        "properties": {
            "pipeline": {
                "description": "What the pipeline is called, and the seed of all its random numbers.",
                "type": "object",
                "properties": {
                    "name": {
                        "description": "Results go to a folder of this name.",
                        "type": "string",
                        "pattern": "^[A-Za-z0-9_-]+$",
                    },
                    "description": { "description": "What it is, for people.", "type": "string" },
                    "seed": {
                        "description": "The seed of every stage that has none of its own.",
                        "type": "integer",
                        "minimum": 0,
                        "default": 0,
                    },
                },
                "required": ["name"],
                "additionalProperties": false,
            },
            "stages": {
                "description": "The stages, one table each: `[stages.NAME]`.",
                "type": "object",
                "propertyNames": names,
                "additionalProperties": { "oneOf": references },
            },
            "profiles": {
                "description": "Named sets of changes: `[profiles.NAME.stages.STAGE]`, applied with `--profile NAME`.",
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {
                        "pipeline": { "type": "object" },
                        "stages": { "type": "object", "additionalProperties": { "type": "object" } },
                    },
                    "additionalProperties": false,
                },
            },
        },
        "required": ["pipeline", "stages"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// Adds the definition of a kind's table, and those that its parameters need.
fn stage(kind: &dyn AnyStage, definitions: &mut Map<String, Value>) {
    let name = kind.name();
    let mut own = kind.schema().to_value();
    if let Some(Value::Object(inner)) = own.get_mut("$defs").map(Value::take) {
        for (inner_name, mut definition) in inner {
            rename_references(&mut definition, name);
            definitions.insert(format!("{name}.{inner_name}"), definition);
        }
    }
    let declared = Declared::of(kind);
    let mut properties = Map::new();
    properties.insert("uses".to_owned(), json!({ "description": kind.about(), "const": name }));
    let mut required = vec!["uses".to_owned()];
    for input in kind.inputs(None) {
        properties.insert(input.name.clone(), port(&input));
        if matches!(input.arity, Arity::One | Arity::Many) {
            required.push(input.name);
        }
    }
    let mut axes = Map::new();
    for (parameter, mut schema) in declared.properties {
        rename_references(&mut schema, name);
        axes.insert(parameter.clone(), axis(&schema));
        properties.insert(parameter, schema);
    }
    // A parameter that must be given may also be an axis; a seed comes from the pipeline.
    required.extend(declared.required.iter().filter(|name| *name != "seed" && !axes.contains_key(*name)).cloned());
    let alternatives: Vec<Value> = declared
        .required
        .iter()
        .filter(|name| *name != "seed")
        .map(|name| {
            json!({ "anyOf": [
                { "required": [name] },
                { "required": ["matrix"], "properties": { "matrix": { "required": [name] } } },
            ] })
        })
        .collect();
    if !axes.is_empty() {
        let description =
            "Parameters that take several values: the stage becomes a group, one instance for each combination.";
        properties.insert(
            "matrix".to_owned(),
            json!({ "description": description, "type": "object", "properties": axes, "additionalProperties": false }),
        );
    }
    let mut definition = json!({
        "title": name,
        "description": kind.about(),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    if !alternatives.is_empty() {
        definition["allOf"] = Value::Array(alternatives);
    }
    definitions.insert(name.to_owned(), definition);
}

/// `#/$defs/X` becomes `#/$defs/KIND.X`.
fn rename_references(schema: &mut Value, kind: &str) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries.iter_mut() {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(inner) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{kind}.{inner}");
                        }
                    }
                    other => rename_references(other, kind),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, kind)),
        _ => {}
    }
}

fn port(input: &Input) -> Value {
    let what = if input.takes_files() {
        let stage = if input.kinds.is_empty() { "" } else { ", or a stage that writes them" };
        format!("a path or pattern, relative to this file{stage}")
    } else {
        let kinds: Vec<&str> = input.kinds.iter().map(|kind| kind.name()).collect();
        let kinds = if kinds.len() > 3 { "any artifact".to_owned() } else { kinds.join(" or ") };
        format!("`stage.port` of {kinds}")
    };
    let description = format!("Input: {} ({what}).", input.about);
    let one = json!({ "type": "string", "minLength": 1 });
    let list = json!({ "type": "array", "items": one, "minItems": 1 });
    match input.arity {
        Arity::One | Arity::Optional => json!({ "description": description, "type": "string", "minLength": 1 }),
        Arity::Many | Arity::Any => json!({ "description": description, "anyOf": [one, list] }),
        Arity::ManyOrNamed => {
            let table =
                json!({ "type": "object", "additionalProperties": { "anyOf": [one, list] }, "minProperties": 1 });
            json!({ "description": description, "anyOf": [one, list, table] })
        }
        Arity::Named => {
            let item = if input.takes_files() { json!({ "anyOf": [one, list] }) } else { one };
            json!({ "description": description, "type": "object", "additionalProperties": item })
        }
    }
}

/// The values of a parameter in a matrix. What the parameter is stands at the parameter itself.
fn axis(parameter: &Value) -> Value {
    let mut item = parameter.clone();
    if let Value::Object(entries) = &mut item {
        entries.remove("default");
        entries.remove("description");
    }
    json!({ "anyOf": [{ "type": "array", "items": item, "minItems": 1 }, { "$ref": format!("#/$defs/{RANGE}") }] })
}

/// The name of the definition of values that are counted out; no kind can have it.
const RANGE: &str = "matrix.range";

fn range() -> Value {
    json!({
        "title": "values between two ends",
        "type": "object",
        "properties": {
            "from": { "description": "The first value.", "type": "number" },
            "to": { "description": "The last value.", "type": "number" },
            "count": { "description": "How many values.", "type": "integer", "minimum": 1 },
            "scale": { "description": "Equal steps or equal ratios.", "enum": ["linear", "log"], "default": "linear" },
        },
        "required": ["from", "to", "count"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::registry;

    #[test]
    fn every_reference_has_its_definition() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(entries) => {
                    found.extend(entries.get("$ref").and_then(Value::as_str));
                    entries.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        for schema in [schema(registry()), schema(crate::spec::test_kinds::KINDS)] {
            let mut found = Vec::new();
            references(&schema, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                assert!(schema.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn a_kinds_table_has_its_ports_parameters_and_axes() {
        let schema = schema(crate::spec::test_kinds::KINDS);
        let train = &schema["$defs"]["train"];
        assert_eq!(train["properties"]["uses"]["const"], "train");
        assert_eq!(train["required"], json!(["uses", "cells"]));
        assert_eq!(train["properties"]["beta"]["description"], "Weight of the KL term.");
        assert!(train["properties"]["matrix"]["properties"]["beta"]["anyOf"].is_array());
        assert_eq!(train["allOf"][0]["anyOf"][0]["required"], json!(["epochs"]));
        assert!(schema["$defs"]["program"]["properties"]["inputs"]["additionalProperties"].is_object());
    }

    #[test]
    fn the_schema_in_the_repository_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pipeline.schema.json");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        if kept != schema_text(registry()) {
            let current = concat!(env!("CARGO_MANIFEST_DIR"), "/target/pipeline.schema.json");
            std::fs::write(current, schema_text(registry())).unwrap();
            panic!(
                "docs/pipeline.schema.json is out of date: `statcell schema > docs/pipeline.schema.json`, or copy {current}"
            );
        }
    }
}
