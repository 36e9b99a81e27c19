//! The list of the files in a results folder that are statcell's.
//!
//! The list (`.statcell.json`) is written when a run ends. Before that, what a run is about to write goes to a journal beside it:
//! so a file that a killed run wrote is known as statcell's too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Write},
};

use serde::{Deserialize, Serialize};

use super::{
    folder::{Folder, Found, Stamp, is_beneath},
    names::safe_name,
};
use crate::store::Digest;

const LIST: &str = ".statcell.json";
const JOURNAL: &str = ".statcell.journal";
const LIST_VERSION: u32 = 1;

/// A file as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) modified_ns: u64,
}

impl Written {
    /// A file with these bytes, as it is now.
    pub(super) fn new(digest: Digest, stamp: Stamp) -> Self {
        Self { digest, size: stamp.size, modified_ns: stamp.modified_ns }
    }

    /// Whether the file was not touched since.
    pub(super) fn is_as(&self, stamp: Stamp) -> bool {
        (self.size, self.modified_ns) == (stamp.size, stamp.modified_ns)
    }
}

/// The files of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) version: Digest,
    pub(super) files: BTreeMap<String, Written>,
    /// Files of this version that were not copied, because something of the user's has their name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) withheld: BTreeSet<String>,
}

/// The list as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    list_version: u32,
    /// The pipeline's file, relative to the results folder; lists of older versions do not say.
    #[serde(default)]
    project: Option<String>,
    instances: BTreeMap<String, Listed>,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
struct Intent {
    digests: BTreeMap<String, Digest>,
}

/// Which files are statcell's, and in which version.
#[derive(Debug, Default)]
pub(super) struct List {
    /// The pipeline's file, relative to the results folder; `None`: a list of an older version.
    pub(super) project: Option<String>,
    instances: BTreeMap<String, Listed>,
    /// What a file may also hold, by path: runs that never ended wrote it.
    intended: BTreeMap<String, BTreeSet<Digest>>,
    /// Instances whose files changed since the list was read.
    changed: BTreeSet<String>,
    unsaved: bool,
}

impl List {
    /// Reads the list of a folder; `None`: there is none. One that cannot be understood is empty: then no file is known as
    /// statcell's.
    ///
    /// # Errors
    /// The operating system's; something that is no file is where the list should be.
    pub(super) fn read(folder: &Folder) -> io::Result<Option<Self>> {
        let Some(file) = folder.read(LIST)? else {
            return match folder.look(LIST)? {
                Found::InTheWay(obstacle) => {
                    Err(io::Error::other(format!("`{LIST}` in it is {}: remove it", obstacle.what)))
                }
                Found::Nothing | Found::File(_) => Ok(None),
            };
        };
        let record: Option<Record> = serde_json::from_reader(BufReader::new(file)).ok();
        let mut list = Self::default();
        if let Some(record) = record.filter(|record| record.list_version == LIST_VERSION) {
            list.project = record.project;
            list.instances = record.instances;
        }
        // A path that statcell would never write is a forged one.
        for (instance, listed) in &mut list.instances {
            let own = safe_name(instance);
            listed.files.retain(|path, _| {
                let top = path.split('/').next().unwrap_or_default();
                is_beneath(path) && (top.starts_with(&own) || (top == path && path.ends_with(".html")))
            });
        }
        if let Some(journal) = folder.read(JOURNAL)? {
            // The last line may be torn.
            let lines = BufReader::new(journal).lines().map_while(Result::ok);
            for intent in lines.filter_map(|line| serde_json::from_str::<Intent>(&line).ok()) {
                for (path, digest) in intent.digests {
                    list.intended.entry(path).or_default().insert(digest);
                }
            }
        }
        Ok(Some(list))
    }

    /// Makes an empty list for a pipeline; `false`: there is a list already.
    pub(super) fn make(folder: &Folder, project: &str) -> io::Result<bool> {
        let list = Self { project: Some(project.to_owned()), ..Self::default() };
        Ok(matches!(list.write(folder, false)?, Found::File(_)))
    }

    fn write(&self, folder: &Folder, replace: bool) -> io::Result<Found> {
        let record =
            Record { list_version: LIST_VERSION, project: self.project.clone(), instances: self.instances.clone() };
        let mut file = folder.create()?;
        file.write_all(&serde_json::to_vec_pretty(&record)?)?;
        file.write_all(b"\n")?;
        file.publish(LIST, replace)
    }

    /// The files of an instance.
    pub(super) fn get(&self, instance: &str) -> Option<&Listed> {
        self.instances.get(instance)
    }

    /// The names of all instances.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.instances.keys()
    }

    /// Whether an instance has a file of this path, or would have it if nothing of the user's were there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.instances.values().any(|listed| listed.files.contains_key(path) || listed.withheld.contains(path))
    }

    /// Sets the files of an instance; `None`: it has none any more.
    pub(super) fn set(&mut self, instance: &str, listed: Option<Listed>) {
        match listed {
            Some(listed) => drop(self.instances.insert(instance.to_owned(), listed)),
            None => drop(self.instances.remove(instance)),
        }
        self.changed.insert(instance.to_owned());
        self.unsaved = true;
    }

    /// Whether a run that never ended may have written this at that path.
    pub(super) fn was_intended(&self, path: &str, digest: &Digest) -> bool {
        self.intended.get(path).is_some_and(|digests| digests.contains(digest))
    }

    /// Writes down what is going to be written.
    pub(super) fn announce(&mut self, folder: &Folder, digests: BTreeMap<String, Digest>) -> io::Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&Intent { digests })?;
        line.push(b'\n');
        self.unsaved = true;
        folder.append(JOURNAL)?.write_all(&line)
    }

    /// Writes the list down, if anything changed. What another run has listed in the meantime stays.
    pub(super) fn save(&mut self, folder: &Folder) -> io::Result<()> {
        if !self.unsaved {
            return Ok(());
        }
        if let Some(mut newer) = Self::read(folder)? {
            for instance in &self.changed {
                match self.instances.get(instance) {
                    Some(listed) => drop(newer.instances.insert(instance.clone(), listed.clone())),
                    None => drop(newer.instances.remove(instance)),
                }
            }
            self.instances = newer.instances;
        }
        if let Found::InTheWay(obstacle) = self.write(folder, true)? {
            return Err(io::Error::other(format!("`{LIST}` in it is {}: remove it", obstacle.what)));
        }
        self.unsaved = false;
        folder.remove(JOURNAL).map(drop)
    }
}
