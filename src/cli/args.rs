//! Arguments that several subcommands share.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    graph::{self, Graph},
    spec::Overrides,
};

/// Which pipeline, with which changes, and which of its stages.
#[derive(Args, Debug)]
pub(super) struct PipelineArgs {
    /// The pipeline: a TOML file
    pub(super) pipeline: PathBuf,

    /// Only these stages and what they need: `shape`, `sweep[beta=0.5]`, `real-*`; without any: all
    #[arg(value_name = "SELECTOR")]
    pub(super) selectors: Vec<String>,

    #[command(flatten)]
    pub(super) changes: ChangeArgs,
}

/// Changes to a pipeline from the command line.
#[derive(Args, Debug)]
pub(super) struct ChangeArgs {
    /// Set a parameter, an input or a matrix: `shape.epochs=50`, `sweep.matrix.beta=[0.1,0.5]`, `pipeline.seed=2`
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub(super) sets: Vec<String>,

    /// Apply `[profiles.NAME]` of the pipeline
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<String>,
}

/// Where the store is.
#[derive(Args, Debug)]
pub(super) struct StoreArgs {
    /// The store: where every result is kept, named by its content
    #[arg(long, value_name = "FOLDER", env = "STATCELL_STORE", default_value = ".statcell")]
    pub(super) store: PathBuf,
}

impl ChangeArgs {
    /// The pipeline's graph with these changes.
    pub(super) fn load(&self, pipeline: &Path) -> Result<Graph, Failure> {
        let overrides = Overrides { sets: self.sets.clone(), profile: self.profile.clone() };
        Ok(graph::load(pipeline, &overrides)?)
    }
}
