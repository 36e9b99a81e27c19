//! Roots: what each pipeline needed last. Garbage collection keeps it, and the planner compares with it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Digest, Store, StoreError, fs, record};

/// What an instance needed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its stage kind.
    pub kind: String,
    /// The key of the action that it ended with last.
    pub key: Option<Digest>,
    /// Where its checkpoints lie, also those of work that was not finished.
    pub checkpoints: Option<Digest>,
}

/// What a pipeline needed last, by the names of its instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// The pipeline's name.
    pub pipeline: String,
    /// What tells it from others of the same name: the path of its file.
    pub project: String,
    /// Its instances.
    pub instances: BTreeMap<String, Root>,
}

impl Store {
    fn roots_path(&self, pipeline: &str, project: &str) -> PathBuf {
        let fit = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let name: String = pipeline.chars().take(40).map(fit).collect();
        // Both decide, each with its length: ("a", "bc") is not ("ab", "c").
        let id = Digest::of(format!("{} {pipeline} {project}", pipeline.len()).as_bytes());
        self.root().join("roots").join(format!("{name}-{}.json", id.short()))
    }

    /// What the pipeline needed last; empty when it was never run.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn roots(&self, pipeline: &str, project: &str) -> Result<Roots, StoreError> {
        let found: Option<Roots> = record::read(&self.roots_path(pipeline, project))?;
        let fitting = found.filter(|roots| roots.pipeline == pipeline && roots.project == project);
        Ok(fitting.unwrap_or_else(|| Roots {
            pipeline: pipeline.to_owned(),
            project: project.to_owned(),
            instances: BTreeMap::new(),
        }))
    }

    /// Writes down what a pipeline needs now.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_roots(&self, roots: &Roots) -> Result<(), StoreError> {
        let path = self.roots_path(&roots.pipeline, &roots.project);
        fs::publish(record::stage(&self.tmp(), roots)?, &path)
    }

    /// The roots of all pipelines, with the paths of their records. A torn record is left out and reported as `None`.
    pub(super) fn all_roots(&self) -> Result<Vec<(PathBuf, Option<Roots>)>, StoreError> {
        let folder = self.root().join("roots");
        let paths = fs::list(&folder)?.into_iter().map(|name| folder.join(name));
        paths.map(|path| Ok((path.clone(), record::read(&path)?))).collect()
    }
}
