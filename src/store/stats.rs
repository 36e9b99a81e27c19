//! What the store holds.

use std::path::Path;

use serde::Serialize;

use super::{Store, StoreError, disk::list_sharded, fs};

/// A number of files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Bytes of all together.
    pub bytes: u64,
}

impl Amount {
    /// One more file.
    pub(super) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

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

/// The files in and under a folder.
pub(super) fn amount(folder: &Path) -> Result<Amount, StoreError> {
    let mut sum = Amount::default();
    for name in fs::list(folder)? {
        let path = folder.join(name);
        match fs::metadata(&path)? {
            Some(metadata) if metadata.is_dir() => sum = sum + amount(&path)?,
            Some(metadata) => sum.add(metadata.len()),
            None => {}
        }
    }
    Ok(sum)
}

impl Store {
    /// What the store holds.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let sharded = |name: &str| {
            let mut sum = Amount::default();
            for (_, path) in list_sharded(&self.root().join(name))? {
                if let Some(metadata) = fs::metadata(&path)? {
                    sum.add(metadata.len());
                }
            }
            Ok::<_, StoreError>(sum)
        };
        let mut actions: Vec<(String, u64)> = Vec::new();
        for (kind, ..) in self.list_actions()? {
            match actions.last_mut() {
                Some((last, count)) if *last == kind => *count += 1,
                _ => actions.push((kind, 1)),
            }
        }
        Ok(Stats {
            blobs: sharded("blobs")?,
            actions,
            items: sharded("items")?,
            checkpoints: amount(&self.root().join("checkpoints"))?,
            quarantine: amount(&self.root().join("quarantine"))?,
            temporary: amount(&self.tmp())?,
            pipelines: self
                .all_roots()?
                .into_iter()
                .filter_map(|(_, roots)| roots.map(|roots| (roots.pipeline, roots.project)))
                .collect(),
        })
    }
}
