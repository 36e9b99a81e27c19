//! Fields of view, and label images of fields: an image each, read one by one.

use serde::{Deserialize, Serialize};

use super::{Artifact, ArtifactError, ArtifactType, ArtifactWriter, Table};
use crate::{
    image::{ImageError, Pixels, Stack, Volume, io},
    store::{Blobs, TreeEntry},
};

/// What holds for all fields of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FieldsDescription {
    /// Intensity channels, in order: `membrane`, `dna`, and `structure` when there is one; others may follow.
    pub channels: Vec<String>,
}

/// A set of fields of view, images read one by one.
///
/// The table has a row a field. Columns that every set has: `field_id` (unique, fit for a file name), `dataset`, `structure`
/// (label; empty where no structure was imaged), `source` (the file that it came from, without folders; empty for a simulated
/// field). Every image is an OME-TIFF of the same named channels and says the size of its voxels.
pub struct Fields<'a> {
    /// What holds for all.
    pub description: FieldsDescription,
    /// A row a field.
    pub table: Table,
    artifact: &'a Artifact,
    blobs: &'a dyn Blobs,
    ids: Vec<String>,
}

const DESCRIPTION: &str = "fields.json";
const TABLE: &str = "fields";
const NUCLEUS: &str = "nucleus";
const CELL: &str = "cell";

fn field_name(field_id: &str) -> String {
    format!("fields/{field_id}.ome.tif")
}

fn labels_name(field_id: &str) -> String {
    format!("labels/{field_id}.ome.tif")
}

fn malformed(reason: String) -> ArtifactError {
    ArtifactError::Malformed { kind: ArtifactType::Fields, reason }
}

impl<'a> Fields<'a> {
    /// Opens an artifact of fields: reads the table, no image.
    ///
    /// # Errors
    /// When it is no set of fields.
    pub fn open(artifact: &'a Artifact, blobs: &'a dyn Blobs) -> Result<Self, ArtifactError> {
        let description = serde_json::from_slice(&artifact.read(blobs, DESCRIPTION)?)
            .map_err(|error| malformed(error.to_string()))?;
        let table = Table::read(artifact, blobs, TABLE)?;
        let ids = table.texts("field_id")?.to_vec();
        Ok(Self { description, table, artifact, blobs, ids })
    }

    /// The number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids of the fields, in the table's order.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The blob behind the image of field `index`: its identity for per-field caching.
    ///
    /// # Errors
    /// When the artifact lacks it.
    pub fn entry(&self, index: usize) -> Result<&'a TreeEntry, ArtifactError> {
        let name = field_name(&self.ids[index]);
        self.artifact.tree.get(&name).ok_or_else(|| ArtifactError::no_file(ArtifactType::Fields, &name))
    }

    /// Reads the image of field `index`: the channels of the description, and a voxel size.
    ///
    /// # Errors
    /// When the store cannot give it, or it does not fit the description.
    pub fn image(&self, index: usize) -> Result<Stack, ArtifactError> {
        let entry = self.entry(index)?;
        let fits = |stack: &Stack| {
            if stack.channels != self.description.channels {
                return Err(ImageError::Shape(format!(
                    "channels {}, not {}",
                    stack.channels.join(", "),
                    self.description.channels.join(", ")
                )));
            }
            if stack.voxel_um.is_none() {
                return Err(ImageError::Shape("it does not say the size of its voxels".to_owned()));
            }
            Ok(())
        };
        io::read(&self.blobs.get(&entry.digest)?)
            .and_then(|stack| fits(&stack).map(|()| stack))
            .map_err(|source| ArtifactError::Image { name: entry.name.clone(), source })
    }
}

/// Writes a set of fields.
pub struct FieldsWriter<'a> {
    out: ArtifactWriter<'a>,
    description: FieldsDescription,
}

impl<'a> FieldsWriter<'a> {
    /// A writer of a set of this description.
    #[must_use]
    pub fn new(description: FieldsDescription, blobs: &'a dyn Blobs) -> Self {
        Self { out: ArtifactWriter::new(ArtifactType::Fields, blobs), description }
    }

