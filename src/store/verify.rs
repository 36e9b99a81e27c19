//! Verification: every byte held against its name.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    Amount, Blobs, Digest, RunFacts, Store, StoreError,
    actions::{self, ActionEntry, ActionListed},
    backend::{Put, now},
    checkpoints,
    files::INDEX,
    record::Found,
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
    /// Whether the `format` file was damaged; it is made anew.
    pub format_rebuilt: bool,
    /// Other records that were damaged, by name: how a run went, which files were read, who works on what. They are removed: nothing
    /// is lost but time.
    pub records: Vec<String>,
    /// Records of what pipelines need that cannot be used, and why. They stay, and garbage collection removes nothing until the
    /// pipeline has run again.
    pub roots: Vec<(PathBuf, String)>,
}

impl Verified {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self { checked: self.checked, ..Self::default() }
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
        let blobs = self.list_by_digest("blobs")?;
        blobs.par_iter().try_for_each(|(digest, object)| {
            if share < 1.0 {
                let number = Digest::of(&[&draw[..], digest.as_bytes()].concat());
                let number = number.as_bytes().iter().take(4).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
                if f64::from(number) >= share * f64::from(u32::MAX) {
                    return Ok(());
                }
            }
            let result = self.check(digest);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(()) => found.checked.add(object.meta.size),
                Err(StoreError::Damaged(digest)) => found.damaged.push(digest),
                Err(StoreError::Missing(_)) => {}
                Err(other) => return Err(other),
            }
            Ok(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.damaged.sort_unstable();
        found.format_rebuilt = self.format_rebuilt;
        let roots = self.all_roots()?.into_iter();
        found.roots = roots.filter_map(|(name, record)| Some((self.backend.place(&name), record.err()?))).collect();
        for listed in self.list_actions()? {
            self.verify_action(&listed, &mut found)?;
        }
        for (_, object) in self.list_by_digest("items")? {
            let tree = self.item_tree(&object.name);
            let whole = tree.is_some_and(|tree| tree.entries().iter().all(|file| self.has(&file.digest, file.size)));
            if !whole && self.backend.delete(&object.name)? {
                found.dropped_items += 1;
            }
        }
        for object in self.backend.list("checkpoints")? {
            let Some(bytes) = self.read(&object.name)? else { continue };
            if checkpoints::open(&bytes).is_some() {
                found.checked.add(bytes.len() as u64);
            } else {
                self.quarantine(&object.name);
                found.damaged_checkpoints += 1;
            }
        }
        if self.index_is_torn() && self.backend.delete(INDEX)? {
            found.records.push(INDEX.to_owned());
        }
        found.records.extend(self.drop_damaged_leases()?);
        Ok(found)
    }

    /// Looks at an entry and at how its run went. Blobs are looked at before, so what is damaged is missing by now.
    fn verify_action(&self, listed: &ActionListed, found: &mut Verified) -> Result<(), StoreError> {
        let ActionListed { kind, key, .. } = listed;
        let whole = self.recorded(kind, key)?.is_some_and(|entry| self.has_all_of(&entry));
        if !whole && self.drop_action(kind, key)? {
            found.dropped.push((kind.clone(), *key));
        }
        let name = actions::facts(kind, key);
        match self.inspect::<RunFacts>(&name) {
            Found::Whole(facts) if facts.items.is_some_and(|list| !self.contains(&list)) => {
                // Which items it used is not known any more; what they gave is found all the same.
                self.write_record(&name, &RunFacts { items: None, ..facts }, Put { replace: true, durable: false })?;
                found.records.push(name);
            }
            Found::Torn | Found::Strange if self.backend.delete(&name)? => found.records.push(name),
            Found::Whole(_) | Found::Nothing | Found::Torn | Found::Strange => {}
            Found::Unreadable(error) => return Err(error),
        }
        Ok(())
    }

    fn has_all_of(&self, entry: &ActionEntry) -> bool {
        entry.outputs.values().all(|output| {
            let tree = self.tree(&output.tree);
            tree.is_ok_and(|tree| tree.entries().iter().all(|file| self.has(&file.digest, file.size)))
        })
    }
}
