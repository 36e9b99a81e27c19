//! Shape and intensity features of cells.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::each_cell::work_on;
use crate::{
    artifact::{ArtifactType, ArtifactWriter, CellImage, Cells, CellsDescription, FigureSet, Table},
    figures::features::distributions,
    image::{
        ImageError, Volume,
        features::{Features as ChannelFeatures, above_local_mean, to_eight_bits},
    },
    stage::{
        Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemWork, Output, Outputs, Problem,
        StageError, StageKind,
    },
};

/// Measures cells.
pub(super) struct Features;

/// What is measured.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FeaturesParams {
    /// Whether nucleus and cell are found by an adaptive threshold of the DNA and the membrane channel instead of by the masks: for
    /// generated images, which have none.
    #[serde(default)]
    pub(super) from_intensity: bool,
    /// The side of the block whose mean is the threshold under `from-intensity`, in voxels; odd.
    #[serde(default = "default_block_size")]
    #[schemars(range(max = 9999))]
    pub(super) block_size: usize,
}

fn default_block_size() -> usize {
    199
}

/// The channels that are measured: a prefix of the columns, the intensity channel, the mask.
const PARTS: [(&str, &str); 2] = [("nucleus", "dna"), ("cell", "membrane")];
/// The file of an item's result: 14 numbers, missing ones null.
const VALUES: &str = "features.json";

impl StageKind for Features {
    type Params = FeaturesParams;
    const NAME: &'static str = "features";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "measures shape and intensity of nucleus and cell: 14 features a cell";

    fn inputs(_: Option<&FeaturesParams>) -> Vec<Input> {
        vec![Input::one("cells", ArtifactType::Cells, "cells, 2D or 3D")]
    }

    fn outputs(_: Option<&FeaturesParams>) -> Vec<Output> {
        vec![
            Output::for_people("features", ArtifactType::Tables, "the table `features`: a row a cell"),
            Output::for_people("figures", ArtifactType::Figures, "distributions of the features"),
        ]
    }

    fn check(params: &FeaturesParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params.block_size < 3 || params.block_size.is_multiple_of(2) || params.block_size > 9999 {
            let message = format!("the block size must be odd, from 3 to 9999; {} is not", params.block_size);
            checked.problems.push(Problem::with("block-size", message));
        }
        let channels = inputs.get("cells").and_then(|facts| facts.first()).and_then(|facts| facts.channels.as_ref());
        if let Some(channels) = channels {
            for (part, channel) in PARTS.iter().filter(|(_, channel)| !channels.iter().any(|name| name == channel)) {
                let message = format!("the cells have no channel `{channel}`, from which the {part} is measured");
                checked.problems.push(Problem::with("cells", message));
            }
        }
        checked
    }

    fn run(params: &FeaturesParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let cells = Cells::open(inputs.one("cells"), context.blobs())?;
        let description = &cells.description;
        let block = params.from_intensity.then_some(params.block_size);
        let work = Measure { block, description: description.clone() };
        let results = context.map(&work, &[], &work_on(&cells)?)?;

        let mut columns = vec![Vec::with_capacity(cells.len()); PARTS.len() * ChannelFeatures::NAMES.len()];
        for (id, result) in cells.ids().iter().zip(&results) {
            let bytes = context.blobs().get(&result.entries()[0].digest)?;
            let values: Vec<Option<f64>> = serde_json::from_slice(&bytes)
                .map_err(|error| StageError::failed(format!("the cached features of cell `{id}`: {error}")))?;
            if values[0] == Some(0.0) || values[ChannelFeatures::NAMES.len()] == Some(0.0) {
                context.note(format!("cell `{id}`: nucleus or cell is empty, so some of its features are missing"));
            }
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(value.unwrap_or(f64::NAN));
            }
        }
        let mut table = Table::new();
        for name in ["cell_id", "source_id", "dataset", "structure", "control", "stage"] {
            table = table.with(name, cells.table.column(name).expect("every set of cells has it").clone());
        }
        let names = PARTS.iter().flat_map(|(part, _)| ChannelFeatures::NAMES.map(|name| (*part, name)));
        for ((part, name), column) in names.zip(columns) {
            table = match name {
                "area" | "circumference" => {
                    let counts: Vec<i64> = column.iter().map(|&value| value as i64).collect();
                    table.with(format!("{part}_{name}"), counts)
                }
                _ => table.with(format!("{part}_{name}"), column),
            };
        }
        let figures = FigureSet(distributions(&table, description.dimensions)?).write(context.blobs())?;
        let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
        table.write(&mut out, "features")?;
        Ok(Outputs::from([("features".to_owned(), out.finish()?), ("figures".to_owned(), figures)]))
    }
}

