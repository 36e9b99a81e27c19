//! What a running stage may use besides its inputs and parameters.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use rayon::prelude::*;

use super::StageError;
use crate::{
    artifact::ArtifactError,
    store::{Blobs, Digest, Tree, TreeEntry},
};

/// How far a stage is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What is counted, plural: `cells`, `epochs`.
    pub unit: &'static str,
    /// A few words for people: `ELBO -123.4`.
    pub message: String,
}

/// One item of a cached [`Context::map`]: what its result depends on, and nothing else.
#[derive(Clone, Debug)]
pub struct Item {
    /// Contents that the result depends on.
    pub inputs: Vec<Digest>,
    /// Everything else that the result depends on: the parameters that matter for an item, the item's number for a simulator, …
    pub parameters: serde_json::Value,
}

/// The files that an item gave, names relative to the item.
pub type ItemResult = Tree;

/// What the executor does for a running stage.
pub trait Host: Send + Sync {
    /// The store's blobs.
    fn blobs(&self) -> &dyn Blobs;
    /// Tells the listeners how far the stage is.
    fn progress(&self, progress: Progress);
    /// Tells the listeners something worth a line.
    fn note(&self, message: &str);
    /// Whether the user asked to stop.
    fn cancelled(&self) -> bool;
    /// The cached result of an item, if all its blobs are there.
    fn recall(&self, item: &Item) -> Option<Tree>;
    /// Caches the result of an item.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn remember(&self, item: &Item, result: &Tree) -> Result<(), StageError>;
    /// The cached checkpoint with the highest position that is not above `at_most`, of the same stage kind, version, inputs
    /// and parameters but those in [`super::StageKind::EXTENT`].
    ///
    /// # Errors
    /// When the store cannot be read. A damaged checkpoint is no error: an older one is given.
    fn load_checkpoint(&self, at_most: u64) -> Result<Option<(u64, Vec<u8>)>, StageError>;
    /// Keeps a checkpoint at a position (a step number). `milestone`: keep it for later extension; else a newer one replaces it.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn save_checkpoint(&self, position: u64, bytes: &[u8], milestone: bool) -> Result<(), StageError>;
    /// An empty folder of this stage's own, removed afterwards.
    ///
    /// # Errors
    /// When it cannot be made.
    fn scratch(&self) -> Result<PathBuf, StageError>;
}

/// What a running stage may use besides its inputs and parameters.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    host: &'a dyn Host,
}

impl<'a> Context<'a> {
    /// A context on this host.
    #[must_use]
    pub fn new(host: &'a dyn Host) -> Self {
        Self { host }
    }

    /// The store's blobs.
    #[must_use]
    pub fn blobs(&self) -> &'a dyn Blobs {
        self.host.blobs()
    }

    /// Tells how far the stage is. Cheap: call it as often as something changed.
    pub fn progress(&self, done: u64, total: u64, unit: &'static str, message: impl Into<String>) {
        self.host.progress(Progress { done, total, unit, message: message.into() });
    }

    /// Tells something worth a line: a cell left out and why.
    pub fn note(&self, message: impl AsRef<str>) {
        self.host.note(message.as_ref());
    }

    /// Call it between pieces of work of at most a few tenths of a second.
    ///
    /// # Errors
    /// [`StageError::Cancelled`] when the user asked to stop.
    pub fn check(&self) -> Result<(), StageError> {
        if self.host.cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// See [`Host::load_checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn load_checkpoint(&self, at_most: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
        self.host.load_checkpoint(at_most)
    }

    /// See [`Host::save_checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn save_checkpoint(&self, position: u64, bytes: &[u8], milestone: bool) -> Result<(), StageError> {
        self.host.save_checkpoint(position, bytes, milestone)
    }

    /// An empty folder of this stage's own, removed afterwards.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf, StageError> {
        self.host.scratch()
    }

    /// Maps over items in parallel; an item whose result is cached is not computed. `f` gives (name, bytes) of the files
    /// that the item's result consists of. Results come in the order of the items. Where some were cached, a note tells how many
    /// were not.
    ///
    /// # Errors
    /// The error of the first item (by order) that failed; [`StageError::Cancelled`]. Results of finished items are kept.
    pub fn map<F>(&self, unit: &'static str, items: &[Item], f: F) -> Result<Vec<ItemResult>, StageError>
    where
        F: Fn(usize) -> Result<Vec<(String, Vec<u8>)>, StageError> + Sync,
    {
        let (done, computed) = (AtomicU64::new(0), AtomicU64::new(0));
        let total = items.len() as u64;
        let one = |(index, item): (usize, &Item)| {
            self.check()?;
            let result = if let Some(result) = self.host.recall(item) {
                result
            } else {
                let mut entries = Vec::new();
                for (name, bytes) in f(index)? {
                    let digest = self.blobs().put(&bytes)?;
                    entries.push(TreeEntry { name, digest, size: bytes.len() as u64 });
                }
                let result = Tree::new(entries).map_err(ArtifactError::from)?;
                self.host.remember(item, &result)?;
                computed.fetch_add(1, Ordering::Relaxed);
                result
            };
            self.progress(done.fetch_add(1, Ordering::Relaxed) + 1, total, unit, "");
            Ok(result)
        };
        let results: Vec<Result<Tree, StageError>> = items.par_iter().enumerate().map(one).collect();
        let results = results.into_iter().collect::<Result<Vec<Tree>, StageError>>()?;
        let computed = computed.into_inner();
        if computed < total {
            self.note(format!("{computed} of {total} {unit} computed, the others were cached"));
        }
        Ok(results)
    }
}
