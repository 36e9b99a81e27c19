//! A colony of hiPS-like cells whose truth is known: aligned single cells, or fields of view with touching cells.
//!
//! A cell is a geometric model ([`specimen`]): a polygonal column between neighbours, domed, with a nucleus or, in mitosis, chromosomes
//! on a spindle. Structures are painted where cells have them ([`structures`]), and a microscope looks at the result
//! ([`optics`]). Everything is in µm until the voxels are filled.
//!
//! Cell number k is the same whatever the number of cells: its shape, its structure, its light and its noise come from random
//! streams named by (seed, purpose, k).

mod canvas;
mod cell;
mod figures;
mod geometry;
mod mitosis;
mod nucleus;
mod optics;
mod single;
mod specimen;
mod structures;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Checked, Context, Facts, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind};
use crate::artifact::ArtifactType;

/// Simulates cells.
pub(super) struct Simulate;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// Single cells, aligned as `segment-align` gives them.
    Cells,
}

/// A drug that the cells were treated with (paper, section 4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Drug {
    /// None: the vehicle only.
    None,
    /// Brefeldin A: scatters the Golgi.
    Brefeldin,
    /// Paclitaxel: bundles the microtubules between divisions.
    Paclitaxel,
}

impl Drug {
    /// The name in tables; empty for none.
    const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Brefeldin => "brefeldin",
            Self::Paclitaxel => "paclitaxel",
        }
    }
}

/// What is simulated.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SimulateParams {
    /// `cells`: single cells, aligned as `segment-align` gives them.
    #[serde(rename = "as", default = "cells")]
    form: Form,
    /// How many cells.
    #[serde(default = "hundred")]
    cells: usize,
    /// Size of each cell's image in voxels: Z, Y, X.
    #[serde(default = "default_size")]
    size: [usize; 3],
    /// Side of a voxel in µm.
    #[serde(default = "default_voxel")]
    voxel_size: f64,
    /// The structures, one a cell in turn; all 19 by default. An empty list: no structure channel.
    #[serde(default = "all_structures")]
    structures: Vec<String>,
    /// The share of cells that are dividing.
    #[serde(default = "default_mitotic_fraction")]
    mitotic_fraction: f64,
    /// The drug that the cells were treated with.
    #[serde(default = "no_drug")]
    drug: Drug,
    /// A name for the set, for the column `dataset`.
    #[serde(default = "simulated")]
    dataset: String,
    /// Another seed, other cells. The pipeline's by default.
    #[serde(default)]
    seed: u64,
}

fn cells() -> Form {
    Form::Cells
}

fn hundred() -> usize {
    100
}

fn default_size() -> [usize; 3] {
    [64, 160, 96]
}

fn default_voxel() -> f64 {
    0.317
}

fn all_structures() -> Vec<String> {
    structures::names().map(str::to_owned).collect()
}

fn default_mitotic_fraction() -> f64 {
    0.06
}

fn no_drug() -> Drug {
    Drug::None
}

fn simulated() -> String {
    "simulated".to_owned()
}

/// What a cell's image must span so that most cells fit, µm: Z, Y, X.
const LEAST_SPAN_UM: [f64; 3] = [17.0, 26.0, 20.0];

impl SimulateParams {
    /// Channels of the images.
    fn channels(&self) -> Vec<String> {
        let structure = (!self.structures.is_empty()).then_some("structure");
        ["membrane", "dna"].into_iter().chain(structure).map(str::to_owned).collect()
    }

    /// The structure of cell or field `number`, in turn.
    fn structure(&self, number: usize) -> &str {
        if self.structures.is_empty() { "" } else { &self.structures[number % self.structures.len()] }
    }
}

impl StageKind for Simulate {
    type Params = SimulateParams;
    const NAME: &'static str = "simulate";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "a colony of hiPS-like cells with known truth: 19 structures, five mitotic stages, two drugs";

    fn inputs(_: Option<&SimulateParams>) -> Vec<Input> {
        Vec::new()
    }

    fn outputs(_: Option<&SimulateParams>) -> Vec<Output> {
        vec![
            Output::data("cells", ArtifactType::Cells, "aligned cells, intensities as a camera gives them"),
            Output::data("truth", ArtifactType::Tables, "what each cell was made with"),
            Output::for_people("figures", ArtifactType::Figures, "a cell of each structure and stage; volumes"),
        ]
    }

    fn check(params: &SimulateParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let mut wrong = |problem: Problem| checked.problems.push(problem);
        if params.cells == 0 {
            wrong(Problem::with("cells", "there must be at least one cell"));
        }
        if !(0.0..=1.0).contains(&params.mitotic_fraction) {
            wrong(Problem::with("mitotic-fraction", "a share lies between 0 and 1"));
        }
        if !(params.voxel_size > 0.0 && params.voxel_size.is_finite()) {
            wrong(Problem::with("voxel-size", "a voxel's side must be above 0 µm"));
        } else if (0..3).any(|axis| params.size[axis] as f64 * params.voxel_size < LEAST_SPAN_UM[axis]) {
            let [z, y, x] = params.size.map(|voxels| voxels as f64 * params.voxel_size);
            let [least_z, least_y, least_x] = LEAST_SPAN_UM;
            wrong(
                Problem::with("size", format!("an image of {z:.1} × {y:.1} × {x:.1} µm is too small for a cell")).help(
                    format!("{least_z} × {least_y} × {least_x} µm (z, y, x) or more: enlarge `size` or `voxel-size`"),
                ),
            );
        }
        for name in &params.structures {
            if !structures::names().any(|known| known == name) {
                let nearest = structures::names()
                    .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
                let help = format!(
                    "did you mean `{}`? the structures are {}",
                    nearest.unwrap_or_default(),
                    structures::names().collect::<Vec<_>>().join(", ")
                );
                wrong(Problem::with("structures", format!("there is no structure `{name}`")).help(help));
            }
        }
        let facts = Facts {
            size: Some(params.size),
            dimensions: Some(3),
            channels: Some(params.channels()),
            ..Facts::default()
        };
        checked.outputs.insert("cells".to_owned(), facts);
        checked
    }

    fn run(params: &SimulateParams, _: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        match params.form {
            Form::Cells => single::run(params, context),
        }
    }
}
