//! Reasons in words.

use std::fmt;

use serde_json::Value;

use super::{Decision, Reason};

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRan => write!(f, "it never ran"),
            Self::NewInstance { differences } if differences.is_empty() => write!(f, "it is new"),
            Self::NewInstance { differences } => {
                write!(f, "it is new; of what ran before, the nearest differs: {}", Reasons(differences))
            }
            Self::ResultMissing => write!(f, "its result is no longer in the store"),
            Self::KindChanged { old, new } => write!(f, "it was a `{old}`, now it is a `{new}`"),
            Self::ParameterChanged { name, old, new } => match (old, new) {
                (Some(old), Some(new)) => write!(f, "`{name}` changed: {} → {}", Shown(old), Shown(new)),
                (None, Some(new)) => write!(f, "`{name}` was not given: now {}", Shown(new)),
                (Some(old), None) => write!(f, "`{name}` is no longer given: was {}", Shown(old)),
                (None, None) => write!(f, "`{name}` changed"),
            },
            Self::InputChanged { port, source, .. } => {
                write!(f, "input `{port}` changed: `{source}` has other contents")
            }
            Self::InputAdded { port, source } => write!(f, "input `{port}` now takes `{source}`"),
            Self::InputRemoved { port, count: 1 } => write!(f, "input `{port}` takes one artifact fewer"),
            Self::InputRemoved { port, count } => write!(f, "input `{port}` takes {count} artifacts fewer"),
            Self::OrderChanged { port } => write!(f, "input `{port}` comes in another order"),
            Self::FileChanged { name, .. } => write!(f, "file `{name}` changed"),
            Self::FileAdded { name, .. } => write!(f, "file `{name}` is new"),
            Self::FileRemoved { name, .. } => write!(f, "file `{name}` is no longer given"),
            Self::VersionChanged { old, new } => write!(f, "the stage kind changed: version {old} → {new}"),
            Self::NumericsChanged { old, new } => write!(f, "arithmetic changed: {old} → {new}"),
            Self::KeySchemaChanged { old, new } => write!(f, "keys are made in another way: schema {old} → {new}"),
        }
    }
}

/// Several reasons in one line.
pub struct Reasons<'a>(pub &'a [Reason]);

/// More reasons than this are counted instead of listed.
const LISTED: usize = 3;

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, reason) in self.0.iter().take(LISTED).enumerate() {
            write!(f, "{}{reason}", if number > 0 { "; " } else { "" })?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            1 => write!(f, "; and one more change"),
            more => write!(f, "; and {more} more changes"),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit { .. } => write!(f, "cached"),
            Self::Run { reasons, .. } => write!(f, "{}", Reasons(reasons)),
            Self::Unknown { because } => {
                let names: Vec<String> = because.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
                let more = because.len().saturating_sub(LISTED);
                let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
                write!(f, "depends on what {}{rest} will give", names.join(", "))
            }
        }
    }
}

/// A parameter's value, shortened.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        if text.chars().count() <= 60 {
            return f.write_str(&text);
        }
        let start: String = text.chars().take(57).collect();
        write!(f, "{start}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_readable() {
        let changed =
            Reason::ParameterChanged { name: "block-size".to_owned(), old: Some(json!(199)), new: Some(json!(151)) };
        assert_eq!(changed.to_string(), "`block-size` changed: 199 → 151");
        let new = Reason::NewInstance { differences: vec![changed.clone()] };
        assert_eq!(
            new.to_string(),
            "it is new; of what ran before, the nearest differs: `block-size` changed: 199 → 151"
        );
        let many = vec![changed; 5];
        assert!(Reasons(&many).to_string().ends_with("151; and 2 more changes"));
        let unknown = Decision::Unknown { because: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(unknown.to_string(), "depends on what `a`, `b` will give");
    }
}
