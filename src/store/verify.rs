//! Verification: every byte held against its name.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    Amount, Blobs, Digest, Store, StoreError, checkpoints,
    disk::{list_sharded, now},
    fs, items,
};

/// What a verification found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// What was read.
    pub checked: Amount,
    /// Blobs whose bytes did not match their name; they are in quarantine now.
    pub damaged: Vec<Digest>,
    /// Entries (stage kind, key) that were torn or needed a blob that is not there; they are removed: the stages run again.
    pub dropped: Vec<(String, Digest)>,
    /// Item results that were removed for the same reasons.
    pub dropped_items: u64,
    /// Checkpoints that were damaged; they are in quarantine now.
    pub damaged_checkpoints: u64,
}

impl Verified {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.dropped.is_empty() && self.dropped_items == 0 && self.damaged_checkpoints == 0
    }
}

impl Store {
    /// Reads every blob, or a random part of them (`share` of 1.0: all), quarantines what is damaged, and removes the entries
    /// that need what is not there. Safe beside running processes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn verify(&self, share: f64) -> Result<Verified, StoreError> {
        let found = Mutex::new(Verified::default());
        let draw = now().as_nanos().to_le_bytes();
        let blobs = list_sharded(&self.root().join("blobs"))?;
        blobs.par_iter().try_for_each(|(digest, _)| {
            if share < 1.0 {
                let number = Digest::of(&[&draw[..], digest.as_bytes()].concat());
                let number = number.as_bytes().iter().take(4).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
                if f64::from(number) >= share * f64::from(u32::MAX) {
                    return Ok(());
                }
            }
            let result = self.get(digest);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(bytes) => found.checked.add(bytes.len() as u64),
                Err(StoreError::Damaged(digest)) => found.damaged.push(digest),
                Err(StoreError::Missing(_)) => {}
                Err(other) => return Err(other),
            }
            Ok(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.damaged.sort_unstable();
        for (kind, key, _) in self.list_actions()? {
            let whole = match self.action(&kind, &key)? {
                Some(entry) => entry.outputs.values().all(|output| {
                    let tree = self.tree(&output.tree);
                    tree.is_ok_and(|tree| tree.entries().iter().all(|file| self.has(&file.digest, file.size)))
                }),
                None => false,
            };
            if !whole && self.drop_action(&kind, &key)? {
                found.dropped.push((kind, key));
            }
        }
        for (_, path) in list_sharded(&self.root().join("items"))? {
            let whole = items::read(&path)
                .is_some_and(|tree| tree.entries().iter().all(|file| self.has(&file.digest, file.size)));
            if !whole && fs::remove_file(&path)? {
                found.dropped_items += 1;
            }
        }
        let folder = self.root().join("checkpoints");
        for of in fs::list(&folder)? {
            for name in fs::list(&folder.join(&of))? {
                let path = folder.join(&of).join(&name);
                let Some(bytes) = fs::read(&path)? else { continue };
                if checkpoints::open(&bytes).is_some() {
                    found.checked.add(bytes.len() as u64);
                } else {
                    self.quarantine(&path, &format!("checkpoint-{of}-{name}"))?;
                    found.damaged_checkpoints += 1;
                }
            }
        }
        Ok(found)
    }
}
