//! Checkpoints: states of unfinished or extensible work, each one atomic object.

use super::{
    Digest, Store, StoreError,
    fs::{self, Mode},
};

/// `<position>.milestone` or `<position>.latest`, the position with leading zeros, so that names sort by it.
fn parse(name: &str) -> Option<(u64, bool)> {
    let (position, suffix) = name.split_once('.')?;
    let milestone = match suffix {
        "milestone" => true,
        "latest" => false,
        _ => return None,
    };
    Some((position.parse().ok()?, milestone))
}

impl Store {
    pub(super) fn checkpoint_folder(&self, of: &Digest) -> std::path::PathBuf {
        self.root().join("checkpoints").join(of.to_string())
    }

    /// Positions that have a checkpoint, ascending, with their file names.
    fn checkpoints(&self, of: &Digest) -> Result<Vec<(u64, bool, String)>, StoreError> {
        let names = fs::list(&self.checkpoint_folder(of))?.into_iter();
        let mut found: Vec<_> = names.filter_map(|name| parse(&name).map(|(at, keep)| (at, keep, name))).collect();
        found.sort();
        Ok(found)
    }

    /// The checkpoint with the highest position that is not above `at_most`. A damaged one goes to quarantine, and the one
    /// below it is given.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn load_checkpoint(&self, of: &Digest, at_most: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        for (position, _, name) in self.checkpoints(of)?.into_iter().rev() {
            if position > at_most {
                continue;
            }
            let path = self.checkpoint_folder(of).join(&name);
            // Gone in the meantime: another process has a newer one.
            let Some(bytes) = fs::read(&path)? else { continue };
            if let Some(contents) = open(&bytes) {
                return Ok(Some((position, contents.to_vec())));
            }
            self.quarantine(&path, &format!("checkpoint-{}-{position}", of.short()))?;
        }
        Ok(None)
    }

    /// Keeps a checkpoint. It is safe against a loss of power before any older one goes. A `milestone` stays; others are
    /// replaced by the next.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save_checkpoint(&self, of: &Digest, position: u64, bytes: &[u8], milestone: bool) -> Result<(), StoreError> {
        let folder = self.checkpoint_folder(of);
        let mut sealed = Digest::of(bytes).as_bytes().to_vec();
        sealed.extend_from_slice(bytes);
        let suffix = if milestone { "milestone" } else { "latest" };
        let path = folder.join(format!("{position:020}.{suffix}"));
        let staged = fs::stage(&self.tmp(), &sealed, Mode::ReadOnly)?;
        fs::sync(staged.path())?;
        fs::publish(staged, &path)?;
        fs::sync(&folder)?;
        for (other, keep, name) in self.checkpoints(of)? {
            if !keep && (other < position || (milestone && other == position)) {
                fs::remove_file(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// The contents behind their digest, if it is theirs.
pub(super) fn open(sealed: &[u8]) -> Option<&[u8]> {
    let (check, contents) = sealed.split_at_checked(32)?;
    (check == Digest::of(contents).as_bytes()).then_some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_stay_and_the_newest_replaces_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let of = Digest::of(b"training");
        assert_eq!(store.load_checkpoint(&of, 9).unwrap(), None);
        for (position, milestone) in [(10, true), (20, false), (30, false), (40, true), (50, false)] {
            store.save_checkpoint(&of, position, &[position as u8], milestone).unwrap();
        }
        let positions: Vec<u64> = store.checkpoints(&of).unwrap().iter().map(|(position, ..)| *position).collect();
        assert_eq!(positions, [10, 40, 50]);
        assert_eq!(store.load_checkpoint(&of, 1000).unwrap(), Some((50, vec![50])));
        assert_eq!(store.load_checkpoint(&of, 49).unwrap(), Some((40, vec![40])));
        assert_eq!(store.load_checkpoint(&of, 9).unwrap(), None);
        let newest = store.checkpoint_folder(&of).join(format!("{:020}.latest", 50));
        std::fs::remove_file(&newest).unwrap();
        std::fs::write(&newest, b"torn").unwrap();
        assert_eq!(store.load_checkpoint(&of, 1000).unwrap(), Some((40, vec![40])));
        assert!(!newest.exists());
    }
}
