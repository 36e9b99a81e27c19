//! A folder as a backend: an object is a file.
//!
//! Every file is written under `tmp/` and then given its name in one step. What is in the way of a name, a folder where a file
//! belongs or a file where a folder belongs, is moved to `quarantine/`: nothing in a store can be that.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_NOW};
use tempfile::NamedTempFile;

use super::{
    StoreError,
    backend::{Amount, Backend, Listed, Meta, Object, Put, Staged, Touched, failed, now, since_epoch},
};

type Result<T> = std::result::Result<T, StoreError>;

/// Where files are on their way to a name.
pub(super) const TMP: &str = "tmp";
/// Where damaged files and what was in the way are kept aside.
pub(super) const QUARANTINE: &str = "quarantine";

/// Objects of these folders never change: nobody may write to them.
const CONSTANT: [&str; 2] = ["blobs/", "checkpoints/"];

/// A folder that keeps objects.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
}

/// `None` where the error says that there is nothing at the path.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn metadata(path: &Path) -> Result<Option<Metadata>> {
    if_there(fs::metadata(path)).map_err(failed("read", path.to_owned()))
}

fn used(metadata: &Metadata) -> Duration {
    since_epoch(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Names in a folder, sorted. Names that are not UTF-8 are nobody's here and are left out.
fn names(path: &Path) -> Result<Vec<String>> {
    let listed = || failed("list", path.to_owned());
    let Some(entries) = if_there(fs::read_dir(path)).map_err(listed())? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(listed())?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

impl Disk {
    /// The objects in this folder, which need not be there yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// A file that was made in `folder` and has no name that matters. Its mode is what the umask gives.
    fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(".new-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
    }

    /// Makes the folder that a name lies in.
    fn make_folder_of(&self, path: &Path) -> Result<()> {
        let folder = path.parent().unwrap_or(path);
        if fs::create_dir_all(folder).is_ok() {
            return Ok(());
        }
        // A file may be where a folder belongs.
        let beneath = folder.ancestors().take_while(|above| above.starts_with(&self.root) && *above != self.root);
        for above in beneath.collect::<Vec<_>>().into_iter().rev() {
            if metadata(above)?.is_some_and(|found| !found.is_dir()) {
                self.move_aside(above)?;
            }
        }
        fs::create_dir_all(folder).map_err(failed("create the folder", folder.to_owned()))
    }

    /// Moves something out of the way that cannot be part of a store.
    fn move_aside(&self, path: &Path) -> Result<()> {
        let folder = self.root.join(QUARANTINE);
        fs::create_dir_all(&folder).map_err(failed("create the folder", folder.clone()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = folder.join(format!("in-the-way-{name}-{:x}", now().as_nanos()));
        if_there(fs::rename(path, aside)).map(drop).map_err(failed("move", path.to_owned()))
    }

    fn list_into(&self, folder: &str, listed: &mut Vec<Listed>) -> Result<()> {
        for entry in names(&self.root.join(folder))? {
            let name = format!("{folder}/{entry}");
            match metadata(&self.root.join(&name))? {
                Some(found) if found.is_dir() => self.list_into(&name, listed)?,
                Some(found) => listed.push(Listed { name, meta: Meta { size: found.len(), used: used(&found) } }),
                None => {}
            }
        }
        Ok(())
    }
}

struct StagedFile<'a> {
    disk: &'a Disk,
    file: NamedTempFile,
}

impl Write for StagedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Staged for StagedFile<'_> {
    fn publish(self: Box<Self>, name: &str, put: Put) -> Result<bool> {
        let Self { disk, mut file } = *self;
        let path = disk.root.join(name);
        let prepared = || {
            if CONSTANT.iter().any(|folder| name.starts_with(folder)) {
                let mode = file.as_file().metadata()?.permissions().mode();
                file.as_file().set_permissions(Permissions::from_mode(mode & 0o444))?;
            }
            if put.durable { file.as_file().sync_all() } else { Ok(()) }
        };
        prepared().map_err(failed("write", file.path().to_owned()))?;
        // Each turn takes one obstacle out of the way: there are only a few kinds of them.
        for _ in 0..8 {
            let result = if put.replace { file.persist(&path) } else { file.persist_noclobber(&path) };
            let Err(error) = result else {
                if put.durable {
                    sync(path.parent().unwrap_or(&path))?;
                }
                return Ok(true);
            };
            file = error.file;
            let is_folder = || fs::metadata(&path).is_ok_and(|found| found.is_dir());
            match error.error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => disk.make_folder_of(&path)?,
                ErrorKind::AlreadyExists | ErrorKind::IsADirectory if is_folder() => disk.move_aside(&path)?,
                ErrorKind::AlreadyExists => return Ok(false),
                ErrorKind::IsADirectory => {}
                _ => return Err(failed("write", path)(error.error)),
            }
        }
        Err(failed("write", path)(io::Error::other("something else comes in the way again and again")))
    }
}

impl Backend for Disk {
    fn place(&self, name: &str) -> PathBuf {
        // Joined with nothing, it would end in a slash.
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn get(&self, name: &str) -> Result<Option<Object>> {
        let path = self.root.join(name);
        // Not to wait where something that is no file waits for a writer.
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let Some(file) = if_there(opened).map_err(failed("read", path.clone()))? else { return Ok(None) };
        let found = file.metadata().map_err(failed("read", path))?;
        Ok(found.is_file().then(|| Object { size: found.len(), reader: Box::new(file) }))
    }

    fn head(&self, name: &str) -> Result<Option<Meta>> {
        let found = metadata(&self.root.join(name))?.filter(Metadata::is_file);
        Ok(found.map(|found| Meta { size: found.len(), used: used(&found) }))
    }

    fn stage(&self) -> Result<Box<dyn Staged + '_>> {
        let folder = self.root.join(TMP);
        let file = match Self::temporary(&folder) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.make_folder_of(&folder.join("new"))?;
                Self::temporary(&folder)
            }
            other => other,
        };
        let file = file.map_err(failed("create a file in", folder))?;
        Ok(Box::new(StagedFile { disk: self, file }))
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        self.list_into(folder, &mut listed)?;
        listed.sort_unstable_by(|one, two| one.name.cmp(&two.name));
        Ok(listed)
    }

    fn names(&self, folder: &str) -> Result<Vec<String>> {
        names(&self.root.join(folder))
    }

    fn touch(&self, name: &str) -> Result<Touched> {
        let path = self.root.join(name);
        // The time of the file system, which may be another host's. Whoever may write a file may say so, not only its owner.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        match rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()) {
            Ok(()) => Ok(Touched::Now),
            Err(error) => match io::Error::from(error) {
                error if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Touched::Gone),
                error if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                    Ok(Touched::Refused)
                }
                error => Err(failed("touch", path)(error)),
            },
        }
    }

    fn delete(&self, name: &str) -> Result<bool> {
        let path = self.root.join(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(None),
            other => if_there(other),
        };
        let there = removed.map_err(failed("remove", path.clone()))?.is_some();
        if there && name.starts_with("checkpoints/") {
            // Only an empty folder goes; one that just got a checkpoint stays.
            let _ = fs::remove_dir(path.parent().unwrap_or(&path));
        }
        Ok(there)
    }

    fn delete_unused(&self, name: &str, since: Duration) -> Result<bool> {
        // Moved away first: whoever touched it before is seen, and whoever comes after finds nothing and writes it again.
        let path = self.root.join(name);
        let aside = self.root.join(TMP).join(format!("gc-{}", name.replace('/', "-")));
        self.make_folder_of(&aside)?;
        let move_to = |from: &Path, to: &Path| if_there(fs::rename(from, to)).map_err(failed("move", from.to_owned()));
        if move_to(&path, &aside)?.is_none() {
            return Ok(true);
        }
        if metadata(&aside)?.is_some_and(|found| used(&found) >= since) {
            move_to(&aside, &path)?;
            return Ok(false);
        }
        if_there(fs::remove_file(&aside)).map_err(failed("remove", aside))?;
        Ok(true)
    }

    fn rename(&self, from: &str, to: &str) -> Result<bool> {
        if self.head(from)?.is_none() {
            return Ok(false);
        }
        let (from, to) = (self.root.join(from), self.root.join(to));
        self.make_folder_of(&to)?;
        Ok(if_there(fs::rename(&from, to)).map_err(failed("move", from))?.is_some())
    }

    fn sync(&self, name: &str) -> Result<()> {
        let path = self.root.join(name);
        sync(&path)?;
        sync(path.parent().unwrap_or(&path))
    }

    fn sweep(&self, folder: &str, since: Duration, dry_run: bool) -> Result<Amount> {
        let mut swept = Amount::default();
        for name in names(&self.root.join(folder))? {
            let name = format!("{folder}/{name}");
            let Some(found) = metadata(&self.root.join(&name))? else { continue };
            if used(&found) >= since {
                continue;
            }
            let amount = if found.is_dir() { self.amount(&name)? } else { Amount { files: 1, bytes: found.len() } };
            // What cannot be removed, somebody else's for instance, must not keep the rest from going.
            if dry_run || remove(&self.root.join(&name)).is_ok() {
                swept = swept + amount;
            }
        }
        Ok(swept)
    }

    fn now(&self) -> Duration {
        let probe = || {
            let folder = self.root.join(TMP);
            fs::create_dir_all(&folder).ok()?;
            Some(used(&Self::temporary(&folder).ok()?.as_file().metadata().ok()?))
        };
        probe().unwrap_or_else(now)
    }
}

