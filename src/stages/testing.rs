//! A host in memory, for the tests of stages.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Host, Item, Progress, StageError};
use crate::store::{Blobs, MemoryBlobs, Tree};

/// Keeps everything in memory, and counts what was recalled.
#[derive(Default)]
pub(crate) struct MemoryHost {
    pub(crate) blobs: MemoryBlobs,
    items: Mutex<BTreeMap<String, Tree>>,
    recalled: AtomicUsize,
    notes: Mutex<Vec<String>>,
}

impl MemoryHost {
    /// How many items came from the cache.
    pub(crate) fn recalled(&self) -> usize {
        self.recalled.load(Ordering::Relaxed)
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }
}

fn key(item: &Item) -> String {
    format!("{:?} {}", item.inputs, item.parameters)
}

impl Host for MemoryHost {
    fn blobs(&self) -> &dyn Blobs {
        &self.blobs
    }

    fn progress(&self, _: Progress) {}

    fn note(&self, message: &str) {
        self.notes.lock().unwrap().push(message.to_owned());
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn recall(&self, item: &Item) -> Option<Tree> {
        let found = self.items.lock().unwrap().get(&key(item)).cloned();
        self.recalled.fetch_add(usize::from(found.is_some()), Ordering::Relaxed);
        found
    }

    fn remember(&self, item: &Item, result: &Tree) -> Result<(), StageError> {
        self.items.lock().unwrap().insert(key(item), result.clone());
        Ok(())
    }

    fn load_checkpoint(&self, _: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
        Ok(None)
    }

    fn save_checkpoint(&self, _: u64, _: &[u8], _: bool) -> Result<(), StageError> {
        Ok(())
    }

    fn scratch(&self) -> Result<PathBuf, StageError> {
        Err(StageError::failed("no folder in this test"))
    }
}
