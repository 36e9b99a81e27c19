//! What the store holds.

use serde::Serialize;

use super::{
    Amount, Store, StoreError,
    actions::ActionListed,
    disk::{QUARANTINE, TMP},
};

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Blobs: the contents of artifacts and of item results.
    pub blobs: Amount,
    /// Action entries, by stage kind.
    pub actions: Vec<(String, u64)>,
    /// Results of single items.
    pub items: Amount,
    /// Checkpoints.
    pub checkpoints: Amount,
    /// Damaged files, kept aside.
    pub quarantine: Amount,
    /// Files on their way to a name, or left by a process that was killed.
    pub temporary: Amount,
    /// Pipelines whose latest results are kept: name and file.
    pub pipelines: Vec<(String, String)>,
}

impl Stats {
    /// Everything together.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.blobs + self.items + self.checkpoints + self.quarantine + self.temporary
    }
}

impl Store {
    /// What the store holds.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let mut actions: Vec<(String, u64)> = Vec::new();
        for ActionListed { kind, .. } in self.list_actions()?.into_iter().filter(|listed| listed.has_entry) {
            match actions.last_mut() {
                Some((last, count)) if *last == kind => *count += 1,
                _ => actions.push((kind, 1)),
            }
        }
        let records = self.all_roots()?.into_iter().filter_map(|(_, record)| record.ok());
        let mut pipelines: Vec<(String, String)> = records.map(|record| (record.pipeline, record.project)).collect();
        pipelines.sort();
        pipelines.dedup();
        Ok(Stats {
            blobs: self.backend.amount("blobs")?,
            actions,
            items: self.backend.amount("items")?,
            checkpoints: self.backend.amount("checkpoints")?,
            quarantine: self.backend.amount(QUARANTINE)?,
            temporary: self.backend.amount(TMP)?,
            pipelines,
        })
    }
}
