//! A few stage kinds with every sort of port and parameter: what the tests of the language speak about.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::ArtifactType,
    stage::{
        AnyStage, Arity, Checked, Context, Facts, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError,
        StageKind, erased,
    },
};

pub(crate) static KINDS: &[&dyn AnyStage] = &[
    erased::<Import>(),
    erased::<Colony>(),
    erased::<Split>(),
    erased::<Train>(),
    erased::<Embed>(),
    erased::<Regression>(),
    erased::<Summary>(),
    erased::<Program>(),
];

/// Implements the parts of [`StageKind`] that the tests do not use.
macro_rules! never_runs {
    () => {
        const VERSION: u32 = 1;
        fn run(_: &Self::Params, _: &Inputs, _: &Context) -> Result<Outputs, StageError> {
            Err(StageError::failed("only a test's kind"))
        }
    };
}

pub(crate) struct Import;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ImportParams {
    /// Channels in the files' order.
    #[serde(default)]
    channels: Option<Vec<String>>,
    /// µm: z, y, x.
    #[serde(default)]
    voxel_size: Option<[f64; 3]>,
}

impl StageKind for Import {
    type Params = ImportParams;
    const NAME: &'static str = "import";
    const ABOUT: &'static str = "reads files";
    never_runs!();

    fn inputs(_: Option<&ImportParams>) -> Vec<Input> {
        vec![
            Input::files("files", Arity::Many, "images"),
            Input::files("table", Arity::Optional, "a table of the images"),
        ]
    }

    fn outputs(_: Option<&ImportParams>) -> Vec<Output> {
        vec![Output::data("fields", ArtifactType::Fields, "the fields")]
    }

    fn check(_: &ImportParams, _: &InputFacts) -> Checked {
        Checked::default()
    }
}

pub(crate) struct Colony;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    #[default]
    Round,
    Flat,
}

