//! Files outside the store: paths and patterns, relative to the pipeline's own file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::error::nearest;
use crate::stage::is_image_folder;

/// Why a path or pattern gives no files: the message and advice.
pub(super) type Complaint = (String, Option<String>);

/// A file's name without folders, and where it lies.
pub(super) type Found = (String, PathBuf);

/// The files that `text` stands for, sorted where it is a pattern.
pub(super) fn find(folder: &Path, text: &str) -> Result<Vec<Found>, Complaint> {
    if text.is_empty() {
        return Err(("a path is empty".to_owned(), None));
    }
    if !text.contains(['*', '?', '[']) || folder.join(text).exists() {
        return literal(&folder.join(text), text).map(|found| vec![found]);
    }
    // Only the pattern's own characters are special, not those of the folder that the pipeline lies in.
    let base = glob::Pattern::escape(&folder.to_string_lossy());
    let pattern = if Path::new(text).is_absolute() || folder.as_os_str().is_empty() {
        text.to_owned()
    } else {
        format!("{base}/{text}")
    };
    let paths = glob::glob(&pattern).map_err(|error| (format!("`{text}` is no pattern: {}", error.msg), None))?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for path in paths {
        let path = path.map_err(|error| (format!("cannot look for `{text}`: {error}"), None))?;
        match look(&path) {
            Look::File => found.push((name(&path, text)?, path)),
            Look::Folder => {}
            Look::Missing(why, advice) => missing.push((path, why, advice)),
        }
    }
    if let [(first, why, advice), more @ ..] = missing.as_slice() {
        let first = first.strip_prefix(folder).unwrap_or(first).display();
        let more = if more.is_empty() { String::new() } else { format!("; and {} more like it", more.len()) };
        return Err((format!("`{first}` {why}{more}"), advice.clone()));
    }
    if found.is_empty() {
        let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let help = format!("the pattern is relative to the pipeline's folder, `{}`", place.display());
        return Err((format!("no file matches `{text}`"), Some(help)));
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

fn name(path: &Path, text: &str) -> Result<String, Complaint> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| (format!("a file of `{text}` has a name that is not Unicode"), None))
}

/// What lies at a path.
enum Look {
    File,
    Folder,
    /// Nothing that could be read: why, and what to do.
    Missing(String, Option<String>),
}

/// Pointers are small.
const LARGEST_POINTER: u64 = 1024;

fn look(path: &Path) -> Look {
    match fs::metadata(path) {
        // A folder that is one image (OME-Zarr) is named like a file.
        Ok(found) if found.is_dir() => {
            if is_image_folder(path) {
                Look::File
            } else {
                Look::Folder
            }
        }
        Ok(found) if found.is_file() => {
            let pointer = (found.len() <= LARGEST_POINTER).then(|| pointer(path)).flatten();
            pointer.map_or(Look::File, |(what, advice)| Look::Missing(what.to_owned(), Some(advice)))
        }
        Ok(_) => Look::Missing("is neither a file nor a folder".to_owned(), None),
        Err(error) => match fs::read_link(path) {
            Ok(target) => {
                let shown = target.display();
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => format!("is a link to `{shown}`, which is not there"),
                    _ => format!("is a link to `{shown}`, which cannot be followed: {error}"),
                };
                Look::Missing(why, Some(fetch(&target, path)))
            }
            Err(_) => Look::Missing(format!("cannot be read: {error}"), None),
        },
    }
}

/// How to get what a link stands for, where a tool for large files made it.
fn fetch(target: &Path, path: &Path) -> String {
    let (target, path) = (target.to_string_lossy(), path.display());
    if target.contains("annex/objects") || target.contains(".git/annex") {
        format!("git-annex has not fetched it: `git annex get {path}` (or `datalad get {path}`)")
    } else if target.contains(".dvc/cache") || target.contains("/files/md5/") {
        format!("DVC has not fetched it: `dvc pull {path}`")
    } else {
        "if a tool for large files (git-annex, DVC) made the link, fetch the file with it; else mend or remove it"
            .to_owned()
    }
}

/// Whether a small file only stands for a large one that was not fetched: what it is, and what to do.
fn pointer(path: &Path) -> Option<(&'static str, String)> {
    let bytes = fs::read(path).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let shown = path.display();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        return Some((
            "is a pointer of Git LFS, not the file itself",
            format!("fetch it: `git lfs pull --include {shown}`"),
        ));
    }
    if text.starts_with("/annex/objects/") {
        return Some(("is a pointer of git-annex, not the file itself", format!("fetch it: `git annex get {shown}`")));
    }
    let of_dvc =
        text.lines().next()? == "outs:" && text.contains("md5:") && path.extension().is_none_or(|e| e != "dvc");
    of_dvc.then(|| ("is a pointer of DVC, not the file itself", format!("fetch it: `dvc pull {shown}`")))
}