/// Removes a file, or a folder with everything in it, also where a program took its own right to write away.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return fs::remove_file(path);
    }
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    allow(path)?;
    fs::remove_dir_all(path)
}

/// Gives the owner every right to the folders at and below a path.
fn allow(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            allow(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes sure that a file or folder outlives a loss of power.
fn sync(path: &Path) -> Result<()> {
    match File::open(path).and_then(|file| file.sync_all()) {
        // Some file systems cannot sync a folder: then there is nothing more to be done.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other.map_err(failed("sync", path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &Disk, name: &str, text: &str, replace: bool) -> Result<bool> {
        let mut staged = disk.stage().unwrap();
        staged.write_all(text.as_bytes()).unwrap();
        staged.publish(name, Put { replace, durable: true })
    }

    fn text(disk: &Disk, name: &str) -> Option<String> {
        disk.get(name).unwrap().map(|object| io::read_to_string(object.reader).unwrap())
    }

    #[test]
    fn what_is_in_the_way_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().to_owned());
        for replace in [false, true] {
            let name = format!("actions/{replace}/key.json");
            // A folder, with something in it, where a file belongs.
            fs::create_dir_all(folder.path().join(&name).join("more")).unwrap();
            assert_eq!((text(&disk, &name), disk.head(&name).unwrap()), (None, None));
            assert!(!disk.delete(&name).unwrap());
            assert!(put(&disk, &name, "record", replace).unwrap());
            assert_eq!(text(&disk, &name).as_deref(), Some("record"));
        }
        // A file where a folder belongs: two levels above, and the one for temporary files.
        fs::write(folder.path().join("blobs"), "").unwrap();
        fs::remove_dir_all(folder.path().join(TMP)).unwrap();
        fs::write(folder.path().join(TMP), "").unwrap();
        assert!(put(&disk, "blobs/ab/cd", "blob", false).unwrap());
        assert_eq!(text(&disk, "blobs/ab/cd").as_deref(), Some("blob"));
        assert_eq!(disk.names(QUARANTINE).unwrap().len(), 4);
    }

    #[test]
    fn contents_that_never_change_are_read_only_and_other_modes_are_the_umasks() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().to_owned());
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        put(&disk, "blobs/ab/cd", "blob", false).unwrap();
        put(&disk, "roots/p.json", "record", false).unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("roots/p.json"), mode("plain"));
        assert_eq!(mode("blobs/ab/cd"), mode("plain") & !0o222);
    }

    #[test]
    fn folders_that_a_program_left_read_only_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().to_owned());
        let deep = folder.path().join("tmp/scratch/a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "text").unwrap();
        for path in [&deep, &folder.path().join("tmp/scratch/a"), &folder.path().join("tmp/scratch")] {
            fs::set_permissions(path, Permissions::from_mode(0o500)).unwrap();
        }
        let later = disk.now() + Duration::from_secs(9);
        let expected = Amount { files: 1, bytes: 4 };
        assert_eq!(disk.sweep(TMP, later, true).unwrap(), expected);
        assert_eq!(disk.sweep(TMP, later, false).unwrap(), expected);
        assert!(!folder.path().join("tmp/scratch").exists());
    }
}
