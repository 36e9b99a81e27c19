//! Arguments that several subcommands share.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    exec::ExitCode,
    graph::{self, Graph},
    spec::Overrides,
    stage::{DeviceChoice, Numerics, Precision},
    stages::registry,
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

    #[command(flatten)]
    pub(super) numerics: NumericsArgs,
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

/// How numbers are computed.
#[derive(Args, Debug)]
pub(super) struct NumericsArgs {
    /// Where to compute: `auto`, `cpu`, or `cuda:0` for the first GPU. Results of another kind of device have other keys
    #[arg(long, value_name = "DEVICE", env = "STATCELL_DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// In what numbers: `f32`, or on a GPU `tf32` or `bf16`
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,
}

impl NumericsArgs {
    /// The class of arithmetic that is meant.
    pub(super) fn resolve(&self) -> Result<Numerics, Failure> {
        Numerics::resolve(self.device, self.precision)
            .map_err(|error| Failure::new(ExitCode::BadPipeline, error, Some(error.advice())))
    }
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
        Ok(graph::load(pipeline, &overrides, registry())?)
    }
}
