//! Remembered digests of files outside the store, and how they are kept.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{Digest, backend::since_epoch};

/// A file that was changed this shortly before it was read may be changed again without its times telling: file systems count
/// time in steps (of up to two seconds). Its digest is used, but not trusted later.
const RACY: Duration = Duration::from_secs(2);

/// What tells whether a file is the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) modified: u64,
    pub(super) changed: u64,
    pub(super) inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let modified = since_epoch(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)).as_nanos() as u64;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let changed = metadata.ctime() as u64 * 1_000_000_000 + metadata.ctime_nsec() as u64;
            Self { size: metadata.len(), modified, changed, inode: metadata.ino() }
        }
        #[cfg(not(unix))]
        Self { size: metadata.len(), modified, changed: 0, inode: 0 }
    }

    pub(super) fn is_racy(self, recorded: Duration) -> bool {
        Duration::from_nanos(self.modified.max(self.changed)) + RACY >= recorded
    }
}

/// Remembered digests by absolute path.
#[derive(Debug, Default)]
pub(super) struct FileIndex {
    pub(super) known: BTreeMap<PathBuf, (Stamp, Digest)>,
    pub(super) fresh: Vec<PathBuf>,
}

const HEADER: &str = "statcell-files 1";

pub(super) fn encode(known: &BTreeMap<PathBuf, (Stamp, Digest)>) -> Vec<u8> {
    use std::fmt::Write;
    let mut text = format!("{HEADER}\n");
    for (path, (stamp, digest)) in known {
        // A path that is no text, or of more than a line, is read each time.
        let Some(path) = path.to_str().filter(|path| !path.contains('\n')) else { continue };
        let Stamp { size, modified, changed, inode } = stamp;
        writeln!(text, "{digest} {size} {modified} {changed} {inode} {path}").expect("writing to a string");
    }
    let check = Digest::of(text.as_bytes());
    text.insert_str(0, &format!("{check}\n"));
    text.into_bytes()
}

/// What an index says; `None`: it is torn or unknown.
pub(super) fn decode(bytes: &[u8]) -> Option<BTreeMap<PathBuf, (Stamp, Digest)>> {
    let (check, text) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let lines = text.strip_prefix(HEADER)?.lines().skip(1);
    if check.parse::<Digest>().ok()? != Digest::of(text.as_bytes()) {
        return None;
    }
    lines
        .map(|line| {
            let mut parts = line.splitn(6, ' ');
            let digest = parts.next()?.parse().ok()?;
            let mut number = || parts.next()?.parse().ok();
            let (size, modified, changed, inode) = (number()?, number()?, number()?, number()?);
            Some((PathBuf::from(parts.next()?), (Stamp { size, modified, changed, inode }, digest)))
        })
        .collect()
}
