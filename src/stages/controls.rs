//! The paper's five controls: copies of real cells with another image in the place of the structure.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id_hash::id_hash;
use crate::{
    artifact::{ArtifactError, ArtifactType, CellImage, Cells, CellsDescription, CellsWriter},
    image::Volume,
    nn::Rng,
    stage::{
        Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output, Outputs,
        Problem, StageError, StageKind, Work,
    },
    store::Digest,
};

/// Adds controls to a set of cells.
pub(super) struct Controls;

/// What stands in the place of a structure. Serialised as the paper's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub(super) enum Control {
    /// The DNA channel, inside the nucleus.
    #[serde(rename = "DNA")]
    Dna,
    /// The membrane channel, inside the cell.
    Memb,
    /// Nothing.
    Blank,
    /// Gaussian noise inside the cell, without its negative half; its 99.9th percentile before clipping is 1.
    Noise,
    /// The structure channel of another cell, inside this cell.
    Random,
}

impl Control {
    /// The label in the column `structure`.
    #[must_use]
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Dna => "DNA",
            Self::Memb => "Memb",
            Self::Blank => "Blank",
            Self::Noise => "Noise",
            Self::Random => "Random",
        }
    }
}

/// Which controls are added.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ControlsParams {
    /// The controls to add; the paper's five by default.
    #[serde(default = "all")]
    pub(super) labels: Vec<Control>,
    /// Another seed chooses other cells and other noise. The pipeline's by default.
    #[serde(default)]
    pub(super) seed: u64,
}

pub(super) fn all() -> Vec<Control> {
    vec![Control::Dna, Control::Memb, Control::Blank, Control::Noise, Control::Random]
}

/// The quantile of the standard normal distribution at 0.999.
const NORMAL_999: f64 = 3.090_232_306_167_813;

impl StageKind for Controls {
    type Params = ControlsParams;
    const NAME: &'static str = "controls";
    const VERSION: u32 = 3;
    const ABOUT: &'static str =
        "adds copies of cells with DNA, membrane, nothing, noise or another cell's structure as structure";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[("labels", "each control is an item of its own")];

    fn inputs(_: Option<&ControlsParams>) -> Vec<Input> {
        vec![Input::one("cells", ArtifactType::Cells, "normalised cells with a channel `structure`")]
    }

    fn outputs(_: Option<&ControlsParams>) -> Vec<Output> {
        vec![Output::data("cells", ArtifactType::Cells, "the given cells, and the controls behind them")]
    }

    fn check(params: &ControlsParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params.labels.is_empty() {
            checked.problems.push(Problem::with("labels", "no control is asked for").help("leave this stage out"));
        }
        if params.labels.iter().collect::<BTreeSet<_>>().len() < params.labels.len() {
            checked.problems.push(Problem::with("labels", "a control stands twice"));
        }
        if let Some(facts) = inputs.get("cells").and_then(|facts| facts.first()) {
            if let Some(channels) = &facts.channels
                && let Err(message) = positions(channels)
            {
                checked.problems.push(Problem::with("cells", message));
            }
            checked.outputs.insert("cells".to_owned(), facts.clone());
        }
        checked
    }

    fn run(params: &ControlsParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let cells = Cells::open(inputs.one("cells"), context.blobs())?;
        let description = &cells.description;
        positions(&description.channels).map_err(StageError::bad_input)?;
        if !description.normalised {
            return Err(StageError::bad_input("controls are made of normalised cells, and these are as measured")
                .with_help("put a stage `normalize` before this one"));
        }
        let copies = choose(&cells, params)?;
        if copies.is_empty() {
            context.note("no cell was chosen to make controls of: the set is too small");
        }

        let work = |copy: &Copy| {
            let image = |row: usize| Ok::<_, ArtifactError>(ItemInput::Blob(cells.entry(row)?.digest));
            let donor = copy.donor.map_or(Ok(ItemInput::Nothing), image)?;
            Ok(Work {
                name: format!("control {} of cell `{}`", copy.control.label(), cells.ids()[copy.source]),
                item: (copy.control, (copy.control == Control::Noise).then_some(params.seed)),
                inputs: vec![image(copy.source)?, donor],
            })
        };
        let items = copies.iter().map(work).collect::<Result<Vec<_>, ArtifactError>>()?;
        let results = context.map(&CopyCell { description: description.clone() }, &[], &items)?;

        let mut writer = CellsWriter::new(description.clone(), context.blobs());
        for (row, id) in cells.ids().iter().enumerate() {
            writer.link(id, cells.entry(row)?);
        }
        let mut ids = cells.ids().to_vec();
        let mut structures = cells.table.texts("structure")?.to_vec();
        let mut control = cells.table.flags("control")?.to_vec();
        for (copy, result) in copies.iter().zip(&results) {
            let id = format!("{}-{}", cells.ids()[copy.source], copy.control.label());
            writer.link(&id, &result.entries()[0]);
            ids.push(id);
            structures.push(copy.control.label().to_owned());
            control.push(true);
        }
        let rows: Vec<usize> = (0..cells.len()).chain(copies.iter().map(|copy| copy.source)).collect();
        let table =
            cells.table.select(&rows).with("cell_id", ids).with("structure", structures).with("control", control);
        Ok(Outputs::from([("cells".to_owned(), writer.finish(&table)?)]))
    }
}

