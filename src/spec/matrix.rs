//! `matrix.axis = [values]` or `{ from, to, count }`: what makes a group of a stage.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::{Spanned, de::DeValue};

use super::{
    document::{Node, Table, in_order, not_a_table, type_name},
    error::{SpecError, did_you_mean, listed},
    reference::label,
    source::Span,
};

/// The most instances that one stage may become.
pub(crate) const LARGEST_GROUP: usize = 10_000;

/// A parameter that takes several values.
#[derive(Debug, Clone)]
pub(super) struct Axis<'t> {
    pub(super) name: String,
    pub(super) span: Span,
    values: Values<'t>,
}

#[derive(Debug, Clone)]
enum Values<'t> {
    /// As they stand in the text.
    Listed(Vec<Node<'t>>),
    /// Counted out between two ends: each as TOML, and where the ends stand.
    Counted(Vec<String>, Span),
}

impl Axis<'_> {
    pub(super) fn len(&self) -> usize {
        match &self.values {
            Values::Listed(nodes) => nodes.len(),
            Values::Counted(texts, _) => texts.len(),
        }
    }

    pub(super) fn value(&self, at: usize) -> Node<'_> {
        match &self.values {
            Values::Listed(nodes) => nodes[at].clone(),
            Values::Counted(texts, span) => literal(&texts[at], span),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.len()).map(|at| self.value(at))
    }
}

fn wrong(node: &Node, message: impl Into<String>) -> SpecError {
    SpecError::new("matrix", message).label(&node.span(), "this")
}

const FORMS: &str =
    "an axis is a list, `[0.1, 0.5]`, or `{ from = 0.0, to = 1.0, count = 5 }`, perhaps with `scale = \"log\"`";

/// The axes in a stage's `matrix`, in the order of the text.
pub(super) fn axes<'t>(matrix: &Node<'t>, errors: &mut Vec<SpecError>) -> Vec<Axis<'t>> {
    let Some(table) = matrix.get_ref().as_table() else {
        errors.push(not_a_table("matrix", matrix).help(FORMS));
        return Vec::new();
    };
    let mut axes = Vec::new();
    for (key, node) in in_order(table) {
        let name = key.get_ref().to_string();
        let found = match node.get_ref() {
            DeValue::Array(array) => Ok(Values::Listed(array.iter().cloned().collect())),
            DeValue::Table(table) => counted(node, table).map(|values| Values::Counted(values, node.span())),
            other => Err(wrong(node, format!("axis `{name}` is {}", type_name(other))).help(FORMS)),
        };
        match found {
            Ok(values) => axes.push(Axis { name, span: key.span(), values }),
            Err(error) => errors.push(error),
        }
        if axes.last().is_some_and(|axis| axis.len() == 0) {
            axes.pop();
            errors.push(
                SpecError::new("empty-matrix", format!("axis `{}` has no values", key.get_ref()))
                    .label(&node.span(), "nothing to run")
                    .help(FORMS),
            );
        }
    }
    let members = axes.iter().try_fold(1usize, |product, axis| product.checked_mul(axis.len()));
    if members.is_none_or(|members| members > LARGEST_GROUP) {
        errors.push(wrong(matrix, format!("this matrix makes more than {LARGEST_GROUP} instances of the stage")));
        axes.clear();
    }
    axes
}

/// A number between two ends, whole or not.
fn number(node: &Node) -> Result<f64, SpecError> {
    let parsed = match node.get_ref() {
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|whole| whole as f64)
        }
        DeValue::Float(float) => float.as_str().parse().ok().filter(|float: &f64| float.is_finite()),
        _ => None,
    };
    parsed.ok_or_else(|| {
        SpecError::new("wrong-type", "this must be a number")
            .label(&node.span(), format!("{} stands here", type_name(node.get_ref())))
    })
}

fn counted(axis: &Node, table: &Table) -> Result<Vec<String>, SpecError> {
    let known = ["from", "to", "count", "scale"];
    for (key, _) in in_order(table) {
        if !known.contains(&key.get_ref().as_ref()) {
            return Err(SpecError::new("unknown-key", format!("unknown key `{}` in an axis", key.get_ref()))
                .label(&key.span(), "not one of its keys")
                .help(FORMS)
                .help_maybe(did_you_mean(key.get_ref(), known)));
        }
    }
    let field =
        |name: &str| table.get(name).ok_or_else(|| wrong(axis, format!("this axis needs `{name}`")).help(FORMS));
    let (from_node, to_node, count_node) = (field("from")?, field("to")?, field("count")?);
    let (from, to, count) = (number(from_node)?, number(to_node)?, number(count_node)?);
    if !count_node.get_ref().is_integer() || count < 0.0 {
        return Err(wrong(count_node, "`count` must be a whole number, 0 or more"));
    }
    if count > LARGEST_GROUP as f64 {
        return Err(wrong(count_node, format!("`count` must be at most {LARGEST_GROUP}")));
    }
    let logarithmic = match table.get("scale").map(|scale| (scale, scale.get_ref().as_str())) {
        None | Some((_, Some("linear"))) => false,
        Some((_, Some("log"))) => true,
        Some((node, _)) => return Err(wrong(node, "`scale` must be `\"linear\"` or `\"log\"`")),
    };
    if logarithmic && (from <= 0.0 || to <= 0.0) {
        let node = if from <= 0.0 { from_node } else { to_node };
        return Err(wrong(node, "with `scale = \"log\"`, both ends must be above 0"));
    }
    let count = count as usize;
    let last = count.saturating_sub(1).max(1) as f64;
    let mut values: Vec<f64> = (0..count)
        .map(|step| {
            let part = step as f64 / last;
            // The ends are exact; in between, the sum is the same on every machine (`powf` might not be: it is rounded).
            match step {
                0 => from,
                _ if step + 1 == count => to,
                _ if logarithmic => round(from * libm::pow(to / from, part), 12),
                _ => from + (to - from) * part,
            }
        })
        .collect();
    values.dedup();
    if values.len() < count {
        return Err(wrong(axis, "the values of this axis are not all different"));
    }
    // Whole ends give whole numbers where all values are whole: for parameters that count something.
    let ends_whole = from_node.get_ref().is_integer() && to_node.get_ref().is_integer();
    let whole = ends_whole && values.iter().all(|value| value.fract() == 0.0 && value.abs() < 9e15);
    let text = |value: &f64| if whole { format!("{}", *value as i64) } else { format!("{value:?}") };
    Ok(values.iter().map(text).collect())
}

