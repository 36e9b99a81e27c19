//! Stages that turn the image of each cell into another one, cell by cell.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    artifact::{Artifact, ArtifactError, CellImage, Cells, CellsDescription, CellsWriter},
    stage::{Context, ItemContext, ItemFiles, ItemInput, ItemWork, StageError, Work},
};

/// The name of the image in the result of an item.
const IMAGE: &str = "image.ome.tif";

/// What is done to the image of each cell: the parameters of a stage.
pub(super) trait EachCell: Clone + Serialize + DeserializeOwned + Send + Sync {
    /// How the images are described afterwards.
    fn described(&self, before: &CellsDescription) -> CellsDescription;

    /// The new image of a cell.
    fn image(&self, image: CellImage, before: &CellsDescription) -> Result<CellImage, StageError>;
}

/// A set with the same table and a new image of each cell. Cached per cell: what counts is the contents of the cell's image, how it
/// is described, and the parameters; never its id or its place in the set.
pub(super) fn each_cell(context: &Context, cells: &Cells, params: &impl EachCell) -> Result<Artifact, StageError> {
    let work = OfCell { parameters: params.clone(), description: cells.description.clone() };
    let results = context.map(&work, &[], &work_on(cells)?)?;
    let mut writer = CellsWriter::new(params.described(&cells.description), context.blobs());
    for (id, result) in cells.ids().iter().zip(&results) {
        writer.link(id, &result.entries()[0]);
    }
    Ok(writer.finish(&cells.table)?)
}

/// Every cell of a set as an item that depends on nothing but its image.
pub(super) fn work_on(cells: &Cells) -> Result<Vec<Work<'static, ()>>, ArtifactError> {
    let work = |(index, id): (usize, &String)| {
        let inputs = vec![ItemInput::Blob(cells.entry(index)?.digest)];
        Ok(Work { name: format!("cell `{id}`"), item: (), inputs })
    };
    cells.ids().iter().enumerate().map(work).collect()
}

#[derive(Serialize, Deserialize)]
struct OfCell<P> {
    parameters: P,
    description: CellsDescription,
}

impl<P: EachCell> ItemWork for OfCell<P> {
    type Item = ();
    type Shared = CellsDescription;
    const UNIT: &'static str = "cells";

    fn open(&self, _: &ItemContext) -> Result<CellsDescription, StageError> {
        Ok(self.parameters.described(&self.description))
    }

    fn run(&self, after: &CellsDescription, (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let image = CellImage::decode(&inputs.bytes(0)?, &self.description)?;
        let image = self.parameters.image(image, &self.description)?;
        Ok(vec![(IMAGE.to_owned(), image.encode(after)?)])
    }
}
