//! The results folder: copies of what people open.
//!
//! What is not exactly as statcell wrote it belongs to the user: files of their own, edited results, links. It is kept and named,
//! and the new result is not copied, unless the user asks for it. A list in the folder says which files are statcell's and in which
//! version, so that a file is copied only when it is not there yet, and stale ones go.

mod folder;
mod list;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use self::{
    folder::{Folder, Found, NewFile, Obstacle, Stamp},
    list::{List, Listed, Written},
    names::folder_names,
};
use super::ExitCode;
use crate::{
    graph::Graph,
    store::{Blobs, Digest, Store, StoreError, Tree},
};
pub(super) use names::safe_name;

/// Results cannot be copied to where people open them. The results themselves are in the store.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The operating system refused something.
    #[error("cannot {action} `{path}`: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: `write`, `remove`.
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A blob is damaged or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResultsError {
    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Some(
                    "make room, or choose another folder with `--results`, and run again: finished work is in the store",
                )
            }
            Self::Io { .. } => {
                Some("choose another folder with `--results`, and run again: finished work is in the store")
            }
            Self::Store(error) => error.advice(),
        }
    }
}

impl From<&ResultsError> for ExitCode {
    fn from(error: &ResultsError) -> Self {
        match error {
            ResultsError::Io { .. } => Self::BadPipeline,
            ResultsError::Store(error) => error.into(),
        }
    }
}

fn failed(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> ResultsError {
    move |source| ResultsError::Io { action, path, source }
}

/// Something of the user's that is kept: an edited result, a file or link of theirs where a result would go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    path: PathBuf,
    what: &'static str,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.path.display(), self.what)
    }
}

const IS_FOLDER: &str = "is a folder where a file would go";

/// A line about what is kept: the first few are named, all are counted.
pub(super) fn kept_note(kept: &[Kept]) -> Option<String> {
    let named: Vec<String> = kept.iter().take(5).map(ToString::to_string).collect();
    let more = kept.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(", and {more} more like these") };
    let advice = if kept.iter().all(|kept| kept.what == IS_FOLDER) {
        "remove it to have the result there"
    } else {
        "`--force-results` replaces it"
    };
    (!kept.is_empty()).then(|| format!("left alone: {}{more}; the result is in the store; {advice}", named.join(", ")))
}

/// One file to be copied: its path beneath the results folder, with `/` between parts, and its contents.
pub(super) struct ResultFile {
    pub(super) path: String,
    pub(super) contents: Contents,
}

/// The contents of a file to be copied.
pub(super) enum Contents {
    /// A blob.
    Blob(Digest),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Contents {
    fn digest(&self) -> Digest {
        match self {
            Self::Blob(digest) => *digest,
            Self::Bytes(bytes) => Digest::of(bytes),
        }
    }

    fn write(&self, store: &Store, file: &mut NewFile, path: &Path) -> Result<(), ResultsError> {
        match self {
            Self::Blob(digest) => copy_blob(store, digest, file, path),
            Self::Bytes(bytes) => file.write_all(bytes).map_err(failed("write", path.to_owned())),
        }
    }
}

/// Copies a blob, piece by piece. Its bytes are checked against its name.
fn copy_blob(store: &Store, digest: &Digest, file: &mut NewFile, path: &Path) -> Result<(), ResultsError> {
    store.copy_to(digest, file)?.map_err(failed("write", path.to_owned()))
}

/// The results folder of a pipeline.
pub(super) struct Results {
    folder: Folder,
    list: List,
    folders: BTreeMap<String, String>,
    /// Replace also what is the user's.
    force: bool,
}

impl Results {
    /// The results folder of a pipeline under `results`; made if it is not there. When another pipeline of the same name has its
    /// results there, this one gets a folder beside it. `force`: replace also what the user changed or put in a result's place.
    ///
    /// # Errors
    /// [`ResultsError::Io`] when it cannot be made or written, or is a link.
    pub(super) fn open(results: &Path, graph: &Graph, force: bool) -> Result<Self, ResultsError> {
        std::fs::create_dir_all(results).map_err(failed("create the folder", results.to_owned()))?;
        let name = safe_name(&graph.pipeline);
        let project = relative(results, Path::new(&graph.project));
        let (folder, list) = match Self::claim(&results.join(&name), &project)? {
            Some(claimed) => claimed,
            None => {
                let beside = results.join(format!("{name}-{}", &Digest::of(project.as_bytes()).short()[..8]));
                Self::claim(&beside, &project)?.ok_or_else(|| {
                    failed("write to", beside)(io::Error::other("another pipeline has its results there"))
                })?
            }
        };
        folder.clean();
        let names: Vec<&str> = graph.instances.iter().map(|instance| instance.name.as_str()).collect();
        Ok(Self { folder, list, folders: folder_names(&names), force })
    }

