use super::*;
use crate::store::{Memory, conformance};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

/// The file of a blob, to do something to it behind the store's back.
fn file(store: &Store, digest: &Digest) -> PathBuf {
    store.root().join(blob(digest))
}

#[test]
fn backends_do_what_the_store_relies_on() {
    conformance::check(&|| Box::new(Memory::default()));
    let folder = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    conformance::check(&|| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::new(Disk::new(folder.path().join(number.to_string())))
    });
}

#[test]
fn a_store_on_memory_does_what_one_on_disk_does() {
    let folder = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(Memory::default());
    let store = Store::open_on(Arc::clone(&backend), folder.path()).unwrap();
    let digest = store.put(b"cell").unwrap();
    let again = Store::open_on(backend, folder.path()).unwrap();
    assert!(!again.format_rebuilt);
    assert_eq!(again.get(&digest).unwrap(), b"cell");
    assert!(again.verify(1.0).unwrap().is_clean());
    again.gc(&crate::store::GcOptions { grace: std::time::Duration::ZERO, ..Default::default() }).unwrap();
    assert!(matches!(again.get(&digest), Err(StoreError::Missing(_))));
    let scratch = again.scratch().unwrap();
    assert!(scratch.path().starts_with(folder.path()));
}

#[test]
fn blobs_come_back_and_are_read_only() {
    let (_folder, store) = store();
    let digest = store.put(b"cell").unwrap();
    assert_eq!(store.put(b"cell").unwrap(), digest);
    assert_eq!(store.put_from(&mut &b"cell"[..]).unwrap().unwrap(), (digest, 4));
    assert_eq!(store.get(&digest).unwrap(), b"cell");
    let mut copy = Vec::new();
    store.copy_to(&digest, &mut copy).unwrap().unwrap();
    assert_eq!(copy, b"cell");
    assert!(store.has(&digest, 4) && !store.has(&digest, 5));
    assert!(std::fs::metadata(file(&store, &digest)).unwrap().permissions().readonly());
    let missing = Digest::of(b"none");
    assert!(matches!(store.get(&missing), Err(StoreError::Missing(name)) if name == missing));
    assert!(matches!(store.copy_to(&missing, &mut Vec::new()), Err(StoreError::Missing(name)) if name == missing));
    assert_eq!(store.stats().unwrap().temporary.files, 0);
}

/// Gives so many bytes, and an error at the end if that is asked for.
struct Source(u64, bool);

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 && self.1 {
            return Err(io::Error::other("the source fails"));
        }
        let length = into.len().min(usize::try_from(self.0).unwrap());
        into[..length].fill(7);
        self.0 -= length as u64;
        Ok(length)
    }
}

#[test]
fn what_is_streamed_is_the_same_as_what_is_held() {
    let (_folder, store) = store();
    let size = 3 * PIECE + 5;
    let (digest, given) = store.put_from(&mut Source(size as u64, false)).unwrap().unwrap();
    assert_eq!((digest, given), (Digest::of(&vec![7; size]), size as u64));
    assert_eq!(store.get(&digest).unwrap(), vec![7; size]);
    assert_eq!(store.put_from(&mut Source(9, true)).unwrap().unwrap_err().to_string(), "the source fails");
    assert_eq!(store.stats().unwrap().temporary.files, 0);
    let full = store.copy_to(&digest, &mut [0; 100].as_mut_slice()).unwrap().unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::WriteZero);
    assert!(store.contains(&digest), "that its reader fails is no fault of the blob");
}

