//! What the executor does for a running stage.

use std::path::PathBuf;

use super::{Numerics, StageError, item::Item};
use crate::store::{Blobs, Tree};

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

/// What the executor does for a running stage.
pub trait Host: Send + Sync {
    /// The store's blobs.
    fn blobs(&self) -> &dyn Blobs;
    /// The class of arithmetic that the stage's key promises.
    fn numerics(&self) -> Numerics;
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
    /// The running program's own executable, to be started again as a helper.
    ///
    /// # Errors
    /// When the system does not tell.
    fn program(&self) -> Result<PathBuf, StageError> {
        std::env::current_exe()
            .map_err(|error| StageError::failed(format!("where this program lies is not known: {error}")))
    }
    /// An empty folder of this stage's own, removed afterwards.
    ///
    /// # Errors
    /// When it cannot be made.
    fn scratch(&self) -> Result<PathBuf, StageError>;
}