fn size() -> [usize; 3] {
    [32, 80, 48]
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ColonyParams {
    /// How many cells.
    cells: usize,
    /// Voxels: z, y, x.
    #[serde(default = "size")]
    size: [usize; 3],
    /// The shape of a cell.
    #[serde(default)]
    shape: Shape,
    /// The seed of the random numbers.
    seed: u64,
}

impl StageKind for Colony {
    type Params = ColonyParams;
    const NAME: &'static str = "colony";
    const ABOUT: &'static str = "simulates cells";
    never_runs!();

    fn inputs(_: Option<&ColonyParams>) -> Vec<Input> {
        Vec::new()
    }

    fn outputs(_: Option<&ColonyParams>) -> Vec<Output> {
        vec![
            Output::data("cells", ArtifactType::Cells, "the cells"),
            Output::data("truth", ArtifactType::Tables, "what was simulated"),
            Output::for_people("figures", ArtifactType::Figures, "pictures"),
        ]
    }

    fn check(params: &ColonyParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let facts = Facts { size: Some(params.size), ..Facts::default() };
        checked.outputs.insert("cells".to_owned(), facts);
        if params.cells == 0 {
            checked.problems.push(Problem::with("cells", "a colony has one cell or more"));
        }
        checked
    }
}

pub(crate) struct Split;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SplitParams {}

impl StageKind for Split {
    type Params = SplitParams;
    const NAME: &'static str = "split";
    const ABOUT: &'static str = "divides cells";
    never_runs!();

    fn inputs(_: Option<&SplitParams>) -> Vec<Input> {
        vec![Input::one("cells", ArtifactType::Cells, "the cells to divide")]
    }

    fn outputs(_: Option<&SplitParams>) -> Vec<Output> {
        ["train", "validation", "test"].map(|name| Output::data(name, ArtifactType::Cells, "a part")).into()
    }

    fn check(_: &SplitParams, inputs: &InputFacts) -> Checked {
        let facts = inputs.get("cells").and_then(|facts| facts.first()).cloned().unwrap_or_default();
        let outputs = Self::outputs(None).into_iter().map(|output| (output.name, facts.clone())).collect();
        Checked { problems: Vec::new(), outputs }
    }
}

pub(crate) struct Train;

fn rate() -> f64 {
    2e-4
}

fn levels() -> u32 {
    3
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TrainParams {
    /// How often every cell is seen.
    epochs: u64,
    /// How fast it learns.
    #[serde(default = "rate")]
    learning_rate: f64,
    /// Weight of the KL term.
    #[serde(default)]
    beta: Option<f64>,
    /// How often the image is halved.
    #[serde(default = "levels")]
    levels: u32,
    /// The seed of the random numbers.
    #[serde(default)]
    seed: u64,
}

impl StageKind for Train {
    type Params = TrainParams;
    const NAME: &'static str = "train";
    const ABOUT: &'static str = "trains a model";
    never_runs!();

    fn inputs(_: Option<&TrainParams>) -> Vec<Input> {
        vec![
            Input::one("cells", ArtifactType::Cells, "the cells to learn from"),
            Input::optional("validation", ArtifactType::Cells, "the cells to judge by"),
        ]
    }

    fn outputs(_: Option<&TrainParams>) -> Vec<Output> {
        vec![
            Output::data("model", ArtifactType::Model, "the model"),
            Output::for_people("figures", ArtifactType::Figures, "learning curves"),
        ]
    }

    fn check(params: &TrainParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let size = inputs.get("cells").and_then(|facts| facts.first()?.size);
        let step = 1usize << params.levels.min(20);
        if let Some(size) = size.filter(|size| size.iter().any(|side| side % step != 0)) {
            let problem = Problem::with("cells", format!("a size of {size:?} voxels is not divisible by {step}"));
            checked.problems.push(problem.help("choose another size, or fewer levels"));
        }
        if params.epochs == 0 {
            checked.problems.push(Problem::with("epochs", "training needs one epoch or more"));
        }
        checked
    }
}

pub(crate) struct Embed;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct EmbedParams {
    /// Draws a cell.
    #[serde(default)]
    samples: usize,
}

impl StageKind for Embed {
    type Params = EmbedParams;
    const NAME: &'static str = "embed";
    const ABOUT: &'static str = "puts cells into the latent space";
    never_runs!();

    fn inputs(_: Option<&EmbedParams>) -> Vec<Input> {
        vec![
            Input::one("model", ArtifactType::Model, "the model"),
            Input::one("cells", ArtifactType::Cells, "the cells"),
        ]
    }

    fn outputs(_: Option<&EmbedParams>) -> Vec<Output> {
        vec![Output::for_people("embedding", ArtifactType::Tables, "coordinates")]
    }

    fn check(_: &EmbedParams, _: &InputFacts) -> Checked {
        Checked::default()
    }
}

pub(crate) struct Regression;

impl StageKind for Regression {
    type Params = SplitParams;
    const NAME: &'static str = "regression";
    const ABOUT: &'static str = "compares embeddings";
    never_runs!();

    fn inputs(_: Option<&SplitParams>) -> Vec<Input> {
        vec![Input::many("embeddings", ArtifactType::Tables, "the embeddings")]
    }

    fn outputs(_: Option<&SplitParams>) -> Vec<Output> {
        vec![Output::for_people("figures", ArtifactType::Figures, "curves")]
    }

    fn check(_: &SplitParams, _: &InputFacts) -> Checked {
        Checked::default()
    }
}

pub(crate) struct Summary;

impl StageKind for Summary {
    type Params = SplitParams;
    const NAME: &'static str = "summary";
    const ABOUT: &'static str = "puts figures on a page";
    never_runs!();

    fn inputs(_: Option<&SplitParams>) -> Vec<Input> {
        vec![Input::many("figures", ArtifactType::Figures, "the figures")]
    }

    fn outputs(_: Option<&SplitParams>) -> Vec<Output> {
        vec![Output::for_people("report", ArtifactType::Report, "the page")]
    }

    fn check(_: &SplitParams, _: &InputFacts) -> Checked {
        Checked::default()
    }
}

pub(crate) struct Program;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProgramParams {
    /// The program and its arguments.
    argv: Vec<String>,
    /// What it gives.
    #[serde(default)]
    outputs: BTreeMap<String, ArtifactTypeName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ArtifactTypeName {
    Files,
    Tables,
}

impl StageKind for Program {
    type Params = ProgramParams;
    const NAME: &'static str = "program";
    const ABOUT: &'static str = "runs a program";
    never_runs!();

    fn inputs(_: Option<&ProgramParams>) -> Vec<Input> {
        let files = Input { arity: Arity::Named, ..Input::files("files", Arity::Many, "files") };
        vec![Input::named("inputs", &[ArtifactType::Cells, ArtifactType::Tables], "artifacts"), files]
    }

    fn outputs(params: Option<&ProgramParams>) -> Vec<Output> {
        let kind = |kind: &ArtifactTypeName| match kind {
            ArtifactTypeName::Files => ArtifactType::Files,
            ArtifactTypeName::Tables => ArtifactType::Tables,
        };
        let outputs = params.into_iter().flat_map(|params| &params.outputs);
        outputs.map(|(name, wanted)| Output::for_people(name, kind(wanted), "")).collect()
    }

    fn check(_: &ProgramParams, _: &InputFacts) -> Checked {
        Checked::default()
    }
}
