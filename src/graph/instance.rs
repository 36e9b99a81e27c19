//! Stage instances, and what each takes from where.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use crate::{
    stage::{AnyStage, Output},
    store::{Ports, Project},
};

/// Where one input of an instance comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An output port of another instance, by its position in [`Graph::instances`].
    Output {
        /// The producing instance.
        instance: usize,
        /// Its output port.
        port: String,
    },
    /// A file outside the store.
    File {
        /// The name without folders: what identity may depend on.
        name: String,
        /// Where it lies.
        path: PathBuf,
    },
}

/// One stage with one set of parameters: a stage without a matrix is one instance, one with a matrix is a group of them.
#[derive(Clone)]
pub struct Instance {
    /// The name that people use: `sweep[beta=0.5]`, or just `colony`.
    pub name: String,
    /// The stage's name in the pipeline: `sweep`.
    pub stage: String,
    /// The values of the matrix, as (axis, value) in the pipeline's order: `[("beta", 0.5)]`.
    pub axes: Vec<(String, Value)>,
    /// The stage kind.
    pub kind: &'static dyn AnyStage,
    /// Normalised parameters: every default filled in.
    pub params: Value,
    /// Every connected input port, sorted by name, with its sources in order.
    pub inputs: Vec<(String, Vec<Source>)>,
    /// The output ports.
    pub outputs: Vec<Output>,
}

impl Instance {
    /// The output ports with the names of their types, as the store knows them.
    #[must_use]
    pub fn ports(&self) -> Ports<'_> {
        self.outputs.iter().map(|port| (port.name.as_str(), port.kind.name())).collect()
    }
}

/// All instances of a pipeline, each behind those that it depends on; ties in the order of the pipeline's text.
pub struct Graph {
    /// The pipeline's name.
    pub pipeline: String,
    /// What tells the pipeline from others of the same name: the absolute path of its file. Part of no identity; only what
    /// garbage collection keeps goes by it.
    pub project: String,
    /// Changes from the command line, in one canonical text. Part of no identity either.
    pub variant: String,
    /// The instances.
    pub instances: Vec<Instance>,
    by_name: BTreeMap<String, usize>,
    edges: DiGraph<usize, ()>,
}

impl Graph {
    /// A graph of these instances, which stand in a valid order: an instance behind those that it takes from.
    #[must_use]
    pub fn new(pipeline: String, instances: Vec<Instance>) -> Self {
        let mut edges = DiGraph::new();
        for index in 0..instances.len() {
            edges.add_node(index);
        }
        for (index, instance) in instances.iter().enumerate() {
            for source in instance.inputs.iter().flat_map(|(_, sources)| sources) {
                if let Source::Output { instance: from, .. } = source {
                    edges.update_edge(NodeIndex::new(*from), NodeIndex::new(index), ());
                }
            }
        }
        let by_name = instances.iter().enumerate().map(|(index, instance)| (instance.name.clone(), index)).collect();
        Self { pipeline, project: String::new(), variant: String::new(), instances, by_name, edges }
    }

    /// The same graph, of the pipeline in this file.
    #[must_use]
    pub fn of_file(mut self, file: &Path) -> Self {
        let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        self.project = path.to_string_lossy().into_owned();
        self
    }

    /// The same graph, with these changes from the command line.
    #[must_use]
    pub fn of_variant(mut self, variant: String) -> Self {
        self.variant = variant;
        self
    }

    /// Whose results these are, as the store knows it.
    #[must_use]
    pub fn owner(&self) -> Project {
        let (pipeline, project, variant) = (self.pipeline.clone(), self.project.clone(), self.variant.clone());
        Project { pipeline, project, variant }
    }

    /// The instances that `instance` takes from, ascending.
    #[must_use]
    pub fn dependencies(&self, instance: usize) -> Vec<usize> {
        self.neighbours(instance, petgraph::Direction::Incoming)
    }

    /// The instances that take from `instance`, ascending.
    #[must_use]
    pub fn dependents(&self, instance: usize) -> Vec<usize> {
        self.neighbours(instance, petgraph::Direction::Outgoing)
    }

    fn neighbours(&self, instance: usize, direction: petgraph::Direction) -> Vec<usize> {
        let mut found: Vec<usize> =
            self.edges.neighbors_directed(NodeIndex::new(instance), direction).map(NodeIndex::index).collect();
        found.sort_unstable();
        found
    }

    /// The instance of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// These instances and everything that they depend on, ascending.
    #[must_use]
    pub fn with_ancestors(&self, selected: &[usize]) -> Vec<usize> {
        let mut wanted = vec![false; self.instances.len()];
        for &index in selected {
            wanted[index] = true;
        }
        for index in (0..self.instances.len()).rev() {
            if wanted[index] {
                for dependency in self.dependencies(index) {
                    wanted[dependency] = true;
                }
            }
        }
        (0..wanted.len()).filter(|&index| wanted[index]).collect()
    }
}
