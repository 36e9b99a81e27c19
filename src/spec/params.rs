//! A stage's parameters: what its kind declares, and every mistake in a table of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use toml::{Spanned, de::DeValue};

use super::{
    document::{Node, Table, type_name},
    error::{SpecError, did_you_mean},
    source::Span,
};
use crate::stages::AnyStage;

/// What a kind declares about its parameters, read from its JSON Schema.
pub(super) struct Declared {
    /// Every parameter with its schema.
    pub(super) properties: BTreeMap<String, Value>,
    /// Those without a default.
    pub(super) required: BTreeSet<String>,
}

impl Declared {
    pub(super) fn of(kind: &dyn AnyStage) -> Self {
        let schema = kind.schema();
        let entry = |name: &str| schema.get(name);
        let properties = entry("properties").and_then(Value::as_object);
        let required = entry("required").and_then(Value::as_array);
        Self {
            properties: properties.into_iter().flatten().map(|(name, schema)| (name.clone(), schema.clone())).collect(),
            required: required.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.properties.keys().map(String::as_str)
    }
}

/// The numbers in `node` that no parameter can hold.
pub(super) fn odd_numbers(name: &str, node: &Node, errors: &mut Vec<SpecError>) -> bool {
    match node.get_ref() {
        DeValue::Float(float) => {
            let odd = float.as_str().parse::<f32>().is_ok_and(|value| !value.is_finite());
            if odd {
                errors.push(
                    SpecError::new("wrong-type", format!("`{name}` must be a finite number"))
                        .label(&node.span(), "out of range"),
                );
            }
            odd
        }
        DeValue::Array(array) => array.iter().fold(false, |odd, item| odd_numbers(name, item, errors) || odd),
        DeValue::Table(table) => table.values().fold(false, |odd, item| odd_numbers(name, item, errors) || odd),
        _ => false,
    }
}

/// Parses `table`, which holds parameters only. On a mistake, the key that it is in is taken out and the rest is parsed
/// again, so that every mistake is found. `None`: there were mistakes, or parameters are `missing` (already reported).
pub(super) fn parse(
    kind: &dyn AnyStage,
    stage: (&str, &Span),
    mut table: Table,
    missing: bool,
    errors: &mut Vec<SpecError>,
) -> Option<Value> {
    let (stage_name, stage_span) = stage;
    let mut sound = !missing;
    loop {
        let error = match kind.parse(Spanned::new(stage_span.clone(), DeValue::Table(table.clone()))) {
            Ok(params) => return sound.then_some(params),
            Err(error) => error,
        };
        // Once a key is out (or was never there), its absence is no news.
        if !sound && error.message().starts_with("missing field") && error.span().is_none_or(|span| span == *stage_span)
        {
            return None;
        }
        sound = false;
        let at = error.span().unwrap_or_else(|| stage_span.clone());
        let holder = table
            .iter()
            .find(|(key, value)| {
                let within = |span: Span| span.start <= at.start && at.end <= span.end;
                within(value.span()) || within(key.span())
            })
            .map(|(key, value)| (key.get_ref().to_string(), value.clone()));
        let Some((name, value)) = holder else {
            errors.push(
                SpecError::new("bad-parameters", format!("stage `{stage_name}`: {}", error.message()))
                    .label(stage_span, "in this stage"),
            );
            return None;
        };
        errors.push(explain(&name, &value, &at, error.message()));
        table.remove(name.as_str());
    }
}

/// The words in back-ticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// Puts the reader's message about a value in words for people.
fn explain(name: &str, value: &Node, at: &Span, message: &str) -> SpecError {
    let quoted = quoted(message);
    if message.starts_with("unknown variant") && quoted.len() > 1 {
        let choices: Vec<String> = quoted[1..].iter().map(|choice| format!("`\"{choice}\"`")).collect();
        return SpecError::new("wrong-value", format!("`{name}` cannot be `\"{}\"`", quoted[0]))
            .label(at, "not one of its values")
            .help(format!("it is one of {}", choices.join(", ")))
            .help_maybe(did_you_mean(quoted[0], quoted[1..].iter().copied()));
    }
    if message.starts_with("unknown field") && !quoted.is_empty() {
        return SpecError::new("unknown-key", format!("unknown key `{}` in `{name}`", quoted[0]))
            .label(at, "not one of its keys")
            .help(message.to_owned())
            .help_maybe(did_you_mean(quoted[0], quoted[1..].iter().copied()));
    }
    if let Some(length) = message.strip_prefix("invalid length ") {
        let wanted = length.rsplit(' ').next().and_then(|count| count.parse::<usize>().ok());
        let message = match wanted {
            Some(wanted) => format!("`{name}` must be a list of {wanted} values"),
            None => format!("`{name}`: {message}"),
        };
        return SpecError::new("wrong-type", message).label(at, "");
    }
    let Some((_, expected)) = message.split_once(", expected ") else {
        return SpecError::new("wrong-value", format!("`{name}`: {message}")).label(at, "");
    };
    let expected = match expected {
        "f64" | "f32" => "a number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number, 1 or more".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "string" | "string or table" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        other => match other.strip_prefix("an array of length ") {
            Some(length) => format!("a list of {length} values"),
            None => other.strip_prefix("struct ").map_or_else(|| other.to_owned(), |_| "a table".to_owned()),
        },
    };
    if let DeValue::Integer(integer) = value.get_ref()
        && *at == value.span()
        && i64::from_str_radix(integer.as_str(), integer.radix()).is_err()
    {
        return SpecError::new("wrong-type", format!("`{name}` is too large a number")).label(at, "");
    }
    let part = if *at == value.span() { String::new() } else { "every value of ".to_owned() };
    let found = if message.starts_with("invalid type") && *at == value.span() {
        format!("{} stands here", type_name(value.get_ref()))
    } else {
        String::new()
    };
    let verb = if message.starts_with("invalid") { "must be" } else { "needs" };
    SpecError::new("wrong-type", format!("{part}`{name}` {verb} {expected}")).label(at, found)
}
