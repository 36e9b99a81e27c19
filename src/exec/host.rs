//! What the executor does for one running stage.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
};

use super::{Interrupt, run::Message};
use crate::{
    plan::keys::Ingredients,
    stage::{Host, Item, Numerics, Progress, StageError},
    store::{Blobs, Digest, Scratch, Store, StoreError, Tree},
};

/// The last progress that a stage told, until the dispatcher fetches it: so a stage may tell as often as it likes.
pub(super) type ProgressSlot = Arc<Mutex<Option<Progress>>>;

/// The store's blobs; remembers which were damaged or missing, whatever the stage makes of the error.
pub(super) struct WatchedBlobs<'a> {
    store: &'a Store,
    bad: Mutex<BTreeSet<Digest>>,
}

impl WatchedBlobs<'_> {
    fn watch<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(digest) = result.as_ref().err().and_then(StoreError::blob) {
            self.bad.lock().expect("no panic while locked").insert(digest);
        }
        result
    }
}

impl Blobs for WatchedBlobs<'_> {
    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.watch(self.store.put(bytes))
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.watch(self.store.get(digest))
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.store.contains(digest)
    }

    fn put_from(&self, from: &mut dyn Read) -> Result<io::Result<(Digest, u64)>, StoreError> {
        self.watch(self.store.put_from(from))
    }

    fn copy_to(&self, digest: &Digest, to: &mut dyn Write) -> Result<io::Result<()>, StoreError> {
        self.watch(self.store.copy_to(digest, to))
    }
}

/// What the executor does for one running stage.
pub(super) struct LocalHost<'a> {
    index: usize,
    blobs: WatchedBlobs<'a>,
    ingredients: &'a Ingredients,
    checkpoints: Digest,
    keeps_checkpoints: AtomicBool,
    items: Mutex<BTreeSet<Digest>>,
    folders: Mutex<Vec<Scratch>>,
    progress: ProgressSlot,
    messages: Mutex<Sender<Message>>,
    interrupt: &'a Interrupt,
}

impl<'a> LocalHost<'a> {
    /// A host for the instance at `index`.
    pub(super) fn new(
        index: usize,
        store: &'a Store,
        ingredients: &'a Ingredients,
        extent: &[&str],
        progress: ProgressSlot,
        messages: Sender<Message>,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            index,
            blobs: WatchedBlobs { store, bad: Mutex::default() },
            ingredients,
            checkpoints: ingredients.checkpoints_key(extent),
            keeps_checkpoints: AtomicBool::new(!extent.is_empty()),
            items: Mutex::default(),
            folders: Mutex::default(),
            progress,
            messages: Mutex::new(messages),
            interrupt,
        }
    }

    /// Blobs that were asked for and were damaged or missing.
    pub(super) fn bad_blobs(&self) -> BTreeSet<Digest> {
        self.blobs.bad.lock().expect("no panic while locked").clone()
    }

    /// Where checkpoints lie, if the stage keeps any.
    pub(super) fn checkpoints(&self) -> Option<Digest> {
        self.keeps_checkpoints.load(Ordering::SeqCst).then_some(self.checkpoints)
    }

    /// The keys of the item results that were used, 32 bytes each.
    pub(super) fn item_keys(&self) -> Vec<u8> {
        let items = self.items.lock().expect("no panic while locked");
        items.iter().flat_map(|key| *key.as_bytes()).collect()
    }

    fn item_key(&self, item: &Item) -> Digest {
        let key = self.ingredients.item_key(item);
        self.items.lock().expect("no panic while locked").insert(key);
        key
    }
}

impl Host for LocalHost<'_> {
    fn blobs(&self) -> &dyn Blobs {
        &self.blobs
    }

    fn numerics(&self) -> Numerics {
        self.ingredients.numerics
    }

    fn progress(&self, progress: Progress) {
        *self.progress.lock().expect("no panic while locked") = Some(progress);
    }

    fn note(&self, message: &str) {
        let note = Message::Note { index: self.index, message: message.to_owned() };
        // The dispatcher outlives the stages; if it does not, nobody listens.
        let _ = self.messages.lock().expect("no panic while locked").send(note);
    }

    fn cancelled(&self) -> bool {
        self.interrupt.is_requested()
    }

    fn recall(&self, item: &Item) -> Option<Tree> {
        self.blobs.store.item(&self.item_key(item))
    }

    fn remember(&self, item: &Item, result: &Tree) -> Result<(), StageError> {
        Ok(self.blobs.store.put_item(&self.item_key(item), result)?)
    }

    fn load_checkpoint(&self, at_most: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
        Ok(self.blobs.store.load_checkpoint(&self.checkpoints, at_most)?)
    }

    fn save_checkpoint(&self, position: u64, bytes: &[u8], milestone: bool) -> Result<(), StageError> {
        self.keeps_checkpoints.store(true, Ordering::SeqCst);
        Ok(self.blobs.store.save_checkpoint(&self.checkpoints, position, bytes, milestone)?)
    }

    fn scratch(&self) -> Result<PathBuf, StageError> {
        let folder = self.blobs.store.scratch()?;
        let path = folder.path().to_owned();
        self.folders.lock().expect("no panic while locked").push(folder);
        Ok(path)
    }
}
