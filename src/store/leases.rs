//! Leases: who is working on what. They only save double work, and tell garbage collection what is in use; nothing is correct because
//! one was held.

use std::{
    io::Read,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Digest, Store, StoreError,
    actions::host,
    backend::{Backend, Put, Touched, now},
};

/// A lease is renewed this often …
const BEAT: Duration = Duration::from_secs(5);
/// … and has expired when it was not renewed for this long.
const EXPIRES: Duration = Duration::from_secs(30);

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host.
    pub host: String,
    /// The process on that host.
    pub process: u32,
    /// Since when, in seconds since 1970, by the store's clock.
    pub since_unix_seconds: u64,
    /// What tells leases of one process from each other.
    #[serde(default)]
    pub number: u64,
}

impl Holder {
    fn this_process(since: Duration) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = (now().as_nanos() as u64).wrapping_add(NUMBER.fetch_add(1, Ordering::Relaxed));
        Self { host: host(), process: std::process::id(), since_unix_seconds: since.as_secs(), number }
    }

    /// Whether it is a process of this host that has ended.
    fn is_gone(&self) -> bool {
        self.host == host() && is_gone(self.process)
    }
}

/// A lease, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// What keeps the lease fresh and gives it back; `None`: it could not be written, and the work goes on without.
    #[expect(dead_code, reason = "it does its work when it is dropped")]
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    backend: Arc<dyn Backend>,
    name: String,
    bytes: Vec<u8>,
    stop: Option<Sender<()>>,
    beat: Option<JoinHandle<()>>,
}

/// What became of asking for a lease.
#[derive(Debug)]
pub enum Leasing {
    /// It is ours.
    Held(Lease),
    /// Somebody else has it, alive as far as can be told.
    Busy(Holder),
}

impl Held {
    /// Keeps the lease fresh until it is dropped.
    fn new(backend: &Arc<dyn Backend>, name: String, bytes: Vec<u8>) -> Self {
        let (stop, stopped) = channel::<()>();
        let (of, beating) = (Arc::clone(backend), name.clone());
        let beat = std::thread::spawn(move || {
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                // A lease that cannot be renewed expires: then the work may be done twice.
                let _ = of.touch(&beating);
            }
        });
        Self { backend: Arc::clone(backend), name, bytes, stop: Some(stop), beat: Some(beat) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The beat must have ended: it must not touch what another process puts there next.
        let _ = self.beat.take().map(JoinHandle::join);
        // Another process has it by now if ours had expired.
        if read(self.backend.as_ref(), &self.name).is_some_and(|bytes| bytes == self.bytes) {
            let _ = self.backend.delete(&self.name);
        }
    }
}

