//! References: `stage`, `stage.port`, `stage[axis=value].port`.

use std::ops::Range;

use serde_json::Value;

use super::source::{Sources, Span};

/// A piece of a reference and where it stands.
type Piece = (String, Span);

/// What a stage takes, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As it stands in the pipeline.
    pub text: String,
    /// Where.
    pub span: Span,
    /// The stage.
    pub stage: Piece,
    /// Axis and value, for each axis that is fixed.
    pub fixed: Vec<(Piece, Piece)>,
    /// The output port; `None`: the first one.
    pub port: Option<Piece>,
}

/// Whether a stage, a port or a pipeline can have this name: it becomes a folder, and a part of references.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A reference's or selector's parts, as ranges in the text.
pub(crate) struct Parts {
    pub(crate) stage: Range<usize>,
    pub(crate) fixed: Vec<(Range<usize>, Range<usize>)>,
    pub(crate) port: Option<Range<usize>>,
}

/// Splits `stage[axis=value,…].port`; `wildcards`: the stage may hold `*`.
pub(crate) fn split(text: &str, wildcards: bool) -> Result<Parts, String> {
    let name_end = text.find(['[', '.']).unwrap_or(text.len());
    let name = &text[..name_end];
    if !is_name(&name.replace('*', if wildcards { "x" } else { "*" })) {
        return Err(if name.is_empty() {
            "a stage's name is missing".to_owned()
        } else {
            format!("`{name}` is no stage name: it has letters, digits, `-` and `_`")
        });
    }
    let mut fixed = Vec::new();
    let mut rest = name_end;
    if text[rest..].starts_with('[') {
        let mut depth = 0;
        let mut quote = None;
        let mut start = rest + 1;
        let mut close = None;
        for (at, c) in text[rest..].char_indices().map(|(at, c)| (at + rest, c)) {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '[') => depth += 1,
                (None, ']' | ',') => {
                    if c == ']' {
                        depth -= 1;
                    }
                    if (c == ',' && depth == 1) || depth == 0 {
                        fixed.push(axis(text, start..at)?);
                        start = at + 1;
                    }
                    if depth == 0 {
                        close = Some(at);
                        break;
                    }
                }
                (None, _) => {}
            }
        }
        rest = close.ok_or("the `[` is not closed")? + 1;
    }
    let port = match text[rest..].strip_prefix('.') {
        Some(port) if is_name(port) => Some(rest + 1..text.len()),
        Some(port) => return Err(format!("`{port}` is no port name")),
        None if rest == text.len() => None,
        None => return Err(format!("`{}` is too much", &text[rest..])),
    };
    Ok(Parts { stage: 0..name_end, fixed, port })
}

fn axis(text: &str, range: Range<usize>) -> Result<(Range<usize>, Range<usize>), String> {
    let part = &text[range.clone()];
    let equals = part.find('=').ok_or_else(|| format!("`{part}` should be `axis=value`"))?;
    let trimmed = |from: usize, to: usize| {
        let piece = &text[from..to];
        let start = from + (piece.len() - piece.trim_start().len());
        start..start + piece.trim().len()
    };
    Ok((trimmed(range.start, range.start + equals), trimmed(range.start + equals + 1, range.end)))
}

impl Reference {
    /// Parses the text that stands at `span`.
    pub(super) fn parse(text: &str, span: &Span, sources: &Sources) -> Result<Self, String> {
        let parts = split(text, false)?;
        let piece = |range: &Range<usize>| (text[range.clone()].to_owned(), sources.inside(span, text, range.clone()));
        Ok(Self {
            text: text.to_owned(),
            span: span.clone(),
            stage: piece(&parts.stage),
            fixed: parts.fixed.iter().map(|(axis, value)| (piece(axis), piece(value))).collect(),
            port: parts.port.as_ref().map(piece),
        })
    }
}

/// The value of an axis as it stands in an instance's name.
pub(crate) fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Whether `text`, in a reference or selector, means this value of an axis with this label.
pub(crate) fn means(text: &str, value: &Value, label: &str) -> bool {
    let bare = ['"', '\''].iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(text);
    let same_number = || matches!((text.parse::<f64>(), value.as_f64()), (Ok(a), Some(b)) if a == b);
    bare == label || same_number() || text.replace(' ', "") == label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, String> {
        let mut sources = Sources::default();
        sources.add("test", format!("x = \"{text}\""));
        Reference::parse(text, &(4..text.len() + 6), &sources)
    }

    #[test]
    fn every_form_is_read() {
        let plain = parse("cells").unwrap();
        assert_eq!((plain.stage.0.as_str(), plain.fixed.len(), plain.port), ("cells", 0, None));
        let full = parse("sweep[beta=0.5, channels=[16,32]].model").unwrap();
        assert_eq!(full.stage, ("sweep".to_owned(), 5..10));
        assert_eq!(full.fixed[0], (("beta".to_owned(), 11..15), ("0.5".to_owned(), 16..19)));
        assert_eq!(full.fixed[1].1.0, "[16,32]");
        assert_eq!(full.port, Some(("model".to_owned(), 39..44)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ".model", "a b", "a[beta]", "a[beta=1", "a.", "a.b.c", "a[x=1]model", "a*", "ä"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(means("0.50", &Value::from(0.5), "0.5"));
        assert!(means("0", &Value::from(0.0), "0"));
        assert!(means("\"mean\"", &Value::from("mean"), "mean"));
        assert!(!means("0.4", &Value::from(0.5), "0.5"));
    }
}
