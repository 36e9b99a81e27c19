//! The store under attack: processes killed at any moment, every byte flipped, no room left, races beside garbage collection, clocks
//! that jump, rights taken away, the store moved. Nothing damaged is ever used, nothing is lost, and the end is that of a run that
//! nobody disturbed.
//!
//! A plain `cargo test` takes a short sample. `STATCELL_ATTACK=long` is the whole of it, for the night. Child processes are this test
//! program itself, told by an environment variable which of the `child_…` functions to be.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statcell::{
    artifact::{ArtifactType, ArtifactWriter},
    exec::{Event, Interrupt, Listener, Options, Outcome, Summary, run},
    graph::{Graph, Instance, Source},
    plan::plan,
    stage::{
        self, AnyStage, Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemWork, Numerics,
        Output, Outputs, StageError,
    },
    store::{Blobs, Digest, GcOptions, Store, StoreError},
};
use toml::{Spanned, de::DeValue};

/// Works a little: writes some blobs, maps over items, keeps checkpoints.
struct Work;

static WORK: Work = Work;

impl AnyStage for Work {
    fn name(&self) -> &'static str {
        "work"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "works a little"
    }

    fn extent(&self) -> &'static [&'static str] {
        &["steps"]
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(BTreeMap<String, String>)
    }

    fn parse(&self, _: Spanned<DeValue<'_>>) -> Result<Value, Box<toml::de::Error>> {
        Ok(json!({}))
    }

    fn inputs(&self, _: Option<&Value>) -> Vec<Input> {
        vec![Input::many("in", ArtifactType::Files, "files")]
    }

    fn outputs(&self, _: Option<&Value>) -> Vec<Output> {
        vec![Output::for_people("out", ArtifactType::Files, "files")]
    }

    fn check(&self, _: &Value, _: &InputFacts) -> Checked {
        Checked::default()
    }

    fn run(&self, params: &Value, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        if params["until-stopped"] == true {
            loop {
                context.check()?;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if params["deaf"] == true {
            std::thread::sleep(Duration::from_secs(60));
        }
        let (length, repeats) = if params["tiny"].is_null() { (9000, 500) } else { (30, 1) };
        let mut seed = params.to_string();
        for artifact in inputs.many("in") {
            for file in artifact.tree.entries() {
                seed.push_str(&Digest::of(&artifact.read(context.blobs(), &file.name)?).to_string());
            }
        }
        let item = |number| stage::Work { name: format!("item {number}"), item: number, inputs: Vec::new() };
        let mapped = context.map(&Noise { seed: seed.clone(), length }, &[], &(0..6).map(item).collect::<Vec<_>>())?;
        let (from, mut state) = context.load_checkpoint(5)?.unwrap_or((0, seed.clone().into_bytes()));
        for step in from + 1..=5 {
            state = Digest::of(&state).as_bytes().repeat(repeats);
            context.save_checkpoint(step, &state, false)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut out = ArtifactWriter::new(ArtifactType::Files, context.blobs());
        for (number, item) in mapped.iter().enumerate() {
            let mut entry = item.get("it").expect("every item gives it").clone();
            entry.name = format!("items/{number}");
            out.link(entry);
        }
        out.put("state", &state)?;
        Ok(Outputs::from([("out".to_owned(), out.finish()?)]))
    }
}

/// Makes bytes.
#[derive(Serialize, Deserialize)]
struct Noise {
    seed: String,
    length: usize,
}

impl ItemWork for Noise {
    type Item = usize;
    type Shared = ();
    const UNIT: &'static str = "items";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), number: usize, _: &ItemContext) -> Result<ItemFiles, StageError> {
        Ok(vec![("it".to_owned(), noise(&self.seed, number, self.length))])
    }
}

fn noise(seed: &str, number: usize, length: usize) -> Vec<u8> {
    let start = Digest::of(format!("{seed} {number}").as_bytes());
    start.as_bytes().iter().copied().cycle().take(length).collect()
}

/// Three layers of four instances, each of which takes from the whole layer above.
fn graph() -> Graph {
    let mut instances = Vec::new();
    for layer in 0..3_usize {
        for number in 0..4_usize {
            let params = json!({ "layer": layer, "number": number, "steps": 5 });
            let above =
                (0..4).map(|other| Source::Output { instance: (layer.max(1) - 1) * 4 + other, port: "out".to_owned() });
            let inputs = if layer == 0 { Vec::new() } else { vec![("in".to_owned(), above.collect())] };
            instances.push(Instance { inputs, ..alone(&format!("work[{layer},{number}]"), params) });
        }
    }
    Graph::new("killed".to_owned(), instances)
}

/// The number of rounds of an attack: of the short sample, or of the whole.
fn rounds(short: u64, long: u64) -> u64 {
    if std::env::var_os("STATCELL_ATTACK").is_some_and(|mode| mode == "long") { long } else { short }
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 += 1;
        let digest = Digest::of(&self.0.to_le_bytes());
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap()) % end
    }
}

