//! Ports: what a stage takes and gives.

use std::{collections::BTreeMap, path::PathBuf};

use super::{StageError, folder::archive};
use crate::{
    artifact::{Artifact, ArtifactType},
    store::Digest,
};

/// How many things an input port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one. A stage that takes one thing and is given a group becomes a group itself.
    One,
    /// One or none.
    Optional,
    /// A list of one or more, in the order of the pipeline; a group in it stands for its members in order.
    Many,
    /// A list of any number, or nothing.
    Any,
    /// A list of one or more, as [`Arity::Many`]; or a table of names, each with such a list: `files = { dna = "*_ch1.tif" }`. Every name
    /// is then a port of its own for the stage, here `files.dna`.
    ManyOrNamed,
    /// A table of names, each with one thing: `inputs = { image = "cells" }`. Every name is a port of its own for the stage,
    /// here `inputs.image`.
    Named,
}

/// An input port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The key in the stage's TOML table.
    pub name: String,
    /// The types of artifact it takes.
    pub kinds: Vec<ArtifactType>,
    /// Whether it takes files outside the store: a path, a pattern, or a list of them, relative to the TOML file.
    pub files: bool,
    /// How many.
    pub arity: Arity,
    /// One line for people.
    pub about: String,
}

impl Input {
    fn new(name: &str, kinds: &[ArtifactType], arity: Arity, about: &str) -> Self {
        Self { name: name.to_owned(), kinds: kinds.to_vec(), files: kinds.is_empty(), arity, about: about.to_owned() }
    }

    /// A port that takes exactly one artifact.
    #[must_use]
    pub fn one(name: &str, kind: ArtifactType, about: &str) -> Self {
        Self::new(name, &[kind], Arity::One, about)
    }

    /// A port that takes one artifact or none.
    #[must_use]
    pub fn optional(name: &str, kind: ArtifactType, about: &str) -> Self {
        Self::new(name, &[kind], Arity::Optional, about)
    }

    /// A port that takes a list of artifacts.
    #[must_use]
    pub fn many(name: &str, kind: ArtifactType, about: &str) -> Self {
        Self::new(name, &[kind], Arity::Many, about)
    }

    /// A table of names, each with an artifact of any of these types.
    #[must_use]
    pub fn named(name: &str, kinds: &[ArtifactType], about: &str) -> Self {
        Self::new(name, kinds, Arity::Named, about)
    }

    /// A port that takes files from outside the store.
    #[must_use]
    pub fn files(name: &str, arity: Arity, about: &str) -> Self {
        Self::new(name, &[], arity, about)
    }

    /// The same port, which takes artifacts of this type too: what a command wrote in place of files that were there before.
    #[must_use]
    pub fn or_artifact(mut self, kind: ArtifactType) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Whether it takes files from outside the store.
    #[must_use]
    pub fn takes_files(&self) -> bool {
        self.files
    }
}

/// An output port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The name in references: `stage.name`. The first output is also what `stage` alone refers to.
    pub name: String,
    /// The type of the artifact.
    pub kind: ArtifactType,
    /// Whether people open it: then its files are copied to the results folder.
    pub for_people: bool,
    /// One line for people.
    pub about: String,
}

impl Output {
    /// An output that other stages use.
    #[must_use]
    pub fn data(name: &str, kind: ArtifactType, about: &str) -> Self {
        Self { name: name.to_owned(), kind, for_people: false, about: about.to_owned() }
    }

    /// An output that people open too.
    #[must_use]
    pub fn for_people(name: &str, kind: ArtifactType, about: &str) -> Self {
        Self { name: name.to_owned(), kind, for_people: true, about: about.to_owned() }
    }
}

/// What is known of an artifact before anything runs. `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Image size in voxels: Z, Y, X (Z = 1 in 2D).
    pub size: Option<[usize; 3]>,
    /// 2 or 3.
    pub dimensions: Option<usize>,
    /// Intensity channels.
    pub channels: Option<Vec<String>>,
    /// For a model: `reference` or `target`.
    pub model: Option<String>,
}

/// Facts of the artifacts at each connected input port.
pub type InputFacts = BTreeMap<String, Vec<Facts>>;
/// Facts of the artifact at each output port; a port that is left out: nothing is known.
pub type OutputFacts = BTreeMap<String, Facts>;

/// A file outside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInput {
    /// The file's name without folders; part of what the stage may use (to name fields, say).
    pub name: String,
    /// Where it lies now. Never part of an identity.
    pub path: PathBuf,
    /// The digest of the bytes that the plan counted on.
    pub digest: Digest,
}

impl FileInput {
    /// The file's bytes (of a folder that is one image: those of an archive of it), checked against the digest that the plan counted on.
    ///
    /// # Errors
    /// [`StageError::BadInput`] when it cannot be read or has changed since.
    pub fn read(&self) -> Result<Vec<u8>, StageError> {
        let read = || {
            if self.path.is_dir() {
                return archive(&self.path);
            }
            let bytes = std::fs::read(&self.path)?;
            let digest = Digest::of(&bytes);
            Ok((bytes, digest))
        };
        let (bytes, digest) =
            read().map_err(|error| StageError::bad_input(format!("cannot read `{}`: {error}", self.path.display())))?;
        if digest != self.digest {
            return Err(StageError::bad_input(format!("`{}` changed while the pipeline ran", self.path.display()))
                .with_help("run again: the changed file is then planned for"));
        }
        Ok(bytes)
    }
}

/// What a stage is given.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Artifacts by port, in order.
    pub artifacts: BTreeMap<String, Vec<Artifact>>,
    /// Files by port, in order.
    pub files: BTreeMap<String, Vec<FileInput>>,
}

impl Inputs {
    /// The one artifact at `port`.
    ///
    /// # Panics
    /// When there is none: the port was not declared with [`Arity::One`].
    #[must_use]
    pub fn one(&self, port: &str) -> &Artifact {
        self.optional(port).unwrap_or_else(|| panic!("port `{port}` is not connected"))
    }

    /// The artifact at `port`, if any.
    #[must_use]
    pub fn optional(&self, port: &str) -> Option<&Artifact> {
        self.artifacts.get(port)?.first()
    }

    /// All artifacts at `port`.
    #[must_use]
    pub fn many(&self, port: &str) -> &[Artifact] {
        self.artifacts.get(port).map_or(&[], Vec::as_slice)
    }

    /// All files at `port`.
    #[must_use]
    pub fn files(&self, port: &str) -> &[FileInput] {
        self.files.get(port).map_or(&[], Vec::as_slice)
    }
}

/// What a stage gives: an artifact for every declared output port.
pub type Outputs = BTreeMap<String, Artifact>;
