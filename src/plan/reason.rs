//! Why an instance runs, as data. The wording stands in `words.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    canonical,
    keys::{Content, Ingredients},
};
use crate::{stage::Numerics, store::Digest};

/// Why an instance runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// Neither it nor anything of its kind ran before with this store.
    NeverRan,
    /// It did not run before under this name; how it differs from the most similar one of its kind that did.
    NewInstance {
        /// The differences.
        differences: Vec<Reason>,
    },
    /// Its last result, or a part of it, is no longer in the store.
    ResultMissing,
    /// The name stood for another kind of stage.
    KindChanged {
        /// The kind that it was.
        old: String,
        /// The kind that it is.
        new: String,
    },
    /// A parameter has another value.
    ParameterChanged {
        /// Its name; inside tables with points between.
        name: String,
        /// The value that it had; `None`: it was not given.
        old: Option<Value>,
        /// The value that it has.
        new: Option<Value>,
    },
    /// An input artifact has other contents.
    InputChanged {
        /// The port.
        port: String,
        /// Where it comes from: `instance.port`.
        source: String,
        /// The contents that it had.
        old: Digest,
        /// The contents that it has.
        new: Digest,
    },
    /// An input artifact was not there.
    InputAdded {
        /// The port.
        port: String,
        /// Where it comes from: `instance.port`.
        source: String,
    },
    /// Fewer input artifacts come.
    InputRemoved {
        /// The port.
        port: String,
        /// How many fewer.
        count: usize,
    },
    /// The same inputs come in another order.
    OrderChanged {
        /// The port.
        port: String,
    },
    /// A file outside the store has other contents.
    FileChanged {
        /// The port.
        port: String,
        /// The file's name.
        name: String,
        /// The contents that it had.
        old: Digest,
        /// The contents that it has.
        new: Digest,
    },
    /// A file outside the store was not given.
    FileAdded {
        /// The port.
        port: String,
        /// The file's name.
        name: String,
    },
    /// A file outside the store is no longer given.
    FileRemoved {
        /// The port.
        port: String,
        /// The file's name.
        name: String,
    },
    /// The stage kind computes something else now.
    VersionChanged {
        /// The version that it had.
        old: u32,
        /// The version that it has.
        new: u32,
    },
    /// Arithmetic is done on another device, in other numbers, or with other promises.
    NumericsChanged {
        /// The class that it had.
        old: Numerics,
        /// The class that it has.
        new: Numerics,
    },
    /// Keys are made in another way.
    KeySchemaChanged {
        /// The schema that made the old key.
        old: u64,
        /// The schema now.
        new: u64,
    },
}

/// How stored ingredients differ from today's. `source` names where the input at (port, position) comes from.
/// Empty only if the keys are the same.
pub(super) fn differences(old: &Value, new: &Ingredients, source: &dyn Fn(&str, usize) -> String) -> Vec<Reason> {
    let schema = old.get("schema").and_then(Value::as_u64).unwrap_or_default();
    let other_schema = Reason::KeySchemaChanged { old: schema, new: u64::from(new.schema) };
    let Ok(old) = serde_json::from_value::<Ingredients>(old.clone()) else { return vec![other_schema] };
    let mut found = Vec::new();
    if old.schema != new.schema {
        found.push(other_schema);
    }
    if old.kind != new.kind {
        found.push(Reason::KindChanged { old: old.kind, new: new.kind.clone() });
        return found;
    }
    if old.version != new.version {
        found.push(Reason::VersionChanged { old: old.version, new: new.version });
    }
    parameters("", Some(&old.params), Some(&new.params), &mut found);
    let ports: BTreeSet<&String> = old.inputs.keys().chain(new.inputs.keys()).collect();
    for port in ports {
        let none = Vec::new();
        let (before, after) = (old.inputs.get(port).unwrap_or(&none), new.inputs.get(port).unwrap_or(&none));
        if before != after {
            inputs(port, before, after, source, &mut found);
        }
    }
    if old.numerics != new.numerics {
        found.push(Reason::NumericsChanged { old: old.numerics, new: new.numerics });
    }
    found
}

