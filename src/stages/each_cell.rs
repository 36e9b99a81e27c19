//! Stages that turn the image of each cell into another one, cell by cell.

use serde::Serialize;
use serde_json::json;

use super::{Context, Item, StageError};
use crate::artifact::{Artifact, ArtifactError, CellImage, Cells, CellsDescription, CellsWriter};

/// The name of the image in the result of an item.
const IMAGE: &str = "image.ome.tif";

/// A set with the same table and, for each cell, the image that `f` makes of its image. Cached per cell: what counts is the
/// contents of the cell's image, how it is described, and `parameters`; never its id or its place in the set.
///
/// `f` is given the cell's id for its messages only.
pub(super) fn each_cell<F>(
    context: &Context,
    cells: &Cells,
    parameters: &impl Serialize,
    description: &CellsDescription,
    f: F,
) -> Result<Artifact, StageError>
where
    F: Fn(&str, CellImage) -> Result<CellImage, StageError> + Sync,
{
    let parameters = json!({ "parameters": parameters, "description": cells.description });
    let items = (0..cells.len())
        .map(|index| Ok(Item { inputs: vec![cells.entry(index)?.digest], parameters: parameters.clone() }))
        .collect::<Result<Vec<_>, ArtifactError>>()?;
    let results = context.map("cells", &items, |index| {
        let image = f(&cells.ids()[index], cells.image(index)?)?;
        Ok(vec![(IMAGE.to_owned(), encode(&cells.ids()[index], &image, description)?)])
    })?;
    let mut writer = CellsWriter::new(description.clone(), context.blobs());
    for (id, result) in cells.ids().iter().zip(&results) {
        writer.link(id, &result.entries()[0]);
    }
    Ok(writer.finish(&cells.table)?)
}

/// The bytes of a cell's image.
pub(super) fn encode(id: &str, image: &CellImage, description: &CellsDescription) -> Result<Vec<u8>, StageError> {
    Ok(image.encode(description).map_err(|source| ArtifactError::Image { name: id.to_owned(), source })?)
}
