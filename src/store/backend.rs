//! What a store needs of the place where it keeps its objects: bytes by name.
//!
//! A name is a relative path with `/` between its parts. An object is seen whole or not at all, whoever reads while others write.
//! Another place for a store, such as a bucket, is another implementation of [`Backend`]; [`conformance`](super::conformance) tells
//! whether it does what the store relies on.

use std::{
    fmt,
    io::{self, Read, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

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

/// What is known of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Bytes.
    pub size: u64,
    /// When it was written or touched last, since 1970, by the backend's clock.
    pub used: Duration,
}

/// An object, to be read.
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// What gives them.
    pub reader: Box<dyn Read + Send>,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub meta: Meta,
}

/// What became of touching an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// It counts as used now.
    Now,
    /// There is no such object.
    Gone,
    /// It may be read, but not touched: somebody else's, or a place that cannot be written.
    Refused,
}

/// How a staged object gets its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// In the place of an object that has the name; else that one stays.
    pub replace: bool,
    /// It outlives a loss of power from the moment at which it has its name.
    pub durable: bool,
}

/// An object in the making: what is written to it is seen by nobody until it is published. It is gone when it is dropped.
pub trait Staged: Write + Send {
    /// Gives it its name. `false`: another object has the name and stays.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be written.
    fn publish(self: Box<Self>, name: &str, put: Put) -> Result<bool>;
}

/// A place for objects.
///
/// Errors are [`StoreError::Io`]. That there is no object of a name is no error.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Where an object lies, for people.
    fn place(&self, name: &str) -> PathBuf;

    /// Opens an object.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, name: &str) -> Result<Option<Object>>;

    /// What is known of an object.
    ///
    /// # Errors
    /// When that cannot be told.
    fn head(&self, name: &str) -> Result<Option<Meta>>;

    /// Begins an object. Any size: it is not held in memory.
    ///
    /// # Errors
    /// When nothing can be written.
    fn stage(&self) -> Result<Box<dyn Staged + '_>>;

    /// Every object whose name begins with `folder` and a `/`, sorted by name.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&self, folder: &str) -> Result<Vec<Listed>>;

    /// The names right under `folder`, of objects and of folders, sorted.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn names(&self, folder: &str) -> Result<Vec<String>>;

    /// Makes an object count as used now.
    ///
    /// # Errors
    /// When it cannot be told whether it is there.
    fn touch(&self, name: &str) -> Result<Touched>;

    /// Removes an object. `false`: there was none.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn delete(&self, name: &str) -> Result<bool>;

    /// Removes an object unless it was touched at `since` or later, also in this very moment. `false`: it stays.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn delete_unused(&self, name: &str, since: Duration) -> Result<bool> {
        match self.head(name)? {
            Some(meta) if meta.used >= since => Ok(false),
            _ => self.delete(name).map(|_| true),
        }
    }

    /// Gives an object another name, in the place of what has that. `false`: there was none.
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let Some(mut object) = self.get(from)? else { return Ok(false) };
        let mut staged = self.stage()?;
        io::copy(&mut object.reader, &mut staged).map_err(failed("copy", self.place(from)))?;
        staged.publish(to, Put { replace: true, ..Put::default() })?;
        self.delete(from)
    }

    /// Makes sure that an object outlives a loss of power.
    ///
    /// # Errors
    /// When that cannot be done.
    fn sync(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Removes what lies under `folder` and was not used since, whatever it is. What cannot be removed stays. With `dry_run`, only
    /// tells how much that is.
    ///
    /// # Errors
    /// When it cannot be listed.
    fn sweep(&self, folder: &str, since: Duration, dry_run: bool) -> Result<Amount> {
        let mut swept = Amount::default();
        for object in self.list(folder)? {
            if object.meta.used < since && (dry_run || self.delete(&object.name).unwrap_or(false)) {
                swept.add(object.meta.size);
            }
        }
        Ok(swept)
    }

    /// What lies under `folder`.
    ///
    /// # Errors
    /// When it cannot be listed.
    fn amount(&self, folder: &str) -> Result<Amount> {
        let mut amount = Amount::default();
        for object in self.list(folder)? {
            amount.add(object.meta.size);
        }
        Ok(amount)
    }

    /// The time by the clock that [`Meta::used`] goes by, since 1970.
    fn now(&self) -> Duration {
        since_epoch(SystemTime::now())
    }
}

/// What makes an I/O error a [`StoreError`] that names the path.
pub(super) fn failed(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action, path, source }
}

/// A time as the time since 1970; zero before it.
pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Now, by this machine's clock.
pub(super) fn now() -> Duration {
    since_epoch(SystemTime::now())
}
