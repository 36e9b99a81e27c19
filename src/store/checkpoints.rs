//! Checkpoints: states of unfinished or extensible work, each one atomic object.

use std::io::Write;

use super::{
    Digest, Store, StoreError,
    backend::{Put, failed},
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
    /// Positions that have a checkpoint, ascending, with the names of their objects.
    fn checkpoints(&self, of: &Digest) -> Result<Vec<(u64, bool, String)>, StoreError> {
        let folder = format!("checkpoints/{of}");
        let listed = self.backend.list(&folder)?.into_iter();
        let parsed = listed.filter_map(|object| {
            let (position, milestone) = parse(&object.name[folder.len() + 1..])?;
            Some((position, milestone, object.name))
        });
        let mut found: Vec<_> = parsed.collect();
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
            // Gone in the meantime: another process has a newer one.
            let Some(mut bytes) = self.read(&name)? else { continue };
            if open(&bytes).is_some() {
                bytes.drain(..32);
                return Ok(Some((position, bytes)));
            }
            self.quarantine(&name);
        }
        Ok(None)
    }

    /// Keeps a checkpoint. It is safe against a loss of power before any older one goes. A `milestone` stays; others are
    /// replaced by the next.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save_checkpoint(&self, of: &Digest, position: u64, bytes: &[u8], milestone: bool) -> Result<(), StoreError> {
        let suffix = if milestone { "milestone" } else { "latest" };
        let name = format!("checkpoints/{of}/{position:020}.{suffix}");
        let mut staged = self.backend.stage()?;
        let written = staged.write_all(Digest::of(bytes).as_bytes()).and_then(|()| staged.write_all(bytes));
        written.map_err(failed("write", self.backend.place(&name)))?;
        staged.publish(&name, Put { replace: true, durable: true })?;
        for (other, keep, name) in self.checkpoints(of)? {
            if !keep && (other < position || (milestone && other == position)) {
                self.backend.delete(&name)?;
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
        let newest = folder.path().join(format!("checkpoints/{of}/{:020}.latest", 50));
        std::fs::remove_file(&newest).unwrap();
        std::fs::write(&newest, b"torn").unwrap();
        assert_eq!(store.load_checkpoint(&of, 1000).unwrap(), Some((40, vec![40])));
        assert!(!newest.exists());
    }
}