    /// Adds the image of a field, as [`io::write`] gives it: the channels of the description, with a voxel size.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn image(&mut self, field_id: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.out.put(field_name(field_id), bytes)
    }

    /// Adds an image that the store has already.
    pub fn link(&mut self, field_id: &str, entry: &TreeEntry) {
        self.out.link(TreeEntry { name: field_name(field_id), ..entry.clone() });
    }

    /// Writes the table and the description, and closes the set.
    ///
    /// # Errors
    /// When the table lacks a column that every set has, or ids are not unique, or an image is missing.
    pub fn finish(mut self, table: &Table) -> Result<Artifact, ArtifactError> {
        for name in ["field_id", "dataset", "structure", "source"] {
            table.texts(name)?;
        }
        table.write(&mut self.out, TABLE)?;
        self.out.put(DESCRIPTION, &serde_json::to_vec_pretty(&self.description).expect("plain data"))?;
        let artifact = self.out.finish()?;
        for id in table.texts("field_id")? {
            artifact.tree.get(&field_name(id)).ok_or_else(|| malformed(format!("field `{id}` has no image")))?;
        }
        Ok(artifact)
    }
}

/// Which voxels of a field belong to which nucleus and which cell.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelImage {
    /// The number of the nucleus at each voxel; 0: none.
    pub nucleus: Volume<u32>,
    /// The number of the cell at each voxel, its nucleus included; 0: none. A cell and its nucleus have the same number where
    /// `segment-align` or `simulate` wrote them; numbers from elsewhere may differ. All 0: cells are not known, only
    /// nuclei; nuclei all 0: those of the cells are not known.
    pub cell: Volume<u32>,
    /// Size of a voxel in µm: Z, Y, X.
    pub voxel_um: [f64; 3],
}

impl LabelImage {
    /// The OME-TIFF of this image: channels `nucleus` and `cell`, 16 bit, or 32 bit where a number needs it.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when the sizes differ.
    pub fn encode(&self) -> Result<Vec<u8>, ImageError> {
        if self.nucleus.size != self.cell.size {
            return Err(ImageError::Shape(format!("nuclei {:?}, cells {:?}", self.nucleus.size, self.cell.size)));
        }
        let labels = || self.nucleus.data.iter().chain(&self.cell.data);
        let narrow: Option<Vec<u16>> = labels().map(|&label| u16::try_from(label).ok()).collect();
        io::write(&Stack {
            channels: vec![NUCLEUS.to_owned(), CELL.to_owned()],
            size: self.nucleus.size,
            voxel_um: Some(self.voxel_um),
            pixels: narrow.map_or_else(|| Pixels::U32(labels().copied().collect()), Pixels::U16),
        })
    }

    /// Reads what [`LabelImage::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are no such image.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let stack = io::read(bytes)?;
        Ok(Self {
            nucleus: stack.channel_u32(stack.position(NUCLEUS)?)?,
            cell: stack.channel_u32(stack.position(CELL)?)?,
            voxel_um: stack
                .voxel_um
                .ok_or_else(|| ImageError::Shape("it does not say the size of its voxels".to_owned()))?,
        })
    }
}

/// Label images of fields, by the field's id; a field may be missing. Files are `labels/<field id>.ome.tif`.
pub struct Labels<'a> {
    artifact: &'a Artifact,
    blobs: &'a dyn Blobs,
}

impl<'a> Labels<'a> {
    /// Opens an artifact of labels; reads nothing.
    #[must_use]
    pub fn open(artifact: &'a Artifact, blobs: &'a dyn Blobs) -> Self {
        Self { artifact, blobs }
    }

