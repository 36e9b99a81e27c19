//! Digests of files outside the store, remembered by size, times and inode, so that an unchanged file is not read again.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Digest, Store, StoreError,
    disk::now,
    fs::{self, Mode},
};

/// A file that was changed this shortly before it was read may be changed again without its times telling: file systems count
/// time in steps (of up to two seconds). Its digest is used, but not trusted later.
const RACY: Duration = Duration::from_secs(2);

/// What tells whether a file is the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: u64,
    changed: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = fs::modified(metadata).as_nanos() as u64;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let changed = metadata.ctime() as u64 * 1_000_000_000 + metadata.ctime_nsec() as u64;
            Self { size: metadata.len(), modified, changed, inode: metadata.ino() }
        }
        #[cfg(not(unix))]
        Self { size: metadata.len(), modified, changed: 0, inode: 0 }
    }

    fn is_racy(self, recorded: Duration) -> bool {
        Duration::from_nanos(self.modified.max(self.changed)) + RACY >= recorded
    }
}

/// Remembered digests by absolute path.
#[derive(Debug, Default)]
pub(super) struct FileIndex {
    known: BTreeMap<PathBuf, (Stamp, Digest)>,
    fresh: Vec<PathBuf>,
}

const HEADER: &str = "statcell-files 1";

fn encode(known: &BTreeMap<PathBuf, (Stamp, Digest)>) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = format!("{HEADER}\n");
    for (path, (stamp, digest)) in known {
        // A path that is no text, or of more than a line, is read each time.
        let Some(path) = path.to_str().filter(|path| !path.contains('\n')) else { continue };
        let Stamp { size, modified, changed, inode } = stamp;
        writeln!(text, "{digest} {size} {modified} {changed} {inode} {path}").expect("writing to a string");
    }
    let check = Digest::of(text.as_bytes());
    text.insert_str(0, &format!("{check}\n"));
    text.into_bytes()
}

/// A torn or unknown index is an empty one.
fn decode(bytes: &[u8]) -> BTreeMap<PathBuf, (Stamp, Digest)> {
    let parse = || {
        let (check, text) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let lines = text.strip_prefix(HEADER)?.lines().skip(1);
        if check.parse::<Digest>().ok()? != Digest::of(text.as_bytes()) {
            return None;
        }
        lines
            .map(|line| {
                let mut parts = line.splitn(6, ' ');
                let digest = parts.next()?.parse().ok()?;
                let mut number = || parts.next()?.parse().ok();
                let (size, modified, changed, inode) = (number()?, number()?, number()?, number()?);
                Some((PathBuf::from(parts.next()?), (Stamp { size, modified, changed, inode }, digest)))
            })
            .collect::<Option<_>>()
    };
    parse().unwrap_or_default()
}

impl Store {
    fn index_path(&self) -> PathBuf {
        self.root().join("files").join("index")
    }

    fn read_index(&self) -> BTreeMap<PathBuf, (Stamp, Digest)> {
        fs::read(&self.index_path()).ok().flatten().map(|bytes| decode(&bytes)).unwrap_or_default()
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
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(&path)?)?;
            let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
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

    /// Writes down the digests that [`Store::file_digest`] found.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_file_digests(&self) -> Result<(), StoreError> {
        let fresh: Vec<_> = self.with_index(|index| {
            let fresh = std::mem::take(&mut index.fresh).into_iter();
            fresh.filter_map(|path| index.known.get(&path).map(|known| (path.clone(), *known))).collect()
        });
        if fresh.is_empty() {
            return Ok(());
        }
        // Another process may have written in the meantime. What is lost by a race is read again one day.
        let mut known = self.read_index();
        known.extend(fresh);
        fs::publish(fs::stage(&self.tmp(), &encode(&known), Mode::Writable)?, &self.index_path())
    }

    /// Forgets files that are gone.
    pub(super) fn prune_file_digests(&self) -> Result<(), StoreError> {
        let mut known = self.read_index();
        let before = known.len();
        known.retain(|path, _| path.exists());
        if known.len() == before {
            return Ok(());
        }
        fs::publish(fs::stage(&self.tmp(), &encode(&known), Mode::Writable)?, &self.index_path())
    }
}

fn metadata_of_file(path: &Path) -> io::Result<Metadata> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() { Err(io::Error::from(io::ErrorKind::IsADirectory)) } else { Ok(metadata) }
}

#[cfg(test)]
mod tests {
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
        store.keep_file_digests().unwrap();
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
            store.keep_file_digests().unwrap();
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
        std::fs::write(store.index_path(), "torn").unwrap();
        assert_eq!(Store::open(store.root()).unwrap().file_digest(&path).unwrap(), Digest::of(b"one"));
    }
}
