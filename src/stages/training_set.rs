//! The images of cells as a model takes them, read ahead of the training.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use crate::{
    artifact::Cells,
    model::{Architecture, Condition, ModelKind},
    stage::StageError,
};

/// The channel of a tagged structure.
pub(super) const STRUCTURE: &str = "structure";

/// Images that are kept in memory at most, in bytes; a set that is larger is read again in every epoch.
const MEMORY: usize = 1 << 30;

/// One cell as a model takes it.
struct Cell {
    image: Vec<f32>,
    reference: Vec<f32>,
}

/// Cells that a model is trained on or evaluated with.
pub(super) struct TrainingSet<'a> {
    cells: &'a Cells<'a>,
    /// Rows of the table that take part.
    rows: Vec<usize>,
    /// The position of each one's structure among the model's labels; empty for a reference model.
    labels: Vec<usize>,
    image: Vec<usize>,
    reference: Vec<usize>,
    kept: Option<Vec<OnceLock<Arc<Cell>>>>,
}

/// Images of a batch, with their conditions.
pub(super) struct Batch {
    pub(super) images: Vec<f32>,
    reference: Vec<f32>,
    labels: Vec<usize>,
}

impl Batch {
    /// What conditions a target model.
    pub(super) fn condition(&self) -> Option<Condition<'_>> {
        (!self.labels.is_empty()).then(|| Condition { reference: &self.reference, labels: &self.labels })
    }
}

impl<'a> TrainingSet<'a> {
    /// The cells of these rows, for a model of this architecture.
    pub(super) fn new(cells: &'a Cells<'a>, rows: Vec<usize>, architecture: &Architecture) -> Result<Self, StageError> {
        let positions = |names: &[String]| -> Result<Vec<usize>, StageError> {
            let known = &cells.description.channels;
            let position = |name: &String| {
                known.iter().position(|other| other == name).ok_or_else(|| {
                    StageError::bad_input(format!("the cells have no channel `{name}`; they have {}", known.join(", ")))
                })
            };
            names.iter().map(position).collect()
        };
        let structures = cells.table.texts("structure")?;
        let labels = if architecture.kind == ModelKind::Target {
            let label = |row: &usize| architecture.label(&structures[*row]);
            rows.iter()
                .map(label)
                .collect::<Result<_, _>>()
                .map_err(|error| StageError::bad_input(error.to_string()))?
        } else {
            Vec::new()
        };
        let (image, reference) =
            (positions(&architecture.image_channels)?, positions(&architecture.reference_channels)?);
        let bytes = rows.len() * architecture.voxels() * (image.len() + reference.len()) * 4;
        let kept = (bytes <= MEMORY).then(|| rows.iter().map(|_| OnceLock::new()).collect());
        Ok(Self { cells, rows, labels, image, reference, kept })
    }

    /// The number of cells.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    fn cell(&self, index: usize) -> Result<Arc<Cell>, StageError> {
        let slot = self.kept.as_ref().map(|kept| &kept[index]);
        if let Some(cell) = slot.and_then(OnceLock::get) {
            return Ok(cell.clone());
        }
        let row = self.rows[index];
        let image = self.cells.image(row)?;
        let channels = |positions: &[usize]| {
            positions.iter().flat_map(|&channel| image.channels[channel].data.iter().copied()).collect::<Vec<f32>>()
        };
        let cell = Cell { image: channels(&self.image), reference: channels(&self.reference) };
        if !cell.image.iter().chain(&cell.reference).all(|value| value.is_finite()) {
            let id = &self.cells.ids()[row];
            return Err(StageError::bad_input(format!("the image of cell `{id}` holds a value that is not finite")));
        }
        let cell = Arc::new(cell);
        Ok(slot.map_or_else(|| cell.clone(), |slot| slot.get_or_init(|| cell.clone()).clone()))
    }

    /// The images of these cells, by their numbers in the set.
    pub(super) fn batch(&self, cells: &[usize]) -> Result<Batch, StageError> {
        let read: Vec<Result<Arc<Cell>, StageError>> = cells.par_iter().map(|&cell| self.cell(cell)).collect();
        let mut batch = Batch { images: Vec::new(), reference: Vec::new(), labels: Vec::new() };
        for (cell, index) in read.into_iter().zip(cells) {
            let cell = cell?;
            batch.images.extend_from_slice(&cell.image);
            batch.reference.extend_from_slice(&cell.reference);
            batch.labels.extend(self.labels.get(*index));
        }
        Ok(batch)
    }
}
