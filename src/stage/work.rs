//! Work that is done, and cached, item by item.
//!
//! **An item's result can depend on nothing that is not in its key.** [`Context::map`](super::Context::map) takes no closure: the work is
//! a type, and what it computes with is itself and its item, *read back from the JSON that the key is made of*, and the bytes
//! behind digests that are in the key too. A field that is not serialised, or a value that stood beside the call, cannot reach
//! it.

use serde::{Serialize, de::DeserializeOwned};

use super::{Numerics, StageError, host::Host, item::ItemInput};
use crate::{
    artifact::Artifact,
    store::{Blobs, Digest},
};

/// The files of an item's result: names relative to the item, and bytes.
pub type ItemFiles = Vec<(String, Vec<u8>)>;

/// What is done to each item of a kind. The value is the parameters that matter to all items; it is part of every item's key.
pub trait ItemWork: Serialize + DeserializeOwned + Send + Sync {
    /// What tells an item from the others besides the contents of its inputs: its number, an id that chance hangs on.
    type Item: Serialize + DeserializeOwned + Send;
    /// What all items need and is made once, a model say.
    type Shared: Send + Sync;
    /// What the items are, plural: `cells`. Part of the key, so that two kinds of work in one stage never meet.
    const UNIT: &'static str;

    /// Makes what all items need, from the inputs that all items share. Not called when every item is cached.
    ///
    /// # Errors
    /// See [`StageError`].
    fn open(&self, inputs: &ItemContext) -> Result<Self::Shared, StageError>;

    /// Computes one item. `inputs`: this item's own.
    ///
    /// # Errors
    /// See [`StageError`]; the item's name for people is put in front of the message.
    fn run(&self, shared: &Self::Shared, item: Self::Item, inputs: &ItemContext) -> Result<ItemFiles, StageError>;
}

/// One item to be worked on.
#[derive(Clone, Debug)]
pub struct Work<'a, T> {
    /// What people call it, for messages only: ``cell `a` ``.
    pub name: String,
    /// See [`ItemWork::Item`].
    pub item: T,
    /// The item's own inputs.
    pub inputs: Vec<ItemInput<'a>>,
}

/// What the work on an item may use: the bytes behind the digests in its key, and the wish to stop.
#[derive(Clone, Copy)]
pub struct ItemContext<'a> {
    host: &'a dyn Host,
    inputs: &'a [ItemInput<'a>],
    items: usize,
}

impl<'a> ItemContext<'a> {
    pub(super) fn new(host: &'a dyn Host, inputs: &'a [ItemInput<'a>], items: usize) -> Self {
        Self { host, inputs, items }
    }

    /// The inputs, in the order in which they were named.
    #[must_use]
    pub fn inputs(&self) -> &'a [ItemInput<'a>] {
        self.inputs
    }

    /// The contents of input `index`; `None` for nothing.
    #[must_use]
    pub fn digest(&self, index: usize) -> Option<Digest> {
        self.inputs.get(index)?.digest()
    }

    /// The artifact at input `index`; `None` when that is something else.
    #[must_use]
    pub fn artifact(&self, index: usize) -> Option<&'a Artifact> {
        match self.inputs.get(index)? {
            ItemInput::Artifact(artifact) => Some(artifact),
            _ => None,
        }
    }

    /// The bytes of the blob or file at input `index`.
    ///
    /// # Errors
    /// When they cannot be read, or the file has changed since the plan was made, or there is nothing.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>, StageError> {
        match self.inputs.get(index) {
            Some(ItemInput::Blob(digest)) => Ok(self.host.blobs().get(digest)?),
            Some(ItemInput::File(file)) => file.read(),
            Some(ItemInput::Artifact(artifact)) => Ok(self.host.blobs().get(&artifact.digest())?),
            Some(ItemInput::Nothing) | None => Err(StageError::failed(format!("there is no input {index}"))),
        }
    }

    /// The store's blobs, to read the parts of an [`ItemContext::artifact`].
    #[must_use]
    pub fn blobs(&self) -> &'a dyn Blobs {
        self.host.blobs()
    }

    /// The class of arithmetic that it is computed in: it is in the key.
    #[must_use]
    pub fn numerics(&self) -> Numerics {
        self.host.numerics()
    }

    /// How many threads an item may use beside the others. A result must not depend on it.
    #[must_use]
    pub fn threads(&self) -> usize {
        rayon::current_num_threads().div_ceil(self.items.max(1))
    }

    /// Call it between pieces of work of at most a few tenths of a second.
    ///
    /// # Errors
    /// [`StageError::Cancelled`] when the user asked to stop.
    pub fn check(&self) -> Result<(), StageError> {
        if self.host.cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }
}
