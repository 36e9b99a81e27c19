//! Folders that are one image (OME-Zarr): named and read like a file.
//!
//! The identity of such a folder is the list of its files, names and digests; read it is as an archive of them, so that whatever takes
//! the bytes of a file takes those of a folder.

use std::{
    io::{self, Cursor, Write},
    path::{Path, PathBuf},
};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::store::Digest;

/// Files by whose presence a folder is known as a Zarr hierarchy.
const ZARR: [&str; 4] = ["zarr.json", ".zattrs", ".zgroup", ".zarray"];

/// Whether a folder is one image.
#[must_use]
pub fn is_image_folder(path: &Path) -> bool {
    path.is_dir() && ZARR.iter().any(|name| path.join(name).is_file())
}

/// The files of a folder by their names in it (with `/`), sorted.
///
/// # Errors
/// The operating system's; [`io::ErrorKind::InvalidData`] for a name that is not Unicode.
pub fn folder_files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let (mut files, mut folders) = (Vec::new(), vec![(String::new(), folder.to_owned())]);
    while let Some((prefix, folder)) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a name that is not Unicode"))?;
            let name = format!("{prefix}{name}");
            if path.is_dir() {
                folders.push((format!("{name}/"), path));
            } else {
                files.push((name, path));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The digest of a folder whose files have these names and digests, in this order.
#[must_use]
pub fn folder_digest(files: &[(String, Digest)]) -> Digest {
    let lines: String = files.iter().map(|(name, digest)| format!("{digest} {name}\n")).collect();
    Digest::of(format!("statcell-folder 1\n{lines}").as_bytes())
}

/// The folder as an archive, nothing packed, and its digest.
pub(super) fn archive(folder: &Path) -> io::Result<(Vec<u8>, Digest)> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let mut digests = Vec::new();
    for (name, path) in folder_files(folder)? {
        let bytes = std::fs::read(path)?;
        digests.push((name.clone(), Digest::of(&bytes)));
        zip.start_file(name, options)?;
        zip.write_all(&bytes)?;
    }
    Ok((zip.finish()?.into_inner(), folder_digest(&digests)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_as_an_archive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zarr");
        assert!(!is_image_folder(&path));
        std::fs::create_dir_all(path.join("0/c")).unwrap();
        std::fs::write(path.join("zarr.json"), b"{}").unwrap();
        std::fs::write(path.join("0/c/0"), b"12345").unwrap();
        assert!(is_image_folder(&path) && !is_image_folder(&path.join("0")));
        let names: Vec<String> = folder_files(&path).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["0/c/0", "zarr.json"]);
        let (bytes, digest) = archive(&path).unwrap();
        assert_eq!(archive(&path).unwrap(), (bytes.clone(), digest), "stable bytes");
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        assert_eq!(io::read_to_string(zip.by_name("0/c/0").unwrap()).unwrap(), "12345");
        let known = [("0/c/0".to_owned(), Digest::of(b"12345")), ("zarr.json".to_owned(), Digest::of(b"{}"))];
        assert_eq!(folder_digest(&known), digest);
    }
}
