//! What can go wrong with planning.

use std::path::PathBuf;

use crate::store::StoreError;

/// An input file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableFile {
    /// The instance that takes it.
    pub instance: String,
    /// The file.
    pub path: PathBuf,
    /// The operating system's reason.
    pub reason: String,
}

/// A plan cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Input files cannot be read: all of them are listed (exit code 3).
    #[error("cannot read {} of the pipeline:{}", plural(.0.len()), list(.0))]
    Files(Vec<UnreadableFile>),
    /// The store cannot be read (exit code 4).
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn plural(count: usize) -> String {
    if count == 1 { "an input file".to_owned() } else { format!("{count} input files") }
}

fn list(files: &[UnreadableFile]) -> String {
    let line =
        |file: &UnreadableFile| format!("\n  `{}` for `{}`: {}", file.path.display(), file.instance, file.reason);
    files.iter().map(line).collect()
}
