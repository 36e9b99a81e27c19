//! What the store relies on of every [`Backend`], as one suite. Run it against a new backend before anything else.

use std::{
    io::{Read, Write},
    sync::Barrier,
    time::Duration,
};

use super::backend::{Amount, Backend, Put, Touched};

const NEW: Put = Put { replace: false, durable: false };
const OVER: Put = Put { replace: true, durable: true };

fn put(backend: &dyn Backend, name: &str, bytes: &[u8], put: Put) -> bool {
    let mut staged = backend.stage().expect("an object can be begun");
    staged.write_all(bytes).expect("an object can be written");
    staged.publish(name, put).expect("an object can be published")
}

fn get(backend: &dyn Backend, name: &str) -> Option<Vec<u8>> {
    let mut object = backend.get(name).expect("an object can be read or is not there")?;
    let mut bytes = Vec::new();
    object.reader.read_to_end(&mut bytes).expect("an object can be read");
    assert_eq!(object.size, bytes.len() as u64, "`{name}` has the size that it is said to have");
    Some(bytes)
}

fn names(backend: &dyn Backend, folder: &str) -> Vec<String> {
    let listed = backend.list(folder).expect("a folder can be listed");
    listed.into_iter().map(|object| object.name).collect()
}

/// Runs the whole suite; `make` gives an empty backend each time.
///
/// # Panics
/// Where the backend does not do what the store relies on.
pub fn check(make: &dyn Fn() -> Box<dyn Backend>) {
    what_is_put_can_be_got(make().as_ref());
    the_first_of_a_name_stays_unless_it_is_to_be_replaced(make().as_ref());
    lists_are_sorted_and_complete(make().as_ref());
    touching_makes_young(make().as_ref());
    what_is_used_is_not_deleted(make().as_ref());
    objects_can_be_renamed(make().as_ref());
    old_things_are_swept(make().as_ref());
    nothing_is_seen_before_it_is_whole(make().as_ref());
    of_many_exactly_one_is_first(make().as_ref());
    large_objects_pass_in_pieces(make().as_ref());
}

fn what_is_put_can_be_got(backend: &dyn Backend) {
    for (name, bytes) in [("blobs/ab/cd", &b"bytes"[..]), ("roots/a b,=+é.json", b"\0\xff"), ("leases/empty", b"")] {
        assert_eq!((get(backend, name), backend.head(name).unwrap()), (None, None));
        assert!(put(backend, name, bytes, NEW));
        assert_eq!(get(backend, name).as_deref(), Some(bytes));
        assert_eq!(backend.head(name).unwrap().map(|meta| meta.size), Some(bytes.len() as u64));
        backend.sync(name).unwrap();
        assert!(backend.delete(name).unwrap());
        assert!(!backend.delete(name).unwrap());
        assert_eq!((get(backend, name), backend.head(name).unwrap()), (None, None));
    }
    // What is no object, but begins or continues the name of one.
    put(backend, "actions/kind/key.json", b"record", NEW);
    for name in ["actions", "actions/kind", "actions/kind/key", "actions/kind/key.json/more"] {
        assert_eq!((get(backend, name), backend.head(name).unwrap()), (None, None), "{name}");
        assert!(!backend.delete(name).unwrap(), "{name}");
        assert!(!backend.rename(name, "quarantine/x").unwrap(), "{name}");
    }
}

fn the_first_of_a_name_stays_unless_it_is_to_be_replaced(backend: &dyn Backend) {
    assert!(put(backend, "items/ab/cd", b"first", NEW));
    assert!(!put(backend, "items/ab/cd", b"second", NEW));
    assert_eq!(get(backend, "items/ab/cd").unwrap(), b"first");
    assert!(put(backend, "items/ab/cd", b"third", OVER));
    assert_eq!(get(backend, "items/ab/cd").unwrap(), b"third");
    // Whoever reads goes on reading what was there.
    let mut object = backend.get("items/ab/cd").unwrap().unwrap();
    put(backend, "items/ab/cd", b"fourth", OVER);
    backend.delete("items/ab/cd").unwrap();
    let mut bytes = Vec::new();
    object.reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"third");
}

fn lists_are_sorted_and_complete(backend: &dyn Backend) {
    assert_eq!(names(backend, "blobs"), Vec::<String>::new());
    assert_eq!(backend.names("blobs").unwrap(), Vec::<String>::new());
    for name in ["blobs/b/2", "blobs/a/1", "blobs/a.b", "blobs/b/1", "blob", "blobs2/x"] {
        put(backend, name, b"1234", NEW);
    }
    assert_eq!(names(backend, "blobs"), ["blobs/a.b", "blobs/a/1", "blobs/b/1", "blobs/b/2"]);
    assert_eq!(names(backend, "blobs/b"), ["blobs/b/1", "blobs/b/2"]);
    assert_eq!(backend.names("blobs").unwrap(), ["a", "a.b", "b"]);
    assert_eq!(backend.amount("blobs").unwrap(), Amount { files: 4, bytes: 16 });
    let listed = backend.list("blobs").unwrap();
    assert!(listed.iter().all(|object| backend.head(&object.name).unwrap() == Some(object.meta)));
}

