//! `sample`: cells that were never seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    controls,
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
    stage::{
        Checked, Context, Facts, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output,
        Outputs, Problem, StageError, StageKind, Work,
    },
    store::Blobs,
};

/// The stage kind.
pub(super) struct Sample;

/// Parameters of `sample`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// How many cells. With the port `cells`: how many of the given cells, from the first on.
    #[serde(default = "count")]
    #[schemars(range(max = 1_000_000))]
    pub count: usize,
    /// The structures that are drawn into each cell; absent: all that the target model knows but the controls.
    #[serde(default)]
    pub structures: Vec<String>,
    /// Draws of every structure for each cell.
    #[serde(default = "draws")]
    #[schemars(range(max = 10_000))]
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
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "draws new cells from a reference model, and structures into them from a target model";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] =
        &[("count", "how many there are changes none of them")];

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
        let sources = match (&given, &reference, &target) {
            (Some(cells), _, Some(target)) => given_cells(cells, target, params.count)?,
            (None, Some(reference), target) => {
                order_of(reference, target.as_ref())?;
                (1..=params.count).map(|number| (format!("sample-{number:04}"), ItemInput::Nothing)).collect()
            }
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
        let work = DrawCell {
            seed: params.seed,
            wanted,
            given: given.as_ref().map(|cells| cells.description.clone()),
            description: description.clone(),
        };
        let models =
            ["reference", "target"].map(|port| inputs.optional(port).map_or(ItemInput::Nothing, ItemInput::Artifact));
        let items = sources.iter().map(|(id, input)| Work {
            name: format!("cell `{id}`"),
            item: id.clone(),
            inputs: vec![*input],
        });
        let results = context.map(&work, &models, &items.collect::<Vec<_>>())?;

        let mut writer = CellsWriter::new(description, blobs);
        let (mut ids, mut source_ids, mut structures) = (Vec::new(), Vec::new(), Vec::new());
        for ((source, _), result) in sources.iter().zip(&results) {
            for wanted in &work.wanted {
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

/// Draws one cell, and the structures in it.
#[derive(Serialize, Deserialize)]
struct DrawCell {
    seed: u64,
    wanted: Vec<Wanted>,
    /// What the given cells are like, where cells are given.
    given: Option<CellsDescription>,
    /// What the drawn cells are like.
    description: CellsDescription,
}

/// The models, and where the membrane and DNA of a cell come from.
struct Drawing {
    reference: Option<Inference>,
    target: Option<Inference>,
    /// Which channels of the reference model's images are wanted, in order.
    order: Vec<usize>,
    /// How a given cell becomes the condition of the target model.
    fit: Option<Fit>,
}

impl ItemWork for DrawCell {
    /// The cell's id: chance hangs on it.
    type Item = String;
    type Shared = Drawing;
    const UNIT: &'static str = "cells";

    fn open(&self, inputs: &ItemContext) -> Result<Drawing, StageError> {
        let model =
            |input: usize| inputs.artifact(input).map(|artifact| Inference::open(artifact, inputs.blobs())).transpose();
        let (reference, target) = (model(0)?, model(1)?);
        let order = match &reference {
            Some(reference) if self.given.is_none() => order_of(reference, target.as_ref())?,
            _ => Vec::new(),
        };
        let fit = match (&self.given, &target) {
            (Some(cells), Some(target)) => Some(target.fit_condition(cells)?),
            _ => None,
        };
        Ok(Drawing { reference, target, order, fit })
    }

    fn run(&self, models: &Drawing, id: String, inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let cell = match (&self.given, &models.fit, &models.reference) {
            (Some(description), Some(fit), _) => {
                fit.images(&CellImage::decode(&inputs.bytes(0)?, description)?).reference
            }
            (_, _, Some(reference)) => {
                let model = reference.architecture();
                let drawn = reference.decode(&normal(model.latent, self.seed, &format!("sample {id}")), None)?;
                let channel = |&at: &usize| drawn[at * model.voxels()..(at + 1) * model.voxels()].to_vec();
                models.order.iter().flat_map(channel).collect()
            }
            _ => return Err(StageError::failed("there is nothing to draw from")),
        };
        let image = |wanted: &Wanted| {
            let volumes = match (&models.target, wanted.label, &models.reference) {
                (Some(target), Some(label), _) => {
                    let purpose = format!("sample {} {id}", wanted.suffix);
                    let z = normal(target.architecture().latent, self.seed, &purpose);
                    let drawn = target.decode(&z, Some(Conditioned { reference: &cell, label }))?;
                    volumes(target.architecture(), &cell, &drawn)
                }
                (Some(model), None, _) | (None, _, Some(model)) => volumes(model.architecture(), &[], &cell),
                (None, _, None) => return Err(StageError::failed("there is nothing to draw from")),
            };
            let image = with_masks(volumes, &self.description.channels);
            Ok((wanted.file(), image.encode(&self.description)?))
        };
        self.wanted.iter().map(image).collect()
    }
}

/// One picture of every cell: a draw of a structure, or the bare cell.
#[derive(Serialize, Deserialize)]
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

/// Which channels of the reference model's images are wanted, in the order in which the target model takes them.
fn order_of(reference: &Inference, target: Option<&Inference>) -> Result<Vec<usize>, StageError> {
    let model = reference.architecture();
    let Some(target) = target.map(Inference::architecture) else {
        return Ok((0..model.image_channels.len()).collect());
    };
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
    })
}

/// The first `count` real cells of a set: ids and images.
fn given_cells<'a>(
    cells: &Cells,
    target: &Inference,
    count: usize,
) -> Result<Vec<(String, ItemInput<'a>)>, StageError> {
    target.fit_condition(&cells.description)?;
    let controls = cells.table.flags("control")?;
    let rows = (0..cells.len()).filter(|&row| !controls[row]).take(count);
    let cell = |row: usize| Ok((cells.ids()[row].clone(), ItemInput::Blob(cells.entry(row)?.digest)));
    let chosen = rows.map(cell).collect::<Result<Vec<_>, ArtifactError>>()?;
    if chosen.is_empty() {
        return Err(StageError::bad_input("there is no cell to draw structures into"));
    }
    Ok(chosen)
}

/// z ~ N(0, 1).
fn normal(latent: usize, seed: u64, purpose: &str) -> Vec<f32> {
    let mut rng = Rng::new(seed, purpose, 0);
    (0..latent).map(|_| rng.normal() as f32).collect()
}

/// A generated cell: where DNA is above its local mean is nucleus, where the membrane dye is, cell (paper, section 4.5; the
/// same as `features` finds under `from-intensity`).
pub(super) fn with_masks(channels: Vec<Volume<f32>>, names: &[String]) -> CellImage {
    let mask = |name: &str| {
        let at = names.iter().position(|channel| channel == name);
        let stored = |at: usize| channels[at].map(|&value| (value.clamp(0.0, 1.0) * FULL_SCALE).round() as u16);
        at.map_or_else(|| Volume::filled(channels[0].size, 0), |at| above_local_mean(&stored(at), BLOCK))
    };
    CellImage { cell: mask("membrane"), nucleus: mask("dna"), channels }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