/// Measures one cell.
#[derive(Serialize, Deserialize)]
struct Measure {
    /// The side of the block whose mean is the threshold, in voxels; none: the masks count.
    block: Option<usize>,
    description: CellsDescription,
}

impl ItemWork for Measure {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "cells";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let image = CellImage::decode(&inputs.bytes(0)?, &self.description)?;
        let measured = measure(&image, &self.description, self.block)?;
        let values: Vec<f64> = measured.iter().flat_map(ChannelFeatures::values).collect();
        Ok(vec![(VALUES.to_owned(), serde_json::to_vec(&values).expect("numbers"))])
    }
}

/// The features of nucleus and cell (paper, section 4.5): the DNA channel inside the nucleus, the membrane channel inside the cell,
/// each in 8 bit.
fn measure(
    image: &CellImage,
    description: &CellsDescription,
    block: Option<usize>,
) -> Result<[ChannelFeatures; 2], ImageError> {
    // Intensities are stored as whole numbers of 16 bit; those are what is measured, exactly.
    let scale = if description.normalised { 65535.0 } else { 1.0 };
    let one = |(part, channel): (&str, &str)| {
        let position = description.channels.iter().position(|name| name == channel).ok_or_else(|| {
            ImageError::Shape(format!("the cells have no channel `{channel}`, from which the {part} is measured"))
        })?;
        let stored = image.channels[position].map(|value| (value * scale).round() as u16);
        let mask = match (block, part) {
            (Some(block), _) => &above_local_mean(&stored, block),
            (None, "nucleus") => &image.nucleus,
            (None, _) => &image.cell,
        };
        let inside = stored.data.iter().zip(&mask.data).map(|(&value, &mask)| if mask > 0 { value } else { 0 });
        Ok(ChannelFeatures::of(&to_eight_bits(&Volume::new(stored.size, inside.collect()))))
    };
    Ok([one(PARTS[0])?, one(PARTS[1])?])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, noisy_cells, params};
    use super::*;

    fn table(host: &MemoryHost, outputs: &Outputs) -> Table {
        Table::read(&outputs["features"], &host.blobs, "features").unwrap()
    }

    #[test]
    fn measures_inside_the_masks_and_once_a_cell() {
        let host = MemoryHost::default();
        let cells = noisy_cells(&host, &["a", "b"], &["golgi", ""]);
        let outputs = host.run::<Features>(&params::<Features>(json!({})), &[("cells", &cells)]).unwrap();
        let table = table(&host, &outputs);
        assert_eq!(table.columns().count(), 6 + 14);
        // Nuclei of 2 × 4 × 4 voxels; every random voxel in them is above zero but for a few that are cut off.
        let areas = table.floats("nucleus_area").unwrap();
        assert!(areas.iter().all(|&area| (30.0..=32.0).contains(&area)), "{areas:?}");
        assert!((3.0..4.28).contains(&table.floats("cell_entropy").unwrap()[0]));
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 2);

        let more = noisy_cells(&host, &["a", "b", "c"], &["golgi", "", ""]);
        host.run::<Features>(&params::<Features>(json!({})), &[("cells", &more)]).unwrap();
        assert_eq!(host.recalled(), 2);
        // The block size counts only where it is used.
        host.run::<Features>(&params::<Features>(json!({ "block-size": 5 })), &[("cells", &more)]).unwrap();
        assert_eq!((host.recalled(), host.items()), (5, 3));
        let small = params::<Features>(json!({ "block-size": 5, "from-intensity": true }));
        let outputs = host.run::<Features>(&small, &[("cells", &more)]).unwrap();
        assert_eq!(host.items(), 6);
        let found = super::tests::table(&host, &outputs).floats("nucleus_area").unwrap();
        assert!(found.iter().all(|&area| area > 10.0 && area < 60.0), "{found:?}");
    }

    #[test]
    fn no_cells_and_empty_cells_are_no_failure() {
        let host = MemoryHost::default();
        let none = noisy_cells(&host, &[], &[]);
        let outputs = host.run::<Features>(&params::<Features>(json!({})), &[("cells", &none)]).unwrap();
        assert_eq!(table(&host, &outputs).rows(), 0);
    }

    #[test]
    fn problems_are_found_before_anything_runs() {
        for (block, sound) in [(199, true), (3, true), (1, false), (20, false), (10_001, false)] {
            let params = params::<Features>(json!({ "block-size": block }));
            assert_eq!(Features::check(&params, &InputFacts::new()).problems.is_empty(), sound, "{block}");
        }
        let facts = crate::stage::Facts { channels: Some(vec!["dna".to_owned()]), ..Default::default() };
        let inputs = InputFacts::from([("cells".to_owned(), vec![facts])]);
        let problems = Features::check(&params::<Features>(json!({})), &inputs).problems;
        assert!(problems[0].message.contains("`membrane`"), "{problems:?}");
    }
}
