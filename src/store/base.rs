//! The store: opening one, its blobs and trees, and how its records are kept.

use std::{
    fmt,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Blobs, Digest, StoreError, Tree,
    backend::{Backend, Listed, Object, Put, Touched, failed, now},
    blobs::PIECE,
    disk::{Disk, QUARANTINE, TMP},
    file_index::FileIndex,
    record::{self, Found},
};

/// The version of the layout. Another layout, another number: an old program then says so instead of misreading.
const FORMAT: &str = "statcell-store 1\n";

const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache that statcell made. Backup programs may leave it out; it can be made again.\n\
    # See https://bford.info/cachedir/\n";

/// What stands at the top of a store, beside `format`.
const OWN: [&str; 12] = [
    "format",
    "CACHEDIR.TAG",
    ".gitignore",
    TMP,
    "blobs",
    "actions",
    "items",
    "checkpoints",
    "roots",
    "files",
    "leases",
    QUARANTINE,
];

/// The version that a `format` file tells, if it is whole and another one than ours.
fn other_version(bytes: &[u8]) -> Option<u32> {
    let version = std::str::from_utf8(bytes).ok()?.strip_prefix("statcell-store ")?.strip_suffix('\n')?;
    version.parse().ok().filter(|version| *version > 1)
}

/// A content-addressed store.
///
/// ```text
/// format                       the layout's version
/// blobs/ab/cdef…               bytes, named by their BLAKE3
/// actions/<kind>/<key>.json    what a stage gave for a key, and what the key consists of
/// actions/<kind>/<key>.facts.json  how that run went: seconds, host, program version
/// items/ab/cdef…               results of single items (a cell's features)
/// checkpoints/<key>/…          states of unfinished or extensible work
/// roots/<pipeline>-<id>-….json what each pipeline needed last: what garbage collection keeps
/// files/index                  digests of files outside the store, by size, times and inode
/// leases/                      who is working on what, to save double work
/// quarantine/                  bytes that did not match their name
/// tmp/                         objects on their way to a name
/// ```
///
/// All of these are objects of a [`Backend`]: seen whole or not at all. What a crash leaves at worst is an object whose check fails,
/// which counts as missing. Nothing is correct only because a lock was held.
pub struct Store {
    pub(super) backend: Arc<dyn Backend>,
    /// A folder on this machine, for scratch folders; the store itself where it is a folder.
    root: PathBuf,
    pub(super) files: Mutex<Option<FileIndex>>,
    /// Whether the `format` file was damaged when the store was opened.
    pub(super) format_rebuilt: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// An empty folder, removed with everything in it when the value is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left, garbage collection removes.
        let _ = super::disk::remove(&self.path);
    }
}

