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

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::canonical;
use crate::{
    stages::{AnyStage, Item},
    store::Digest,
};

/// The version of the key schema: what stands in [`Ingredients`] and how it is encoded. Bump it when either changes (the test
/// with golden keys says so).
pub const KEY_SCHEMA: u32 = 1;

/// Where arithmetic is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Device {
    /// On the processor.
    Cpu,
}

/// In what numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Precision {
    /// 32 bits.
    F32,
}

/// The class of arithmetic: within one class, results are comparable in the way that `deterministic` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numerics {
    /// Where.
    pub device: Device,
    /// In what numbers.
    pub precision: Precision,
    /// Whether results are the same to the bit every time; else within a tolerance.
    pub deterministic: bool,
}

impl Numerics {
    /// On the processor, in 32 bits, the same to the bit every time.
    pub const CPU: Self = Self { device: Device::Cpu, precision: Precision::F32, deterministic: true };
}

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
            "schema": self.schema,
            "kind": self.kind,
            "version": self.version,
            "numerics": self.numerics,
            "inputs": item.inputs,
            "parameters": item.parameters,
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

    /// If this fails, keys changed: nobody's results are found any more. If that is meant, bump `KEY_SCHEMA` and pin the new keys.
    #[test]
    fn golden_keys() {
        let it = ingredients();
        let item = Item { inputs: vec![Digest::of(b"cell")], parameters: json!({ "number": 7 }) };
        let keys = [it.key(), it.checkpoints_key(&["epochs"]), it.item_key(&item)].map(|key| key.to_string());
        assert_eq!(KEY_SCHEMA, 1);
        assert_eq!(
            keys,
            [
                "e2f03adaeedd80202d35d780179eb0d5b0172af61259a703fbd8aa4836d6f708",
                "cdf344301023f3f29d97dc869e7d08b997a9a072b162973ac8079291aa949a09",
                "9ce30a58079f5aedf4146104e0af6c8b70ac682245507b2252c68d89f6e1ba6a",
            ]
        );
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
