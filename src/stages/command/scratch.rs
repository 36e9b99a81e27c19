//! The folder that a program runs in, and what it wrote there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::stage::StageError;

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> StageError {
    StageError::failed(format!("cannot write `{}`: {error}", path.display()))
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
        fs::create_dir_all(&path).map_err(|error| unwritable(&path, &error))?;
        Ok(path)
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, StageError> {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| unwritable(parent, &error))?;
        }
        fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))?;
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
            files.push(relative);
        } else {
            return Err(bad(&relative, "which is neither a file nor a folder"));
        }
    }
    Ok(())
}
