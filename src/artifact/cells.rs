//! Single cells: an image each, and a table with a row each.

use serde::{Deserialize, Serialize};

use super::{Artifact, ArtifactError, ArtifactType, ArtifactWriter, Column, Table};
use crate::{
    image::{ImageError, Pixels, Stack, Volume, io},
    store::{Blobs, TreeEntry},
};

/// What holds for all cells of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CellsDescription {
    /// Size of every image in voxels: Z, Y, X; a 2D image has Z = 1.
    pub size: [usize; 3],
    /// 2 or 3.
    pub dimensions: usize,
    /// Size of a voxel in µm: Z, Y, X.
    pub voxel_um: [f64; 3],
    /// Intensity channels, in order: `membrane`, `dna`, and `structure` when there is one.
    pub channels: Vec<String>,
    /// Whether intensities are normalised to [0, 1]: then stored 0 is 0.0 and stored 65535 is 1.0.
    pub normalised: bool,
}

/// The image of one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct CellImage {
    /// Intensity channels in the order of [`CellsDescription::channels`]; in [0, 1] when normalised, else as measured.
    pub channels: Vec<Volume<f32>>,
    /// 1 inside the cell, else 0.
    pub cell: Volume<u8>,
    /// 1 inside the nucleus, else 0.
    pub nucleus: Volume<u8>,
}

/// A set of cells, images read one by one.
///
/// The table has a row a cell. Columns that every set has: `cell_id` (unique), `source_id` (the cell that a control was
/// copied from, else the cell itself), `dataset`, `field`, `structure` (label; empty where no structure was imaged),
/// `control` (true for a copy with a replaced structure channel), `stage` (mitotic stage, empty when not known).
/// Stages add measured columns behind these.
pub struct Cells<'a> {
    /// What holds for all.
    pub description: CellsDescription,
    /// A row a cell.
    pub table: Table,
    artifact: &'a Artifact,
    blobs: &'a dyn Blobs,
    ids: Vec<String>,
}

const DESCRIPTION: &str = "cells.json";
const TABLE: &str = "cells";
const MASKS: [&str; 2] = ["cell", "nucleus"];
const FULL_SCALE: f32 = 65535.0;

fn image_name(cell_id: &str) -> String {
    format!("images/{cell_id}.ome.tif")
}

fn malformed(reason: String) -> ArtifactError {
    ArtifactError::Malformed { kind: ArtifactType::Cells, reason }
}

impl<'a> Cells<'a> {
    /// Opens an artifact of cells: reads the table, no image.
    ///
    /// # Errors
    /// When it is no set of cells.
    pub fn open(artifact: &'a Artifact, blobs: &'a dyn Blobs) -> Result<Self, ArtifactError> {
        let description = serde_json::from_slice(&artifact.read(blobs, DESCRIPTION)?)
            .map_err(|error| malformed(error.to_string()))?;
        let table = Table::read(artifact, blobs, TABLE)?;
        let ids = table.texts("cell_id")?.to_vec();
        Ok(Self { description, table, artifact, blobs, ids })
    }

    /// The number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no cell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids of the cells, in the table's order.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The blob behind the image of cell `index`: its identity for per-cell caching, and for linking it into another set.
    ///
    /// # Errors
    /// When the artifact lacks it.
    pub fn entry(&self, index: usize) -> Result<&'a TreeEntry, ArtifactError> {
        let name = image_name(&self.ids[index]);
        self.artifact.tree.get(&name).ok_or_else(|| ArtifactError::no_file(ArtifactType::Cells, &name))
    }

    /// Reads the image of cell `index`.
    ///
    /// # Errors
    /// When the store cannot give it, or it does not fit the description.
    pub fn image(&self, index: usize) -> Result<CellImage, ArtifactError> {
        let entry = self.entry(index)?;
        CellImage::decode(&self.blobs.get(&entry.digest)?, &self.description)
            .map_err(|source| ArtifactError::Image { name: entry.name.clone(), source })
    }

    /// The store behind this set.
    #[must_use]
    pub fn blobs(&self) -> &'a dyn Blobs {
        self.blobs
    }
}

impl CellImage {
    /// The OME-TIFF of this image: 16 bit, intensity channels, then the masks `cell` and `nucleus` (0 or 1).
    ///
    /// # Errors
    /// [`ImageError::Shape`] when channels or sizes are not those of the description.
    pub fn encode(&self, description: &CellsDescription) -> Result<Vec<u8>, ImageError> {
        if self.channels.len() != description.channels.len() {
            return Err(ImageError::Shape(format!(
                "{} channels, not {}",
                self.channels.len(),
                description.channels.len()
            )));
        }
        let sizes = self.channels.iter().map(|c| c.size).chain([self.cell.size, self.nucleus.size]);
        if let Some(size) = sizes.into_iter().find(|size| *size != description.size) {
            return Err(ImageError::Shape(format!("size {size:?}, not {:?}", description.size)));
        }
        let scale = if description.normalised { FULL_SCALE } else { 1.0 };
        let quantise = |value: &f32| (value * scale).round().clamp(0.0, FULL_SCALE) as u16;
        let mut pixels: Vec<u16> = Vec::with_capacity((self.channels.len() + 2) * self.cell.data.len());
        for channel in &self.channels {
            pixels.extend(channel.data.iter().map(quantise));
        }
        for mask in [&self.cell, &self.nucleus] {
            pixels.extend(mask.data.iter().map(|&v| u16::from(v != 0)));
        }
        io::write(&Stack {
            channels: description.channels.iter().cloned().chain(MASKS.map(str::to_owned)).collect(),
            size: description.size,
            voxel_um: Some(description.voxel_um),
            pixels: Pixels::U16(pixels),
        })
    }