struct Nobody;

impl Listener for Nobody {
    fn hear(&mut self, _: &Event) {}
}

fn run_all(folder: &Path) -> Summary {
    run_graph(&graph(), folder).unwrap()
}

fn run_graph(graph: &Graph, folder: &Path) -> Result<Summary, String> {
    let store = Store::open(&folder.join("store")).map_err(|error| error.to_string())?;
    let all: Vec<usize> = (0..graph.instances.len()).collect();
    let plan = plan(graph, &all, &store, Numerics::CPU).map_err(|error| error.to_string())?;
    let results = Some(folder.join("results"));
    let options = Options { jobs: 2, keep_going: false, results, force_results: false, drawing: None };
    run(graph, &plan, &store, &options, &mut Nobody, &Interrupt::default()).map_err(|error| error.to_string())
}

fn all_hit(summary: &Summary) -> bool {
    summary.outcomes.values().all(|outcome| *outcome == Outcome::Hit)
}

fn at_once() -> GcOptions {
    GcOptions { grace: Duration::ZERO, ..GcOptions::default() }
}

/// An instance that takes from nobody.
fn alone(name: &str, params: Value) -> Instance {
    Instance {
        name: name.to_owned(),
        stage: name.to_owned(),
        axes: Vec::new(),
        kind: &WORK,
        params,
        inputs: Vec::new(),
        outputs: WORK.outputs(None),
    }
}

fn told() -> Option<PathBuf> {
    std::env::var_os("STATCELL_TEST_FOLDER").map(PathBuf::from)
}

fn child(function: &str, folder: &Path) -> Child {
    child_command(function, folder).spawn().unwrap()
}

fn child_command(function: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", function, "--ignored", "--nocapture"]).env("STATCELL_TEST_FOLDER", folder);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
#[ignore = "a child process of other tests"]
fn child_runs() {
    if let Some(folder) = told() {
        // Where the store cannot be used, that is told.
        let _ = run_graph(&graph(), &folder);
    }
}

/// A process is killed again and again, at moments spread over its run; two of them at once half of the time. The store stays
/// whole at every moment, the work goes on where it was, and the end is the same as without all that.
#[test]
fn kills_lose_nothing() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = run_all(quiet.path()).outputs;
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..rounds(24, 200) {
        let mut children: Vec<Child> = (0..=round % 2).map(|_| child("child_runs", folder.path())).collect();
        std::thread::sleep(Duration::from_millis(15 + round * 29 % 60));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let Ok(store) = Store::open_existing(&folder.path().join("store")) else { continue };
        let verified = store.verify(1.0).unwrap();
        assert!(verified.is_clean(), "round {round}: {verified:?}");
        let done = store.stats().unwrap().actions.first().map_or(0, |(_, number)| *number);
        assert!(done >= last, "round {round}: {done} results, {last} before");
        last = done;
    }
    let summary = run_all(folder.path());
    assert_eq!(summary.exit_code(), 0);
    assert_eq!(summary.outputs, expected);
    assert!(all_hit(&run_all(folder.path())));
    assert_eq!(files(&folder.path().join("results")), files(&quiet.path().join("results")), "also no file left behind");
    // What the killed left behind can be collected once it is old.
    let store = Store::open_existing(&folder.path().join("store")).unwrap();
    for left in std::fs::read_dir(store.root().join("tmp")).unwrap() {
        let file = std::fs::File::open(left.unwrap().path()).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }
    store.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() }).unwrap();
    assert_eq!(store.stats().unwrap().temporary.files, 0);
    assert!(all_hit(&run_all(folder.path())));
}

