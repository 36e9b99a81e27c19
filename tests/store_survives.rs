//! The store survives what happens to processes: killed at any moment, no room left, racing with others.
//!
//! Child processes are this test program itself, told by an environment variable which of the `child_…` functions to be.

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
        let mut seed = params.to_string();
        for artifact in inputs.many("in") {
            for file in artifact.tree.entries() {
                seed.push_str(&Digest::of(&artifact.read(context.blobs(), &file.name)?).to_string());
            }
        }
        let item = |number| stage::Work { name: format!("item {number}"), item: number, inputs: Vec::new() };
        let mapped = context.map(&Noise { seed: seed.clone() }, &[], &(0..6).map(item).collect::<Vec<_>>())?;
        let (from, mut state) = context.load_checkpoint(5)?.unwrap_or((0, seed.clone().into_bytes()));
        for step in from + 1..=5 {
            state = Digest::of(&state).as_bytes().repeat(500);
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
}

impl ItemWork for Noise {
    type Item = usize;
    type Shared = ();
    const UNIT: &'static str = "items";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), number: usize, _: &ItemContext) -> Result<ItemFiles, StageError> {
        Ok(vec![("it".to_owned(), noise(&self.seed, number, 9000))])
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

struct Nobody;

impl Listener for Nobody {
    fn hear(&mut self, _: &Event) {}
}

fn run_all(folder: &Path) -> Summary {
    let graph = graph();
    let store = Store::open(&folder.join("store")).unwrap();
    let all: Vec<usize> = (0..graph.instances.len()).collect();
    let plan = plan(&graph, &all, &store, Numerics::CPU).unwrap();
    let options = Options { jobs: 2, keep_going: false, results: Some(folder.join("results")), drawing: None };
    run(&graph, &plan, &store, &options, &mut Nobody, &Interrupt::default()).unwrap()
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
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", function, "--ignored", "--nocapture"]).env("STATCELL_TEST_FOLDER", folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "a child process of other tests"]
fn child_runs() {
    if let Some(folder) = told() {
        run_all(&folder);
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
    for round in 0..24_u64 {
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
    assert!(run_all(folder.path()).outcomes.values().all(|outcome| *outcome == Outcome::Hit));
    // What the killed left behind can be collected once it is old.
    let store = Store::open_existing(&folder.path().join("store")).unwrap();
    for left in std::fs::read_dir(store.root().join("tmp")).unwrap() {
        let file = std::fs::File::open(left.unwrap().path()).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }
    store.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() }).unwrap();
    assert_eq!(store.stats().unwrap().temporary.files, 0);
    assert!(run_all(folder.path()).outcomes.values().all(|outcome| *outcome == Outcome::Hit));
}

/// Collection beside running processes takes nothing that they need.
#[test]
fn collection_beside_runs_harms_nobody() {
    let quiet = tempfile::tempdir().unwrap();
    let expected = run_all(quiet.path()).outputs;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let mut running = child("child_runs", folder.path());
    while running.try_wait().unwrap().is_none() {
        // Without any grace, only leases and roots protect what is being made.
        store.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() }).unwrap();
        store.gc(&GcOptions::default()).unwrap();
    }
    assert!(store.verify(1.0).unwrap().is_clean());
    let summary = run_all(folder.path());
    assert_eq!(summary.exit_code(), 0);
    assert_eq!(summary.outputs, expected);
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
    let options = Options { jobs: 1, keep_going: false, results: None, drawing: None };
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
