//! 3D cells to 2D: the maximum along z.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::each_cell::{EachCell, each_cell};
use crate::{
    artifact::{ArtifactType, CellImage, Cells, CellsDescription},
    image::Volume,
    stage::{Checked, Context, Facts, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// Projects 3D cells to 2D images.
pub(super) struct Project;

/// There is nothing to set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ProjectParams {}

impl StageKind for Project {
    type Params = ProjectParams;
    const NAME: &'static str = "project";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "3D cells to 2D: the maximum along z of every channel and mask";

    fn inputs(_: Option<&ProjectParams>) -> Vec<Input> {
        vec![Input::one("cells", ArtifactType::Cells, "3D cells")]
    }

    fn outputs(_: Option<&ProjectParams>) -> Vec<Output> {
        vec![Output::data("cells", ArtifactType::Cells, "the same cells in 2D, size 1 along z")]
    }

    fn check(_: &ProjectParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let Some(facts) = inputs.get("cells").and_then(|facts| facts.first()) else { return checked };
        if facts.dimensions == Some(2) {
            checked.problems.push(Problem::with("cells", "the cells are 2D already").help("leave this stage out"));
        }
        let out = Facts { size: facts.size.map(|[_, y, x]| [1, y, x]), dimensions: Some(2), ..facts.clone() };
        checked.outputs.insert("cells".to_owned(), out);
        checked
    }

    fn run(params: &ProjectParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let cells = Cells::open(inputs.one("cells"), context.blobs())?;
        if cells.description.dimensions == 2 {
            return Err(StageError::bad_input("the cells are 2D already").with_help("leave the stage `project` out"));
        }
        Ok(Outputs::from([("cells".to_owned(), each_cell(context, &cells, params)?)]))
    }
}

impl EachCell for ProjectParams {
    fn described(&self, before: &CellsDescription) -> CellsDescription {
        let [_, y, x] = before.size;
        CellsDescription { size: [1, y, x], dimensions: 2, ..before.clone() }
    }

    fn image(&self, image: CellImage, _: &CellsDescription) -> Result<CellImage, StageError> {
        Ok(project(&image))
    }
}

/// The maximum along z of every channel and mask (paper, section 4.1.2).
fn project(image: &CellImage) -> CellImage {
    CellImage {
        channels: image.channels.iter().map(maximum_along_z).collect(),
        cell: maximum_along_z(&image.cell),
        nucleus: maximum_along_z(&image.nucleus),
    }
}

fn maximum_along_z<T: PartialOrd + Copy>(volume: &Volume<T>) -> Volume<T> {
    let [_, height, width] = volume.size;
    let mut planes = volume.data.chunks_exact(height * width);
    let mut maximum = planes.next().expect("a volume has at least one plane").to_vec();
    for plane in planes {
        for (maximum, &value) in maximum.iter_mut().zip(plane) {
            if value > *maximum {
                *maximum = value;
            }
        }
    }
    Volume::new([1, height, width], maximum)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MemoryHost, noisy_cells};
    use super::*;

    #[test]
    fn takes_the_maximum_of_channels_and_masks() {
        let volume = Volume::new([2, 1, 3], vec![1.0, 5.0, 2.0, 4.0, 0.0, 2.0]);
        assert_eq!(maximum_along_z(&volume).data, [4.0, 5.0, 2.0]);
    }

    #[test]
    fn a_set_becomes_flat_and_keeps_its_table() {
        let host = MemoryHost::default();
        let cells = noisy_cells(&host, &["a", "b"], &["golgi", "golgi"]);
        let outputs = host.run::<Project>(&ProjectParams {}, &[("cells", &cells)]).unwrap();
        let flat = Cells::open(&outputs["cells"], &host.blobs).unwrap();
        let deep = Cells::open(&cells, &host.blobs).unwrap();
        assert_eq!((flat.description.size, flat.description.dimensions), ([1, 8, 8], 2));
        assert_eq!(flat.table, deep.table);
        assert_eq!(flat.image(1).unwrap(), project(&deep.image(1).unwrap()));
        let again = host.run::<Project>(&ProjectParams {}, &[("cells", &outputs["cells"])]);
        assert!(again.unwrap_err().to_string().contains("2D already"));
    }
}