fn literal(path: &Path, text: &str) -> Result<Found, Complaint> {
    if path.is_dir() && !is_image_folder(path) {
        let help = format!("name the files in it: `{}/*.tif`", text.trim_end_matches('/'));
        return Err((format!("`{text}` is a folder"), Some(help)));
    }
    match look(path) {
        Look::File => return Ok((name(path, text)?, path.to_owned())),
        Look::Missing(why, advice) if fs::symlink_metadata(path).is_ok() => {
            return Err((format!("`{text}` {why}"), advice));
        }
        _ => {}
    }
    let tracked = PathBuf::from(format!("{}.dvc", path.display()));
    if tracked.is_file() {
        return Err((
            format!("`{text}` was not fetched: only `{text}.dvc` is there"),
            Some(format!("run `dvc pull {text}.dvc`")),
        ));
    }
    // A bare name has an empty parent, which is the current folder.
    let folder = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let siblings = folder.and_then(|folder| fs::read_dir(folder).ok()).map(|entries| {
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str().map(str::to_owned)).take(1000).collect();
        names.sort_unstable();
        names
    });
    let near = siblings.as_ref().zip(path.file_name().and_then(|name| name.to_str()));
    let near = near.and_then(|(names, name)| nearest(name, names.iter().map(String::as_str)));
    let help = match near {
        Some(near) => format!("did you mean `{}`?", Path::new(text).with_file_name(near).display()),
        None if siblings.is_none() => {
            "its folder does not exist; a path is relative to the pipeline's own file".to_owned()
        }
        None => "a path is relative to the pipeline's own file".to_owned(),
    };
    Err((format!("there is no file `{text}`"), Some(help)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_patterns_are_found_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("odd [name]");
        fs::create_dir_all(folder.join("images/more")).unwrap();
        for name in ["b.tif", "a.tif", "notes.txt", "more/c.tif", "[1].tif"] {
            fs::write(folder.join("images").join(name), b"").unwrap();
        }
        let names =
            |text: &str| find(&folder, text).map(|found| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert_eq!(names("images/a.tif").unwrap(), ["a.tif"]);
        assert_eq!(names("images/?.tif").unwrap(), ["a.tif", "b.tif"]);
        assert_eq!(names("images/**/*.tif").unwrap(), ["[1].tif", "a.tif", "b.tif", "c.tif"]);
        assert_eq!(names("images/[1].tif").unwrap(), ["[1].tif"]);
        assert_eq!(names("images/*.czi").unwrap_err().0, "no file matches `images/*.czi`");
        assert_eq!(names("images/note.txt").unwrap_err().1.unwrap(), "did you mean `images/notes.txt`?");
        assert!(names("images").unwrap_err().0.contains("is a folder"));
        assert!(names("").is_err());
    }

    #[test]
    fn what_was_not_fetched_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        put("a.tif", "image");
        link("a.tif", "good.tif");
        assert_eq!(find(folder, "*.tif").unwrap().len(), 2);
        link("../gone/2", "b.tif");
        let (message, _) = find(folder, "*.tif").unwrap_err();
        assert_eq!(message, "`b.tif` is a link to `../gone/2`, which is not there");
        assert_eq!(find(folder, "b.tif").unwrap_err().0, message);
        link(".git/annex/objects/xx/SHA256E-s1--00.tif", "c.tif");
        assert!(find(folder, "*.tif").unwrap_err().0.ends_with("; and 1 more like it"));
        assert!(find(folder, "c.tif").unwrap_err().1.unwrap().contains("git annex get"));
        link("loop.tif", "loop.tif");
        assert!(find(folder, "loop.tif").unwrap_err().0.contains("cannot be followed"));
        for (name, text, tool) in [
            ("lfs.tif", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "git lfs pull"),
            ("annex.tif", "/annex/objects/SHA256E-s1--00.tif\n", "git annex get"),
            ("dvc.tif", "outs:\n- md5: 00\n  path: dvc.tif\n", "dvc pull"),
        ] {
            put(name, text);
            let (message, advice) = find(folder, name).unwrap_err();
            assert!(message.contains("is a pointer of"), "{message}");
            assert!(advice.unwrap().contains(tool), "{name}");
            assert!(find(folder, &format!("{}*", &name[..3])).is_err(), "{name}: in a pattern");
        }
        put("later.tif.dvc", "outs:\n- md5: 00\n  path: later.tif\n");
        assert!(find(folder, "later.tif").unwrap_err().1.unwrap().contains("dvc pull later.tif.dvc"));
        assert!(find(folder, "later.tif.dvc").is_ok());
    }
}
