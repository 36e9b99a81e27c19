//! What the key of an item is made of.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{FileInput, StageError};
use crate::{artifact::Artifact, store::Digest};

/// One thing whose contents an item depends on.
#[derive(Clone, Copy, Debug)]
pub enum ItemInput<'a> {
    /// Bytes in the store: the image of a cell.
    Blob(Digest),
    /// A whole artifact.
    Artifact(&'a Artifact),
    /// A file outside the store. Its name does not count.
    File(&'a FileInput),
    /// Nothing, where something could be: an optional port that is not connected.
    Nothing,
}

impl ItemInput<'_> {
    /// The contents; `None` for [`ItemInput::Nothing`].
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Blob(digest) => Some(*digest),
            Self::Artifact(artifact) => Some(artifact.digest()),
            Self::File(file) => Some(file.digest),
            Self::Nothing => None,
        }
    }
}

/// What the key of an item's result is made of besides its stage kind, that kind's version and the class of arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    unit: String,
    work: Value,
    item: Value,
    shared: Vec<Option<Digest>>,
    inputs: Vec<Option<Digest>>,
}

impl Item {
    /// An item with these serialised parameters and these inputs. Only [`Context::map`](super::Context::map) and tests make items.
    #[must_use]
    pub(crate) fn new(unit: &str, work: Value, item: Value, shared: &[ItemInput], inputs: &[ItemInput]) -> Self {
        let digests = |inputs: &[ItemInput]| inputs.iter().map(ItemInput::digest).collect();
        Self { unit: unit.to_owned(), work, item, shared: digests(shared), inputs: digests(inputs) }
    }

    /// The item's own parameters, read back from the key.
    pub(super) fn parameters<T: DeserializeOwned>(&self) -> Result<T, StageError> {
        read_back(&self.item)
    }
}

/// Parameters from the JSON that stands in the key.
pub(super) fn read_back<T: DeserializeOwned>(value: &Value) -> Result<T, StageError> {
    serde_json::from_value(value.clone())
        .map_err(|error| StageError::failed(format!("the parameters of an item cannot be read back: {error}")))
}
