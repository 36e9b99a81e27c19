//! Decisions: what is cached, what runs and why, what cannot be known yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    PlanError,
    error::UnreadableFile,
    keys::Ingredients,
    reason::{Reason, differences},
};
use crate::{
    graph::{Graph, Instance, Source},
    stage::{Numerics, folder_digest, folder_files, is_image_folder},
    store::{ActionEntry, ActionOutputs, Digest, Presence, Roots, Store},
};

/// What is known of an instance before it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// The store has its outputs.
    Hit {
        /// Its key.
        key: Digest,
        /// Its outputs.
        outputs: ActionOutputs,
    },
    /// It runs.
    Run {
        /// Its key.
        key: Digest,
        /// Why; at least one.
        reasons: Vec<Reason>,
    },
    /// Its inputs are not there yet. If they turn out to be what they were before, it does not run.
    Unknown {
        /// The instances that it takes from and that are not cached.
        because: Vec<String>,
    },
}

/// An instance and what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Its position in the graph.
    pub index: usize,
    /// Its name.
    pub instance: String,
    /// Its stage kind.
    pub kind: String,
    /// What is known.
    pub decision: Decision,
}

/// What is known of all instances that take part, before anything runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The pipeline's name.
    pub pipeline: String,
    /// The instances that take part, each behind those that it depends on.
    pub steps: Vec<Step>,
    /// The class of arithmetic that it holds for.
    pub numerics: Numerics,
    /// Digests of the input files.
    #[serde(skip)]
    pub(crate) files: BTreeMap<PathBuf, Digest>,
}

impl Plan {
    /// The step of an instance, by its position in the graph.
    #[must_use]
    pub fn step(&self, index: usize) -> Option<&Step> {
        let at = self.steps.binary_search_by_key(&index, |step| step.index).ok()?;
        Some(&self.steps[at])
    }

    /// How many instances are cached, run, and unknown.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for step in &self.steps {
            match step.decision {
                Decision::Hit { .. } => counts.0 += 1,
                Decision::Run { .. } => counts.1 += 1,
                Decision::Unknown { .. } => counts.2 += 1,
            }
        }
        counts
    }
}

/// Looks at every instance in `selected` and all that they depend on: cached, to be run, or not known yet.
///
/// # Errors
/// [`PlanError`]: input files that cannot be read, all of them; a store that cannot be read.
pub fn plan(graph: &Graph, selected: &[usize], store: &Store, numerics: Numerics) -> Result<Plan, PlanError> {
    let wanted = graph.with_ancestors(selected);
    let files = digest_files(graph, &wanted, store)?;
    let mut planner = Planner::new(graph, store, files, numerics)?;
    let mut known: BTreeMap<usize, ActionOutputs> = BTreeMap::new();
    let mut steps = Vec::new();
    for index in wanted {
        let instance = &graph.instances[index];
        let decision = planner.decide(index, &known)?;
        if let Decision::Hit { outputs, .. } = &decision {
            known.insert(index, outputs.clone());
        }
        steps.push(Step { index, instance: instance.name.clone(), kind: instance.kind.name().to_owned(), decision });
    }
    Ok(Plan { pipeline: graph.pipeline.clone(), numerics, steps, files: planner.files })
}

/// The digest of a file, or of a folder that is one image.
fn digest(path: &Path, store: &Store) -> std::io::Result<Digest> {
    if !is_image_folder(path) {
        return store.file_digest(path);
    }
    let files = folder_files(path)?.into_iter().map(|(name, path)| Ok((name, store.file_digest(&path)?)));
    Ok(folder_digest(&files.collect::<std::io::Result<Vec<_>>>()?))
}

/// The digests of all input files of these instances.
fn digest_files(graph: &Graph, wanted: &[usize], store: &Store) -> Result<BTreeMap<PathBuf, Digest>, PlanError> {
    let mut paths: BTreeMap<&Path, &str> = BTreeMap::new();
    for &index in wanted {
        let instance = &graph.instances[index];
        for source in instance.inputs.iter().flat_map(|(_, sources)| sources) {
            if let Source::File { path, .. } = source {
                paths.entry(path).or_insert(&instance.name);
            }
        }
    }
    let (mut files, mut unreadable) = (BTreeMap::new(), Vec::new());
    for (path, instance) in paths {
        match digest(path, store) {
            Ok(digest) => drop(files.insert(path.to_owned(), digest)),
            Err(error) => unreadable.push(UnreadableFile {
                instance: instance.to_owned(),
                path: path.to_owned(),
                reason: error.to_string(),
            }),
        }
    }
    store.keep_file_digests();
    if unreadable.is_empty() { Ok(files) } else { Err(PlanError::Files(unreadable)) }
}

