//! Keys: what makes two stage instances the same.
//!
//! The key of an instance is the BLAKE3 of its [`Ingredients`] in canonical form. Whoever has the same ingredients has the same
//! key and so the same result: in another pipeline, another folder, on another machine.
//!
//! | | in the key | why |
//! |---|---|---|
//! | version of this schema ([`KEY_SCHEMA`]) | yes | another way of making keys is another world of keys |
//! | stage kind | yes | it is what is done |
//! | the kind's `VERSION` | yes | bumped by hand when the same inputs and parameters give other bytes |
//! | parameters, defaults filled in | yes | a default that is written out is no change; an optional one that is not given counts as absent |
//! | contents of input artifacts (type and digest), by port, in order | yes | contents, not who made them: so a change upstream that gives the same bytes stops there |
//! | contents and names (without folders) of input files, by port, in order | yes | a stage may name fields by their files |
//! | class of arithmetic ([`Numerics`]) | yes | another device or precision gives other bytes |
//! | name of the stage or pipeline | no | renaming changes no result |
//! | matrix axes | no | what they set stands in the parameters |
//! | paths, times of files | no | a moved, copied or touched file is the same file |
//! | keys of upstream stages | no | their contents count |
//! | number of threads, `--jobs` | no | results do not depend on them |
//! | host, user, environment | no | nobody could share a store |
//! | place of the store, of the results | no | the same |
//! | statcell's version, git revision | no | `VERSION` is what a change of a stage is told by |
//! | seeds | as parameters | they are parameters |

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::canonical;
use crate::{
    graph::{Graph, Source},
    stage::{AnyStage, Item, Numerics},
    store::{ActionOutput, Digest},
};

/// The version of the key schema: what stands in [`Ingredients`] and how it is encoded. Bump it when either changes (the test
/// with golden keys says so).
pub const KEY_SCHEMA: u32 = 1;

/// The version of the schema of items' keys: what stands in an [`Item`] and how it is encoded.
///
/// 1 left parameters out that a stage had forgotten to name; 2 has everything that the work on an item can see.
const ITEM_SCHEMA: u32 = 2;

/// The content of one input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// An artifact.
    Artifact {
        /// Its type.
        #[serde(rename = "type")]
        kind: String,
        /// Its tree.
        digest: Digest,
    },
    /// A file outside the store.
    File {
        /// Its name without folders.
        name: String,
        /// Its bytes.
        digest: Digest,
    },
}

/// What a key consists of. It is kept beside every result, so that a change can be named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ingredients {
    /// [`KEY_SCHEMA`].
    pub schema: u32,
    /// The stage kind.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Normalised parameters.
    pub params: Value,
    /// Contents of the inputs by port, in order.
    pub inputs: BTreeMap<String, Vec<Content>>,
    /// The class of arithmetic.
    pub numerics: Numerics,
}

impl Ingredients {
    /// The ingredients of a stage kind with these parameters and inputs.
    #[must_use]
    pub fn new(
        kind: &dyn AnyStage,
        params: &Value,
        mut inputs: BTreeMap<String, Vec<Content>>,
        numerics: Numerics,
    ) -> Self {
        // A port that is not connected and one that gets an empty list are the same to the stage.
        inputs.retain(|_, contents| !contents.is_empty());
        Self {
            schema: KEY_SCHEMA,
            kind: kind.name().to_owned(),
            version: kind.version(),
            params: params.clone(),
            inputs,
            numerics,
        }
    }

    /// The ingredients of an instance of a graph, given the digests of its files and what is known of the outputs of others; else the
    /// instances whose outputs are not known.
    pub(super) fn of_instance<'k>(
        graph: &Graph,
        index: usize,
        files: &BTreeMap<PathBuf, Digest>,
        numerics: Numerics,
        output: impl Fn(usize, &str) -> Option<&'k ActionOutput>,
    ) -> Result<Self, BTreeSet<usize>> {
        let instance = &graph.instances[index];
        let mut unknown = BTreeSet::new();
        let mut inputs: BTreeMap<String, Vec<Content>> = BTreeMap::new();
        for (port, sources) in &instance.inputs {
            let contents = inputs.entry(port.clone()).or_default();
            for source in sources {
                match source {
                    Source::Output { instance, port } => match output(*instance, port) {
                        Some(output) => {
                            contents.push(Content::Artifact { kind: output.kind.clone(), digest: output.tree });
                        }
                        None => drop(unknown.insert(*instance)),
                    },
                    Source::File { name, path } => {
                        let digest = files.get(path).copied().expect("all files of the plan have a digest");
                        contents.push(Content::File { name: name.clone(), digest });
                    }
                }
            }
        }
        if unknown.is_empty() { Ok(Self::new(instance.kind, &instance.params, inputs, numerics)) } else { Err(unknown) }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Digest {
        self.digest("action")
    }

    /// Where checkpoints lie: the key of everything but the parameters in `extent`, which say how far the work goes.
    #[must_use]
    pub fn checkpoints_key(&self, extent: &[&str]) -> Digest {
        let mut prefix = self.clone();
        if let Value::Object(params) = &mut prefix.params {
            params.retain(|name, _| !extent.contains(&name.as_str()));
        }
        prefix.digest("checkpoints")
    }

    /// The key of an item's result: the kind, its version, the class of arithmetic, and what the item names; not the stage's other
    /// parameters and inputs.
    #[must_use]
    pub fn item_key(&self, item: &Item) -> Digest {
        hash(&json!({
            "what": "item",
            "schema": ITEM_SCHEMA,
            "kind": self.kind,
            "version": self.version,
            "numerics": self.numerics,
            "item": item,
        }))
    }

    fn digest(&self, what: &str) -> Digest {
        hash(&json!({ "what": what, "ingredients": self }))
    }
}