/// Every file beneath a folder with its contents, but for the list of results, which holds times.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".statcell.json") {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Processes race beside garbage collection, which takes nothing that they need. Without any grace, only leases and roots protect it.
#[test]
fn races_beside_collection_harm_nobody() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = run_all(quiet.path()).outputs;
    for round in 0..rounds(2, 20) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let processes = if round == 0 { 1 } else { 4 };
        let mut running: Vec<Child> = (0..processes).map(|_| child("child_runs", folder.path())).collect();
        while running.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
            store.gc(&at_once()).unwrap();
            store.gc(&GcOptions::default()).unwrap();
        }
        assert!(store.verify(1.0).unwrap().is_clean());
        let summary = run_all(folder.path());
        assert_eq!(summary.exit_code(), 0);
        assert!(all_hit(&summary), "round {round}: nothing of what was made is gone");
        assert_eq!(summary.outputs, expected);
        assert_eq!(files(&folder.path().join("results")), files(&quiet.path().join("results")));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every byte of a small store is flipped in turn. Before anything runs, garbage collection comes by, without grace; then the same
/// pipeline runs again. The collection takes nothing but what is damaged, and the run ends as if nothing had been.
#[test]
fn a_flipped_byte_is_never_used_and_loses_nothing_else() {
    let graph = Graph::new(
        "flipped".to_owned(),
        vec![alone("a", json!({ "tiny": 1 })), {
            let above = Source::Output { instance: 0, port: "out".to_owned() };
            Instance { inputs: vec![("in".to_owned(), vec![above])], ..alone("b", json!({ "tiny": 2 })) }
        }],
    );
    let sound = tempfile::tempdir().unwrap();
    let expected = run_graph(&graph, sound.path()).unwrap().outputs;
    let whole = files(&sound.path().join("store"));
    let bytes: u64 = whole.values().map(|bytes| bytes.len() as u64).sum();
    // Every byte in the long run; in the short one some of each file, the first and the last among them.
    let step = rounds(bytes / 120, 1) as usize;
    let mut tried = 0;
    for (name, contents) in &whole {
        let last = contents.len().saturating_sub(1);
        let places = (0..contents.len()).filter(|at| at % step == 0 || *at == last);
        for at in places {
            tried += 1;
            let folder = tempfile::tempdir().unwrap();
            copy(sound.path(), folder.path());
            let path = folder.path().join("store").join(name);
            let mut flipped = contents.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &flipped).unwrap();
            let what = format!("byte {at} of {}", name.display());
            let is_number_of_format = name.ends_with("format") && at == 15;
            let store = match Store::open(&folder.path().join("store")) {
                // It says that another version made the store: then that is what has to be believed.
                Err(StoreError::NotAStore { .. }) if is_number_of_format => continue,
                other => other.unwrap(),
            };
            // Garbage collection goes by what it can read, or stops.
            match store.gc(&at_once()) {
                Ok(_) | Err(StoreError::NeedsUnknown { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            for (other, contents) in &whole {
                // The index only says what need not be read again; a lease is no result.
                if other != name && !other.starts_with("tmp") {
                    let there = std::fs::read(folder.path().join("store").join(other)).ok();
                    let kept = there.as_ref() == Some(contents);
                    assert!(kept || other.ends_with("format"), "{what}: {} is gone", other.display());
                }
            }
            let summary = run_graph(&graph, folder.path()).unwrap();
            assert_eq!(summary.exit_code(), 0, "{what}: {:?}", summary.outcomes);
            assert_eq!(summary.outputs, expected, "{what}");
            assert_eq!(files(&folder.path().join("results")), files(&sound.path().join("results")), "{what}");
            // What was not needed may still be damaged: verification finds it, and after a run all is sound again.
            store.verify(1.0).unwrap();
            assert_eq!(run_graph(&graph, folder.path()).unwrap().exit_code(), 0, "{what}");
            let store = Store::open(store.root()).unwrap();
            assert!(store.verify(1.0).unwrap().is_clean(), "{what}");
            store.gc(&at_once()).unwrap();
            assert!(all_hit(&run_graph(&graph, folder.path()).unwrap()), "{what}");
        }
    }
    assert!(tried > 60, "only {tried} bytes");
}

/// Times of all files in the store jump by hours or years, back and forth, as if clocks had been set; collections and runs in between.
#[test]
fn clocks_that_jump_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let expected = run_all(folder.path()).outputs;
    let store = Store::open(&folder.path().join("store")).unwrap();
    let mut dice = Dice(1);
    for round in 0..rounds(6, 100) {
        let jump = Duration::from_secs(dice.below(3) * 3600 + dice.below(2) * 40_000_000);
        let ahead = dice.below(2) == 0;
        for name in files(store.root()).keys() {
            let file = std::fs::File::open(store.root().join(name)).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            let jumped = if ahead { modified.checked_add(jump) } else { modified.checked_sub(jump) };
            file.set_modified(jumped.unwrap_or(modified)).unwrap();
        }
        store.gc(&if dice.below(2) == 0 { at_once() } else { GcOptions::default() }).unwrap();
        assert!(store.verify(1.0).unwrap().is_clean(), "round {round}");
        let summary = run_all(folder.path());
        assert!(all_hit(&summary), "round {round}");
        assert_eq!(summary.outputs, expected);
    }
}

/// A user without rights over the store: the one of the tests, or `nobody` where the tests have every right.
fn without_privileges(mut command: Command, folder: &Path) -> Command {
    use std::os::unix::{fs::MetadataExt, process::CommandExt};
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        let nobody = 65_534;
        let own = |path: &Path| std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).unwrap();
        own(folder);
        for path in files(folder).keys() {
            let path = folder.join(path);
            for above in path.ancestors().take_while(|above| above.starts_with(folder)) {
                own(above);
            }
        }
        // The test program itself must be within reach.
        let program = folder.join("program");
        if !program.exists() {
            std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        }
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let mut other = Command::new(program);
        other.args(arguments).env("STATCELL_TEST_FOLDER", folder).stdout(Stdio::null()).stderr(Stdio::null());
        other.uid(nobody).gid(nobody);
        command = other;
    }
    command
}