fn touching_makes_young(backend: &dyn Backend) {
    assert_eq!(backend.touch("leases/key").unwrap(), Touched::Gone);
    put(backend, "leases/key", b"", NEW);
    let before = backend.head("leases/key").unwrap().unwrap().used;
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(backend.touch("leases/key").unwrap(), Touched::Now);
    let after = backend.head("leases/key").unwrap().unwrap().used;
    assert!(after > before, "{after:?} is later than {before:?}");
    // The backend's clock is the one that objects go by; a tick of it may be long.
    assert!(backend.now() + Duration::from_millis(20) >= after && backend.now() < after + Duration::from_secs(5));
}

fn what_is_used_is_not_deleted(backend: &dyn Backend) {
    put(backend, "blobs/ab/cd", b"bytes", NEW);
    let used = backend.head("blobs/ab/cd").unwrap().unwrap().used;
    assert!(!backend.delete_unused("blobs/ab/cd", used).unwrap());
    assert_eq!(get(backend, "blobs/ab/cd").unwrap(), b"bytes");
    assert_eq!(backend.head("blobs/ab/cd").unwrap().unwrap().used, used, "looking at it is no use of it");
    assert!(backend.delete_unused("blobs/ab/cd", used + Duration::from_nanos(1)).unwrap());
    assert!(backend.delete_unused("blobs/ab/cd", used).unwrap(), "it is gone already");
    assert_eq!(get(backend, "blobs/ab/cd"), None);
}

fn objects_can_be_renamed(backend: &dyn Backend) {
    put(backend, "blobs/ab/cd", b"damaged", NEW);
    put(backend, "quarantine/cd", b"older", NEW);
    assert!(backend.rename("blobs/ab/cd", "quarantine/cd").unwrap());
    assert!(!backend.rename("blobs/ab/cd", "quarantine/cd").unwrap());
    assert_eq!((get(backend, "blobs/ab/cd"), get(backend, "quarantine/cd").unwrap()), (None, b"damaged".to_vec()));
}

fn old_things_are_swept(backend: &dyn Backend) {
    put(backend, "quarantine/old", b"1234", NEW);
    let since = backend.head("quarantine/old").unwrap().unwrap().used + Duration::from_nanos(1);
    std::thread::sleep(Duration::from_millis(30));
    put(backend, "quarantine/young", b"1234", NEW);
    let expected = Amount { files: 1, bytes: 4 };
    assert_eq!(backend.sweep("quarantine", since, true).unwrap(), expected);
    assert_eq!(names(backend, "quarantine").len(), 2);
    assert_eq!(backend.sweep("quarantine", since, false).unwrap(), expected);
    assert_eq!(names(backend, "quarantine"), ["quarantine/young"]);
    assert_eq!(backend.sweep("nothing", since, false).unwrap(), Amount::default());
}

fn nothing_is_seen_before_it_is_whole(backend: &dyn Backend) {
    let mut staged = backend.stage().unwrap();
    staged.write_all(&vec![7; 100_000]).unwrap();
    assert_eq!(names(backend, "blobs"), Vec::<String>::new());
    drop(staged);
    assert_eq!(backend.amount("tmp").unwrap(), Amount::default(), "what was not published is gone");
    // Readers see one whole object or the other.
    put(backend, "actions/kind/key", &vec![0; 100_000], NEW);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 1..40_u8 {
                put(backend, "actions/kind/key", &vec![number; 100_000], Put { replace: true, durable: false });
            }
        });
        while !writer.is_finished() {
            let bytes = get(backend, "actions/kind/key").expect("it is there at every moment");
            assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]), "torn");
        }
    });
}

fn of_many_exactly_one_is_first(backend: &dyn Backend) {
    for round in 0..20 {
        let name = format!("leases/{round}/key");
        let barrier = Barrier::new(8);
        let won: Vec<u8> = std::thread::scope(|scope| {
            let race = |number: u8| {
                let (barrier, name) = (&barrier, &name);
                scope.spawn(move || {
                    barrier.wait();
                    put(backend, name, &[number], NEW).then_some(number)
                })
            };
            let racers: Vec<_> = (0..8).map(race).collect();
            racers.into_iter().filter_map(|racer| racer.join().expect("no racer panics")).collect()
        });
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(get(backend, &name), Some(won));
    }
}

fn large_objects_pass_in_pieces(backend: &dyn Backend) {
    let mut staged = backend.stage().unwrap();
    for number in 0..64_u8 {
        staged.write_all(&vec![number; 65_536]).unwrap();
    }
    assert!(staged.publish("blobs/ab/large", NEW).unwrap());
    let mut reader = backend.get("blobs/ab/large").unwrap().unwrap().reader;
    let mut piece = vec![0; 65_536];
    for number in 0..64_u8 {
        reader.read_exact(&mut piece).unwrap();
        assert!(piece.iter().all(|byte| *byte == number));
    }
    assert_eq!(reader.read(&mut piece).unwrap(), 0);
}
