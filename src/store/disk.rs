//! The store on disk.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use super::{
    Blobs, Digest, StoreError, Tree,
    files::FileIndex,
    fs::{self, Mode},
};

/// The version of the layout. Another layout, another number: an old program then says so instead of misreading.
const FORMAT: &str = "statcell-store 1\n";

const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache that statcell made. Backup programs may leave it out; it can be made again.\n\
    # See https://bford.info/cachedir/\n";

/// A content-addressed store in a folder.
///
/// ```text
/// format                       the layout's version
/// blobs/ab/cdef…               bytes, named by their BLAKE3, read-only
/// actions/<kind>/<key>.json    what a stage gave for a key, and what the key consists of
/// actions/<kind>/<key>.facts.json  how that run went: seconds, host, program version
/// items/ab/cdef…               results of single items (a cell's features)
/// checkpoints/<key>/…          states of unfinished or extensible work
/// roots/<pipeline>-<id>.json   what each pipeline needed last: what garbage collection keeps
/// files/index                  digests of files outside the store, by size, times and inode
/// leases/                      who is working on what, to save double work
/// quarantine/                  bytes that did not match their name
/// tmp/                         files on their way to a name
/// ```
///
/// Every file is written under `tmp/` and then given its name in one step, so a reader sees all of it or nothing; a crash leaves
/// at worst a file whose check fails, which counts as missing. Nothing is correct only because a lock was held.
pub struct Store {
    root: PathBuf,
    pub(super) files: Mutex<Option<FileIndex>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in this folder, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] when the folder holds something else, or a store of another version; [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self { root: absolute(path)?, files: Mutex::new(None) };
        if store.has_format()? {
            return Ok(store);
        }
        let strangers: Vec<String> = fs::list(path)?
            .into_iter()
            .filter(|name| !matches!(name.as_str(), "format" | "CACHEDIR.TAG" | ".gitignore" | "tmp"))
            .collect();
        if !strangers.is_empty() {
            let reason = format!("is not empty and is no store: it holds `{}`", strangers[0]);
            return Err(StoreError::NotAStore { path: path.to_owned(), reason });
        }
        fs::create_folder(&store.tmp())?;
        // `format` comes last: a folder that has it has the rest.
        for (name, text) in [("CACHEDIR.TAG", CACHE_TAG), (".gitignore", "*\n"), ("format", FORMAT)] {
            fs::publish(fs::stage(&store.tmp(), text.as_bytes(), Mode::Writable)?, &store.root.join(name))?;
        }
        Ok(store)
    }

    /// Opens the store in this folder.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] when there is none; else as [`Store::open`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        let store = Self { root: absolute(path)?, files: Mutex::new(None) };
        if store.has_format()? {
            return Ok(store);
        }
        Err(StoreError::NotAStore { path: path.to_owned(), reason: "is no store".to_owned() })
    }

    /// Whether the folder has a `format` file; an empty one is a crash while the store was made.
    fn has_format(&self) -> Result<bool, StoreError> {
        let Some(metadata) = fs::metadata(&self.root)? else { return Ok(false) };
        if !metadata.is_dir() {
            return Err(StoreError::NotAStore { path: self.root.clone(), reason: "is a file, no folder".to_owned() });
        }
        let Some(bytes) = fs::read(&self.root.join("format"))? else { return Ok(false) };
        if bytes == FORMAT.as_bytes() {
            return Ok(true);
        }
        if bytes.is_empty() || FORMAT.as_bytes().starts_with(&bytes) {
            return Ok(false);
        }
        let found = String::from_utf8_lossy(&bytes).trim().to_owned();
        let reason = format!("is a store of another version: `{found}`, where this program knows `{}`", FORMAT.trim());
        Err(StoreError::NotAStore { path: self.root.clone(), reason })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        sharded(&self.root.join("blobs"), digest)
    }

    /// Whether there is a blob of this name and size (its bytes are not checked).
    #[must_use]
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        std::fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// The tree of this name.
    ///
    /// # Errors
    /// As [`Blobs::get`]; [`StoreError::Malformed`] when the blob is no tree.
    pub fn tree(&self, digest: &Digest) -> Result<Tree, StoreError> {
        Tree::decode(&self.get(digest)?)
    }

    /// An empty folder in the store's file system, gone when the value is dropped.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be made.
    pub fn scratch(&self) -> Result<tempfile::TempDir, StoreError> {
        let tmp = self.tmp();
        fs::create_folder(&tmp)?;
        tempfile::Builder::new().prefix("scratch-").tempdir_in(&tmp).map_err(fs::failed("create a folder in", &tmp))
    }

    /// Makes sure that blobs outlive a loss of power: for results that took long.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn sync_blobs(&self, digests: impl Iterator<Item = Digest>) -> Result<(), StoreError> {
        let mut folders = std::collections::BTreeSet::new();
        for digest in digests {
            let path = self.blob_path(&digest);
            fs::sync(&path)?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        folders.insert(self.root.join("blobs"));
        folders.iter().try_for_each(|folder| fs::sync(folder))
    }

    /// Moves a damaged file out of the way.
    pub(super) fn quarantine(&self, path: &Path, name: &str) -> Result<(), StoreError> {
        let folder = self.root.join("quarantine");
        fs::create_folder(&folder)?;
        let stamp = now().as_nanos();
        fs::rename(path, &folder.join(format!("{name}-{stamp:x}")))?;
        Ok(())
    }

    /// Whether the blob at `path` is there with these bytes. Says that it was used, so that garbage collection sees it as young;
    /// a damaged one goes to quarantine.
    fn keeps(&self, path: &Path, digest: &Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let Some(mut file) = fs::open(path)? else { return Ok(false) };
        if !fs::holds(&mut file, bytes).map_err(fs::failed("read", path))? {
            self.quarantine(path, &digest.to_string())?;
            return Ok(false);
        }
        if !fs::touch(&file) {
            // Somebody else's file in a shared store: a copy of our own is as good, and young.
            fs::publish(fs::stage(&self.tmp(), bytes, Mode::ReadOnly)?, path)?;
        }
        // Garbage collection moves a blob away, looks whether it was touched, and only then removes it: so a blob that is still
        // here after the touch stays.
        Ok(fs::metadata(path)?.is_some())
    }
}