/// Where the channels that controls are made of stand.
#[derive(Clone, Copy)]
struct Positions {
    membrane: usize,
    dna: usize,
    structure: usize,
}

fn positions(channels: &[String]) -> Result<Positions, String> {
    let position = |wanted: &str| {
        let found = channels.iter().position(|channel| channel == wanted);
        found.ok_or_else(|| format!("controls need a channel `{wanted}`; the cells have {}", channels.join(", ")))
    };
    Ok(Positions { membrane: position("membrane")?, dna: position("dna")?, structure: position("structure")? })
}

/// A control to make.
struct Copy {
    control: Control,
    /// The row of the cell that it is a copy of.
    source: usize,
    /// The row of the cell whose structure it gets.
    donor: Option<usize>,
}

/// The controls to make of a set, in the order of the labels and the cells.
///
/// Every cell with a structure is used whose hash, with a seed next to the split's, is at most 1 / (number of structures), so
/// that a control has about as many cells as a structure. A `Random` control's donor is the cell whose id together with the source's
/// has the smallest digest: that hardly ever changes when cells are added.
fn choose(cells: &Cells, params: &ControlsParams) -> Result<Vec<Copy>, ArtifactError> {
    let structures = cells.table.texts("structure")?;
    let control = cells.table.flags("control")?;
    let real: Vec<usize> = (0..cells.len()).filter(|&row| !control[row] && !structures[row].is_empty()).collect();
    let labels = real.iter().map(|&row| &structures[row]).collect::<BTreeSet<_>>().len();
    let seed = params.seed.wrapping_add(1);
    let chosen = |row: &usize| id_hash(seed, &cells.ids()[*row]) <= 1.0 / labels as f64;
    let sources: Vec<usize> = real.iter().copied().filter(chosen).collect();
    let donor = |source: usize| {
        let others = real.iter().copied().filter(|&other| other != source);
        others.min_by_key(|&other| {
            Digest::of(format!("{seed} {} {}", cells.ids()[source], cells.ids()[other]).as_bytes())
        })
    };
    let mut copies = Vec::new();
    for &control in &params.labels {
        for &source in &sources {
            let donor = if control == Control::Random { donor(source) } else { None };
            if control != Control::Random || donor.is_some() {
                copies.push(Copy { control, source, donor });
            }
        }
    }
    Ok(copies)
}

/// Makes one control.
#[derive(Serialize, Deserialize)]
struct CopyCell {
    description: CellsDescription,
}

impl ItemWork for CopyCell {
    /// The control, and the seed where it is noise.
    type Item = (Control, Option<u64>);
    type Shared = Positions;
    const UNIT: &'static str = "controls";

    fn open(&self, _: &ItemContext) -> Result<Positions, StageError> {
        positions(&self.description.channels).map_err(StageError::bad_input)
    }

    fn run(
        &self,
        channels: &Positions,
        (control, seed): Self::Item,
        inputs: &ItemContext,
    ) -> Result<ItemFiles, StageError> {
        let image = |input: usize| Ok::<_, StageError>(CellImage::decode(&inputs.bytes(input)?, &self.description)?);
        let donor = if control == Control::Random { Some(image(1)?) } else { None };
        let source = inputs.digest(0).expect("every copy has a source");
        let image = replace(control, image(0)?, donor, *channels, seed.unwrap_or_default(), &source);
        Ok(vec![("image.ome.tif".to_owned(), image.encode(&self.description)?)])
    }
}

