//! JSON as bytes in one canonical way, for hashing.

use serde_json::{Number, Value};

/// The canonical bytes of a JSON value.
///
/// Every value begins with a letter that tells its type, texts and collections with their length, so that no two values share
/// their bytes. Members of objects are sorted by name, and those that are `null` are left out: an optional parameter that is not
/// given is the same as one that the stage did not have yet. Numbers count by value: `1` and `1.0` are the same, `0.0` and `-0.0`
/// too; real numbers are their 64 bits, so that no way of printing them matters.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, value);
    bytes
}

fn push(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.push(b'n'),
        Value::Bool(truth) => bytes.push(if *truth { b't' } else { b'f' }),
        Value::Number(number) => push_number(bytes, number),
        Value::String(text) => push_text(bytes, text),
        Value::Array(values) => {
            push_length(bytes, b'l', values.len());
            for value in values {
                push(bytes, value);
            }
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().filter(|(_, value)| !value.is_null()).collect();
            members.sort_by(|a, b| a.0.cmp(b.0));
            push_length(bytes, b'o', members.len());
            for (name, value) in members {
                push_text(bytes, name);
                push(bytes, value);
            }
        }
    }
}

fn push_length(bytes: &mut Vec<u8>, letter: u8, length: usize) {
    bytes.push(letter);
    bytes.extend_from_slice(length.to_string().as_bytes());
    bytes.push(b':');
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    push_length(bytes, b's', text.len());
    bytes.extend_from_slice(text.as_bytes());
}

fn push_number(bytes: &mut Vec<u8>, number: &Number) {
    /// Up to here every whole number has a real number of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = match number.as_f64() {
        _ if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Some(real) if real.fract() == 0.0 && real.abs() < EXACT => Some((real as i64).to_string()),
        _ => None,
    };
    if let Some(digits) = whole {
        bytes.push(b'i');
        bytes.extend_from_slice(digits.as_bytes());
        bytes.push(b';');
    } else {
        let real = number.as_f64().expect("a JSON number is whole or real");
        bytes.push(b'd');
        bytes.extend_from_slice(&real.to_bits().to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        encode(value).iter().map(|&byte| char::from(byte)).collect()
    }

    #[test]
    fn the_form_is_what_it_is() {
        let value = json!({ "b": [true, null, "µm"], "a": 12, "none": null });
        assert_eq!(text(&value), "o2:s1:ai12;s1:bl3:tns3:\u{c2}\u{b5}m");
        assert_eq!(encode(&json!(0.5)), [b'd', 0x3f, 0xe0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_same_by_meaning_is_the_same_in_bytes() {
        let same = [
            (json!(1), json!(1.0)),
            (json!(0.0), json!(-0.0)),
            (json!(-3), json!(-3.0)),
            (json!({ "a": 1, "b": 2 }), json!({ "b": 2, "a": 1, "c": null })),
        ];
        for (one, other) in same {
            assert_eq!(encode(&one), encode(&other), "{one} {other}");
        }
    }

    #[test]
    fn what_differs_differs() {
        let values = [
            json!(null),
            json!(false),
            json!(true),
            json!(0),
            json!(0.1),
            json!(0.1_f32),
            json!(1e300),
            json!(u64::MAX),
            json!(u64::MAX as f64),
            json!("0"),
            json!(""),
            json!([]),
            json!([null]),
            json!({}),
            json!(["a", "b"]),
            json!(["ab"]),
            json!(["b", "a"]),
            json!([["a"], "b"]),
            json!([["a", "b"]]),
            json!({ "a": "b" }),
            json!({ "ab": "" }),
        ];
        for (i, one) in values.iter().enumerate() {
            for other in &values[..i] {
                assert_ne!(encode(one), encode(other), "{one} {other}");
            }
        }
    }
}
