//! Leases: who is working on what. They only save double work; nothing is correct because one was held.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Digest, Store, actions::host, disk::now, fs};

/// A lease is renewed this often …
const BEAT: Duration = Duration::from_secs(5);
/// … and is void when it was not renewed for this long.
const STALE: Duration = Duration::from_secs(30);

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host.
    pub host: String,
    /// The process on that host.
    pub process: u32,
    /// Since when, in seconds since 1970.
    pub since_unix_seconds: u64,
}

/// A lease, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// The lease's file and what keeps it fresh; `None`: it could not be written, and the work goes on without.
    held: Option<(PathBuf, Sender<()>, JoinHandle<()>)>,
}

/// What became of asking for a lease.
#[derive(Debug)]
pub enum Leasing {
    /// It is ours.
    Held(Lease),
    /// Somebody else has it, alive as far as can be told.
    Busy(Holder),
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((path, stop, beat)) = self.held.take() {
            drop(stop);
            // The beat must have ended: it must not touch what another process puts there next.
            let _ = beat.join();
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Store {
    /// Asks for the lease of a key. A lease of a process that is gone, or that gave no sign for half a minute, is void.
    #[must_use]
    pub fn lease(&self, key: &Digest) -> Leasing {
        let folder = self.root().join("leases");
        let path = folder.join(key.to_string());
        let ours = Holder { host: host(), process: std::process::id(), since_unix_seconds: now().as_secs() };
        let bytes = serde_json::to_vec(&ours).unwrap_or_default();
        if fs::create_folder(&folder).is_err() {
            return Leasing::Held(Lease { held: None });
        }
        for _ in 0..3 {
            match fs::create_new(&path, &bytes) {
                Ok(true) => return Leasing::Held(Lease { held: Some(beat(path)) }),
                Ok(false) => {}
                // A lease is not worth an error: the work itself will tell if the store cannot be written.
                Err(_) => break,
            }
            match self.holder(&path) {
                Some(holder) => return Leasing::Busy(holder),
                None => {
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Leasing::Held(Lease { held: None })
    }

    /// Who holds the lease in this file, if it is not void.
    fn holder(&self, path: &Path) -> Option<Holder> {
        let age = self.age(path)?;
        // A lease is made and then written: one without contents may be a moment old.
        let holder: Holder = match serde_json::from_slice(&std::fs::read(path).ok()?) {
            Ok(holder) => holder,
            Err(_) if age < Duration::from_secs(2) => {
                return Some(Holder { host: "unknown".to_owned(), process: 0, since_unix_seconds: now().as_secs() });
            }
            Err(_) => return None,
        };
        let gone = holder.host == host() && is_gone(holder.process);
        (!gone && age < STALE).then_some(holder)
    }

    /// How long ago a file was touched, by the clock of the file system that the store is on, which may be another host's.
    fn age(&self, path: &Path) -> Option<Duration> {
        fs::create_folder(&self.tmp()).ok()?;
        let probe = tempfile::NamedTempFile::new_in(self.tmp()).ok()?;
        let now = fs::modified(&probe.as_file().metadata().ok()?);
        let then = fs::modified(&std::fs::metadata(path).ok()?);
        Some(now.saturating_sub(then))
    }

    /// Since when the oldest lease is held that is not void.
    pub(super) fn oldest_lease(&self) -> fs::Result<Option<Duration>> {
        let folder = self.root().join("leases");
        let holders = fs::list(&folder)?.into_iter().filter_map(|name| self.holder(&folder.join(name)));
        Ok(holders.map(|holder| Duration::from_secs(holder.since_unix_seconds)).min())
    }

    /// Removes void leases.
    pub(super) fn clear_leases(&self) -> fs::Result<()> {
        let folder = self.root().join("leases");
        for path in fs::list(&folder)?.into_iter().map(|name| folder.join(name)) {
            if self.holder(&path).is_none() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether a process of this host has ended, as far as can be told (only where there is a `/proc`).
fn is_gone(process: u32) -> bool {
    if !Path::new("/proc/self/stat").exists() {
        return false;
    }
    // `number (name) state …`; the name may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

/// Keeps the lease's file fresh until the sender is dropped.
fn beat(path: PathBuf) -> (PathBuf, Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel::<()>();
    let file = path.clone();
    let thread = std::thread::spawn(move || {
        while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            fs::touch_path(&file);
        }
    });
    (path, stop, thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_a_lease_and_the_dead_hold_none() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(folder.path()).unwrap(), Store::open(folder.path()).unwrap());
        let key = Digest::of(b"key");
        let Leasing::Held(lease) = one.lease(&key) else { panic!("it is free") };
        assert!(matches!(two.lease(&key), Leasing::Busy(holder) if holder.process == std::process::id()));
        assert!(two.oldest_lease().unwrap().is_some());
        drop(lease);
        assert!(two.oldest_lease().unwrap().is_none());
        let path = folder.path().join("leases").join(key.to_string());
        // A process number that no Linux gives.
        let dead = Holder { host: host(), process: u32::MAX, since_unix_seconds: 0 };
        std::fs::write(&path, serde_json::to_vec(&dead).unwrap()).unwrap();
        if Path::new("/proc/self").exists() {
            assert!(matches!(two.lease(&key), Leasing::Held(_)));
        }
        // A holder on another host that gave no sign for long.
        let silent = Holder { host: "elsewhere".to_owned(), process: 1, since_unix_seconds: 0 };
        std::fs::write(&path, serde_json::to_vec(&silent).unwrap()).unwrap();
        assert!(matches!(two.lease(&key), Leasing::Busy(holder) if holder == silent));
        let file = std::fs::File::open(&path).unwrap();
        file.set_modified(std::time::SystemTime::now() - STALE * 2).unwrap();
        assert!(matches!(two.lease(&key), Leasing::Held(_)));
    }
}
