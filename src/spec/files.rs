//! Files outside the store: paths and patterns, relative to the pipeline's own file.

use std::path::{Path, PathBuf};

use super::error::nearest;

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
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|error| (format!("cannot look for `{text}`: {error}"), None))?;
        if path.is_file() {
            found.push((name(&path, text)?, path));
        }
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

fn literal(path: &Path, text: &str) -> Result<Found, Complaint> {
    if path.is_dir() {
        let help = format!("name the files in it: `{}/*.tif`", text.trim_end_matches('/'));
        return Err((format!("`{text}` is a folder"), Some(help)));
    }
    if path.is_file() {
        return Ok((name(path, text)?, path.to_owned()));
    }
    // A bare name has an empty parent, which is the current folder.
    let folder = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let siblings = folder.and_then(|folder| std::fs::read_dir(folder).ok()).map(|entries| {
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
        std::fs::create_dir_all(folder.join("images/more")).unwrap();
        for name in ["b.tif", "a.tif", "notes.txt", "more/c.tif", "[1].tif"] {
            std::fs::write(folder.join("images").join(name), b"").unwrap();
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
}
