//! `sample`: cells that were never seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Checked, Context, Facts, Input, InputFacts, Inputs, Item, Output, Outputs, Problem, StageError, StageKind,
    controls,
    each_cell::encode,
    inference::{Conditioned, Fit, Inference, check_fit, shown_channels, volumes},
};
use crate::{
    artifact::{
        Artifact, ArtifactError, ArtifactType, CellImage, Cells, CellsDescription, CellsWriter, FigureSet, Table,
    },
    figures::samples,
    image::{Volume, features::above_local_mean},
    model::ModelKind,
    nn::Rng,
    store::{Blobs, Digest},
};

/// The stage kind.
pub(super) struct Sample;

/// Parameters of `sample`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// How many cells. With the port `cells`: how many of the given cells, from the first on.
    #[serde(default = "count")]
    pub count: usize,
    /// The structures that are drawn into each cell; absent: all that the target model knows but the controls.
    #[serde(default)]
    pub structures: Vec<String>,
    /// Draws of every structure for each cell.
    #[serde(default = "draws")]
    pub draws: usize,
    /// Seed of the draws.
    pub seed: u64,
}

fn count() -> usize {
    12
}

fn draws() -> usize {
    1
}

/// Block of the adaptive threshold that gives generated cells their masks, in voxels (paper, section 4.5).
const BLOCK: usize = 199;
/// What the intensities of a normalised image are multiplied with before they are stored.
const FULL_SCALE: f32 = 65535.0;

impl StageKind for Sample {
    type Params = Params;

    const NAME: &'static str = "sample";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "draws new cells from a reference model, and structures into them from a target model";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::optional("reference", ArtifactType::Model, "the model that draws cells: membrane and DNA"),
            Input::optional("target", ArtifactType::Model, "the model that draws structures into them"),
            Input::optional("cells", ArtifactType::Cells, "real cells to draw structures into, instead of drawn ones"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::data("cells", ArtifactType::Cells, "generated cells; masks by the paper's adaptive threshold"),
            Output::for_people("figures", ArtifactType::Figures, "galleries of generated cells and structures"),
        ]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut problems = Vec::new();
        if params.count == 0 {
            problems.push(Problem::with("count", "there is no cell to draw"));
        }
        if params.draws == 0 {
            problems.push(Problem::with("draws", "there is nothing to draw"));
        }
        let connected = |port: &str| inputs.contains_key(port);
        if !connected("reference") && !connected("cells") {
            problems
                .push(Problem::with("reference", "cells must come from a reference model, or from the port `cells`"));
        }
        if !connected("target") && (connected("cells") || !params.structures.is_empty()) {
            problems.push(Problem::with("target", "structures need a target model"));
        }
        let facts = |port: &str| inputs.get(port).and_then(|facts| facts.first());
        for (port, kind) in [("reference", "reference"), ("target", "target")] {
            if facts(port).and_then(|facts| facts.model.as_deref()).is_some_and(|model| model != kind) {
                problems.push(Problem::with(port, format!("this is not a {kind} model")));
            }
        }
        problems.extend(check_fit(inputs, "target", "cells"));
        let size = facts("target").or(facts("reference")).and_then(|facts| facts.size);
        let known = Facts { size, dimensions: size.map(|size| if size[0] == 1 { 2 } else { 3 }), ..Facts::default() };
        Checked { problems, outputs: [("cells".to_owned(), known)].into() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let open = |port: &str, kind: ModelKind| open(inputs.optional(port), port, kind, blobs);
        let reference = open("reference", ModelKind::Reference)?;
        let target = open("target", ModelKind::Target)?;
        let given = inputs.optional("cells").map(|cells| Cells::open(cells, blobs)).transpose()?;
        let wanted = wanted(params, target.as_ref())?;
        let sources = match (given, &reference, &target) {
            (Some(cells), _, Some(target)) => Sources::given(cells, target, params.count)?,
            (None, Some(reference), _) => Sources::drawn(reference, target.as_ref(), params)?,
            _ => {
                return Err(StageError::bad_input(
                    "cells need a reference model, or the port `cells` and a target model",
                ));
            }
        };
        let model = target.as_ref().or(reference.as_ref()).expect("there is one of them");
        let channels = shown_channels(model.architecture());
        let description = CellsDescription {
            size: model.architecture().size,
            dimensions: model.architecture().dimensions,
            voxel_um: model.architecture().voxel_um,
            channels: channels.clone(),
            normalised: true,
        };

        // A cell with all its structures is one item: it depends on its number (or on the given cell), not on the others.
        let models = ["reference", "target"].into_iter().filter_map(|port| Some(inputs.optional(port)?.digest()));
        let models: Vec<Digest> = models.collect();
        let items = (0..sources.len()).map(|index| {
            let parameters = json!({
                "cell": sources.id(index), "draws": params.draws, "seed": params.seed, "description": description,
                "structures": wanted.iter().map(|wanted| &wanted.suffix).collect::<Vec<_>>(),
            });
            Ok(Item { inputs: models.iter().copied().chain(sources.digest(index)?).collect(), parameters })
        });
        let items = items.collect::<Result<Vec<_>, ArtifactError>>()?;
        let results = context.map("cells", &items, |index| {
            let cell = sources.reference_image(index)?;
            let image = |wanted: &Wanted| {
                let volumes = match (&target, wanted.label) {
                    (Some(target), Some(label)) => {
                        let purpose = format!("sample {} {}", wanted.suffix, sources.id(index));
                        let z = normal(target.architecture().latent, params.seed, &purpose);
                        let drawn = target.decode(&z, Some(Conditioned { reference: &cell, label }))?;
                        volumes(target.architecture(), &cell, &drawn)
                    }
                    _ => volumes(model.architecture(), &[], &cell),
                };
                let bytes = encode(&sources.id(index), &with_masks(volumes, &channels), &description)?;
                Ok((wanted.file(), bytes))
            };
            wanted.iter().map(image).collect()
        })?;

        let mut writer = CellsWriter::new(description, blobs);
        let (mut ids, mut source_ids, mut structures) = (Vec::new(), Vec::new(), Vec::new());
        for (index, result) in results.iter().enumerate() {
            let source = sources.id(index);
            for wanted in &wanted {
                let id = format!("{source}{}", wanted.suffix);
                let entry = result.get(&wanted.file());
                let entry = entry.ok_or_else(|| StageError::failed(format!("the cached cell `{id}` is incomplete")))?;
                writer.link(&id, entry);
                ids.push(id);
                source_ids.push(source.clone());
                structures.push(wanted.structure.clone());
            }
        }
        let same = |text: &str| vec![text.to_owned(); ids.len()];
        let is_control = |structure: &String| controls::all().iter().any(|control| control.label() == structure);
        let table = Table::new()
            .with("source_id", source_ids)
            .with("dataset", same("sampled"))
            .with("field", same(""))
            .with("control", structures.iter().map(is_control).collect::<Vec<_>>())
            .with("structure", structures)
            .with("stage", same(""))
            .with("cell_id", ids);
        let cells = writer.finish(&table)?;
        let figures = FigureSet(samples::figures(&Cells::open(&cells, blobs)?, inputs.optional("cells").is_some())?);
        Ok(Outputs::from([("cells".to_owned(), cells), ("figures".to_owned(), figures.write(blobs)?)]))
    }
}