/// Parameters that differ, by the meaning that the key gives them.
fn parameters(name: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Reason>) {
    let old = old.filter(|value| !value.is_null());
    let new = new.filter(|value| !value.is_null());
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (old, new) {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for inner in names {
            let full = if name.is_empty() { inner.clone() } else { format!("{name}.{inner}") };
            parameters(&full, before.get(inner), after.get(inner), found);
        }
        return;
    }
    if old.map(canonical::encode) != new.map(canonical::encode) {
        found.push(Reason::ParameterChanged { name: name.to_owned(), old: old.cloned(), new: new.cloned() });
    }
}

fn inputs(
    port: &str,
    before: &[Content],
    after: &[Content],
    source: &dyn Fn(&str, usize) -> String,
    found: &mut Vec<Reason>,
) {
    let port = || port.to_owned();
    let sorted = |contents: &[Content]| {
        let mut contents = contents.to_vec();
        contents.sort();
        contents
    };
    if sorted(before) == sorted(after) {
        found.push(Reason::OrderChanged { port: port() });
        return;
    }
    let start = found.len();
    let files = |contents: &[Content]| -> BTreeMap<String, Digest> {
        let named = |content: &Content| match content {
            Content::File { name, digest } => Some((name.clone(), *digest)),
            Content::Artifact { .. } => None,
        };
        contents.iter().filter_map(named).collect()
    };
    let (files_before, files_after) = (files(before), files(after));
    for (name, &new) in &files_after {
        match files_before.get(name) {
            Some(&old) if old == new => {}
            Some(&old) => found.push(Reason::FileChanged { port: port(), name: name.clone(), old, new }),
            None => found.push(Reason::FileAdded { port: port(), name: name.clone() }),
        }
    }
    for name in files_before.keys().filter(|name| !files_after.contains_key(*name)) {
        found.push(Reason::FileRemoved { port: port(), name: name.clone() });
    }
    for (position, content) in after.iter().enumerate() {
        let Content::Artifact { kind, digest: new } = content else { continue };
        let source = || source(&port(), position);
        match before.get(position) {
            Some(Content::Artifact { kind: before, digest: old }) if old != new || kind != before => {
                found.push(Reason::InputChanged { port: port(), source: source(), old: *old, new: *new });
            }
            Some(Content::Artifact { .. }) => {}
            _ => found.push(Reason::InputAdded { port: port(), source: source() }),
        }
    }
    if before.len() > after.len() && before.iter().any(|content| matches!(content, Content::Artifact { .. })) {
        found.push(Reason::InputRemoved { port: port(), count: before.len() - after.len() });
    }
    if found.len() == start {
        // Two files of the same name in one list: which of them changed cannot be told by name.
        found.push(Reason::OrderChanged { port: port() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ingredients() -> Ingredients {
        Ingredients {
            schema: 1,
            kind: "k".to_owned(),
            version: 1,
            params: json!({ "a": 1, "in": { "b": [1, 2], "c": null } }),
            inputs: [("cells".to_owned(), vec![artifact("x"), artifact("y")])].into(),
            numerics: Numerics::CPU,
        }
    }

    fn artifact(text: &str) -> Content {
        Content::Artifact { kind: "cells".to_owned(), digest: Digest::of(text.as_bytes()) }
    }

    fn file(name: &str, text: &str) -> Content {
        Content::File { name: name.to_owned(), digest: Digest::of(text.as_bytes()) }
    }

    fn changes(old: &Ingredients, new: &Ingredients) -> Vec<Reason> {
        differences(&serde_json::to_value(old).unwrap(), new, &|port, position| format!("stage.{port}{position}"))
    }

    #[test]
    fn each_change_is_named() {
        let old = ingredients();
        assert_eq!(changes(&old, &old), vec![]);
        let mut new = old.clone();
        new.params = json!({ "a": 1.0, "in": { "b": [1, 3], "d": true } });
        new.version = 2;
        new.inputs = [("cells".to_owned(), vec![artifact("x"), artifact("z"), artifact("w")])].into();
        let (old_input, new_input) = (Digest::of(b"y"), Digest::of(b"z"));
        assert_eq!(
            changes(&old, &new),
            vec![
                Reason::VersionChanged { old: 1, new: 2 },
                Reason::ParameterChanged {
                    name: "in.b".to_owned(),
                    old: Some(json!([1, 2])),
                    new: Some(json!([1, 3]))
                },
                Reason::ParameterChanged { name: "in.d".to_owned(), old: None, new: Some(json!(true)) },
                Reason::InputChanged {
                    port: "cells".to_owned(),
                    source: "stage.cells1".to_owned(),
                    old: old_input,
                    new: new_input
                },
                Reason::InputAdded { port: "cells".to_owned(), source: "stage.cells2".to_owned() },
            ]
        );
        new = old.clone();
        new.inputs = [("cells".to_owned(), vec![artifact("y"), artifact("x")])].into();
        assert_eq!(changes(&old, &new), vec![Reason::OrderChanged { port: "cells".to_owned() }]);
        assert_eq!(
            changes(&old, &Ingredients { inputs: BTreeMap::new(), ..old.clone() }),
            vec![Reason::InputRemoved { port: "cells".to_owned(), count: 2 }]
        );
    }

    #[test]
    fn files_are_compared_by_name() {
        let with = |files: Vec<Content>| Ingredients { inputs: [("files".to_owned(), files)].into(), ..ingredients() };
        let old = with(vec![file("a", "1"), file("b", "2"), file("c", "3")]);
        let new = with(vec![file("a", "1"), file("b", "9"), file("d", "3")]);
        let port = || "files".to_owned();
        assert_eq!(
            changes(&old, &new),
            vec![
                Reason::FileChanged {
                    port: port(),
                    name: "b".to_owned(),
                    old: Digest::of(b"2"),
                    new: Digest::of(b"9")
                },
                Reason::FileAdded { port: port(), name: "d".to_owned() },
                Reason::FileRemoved { port: port(), name: "c".to_owned() },
            ]
        );
        let twins = changes(&with(vec![file("a", "1"), file("a", "2")]), &with(vec![file("a", "3"), file("a", "2")]));
        assert!(!twins.is_empty());
    }

    /// A difference in the key without a reason would be a mystery to the user: one field after another is changed.
    #[test]
    fn another_key_always_has_a_reason() {
        type Change = Box<dyn Fn(&mut Ingredients)>;
        let old = ingredients();
        let changed: Vec<Change> = vec![
            Box::new(|it| it.schema = 2),
            Box::new(|it| it.kind = "other".to_owned()),
            Box::new(|it| it.version = 7),
            Box::new(|it| it.params = json!([])),
            Box::new(|it| it.params["in"] = json!(3)),
            Box::new(|it| it.numerics.deterministic = false),
            Box::new(|it| drop(it.inputs.insert("files".to_owned(), vec![file("a", "1")]))),
            Box::new(|it| drop(it.inputs.insert("cells".to_owned(), vec![file("a", "1"), artifact("y")]))),
            Box::new(|it| {
                let digest = Digest::of(b"x");
                let other = Content::Artifact { kind: "fields".to_owned(), digest };
                it.inputs.insert("cells".to_owned(), vec![other, artifact("y")]);
            }),
        ];
        for (number, change) in changed.iter().enumerate() {
            let mut new = old.clone();
            change(&mut new);
            assert_ne!(old.key(), new.key(), "change {number}");
            assert!(!changes(&old, &new).is_empty(), "change {number}");
        }
    }
}
