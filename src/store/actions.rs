//! Action entries: what a stage gave for a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Blobs, Digest, Store, StoreError, Tree, disk::now, fs, record};

/// One output of an action: a tree with a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionOutput {
    /// The type's name. The store gives it no meaning.
    #[serde(rename = "type")]
    pub kind: String,
    /// The tree.
    pub tree: Digest,
    /// Files in the tree.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Outputs by port.
pub type ActionOutputs = BTreeMap<String, ActionOutput>;

/// What a stage gave for a key. It stays as it was first written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionEntry {
    /// The key.
    pub key: Digest,
    /// The stage kind's name.
    pub kind: String,
    /// What the key consists of, for explanations.
    pub ingredients: Value,
    /// Where checkpoints of this action lie, for kinds that keep some.
    pub checkpoints: Option<Digest>,
    /// What it gave.
    pub outputs: ActionOutputs,
}

/// How the run went that gave an entry. Nothing depends on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Seconds of wall time.
    pub seconds: f64,
    /// When it ended, in seconds since 1970.
    pub ended_unix_seconds: u64,
    /// The host's name.
    pub host: String,
    /// The program's version.
    pub statcell: String,
    /// A blob with the keys of the item results that it used, 32 bytes each, for kinds that cache items.
    pub items: Option<Digest>,
}

impl RunFacts {
    /// Facts of a run that ended now, here.
    #[must_use]
    pub fn now(seconds: f64) -> Self {
        Self {
            seconds,
            ended_unix_seconds: now().as_secs(),
            host: host(),
            statcell: env!("CARGO_PKG_VERSION").to_owned(),
            items: None,
        }
    }
}

/// This host's name, `unknown` where the system does not tell.
pub(super) fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let name = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname")).unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

/// What became of an entry that was to be published.
#[derive(Clone, Debug, PartialEq)]
pub enum Published {
    /// It is the first one of its key.
    New,
    /// The store had the same one.
    Same,
    /// The store had one with other outputs, which stays: the stage does not give the same bytes every time.
    Different(ActionEntry),
}

/// Blobs and trees that were found to be there: so that each is looked at once.
#[derive(Debug, Default)]
pub struct Presence {
    trees: BTreeMap<Digest, bool>,
    blobs: BTreeSet<Digest>,
}

/// Of larger trees, a quick look takes this many files, spread evenly. What it misses is found when the file is read.
const QUICK_LOOK: usize = 1024;

impl Store {
    fn action_path(&self, kind: &str, key: &Digest) -> PathBuf {
        self.root().join("actions").join(kind).join(format!("{key}.json"))
    }

    fn facts_path(&self, kind: &str, key: &Digest) -> PathBuf {
        self.root().join("actions").join(kind).join(format!("{key}.facts.json"))
    }

    /// The entry of a key. A torn one counts as none. Whether its blobs are there, [`Store::complete`] says.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be read.
    pub fn action(&self, kind: &str, key: &Digest) -> Result<Option<ActionEntry>, StoreError> {
        let entry: Option<ActionEntry> = record::read(&self.action_path(kind, key))?;
        Ok(entry.filter(|entry| entry.key == *key && entry.kind == kind))
    }

    /// Whether the trees and blobs of an entry are there: names and sizes, not bytes. Of large trees a part of the files.
    #[must_use]
    pub fn complete(&self, entry: &ActionEntry, presence: &mut Presence) -> bool {
        entry.outputs.values().all(|output| {
            if let Some(&known) = presence.trees.get(&output.tree) {
                return known;
            }
            let there = self.tree(&output.tree).is_ok_and(|tree| self.tree_is_there(&tree, presence));
            presence.trees.insert(output.tree, there);
            there
        })
    }

    fn tree_is_there(&self, tree: &Tree, presence: &mut Presence) -> bool {
        let step = tree.entries().len().div_ceil(QUICK_LOOK).max(1);
        tree.entries().iter().step_by(step).all(|entry| {
            presence.blobs.contains(&entry.digest) || {
                let there = self.has(&entry.digest, entry.size);
                if there {
                    presence.blobs.insert(entry.digest);
                }
                there
            }
        })
    }

    /// Publishes an entry whose blobs and trees are in the store. The first one of a key stays; one that is torn, or whose
    /// blobs are gone, is replaced. `durable`: all of it outlives a loss of power.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a blob that it names is not there; [`StoreError::Io`].
    pub fn publish_action(
        &self,
        entry: &ActionEntry,
        facts: &RunFacts,
        durable: bool,
    ) -> Result<Published, StoreError> {
        let mut blobs = BTreeSet::new();
        for output in entry.outputs.values() {
            blobs.insert(output.tree);
            for file in self.tree(&output.tree)?.entries() {
                if blobs.insert(file.digest) && !self.has(&file.digest, file.size) {
                    return Err(StoreError::Missing(file.digest));
                }
            }
        }
        if durable {
            self.sync_blobs(blobs.into_iter())?;
        }
        let path = self.action_path(&entry.kind, &entry.key);
        let published = loop {
            if let Some(first) = self.action(&entry.kind, &entry.key)?
                && self.complete(&first, &mut Presence::default())
            {
                fs::touch_path(&path);
                break if first.outputs == entry.outputs { Published::Same } else { Published::Different(first) };
            }
            let staged = record::stage(&self.tmp(), entry)?;
            if fs::metadata(&path)?.is_none() {
                if fs::publish_new(staged, &path)? {
                    break Published::New;
                }
                continue;
            }
            // Torn, or its blobs are gone.
            fs::publish(staged, &path)?;
            break Published::New;
        };
        if published == Published::New {
            fs::publish(record::stage(&self.tmp(), facts)?, &self.facts_path(&entry.kind, &entry.key))?;
        }
        if durable {
            fs::sync(&path)?;
            fs::sync(path.parent().unwrap_or(&path))?;
        }
        Ok(published)
    }