    /// Reads what [`CellImage::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are no such image.
    pub fn decode(bytes: &[u8], description: &CellsDescription) -> Result<Self, ImageError> {
        let stack = io::read(bytes)?;
        if stack.size != description.size {
            return Err(ImageError::Shape(format!("size {:?}, not {:?}", stack.size, description.size)));
        }
        let scale = if description.normalised { FULL_SCALE } else { 1.0 };
        let channels = description.channels.iter().map(|name| {
            let mut volume = stack.channel_f32(stack.position(name)?);
            volume.data.iter_mut().for_each(|value| *value /= scale);
            Ok(volume)
        });
        let mask = |name: &str| Ok(stack.channel_u32(stack.position(name)?)?.map(|&v| u8::from(v != 0)));
        Ok(Self {
            channels: channels.collect::<Result<_, ImageError>>()?,
            cell: mask(MASKS[0])?,
            nucleus: mask(MASKS[1])?,
        })
    }
}

/// Writes a set of cells.
pub struct CellsWriter<'a> {
    out: ArtifactWriter<'a>,
    description: CellsDescription,
}

impl<'a> CellsWriter<'a> {
    /// A writer of a set of this description.
    #[must_use]
    pub fn new(description: CellsDescription, blobs: &'a dyn Blobs) -> Self {
        Self { out: ArtifactWriter::new(ArtifactType::Cells, blobs), description }
    }

    /// Adds the image of a cell.
    ///
    /// # Errors
    /// When it does not fit the description, or cannot be kept.
    pub fn image(&mut self, cell_id: &str, image: &CellImage) -> Result<(), ArtifactError> {
        let name = image_name(cell_id);
        let bytes =
            image.encode(&self.description).map_err(|source| ArtifactError::Image { name: name.clone(), source })?;
        self.out.put(name, &bytes)
    }

    /// Adds an image that the store has already, as [`CellImage::encode`] wrote it for the same description.
    pub fn link(&mut self, cell_id: &str, entry: &TreeEntry) {
        self.out.link(TreeEntry { name: image_name(cell_id), ..entry.clone() });
    }

    /// Writes the table and the description, and closes the set.
    ///
    /// # Errors
    /// When the table lacks a column that every set has, or ids are not unique, or an image is missing.
    pub fn finish(mut self, table: &Table) -> Result<Artifact, ArtifactError> {
        for name in ["cell_id", "source_id", "dataset", "field", "structure", "stage"] {
            table.texts(name)?;
        }
        if !matches!(table.column("control"), Some(Column::Flag(_))) {
            return Err(malformed("the table has no column `control`".to_owned()));
        }
        table.write(&mut self.out, TABLE)?;
        self.out.put(DESCRIPTION, &serde_json::to_vec_pretty(&self.description).expect("plain data"))?;
        let artifact = self.out.finish()?;
        for id in table.texts("cell_id")? {
            artifact.tree.get(&image_name(id)).ok_or_else(|| malformed(format!("cell `{id}` has no image")))?;
        }
        Ok(artifact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryBlobs;

    #[test]
    fn round_trip() {
        let size = [1, 2, 3];
        let description = CellsDescription {
            size,
            dimensions: 2,
            voxel_um: [0.3; 3],
            channels: vec!["membrane".into(), "dna".into()],
            normalised: true,
        };
        let image = CellImage {
            channels: vec![Volume::filled(size, 1.0), Volume::filled(size, 0.0)],
            cell: Volume::filled(size, 1),
            nucleus: Volume::filled(size, 0),
        };
        let blobs = MemoryBlobs::default();
        let mut writer = CellsWriter::new(description.clone(), &blobs);
        writer.image("c1", &image).unwrap();
        let one = |text: &str| vec![text.to_owned()];
        let table = Table::new()
            .with("cell_id", one("c1"))
            .with("source_id", one("c1"))
            .with("dataset", one("d"))
            .with("field", one("f"))
            .with("structure", one(""))
            .with("control", vec![false])
            .with("stage", one(""));
        let artifact = writer.finish(&table).unwrap();
        let cells = Cells::open(&artifact, &blobs).unwrap();
        assert_eq!(cells.image(0).unwrap(), image);
        assert_eq!(cells.description, description);
    }
}
