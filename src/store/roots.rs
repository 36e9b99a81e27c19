//! Roots: what each pipeline needed last. Garbage collection keeps it, and the planner compares with it.
//!
//! Every process writes a record of its own, and then removes those that it read: so processes that run at the same time lose nothing
//! of each other's, without a lock. Changes from the command line (`--set`, `--profile`) make a variant, which has records of its own.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{
    Digest, Store, StoreError,
    actions::host,
    backend::{Put, now},
    record::Found,
};

/// The version of the records. Garbage collection stops at a record of a later one.
const VERSION: u32 = 1;

/// What an instance needed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its stage kind.
    pub kind: String,
    /// The key of the action that it ended with last.
    pub key: Option<Digest>,
    /// Where its checkpoints lie, also those of work that was not finished.
    pub checkpoints: Option<Digest>,
}

/// Which pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Project {
    /// The pipeline's name.
    pub pipeline: String,
    /// What tells it from others of the same name: the path of its file.
    pub project: String,
    /// Changes from the command line, in one canonical text; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Project {
    /// What its records are called, but for what tells them from each other.
    fn prefix(&self) -> String {
        let Self { pipeline, project, variant } = self;
        let fit = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let name: String = pipeline.chars().take(40).map(fit).collect();
        // All decide, each with its length: ("a", "bc") is not ("ab", "c").
        let mut text = format!("{} {pipeline} {project}", pipeline.len());
        if !variant.is_empty() {
            text = format!("{} {text} {variant}", text.len());
        }
        format!("{name}-{}", Digest::of(text.as_bytes()).short())
    }
}

/// What a pipeline needed last, by the names of its instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Which pipeline.
    pub of: Project,
    /// Its instances.
    pub instances: BTreeMap<String, Root>,
    /// What it was when it was read.
    before: BTreeMap<String, Root>,
    /// What other variants of the pipeline needed last.
    elsewhere: BTreeMap<String, Root>,
    /// The records that this was read from, and those of the same pipeline that are damaged.
    read: Vec<String>,
    damaged: Vec<String>,
    /// The record that this process writes.
    own: String,
}

impl Roots {
    /// What an instance needed last; of a variant that never ran, what another one needed.
    #[must_use]
    pub fn last(&self, instance: &str) -> Option<&Root> {
        self.instances.get(instance).or_else(|| self.elsewhere.get(instance))
    }
}

/// A record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RootsRecord {
    #[serde(default = "first_version")]
    version: u32,
    pub(super) pipeline: String,
    pub(super) project: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
    /// When it was written, in nanoseconds since 1970.
    #[serde(default)]
    written: u64,
    pub(super) instances: BTreeMap<String, Root>,
    /// The instances about which this record knows something new; the others stand as the writer had read them.
    #[serde(default)]
    own: Vec<String>,
}

fn first_version() -> u32 {
    1
}

impl RootsRecord {
    pub(super) fn of(&self) -> Project {
        let Self { pipeline, project, variant, .. } = self.clone();
        Project { pipeline, project, variant }
    }
}