    /// How the run of an entry went, if that is known.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn facts(&self, kind: &str, key: &Digest) -> Result<Option<RunFacts>, StoreError> {
        record::read(&self.facts_path(kind, key))
    }

    /// Says that an entry was used, so that garbage collection takes it for young.
    pub fn touch_action(&self, kind: &str, key: &Digest) {
        fs::touch_path(&self.action_path(kind, key));
    }

    /// Removes an entry. `false`: there was none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn drop_action(&self, kind: &str, key: &Digest) -> Result<bool, StoreError> {
        let there = fs::remove_file(&self.action_path(kind, key))?;
        fs::remove_file(&self.facts_path(kind, key))?;
        Ok(there)
    }

    /// Every (kind, key) that has an entry, and when it was last used; sorted.
    pub(super) fn list_actions(&self) -> Result<Vec<(String, Digest, Duration)>, StoreError> {
        let mut found = Vec::new();
        for kind in fs::list(&self.root().join("actions"))? {
            found.extend(self.list_actions_of(&kind)?.into_iter().map(|(key, used)| (kind.clone(), key, used)));
        }
        Ok(found)
    }

    fn list_actions_of(&self, kind: &str) -> Result<Vec<(Digest, Duration)>, StoreError> {
        let folder = self.root().join("actions").join(kind);
        let mut found = Vec::new();
        for name in fs::list(&folder)? {
            let Some(Ok(key)) = name.strip_suffix(".json").map(str::parse::<Digest>) else { continue };
            if let Some(metadata) = fs::metadata(&folder.join(&name))? {
                found.push((key, fs::modified(&metadata)));
            }
        }
        Ok(found)
    }

    /// Up to `at_most` entries of a kind, the last used first.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn recent_actions(&self, kind: &str, at_most: usize) -> Result<Vec<ActionEntry>, StoreError> {
        let mut listed = self.list_actions_of(kind)?;
        listed.sort_by_key(|(key, used)| (std::cmp::Reverse(*used), *key));
        listed.truncate(at_most);
        listed.iter().filter_map(|(key, _)| self.action(kind, key).transpose()).collect()
    }

    /// Keeps a tree, whose blobs the store has, as an output of this type.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_output(&self, kind: &str, tree: &Tree) -> Result<ActionOutput, StoreError> {
        Ok(ActionOutput {
            kind: kind.to_owned(),
            tree: self.put(&tree.encode())?,
            files: tree.entries().len() as u64,
            bytes: tree.total_size(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TreeEntry;

    fn output(store: &Store, text: &str) -> ActionOutput {
        let digest = store.put(text.as_bytes()).unwrap();
        let entry = TreeEntry { name: "text".to_owned(), digest, size: text.len() as u64 };
        store.put_output("files", &Tree::new(vec![entry]).unwrap()).unwrap()
    }

    fn entry(store: &Store, text: &str) -> ActionEntry {
        ActionEntry {
            key: Digest::of(b"key"),
            kind: "kind".to_owned(),
            ingredients: serde_json::json!({ "b": 0.1, "a": [1, 2] }),
            checkpoints: None,
            outputs: [("out".to_owned(), output(store, text))].into(),
        }
    }

    #[test]
    fn the_first_entry_stays_and_a_second_one_is_compared() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let (first, other) = (entry(&one, "a"), entry(&two, "b"));
        assert_eq!(one.action("kind", &first.key).unwrap(), None);
        assert_eq!(one.publish_action(&first, &RunFacts::now(1.5), true).unwrap(), Published::New);
        assert_eq!(two.publish_action(&first, &RunFacts::now(9.0), false).unwrap(), Published::Same);
        assert_eq!(
            two.publish_action(&other, &RunFacts::now(9.0), false).unwrap(),
            Published::Different(first.clone())
        );
        assert_eq!(two.action("kind", &first.key).unwrap(), Some(first.clone()));
        assert_eq!(two.facts("kind", &first.key).unwrap().unwrap().seconds, 1.5);
        assert_eq!(two.recent_actions("kind", 9).unwrap(), vec![first.clone()]);
        assert!(two.drop_action("kind", &first.key).unwrap());
        assert_eq!(one.action("kind", &first.key).unwrap(), None);
    }

    #[test]
    fn an_entry_is_complete_only_with_its_blobs_and_is_replaced_without() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (first, other) = (entry(&store, "a"), entry(&store, "b"));
        store.publish_action(&first, &RunFacts::now(1.0), false).unwrap();
        assert!(store.complete(&first, &mut Presence::default()));
        std::fs::remove_file(store.blob_path(&Digest::of(b"a"))).unwrap();
        assert!(!store.complete(&first, &mut Presence::default()));
        assert!(
            matches!(store.publish_action(&first, &RunFacts::now(1.0), false), Err(StoreError::Missing(digest)) if digest == Digest::of(b"a"))
        );
        assert_eq!(store.publish_action(&other, &RunFacts::now(2.0), false).unwrap(), Published::New);
        assert_eq!(store.action("kind", &other.key).unwrap(), Some(other));
    }

    #[test]
    fn a_torn_entry_counts_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = entry(&store, "a");
        store.publish_action(&first, &RunFacts::now(1.0), false).unwrap();
        std::fs::write(store.action_path("kind", &first.key), "").unwrap();
        assert_eq!(store.action("kind", &first.key).unwrap(), None);
        assert_eq!(store.publish_action(&first, &RunFacts::now(1.0), false).unwrap(), Published::New);
        assert_eq!(store.action("kind", &first.key).unwrap(), Some(first));
    }
}