impl Store {
    /// Opens the store in this folder, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] when the folder holds something else, or a store of another version; [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self::in_folder(path)?;
        Self::open_on(store.backend, &store.root)
    }

    /// Opens the store in this folder.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] when there is none; else as [`Store::open`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        let mut store = Self::in_folder(path)?;
        if store.is_there()? {
            return Ok(store);
        }
        Err(StoreError::NotAStore { path: path.to_owned(), reason: "is no store".to_owned() })
    }

    /// Opens the store on this backend, and makes it if there is none. `local`: a folder on this machine for scratch folders.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(backend: Arc<dyn Backend>, local: &Path) -> Result<Self, StoreError> {
        let mut store = Self { backend, root: local.to_owned(), files: Mutex::new(None), format_rebuilt: false };
        if store.is_there()? {
            return Ok(store);
        }
        let names = store.backend.names("")?;
        if let Some(stranger) = names.iter().find(|name| !OWN.contains(&name.as_str())) {
            let reason = format!("is not empty and is no store: it holds `{stranger}`");
            return Err(StoreError::NotAStore { path: store.backend.place(""), reason });
        }
        store.write_format()?;
        Ok(store)
    }

    fn in_folder(path: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(path).map_err(failed("find", path.to_owned()))?;
        if std::fs::metadata(&root).is_ok_and(|found| !found.is_dir()) {
            return Err(StoreError::NotAStore { path: root, reason: "is a file, no folder".to_owned() });
        }
        let backend = Arc::new(Disk::new(root.clone()));
        Ok(Self { backend, root, files: Mutex::new(None), format_rebuilt: false })
    }

    /// Whether there is a store. A `format` file that was torn, damaged or lost is made again: the rest tells that it is one.
    fn is_there(&mut self) -> Result<bool, StoreError> {
        let bytes = self.read("format")?.unwrap_or_default();
        if bytes == FORMAT.as_bytes() {
            return Ok(true);
        }
        if let Some(version) = other_version(&bytes) {
            let reason = format!("is a store of another version: {version}, where this program knows 1");
            return Err(StoreError::NotAStore { path: self.backend.place(""), reason });
        }
        let names = self.backend.names("")?;
        let is_ours = self.read("CACHEDIR.TAG")?.is_some_and(|tag| tag == CACHE_TAG.as_bytes())
            || (names.iter().all(|name| OWN.contains(&name.as_str()))
                && names.iter().any(|name| matches!(name.as_str(), "blobs" | "actions" | "roots")));
        if is_ours {
            self.format_rebuilt = true;
            // A store that cannot be written serves what it has all the same.
            let _ = self.write_format();
        }
        Ok(is_ours)
    }

    fn write_format(&self) -> Result<(), StoreError> {
        // `format` comes last: a store that has it has the rest.
        for (name, text) in [("CACHEDIR.TAG", CACHE_TAG), (".gitignore", "*\n"), ("format", FORMAT)] {
            self.write(name, text.as_bytes(), Put { replace: true, durable: false })?;
        }
        Ok(())
    }

    /// The folder; for a store that is in none, where its scratch folders are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is a blob of this name and size (its bytes are not checked).
    #[must_use]
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        self.backend.head(&blob(digest)).is_ok_and(|meta| meta.is_some_and(|meta| meta.size == size))
    }

    /// The tree of this name.
    ///
    /// # Errors
    /// As [`Blobs::get`]; [`StoreError::Malformed`] when the blob is no tree.
    pub fn tree(&self, digest: &Digest) -> Result<Tree, StoreError> {
        Tree::decode(&self.get(digest)?)
    }

    /// An empty folder on this machine, in the store's file system where the store is a folder.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        let tmp = self.root.join(TMP);
        std::fs::create_dir_all(&tmp).map_err(failed("create the folder", tmp.clone()))?;
        let folder = tempfile::Builder::new().prefix("scratch-").tempdir_in(&tmp);
        Ok(Scratch { path: folder.map_err(failed("create a folder in", tmp))?.keep() })
    }

    /// The bytes of an object.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(Object { size, mut reader }) = self.backend.get(name)? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        reader.read_to_end(&mut bytes).map_err(failed("read", self.backend.place(name)))?;
        Ok(Some(bytes))
    }

    /// Puts an object; `false`: another one has the name and stays.
    pub(super) fn write(&self, name: &str, bytes: &[u8], put: Put) -> Result<bool, StoreError> {
        let mut staged = self.backend.stage()?;
        staged.write_all(bytes).map_err(failed("write", self.backend.place(name)))?;
        staged.publish(name, put)
    }

    /// What is where a record belongs.
    pub(super) fn inspect<T: DeserializeOwned>(&self, name: &str) -> Found<T> {
        match self.read(name) {
            Ok(Some(bytes)) => record::parse(&bytes),
            Ok(None) => Found::Nothing,
            Err(error) => Found::Unreadable(error),
        }
    }

    /// A record. `None`: there is none, or it was torn or changed, which is the same: what it says is not to be trusted.
    pub(super) fn read_record<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        match self.inspect(name) {
            Found::Whole(record) => Ok(Some(record)),
            Found::Nothing | Found::Torn | Found::Strange => Ok(None),
            Found::Unreadable(error) => Err(error),
        }
    }

    /// Puts a record.
    pub(super) fn write_record<T: Serialize>(&self, name: &str, record: &T, put: Put) -> Result<bool, StoreError> {
        self.write(name, &record::encode(record), put)
    }

    /// Every digest that has an object under `folder/ab/`, in order.
    pub(super) fn list_by_digest(&self, folder: &str) -> Result<Vec<(Digest, Listed)>, StoreError> {
        let listed = self.backend.list(folder)?.into_iter();
        let parsed = listed.filter_map(|object| {
            let (shard, rest) = object.name[folder.len() + 1..].split_once('/')?;
            let digest = format!("{shard}{rest}").parse().ok().filter(|_| shard.len() == 2)?;
            Some((digest, object))
        });
        Ok(parsed.collect())
    }

    /// Makes sure that blobs outlive a loss of power: for results that took long.
    pub(super) fn sync_blobs(&self, digests: impl IntoIterator<Item = Digest>) -> Result<(), StoreError> {
        digests.into_iter().try_for_each(|digest| self.backend.sync(&blob(&digest)))
    }

    /// Moves a damaged object out of the way. Where it cannot be moved it is still not used.
    pub(super) fn quarantine(&self, name: &str) {
        let aside = format!("{QUARANTINE}/{}-{:x}", name.replace('/', "-"), now().as_nanos());
        let _ = self.backend.rename(name, &aside);
    }

    /// Reads a blob piece by piece; the pieces go to `to`. `Ok` means that all bytes were right.
    fn pass(&self, digest: &Digest, to: &mut dyn Write) -> Result<io::Result<()>, StoreError> {
        let name = blob(digest);
        let Object { size, mut reader } = self.backend.get(&name)?.ok_or(StoreError::Missing(*digest))?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE)).max(1)];
        loop {
            let length = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", self.backend.place(&name))(error)),
            };
            hasher.update(&piece[..length]);
            if let Err(error) = to.write_all(&piece[..length]) {
                return Ok(Err(error));
            }
        }
        if hasher.finalize().as_bytes() == digest.as_bytes() {
            return Ok(Ok(()));
        }
        self.quarantine(&name);
        Err(StoreError::Damaged(*digest))
    }

    /// Reads a blob and holds it against its name.
    ///
    /// # Errors
    /// As [`Blobs::get`].
    pub(super) fn check(&self, digest: &Digest) -> Result<(), StoreError> {
        self.pass(digest, &mut io::sink()).map(drop)
    }

    /// Whether there is a sound blob of this name. If so, it counts as used now; a damaged one goes to quarantine. `Refused`: it is
    /// there, but somebody else's, and may go with what that needs.
    fn keep(&self, digest: &Digest, size: u64) -> Result<Touched, StoreError> {
        if !self.has(digest, size) {
            // One of another size is damaged.
            if self.contains(digest) {
                self.quarantine(&blob(digest));
            }
            return Ok(Touched::Gone);
        }
        match self.check(digest) {
            Ok(()) => {}
            Err(error) if error.blob().is_some() => return Ok(Touched::Gone),
            Err(error) => return Err(error),
        }
        // Garbage collection moves a blob away, looks whether it was touched, and only then removes it: so a blob that is still
        // here after the touch stays.
        match self.backend.touch(&blob(digest))? {
            Touched::Now if !self.contains(digest) => Ok(Touched::Gone),
            touched => Ok(touched),
        }
    }
}