impl Store {
    /// What a pipeline needed last; empty when it was never run.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn roots(&self, of: &Project) -> Result<Roots, StoreError> {
        let prefix = of.prefix();
        let mut found = Vec::new();
        let mut roots = Roots { of: of.clone(), own: own_name(&prefix), ..Roots::default() };
        for (name, record) in self.all_roots()? {
            match record {
                Ok(record) if record.of() == *of => {
                    roots.read.push(name);
                    found.push(record);
                }
                Ok(record) if (&record.pipeline, &record.project) == (&of.pipeline, &of.project) => found.push(record),
                Ok(_) => {}
                Err(_) => {
                    let rest = name.strip_prefix("roots/").and_then(|name| name.strip_prefix(prefix.as_str()));
                    if rest.is_some_and(|rest| rest.starts_with(['.', '-'])) {
                        roots.damaged.push(name);
                    }
                }
            }
        }
        // What a record knows anew goes before what it had read; later records before earlier ones.
        found.sort_by_key(|record| record.written);
        for of_own in [false, true] {
            for record in &found {
                let into = if record.variant == of.variant { &mut roots.instances } else { &mut roots.elsewhere };
                for (name, root) in record.instances.iter().filter(|(name, _)| record.own.contains(name) == of_own) {
                    into.insert(name.clone(), root.clone());
                }
            }
        }
        roots.before.clone_from(&roots.instances);
        Ok(roots)
    }

    /// Writes down what a pipeline needs now, so that it outlives a loss of power. `whole`: it is all that the pipeline needs; then
    /// damaged records of it go.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_roots(&self, roots: &Roots, whole: bool) -> Result<(), StoreError> {
        let Project { pipeline, project, variant } = roots.of.clone();
        let changed = roots.instances.iter().filter(|(name, root)| roots.before.get(*name) != Some(*root));
        let record = RootsRecord {
            version: VERSION,
            pipeline,
            project,
            variant,
            written: now().as_nanos() as u64,
            own: changed.map(|(name, _)| name.clone()).collect(),
            instances: roots.instances.clone(),
        };
        self.write_record(&roots.own, &record, Put { replace: true, durable: true })?;
        let damaged = if whole { roots.damaged.as_slice() } else { &[] };
        for name in roots.read.iter().chain(damaged).filter(|name| **name != roots.own) {
            let is_record = self.backend.delete(name)?;
            // Nothing, or a folder of that name: what is put in its place moves it aside.
            if !is_record && damaged.contains(name) {
                self.write(name, b"", Put { replace: true, durable: false })?;
                self.backend.delete(name)?;
            }
        }
        Ok(())
    }

    /// The records of all pipelines, with their names; for one that is damaged, unreadable or of a later version, why.
    pub(super) fn all_roots(&self) -> Result<Vec<(String, Result<RootsRecord, String>)>, StoreError> {
        'again: loop {
            let mut records = Vec::new();
            for name in self.backend.names("roots")?.into_iter().filter(|name| name.ends_with(".json")) {
                let name = format!("roots/{name}");
                let record = match self.inspect::<RootsRecord>(&name) {
                    Found::Whole(record) if record.version > VERSION => {
                        Err("was written by a newer statcell".to_owned())
                    }
                    Found::Whole(record) => Ok(record),
                    Found::Torn => Err("is damaged".to_owned()),
                    Found::Strange => Err("was written by another version of statcell".to_owned()),
                    Found::Unreadable(error) => Err(format!("cannot be read ({error})")),
                    Found::Nothing if self.backend.names("roots")?.iter().any(|other| name.ends_with(other)) => {
                        Err("is no file".to_owned())
                    }
                    // Another process has written a record in its place, which the list does not have yet.
                    Found::Nothing => continue 'again,
                };
                records.push((name, record));
            }
            return Ok(records);
        }
    }
}