#[test]
fn many_may_write_at_once() {
    // Each store is new: all threads meet where its folders are made.
    for round in 0..20_u32 {
        let (_folder, store) = store();
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let (store, barrier) = (&store, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for number in 0..8 {
                        let own = format!("{round} {thread} {number}");
                        store.put(own.as_bytes()).unwrap();
                        store.put(format!("{round} {number}").as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.stats().unwrap().blobs.files, 72);
    }
}

fn damage(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_blob_is_found_quarantined_and_healed() {
    let (_folder, store) = store();
    let digest = store.put(b"cell").unwrap();
    let path = file(&store, &digest);
    damage(&path, b"cel!");
    assert!(matches!(store.get(&digest), Err(StoreError::Damaged(_))));
    assert!(matches!(store.get(&digest), Err(StoreError::Missing(_))));
    assert_eq!(store.stats().unwrap().quarantine.files, 1);
    store.put(b"cell").unwrap();
    damage(&path, b"cel!");
    assert!(matches!(store.copy_to(&digest, &mut Vec::new()), Err(StoreError::Damaged(_))));
    // Writing the same contents again also heals: a damaged blob does not shadow the good bytes, whatever it became.
    let damages: [&dyn Fn(); 4] = [
        &|| damage(&path, b""),
        &|| damage(&path, b"cel!"),
        &|| {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        },
        &|| {
            std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path.parent().unwrap(), "a file where a folder belongs").unwrap();
        },
    ];
    for (number, ruin) in damages.iter().enumerate() {
        for streamed in [false, true] {
            store.put(b"cell").unwrap();
            ruin();
            if streamed {
                store.put_from(&mut &b"cell"[..]).unwrap().unwrap();
            } else {
                store.put(b"cell").unwrap();
            }
            assert_eq!(store.get(&digest).unwrap(), b"cell", "damage {number}");
        }
    }
}

#[test]
fn only_a_store_or_an_empty_folder_is_opened() {
    let (folder, store) = store();
    Store::open_existing(store.root()).unwrap();
    let other = folder.path().join("other");
    assert!(matches!(Store::open_existing(&other), Err(StoreError::NotAStore { .. })));
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.doc"), "precious").unwrap();
    let error = Store::open(&other).unwrap_err().to_string();
    assert!(error.contains("thesis.doc"), "{error}");
    let error = Store::open(&other.join("thesis.doc")).unwrap_err().to_string();
    assert!(error.ends_with("is a file, no folder"), "{error}");
    // Folders of the same names do not make somebody's folder a store.
    std::fs::create_dir(other.join("blobs")).unwrap();
    std::fs::create_dir(other.join("actions")).unwrap();
    assert!(Store::open(&other).is_err() && Store::open_existing(&other).is_err());
    damage(&store.root().join("format"), b"statcell-store 99\n");
    let error = Store::open(store.root()).unwrap_err().to_string();
    assert!(error.contains("another version: 99"), "{error}");
}

#[test]
fn a_format_file_that_is_torn_damaged_or_lost_is_made_again() {
    let (_folder, store) = store();
    let digest = store.put(b"cell").unwrap();
    let format = store.root().join("format");
    let damages: [&dyn Fn(); 8] = [
        &|| damage(&format, b""),
        &|| damage(&format, b"statcell-st"),
        &|| damage(&format, b"statcell-store 1"),
        &|| damage(&format, b"statcell-store 0\n"),
        &|| damage(&format, &[0; 17]),
        &|| std::fs::remove_file(&format).unwrap(),
        &|| {
            std::fs::remove_file(&format).unwrap();
            std::fs::create_dir(&format).unwrap();
        },
        &|| {
            std::fs::remove_file(&format).unwrap();
            damage(&store.root().join("CACHEDIR.TAG"), b"");
        },
    ];
    for (number, ruin) in damages.iter().enumerate() {
        ruin();
        let opened = Store::open_existing(store.root()).unwrap();
        assert!(opened.format_rebuilt, "damage {number}");
        assert_eq!(opened.get(&digest).unwrap(), b"cell");
        assert!(!Store::open(store.root()).unwrap().format_rebuilt, "damage {number}");
    }
}

#[test]
fn what_a_program_made_read_only_goes_with_its_scratch_folder() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, store) = store();
    let scratch = store.scratch().unwrap();
    let path = scratch.path().to_owned();
    std::fs::create_dir(path.join("locked")).unwrap();
    std::fs::write(path.join("locked/file"), "").unwrap();
    std::fs::set_permissions(path.join("locked"), std::fs::Permissions::from_mode(0o500)).unwrap();
    drop(scratch);
    assert!(!path.exists());
}