fn read(backend: &dyn Backend, name: &str) -> Option<Vec<u8>> {
    let mut object = backend.get(name).ok()??;
    let mut bytes = Vec::new();
    object.reader.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What is known of a lease.
enum State {
    /// Held, as far as can be told. `None`: the lease does not tell by whom.
    Held(Option<Holder>),
    /// Its holder is gone, or gave no sign for too long.
    Expired,
}

impl Store {
    /// Asks for the lease of a key. A lease of a process that is gone, or that gave no sign for half a minute, has expired.
    #[must_use]
    pub fn lease(&self, key: &Digest) -> Leasing {
        let name = format!("leases/{key}");
        let since = self.backend.now();
        for _ in 0..3 {
            match self.try_lease(&name, since) {
                Ok(Some(lease)) => return Leasing::Held(lease),
                Ok(None) => {}
                // A lease is not worth an error: the work itself will tell if the store cannot be written.
                Err(_) => break,
            }
            match self.state(&name, since) {
                State::Held(holder) => {
                    let unknown =
                        || Holder { host: "unknown".to_owned(), process: 0, since_unix_seconds: 0, number: 0 };
                    return Leasing::Busy(holder.unwrap_or_else(unknown));
                }
                State::Expired => drop(self.backend.delete(&name)),
            }
        }
        Leasing::Held(Lease { held: None })
    }

    /// Says that a process uses the store: as long as it does, garbage collection takes nothing that is younger than this moment.
    #[must_use]
    pub fn announce(&self) -> Lease {
        let since = self.backend.now();
        let name = format!("leases/run-{}-{}", std::process::id(), now().as_nanos());
        self.try_lease(&name, since).ok().flatten().unwrap_or(Lease { held: None })
    }

    fn try_lease(&self, name: &str, since: Duration) -> Result<Option<Lease>, StoreError> {
        let bytes = serde_json::to_vec(&Holder::this_process(since)).unwrap_or_default();
        let ours = self.write(name, &bytes, Put::default())?;
        Ok(ours.then(|| Lease { held: Some(Held::new(&self.backend, name.to_owned(), bytes)) }))
    }

    fn state(&self, name: &str, now: Duration) -> State {
        let Ok(Some(meta)) = self.backend.head(name) else { return State::Expired };
        let holder: Option<Holder> =
            read(self.backend.as_ref(), name).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if holder.as_ref().is_some_and(Holder::is_gone) {
            return State::Expired;
        }
        match now.checked_sub(meta.used) {
            Some(age) if age >= EXPIRES => State::Expired,
            Some(_) => State::Held(holder),
            // From the future: a clock was set back. From now on it ages as every other; a holder that is alive renews it anyway.
            None => match self.backend.touch(name) {
                Ok(Touched::Now) => State::Held(holder),
                Ok(Touched::Gone | Touched::Refused) | Err(_) => State::Expired,
            },
        }
    }

    /// Since when the oldest lease is held that has not expired.
    pub(super) fn oldest_lease(&self) -> Result<Option<Duration>, StoreError> {
        let now = self.backend.now();
        let mut oldest: Option<Duration> = None;
        for name in self.backend.names("leases")? {
            if let State::Held(holder) = self.state(&format!("leases/{name}"), now) {
                // One that does not tell since when may be as old as everything here.
                let since = holder.map_or(Duration::ZERO, |holder| Duration::from_secs(holder.since_unix_seconds));
                oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
            }
        }
        Ok(oldest)
    }

    /// Removes expired leases.
    pub(super) fn clear_leases(&self) -> Result<(), StoreError> {
        let now = self.backend.now();
        for name in self.backend.names("leases")?.into_iter().map(|name| format!("leases/{name}")) {
            if matches!(self.state(&name, now), State::Expired) {
                self.backend.delete(&name)?;
            }
        }
        Ok(())
    }

    /// Removes leases that do not tell who holds them; gives their names. At worst some work is done twice.
    pub(super) fn drop_damaged_leases(&self) -> Result<Vec<String>, StoreError> {
        let mut dropped = Vec::new();
        for name in self.backend.names("leases")?.into_iter().map(|name| format!("leases/{name}")) {
            let Some(bytes) = self.read(&name)? else { continue };
            if serde_json::from_slice::<Holder>(&bytes).is_err() && self.backend.delete(&name)? {
                dropped.push(name);
            }
        }
        Ok(dropped)
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

#[cfg(test)]
mod tests {
    use std::{fs::File, time::SystemTime};

    use super::*;

    struct Setting {
        folder: tempfile::TempDir,
        store: Store,
        key: Digest,
    }

    impl Setting {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            Self { folder, store, key: Digest::of(b"key") }
        }

        /// Puts a lease there that was renewed at this time.
        fn put(&self, bytes: &[u8], renewed: SystemTime) {
            let name = format!("leases/{}", self.key);
            self.store.write(&name, bytes, Put { replace: true, durable: false }).unwrap();
            File::open(self.folder.path().join(name)).unwrap().set_modified(renewed).unwrap();
        }

        fn is_busy(&self) -> bool {
            matches!(self.store.lease(&self.key), Leasing::Busy(_))
        }
    }

    fn elsewhere() -> Vec<u8> {
        let host = "elsewhere".to_owned();
        serde_json::to_vec(&Holder { host, process: 1, since_unix_seconds: 7, number: 1 }).unwrap()
    }

    #[test]
    fn one_holds_a_lease_and_the_dead_hold_none() {
        let it = Setting::new();
        let two = Store::open(it.folder.path()).unwrap();
        let Leasing::Held(lease) = it.store.lease(&it.key) else { panic!("it is free") };
        assert!(matches!(two.lease(&it.key), Leasing::Busy(holder) if holder.process == std::process::id()));
        assert!(two.oldest_lease().unwrap().is_some());
        drop(lease);
        assert!(two.oldest_lease().unwrap().is_none());
        // A process number that no Linux gives.
        let dead = Holder { host: host(), process: u32::MAX, since_unix_seconds: 0, number: 0 };
        it.put(&serde_json::to_vec(&dead).unwrap(), SystemTime::now());
        assert!(!Path::new("/proc/self").exists() || !it.is_busy());
    }

    #[test]
    fn a_lease_expires_when_it_is_not_renewed() {
        let it = Setting::new();
        it.put(&elsewhere(), SystemTime::now());
        assert!(it.is_busy());
        assert_eq!(it.store.oldest_lease().unwrap(), Some(Duration::from_secs(7)));
        it.put(&elsewhere(), SystemTime::now() - EXPIRES * 2);
        assert_eq!(it.store.oldest_lease().unwrap(), None);
        assert!(!it.is_busy());
    }

    #[test]
    fn a_lease_from_the_future_ages_from_now_on() {
        let it = Setting::new();
        it.put(&elsewhere(), SystemTime::now() + Duration::from_secs(3600));
        assert!(it.is_busy());
        let renewed = it.store.backend.head(&format!("leases/{}", it.key)).unwrap().unwrap().used;
        assert!(renewed <= it.store.backend.now() + Duration::from_secs(1), "it expires half a minute from now");
    }

    #[test]
    fn a_lease_that_cannot_be_read_protects_everything_and_is_told() {
        let it = Setting::new();
        it.put(b"{\"host\":", SystemTime::now());
        assert!(it.is_busy());
        assert_eq!(it.store.oldest_lease().unwrap(), Some(Duration::ZERO));
        assert_eq!(it.store.drop_damaged_leases().unwrap(), [format!("leases/{}", it.key)]);
        assert!(!it.is_busy());
    }

    #[test]
    fn a_lease_that_expired_is_not_taken_from_its_next_holder() {
        let it = Setting::new();
        let Leasing::Held(lease) = it.store.lease(&it.key) else { panic!("it is free") };
        it.put(&elsewhere(), SystemTime::now());
        drop(lease);
        assert!(it.is_busy());
    }

    #[test]
    fn a_process_that_uses_the_store_is_seen() {
        let it = Setting::new();
        let (one, two) = (it.store.announce(), it.store.announce());
        assert!(it.store.oldest_lease().unwrap().is_some());
        drop((one, two));
        assert_eq!(it.store.oldest_lease().unwrap(), None);
    }
}
