//! Digests of files outside the store, remembered by size, times and inode, so that an unchanged file is not read again.
//!
//! One change cannot be seen like that: a program that keeps a file mapped for writing changes it without changing its times, until
//! the system writes the pages back. Such a file is to be closed before it is an input.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io,
    path::{Path, PathBuf},
};

use super::{
    Digest, Store,
    backend::{Put, now},
    file_index::{FileIndex, Stamp, decode, encode},
};

/// The name of the object that holds them.
pub(super) const INDEX: &str = "files/index";

impl Store {
    /// A torn index is an empty one: the files are read again.
    fn read_index(&self) -> BTreeMap<PathBuf, (Stamp, Digest)> {
        self.read(INDEX).ok().flatten().and_then(|bytes| decode(&bytes)).unwrap_or_default()
    }

    /// Whether the index is there and torn.
    pub(super) fn index_is_torn(&self) -> bool {
        self.read(INDEX).is_ok_and(|found| found.is_some_and(|bytes| decode(&bytes).is_none()))
    }

    /// The digest of a file outside the store. The file is read only if its size, times or inode are not those that are
    /// remembered. Call [`Store::keep_file_digests`] after the last one.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be read; [`io::ErrorKind::Other`] when it changes all the while.
    pub fn file_digest(&self, path: &Path) -> io::Result<Digest> {
        let path = std::path::absolute(path)?;
        let stamp = Stamp::of(&metadata_of_file(&path)?);
        if let Some((known, digest)) = self.with_index(|index| index.known.get(&path).copied())
            && known == stamp
        {
            return Ok(digest);
        }
        let mut stamp = stamp;
        for _ in 0..3 {
            let recorded = now();
            let digest = Digest::of_reader(&mut File::open(&path)?)?;
            let after = Stamp::of(&metadata_of_file(&path)?);
            if after == stamp {
                if !stamp.is_racy(recorded) {
                    self.with_index(|index| {
                        index.known.insert(path.clone(), (stamp, digest));
                        index.fresh.push(path.clone());
                    });
                }
                return Ok(digest);
            }
            stamp = after;
        }
        Err(io::Error::other("it changes while it is read"))
    }

    fn with_index<T>(&self, f: impl FnOnce(&mut FileIndex) -> T) -> T {
        let mut index = self.files.lock().expect("no panic while locked");
        f(index.get_or_insert_with(|| FileIndex { known: self.read_index(), fresh: Vec::new() }))
    }

    /// Writes down the digests that [`Store::file_digest`] found. Where that cannot be, in a read-only store, the files are read again
    /// next time.
    pub fn keep_file_digests(&self) {
        let fresh: Vec<_> = self.with_index(|index| {
            let fresh = std::mem::take(&mut index.fresh).into_iter();
            fresh.filter_map(|path| index.known.get(&path).map(|known| (path.clone(), *known))).collect()
        });
        if fresh.is_empty() {
            return;
        }
        // Another process may have written in the meantime. What is lost by a race is read again one day.
        let mut known = self.read_index();
        known.extend(fresh);
        let _ = self.write(INDEX, &encode(&known), Put { replace: true, durable: false });
    }

    /// Forgets files that are gone.
    pub(super) fn prune_file_digests(&self) {
        let mut known = self.read_index();
        let before = known.len();
        known.retain(|path, _| path.exists());
        if known.len() != before {
            let _ = self.write(INDEX, &encode(&known), Put { replace: true, durable: false });
        }
    }
}

fn metadata_of_file(path: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() { Err(io::Error::from(io::ErrorKind::IsADirectory)) } else { Ok(metadata) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn remembered(store: &Store, path: &Path) -> Option<Digest> {
        store.read_index().get(path).map(|(_, digest)| *digest)
    }

    #[test]
    fn a_young_file_is_read_each_time_and_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let path = folder.path().join("field.tif");
        std::fs::write(&path, "one").unwrap();
        assert_eq!(store.file_digest(&path).unwrap(), Digest::of(b"one"));
        store.keep_file_digests();
        assert_eq!(remembered(&store, &path), None, "it was changed a moment ago");
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        std::fs::File::open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(store.file_digest(&path).unwrap(), Digest::of(b"two"));
        assert!(store.file_digest(&folder.path().join("none")).is_err());
        assert!(store.file_digest(folder.path()).is_err());
    }

    #[test]
    fn racy_means_changed_as_late_as_it_was_read() {
        let second = 1_000_000_000;
        let stamp = Stamp { size: 1, modified: 100 * second, changed: 50 * second, inode: 7 };
        assert!(stamp.is_racy(Duration::from_secs(100)) && stamp.is_racy(Duration::from_secs(99)));
        assert!(stamp.is_racy(Duration::from_secs(102)) && !stamp.is_racy(Duration::from_secs(103)));
        assert!(Stamp { changed: 200 * second, ..stamp }.is_racy(Duration::from_secs(103)));
    }

    #[test]
    fn an_old_file_is_remembered_until_its_stamp_differs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let path = folder.path().join("field.tif");
        std::fs::write(&path, "one").unwrap();
        let stamp = Stamp::of(&std::fs::metadata(&path).unwrap());
        let claimed = Digest::of(b"what an earlier run found");
        let keep = |stamp| {
            store.with_index(|index| {
                index.known.insert(path.clone(), (stamp, claimed));
                index.fresh.push(path.clone());
            });
            store.keep_file_digests();
        };
        keep(stamp);
        let other = Store::open(store.root()).unwrap();
        assert_eq!(other.file_digest(&path).unwrap(), claimed, "not read again");
        for wrong in [
            Stamp { size: 4, ..stamp },
            Stamp { modified: stamp.modified + 1, ..stamp },
            Stamp { changed: stamp.changed - 1, ..stamp },
            Stamp { inode: stamp.inode + 1, ..stamp },
        ] {
            keep(wrong);
            let other = Store::open(store.root()).unwrap();
            assert_eq!(other.file_digest(&path).unwrap(), Digest::of(b"one"), "{wrong:?}");
        }
        std::fs::write(store.root().join(INDEX), "torn").unwrap();
        assert_eq!(Store::open(store.root()).unwrap().file_digest(&path).unwrap(), Digest::of(b"one"));
    }
}