fn open(
    artifact: Option<&Artifact>,
    port: &str,
    kind: ModelKind,
    blobs: &dyn Blobs,
) -> Result<Option<Inference>, StageError> {
    let Some(artifact) = artifact else { return Ok(None) };
    let inference = Inference::open(artifact, blobs)?;
    if inference.architecture().kind == kind {
        return Ok(Some(inference));
    }
    Err(StageError::bad_input(format!("the model at `{port}` is not a {} model", kind.name())))
}

/// One picture of every cell: a draw of a structure, or the bare cell.
struct Wanted {
    structure: String,
    /// The one-hot position of the structure; none for the bare cell.
    label: Option<usize>,
    /// What follows the source's id in the cell's id.
    suffix: String,
}

impl Wanted {
    fn file(&self) -> String {
        format!("image{}.ome.tif", self.suffix)
    }
}

fn wanted(params: &Params, target: Option<&Inference>) -> Result<Vec<Wanted>, StageError> {
    let Some(target) = target else {
        return Ok(vec![Wanted { structure: String::new(), label: None, suffix: String::new() }]);
    };
    let controls: Vec<_> = controls::all().into_iter().map(controls::Control::label).collect();
    let known = target.architecture().labels.iter().filter(|label| !controls.contains(&label.as_str()));
    let names: Vec<String> =
        if params.structures.is_empty() { known.cloned().collect() } else { params.structures.clone() };
    let mut wanted = Vec::new();
    for structure in names {
        let label = Some(target.architecture().label(&structure)?);
        for draw in 1..=params.draws {
            let number = if params.draws > 1 { format!("-{draw}") } else { String::new() };
            let suffix = format!("-{structure}{number}");
            wanted.push(Wanted { structure: structure.clone(), label, suffix });
        }
    }
    Ok(wanted)
}

