//! The folder that a program runs in, and what it wrote there.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    artifact::ArtifactError,
    stage::StageError,
    store::{StoreError, Tree},
};

/// The folder of a program is the store's: where it cannot be written, the store cannot.
pub(super) fn unwritable(path: &Path, source: io::Error) -> StageError {
    StoreError::Io { action: "write", path: path.to_owned(), source }.into()
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> StageError {
    StageError::failed(format!("cannot read `{}`, which the program wrote: {error}", path.display()))
}

/// The folder that the program runs in.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(folder: PathBuf) -> Result<Self, StageError> {
        let scratch = Self(folder);
        scratch.folder("outputs")?;
        Ok(scratch)
    }

    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, StageError> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(|error| unwritable(&path, error))?;
        Ok(path)
    }

    /// Makes a file and lets `write` fill it; the inner error of that is the file's.
    pub(super) fn fill(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<io::Result<()>, ArtifactError>,
    ) -> Result<PathBuf, StageError> {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| unwritable(parent, error))?;
        }
        let mut file = File::create(&path).map_err(|error| unwritable(&path, error))?;
        write(&mut file)?.map_err(|error| unwritable(&path, error))?;
        Ok(path)
    }
}

/// The files below `folder`, by their path relative to it.
pub(super) fn collect(folder: &Path, prefix: &str, output: &str, files: &mut Vec<String>) -> Result<(), StageError> {
    let bad = |name: &str, what: &str| StageError::failed(format!("output `{output}` holds `{name}`, {what}"));
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(bad(&name.to_string_lossy(), "whose name is not Unicode"));
        };
        let relative = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), &error))?;
        if kind.is_dir() {
            collect(&entry.path(), &format!("{relative}/"), output, files)?;
        } else if kind.is_file() {
            Tree::check_name(&relative).map_err(|error| {
                StageError::failed(format!("output `{output}`: {error}")).with_help("let the program use another name")
            })?;
            files.push(relative);
        } else {
            return Err(bad(&relative, "which is neither a file nor a folder"));
        }
    }
    Ok(())
}
