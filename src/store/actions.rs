//! Action entries: what a stage gave for a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Blobs, Digest, Store, StoreError, Tree,
    backend::{Put, Touched, now},
};

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

/// The output ports that a stage kind has now, with the names of their types.
pub type Ports<'a> = BTreeMap<&'a str, &'a str>;

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

impl ActionEntry {
    /// The ports that it has, with the names of their types.
    #[must_use]
    pub fn ports(&self) -> Ports<'_> {
        self.outputs.iter().map(|(port, output)| (port.as_str(), output.kind.as_str())).collect()
    }
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

/// The name of the object that holds an entry.
pub(super) fn action(kind: &str, key: &Digest) -> String {
    format!("actions/{kind}/{key}.json")
}

/// The name of the object that tells how the run of an entry went.
pub(super) fn facts(kind: &str, key: &Digest) -> String {
    format!("actions/{kind}/{key}.facts.json")
}

/// A key that has an entry, or what is left of one.
pub(super) struct ActionListed {
    pub(super) kind: String,
    pub(super) key: Digest,
    /// Whether there is an entry, not only how its run went.
    pub(super) has_entry: bool,
    /// When it was used last.
    pub(super) used: Duration,
    /// Bytes of the entry with all that belongs to it alone.
    pub(super) bytes: u64,
}

/// Entries of this size together are read for a comparison; in memory they take about ten times as much.
const RECENT_BYTES: u64 = 8 << 20;

impl Store {
    /// The result of a key: the entry, if the kind has these ports and types now and everything that the entry names is there. This
    /// is the only way to a result; [`Store::recorded`] is for explanations.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be read.
    pub fn lookup(
        &self,
        kind: &str,
        key: &Digest,
        ports: &Ports,
        presence: &mut Presence,
    ) -> Result<Option<ActionEntry>, StoreError> {
        let entry = self.recorded(kind, key)?;
        let Some(found) = entry.filter(|entry| entry.ports() == *ports && self.complete(entry, presence)) else {
            return Ok(None);
        };
        // From now on somebody relies on it: garbage collection lets it be, unless it came first.
        let gone = matches!(self.backend.touch(&action(kind, key)), Ok(Touched::Gone));
        Ok((!gone).then_some(found))
    }

    /// The entry of a key as it was written. A torn one counts as none. Whether it is a result today, [`Store::lookup`] says.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be read.
    pub fn recorded(&self, kind: &str, key: &Digest) -> Result<Option<ActionEntry>, StoreError> {
        let entry: Option<ActionEntry> = self.read_record(&action(kind, key))?;
        Ok(entry.filter(|entry| entry.key == *key && entry.kind == kind))
    }