    /// Opens the folder at `path` for the pipeline in the file `project`; `None`: another pipeline has its results there.
    fn claim(path: &Path, project: &str) -> Result<Option<(Folder, List)>, ResultsError> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create the folder", path.to_owned())(error));
            }
            _ => {}
        }
        let folder = Folder::open(path).map_err(|error| {
            let is_link = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
            let error = if is_link { io::Error::other("it is a link, which is not followed") } else { error };
            failed("use the folder", path.to_owned())(error)
        })?;
        let unusable = || failed("use the folder", path.to_owned());
        loop {
            let Some(mut list) = List::read(&folder).map_err(unusable())? else {
                // Making the list tells at once whether the folder can be written.
                List::make(&folder, project).map_err(failed("write to", path.to_owned()))?;
                continue;
            };
            let other =
                list.project.as_ref().filter(|other| other.as_str() != project && path.join("..").join(other).exists());
            if other.is_some() {
                return Ok(None);
            }
            list.project = Some(project.to_owned());
            return Ok(Some((folder, list)));
        }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of an instance beneath the results folder.
    pub(super) fn folder_of(&self, instance: &str) -> String {
        self.folders.get(instance).cloned().unwrap_or_else(|| safe_name(instance))
    }

    /// Whether the files of an instance are there in this version.
    pub(super) fn is_current(&self, instance: &str, version: &Digest) -> bool {
        let Some(listed) = self.list.get(instance) else { return false };
        listed.version == *version
            && listed.withheld.is_empty()
            && listed
                .files
                .iter()
                .all(|(path, written)| matches!(self.folder.look(path), Ok(Found::File(stamp)) if written.is_as(stamp)))
    }

    /// Copies the files of an instance, and removes those of its earlier version. Gives what was the user's and is kept.
    ///
    /// # Errors
    /// [`ResultsError`] when a blob is damaged or a file cannot be written. What is there stays.
    pub(super) fn publish(
        &mut self,
        store: &Store,
        instance: &str,
        version: Digest,
        files: &[ResultFile],
    ) -> Result<Vec<Kept>, ResultsError> {
        let before = self.list.get(instance).map(|listed| listed.files.clone()).unwrap_or_default();
        let digests: Vec<Digest> = files.iter().map(|file| file.contents.digest()).collect();
        let new = files
            .iter()
            .zip(&digests)
            .filter(|(file, digest)| before.get(&file.path).is_none_or(|there| there.digest != **digest));
        let new = new.map(|(file, digest)| (file.path.clone(), *digest)).collect();
        let announced = self.list.announce(&self.folder, new);
        announced.map_err(failed("write to", self.folder().to_owned()))?;
        let mut listed = Listed { version, files: BTreeMap::new(), withheld: BTreeSet::new() };
        let mut kept = Vec::new();
        for (file, digest) in files.iter().zip(&digests) {
            match self.place(store, file, digest, before.get(&file.path))? {
                Ok(written) => drop(listed.files.insert(file.path.clone(), written)),
                Err(theirs) => {
                    listed.withheld.insert(file.path.clone());
                    kept.push(theirs);
                }
            }
        }
        self.list.set(instance, Some(listed));
        kept.extend(self.remove_stale(&before));
        kept.sort();
        kept.dedup();
        Ok(kept)
    }

    /// Sees to it that a file is there; else tells what of the user's is in its place.
    fn place(
        &self,
        store: &Store,
        file: &ResultFile,
        digest: &Digest,
        before: Option<&Written>,
    ) -> Result<Result<Written, Kept>, ResultsError> {
        let path = &file.path;
        let full = self.folder().join(path);
        let found = self.folder.look(path).map_err(failed("read", full.clone()))?;
        let replace = match found {
            Found::Nothing => false,
            Found::File(stamp) => match self.holds(path, stamp, before)? {
                Some(there) if there == *digest => return Ok(Ok(Written::new(*digest, stamp))),
                Some(there) if before.is_some_and(|before| before.digest == there) => true,
                Some(there) if self.list.was_intended(path, &there) => true,
                _ if self.force => true,
                _ => return Ok(Err(self.changed(path, before.is_some()))),
            },
            Found::InTheWay(obstacle) => {
                if !self.force || obstacle.what == "a folder" {
                    return Ok(Err(self.in_the_way(&obstacle)));
                }
                // The link or file itself, never what a link leads to.
                let obstacle = self.folder().join(&obstacle.path);
                self.folder.remove(path_below(&obstacle, self.folder())).map_err(failed("remove", obstacle.clone()))?;
                true
            }
        };
        let mut new = self.folder.create().map_err(failed("write to", self.folder().to_owned()))?;
        file.contents.write(store, &mut new, &full)?;
        match new.publish(path, replace).map_err(failed("write", full))? {
            Found::File(stamp) => Ok(Ok(Written::new(*digest, stamp))),
            Found::InTheWay(obstacle) => Ok(Err(self.in_the_way(&obstacle))),
            Found::Nothing => Ok(Err(self.changed(path, false))),
        }
    }

    /// What a file holds. One that was not touched since it was written is not read again.
    fn holds(&self, path: &str, stamp: Stamp, before: Option<&Written>) -> Result<Option<Digest>, ResultsError> {
        match before {
            Some(before) if before.is_as(stamp) => Ok(Some(before.digest)),
            _ => self.folder.digest(path).map_err(failed("read", self.folder().join(path))),
        }
    }

    fn changed(&self, path: &str, was_ours: bool) -> Kept {
        let what = if was_ours { "was changed since statcell wrote it" } else { "was not written by statcell" };
        Kept { path: self.folder().join(path), what }
    }

    fn in_the_way(&self, obstacle: &Obstacle) -> Kept {
        let what = match obstacle.what {
            "a link" => "is a link",
            "a folder" => IS_FOLDER,
            "a file" => "was not written by statcell",
            _ => "is neither a file nor a folder",
        };
        Kept { path: self.folder().join(&obstacle.path), what }
    }

    /// Removes the files of instances that the pipeline no longer has. Gives what was the user's and is kept.
    pub(super) fn remove_others(&mut self, graph: &Graph) -> Vec<Kept> {
        let ours: BTreeSet<&str> = graph.instances.iter().map(|instance| instance.name.as_str()).collect();
        let gone: Vec<String> = self.list.names().filter(|name| !ours.contains(name.as_str())).cloned().collect();
        let mut kept = Vec::new();
        for name in gone {
            let Some(listed) = self.list.get(&name).cloned() else { continue };
            self.list.set(&name, None);
            kept.extend(self.remove_stale(&listed.files));
        }
        kept
    }

    /// Removes those of an instance's earlier files that no instance has now and that are as statcell wrote them, and folders that
    /// this leaves empty.
    fn remove_stale(&self, earlier: &BTreeMap<String, Written>) -> Vec<Kept> {
        let mut kept = Vec::new();
        let stale: Vec<_> = earlier.iter().filter(|(path, _)| !self.list.has(path)).collect();
        for (path, written) in stale {
            let Ok(Found::File(stamp)) = self.folder.look(path) else { continue };
            // Before a file goes, its bytes are looked at: a list can be wrong.
            if written.size == stamp.size && self.folder.digest(path).is_ok_and(|found| found == Some(written.digest)) {
                // A stale file that cannot be removed is a blemish, no failure.
                let _ = self.folder.remove(path);
            } else {
                kept.push(self.changed(path, true));
            }
        }
        kept
    }

    /// Writes the list down, if it changed.
    ///
    /// # Errors
    /// [`ResultsError::Io`].
    pub(super) fn save(&mut self) -> Result<(), ResultsError> {
        let saved = self.list.save(&self.folder);
        saved.map_err(failed("write to", self.folder().to_owned()))
    }
}