fn set_rights(folder: &Path, may_write: bool) {
    use std::os::unix::fs::PermissionsExt;
    let mode = if may_write { 0o755 } else { 0o555 };
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let Ok(()) = std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)) else { continue };
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
}

/// In the middle of a run the right to write to the store is taken away, and given back later.
#[test]
fn rights_that_are_taken_away_midway_damage_nothing() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = run_all(quiet.path()).outputs;
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(2);
    for round in 0..rounds(4, 40) {
        let mut running =
            without_privileges(child_command("child_runs", folder.path()), folder.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(10 + dice.below(80)));
        set_rights(&folder.path().join("store"), false);
        running.wait().unwrap();
        set_rights(&folder.path().join("store"), true);
        let Ok(store) = Store::open_existing(&folder.path().join("store")) else { continue };
        assert!(store.verify(1.0).unwrap().is_clean(), "round {round}");
    }
    let summary = run_all(folder.path());
    assert_eq!((summary.exit_code(), summary.outputs), (0, expected));
}

/// In the middle of a run the store is moved to another place, and used there.
#[test]
fn a_store_that_is_moved_midway_is_whole() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = run_all(quiet.path()).outputs;
    let mut dice = Dice(3);
    for round in 0..rounds(3, 40) {
        let folder = tempfile::tempdir().unwrap();
        let mut running = child("child_runs", folder.path());
        std::thread::sleep(Duration::from_millis(20 + dice.below(80)));
        let elsewhere = folder.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let moved = std::fs::rename(folder.path().join("store"), elsewhere.join("store")).is_ok();
        running.wait().unwrap();
        for place in [folder.path(), &elsewhere] {
            if moved || place == folder.path() {
                let summary = run_all(place);
                assert_eq!((summary.exit_code(), summary.outputs), (0, expected.clone()), "round {round}");
                assert!(Store::open(&place.join("store")).unwrap().verify(1.0).unwrap().is_clean(), "round {round}");
            }
        }
    }
}