/// Where cells come from: their membrane and DNA.
enum Sources<'a> {
    /// Drawn from a reference model; `order`: the channels that are wanted.
    Drawn { reference: &'a Inference, order: Vec<usize>, count: usize, seed: u64 },
    /// Rows of a set of real cells.
    Given { cells: Cells<'a>, fit: Fit, rows: Vec<usize> },
}

impl<'a> Sources<'a> {
    fn drawn(reference: &'a Inference, target: Option<&Inference>, params: &Params) -> Result<Self, StageError> {
        let model = reference.architecture();
        let order = match target.map(Inference::architecture) {
            None => (0..model.image_channels.len()).collect(),
            Some(target) => {
                if target.size != model.size || target.voxel_um != model.voxel_um {
                    return Err(StageError::bad_input(format!(
                        "the reference model draws {:?} voxels (z, y, x) of {:?} µm, the target model needs {:?} of {:?} µm",
                        model.size, model.voxel_um, target.size, target.voxel_um
                    )));
                }
                let position = |name: &String| model.image_channels.iter().position(|channel| channel == name);
                let order = target.reference_channels.iter().map(position).collect::<Option<Vec<_>>>();
                order.ok_or_else(|| {
                    StageError::bad_input(format!(
                        "the reference model draws {}; the target model needs {}",
                        model.image_channels.join(", "),
                        target.reference_channels.join(", ")
                    ))
                })?
            }
        };
        Ok(Self::Drawn { reference, order, count: params.count, seed: params.seed })
    }

    fn given(cells: Cells<'a>, target: &Inference, count: usize) -> Result<Self, StageError> {
        let fit = target.fit_condition(&cells.description)?;
        let controls = cells.table.flags("control")?;
        let rows: Vec<usize> = (0..cells.len()).filter(|&row| !controls[row]).take(count).collect();
        if rows.is_empty() {
            return Err(StageError::bad_input("there is no cell to draw structures into"));
        }
        Ok(Self::Given { cells, fit, rows })
    }

    fn len(&self) -> usize {
        match self {
            Self::Drawn { count, .. } => *count,
            Self::Given { rows, .. } => rows.len(),
        }
    }

    fn id(&self, index: usize) -> String {
        match self {
            Self::Drawn { .. } => format!("sample-{:04}", index + 1),
            Self::Given { cells, rows, .. } => cells.ids()[rows[index]].clone(),
        }
    }

    /// The given cell's image, by its contents.
    fn digest(&self, index: usize) -> Result<Option<Digest>, ArtifactError> {
        match self {
            Self::Drawn { .. } => Ok(None),
            Self::Given { cells, rows, .. } => Ok(Some(cells.entry(rows[index])?.digest)),
        }
    }

    /// Membrane and DNA, one behind the other.
    fn reference_image(&self, index: usize) -> Result<Vec<f32>, StageError> {
        match self {
            Self::Drawn { reference, order, seed, .. } => {
                let model = reference.architecture();
                let z = normal(model.latent, *seed, &format!("sample {}", self.id(index)));
                let drawn = reference.decode(&z, None)?;
                let channel = |&at: &usize| drawn[at * model.voxels()..(at + 1) * model.voxels()].to_vec();
                Ok(order.iter().flat_map(channel).collect())
            }
            Self::Given { cells, fit, rows } => Ok(fit.images(&cells.image(rows[index])?).reference),
        }
    }
}

/// z ~ N(0, 1).
fn normal(latent: usize, seed: u64, purpose: &str) -> Vec<f32> {
    let mut rng = Rng::new(seed, purpose, 0);
    (0..latent).map(|_| rng.normal() as f32).collect()
}

/// A generated cell: where DNA is above its local mean is nucleus, where the membrane dye is, cell (paper, section 4.5; the
/// same as `features` finds under `from-intensity`).
fn with_masks(channels: Vec<Volume<f32>>, names: &[String]) -> CellImage {
    let mask = |name: &str| {
        let at = names.iter().position(|channel| channel == name);
        let stored = |at: usize| channels[at].map(|&value| (value.clamp(0.0, 1.0) * FULL_SCALE).round() as u16);
        at.map_or_else(|| Volume::filled(channels[0].size, 0), |at| above_local_mean(&stored(at), BLOCK))
    };
    CellImage { cell: mask("membrane"), nucleus: mask("dna"), channels }
}

#[cfg(test)]
mod tests {
    use super::super::{
        inference::tests::tiny_model,
        testing::{MemoryHost, noisy_cells, params},
    };
    use super::*;

    fn ids(host: &MemoryHost, outputs: &Outputs) -> Vec<String> {
        Cells::open(&outputs["cells"], &host.blobs).unwrap().ids().to_vec()
    }

    fn names(host: &MemoryHost, outputs: &Outputs) -> Vec<String> {
        let figures = FigureSet::read(&outputs["figures"], &host.blobs).unwrap();
        figures.0.into_iter().map(|figure| figure.name).collect()
    }

    #[test]
    fn cells_from_a_reference_model_do_not_depend_on_their_number() {
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Reference, &host.blobs);
        let run = |count: usize| {
            host.run::<Sample>(&params::<Sample>(json!({ "count": count, "seed": 1 })), &[("reference", &model)])
                .unwrap()
        };
        let two = run(2);
        assert_eq!(ids(&host, &two), ["sample-0001", "sample-0002"]);
        assert_eq!(names(&host, &two), ["sampled-cells"]);
        let three = run(3);
        assert_eq!(host.recalled(), 2, "only the third cell is new");
        let (two, three) =
            (Cells::open(&two["cells"], &host.blobs).unwrap(), Cells::open(&three["cells"], &host.blobs).unwrap());
        assert_eq!(two.description.channels, ["membrane", "dna"]);
        assert_eq!(two.image(1).unwrap(), three.image(1).unwrap());
        assert_ne!(three.image(1).unwrap(), three.image(2).unwrap());
        let image = three.image(0).unwrap();
        let inside = image.cell.data.iter().filter(|&&voxel| voxel > 0).count();
        assert!((1..256).contains(&inside), "{inside} voxels of the cell");
    }

    #[test]
    fn structures_are_drawn_into_sampled_and_real_cells() {
        let host = MemoryHost::default();
        let (reference, target) =
            (tiny_model(ModelKind::Reference, &host.blobs), tiny_model(ModelKind::Target, &host.blobs));
        let settings = params::<Sample>(json!({ "count": 2, "seed": 1 }));
        let outputs = host.run::<Sample>(&settings, &[("reference", &reference), ("target", &target)]).unwrap();
        let all = ["sample-0001-golgi", "sample-0001-nucleoli", "sample-0002-golgi", "sample-0002-nucleoli"];
        assert_eq!(ids(&host, &outputs), all);
        assert_eq!(names(&host, &outputs), ["sampled-cells", "sampled-structures"]);
        let cells = Cells::open(&outputs["cells"], &host.blobs).unwrap();
        let (one, other) = (cells.image(0).unwrap(), cells.image(1).unwrap());
        assert_eq!(one.channels[..2], other.channels[..2], "one cell");
        assert_ne!(one.channels[2], other.channels[2], "two structures");

        let real = noisy_cells(&host, &["a", "b", "c"], &["golgi"; 3]);
        let settings = params::<Sample>(json!({ "count": 2, "seed": 1, "draws": 2, "structures": ["nucleoli"] }));
        let outputs = host.run::<Sample>(&settings, &[("cells", &real), ("target", &target)]).unwrap();
        assert_eq!(ids(&host, &outputs), ["a-nucleoli-1", "a-nucleoli-2", "b-nucleoli-1", "b-nucleoli-2"]);
        assert_eq!(names(&host, &outputs), ["sampled-structures"]);
        let drawn = Cells::open(&outputs["cells"], &host.blobs).unwrap();
        let given = Cells::open(&real, &host.blobs).unwrap().image(1).unwrap();
        assert_eq!(drawn.image(2).unwrap().channels[..2], given.channels[..2]);
        assert_ne!(drawn.image(2).unwrap().channels[2], drawn.image(3).unwrap().channels[2], "two draws");
    }

    #[test]
    fn what_is_missing_is_said() {
        let host = MemoryHost::default();
        let target = tiny_model(ModelKind::Target, &host.blobs);
        let settings = |structures: &[&str]| params::<Sample>(json!({ "seed": 1, "structures": structures }));
        let error = host.run::<Sample>(&settings(&[]), &[("reference", &target)]).unwrap_err().to_string();
        assert!(error.contains("not a reference model"), "{error}");
        let cells = noisy_cells(&host, &["a"], &[""]);
        let inputs = [("cells", &cells), ("target", &target)];
        let error = host.run::<Sample>(&settings(&["actin"]), &inputs).unwrap_err().to_string();
        assert!(error.contains("no structure `actin`"), "{error}");
        let problems = Sample::check(&settings(&["golgi"]), &InputFacts::new()).problems;
        let fields: Vec<_> = problems.iter().filter_map(|problem| problem.field.as_deref()).collect();
        assert_eq!(fields, ["reference", "target"]);
    }
}