/// The name of a blob.
pub(super) fn blob(digest: &Digest) -> String {
    by_digest("blobs", digest)
}

/// `folder/ab/cdef…`
pub(super) fn by_digest(folder: &str, digest: &Digest) -> String {
    let name = digest.to_string();
    format!("{folder}/{}/{}", &name[..2], &name[2..])
}

impl Blobs for Store {
    fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        loop {
            let replace = match self.keep(&digest, bytes.len() as u64)? {
                Touched::Now => return Ok(digest),
                Touched::Gone => false,
                Touched::Refused => true,
            };
            match self.write(&blob(&digest), bytes, Put { replace, durable: false }) {
                Ok(true) => return Ok(digest),
                Ok(false) => {}
                // A store that cannot be written has it all the same.
                Err(_) if replace => return Ok(digest),
                Err(error) => return Err(error),
            }
        }
    }

    fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let name = blob(digest);
        let bytes = self.read(&name)?.ok_or(StoreError::Missing(*digest))?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        self.quarantine(&name);
        Err(StoreError::Damaged(*digest))
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.backend.head(&blob(digest)).is_ok_and(|meta| meta.is_some())
    }

    fn put_from(&self, from: &mut dyn Read) -> Result<io::Result<(Digest, u64)>, StoreError> {
        let mut staged = self.backend.stage()?;
        let mut hasher = blake3::Hasher::new();
        let (mut piece, mut size) = (vec![0; PIECE], 0);
        loop {
            let length = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error)),
            };
            hasher.update(&piece[..length]);
            staged.write_all(&piece[..length]).map_err(failed("write to", self.backend.place(TMP)))?;
            size += length as u64;
        }
        let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
        let replace = match self.keep(&digest, size)? {
            Touched::Now => return Ok(Ok((digest, size))),
            // Whoever puts it at the same time puts the same bytes.
            Touched::Gone | Touched::Refused => true,
        };
        staged.publish(&blob(&digest), Put { replace, durable: false })?;
        Ok(Ok((digest, size)))
    }

    fn copy_to(&self, digest: &Digest, to: &mut dyn Write) -> Result<io::Result<()>, StoreError> {
        self.pass(digest, to)
    }
}

#[cfg(test)]
mod tests;
