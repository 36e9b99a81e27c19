//! File access that names the path in every error.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use tempfile::NamedTempFile;

use super::StoreError;

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// What makes an I/O error a [`StoreError`] that names the path.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// `None` where the error says that there is nothing at the path.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file's bytes; `None`: there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    if_there(fs::read(path)).map_err(failed("read", path))
}

/// What the file system knows of a path; `None`: nothing is there.
pub(crate) fn metadata(path: &Path) -> Result<Option<Metadata>> {
    if_there(fs::metadata(path)).map_err(failed("read", path))
}

/// Makes a folder and those above it.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(failed("create the folder", path))
}

/// Removes a file; `false`: there was none.
pub(crate) fn remove_file(path: &Path) -> Result<bool> {
    Ok(if_there(fs::remove_file(path)).map_err(failed("remove", path))?.is_some())
}

/// Removes a folder and what is in it; `false`: there was none.
pub(crate) fn remove_folder(path: &Path) -> Result<bool> {
    Ok(if_there(fs::remove_dir_all(path)).map_err(failed("remove", path))?.is_some())
}

/// Renames; `false`: there was nothing of the old name. What had the new name is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<bool> {
    Ok(if_there(fs::rename(from, to)).map_err(failed("move", from))?.is_some())
}

/// Names in a folder, sorted; none when there is no such folder. Names that are not UTF-8 are nobody's here and are left out.
pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
    let Some(entries) = if_there(fs::read_dir(path)).map_err(failed("list", path))? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("list", path))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a file for reading; `None`: there is none.
pub(crate) fn open(path: &Path) -> Result<Option<File>> {
    if_there(File::open(path)).map_err(failed("read", path))
}

/// Who may write to a published file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nobody: contents that never change.
    ReadOnly,
    /// The owner.
    Writable,
}

/// Writes `bytes` into a new file of no name that matters in `folder`. It is gone again unless it is published.
pub(crate) fn stage(folder: &Path, bytes: &[u8], mode: Mode) -> Result<NamedTempFile> {
    let make = || tempfile::Builder::new().prefix(".new-").tempfile_in(folder);
    let mut file = match make() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_folder(folder)?;
            make()
        }
        other => other,
    }
    .map_err(failed("create a file in", folder))?;
    let named = |error: io::Error| StoreError::Io { action: "write", path: file.path().to_owned(), source: error };
    file.as_file().write_all(bytes).map_err(named)?;
    set_mode(file.as_file_mut(), mode).map_err(failed("set the mode of a file in", folder))?;
    Ok(file)
}

#[cfg(unix)]
fn set_mode(file: &mut File, mode: Mode) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let bits = if mode == Mode::ReadOnly { 0o444 } else { 0o644 };
    file.set_permissions(fs::Permissions::from_mode(bits))
}

#[cfg(not(unix))]
fn set_mode(_: &mut File, _: Mode) -> io::Result<()> {
    Ok(())
}

/// Gives a staged file its name unless something has that name already: then `false`, and the staged file is gone.
pub(crate) fn publish_new(staged: NamedTempFile, path: &Path) -> Result<bool> {
    let result = match staged.persist_noclobber(path) {
        Err(error) if error.error.kind() == ErrorKind::NotFound => {
            // The folder is not there, or was not a moment ago: others may be making it too.
            create_folder(path.parent().unwrap_or(path))?;
            error.file.persist_noclobber(path)
        }
        other => other,
    };
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("write", path)(error.error)),
    }
}

/// Gives a staged file its name, in the place of what had it.
pub(crate) fn publish(staged: NamedTempFile, path: &Path) -> Result<()> {
    let result = match staged.persist(path) {
        Err(error) if error.error.kind() == ErrorKind::NotFound => {
            create_folder(path.parent().unwrap_or(path))?;
            error.file.persist(path)
        }
        other => other,
    };
    result.map(drop).map_err(|error| failed("write", path)(error.error))
}

/// Says that the file was used now. Not everybody who may read a file may say so: `false` then.
pub(crate) fn touch(file: &File) -> bool {
    file.set_modified(SystemTime::now()).is_ok()
}

/// Says that the file at the path was used now, if it can be said.
pub(crate) fn touch_path(path: &Path) {
    if let Ok(file) = File::open(path) {
        touch(&file);
    }
}

/// Whether the file holds exactly these bytes.
pub(crate) fn holds(file: &mut File, bytes: &[u8]) -> io::Result<bool> {
    if file.metadata()?.len() != bytes.len() as u64 {
        return Ok(false);
    }
    let mut buffer = vec![0; bytes.len().min(1 << 18)];
    for chunk in bytes.chunks(1 << 18) {
        let part = &mut buffer[..chunk.len()];
        match file.read_exact(part) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if part != chunk {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes sure that a file or folder outlives a loss of power.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let result = File::open(path).and_then(|file| file.sync_all());
    match result {
        // Some file systems cannot sync a folder: then there is nothing more to be done.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other.map_err(failed("sync", path)),
    }
}

/// Makes a file with these bytes; `false`: there is one already.
pub(crate) fn create_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(bytes).map_err(failed("write", path))?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("create", path)(error)),
    }
}

/// When the file was last written or touched, as the time since the epoch.
pub(crate) fn modified(metadata: &Metadata) -> Duration {
    since_epoch(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// A time as the time since the epoch; zero before it.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