    /// The ids of the fields that have labels, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<&'a str> {
        let id = |entry: &'a TreeEntry| entry.name.strip_prefix("labels/")?.strip_suffix(".ome.tif");
        self.artifact.tree.entries().iter().filter_map(id).collect()
    }

    /// The blob behind the labels of a field; `None` where it has none.
    #[must_use]
    pub fn entry(&self, field_id: &str) -> Option<&'a TreeEntry> {
        self.artifact.tree.get(&labels_name(field_id))
    }

    /// Reads the labels of a field; `None` where it has none.
    ///
    /// # Errors
    /// When the store cannot give them, or they are no label image.
    pub fn image(&self, field_id: &str) -> Result<Option<LabelImage>, ArtifactError> {
        let Some(entry) = self.entry(field_id) else { return Ok(None) };
        let image = LabelImage::decode(&self.blobs.get(&entry.digest)?)
            .map_err(|source| ArtifactError::Image { name: entry.name.clone(), source })?;
        Ok(Some(image))
    }
}

/// Writes label images.
pub struct LabelsWriter<'a>(ArtifactWriter<'a>);

impl<'a> LabelsWriter<'a> {
    /// A writer into this store.
    #[must_use]
    pub fn new(blobs: &'a dyn Blobs) -> Self {
        Self(ArtifactWriter::new(ArtifactType::Labels, blobs))
    }

    /// Adds the labels of a field, as [`LabelImage::encode`] gives them.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub fn image(&mut self, field_id: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.0.put(labels_name(field_id), bytes)
    }

    /// Adds labels that the store has already.
    pub fn link(&mut self, field_id: &str, entry: &TreeEntry) {
        self.0.link(TreeEntry { name: labels_name(field_id), ..entry.clone() });
    }

    /// Closes the set.
    ///
    /// # Errors
    /// When a field stands twice.
    pub fn finish(self) -> Result<Artifact, ArtifactError> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryBlobs;

    #[test]
    fn fields_round_trip() {
        let blobs = MemoryBlobs::default();
        let stack = Stack {
            channels: vec!["membrane".to_owned(), "dna".to_owned()],
            size: [2, 3, 4],
            voxel_um: Some([0.3, 0.2, 0.2]),
            pixels: Pixels::U16((0..48).collect()),
        };
        let table = |id: &str| {
            let one = |text: &str| vec![text.to_owned()];
            Table::new()
                .with("field_id", one(id))
                .with("dataset", one("d"))
                .with("structure", one(""))
                .with("source", one("a.tif"))
        };
        let write = |channels: &[&str], id: &str| {
            let channels = channels.iter().map(|&name| name.to_owned()).collect();
            let mut writer = FieldsWriter::new(FieldsDescription { channels }, &blobs);
            writer.image("a", &io::write(&stack).unwrap()).unwrap();
            writer.finish(&table(id))
        };
        let artifact = write(&["membrane", "dna"], "a").unwrap();
        let fields = Fields::open(&artifact, &blobs).unwrap();
        assert_eq!(fields.ids(), ["a"]);
        assert_eq!(fields.image(0).unwrap(), stack);

        assert!(write(&["membrane", "dna"], "b").is_err(), "a row without an image");
        let other = write(&["dna", "membrane"], "a").unwrap();
        assert!(Fields::open(&other, &blobs).unwrap().image(0).is_err(), "other channels than described");
    }

    #[test]
    fn labels_round_trip_in_16_and_32_bit() {
        let blobs = MemoryBlobs::default();
        for highest in [7, 70_000] {
            let mut image = LabelImage {
                nucleus: Volume::filled([2, 2, 2], 0),
                cell: Volume::filled([2, 2, 2], 3),
                voxel_um: [0.5; 3],
            };
            image.nucleus.data[5] = highest;
            let mut writer = LabelsWriter::new(&blobs);
            writer.image("a", &image.encode().unwrap()).unwrap();
            let artifact = writer.finish().unwrap();
            let labels = Labels::open(&artifact, &blobs);
            assert_eq!(labels.image("a").unwrap().unwrap(), image);
            assert!(labels.image("b").unwrap().is_none());
            assert_eq!(labels.ids(), ["a"]);
        }
    }
}
