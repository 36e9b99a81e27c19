//! What a running stage may use besides its inputs and parameters.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::{
    Numerics, StageError,
    host::{Host, Progress},
    item::{Item, ItemInput, read_back},
    printable,
    work::{ItemContext, ItemWork, Work},
};
use crate::{
    artifact::ArtifactError,
    store::{Blobs, Tree, TreeEntry},
};

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

    /// The class of arithmetic that the stage computes in: it is in its key.
    #[must_use]
    pub fn numerics(&self) -> Numerics {
        self.host.numerics()
    }

    /// Tells how far the stage is. Cheap: call it as often as something changed.
    pub fn progress(&self, done: u64, total: u64, unit: &'static str, message: impl Into<String>) {
        self.host.progress(Progress { done, total, unit, message: message.into() });
    }

    /// Tells something worth a line: a cell left out and why.
    pub fn note(&self, message: impl AsRef<str>) {
        self.host.note(&printable(message.as_ref()));
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

    /// See [`Host::program`].
    ///
    /// # Errors
    /// As there.
    pub fn program(&self) -> Result<PathBuf, StageError> {
        self.host.program()
    }

    /// An empty folder of this stage's own, removed afterwards.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf, StageError> {
        self.host.scratch()
    }

    /// Does `work` on every item, in parallel; an item whose result is cached is not computed. `shared`: inputs that every item
    /// depends on. Results come in the order of the items. Where some were cached, a note tells how many were not.
    ///
    /// What the work sees is read back from the key of the item: see [`ItemWork`].
    ///
    /// # Errors
    /// The error of the first item (by order) that failed; [`StageError::Cancelled`]. Results of finished items are kept.
    pub fn map<W: ItemWork>(
        &self,
        work: &W,
        shared: &[ItemInput],
        items: &[Work<W::Item>],
    ) -> Result<Vec<Tree>, StageError>
    where
        W::Item: Sync,
    {
        let parameters = json(work)?;
        let work: W = read_back(&parameters)?;
        let keyed =
            |one: &Work<W::Item>| Ok(Item::new(W::UNIT, parameters.clone(), json(&one.item)?, shared, &one.inputs));
        let keyed: Vec<Item> = items.iter().map(keyed).collect::<Result<_, StageError>>()?;
        let (done, total) = (AtomicU64::new(0), items.len() as u64);
        let advance = || self.progress(done.fetch_add(1, Ordering::Relaxed) + 1, total, W::UNIT, "");
        let recall = |item: &Item| {
            self.check()?;
            Ok(self.host.recall(item).inspect(|_| advance()))
        };
        let recalled = keyed.par_iter().map(recall).collect::<Vec<Result<Option<Tree>, StageError>>>();
        let recalled = recalled.into_iter().collect::<Result<Vec<_>, StageError>>()?;
        let missing = recalled.iter().filter(|result| result.is_none()).count();
        let opened = if missing > 0 { Some(work.open(&ItemContext::new(self.host, shared, missing))?) } else { None };
        let one = |((one, item), recalled): ((&Work<W::Item>, &Item), Option<Tree>)| {
            let Some(opened) = opened.as_ref().filter(|_| recalled.is_none()) else {
                return Ok(recalled.expect("nothing is missing"));
            };
            self.check()?;
            let context = ItemContext::new(self.host, &one.inputs, missing);
            let files = item.parameters().and_then(|item| work.run(opened, item, &context));
            let mut entries = Vec::new();
            for (name, bytes) in files.map_err(|error| error.about(&one.name))? {
                let digest = self.blobs().put(&bytes)?;
                entries.push(TreeEntry { name, digest, size: bytes.len() as u64 });
            }
            let result = Tree::new(entries).map_err(ArtifactError::from)?;
            self.host.remember(item, &result)?;
            advance();
            Ok(result)
        };
        let results: Vec<Result<Tree, StageError>> = items.par_iter().zip(&keyed).zip(recalled).map(one).collect();
        let results = results.into_iter().collect::<Result<Vec<Tree>, StageError>>()?;
        if (missing as u64) < total {
            self.note(format!("{missing} of {total} {} computed, the others were cached", W::UNIT));
        }
        Ok(results)
    }
}

fn json(value: &impl Serialize) -> Result<Value, StageError> {
    serde_json::to_value(value)
        .map_err(|error| StageError::failed(format!("the parameters of an item are no plain data: {error}")))
}