/// The image of a cell with another structure channel (paper, section 2.1; the published program).
///
/// Like a real structure, whatever takes its place is kept inside the cell. Noise is drawn from a stream named by the seed and
/// the source's contents.
fn replace(
    control: Control,
    mut image: CellImage,
    donor: Option<CellImage>,
    channels: Positions,
    seed: u64,
    source: &Digest,
) -> CellImage {
    let inside = |volume: &Volume<f32>, mask: &Volume<u8>| {
        let data = volume.data.iter().zip(&mask.data).map(|(&value, &mask)| if mask == 0 { 0.0 } else { value });
        Volume::new(volume.size, data.collect())
    };
    let structure = match control {
        Control::Dna => inside(&image.channels[channels.dna], &image.nucleus),
        Control::Memb => inside(&image.channels[channels.membrane], &image.cell),
        Control::Blank => Volume::filled(image.cell.size, 0.0),
        Control::Noise => {
            let stream = u64::from_le_bytes(source.as_bytes()[..8].try_into().expect("eight bytes"));
            let mut rng = Rng::new(seed, "noise control", stream);
            let noise = image.cell.map(|_| (rng.normal() / NORMAL_999).clamp(0.0, 1.0) as f32);
            inside(&noise, &image.cell)
        }
        Control::Random => {
            let mut donor = donor.expect("a random control has a donor");
            inside(&donor.channels.swap_remove(channels.structure), &image.cell)
        }
    };
    image.channels[channels.structure] = structure;
    image
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, noisy_cells, params};
    use super::*;
    use crate::artifact::Artifact;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("cell-{i}")).collect()
    }

    fn with_controls(host: &MemoryHost, ids: &[String]) -> Artifact {
        let structures: Vec<&str> = (0..ids.len()).map(|i| if i % 2 == 0 { "golgi" } else { "lysosomes" }).collect();
        let cells = noisy_cells(host, &ids.iter().map(String::as_str).collect::<Vec<_>>(), &structures);
        host.run::<Controls>(&params::<Controls>(json!({"seed": 5})), &[("cells", &cells)]).unwrap()["cells"].clone()
    }

    #[test]
    fn five_controls_of_half_the_cells_when_there_are_two_structures() {
        let host = MemoryHost::default();
        let artifact = with_controls(&host, &names(60));
        let cells = Cells::open(&artifact, &host.blobs).unwrap();
        let (ids, sources) = (cells.ids(), cells.table.texts("source_id").unwrap());
        let (structures, control) = (cells.table.texts("structure").unwrap(), cells.table.flags("control").unwrap());
        let per_label = (cells.len() - 60) / 5;
        assert!((20..=40).contains(&per_label), "{per_label}");
        let mut noise_seen = BTreeSet::new();
        for row in 60..cells.len() {
            assert!(control[row]);
            assert_eq!(ids[row], format!("{}-{}", sources[row], structures[row]));
            let source = cells.image(ids.iter().position(|id| *id == sources[row]).unwrap()).unwrap();
            let image = cells.image(row).unwrap();
            assert_eq!(image.channels[..2], source.channels[..2]);
            let structure = &image.channels[2];
            let mean = structure.data.iter().sum::<f32>() / image.cell.data.iter().map(|&v| f32::from(v)).sum::<f32>();
            match structures[row].as_str() {
                "DNA" => assert_eq!(*structure, source.channels[1]),
                "Memb" => assert_eq!(*structure, source.channels[0]),
                "Blank" => assert!(structure.data.iter().all(|&value| value == 0.0)),
                "Noise" => {
                    // Mean of the positive half: 1 / √(2π) / 3.09; the cells are so small that their 99.9th percentile is
                    // the largest of a few dozen values, lower than that of many.
                    assert!((mean - 0.129).abs() < 0.08, "{mean}");
                    assert!(noise_seen.insert(cells.entry(row).unwrap().digest));
                }
                "Random" => {
                    let donors = (0..60).filter(|&i| cells.image(i).unwrap().channels[2] == *structure);
                    assert!(donors.map(|i| &ids[i]).all(|id| *id != sources[row]));
                    assert_ne!(*structure, source.channels[2]);
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn added_cells_leave_the_others_as_they_were() {
        let host = MemoryHost::default();
        let few = with_controls(&host, &names(40));
        let few_computed = host.items();
        let more = with_controls(&host, &names(42));
        let kept = |entry: &&crate::store::TreeEntry| more.tree.get(&entry.name) == Some(*entry);
        let images = few.tree.entries().iter().filter(|entry| entry.name.starts_with("images/"));
        let changed: Vec<_> = images.filter(|entry| !kept(entry)).map(|entry| entry.name.clone()).collect();
        // Only a `Random` control may change, when an added cell becomes its donor.
        assert!(changed.len() <= 4 && changed.iter().all(|name| name.ends_with("-Random.ome.tif")), "{changed:?}");
        assert!(host.items() - few_computed < few_computed / 2);
    }

    #[test]
    fn needs_normalised_cells_with_a_structure() {
        let facts = crate::stage::Facts { channels: Some(vec!["membrane".into(), "dna".into()]), ..Default::default() };
        let checked =
            Controls::check(&params::<Controls>(json!({})), &InputFacts::from([("cells".to_owned(), vec![facts])]));
        assert!(checked.problems[0].message.contains("need a channel `structure`"));
        let twice = Controls::check(&params::<Controls>(json!({"labels": ["DNA", "DNA"]})), &InputFacts::new());
        assert_eq!(twice.problems.len(), 1);
    }
}
