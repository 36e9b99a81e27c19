//! What stage kinds there are, for `statcell stages`.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::params::Declared;
use crate::stage::{AnyStage, Arity};

/// A stage kind, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindDescription {
    /// The name in `uses = "…"`.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Its version: part of the key of every instance.
    pub version: u32,
    /// The input ports.
    pub inputs: Vec<PortDescription>,
    /// The output ports; the first is what `stage` alone refers to.
    pub outputs: Vec<PortDescription>,
    /// The parameters: those without a default first, then by name.
    pub parameters: Vec<ParameterDescription>,
}

/// A port of a stage kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortDescription {
    /// The name.
    pub name: String,
    /// The types of artifact; none: files outside the store.
    pub types: Vec<&'static str>,
    /// How many: `one`, `optional`, `many`, `any` or `named`.
    pub arity: &'static str,
    /// One line.
    pub about: String,
}

/// A parameter of a stage kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterDescription {
    /// The name.
    pub name: String,
    /// The type, in words: `number`, `list of text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The default; `None`: it must be given, or (where it is not required) it may be left out.
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// What it is.
    pub about: String,
}

/// Every stage kind, in the order in which a pipeline uses them.
pub fn describe(kinds: &[&dyn AnyStage]) -> Vec<KindDescription> {
    kinds.iter().map(|kind| of(*kind)).collect()
}

fn of(kind: &dyn AnyStage) -> KindDescription {
    let inputs = kind.inputs(None).into_iter().map(|input| PortDescription {
        types: input.kinds.iter().map(|kind| kind.name()).collect(),
        arity: match input.arity {
            Arity::One => "one",
            Arity::Optional => "optional",
            Arity::Many => "many",
            Arity::Any => "any",
            Arity::Named => "named",
            Arity::ManyOrNamed => "many, or named",
        },
        name: input.name,
        about: input.about,
    });
    let outputs = kind.outputs(None).into_iter().map(|output| PortDescription {
        types: vec![output.kind.name()],
        arity: "one",
        name: output.name,
        about: output.about,
    });
    let schema = kind.schema().to_value();
    let declared = Declared::of(kind);
    let mut parameters: Vec<ParameterDescription> = declared
        .properties
        .iter()
        .map(|(name, property)| {
            // The pipeline's seed stands in for a stage's own.
            let required = declared.required.contains(name) && name != "seed";
            ParameterDescription {
                name: name.clone(),
                kind: type_of(property, &schema),
                default: property.get("default").filter(|default| !default.is_null()).cloned(),
                required,
                about: about(property),
            }
        })
        .collect();
    parameters.sort_by_key(|parameter| !parameter.required);
    KindDescription {
        name: kind.name(),
        about: kind.about(),
        version: kind.version(),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        parameters,
    }
}

fn about(property: &Value) -> String {
    let text = property.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A schema's type in words.
fn type_of(property: &Value, root: &Value) -> String {
    if let Some(target) = property.get("$ref").and_then(Value::as_str) {
        return root
            .pointer(target.trim_start_matches('#'))
            .map_or_else(|| "table".to_owned(), |found| type_of(found, root));
    }
    let choices = |value: &Value| value.as_array().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
    if let Some(choices) = property.get("enum").and_then(choices) {
        return choices.join(" or ");
    }
    if let Some(one) = property.get("const") {
        return one.to_string();
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(all) = property.get(key).and_then(Value::as_array) {
            let mut parts: Vec<String> =
                all.iter().map(|part| type_of(part, root)).filter(|part| part != "null").collect();
            parts.dedup();
            return parts.join(" or ");
        }
    }
    let names: Vec<&str> = match property.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let word = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "object" => "table".to_owned(),
        "array" => {
            let items = property.get("items").or_else(|| property.get("prefixItems")?.get(0));
            let items = items.map(|items| type_of(items, root)).filter(|items| items != "anything");
            let exact = property.get("minItems").filter(|least| property.get("maxItems") == Some(*least));
            let list = exact.map_or_else(|| "list".to_owned(), |count| format!("list of {count}"));
            match (items, exact) {
                (Some(items), None) => format!("{list} of {items}"),
                (Some(items), Some(_)) => format!("{list} × {items}"),
                (None, _) => list,
            }
        }
        other => other.to_owned(),
    };
    let words: Vec<String> = names.into_iter().filter(|name| *name != "null").map(word).collect();
    if words.is_empty() { "anything".to_owned() } else { words.join(" or ") }
}

/// The kinds as plain text, in lines of at most `width` columns where words allow it.
pub fn describe_text(kinds: &[KindDescription], width: usize) -> String {
    let mut text = String::new();
    for (at, kind) in kinds.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        writeln!(text, "{}: {}", kind.name, kind.about).expect("writing to a string");
        for (title, ports) in [("takes", &kind.inputs), ("gives", &kind.outputs)] {
            if !ports.is_empty() {
                writeln!(text, "  {title}").expect("writing to a string");
            }
            for port in ports {
                let types = match port.types.len() {
                    0 => "files".to_owned(),
                    1..=3 => port.types.join(" or "),
                    _ => "any artifact".to_owned(),
                };
                let count = match port.arity {
                    "optional" => ", optional",
                    "many" => ", one or more",
                    "any" => ", any number",
                    "named" => ", by names",
                    _ => "",
                };
                entry(&mut text, &port.name, &format!("[{types}{count}] {}", port.about), width);
            }
        }
        if !kind.parameters.is_empty() {
            text.push_str("  parameters\n");
        }
        for parameter in &kind.parameters {
            let head = match &parameter.default {
                Some(default) => format!("{} = {default}", parameter.name),
                None => parameter.name.clone(),
            };
            let needed = match (&parameter.default, parameter.required) {
                (Some(_), _) => "",
                (None, true) => ", needed",
                (None, false) if parameter.name == "seed" => ", by default the pipeline's",
                (None, false) => ", optional",
            };
            entry(&mut text, &head, &format!("[{}{needed}] {}", parameter.kind, parameter.about), width);
        }
    }
    text
}

/// Where the second column begins.
const COLUMN: usize = 30;

/// A line of two columns; the second is broken into lines.
fn entry(text: &mut String, head: &str, about: &str, width: usize) {
    let mut line = format!("    {head}");
    if line.chars().count() + 2 > COLUMN {
        writeln!(text, "{line}").expect("writing to a string");
        line.clear();
    }
    let mut columns = line.chars().count();
    for word in about.split_whitespace() {
        let length = word.chars().count();
        if columns > COLUMN && columns + 1 + length > width {
            writeln!(text, "{line}").expect("writing to a string");
            line.clear();
            columns = 0;
        }
        let gap = if columns < COLUMN { COLUMN - columns } else { 1 };
        line.extend(std::iter::repeat_n(' ', gap));
        line.push_str(word);
        columns += gap + length;
    }
    writeln!(text, "{line}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::test_kinds::KINDS;
    use crate::stages::registry;

    #[test]
    fn every_kind_is_described() {
        let kinds: Vec<KindDescription> = KINDS.iter().map(|kind| of(*kind)).collect();
        insta::assert_snapshot!("stages", describe_text(&kinds, 80));
        assert_eq!(describe(registry()).len(), registry().len());
        for kind in describe(registry()) {
            assert!(!kind.about.is_empty(), "{}", kind.name);
            for parameter in kind.parameters {
                assert!(!parameter.about.is_empty(), "{}: `{}` has no doc comment", kind.name, parameter.name);
            }
        }
    }
}
