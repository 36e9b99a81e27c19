//! A stage's parameters: what its kind declares, and every mistake in a table of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use toml::{Spanned, de::DeValue};

use super::{
    document::{Node, Table, type_name},
    error::{SpecError, did_you_mean},
    source::Span,
};
use crate::stage::AnyStage;

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

/// What of these parameters lies beyond the limits that their kind declares: names, and what is wrong.
pub(super) fn beyond_limits(declared: &Declared, params: &Value) -> Vec<(String, String)> {
    let of = |(name, value): (&String, &Value)| {
        let message = beyond(declared.properties.get(name)?, value)?;
        Some((name.clone(), format!("`{name}` {message}")))
    };
    params.as_object().into_iter().flatten().filter_map(of).collect()
}

fn beyond(schema: &Value, value: &Value) -> Option<String> {
    if let Some(items) = value.as_array() {
        return items.iter().find_map(|item| beyond(schema.get("items")?, item));
    }
    let number = value.as_f64()?;
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    match (limit("minimum"), limit("maximum")) {
        (Some(least), _) if number < least => Some(format!("must not be below {least}")),
        (_, Some(most)) if number > most => Some(format!("must not be above {most}")),
        _ => None,
    }
}

/// Parameters as far as they were understood.
pub(super) struct Parsed {
    /// Normalised parameters.
    pub(super) params: Value,
    /// Keys with mistakes (reported already): they have their defaults here.
    pub(super) without: Vec<String>,
}

/// Parses `table`, which holds parameters only. On a mistake, the key that it is in is taken out and the rest is parsed
/// again, so that every mistake is found. `None`: too little is left, or parameters are `missing` (already reported).
pub(super) fn parse(
    kind: &dyn AnyStage,
    stage: (&str, &Span),
    mut table: Table,
    missing: bool,
    errors: &mut Vec<SpecError>,
) -> Option<Parsed> {
    let (stage_name, stage_span) = stage;
    let mut without = Vec::new();
    loop {
        let error = match kind.parse(Spanned::new(stage_span.clone(), DeValue::Table(table.clone()))) {
            Ok(params) => return (!missing).then_some(Parsed { params, without }),
            Err(error) => error,
        };
        // Once a key is out (or was never there), its absence is no news.
        if (missing || !without.is_empty())
            && error.message().starts_with("missing field")
            && error.span().is_none_or(|span| span == *stage_span)
        {
            return None;
        }
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
        without.push(name);
    }
}

/// The words in back-ticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// The value in the form that is expected, if it is plain what that would be.
fn example(name: &str, value: &Node, expected: &str) -> Option<String> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        _ => String::new(),
    };
    let quoted = matches!(value.get_ref(), DeValue::String(_));
    let right = match expected {
        "text" if !quoted && !text.is_empty() => format!("\"{text}\""),
        "`true` or `false`" if ["true", "yes", "on", "1"].contains(&text.as_str()) => "true".to_owned(),
        "`true` or `false`" if ["false", "no", "off", "0"].contains(&text.as_str()) => "false".to_owned(),
        "a list" if quoted => format!("[\"{text}\"]"),
        "a list" if !text.is_empty() => format!("[{text}]"),
        "a table" => return Some(format!("for example `{name} = {{ NAME = … }}`")),
        expected if expected.starts_with("a number") && quoted && text.parse::<f64>().is_ok() => text,
        expected if expected.starts_with("a whole number") => {
            let number: f64 = text.parse().ok().filter(|number: &f64| *number >= 0.0 && *number < 1e15)?;
            format!("{number:.0}")
        }
        _ => return None,
    };
    Some(format!("write `{name} = {right}`"))
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
        let found = value.get_ref().as_array().map_or(0, |list| list.iter().count());
        return SpecError::new("wrong-type", message).label(at, format!("{found} stand here"));
    }
    let Some((_, expected)) = message.split_once(", expected ") else {
        return SpecError::new("wrong-value", format!("`{name}`: {message}")).label(at, "this value");
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
        return SpecError::new("wrong-type", format!("`{name}` is too large a number"))
            .label(at, "larger than any number can be");
    }
    let part = if *at == value.span() { String::new() } else { "every value of ".to_owned() };
    let found = if message.starts_with("invalid type") && *at == value.span() {
        format!("{} stands here", type_name(value.get_ref()))
    } else {
        String::new()
    };
    let verb = if message.starts_with("invalid") { "must be" } else { "needs" };
    let found = if found.is_empty() { "this value".to_owned() } else { found };
    let error = SpecError::new("wrong-type", format!("{part}`{name}` {verb} {expected}")).label(at, found);
    error.help_maybe(if *at == value.span() { example(name, value, &expected) } else { None })
}
