//! Whether what a program wrote is what its stage promises.

use crate::{
    artifact::{Artifact, ArtifactType, Cells, Fields, FigureSet, Labels, Table},
    model,
    stage::{Context, StageError},
};

/// Reads an artifact as the stages behind it will.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(artifact: &Artifact, context: &Context) -> Result<(), StageError> {
    let blobs = context.blobs();
    match artifact.kind {
        ArtifactType::Files => {}
        ArtifactType::Fields => {
            let fields = Fields::open(artifact, blobs)?;
            for index in 0..fields.len() {
                context.check()?;
                fields.image(index)?;
            }
        }
        ArtifactType::Cells => {
            let cells = Cells::open(artifact, blobs)?;
            for index in 0..cells.len() {
                context.check()?;
                cells.image(index)?;
            }
        }
        ArtifactType::Labels => {
            let labels = Labels::open(artifact, blobs);
            let ids = labels.ids();
            if ids.is_empty() {
                return Err(StageError::failed("it has no `labels/FIELD.ome.tif`"));
            }
            for id in ids {
                context.check()?;
                labels.image(id)?;
            }
        }
        ArtifactType::Tables => {
            let names = artifact.tree.entries().iter().filter_map(|entry| entry.name.strip_suffix(".parquet"));
            let names: Vec<&str> = names.collect();
            if names.is_empty() {
                return Err(StageError::failed("it has no `NAME.parquet`"));
            }
            for name in names {
                context.check()?;
                Table::read(artifact, blobs, name).map_err(|error| StageError::from(error).about(name))?;
            }
        }
        ArtifactType::Model => {
            model::artifact::read(artifact, blobs)?;
        }
        ArtifactType::Figures => {
            FigureSet::read(artifact, blobs)?;
        }
        ArtifactType::Report => {
            artifact.read(blobs, "report.html")?;
        }
    }
    Ok(())
}
