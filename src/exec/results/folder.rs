//! Files beneath a folder that other people write to as well.
//!
//! Every step goes from one open folder to the next and follows no link, so nothing outside the folder is ever reached, not even
//! when somebody puts a link there in the same moment. A file is whole or not there, and has the mode that the umask gives.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

use crate::store::Digest;

/// What files are called for the moment in which they replace another; also where the file system has no files without a name.
const TEMPORARY: &str = ".statcell-new-";

/// A temporary name that is older belongs to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(60);

/// A folder, held open.
pub(super) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

/// What tells whether a file was written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) modified_ns: u64,
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        // The widths of these fields differ from platform to platform.
        let modified = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Self { size: stat.st_size as u64, modified_ns: modified as u64 }
    }
}

/// What is at a path beneath the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or not even its folder.
    Nothing,
    /// A file.
    File(Stamp),
    /// Something that is no file, there or where a folder above should be.
    InTheWay(Obstacle),
}

/// Something that is where a file or folder should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// Its path beneath the folder.
    pub(super) path: String,
    /// What it is: `a link`.
    pub(super) what: &'static str,
}

/// The folder that a path lies in.
enum Parent<'p> {
    At(OwnedFd, &'p str),
    Nothing,
    InTheWay(Obstacle),
}

/// A new file that has no name yet; it is gone unless it is published.
pub(super) struct NewFile<'f> {
    folder: &'f Folder,
    file: File,
    /// Where the file system has no files without a name.
    temporary: Option<String>,
}

impl Write for NewFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.folder.handle, name.as_str(), AtFlags::empty());
        }
    }
}

/// Whether a path stays beneath a folder: names with `/` between them, none of them `.` or `..`.
pub(super) fn is_beneath(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn what(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a link",
        _ => "neither a file nor a folder",
    }
}

impl Folder {
    /// Opens the folder at this path, which must not be a link itself.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { handle: rustix::fs::open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// The path that it was opened at.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn parent<'p>(&self, path: &'p str, make: bool) -> io::Result<Parent<'p>> {
        if !is_beneath(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no path beneath the results folder"));
        }
        let mut at = self.handle.try_clone()?;
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut walked = 0;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut opened = rustix::fs::openat(&at, part, flags, Mode::empty());
            if matches!(opened, Err(Errno::NOENT)) {
                if !make {
                    return Ok(Parent::Nothing);
                }
                match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                opened = rustix::fs::openat(&at, part, flags, Mode::empty());
            }
            walked += part.len();
            at = match opened {
                Ok(next) => next,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = rustix::fs::statat(&at, part, AtFlags::SYMLINK_NOFOLLOW)?;
                    let what = what(FileType::from_raw_mode(stat.st_mode));
                    return Ok(Parent::InTheWay(Obstacle { path: path[..walked].to_owned(), what }));
                }
                Err(error) => return Err(error.into()),
            };
            walked += 1;
        }
        Ok(Parent::At(at, name))
    }

    /// What is at this path.
    pub(super) fn look(&self, path: &str) -> io::Result<Found> {
        let (at, name) = match self.parent(path, false)? {
            Parent::At(at, name) => (at, name),
            Parent::Nothing => return Ok(Found::Nothing),
            Parent::InTheWay(obstacle) => return Ok(Found::InTheWay(obstacle)),
        };
        let stat = match rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Found::File(Stamp::from(&stat)),
            other => Found::InTheWay(Obstacle { path: path.to_owned(), what: what(other) }),
        })
    }

    /// Opens the file at this path for reading; `None`: there is no file.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<File>> {
        let Parent::At(at, name) = self.parent(path, false)? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&at, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file)).filter(|file| file.metadata().is_ok_and(|found| found.is_file()))),
            Err(Errno::NOENT | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The digest of the file at this path; `None`: there is no file.
    pub(super) fn digest(&self, path: &str) -> io::Result<Option<Digest>> {
        self.read(path)?.map(|mut file| Digest::of_reader(&mut file)).transpose()
    }

    /// A new file that has no name yet.
    pub(super) fn create(&self) -> io::Result<NewFile<'_>> {
        let (flags, mode) = (OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
        // A file without a name is gone when the process is killed. It gets its name through /proc.
        #[cfg(target_os = "linux")]
        if Path::new("/proc/self/fd").exists()
            && let Ok(file) = rustix::fs::openat(&self.handle, ".", flags | OFlags::TMPFILE, mode)
        {
            return Ok(NewFile { folder: self, file: file.into(), temporary: None });
        }
        let name = temporary_name();
        let file = rustix::fs::openat(&self.handle, name.as_str(), flags | OFlags::CREATE | OFlags::EXCL, mode)?;
        Ok(NewFile { folder: self, file: file.into(), temporary: Some(name) })
    }

    /// Opens a file for appending; it is made if it is not there.
    pub(super) fn append(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name, flags, Mode::from_raw_mode(0o666))?.into())
    }

    /// Removes the file or link at this path, and folders that this leaves empty. `false`: there was none.
    pub(super) fn remove(&self, path: &str) -> io::Result<bool> {
        let Parent::At(at, name) = self.parent(path, false)? else { return Ok(false) };
        match rustix::fs::unlinkat(&at, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let mut folder = path;
        while let Some((above, _)) = folder.rsplit_once('/') {
            let Ok(Parent::At(at, name)) = self.parent(above, false) else { break };
            if rustix::fs::unlinkat(&at, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            folder = above;
        }
        Ok(true)
    }

    /// Removes what killed processes left under a temporary name.
    pub(super) fn clean(&self) {
        let Ok(entries) = Dir::read_from(&self.handle) else { return };
        for name in entries.flatten().map(|entry| entry.file_name().to_owned()) {
            let Some(name) = name.to_str().ok().filter(|name| name.starts_with(TEMPORARY)) else { continue };
            let Ok(stat) = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(Stamp::from(&stat).modified_ns);
            if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = rustix::fs::unlinkat(&self.handle, name, AtFlags::empty());
            }
        }
    }
}

