//! The typed things that flow between stages, and how each is written and read.
//!
//! An [`Artifact`] is a [`Tree`] of blobs with a type. Bytes are stable: equal contents, equal bytes;
//! no times, paths or host names inside.

mod cells;
mod embedding;
mod error;
mod fields;
mod figures;
mod table;

use std::io::{self, Read, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::{Blobs, Digest, Tree, TreeEntry};

pub use cells::{CellImage, Cells, CellsDescription, CellsWriter};
pub use embedding::{Embedding, EmbeddingDescription, kl_divergence};
pub use error::ArtifactError;
pub use fields::{Fields, FieldsDescription, FieldsWriter, LabelImage, Labels, LabelsWriter};
pub use figures::{Figure, FigureSet};
pub use table::{Column, Table};

/// The type of an artifact. Ports declare the types that they give and take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactType {
    /// Fields of view, 3D images of many cells: [`Fields`].
    Fields,
    /// Label images of fields of view, nuclei and cells: [`Labels`].
    Labels,
    /// Images of single cells and a table with a row a cell: [`Cells`].
    Cells,
    /// One or more tables: [`Table`].
    Tables,
    /// The weights and configuration of a trained model.
    Model,
    /// Figures for people: [`FigureSet`].
    Figures,
    /// The report: one HTML file.
    Report,
    /// Files of no particular type, as an external command writes them.
    Files,
}

impl ArtifactType {
    /// Every type.
    pub const ALL: [Self; 8] =
        [Self::Fields, Self::Labels, Self::Cells, Self::Tables, Self::Model, Self::Figures, Self::Report, Self::Files];

    /// The name as it stands in pipelines and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fields => "fields",
            Self::Labels => "labels",
            Self::Cells => "cells",
            Self::Tables => "tables",
            Self::Model => "model",
            Self::Figures => "figures",
            Self::Report => "report",
            Self::Files => "files",
        }
    }
}

/// A tree of blobs with a type: what a stage gives and takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The type.
    pub kind: ArtifactType,
    /// The named blobs.
    pub tree: Tree,
}

impl Artifact {
    /// The content digest: that of the tree.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.tree.digest()
    }

    /// The bytes of the file `name`.
    ///
    /// # Errors
    /// When there is no such file, or the store cannot give it.
    pub fn read(&self, blobs: &dyn Blobs, name: &str) -> Result<Vec<u8>, ArtifactError> {
        let entry = self.tree.get(name).ok_or_else(|| ArtifactError::no_file(self.kind, name))?;
        Ok(blobs.get(&entry.digest)?)
    }

    /// Writes the bytes of the file `name` to `to`, without holding them in memory. The inner error is that of `to`.
    ///
    /// # Errors
    /// As [`Artifact::read`]; what was written is then not to be used.
    pub fn copy_to(&self, blobs: &dyn Blobs, name: &str, to: &mut dyn Write) -> Result<io::Result<()>, ArtifactError> {
        let entry = self.tree.get(name).ok_or_else(|| ArtifactError::no_file(self.kind, name))?;
        Ok(blobs.copy_to(&entry.digest, to)?)
    }
}

/// Collects the files of an artifact. Every file goes to the store at once, so memory stays flat.
pub struct ArtifactWriter<'a> {
    kind: ArtifactType,
    blobs: &'a dyn Blobs,
    entries: Vec<TreeEntry>,
}

impl<'a> ArtifactWriter<'a> {
    /// A writer of an artifact of type `kind`.
    #[must_use]
    pub fn new(kind: ArtifactType, blobs: &'a dyn Blobs) -> Self {
        Self { kind, blobs, entries: Vec::new() }
    }

    /// The store behind this writer.
    #[must_use]
    pub fn blobs(&self) -> &'a dyn Blobs {
        self.blobs
    }

    /// Adds a file with these bytes.
    ///
    /// # Errors
    /// When the store cannot keep them.
    pub fn put(&mut self, name: impl Into<String>, bytes: &[u8]) -> Result<(), ArtifactError> {
        let digest = self.blobs.put(bytes)?;
        self.link(TreeEntry { name: name.into(), digest, size: bytes.len() as u64 });
        Ok(())
    }

    /// Adds a file with everything that `from` gives, without holding it in memory. The inner error is that of `from`.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub fn put_from(&mut self, name: impl Into<String>, from: &mut dyn Read) -> Result<io::Result<()>, ArtifactError> {
        Ok(match self.blobs.put_from(from)? {
            Ok((digest, size)) => {
                self.link(TreeEntry { name: name.into(), digest, size });
                Ok(())
            }
            Err(error) => Err(error),
        })
    }

    /// Adds a file whose blob the store has already (of another artifact, or of a cached item): nothing is copied.
    pub fn link(&mut self, entry: TreeEntry) {
        self.entries.push(entry);
    }

    /// The artifact.
    ///
    /// # Errors
    /// When a name is no relative path or stands twice.
    pub fn finish(self) -> Result<Artifact, ArtifactError> {
        Ok(Artifact { kind: self.kind, tree: Tree::new(self.entries)? })
    }
}