/// A path beneath the folder, as text; it was made from text.
fn path_below<'p>(path: &'p Path, folder: &Path) -> &'p str {
    path.strip_prefix(folder).ok().and_then(Path::to_str).unwrap_or_default()
}

/// The way from one folder to a file, without looking at links below what both share.
fn relative(folder: &Path, file: &Path) -> String {
    let real =
        |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    let (folder, file) = (real(folder), real(file));
    let (from, to): (Vec<Component>, Vec<Component>) = (folder.components().collect(), file.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    up.chain(to[shared..].iter().copied()).collect::<PathBuf>().to_string_lossy().into_owned()
}

/// Copies the files of a tree into a folder, which is made if it is not there. Nothing that is there is replaced.
///
/// # Errors
/// [`ResultsError`] when a blob is damaged or missing, a file cannot be written, or something of its name is there.
pub fn copy_tree(store: &Store, tree: &Tree, folder: &Path) -> Result<(), ResultsError> {
    std::fs::create_dir_all(folder).map_err(failed("create the folder", folder.to_owned()))?;
    let real = folder.canonicalize().map_err(failed("read", folder.to_owned()))?;
    let target = Folder::open(&real).map_err(failed("use the folder", folder.to_owned()))?;
    for file in tree.entries() {
        let path = folder.join(&file.name);
        let mut new = target.create().map_err(failed("write to", folder.to_owned()))?;
        copy_blob(store, &file.digest, &mut new, &path)?;
        if let Found::InTheWay(obstacle) = new.publish(&file.name, false).map_err(failed("write", path))? {
            let there = folder.join(obstacle.path);
            return Err(failed("write", there)(io::Error::other(format!("{} is there already", obstacle.what))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