/// A name that no other process uses.
fn own_name(prefix: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let unique = format!("{} {} {} {number}", host(), std::process::id(), now().as_nanos());
    format!("roots/{prefix}-{}.json", &Digest::of(unique.as_bytes()).short()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Root {
        Root { kind: "kind".to_owned(), key: Some(Digest::of(text.as_bytes())), checkpoints: None }
    }

    fn project(variant: &str) -> Project {
        let [pipeline, project, variant] = ["p", "/p.toml", variant].map(str::to_owned);
        Project { pipeline, project, variant }
    }

    fn keys(roots: &Roots) -> Vec<(&str, Option<Digest>)> {
        roots.instances.iter().map(|(name, root)| (name.as_str(), root.key)).collect()
    }

    fn setting() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn set(store: &Store, variant: &str, instance: &str, text: &str) {
        let mut roots = store.roots(&project(variant)).unwrap();
        roots.instances.insert(instance.to_owned(), root(text));
        store.put_roots(&roots, false).unwrap();
    }

    #[test]
    fn one_run_after_the_other_leaves_one_record() {
        let (_folder, store) = setting();
        for text in ["one", "two", "three"] {
            set(&store, "", "a", text);
        }
        set(&store, "", "b", "b");
        let roots = store.roots(&project("")).unwrap();
        assert_eq!(keys(&roots), [("a", Some(Digest::of(b"three"))), ("b", Some(Digest::of(b"b")))]);
        assert_eq!(store.all_roots().unwrap().len(), 1);
        // The same with a clock that goes backwards: what was read is what is replaced, whatever the times say.
        let (path, record) = store.all_roots().unwrap().pop().unwrap();
        let future = RootsRecord { written: u64::MAX, ..record.unwrap() };
        store.write_record(&path, &future, Put { replace: true, durable: false }).unwrap();
        set(&store, "", "a", "four");
        assert_eq!(keys(&store.roots(&project("")).unwrap())[0], ("a", Some(Digest::of(b"four"))));
    }

    #[test]
    fn runs_at_once_lose_nothing_of_each_others() {
        let (_folder, store) = setting();
        set(&store, "", "a", "old");
        set(&store, "", "b", "old");
        let (mut one, mut two) = (store.roots(&project("")).unwrap(), store.roots(&project("")).unwrap());
        one.instances.insert("a".to_owned(), root("one"));
        store.put_roots(&one, false).unwrap();
        two.instances.insert("b".to_owned(), root("two"));
        store.put_roots(&two, false).unwrap();
        assert_eq!(store.all_roots().unwrap().len(), 2);
        let both = store.roots(&project("")).unwrap();
        assert_eq!(keys(&both), [("a", Some(Digest::of(b"one"))), ("b", Some(Digest::of(b"two")))]);
        store.put_roots(&both, false).unwrap();
        assert_eq!(store.all_roots().unwrap().len(), 1);
    }

    #[test]
    fn variants_stand_beside_each_other_and_know_of_each_other() {
        let (_folder, store) = setting();
        set(&store, "", "a", "plain");
        set(&store, "--set a.x=1", "a", "one");
        set(&store, "--set a.x=2", "a", "two");
        assert_eq!(store.all_roots().unwrap().len(), 3);
        assert_eq!(keys(&store.roots(&project("")).unwrap()), [("a", Some(Digest::of(b"plain")))]);
        let new = store.roots(&project("--set a.x=3")).unwrap();
        assert_eq!((keys(&new), new.last("a")), (vec![], Some(&root("two"))));
    }

    #[test]
    fn a_damaged_record_goes_only_when_all_is_known_again() {
        let (_folder, store) = setting();
        set(&store, "", "a", "one");
        let (path, _) = store.all_roots().unwrap().pop().unwrap();
        store.write(&path, b"", Put { replace: true, durable: false }).unwrap();
        set(&store, "other", "a", "x");
        let mut roots = store.roots(&project("")).unwrap();
        assert_eq!(keys(&roots), []);
        roots.instances.insert("a".to_owned(), root("one"));
        store.put_roots(&roots, false).unwrap();
        assert!(store.backend.head(&path).unwrap().is_some());
        store.put_roots(&roots, true).unwrap();
        assert!(store.backend.head(&path).unwrap().is_none());
        assert!(store.all_roots().unwrap().iter().all(|(_, record)| record.is_ok()));
    }

    #[test]
    fn a_folder_in_the_place_of_a_record_is_damage_too() {
        let (_folder, store) = setting();
        set(&store, "", "a", "one");
        let (name, _) = store.all_roots().unwrap().pop().unwrap();
        std::fs::remove_file(store.root().join(&name)).unwrap();
        std::fs::create_dir_all(store.root().join(&name).join("more")).unwrap();
        assert!(store.all_roots().unwrap()[0].1.is_err());
        let mut roots = store.roots(&project("")).unwrap();
        roots.instances.insert("a".to_owned(), root("one"));
        store.put_roots(&roots, true).unwrap();
        store.put_roots(&roots, true).unwrap();
        assert!(store.all_roots().unwrap().iter().all(|(_, record)| record.is_ok()));
    }

    #[test]
    fn records_of_the_first_version_are_read() {
        let (_folder, store) = setting();
        let old = serde_json::json!({ "pipeline": "p", "project": "/p.toml", "instances": { "a": root("old") } });
        let path = format!("roots/{}.json", project("").prefix());
        store.write_record(&path, &old, Put { replace: true, durable: false }).unwrap();
        assert_eq!(store.roots(&project("")).unwrap().last("a"), Some(&root("old")));
        set(&store, "", "a", "new");
        assert!(store.backend.head(&path).unwrap().is_none());
        for (newer, why) in [
            (serde_json::json!({ "version": 2, "pipeline": "p", "project": "", "instances": {} }), "newer"),
            (serde_json::json!({ "pipeline": "p", "project": "", "instances": {}, "more": 1 }), "another version"),
        ] {
            store.write_record(&path, &newer, Put { replace: true, durable: false }).unwrap();
            let all = store.all_roots().unwrap();
            let reasons: Vec<&String> = all.iter().filter_map(|(_, record)| record.as_ref().err()).collect();
            assert!(matches!(reasons[..], [reason] if reason.contains(why)), "{reasons:?}");
        }
    }
}