impl NewFile<'_> {
    /// Gives the file its name; folders above are made. `replace`: in the place of a file or link of that name. Else, or when
    /// something else is there, that is told, and the new file is gone.
    pub(super) fn publish(mut self, path: &str, replace: bool) -> io::Result<Found> {
        let (at, name) = match self.folder.parent(path, true)? {
            Parent::At(at, name) => (at, name),
            Parent::Nothing => return Ok(Found::Nothing),
            Parent::InTheWay(obstacle) => return Ok(Found::InTheWay(obstacle)),
        };
        self.file.flush()?;
        let stamp = Stamp::from(&rustix::fs::fstat(&self.file)?);
        let top = self.folder.handle.as_fd();
        let linked = match &self.temporary {
            None => self.link(&at, name),
            Some(temporary) => {
                match rustix::fs::renameat_with(top, temporary.as_str(), &at, name, RenameFlags::NOREPLACE) {
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        rustix::fs::linkat(top, temporary.as_str(), &at, name, AtFlags::empty())
                    }
                    other => other,
                }
            }
        };
        match linked {
            Ok(()) => return Ok(Found::File(stamp)),
            Err(Errno::EXIST) if replace => {}
            Err(Errno::EXIST) => {
                return Ok(Found::InTheWay(Obstacle { path: path.to_owned(), what: "a file" }));
            }
            Err(error) => return Err(error.into()),
        }
        if self.temporary.is_none() {
            let temporary = temporary_name();
            self.link(&top, &temporary)?;
            self.temporary = Some(temporary);
        }
        let temporary = self.temporary.as_deref().unwrap_or_default();
        match rustix::fs::renameat(top, temporary, &at, name) {
            Ok(()) => Ok(Found::File(stamp)),
            Err(Errno::ISDIR) => Ok(Found::InTheWay(Obstacle { path: path.to_owned(), what: "a folder" })),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file without a name this one.
    fn link(&self, at: &impl AsFd, name: &str) -> rustix::io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, own.as_str(), at, name, AtFlags::SYMLINK_FOLLOW)
    }
}

fn temporary_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    format!("{TEMPORARY}{}-{time}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(folder: &Folder, path: &str, text: &str, replace: bool) -> Found {
        let mut file = folder.create().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.publish(path, replace).unwrap()
    }

    #[test]
    fn files_come_and_go_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        assert_eq!(folder.look("a/b").unwrap(), Found::Nothing);
        let Found::File(stamp) = write(&folder, "a/b", "one", false) else { panic!("it is free") };
        assert_eq!(folder.look("a/b").unwrap(), Found::File(stamp));
        assert!(matches!(write(&folder, "a/b", "two", false), Found::InTheWay(_)));
        assert_eq!(std::fs::read_to_string(inside.path().join("a/b")).unwrap(), "one");
        assert!(matches!(write(&folder, "a/b", "two", true), Found::File(_)));
        assert_eq!(folder.digest("a/b").unwrap(), Some(Digest::of(b"two")));
        assert!(matches!(write(&folder, "a", "three", true), Found::InTheWay(found) if found.what == "a folder"));

        std::fs::write(outside.path().join("f"), "theirs").unwrap();
        symlink(outside.path(), inside.path().join("link")).unwrap();
        let blocked = Found::InTheWay(Obstacle { path: "link".to_owned(), what: "a link" });
        assert_eq!(folder.look("link/f").unwrap(), blocked);
        assert_eq!(write(&folder, "link/f", "ours", true), blocked);
        assert!(!folder.remove("link/f").unwrap());
        assert!(folder.look("../f").is_err() && folder.look("/etc/passwd").is_err());
        assert_eq!(std::fs::read_to_string(outside.path().join("f")).unwrap(), "theirs");

        assert!(folder.remove("a/b").unwrap() && !folder.remove("a/b").unwrap());
        assert!(!inside.path().join("a").exists(), "an empty folder goes too");
        assert_eq!(std::fs::read_dir(inside.path()).unwrap().count(), 1, "the link");
    }

    #[test]
    fn the_umask_decides_about_modes() {
        let inside = tempfile::tempdir().unwrap();
        let plain = inside.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        write(&folder, "new", "", false);
        write(&folder, "new", "again", true);
        let mode = |name: &str| std::fs::metadata(inside.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("new"), mode("plain"));
    }

    #[test]
    fn what_was_left_behind_is_removed_once_it_is_old() {
        let inside = tempfile::tempdir().unwrap();
        let (old, young) = (inside.path().join(".statcell-new-1-2-3"), inside.path().join(".statcell-new-1-2-4"));
        for path in [&old, &young] {
            std::fs::write(path, "").unwrap();
        }
        File::options().append(true).open(&old).unwrap().set_modified(SystemTime::now() - ABANDONED * 2).unwrap();
        Folder::open(inside.path()).unwrap().clean();
        assert!(!old.exists() && young.exists());
    }
}
