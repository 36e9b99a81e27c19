//! A colony of hiPS-like cells whose truth is known: aligned single cells, or fields of view with touching cells.
//!
//! A cell is a geometric model ([`specimen`]): a polygonal column between neighbours, domed, with a nucleus or, in mitosis, chromosomes
//! on a spindle. Structures are painted where cells have them ([`structures`]), and a microscope looks at the result
//! ([`optics`]). Everything is in µm until the voxels are filled.
//!
//! Cell or field number k is the same whatever the number of cells: its shape, its structure, its light and its noise come from
//! random streams named by (seed, purpose, k).

mod canvas;
mod cell;
mod field;
mod figures;
mod geometry;
mod mitosis;
mod nucleus;
mod optics;
mod population;
mod single;
mod specimen;
mod structures;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{geometry::Point, population::Population};
use super::voxel_size::VoxelSize;
use crate::{
    artifact::ArtifactType,
    stage::{Checked, Context, Facts, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// Simulates cells.
pub(super) struct Simulate;

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// Single cells, aligned as `segment-align` gives them.
    Cells,
    /// Fields of view with touching cells.
    Fields,
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
    /// `cells`: single cells, aligned as `segment-align` gives them; `fields`: fields of view with touching cells.
    #[serde(rename = "as", default = "cells")]
    form: Form,
    /// How many single cells.
    #[serde(default = "hundred")]
    #[schemars(range(max = 1_000_000))]
    cells: usize,
    /// How many fields of view.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    fields: usize,
    /// Size of each image in voxels: Z, Y, X. By default 64 × 160 × 96 for a cell, 60 × 256 × 256 for a field.
    #[serde(default)]
    #[schemars(inner(range(max = 4096)))]
    size: Option<[usize; 3]>,
    /// Side of a voxel in µm, or its sides: Z, Y, X. By default 0.317 for a cell, [0.29, 0.26, 0.26] for a field.
    #[serde(default)]
    voxel_size: Option<VoxelSize>,
    /// The structures, one a cell or field in turn; all 19 by default. An empty list: no structure channel.
    #[serde(default = "all_structures")]
    structures: Vec<String>,
    /// The share of cells that are dividing.
    #[serde(default = "default_mitotic_fraction")]
    #[schemars(range(max = 1.0))]
    mitotic_fraction: f64,
    /// How densely cells stand in a field: cells for an area, 1 for cells of about 2,000 µm³.
    #[serde(default = "unchanged")]
    #[schemars(range(max = 2.0))]
    density: f64,
    /// How much light there is: less light, more noise.
    #[serde(default = "unchanged")]
    #[schemars(range(max = 50.0))]
    brightness: f64,
    /// The drug that the cells were treated with. With the same seed, the cells of all drugs are the same cells but for what the drug
    /// does: give every set its own seed where they are to be different cells.
    #[serde(default = "no_drug")]
    drug: Drug,
    /// Volumes and heights of the cells: quantiles and correlations. In fields, heights are the colony's and volumes follow from how
    /// densely cells stand; of these only the nucleus and the volumes of dividing cells count there.
    #[serde(default)]
    population: Population,
    /// Over how many wells single cells are spread, in turn; 0: the set has no column of wells. Wells of sets with different drugs are
    /// different wells.
    #[serde(default)]
    #[schemars(range(max = 10_000))]
    wells: usize,
    /// Over how many plates wells are spread, in turn. A plate of the same number is the same plate in every set.
    #[serde(default = "one")]
    #[schemars(range(max = 10_000))]
    plates: usize,
    /// How much wells, and plates, differ: the standard deviation of the logarithm of their cells' volume, height and light.
    #[serde(default)]
    #[schemars(range(max = 1.0))]
    well_effect: f64,
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

fn one() -> usize {
    1
}

fn unchanged() -> f64 {
    1.0
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

/// What an image must span, µm: Z, Y, X. Smaller, and most cells do not fit into theirs.
const LEAST_CELL_UM: Point = [17.0, 26.0, 20.0];
const LEAST_FIELD_UM: Point = [14.0, 30.0, 30.0];

/// The most voxels of an image.
const MOST_VOXELS: usize = 1 << 28;

/// What matters to every cell and field.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Scene {
    seed: u64,
    /// Voxels: Z, Y, X.
    size: [usize; 3],
    /// Sides of a voxel in µm: Z, Y, X.
    voxel_um: Point,
    drug: Drug,
    brightness: f64,
    population: Population,
}

/// Channels of images with this structure; empty: none.
fn channels(structure: &str) -> Vec<String> {
    let structure = (!structure.is_empty()).then_some("structure");
    ["membrane", "dna"].into_iter().chain(structure).map(str::to_owned).collect()
}

impl SimulateParams {
    fn scene(&self) -> Scene {
        Scene {
            seed: self.seed,
            size: self.size(),
            voxel_um: self.voxel_um(),
            drug: self.drug,
            brightness: self.brightness,
            population: self.population.clone(),
        }
    }

    /// Size of each image in voxels: Z, Y, X.
    fn size(&self) -> [usize; 3] {
        self.size.unwrap_or(match self.form {
            Form::Cells => [64, 160, 96],
            Form::Fields => [60, 256, 256],
        })
    }

    /// Sides of a voxel in µm: Z, Y, X.
    fn voxel_um(&self) -> Point {
        self.voxel_size.map_or(
            match self.form {
                Form::Cells => [0.317; 3],
                Form::Fields => [0.29, 0.26, 0.26],
            },
            |size| size.0,
        )
    }

    /// Channels of the images.
    fn channels(&self) -> Vec<String> {
        channels(self.structure(0))
    }

    /// Well and plate of a cell, from 1: a well holds cells of every structure.
    fn well(&self, number: usize) -> Option<[usize; 2]> {
        let well = (number / self.structures.len().max(1)).checked_rem(self.wells)?;
        Some([well + 1, well % self.plates + 1])
    }

    /// The structure of cell or field `number`, in turn.
    fn structure(&self, number: usize) -> &str {
        if self.structures.is_empty() { "" } else { &self.structures[number % self.structures.len()] }
    }
}

impl StageKind for Simulate {
    type Params = SimulateParams;
    const NAME: &'static str = "simulate";
    const VERSION: u32 = 3;
    const ABOUT: &'static str =
        "hiPS-like cells with known truth, single or in fields: 19 structures, five mitotic stages, two drugs";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[
        ("cells", "how many there are changes none of them"),
        ("fields", "how many there are changes none of them"),
        ("mitotic-fraction", "a single cell has the stage that it leads to in its key; a field has it itself"),
        ("density", "single cells have no neighbours; a field has it in its key"),
        ("wells", "fields have none; a single cell has its well in its key"),
        ("plates", "without wells there are none; a single cell has its plate in its key"),
        ("well-effect", "without wells there is none; a single cell has it in its key"),
        ("dataset", "it stands in the table only"),
    ];

    fn inputs(_: Option<&SimulateParams>) -> Vec<Input> {
        Vec::new()
    }

    fn outputs(params: Option<&SimulateParams>) -> Vec<Output> {
        let mut outputs = match params.map_or(Form::Cells, |params| params.form) {
            Form::Cells => {
                vec![Output::data("cells", ArtifactType::Cells, "aligned cells, intensities as a camera gives them")]
            }
            Form::Fields => vec![
                Output::data("fields", ArtifactType::Fields, "fields of view"),
                Output::data("labels", ArtifactType::Labels, "which voxels belong to which nucleus and cell"),
            ],
        };
        outputs.push(Output::data("truth", ArtifactType::Tables, "what each cell was made with, a row a cell"));
        outputs.push(Output::for_people("figures", ArtifactType::Figures, "what was simulated, to look at"));
        outputs
    }

    fn check(params: &SimulateParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let mut wrong = |problem: Problem| checked.problems.push(problem);
        let (port, least, what) = match params.form {
            Form::Cells => ("cells", LEAST_CELL_UM, "cell"),
            Form::Fields => ("fields", LEAST_FIELD_UM, "field"),
        };
        if (if params.form == Form::Cells { params.cells } else { params.fields }) == 0 {
            wrong(Problem::with(port, format!("there must be at least one {what}")));
        }
        if !(0.0..=1.0).contains(&params.mitotic_fraction) {
            wrong(Problem::with("mitotic-fraction", "a share lies between 0 and 1"));
        }
        if !(0.3..=2.0).contains(&params.density) {
            wrong(Problem::with("density", "cells of a colony stand between 0.3 and 2 times as densely as usual"));
        }
        if !(params.brightness > 0.0 && params.brightness <= 50.0) {
            wrong(Problem::with("brightness", "must be above 0, and at most 50"));
        }
        if let Some((name, message)) = params.population.problem() {
            wrong(Problem::with("population", format!("`{name}`: {message}")));
        }
        if !(0.0..=1.0).contains(&params.well_effect) {
            wrong(Problem::with("well-effect", "must lie between 0 and 1"));
        }
        if params.plates == 0 || (params.wells > 0 && params.plates > params.wells) {
            wrong(Problem::with("plates", "there is at least one plate, and at least one well on each"));
        }
        if params.form == Form::Fields && params.wells > 0 {
            wrong(Problem::with("wells", "fields of view are not spread over wells").help("take `as = \"cells\"`"));
        }
        let voxel_um = params.voxel_um();
        if !voxel_um.iter().all(|side| *side > 0.0 && side.is_finite()) {
            wrong(Problem::with("voxel-size", "a voxel's sides must be above 0 µm"));
        } else if params.form == Form::Cells && voxel_um != [voxel_um[0]; 3] {
            wrong(Problem::with("voxel-size", "aligned cells have cubic voxels").help("give one number"));
        } else {
            let span: Point = std::array::from_fn(|axis| params.size()[axis] as f64 * voxel_um[axis]);
            if (0..3).any(|axis| span[axis] < least[axis]) {
                let [z, y, x] = span;
                let message = format!("an image of {z:.1} × {y:.1} × {x:.1} µm (z, y, x) is too small for a {what}");
                let [z, y, x] = least;
                let help = format!("enlarge `size` or `voxel-size` to {z} × {y} × {x} µm or more");
                wrong(Problem::with("size", message).help(help));
            }
            if params
                .size()
                .iter()
                .try_fold(1_usize, |voxels, &side| voxels.checked_mul(side))
                .is_none_or(|n| n > MOST_VOXELS)
            {
                let message = format!("an image of {:?} voxels is too large", params.size());
                wrong(Problem::with("size", message).help(format!("at most {MOST_VOXELS} voxels")));
            }
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
            size: (params.form == Form::Cells).then(|| params.size()),
            dimensions: Some(3),
            channels: Some(params.channels()),
            ..Facts::default()
        };
        checked.outputs.insert(port.to_owned(), facts);
        checked
    }

    fn run(params: &SimulateParams, _: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        match params.form {
            Form::Cells => single::run(params, context),
            Form::Fields => field::run(params, context),
        }
    }
}