impl Blobs for Store {
    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        while !self.keeps(&path, &digest, bytes)? {
            if fs::publish_new(fs::stage(&self.tmp(), bytes, Mode::ReadOnly)?, &path)? {
                break;
            }
        }
        Ok(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path)?.ok_or(StoreError::Missing(*digest))?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        self.quarantine(&path, &digest.to_string())?;
        Err(StoreError::Damaged(*digest))
    }

    fn contains(&self, digest: &Digest) -> bool {
        std::fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.is_file())
    }
}

/// `folder/ab/cdef…`
pub(super) fn sharded(folder: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    folder.join(&name[..2]).join(&name[2..])
}

/// Every digest that has a file under `folder/ab/`, with its path, in order.
pub(super) fn list_sharded(folder: &Path) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for shard in fs::list(folder)?.into_iter().filter(|name| name.len() == 2) {
        for rest in fs::list(&folder.join(&shard))? {
            if let Ok(digest) = format!("{shard}{rest}").parse() {
                found.push((digest, folder.join(&shard).join(rest)));
            }
        }
    }
    Ok(found)
}

/// Now, as the time since the epoch.
pub(super) fn now() -> Duration {
    fs::since_epoch(SystemTime::now())
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(fs::failed("find", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    #[test]
    fn blobs_come_back_and_are_read_only() {
        let (_folder, store) = store();
        let digest = store.put(b"cell").unwrap();
        assert_eq!(store.put(b"cell").unwrap(), digest);
        assert_eq!(store.get(&digest).unwrap(), b"cell");
        assert!(store.has(&digest, 4) && !store.has(&digest, 5));
        assert!(std::fs::metadata(store.blob_path(&digest)).unwrap().permissions().readonly());
        let missing = Digest::of(b"none");
        assert!(matches!(store.get(&missing), Err(StoreError::Missing(name)) if name == missing));
        assert_eq!(std::fs::read_dir(store.tmp()).unwrap().count(), 0);
    }

    #[test]
    fn many_may_write_at_once() {
        // Each store is new: all threads meet where its folders are made.
        for round in 0..20_u32 {
            let (_folder, store) = store();
            let barrier = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for thread in 0..8_u32 {
                    let (store, barrier) = (&store, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        for number in 0..8 {
                            let own = format!("{round} {thread} {number}");
                            store.put(own.as_bytes()).unwrap();
                            store.put(format!("{round} {number}").as_bytes()).unwrap();
                        }
                    });
                }
            });
            assert_eq!(store.stats().unwrap().blobs.files, 72);
        }
    }

    fn damage(path: &Path, bytes: &[u8]) {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_damaged_blob_is_found_quarantined_and_healed() {
        let (_folder, store) = store();
        let digest = store.put(b"cell").unwrap();
        damage(&store.blob_path(&digest), b"cel!");
        assert!(matches!(store.get(&digest), Err(StoreError::Damaged(_))));
        assert!(matches!(store.get(&digest), Err(StoreError::Missing(_))));
        assert_eq!(fs::list(&store.root.join("quarantine")).unwrap().len(), 1);
        store.put(b"cell").unwrap();
        // Writing the same contents again also heals: a damaged blob does not shadow the good bytes.
        damage(&store.blob_path(&digest), b"");
        store.put(b"cell").unwrap();
        assert_eq!(store.get(&digest).unwrap(), b"cell");
    }

    #[test]
    fn only_a_store_or_an_empty_folder_is_opened() {
        let (folder, store) = store();
        Store::open_existing(store.root()).unwrap();
        let other = folder.path().join("other");
        assert!(matches!(Store::open_existing(&other), Err(StoreError::NotAStore { .. })));
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("thesis.doc"), "precious").unwrap();
        let error = Store::open(&other).unwrap_err().to_string();
        assert!(error.contains("thesis.doc"), "{error}");
        let error = Store::open(&other.join("thesis.doc")).unwrap_err().to_string();
        assert!(error.ends_with("is a file, no folder"), "{error}");
        std::fs::write(store.root().join("format"), "statcell-store 99\n").unwrap();
        let error = Store::open(store.root()).unwrap_err().to_string();
        assert!(error.contains("another version"), "{error}");
    }

    #[test]
    fn a_torn_format_file_is_made_again_in_an_empty_store() {
        let (_folder, store) = store();
        std::fs::write(store.root().join("format"), "").unwrap();
        Store::open(store.root()).unwrap();
        Store::open_existing(store.root()).unwrap();
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let (_folder, store) = store();
        let digest = Digest::of(b"cell");
        // The shard's folder cannot be made where a file has its name.
        std::fs::create_dir(store.root().join("blobs")).unwrap();
        let shard = store.blob_path(&digest).parent().unwrap().to_owned();
        std::fs::write(&shard, "in the way").unwrap();
        let error = store.put(b"cell").unwrap_err();
        assert!(error.to_string().contains(shard.to_str().unwrap()), "{error}");
        assert_eq!(fs::list(&store.tmp()).unwrap(), Vec::<String>::new());
    }
}
