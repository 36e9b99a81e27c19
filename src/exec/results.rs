//! The results folder: copies of what people open.
//!
//! A list in the folder says which files are statcell's and in which version: so a file is copied only when it is not there yet,
//! a stale one goes, and nothing that somebody else put there is touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    graph::Graph,
    store::{
        Blobs, Digest, Store, StoreError, Tree,
        fs::{self, Mode},
    },
};

/// The list's name in the results folder.
const LIST: &str = ".statcell.json";
const LIST_VERSION: u32 = 1;

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    digest: Digest,
    size: u64,
    modified_ns: u64,
}

/// The files of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    version: Digest,
    files: BTreeMap<String, Written>,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    list_version: u32,
    instances: BTreeMap<String, Listed>,
}

/// One file to be brought: its path below the results folder, with `/` between parts, and its contents.
pub(super) struct ResultFile {
    pub(super) path: String,
    pub(super) contents: Contents,
}

/// The contents of a file to be brought.
pub(super) enum Contents {
    /// A blob.
    Blob(Digest),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// The results folder of a pipeline.
pub(super) struct Results {
    folder: PathBuf,
    list: List,
    folders: BTreeMap<String, String>,
    unsaved: bool,
}

impl Results {
    /// The results folder of a pipeline under `results`; made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be made or written.
    pub(super) fn open(results: &Path, graph: &Graph) -> Result<Self, StoreError> {
        let folder = results.join(safe_name(&graph.pipeline));
        fs::create_folder(&folder)?;
        let found = fs::read(&folder.join(LIST))?;
        let list: Option<List> = found.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let list = list.filter(|list| list.list_version == LIST_VERSION);
        let list = list.unwrap_or(List { list_version: LIST_VERSION, instances: BTreeMap::new() });
        let names: Vec<&str> = graph.instances.iter().map(|instance| instance.name.as_str()).collect();
        let mut results = Self { folder, list, folders: folder_names(&names), unsaved: found.is_none() };
        // Writing the list tells at once whether the folder can be written.
        results.save()?;
        Ok(results)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of an instance below the results folder.
    pub(super) fn folder_of(&self, instance: &str) -> String {
        self.folders.get(instance).cloned().unwrap_or_else(|| safe_name(instance))
    }

    /// Whether the files of an instance are there in this version.
    pub(super) fn is_current(&self, instance: &str, version: &Digest) -> bool {
        let Some(listed) = self.list.instances.get(instance) else { return false };
        listed.version == *version && listed.files.iter().all(|(path, written)| self.is_as_written(path, written))
    }

    fn is_as_written(&self, path: &str, written: &Written) -> bool {
        std::fs::metadata(self.folder.join(path)).is_ok_and(|metadata| {
            let modified = fs::modified(&metadata).as_nanos() as u64;
            metadata.is_file() && metadata.len() == written.size && modified == written.modified_ns
        })
    }

    /// Brings the files of an instance, and removes those of its earlier version.
    ///
    /// # Errors
    /// [`StoreError`] when a blob is damaged or a file cannot be written. What is there stays.
    pub(super) fn bring(
        &mut self,
        store: &Store,
        instance: &str,
        version: Digest,
        files: Vec<ResultFile>,
    ) -> Result<(), StoreError> {
        let before = self.list.instances.get(instance).map(|listed| listed.files.clone()).unwrap_or_default();
        let mut written = BTreeMap::new();
        for ResultFile { path, contents } in files {
            let digest = match &contents {
                Contents::Blob(digest) => *digest,
                Contents::Bytes(bytes) => Digest::of(bytes),
            };
            let there = before.get(&path).filter(|there| there.digest == digest && self.is_as_written(&path, there));
            let file = if let Some(there) = there {
                there.clone()
            } else {
                let bytes = match contents {
                    Contents::Blob(digest) => store.get(&digest)?,
                    Contents::Bytes(bytes) => bytes,
                };
                write(&self.folder.join(&path), &bytes, digest)?
            };
            written.insert(path, file);
        }
        self.remove_stale(&before, &written.keys().cloned().collect());
        self.list.instances.insert(instance.to_owned(), Listed { version, files: written });
        self.unsaved = true;
        Ok(())
    }

    /// Removes the files of instances that the pipeline no longer has.
    pub(super) fn remove_others(&mut self, graph: &Graph) {
        let gone: Vec<String> = self.list.instances.keys().filter(|name| graph.find(name).is_none()).cloned().collect();
        for name in gone {
            let Some(listed) = self.list.instances.remove(&name) else { continue };
            // Another instance may have the folder now, and a file of the same name.
            let kept = self.list.instances.values().flat_map(|listed| listed.files.keys().cloned()).collect();
            self.remove_stale(&listed.files, &kept);
            self.unsaved = true;
        }
    }

    /// Removes our files that are not kept and that nobody changed, and folders that this leaves empty.
    fn remove_stale(&self, files: &BTreeMap<String, Written>, kept: &BTreeSet<String>) {
        for (path, written) in files.iter().filter(|(path, _)| !kept.contains(*path)) {
            if !self.is_as_written(path, written) {
                continue;
            }
            let path = self.folder.join(path);
            // A stale file that cannot be removed is a blemish, no failure.
            let _ = fs::remove_file(&path);
            for folder in path.ancestors().skip(1).take_while(|folder| *folder != self.folder) {
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
    }

    /// Writes the list down, if it changed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.unsaved) {
            let mut bytes = serde_json::to_vec_pretty(&self.list).expect("plain data");
            bytes.push(b'\n');
            fs::publish(fs::stage(&self.folder, &bytes, Mode::Writable)?, &self.folder.join(LIST))?;
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8], digest: Digest) -> Result<Written, StoreError> {
    fs::publish(fs::stage(path.parent().unwrap_or(path), bytes, Mode::Writable)?, path)?;
    let metadata = fs::metadata(path)?.ok_or_else(|| StoreError::Io {
        action: "read",
        path: path.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    Ok(Written { digest, size: metadata.len(), modified_ns: fs::modified(&metadata).as_nanos() as u64 })
}

/// Copies the files of a tree into a folder.
///
/// # Errors
/// [`StoreError`] when a blob is damaged or missing, or a file cannot be written.
pub fn copy_tree(store: &Store, tree: &Tree, folder: &Path) -> Result<(), StoreError> {
    fs::create_folder(folder)?;
    for file in tree.entries() {
        write(&folder.join(&file.name), &store.get(&file.digest)?, file.digest)?;
    }
    Ok(())
}

/// A name that is a file name everywhere: `sweep[beta=0.5]` becomes `sweep-beta=0.5`.
pub(super) fn safe_name(name: &str) -> String {
    let mut safe = String::new();
    for letter in name.chars().filter(|letter| *letter != ']').take(120) {
        safe.push(match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' | '=' | '+' | ',' => letter,
            '[' => '-',
            _ => '_',
        });
    }
    if safe.is_empty() || safe.starts_with('.') {
        safe.insert(0, '_');
    }
    safe
}

/// A folder for each instance. Names that would meet, also where upper and lower case are the same, get a digest behind them.
fn folder_names(instances: &[&str]) -> BTreeMap<String, String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for name in instances {
        *count.entry(safe_name(name).to_lowercase()).or_default() += 1;
    }
    let folder = |name: &str| {
        let safe = safe_name(name);
        let meets = count[&safe.to_lowercase()] > 1;
        if meets { format!("{safe}-{}", &Digest::of(name.as_bytes()).short()[..8]) } else { safe }
    };
    instances.iter().map(|name| ((*name).to_owned(), folder(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> (tempfile::TempDir, Store, Results) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let results = open(folder.path());
        (folder, store, results)
    }

    fn open(folder: &Path) -> Results {
        Results::open(&folder.join("results"), &Graph::new("p".to_owned(), Vec::new())).unwrap()
    }

    fn bring(results: &mut Results, store: &Store, instance: &str, files: &[(&str, &str)]) -> Digest {
        let version = Digest::of(format!("{files:?}").as_bytes());
        let file = |(path, text): &(&str, &str)| ResultFile {
            path: format!("{instance}/{path}"),
            contents: Contents::Blob(store.put(text.as_bytes()).unwrap()),
        };
        results.bring(store, instance, version, files.iter().map(file).collect()).unwrap();
        results.save().unwrap();
        version
    }

    #[test]
    fn names_are_safe_and_do_not_meet() {
        assert_eq!(safe_name("sweep[beta=0.5]"), "sweep-beta=0.5");
        assert_eq!(safe_name("../a b"), "_.._a_b");
        let names = folder_names(&["a", "b[x]", "b-x", "A"]);
        let distinct: BTreeSet<String> = names.values().map(|name| name.to_lowercase()).collect();
        assert_eq!(distinct.len(), 4, "{names:?}");
    }

    #[test]
    fn files_are_restored_and_stale_ones_go_but_not_those_of_others() {
        let (folder, store, mut results) = setting();
        let version = bring(&mut results, &store, "one", &[("figures/a.svg", "a"), ("figures/old/b.svg", "b")]);
        let at = |path: &str| folder.path().join("results/p/one").join(path);
        assert_eq!(std::fs::read_to_string(at("figures/a.svg")).unwrap(), "a");
        assert!(results.is_current("one", &version));

        let results = open(folder.path());
        assert!(results.is_current("one", &version), "the list is read again");
        std::fs::remove_file(at("figures/a.svg")).unwrap();
        assert!(!results.is_current("one", &version));
        let mut results = open(folder.path());
        bring(&mut results, &store, "one", &[("figures/a.svg", "a"), ("figures/old/b.svg", "b")]);
        assert!(at("figures/a.svg").exists());

        std::fs::write(at("figures/notes.txt"), "mine").unwrap();
        let newer = bring(&mut results, &store, "one", &[("figures/a.svg", "A")]);
        assert_eq!(std::fs::read_to_string(at("figures/a.svg")).unwrap(), "A");
        assert!(!at("figures/old").exists(), "the stale file and its folder are gone");
        assert!(results.is_current("one", &newer) && !results.is_current("one", &version));

        let mut results = open(folder.path());
        results.remove_others(&Graph::new("p".to_owned(), Vec::new()));
        assert!(!at("figures/a.svg").exists());
        assert_eq!(std::fs::read_to_string(at("figures/notes.txt")).unwrap(), "mine");
    }

    #[test]
    fn a_stale_file_that_somebody_changed_stays() {
        let (folder, store, mut results) = setting();
        bring(&mut results, &store, "one", &[("a.csv", "a"), ("b.csv", "b")]);
        std::fs::write(folder.path().join("results/p/one/b.csv"), "my own numbers").unwrap();
        bring(&mut results, &store, "one", &[("a.csv", "a")]);
        assert!(folder.path().join("results/p/one/b.csv").exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Results::open(&file, &Graph::new("p".to_owned(), Vec::new())).err().unwrap().to_string();
        assert!(error.contains("file/p"), "{error}");
    }
}