/// Runs until it is stopped, and writes down how that ended. Tells when it began.
#[test]
#[ignore = "a child process of another test"]
fn child_is_stopped() {
    struct Began(PathBuf);
    impl Listener for Began {
        fn hear(&mut self, event: &Event) {
            if matches!(event, Event::Started { .. }) {
                std::fs::write(&self.0, "").unwrap();
            }
        }
    }
    let Some(folder) = told() else { return };
    let param = std::fs::read_to_string(folder.join("param")).unwrap();
    let graph = Graph::new("stopped".to_owned(), vec![alone("slow", json!({ param: true }))]);
    let store = Store::open(&folder.join("store")).unwrap();
    let interrupt = Interrupt::on_signals().unwrap();
    let plan = plan(&graph, &[0], &store, Numerics::CPU).unwrap();
    let options = Options { jobs: 1, keep_going: false, results: None, force_results: false, drawing: None };
    let summary = run(&graph, &plan, &store, &options, &mut Began(folder.join("began")), &interrupt).unwrap();
    std::fs::write(folder.join("code"), summary.exit_code().to_string()).unwrap();
}

/// The first Ctrl-C stops in order; the second one stops at once, also a stage that does not listen.
#[test]
#[cfg(unix)]
fn signals_stop_a_run() {
    for (param, signals) in [("until-stopped", 1), ("deaf", 2)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("param"), param).unwrap();
        let mut running = child("child_is_stopped", folder.path());
        while !folder.path().join("began").exists() {
            assert!(running.try_wait().unwrap().is_none(), "it ended before it began");
            std::thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..signals {
            let status = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
            assert!(status.success());
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = running.wait().unwrap();
        if signals == 1 {
            assert_eq!(std::fs::read_to_string(folder.path().join("code")).unwrap(), "130");
        } else {
            assert_eq!(status.code(), Some(130));
        }
        assert!(Store::open_existing(&folder.path().join("store")).unwrap().verify(1.0).unwrap().is_clean());
    }
}

/// No room left, at another moment each time: the shell limits the size of files, which a write meets in the same way as a full disk.
/// With every right, the long run also fills a real one.
#[test]
fn full_disks_damage_nothing() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = run_all(quiet.path()).outputs;
    let folder = tempfile::tempdir().unwrap();
    for round in 0..rounds(6, 20) {
        let blocks = 1 + round * 3 % 40;
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --exact child_runs --ignored");
        let mut limited = Command::new("sh");
        limited.args(["-c", &script]).arg(std::env::current_exe().unwrap());
        limited.env("STATCELL_TEST_FOLDER", folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        limited.status().unwrap();
        let Ok(store) = Store::open_existing(&folder.path().join("store")) else { continue };
        assert!(store.verify(1.0).unwrap().is_clean(), "{blocks} blocks");
    }
    let summary = run_all(folder.path());
    assert_eq!((summary.exit_code(), summary.outputs), (0, expected.clone()));
    for round in 0..rounds(0, 20) {
        let size = 100 + round * 60;
        let disk = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}k"), "tmpfs"])
            .arg(disk.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            continue;
        }
        child("child_runs", disk.path()).wait().unwrap();
        if let Ok(store) = Store::open_existing(&disk.path().join("store")) {
            assert!(store.verify(1.0).unwrap().is_clean(), "{size} KiB");
        }
        Command::new("mount").args(["-o", "remount,size=100m"]).arg(disk.path()).status().unwrap();
        let summary = run_all(disk.path());
        Command::new("umount").arg(disk.path()).status().unwrap();
        assert_eq!((summary.exit_code(), summary.outputs), (0, expected.clone()), "{size} KiB");
    }
}

#[test]
#[ignore = "a child process of another test"]
fn child_writes_too_much() {
    let Some(folder) = told() else { return };
    let store = Store::open(&folder.join("store")).unwrap();
    let small = store.put(b"small").unwrap();
    let error = store.put(&vec![7; 1 << 20]).unwrap_err();
    assert!(matches!(&error, StoreError::Io { path, .. } if path.starts_with(store.root())), "{error}");
    assert!(store.save_checkpoint(&small, 1, &vec![7; 1 << 20], true).is_err());
    assert_eq!(store.get(&store.put(b"small").unwrap()).unwrap(), b"small");
    std::fs::write(folder.join("done"), "").unwrap();
}

/// No room left: the shell limits the size of files, which a write meets in the same way as a full disk.
#[test]
fn no_room_left_damages_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact child_writes_too_much --ignored";
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("STATCELL_TEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() && folder.path().join("done").exists());
    let store = Store::open_existing(&folder.path().join("store")).unwrap();
    assert!(store.verify(1.0).unwrap().is_clean());
    let stats = store.stats().unwrap();
    assert_eq!((stats.blobs.files, stats.checkpoints.files, stats.temporary.files), (1, 0, 0));
}