/// A TOML value that stands for what is written at `span`.
pub(super) fn literal<'t>(toml: &'t str, span: &Span) -> Node<'t> {
    let value = DeValue::parse(toml).expect("a number is a TOML value").into_inner();
    Spanned::new(span.clone(), value)
}

/// `value` with that many significant digits.
fn round(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits.saturating_sub(1)).parse().expect("a number in Rust's own notation")
}

/// What the values of an axis are called: as they are, or, where they were counted out, with as few digits (four at least)
/// as tell them apart.
pub(super) fn labels(values: &[Value], axis: &Axis) -> Vec<String> {
    if matches!(axis.values, Values::Counted(..)) {
        for digits in 4..17 {
            let short = |value: &Value| match value.as_f64() {
                Some(float) if value.is_f64() => round(float, digits).to_string(),
                _ => label(value),
            };
            let labels: Vec<String> = values.iter().map(short).collect();
            if labels.iter().collect::<std::collections::BTreeSet<_>>().len() == labels.len() {
                return labels;
            }
        }
    }
    values.iter().map(label).collect()
}

/// The values that stand twice are an error: their instances would have one name.
pub(super) fn repeated(axis: &Axis, labels: &[String]) -> Option<SpecError> {
    let mut seen = BTreeMap::new();
    let (first, again) = labels.iter().enumerate().find_map(|(at, label)| Some((seen.insert(label, at)?, at)))?;
    Some(
        SpecError::new(
            "matrix",
            format!("axis `{}` has the value {} twice", axis.name, listed([labels[again].as_str()])),
        )
        .label(&axis.value(first).span(), "here")
        .label(&axis.value(again).span(), "and here"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(toml: &str) -> Result<Vec<String>, Vec<SpecError>> {
        let matrix = DeValue::parse(toml).unwrap();
        let mut errors = Vec::new();
        let axes = axes(&Spanned::new(0..1, matrix.into_inner()), &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(axes[0]
            .values()
            .map(|node| match node.get_ref() {
                DeValue::Integer(integer) => integer.to_string(),
                DeValue::Float(float) => float.to_string(),
                _ => "other".to_owned(),
            })
            .collect())
    }

    #[test]
    fn values_are_counted_out() {
        assert_eq!(values("{b = {from = 0.0, to = 1.0, count = 5}}").unwrap(), ["0.0", "0.25", "0.5", "0.75", "1.0"]);
        assert_eq!(values("{b = {from = 1, to = 7, count = 3}}").unwrap(), ["1", "4", "7"]);
        assert_eq!(values("{b = {from = 0, to = 1, count = 3}}").unwrap(), ["0.0", "0.5", "1.0"]);
        assert_eq!(
            values("{b = {from = 1e-4, to = 1.0, count = 3, scale = \"log\"}}").unwrap(),
            ["0.0001", "0.01", "1.0"]
        );
        assert_eq!(values("{b = {from = 3, to = 9, count = 1}}").unwrap(), ["3"]);
    }

    #[test]
    fn impossible_axes_are_refused() {
        for toml in [
            "{b = []}",
            "{b = {from = 0, to = 1, count = 0}}",
            "{b = {from = 0, to = 1, count = 99999999}}",
            "{b = {from = 0, to = 1, count = 2.5}}",
            "{b = {from = 0, to = 1}}",
            "{b = {from = 1, to = 1, count = 3}}",
            "{b = {from = 0, to = 1, count = 3, scale = \"log\"}}",
            "{b = {from = nan, to = 1, count = 3}}",
            "{b = {from = 0, to = 1, cuont = 3}}",
            "{b = 3}",
            "7",
            "{a = {from = 0, to = 1, count = 9999}, b = [1, 2, 3]}",
        ] {
            assert!(values(toml).is_err(), "{toml}");
        }
    }

    #[test]
    fn labels_are_short_and_different() {
        let axis = |values| Axis { name: String::new(), span: 0..0, values };
        let (counted, listed) = (axis(Values::Counted(Vec::new(), 0..0)), axis(Values::Listed(Vec::new())));
        let steps: Vec<Value> = (0..4).map(|step| Value::from(f64::from(step) / 24.0)).collect();
        assert_eq!(labels(&steps, &counted), ["0", "0.04167", "0.08333", "0.125"]);
        assert_eq!(labels(&[Value::from(1.000_01), Value::from(1.000_02)], &counted), ["1.00001", "1.00002"]);
        assert_eq!(labels(&[Value::from("mean"), Value::from(3)], &listed), ["mean", "3"]);
    }
}