fn hash(value: &Value) -> Digest {
    Digest::of(&canonical::encode(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::ItemInput;

    fn ingredients() -> Ingredients {
        let digest = Digest::of(b"cells");
        let artifact = Content::Artifact { kind: "cells".to_owned(), digest };
        let file = Content::File { name: "field.tif".to_owned(), digest };
        Ingredients {
            schema: KEY_SCHEMA,
            kind: "train-reference".to_owned(),
            version: 3,
            params: json!({ "epochs": 30, "beta": 0.25, "labels": ["golgi"], "patience": null }),
            inputs: [("train".to_owned(), vec![artifact]), ("files".to_owned(), vec![file])].into(),
            numerics: Numerics::CPU,
        }
    }

    /// If this fails, keys changed: nobody's results are found any more. If that is meant, bump [`KEY_SCHEMA`] or [`ITEM_SCHEMA`] and
    /// pin the new keys. They were made by another program: `tests/fixtures/key_vectors.py`.
    #[test]
    fn keys_are_those_of_an_independent_program() {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct Vector {
            about: String,
            ingredients: Ingredients,
            extent: Vec<String>,
            item: Item,
            key: String,
            checkpoints: String,
            item_key: String,
        }
        assert_eq!((KEY_SCHEMA, ITEM_SCHEMA), (1, 2));
        let text = include_str!("../../tests/fixtures/key_vectors.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).unwrap();
        assert!(vectors.len() > 10);
        for vector in vectors {
            let extent: Vec<&str> = vector.extent.iter().map(String::as_str).collect();
            let keys = [
                vector.ingredients.key(),
                vector.ingredients.checkpoints_key(&extent),
                vector.ingredients.item_key(&vector.item),
            ];
            let wanted = [vector.key, vector.checkpoints, vector.item_key];
            assert_eq!(keys.map(|key| key.to_string()), wanted, "{}", vector.about);
        }
        let item = Item::new(
            "cells",
            json!({ "samples": 3 }),
            json!({ "number": 7 }),
            &[],
            &[ItemInput::Blob(Digest::of(b"cell")), ItemInput::Nothing],
        );
        let text = "99f602b2079dfeca6bd8984745077dc5559fe2171e17e27601d3709379377759";
        assert_eq!(ingredients().item_key(&item).to_string(), text);
    }

    #[test]
    fn everything_that_is_in_the_key_changes_it() {
        let it = ingredients();
        let other = Digest::of(b"other");
        let mut changed = vec![it.clone(); 11];
        changed[0].schema += 1;
        changed[1].kind = "train-target".to_owned();
        changed[2].version += 1;
        changed[3].params["beta"] = json!(0.5);
        changed[4].params["patience"] = json!(3);
        changed[5]
            .inputs
            .insert("train".to_owned(), vec![Content::Artifact { kind: "cells".to_owned(), digest: other }]);
        changed[6]
            .inputs
            .insert("files".to_owned(), vec![Content::File { name: "field.tif".to_owned(), digest: other }]);
        let digest = Digest::of(b"cells");
        changed[7].inputs.insert("files".to_owned(), vec![Content::File { name: "other.tif".to_owned(), digest }]);
        changed[8].inputs.insert("train".to_owned(), vec![Content::Artifact { kind: "fields".to_owned(), digest }]);
        changed[9].numerics.deterministic = false;
        changed[10].inputs.remove("files");
        let mut keys: Vec<Digest> = changed.iter().map(Ingredients::key).chain([it.key()]).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 12);
    }

    #[test]
    fn stored_and_read_again_it_is_the_same() {
        let it = ingredients();
        let text = serde_json::to_string_pretty(&serde_json::to_value(&it).unwrap()).unwrap();
        let back: Ingredients = serde_json::from_str(&text).unwrap();
        assert_eq!(back.key(), it.key());
    }

    #[test]
    fn checkpoints_are_shared_among_extents_only() {
        let it = ingredients();
        let (mut longer, mut other) = (it.clone(), it.clone());
        longer.params["epochs"] = json!(300);
        other.params["beta"] = json!(0.5);
        assert_eq!(it.checkpoints_key(&["epochs"]), longer.checkpoints_key(&["epochs"]));
        assert_ne!(it.checkpoints_key(&["epochs"]), other.checkpoints_key(&["epochs"]));
        assert_ne!(it.key(), longer.key());
    }
}