/// How many earlier actions of a kind are looked through for the most similar one.
const RECENT: usize = 64;

/// Decides about instances, one at a time: the plan's and the executor's way to the same keys.
pub(crate) struct Planner<'a> {
    graph: &'a Graph,
    store: &'a Store,
    files: BTreeMap<PathBuf, Digest>,
    numerics: Numerics,
    last: Roots,
    recent: BTreeMap<&'static str, Vec<ActionEntry>>,
    presence: Presence,
}

impl<'a> Planner<'a> {
    /// A planner for this graph. `files`: the digests of its input files.
    pub(crate) fn new(
        graph: &'a Graph,
        store: &'a Store,
        files: BTreeMap<PathBuf, Digest>,
        numerics: Numerics,
    ) -> Result<Self, PlanError> {
        let last = store.roots(&graph.owner())?;
        Ok(Self { graph, store, files, numerics, last, recent: BTreeMap::new(), presence: Presence::default() })
    }

    /// What the pipeline needed last.
    pub(crate) fn last(&self) -> &Roots {
        &self.last
    }

    /// Forgets what was found to be there: after damage.
    pub(crate) fn forget(&mut self) {
        self.presence = Presence::default();
    }

    /// The ingredients of an instance's key; else the instances whose outputs are not known.
    pub(crate) fn ingredients(
        &self,
        index: usize,
        known: &BTreeMap<usize, ActionOutputs>,
    ) -> Result<Ingredients, BTreeSet<usize>> {
        Ingredients::of_instance(self.graph, index, &self.files, self.numerics, |other, port| {
            known.get(&other).and_then(|outputs| outputs.get(port))
        })
    }

    /// What is known of an instance, given the outputs of others.
    pub(crate) fn decide(
        &mut self,
        index: usize,
        known: &BTreeMap<usize, ActionOutputs>,
    ) -> Result<Decision, PlanError> {
        let graph = self.graph;
        let instance = &graph.instances[index];
        let ingredients = match self.ingredients(index, known) {
            Ok(ingredients) => ingredients,
            Err(unknown) => {
                let because = unknown.into_iter().map(|other| graph.instances[other].name.clone()).collect();
                return Ok(Decision::Unknown { because });
            }
        };
        let key = ingredients.key();
        let found = self.store.lookup(instance.kind.name(), &key, &instance.ports(), &mut self.presence)?;
        if let Some(entry) = found {
            return Ok(Decision::Hit { key, outputs: entry.outputs });
        }
        let reasons = self.reasons(instance, &ingredients, &key)?;
        Ok(Decision::Run { key, reasons })
    }

    /// Why an instance runs whose key has no whole entry: at least one reason.
    fn reasons(
        &mut self,
        instance: &Instance,
        ingredients: &Ingredients,
        key: &Digest,
    ) -> Result<Vec<Reason>, PlanError> {
        let kind = instance.kind.name();
        let source = |port: &str, position: usize| source_name(self.graph, instance, port, position);
        if let Some(last) = self.last.last(&instance.name)
            && let Some(last_key) = last.key
        {
            if last_key == *key {
                return Ok(vec![Reason::ResultMissing]);
            }
            if last.kind != kind {
                return Ok(vec![Reason::KindChanged { old: last.kind.clone(), new: kind.to_owned() }]);
            }
            if let Some(entry) = self.store.recorded(kind, &last_key)? {
                return Ok(differences(&entry.ingredients, ingredients, &source));
            }
        }
        if !self.recent.contains_key(kind) {
            self.recent.insert(kind, self.store.recent_actions(kind, RECENT)?);
        }
        let recent = self.recent[kind].iter();
        if recent.clone().any(|entry| entry.key == *key) {
            return Ok(vec![Reason::ResultMissing]);
        }
        let nearest = recent.map(|entry| differences(&entry.ingredients, ingredients, &source)).min_by_key(Vec::len);
        Ok(vec![nearest.map_or(Reason::NeverRan, |differences| Reason::NewInstance { differences })])
    }
}

/// Where the input at (port, position) of an instance comes from: `instance.port`, or a file's name.
pub(super) fn source_name(graph: &Graph, instance: &Instance, port: &str, position: usize) -> String {
    let sources = instance.inputs.iter().find(|(name, _)| name == port).map(|(_, sources)| sources);
    match sources.and_then(|sources| sources.get(position)) {
        Some(Source::Output { instance, port }) => format!("{}.{port}", graph.instances[*instance].name),
        Some(Source::File { name, .. }) => name.clone(),
        None => port.to_owned(),
    }
}