    /// Whether the trees and blobs of an entry are there: names and sizes, not bytes. Of large trees a part of the files.
    fn complete(&self, entry: &ActionEntry, presence: &mut Presence) -> bool {
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

    /// Publishes an entry whose blobs and trees are in the store. The first one of a key stays; one that is torn, has other ports
    /// or types, or whose blobs are gone, is replaced. `durable`: all of it outlives a loss of power.
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
            self.sync_blobs(blobs)?;
        }
        let name = action(&entry.kind, &entry.key);
        let published = loop {
            let first = self.lookup(&entry.kind, &entry.key, &entry.ports(), &mut Presence::default())?;
            if let Some(first) = first {
                break if first.outputs == entry.outputs { Published::Same } else { Published::Different(first) };
            }
            // Torn, of a kind that had other ports then, or its blobs are gone.
            let replace = self.backend.head(&name)?.is_some();
            if self.write_record(&name, entry, Put { replace, durable })? {
                break Published::New;
            }
        };
        if published == Published::New {
            let name = self::facts(&entry.kind, &entry.key);
            self.write_record(&name, facts, Put { replace: true, durable: false })?;
        } else if durable {
            self.backend.sync(&name)?;
        }
        Ok(published)
    }

    /// How the run of an entry went, if that is known.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn facts(&self, kind: &str, key: &Digest) -> Result<Option<RunFacts>, StoreError> {
        self.read_record(&facts(kind, key))
    }

    /// Says that an entry was used, so that garbage collection takes it for young. Where it cannot be said, it may be collected.
    pub fn touch_action(&self, kind: &str, key: &Digest) {
        let _ = self.backend.touch(&action(kind, key));
    }

    /// Removes an entry: its result is computed anew. How its run went stays, with the list of its items, which may serve again.
    /// `false`: there was none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn drop_action(&self, kind: &str, key: &Digest) -> Result<bool, StoreError> {
        self.backend.delete(&action(kind, key))
    }

    /// Every key that has an entry or what is left of one, sorted by kind and key.
    pub(super) fn list_actions(&self) -> Result<Vec<ActionListed>, StoreError> {
        self.list_actions_in("actions")
    }

    fn list_actions_in(&self, folder: &str) -> Result<Vec<ActionListed>, StoreError> {
        let mut found: BTreeMap<(String, Digest), ActionListed> = BTreeMap::new();
        for object in self.backend.list(folder)? {
            let mut parts = object.name.split('/').skip(1);
            let (Some(kind), Some(file), None) = (parts.next(), parts.next(), parts.next()) else { continue };
            let Some(name) = file.strip_suffix(".json") else { continue };
            let (name, has_entry) = name.strip_suffix(".facts").map_or((name, true), |name| (name, false));
            let Ok(key) = name.parse::<Digest>() else { continue };
            let listed = found.entry((kind.to_owned(), key)).or_insert_with(|| ActionListed {
                kind: kind.to_owned(),
                key,
                has_entry: false,
                used: Duration::ZERO,
                bytes: 0,
            });
            listed.has_entry |= has_entry;
            listed.used = listed.used.max(object.meta.used);
            listed.bytes += object.meta.size;
        }
        Ok(found.into_values().collect())
    }

    /// Up to `at_most` entries of a kind, the last used first; fewer where they are so large that they would not fit into memory.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn recent_actions(&self, kind: &str, at_most: usize) -> Result<Vec<ActionEntry>, StoreError> {
        let mut listed = self.list_actions_in(&format!("actions/{kind}"))?;
        listed.retain(|listed| listed.has_entry);
        listed.sort_by_key(|listed| (std::cmp::Reverse(listed.used), listed.key));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for listed in listed.into_iter().take(at_most) {
            bytes += listed.bytes;
            if bytes > RECENT_BYTES && !entries.is_empty() {
                break;
            }
            entries.extend(self.recorded(kind, &listed.key)?);
        }
        Ok(entries)
    }

    /// Reads every file of these outputs. Gives the blobs that are damaged, which are in quarantine now, or missing.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn check_outputs(&self, outputs: &ActionOutputs) -> Result<BTreeSet<Digest>, StoreError> {
        let mut bad = BTreeSet::new();
        let mut note = |result: Result<(), StoreError>| {
            let Err(error) = result else { return Ok(()) };
            let Some(digest) = error.blob() else { return Err(error) };
            bad.insert(digest);
            Ok(())
        };
        for output in outputs.values() {
            match self.tree(&output.tree) {
                Ok(tree) => tree.entries().iter().try_for_each(|file| note(self.check(&file.digest)))?,
                // Its bytes are right, so it was written like that: there are no files to look at.
                Err(StoreError::Malformed { .. }) => {}
                Err(error) => note(Err(error))?,
            }
        }
        Ok(bad)
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
    use crate::store::{TreeEntry, base::blob};

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
        assert_eq!(one.recorded("kind", &first.key).unwrap(), None);
        assert_eq!(one.publish_action(&first, &RunFacts::now(1.5), true).unwrap(), Published::New);
        assert_eq!(two.publish_action(&first, &RunFacts::now(9.0), false).unwrap(), Published::Same);
        assert_eq!(
            two.publish_action(&other, &RunFacts::now(9.0), false).unwrap(),
            Published::Different(first.clone())
        );
        assert_eq!(two.recorded("kind", &first.key).unwrap(), Some(first.clone()));
        assert_eq!(two.facts("kind", &first.key).unwrap().unwrap().seconds, 1.5);
        assert_eq!(two.recent_actions("kind", 9).unwrap(), vec![first.clone()]);
        assert!(two.drop_action("kind", &first.key).unwrap());
        assert_eq!(one.recorded("kind", &first.key).unwrap(), None);
    }

    #[test]
    fn an_entry_is_complete_only_with_its_blobs_and_is_replaced_without() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (first, other) = (entry(&store, "a"), entry(&store, "b"));
        store.publish_action(&first, &RunFacts::now(1.0), false).unwrap();
        assert!(store.complete(&first, &mut Presence::default()));
        std::fs::remove_file(folder.path().join(blob(&Digest::of(b"a")))).unwrap();
        assert!(!store.complete(&first, &mut Presence::default()));
        assert!(
            matches!(store.publish_action(&first, &RunFacts::now(1.0), false), Err(StoreError::Missing(digest)) if digest == Digest::of(b"a"))
        );
        assert_eq!(store.publish_action(&other, &RunFacts::now(2.0), false).unwrap(), Published::New);
        assert_eq!(store.recorded("kind", &other.key).unwrap(), Some(other));
    }

    #[test]
    fn an_entry_with_other_ports_or_types_is_no_result_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = entry(&store, "a");
        store.publish_action(&first, &RunFacts::now(1.0), false).unwrap();
        let lookup = |ports: &[(&'static str, &'static str)]| {
            let ports = ports.iter().copied().collect();
            store.lookup("kind", &first.key, &ports, &mut Presence::default()).unwrap()
        };
        assert_eq!(lookup(&[("out", "files")]), Some(first.clone()));
        for wrong in [&[][..], &[("out", "tables")], &[("other", "files")], &[("out", "files"), ("more", "files")]] {
            assert_eq!(lookup(wrong), None, "{wrong:?}");
        }
        let mut other = first.clone();
        other.outputs.insert("more".to_owned(), output(&store, "a"));
        assert_eq!(store.publish_action(&other, &RunFacts::now(1.0), false).unwrap(), Published::New);
        assert_eq!(lookup(&[("out", "files"), ("more", "files")]), Some(other));
    }

    #[test]
    fn every_bad_blob_of_an_output_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let file = |text: &str| {
            let digest = store.put(text.as_bytes()).unwrap();
            TreeEntry { name: text.to_owned(), digest, size: 1 }
        };
        let files: Vec<TreeEntry> = ["a", "b", "c", "d"].map(file).into();
        let output = store.put_output("files", &Tree::new(files.clone()).unwrap()).unwrap();
        let outputs = ActionOutputs::from([("out".to_owned(), output)]);
        assert!(store.check_outputs(&outputs).unwrap().is_empty());
        for entry in &files[..2] {
            std::fs::remove_file(folder.path().join(blob(&entry.digest))).unwrap();
            std::fs::write(folder.path().join(blob(&entry.digest)), "x").unwrap();
        }
        std::fs::remove_file(folder.path().join(blob(&files[3].digest))).unwrap();
        let bad = [&files[0], &files[1], &files[3]].map(|entry| entry.digest).into();
        assert_eq!(store.check_outputs(&outputs).unwrap(), bad);
    }

    #[test]
    fn large_entries_do_not_fill_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut large = entry(&store, "a");
        large.ingredients = serde_json::json!({ "text": "x".repeat(RECENT_BYTES as usize / 3) });
        for number in 0..5_u8 {
            large.key = Digest::of(&[number]);
            store.publish_action(&large, &RunFacts::now(1.0), false).unwrap();
        }
        assert_eq!(store.recent_actions("kind", 64).unwrap().len(), 2);
        assert_eq!(store.recent_actions("kind", 1).unwrap().len(), 1);
        large.ingredients = serde_json::json!({ "text": "x".repeat(2 * RECENT_BYTES as usize) });
        large.kind = "other".to_owned();
        store.publish_action(&large, &RunFacts::now(1.0), false).unwrap();
        assert_eq!(store.recent_actions("other", 64).unwrap().len(), 1, "at least one");
    }

    #[test]
    fn a_torn_entry_counts_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = entry(&store, "a");
        store.publish_action(&first, &RunFacts::now(1.0), false).unwrap();
        let path = folder.path().join(action("kind", &first.key));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(store.recorded("kind", &first.key).unwrap(), None);
        assert_eq!(store.publish_action(&first, &RunFacts::now(1.0), false).unwrap(), Published::New);
        assert_eq!(store.recorded("kind", &first.key).unwrap(), Some(first));
    }
}
