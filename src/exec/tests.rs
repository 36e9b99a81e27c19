//! Runs of small graphs of a stage kind that exists only here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::{Spanned, de::DeValue};

use super::*;
use crate::{
    artifact::{ArtifactType, ArtifactWriter},
    graph::{Graph, Instance, Source},
    plan::{Decision, Plan, Reason, explain, plan},
    stage::{
        AnyStage, Arity, Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemWork, Numerics,
        Output, Outputs, StageError, Work,
    },
    store::{Blobs, Digest, Store, Tree},
};

/// A stage that joins texts. Parameters (all optional):
///
/// * `text`: its own part, in front of those of its inputs;
/// * `keep`: so many bytes of the whole are given (so that a change upstream may end here);
/// * `fail`: `bad-input`, `failed`, `panic`, `wait` (until interrupted), `other` (another text each time), `no-port`;
/// * `items`: maps over this many items, the letters of its inputs;
/// * `steps`: makes so many steps, with a checkpoint at each;
/// * `report`: gives a report.
struct Join {
    version: u32,
}

static JOIN: Join = Join { version: 1 };
static JOIN_2: Join = Join { version: 2 };

/// How often each text was made, over all tests: tests use texts of their own.
static RUNS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
static OTHER: AtomicUsize = AtomicUsize::new(0);

impl AnyStage for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn about(&self) -> &'static str {
        "joins texts"
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
        vec![
            Input::many("texts", ArtifactType::Files, "texts"),
            Input::files("files", Arity::Many, "texts outside the store"),
        ]
    }

    fn outputs(&self, params: Option<&Value>) -> Vec<Output> {
        let mut ports = vec![Output::for_people("text", ArtifactType::Files, "all texts in one")];
        if params.is_some_and(|params| params["report"] == true) {
            ports.push(Output::for_people("report", ArtifactType::Report, "a report"));
        }
        ports
    }

    fn check(&self, _: &Value, _: &InputFacts) -> Checked {
        Checked::default()
    }

    fn run(&self, params: &Value, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let mut text = params["text"].as_str().unwrap_or_default().to_owned();
        *RUNS.lock().unwrap().entry(text.clone()).or_default() += 1;
        match params["fail"].as_str() {
            Some("bad-input") => return Err(StageError::bad_input("no cells").with_help("add cells")),
            Some("failed") => return Err(StageError::failed("diverged")),
            Some("panic") => panic!("what a surprise"),
            Some("wait") => loop {
                context.check()?;
                context.progress(1, 2, "naps", "still here");
                std::thread::sleep(std::time::Duration::from_millis(5));
            },
            Some("other") => text.push_str(&OTHER.fetch_add(1, Ordering::SeqCst).to_string()),
            Some("no-port") => return Ok(Outputs::new()),
            _ => {}
        }
        for artifact in inputs.many("texts") {
            text.push_str(&String::from_utf8_lossy(&artifact.read(context.blobs(), "text")?));
        }
        for file in inputs.files("files") {
            text.push_str(&String::from_utf8_lossy(&file.read()?));
        }
        if params["items"] == true {
            let item = |letter: char| Work { name: letter.to_string(), item: letter, inputs: Vec::new() };
            let results = context.map(&Capitals {}, &[], &text.chars().map(item).collect::<Vec<_>>())?;
            text = String::new();
            for result in results {
                let bytes = context.blobs().get(&result.get("letter").unwrap().digest)?;
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        if let Some(steps) = params["steps"].as_u64() {
            let (from, mut state) = context.load_checkpoint(steps)?.unwrap_or((0, text.clone().into_bytes()));
            for step in from + 1..=steps {
                state.extend_from_slice(format!(".{step}").as_bytes());
                *RUNS.lock().unwrap().entry(format!("{text} step {step}")).or_default() += 1;
                context.save_checkpoint(step, &state, step == steps)?;
                context.progress(step, steps, "steps", "");
                context.check()?;
            }
            text = String::from_utf8(state).unwrap();
        }
        if let Some(keep) = params["keep"].as_u64() {
            text.truncate(keep as usize);
        }
        let mut out = ArtifactWriter::new(ArtifactType::Files, context.blobs());
        out.put("text", text.as_bytes())?;
        let mut outputs = Outputs::from([("text".to_owned(), out.finish()?)]);
        if params["report"] == true {
            let mut out = ArtifactWriter::new(ArtifactType::Report, context.blobs());
            out.put("report.html", b"<body><h1>Cells</h1><!-- statcell:made-by --></body>")?;
            outputs.insert("report".to_owned(), out.finish()?);
        }
        Ok(outputs)
    }
}

/// Makes capital letters.
#[derive(Serialize, Deserialize)]
struct Capitals {}

impl ItemWork for Capitals {
    type Item = char;
    type Shared = ();
    const UNIT: &'static str = "letters";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), letter: char, _: &ItemContext) -> Result<ItemFiles, StageError> {
        *RUNS.lock().unwrap().entry(format!("letter {letter}")).or_default() += 1;
        Ok(vec![("letter".to_owned(), letter.to_uppercase().to_string().into_bytes())])
    }
}

/// A pipeline in the making.
#[derive(Clone, Default)]
struct Pipeline(Vec<Instance>);

impl Pipeline {
    fn add(&mut self, name: &str, params: Value, inputs: &[&str]) -> &mut Self {
        self.add_kind(&JOIN, name, params, inputs)
    }

    fn add_kind(&mut self, kind: &'static dyn AnyStage, name: &str, params: Value, inputs: &[&str]) -> &mut Self {
        let source = |from: &&str| match self.0.iter().position(|instance| instance.name == **from) {
            Some(instance) => Source::Output { instance, port: "text".to_owned() },
            None => Source::File {
                name: Path::new(from).file_name().unwrap().to_str().unwrap().to_owned(),
                path: PathBuf::from(from),
            },
        };
        let sources: Vec<Source> = inputs.iter().map(source).collect();
        let (texts, files): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|source| matches!(source, Source::Output { .. }));
        let ports = [("files".to_owned(), files), ("texts".to_owned(), texts)];
        self.0.push(Instance {
            name: name.to_owned(),
            stage: name.to_owned(),
            axes: Vec::new(),
            kind,
            outputs: kind.outputs(Some(&params)),
            params,
            inputs: ports.into_iter().filter(|(_, sources)| !sources.is_empty()).collect(),
        });
        self
    }

    fn graph(&self) -> Graph {
        Graph::new("test".to_owned(), self.0.clone())
    }
}

/// Keeps all events.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Listener for Heard {
    fn hear(&mut self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    fn notes(&self) -> Vec<String> {
        let events = self.events().into_iter();
        events.filter_map(|event| if let Event::Note { message, .. } = event { Some(message) } else { None }).collect()
    }
}

/// A folder with a store in it.
struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn plan(&self, graph: &Graph) -> Plan {
        let all: Vec<usize> = (0..graph.instances.len()).collect();
        plan(graph, &all, &self.store, Numerics::CPU).unwrap()
    }

    fn run(&self, graph: &Graph) -> Ran {
        self.run_with(graph, &options())
    }

    fn run_with(&self, graph: &Graph, options: &Options) -> Ran {
        let heard = Heard::default();
        let plan = self.plan(graph);
        let summary = run(graph, &plan, &self.store, options, &mut heard.clone(), &Interrupt::default()).unwrap();
        Ran { summary, heard, names: graph.instances.iter().map(|instance| instance.name.clone()).collect() }
    }

    fn text(&self, ran: &Ran, name: &str) -> String {
        let tree = self.store.tree(&ran.outputs(name)["text"].tree).unwrap();
        String::from_utf8(self.store.get(&tree.get("text").unwrap().digest).unwrap()).unwrap()
    }

    /// The file of the blob with these bytes.
    fn blob(&self, text: &str) -> PathBuf {
        let name = Digest::of(text.as_bytes()).to_string();
        self.store.root().join("blobs").join(&name[..2]).join(&name[2..])
    }
}

fn options() -> Options {
    Options { jobs: 2, keep_going: false, results: None, force_results: false, drawing: None }
}

struct Ran {
    summary: Summary,
    heard: Heard,
    names: Vec<String>,
}

impl Ran {
    fn position(&self, name: &str) -> usize {
        self.names.iter().position(|other| other == name).unwrap()
    }

    fn outputs(&self, name: &str) -> &crate::store::ActionOutputs {
        &self.summary.outputs[&self.position(name)]
    }

    fn outcome(&self, name: &str) -> &Outcome {
        &self.summary.outcomes[&self.position(name)]
    }

    fn executed(&self) -> Vec<&str> {
        let outcomes = self.summary.outcomes.iter();
        let executed = outcomes.filter(|(_, outcome)| matches!(outcome, Outcome::Executed { .. }));
        executed.map(|(&index, _)| self.names[index].as_str()).collect()
    }
}

fn runs(text: &str) -> usize {
    RUNS.lock().unwrap().get(text).copied().unwrap_or_default()
}

/// `a` and `b` go into `c`, which goes into `d`.
fn diamond(a: &str, b: &str) -> Graph {
    let mut pipeline = Pipeline::default();
    pipeline.add("a", json!({ "text": a }), &[]).add("b", json!({ "text": b, "keep": 1 }), &[]);
    pipeline.add("c", json!({ "text": "-" }), &["a", "b"]).add("d", json!({ "text": "+" }), &["c"]);
    pipeline.graph()
}

#[test]
fn a_second_run_executes_nothing() {
    let place = Place::new();
    let graph = diamond("x", "y");
    let first = place.run(&graph);
    assert_eq!(first.executed(), ["a", "b", "c", "d"]);
    assert_eq!(place.text(&first, "d"), "+-xy");
    assert_eq!(place.plan(&graph).counts(), (4, 0, 0));
    let second = place.run(&graph);
    assert_eq!(second.executed(), Vec::<&str>::new());
    assert_eq!(second.summary.outputs, first.summary.outputs);
    assert_eq!(second.summary.exit_code(), 0);
    let events = second.heard.events();
    assert!(matches!(&events[0], Event::RunStarted { expected_hits: 4, .. }));
    assert!(matches!(events.last().unwrap(), Event::RunFinished { executed: 0, hits: 4, failed: 0, .. }));
}

#[test]
fn a_change_runs_what_depends_on_it_and_stops_where_bytes_are_the_same() {
    let place = Place::new();
    place.run(&diamond("x", "yz"));
    // Another text of `b`, of which only the first letter is given: `c` and `d` find their old results.
    let graph = diamond("x", "yy");
    let plan = place.plan(&graph);
    assert_eq!(plan.counts(), (1, 1, 2));
    assert_eq!(plan.steps[2].decision, Decision::Unknown { because: vec!["b".to_owned()] },);
    let Decision::Run { reasons, .. } = &plan.steps[1].decision else { panic!("{:?}", plan.steps[1]) };
    assert_eq!(reasons[0].to_string(), "`text` changed: \"yz\" → \"yy\"");
    assert_eq!(place.run(&graph).executed(), ["b"]);
    assert_eq!(place.run(&diamond("z", "yy")).executed(), ["a", "c", "d"]);
    // All that ever ran is remembered.
    assert_eq!(place.run(&diamond("x", "yz")).executed(), Vec::<&str>::new());
}

#[test]
fn names_and_places_are_no_part_of_identity() {
    let place = Place::new();
    std::fs::write(place.path("in.txt"), "file").unwrap();
    let make = |names: [&str; 2], file: &str| {
        let mut pipeline = Pipeline::default();
        pipeline.add(names[0], json!({ "text": "t" }), &[file]).add(names[1], json!({}), &[names[0]]);
        pipeline.graph()
    };
    let one = place.run(&make(["a", "b"], &place.path("in.txt")));
    assert_eq!(one.executed(), ["a", "b"]);
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    std::fs::rename(place.path("in.txt"), place.path("elsewhere/in.txt")).unwrap();
    let two = place.run(&make(["p", "q"], &place.path("elsewhere/in.txt")));
    assert_eq!(two.executed(), Vec::<&str>::new());
    // Written again with the same bytes: new times, same file.
    std::fs::write(place.path("elsewhere/in.txt"), "file").unwrap();
    assert_eq!(place.run(&make(["p", "q"], &place.path("elsewhere/in.txt"))).executed(), Vec::<&str>::new());
    std::fs::write(place.path("elsewhere/in.txt"), "other").unwrap();
    let graph = make(["p", "q"], &place.path("elsewhere/in.txt"));
    let Decision::Run { reasons, .. } = place.plan(&graph).steps[0].decision.clone() else { panic!("it runs") };
    assert!(matches!(&reasons[..], [Reason::FileChanged { name, .. }] if name == "in.txt"), "{reasons:?}");
    assert_eq!(place.run(&graph).executed(), ["p", "q"]);
}

#[test]
fn all_missing_files_are_named() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    let (one, two) = (place.path("one.tif"), place.path("two.tif"));
    pipeline.add("a", json!({}), &[&one]).add("b", json!({}), &[&two]);
    let error = plan(&pipeline.graph(), &[0, 1], &place.store, Numerics::CPU).unwrap_err();
    assert_eq!(ExitCode::from(&error), ExitCode::BadInput);
    let error = error.to_string();
    assert!(error.contains("one.tif` for `a`") && error.contains("two.tif` for `b`"), "{error}");
}

#[test]
fn every_kind_of_reason_is_told() {
    let place = Place::new();
    let make = |kind: &'static dyn AnyStage, params: Value, inputs: &[&str]| {
        let mut pipeline = Pipeline::default();
        pipeline.add("a", json!({ "text": "a" }), &[]).add("b", json!({ "text": "b" }), &[]);
        pipeline.add_kind(kind, "c", params, inputs);
        pipeline.graph()
    };
    let reasons = |graph: &Graph| match &place.plan(graph).steps[2].decision {
        Decision::Run { reasons, .. } => reasons.clone(),
        other => panic!("{other:?}"),
    };
    let params = json!({ "text": "c" });
    let base = make(&JOIN, params.clone(), &["a", "b"]);
    place.run(&make(&JOIN, json!({}), &[]));
    // `c` ran with other parameters and inputs.
    assert_eq!(reasons(&make(&JOIN_2, json!({}), &[])), [Reason::VersionChanged { old: 1, new: 2 }]);
    place.run(&base);
    assert_eq!(reasons(&make(&JOIN, params.clone(), &["b", "a"])), [Reason::OrderChanged { port: "texts".to_owned() }]);
    assert_eq!(
        reasons(&make(&JOIN, params.clone(), &["a"])),
        [Reason::InputRemoved { port: "texts".to_owned(), count: 1 }]
    );
    assert!(
        matches!(&reasons(&make(&JOIN, params.clone(), &["a", "a"]))[..], [Reason::InputChanged { source, .. }] if source == "a.text")
    );
    std::fs::remove_file(place.blob("cab")).unwrap();
    assert_eq!(reasons(&base), [Reason::ResultMissing]);
    let empty = Place::new();
    assert!(
        matches!(&empty.plan(&base).steps[0].decision, Decision::Run { reasons, .. } if *reasons == [Reason::NeverRan])
    );
}

#[test]
fn explanations_go_back_to_the_root() {
    let place = Place::new();
    place.run(&diamond("x", "y"));
    let graph = diamond("X", "y");
    let explain_d = |graph: &Graph| explain(graph, &place.plan(graph), &place.store, 3).unwrap().unwrap();
    let explanation = explain_d(&graph);
    assert_eq!(explanation.roots.len(), 1);
    assert_eq!(explanation.roots[0].path, ["a", "c", "d"]);
    assert!(matches!(&explanation.roots[0].reasons[..], [Reason::ParameterChanged { name, .. }] if name == "text"));
    // `a` alone runs; now `c` runs because its input changed: the root is still the text of `a`.
    let plan_a = plan(&graph, &[0], &place.store, Numerics::CPU).unwrap();
    run(&graph, &plan_a, &place.store, &options(), &mut Heard::default(), &Interrupt::default()).unwrap();
    let explanation = explain_d(&graph);
    assert_eq!(explanation.roots[0].path, ["a", "c", "d"]);
    assert!(matches!(&explanation.roots[0].reasons[..], [Reason::ParameterChanged { name, .. }] if name == "text"));
    place.run(&graph);
    assert_eq!(explain_d(&graph).roots, vec![]);
}

#[test]
fn a_failure_stops_the_run_or_only_what_depends_on_it() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    pipeline.add("bad", json!({ "fail": "bad-input" }), &[]).add("after", json!({ "text": "after" }), &["bad"]);
    pipeline.add("last", json!({ "text": "last" }), &["after"]).add("other", json!({ "text": "o" }), &[]);
    pipeline.add("other-2", json!({ "text": "o2" }), &["other"]);
    let graph = pipeline.graph();
    let mut options = Options { jobs: 1, ..options() };
    let ran = place.run_with(&graph, &options);
    let skipped = |because: &str| Outcome::Skipped { because: because.to_owned() };
    assert_eq!(ran.summary.exit_code(), 3);
    assert_eq!(
        *ran.outcome("bad"),
        Outcome::Failed { message: "no cells".to_owned(), help: Some("add cells".to_owned()), exit_code: 3 }
    );
    for name in ["after", "last", "other", "other-2"] {
        assert_eq!(*ran.outcome(name), skipped("bad"));
    }
    options.keep_going = true;
    let ran = place.run_with(&graph, &options);
    assert_eq!(ran.executed(), ["other", "other-2"]);
    assert_eq!(*ran.outcome("last"), skipped("bad"));
    assert_eq!(ran.summary.exit_code(), 3);
    assert!(matches!(
        ran.heard.events().last().unwrap(),
        Event::RunFinished { executed: 2, failed: 1, skipped: 2, .. }
    ));
}

#[test]
fn a_panic_is_told_as_a_bug_and_kills_nobody_else() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    pipeline.add("bug", json!({ "fail": "panic" }), &[]).add("other", json!({ "text": "fine" }), &[]);
    pipeline.add("forgetful", json!({ "fail": "no-port" }), &[]);
    let ran = place.run_with(&pipeline.graph(), &Options { keep_going: true, ..options() });
    assert_eq!(ran.executed(), ["other"]);
    let Outcome::Failed { message, help, exit_code: 1 } = ran.outcome("bug") else { panic!("it panicked") };
    assert_eq!(message, "this is a bug in statcell: what a surprise");
    assert!(help.as_ref().unwrap().contains("report"));
    assert!(
        matches!(ran.outcome("forgetful"), Outcome::Failed { message, .. } if message.contains("nothing at its port `text`"))
    );
}

/// Asks to stop once the slow stage tells of its progress.
struct Stopper(Interrupt, Heard);
impl Listener for Stopper {
    fn hear(&mut self, event: &Event) {
        self.1.hear(event);
        if matches!(event, Event::Progress { .. }) {
            self.0.request();
        }
    }
}

#[test]
fn an_interrupt_stops_and_the_next_run_goes_on() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    pipeline.add("first", json!({ "text": "1" }), &[]).add("slow", json!({ "fail": "wait" }), &["first"]);
    pipeline.add("never", json!({}), &["slow"]);
    let graph = pipeline.graph();
    let interrupt = Interrupt::default();
    let heard = Heard::default();
    let mut listener = Stopper(interrupt.clone(), heard.clone());
    let plan = place.plan(&graph);
    let summary = run(&graph, &plan, &place.store, &options(), &mut listener, &interrupt).unwrap();
    assert!(summary.interrupted);
    assert_eq!(summary.exit_code(), 130);
    assert_eq!(summary.outcomes[&1], Outcome::Interrupted);
    assert!(!summary.outcomes.contains_key(&2));
    assert!(matches!(heard.events().last().unwrap(), Event::RunFinished { interrupted: true, executed: 1, .. }));
    assert!(place.store.verify(1.0).unwrap().is_clean());
    assert_eq!(place.plan(&graph).counts(), (1, 1, 1));
}

/// Changes the bytes of a blob behind the store's back.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_blobs_are_made_again() {
    let place = Place::new();
    let graph = diamond("dam", "y");
    let first = place.run(&graph);
    // The blob that `c` needs is damaged; `c` runs because of its parameter.
    damage(&place.blob("dam"));
    let mut pipeline = Pipeline(graph.instances.clone());
    pipeline.0[2].params = json!({ "text": "/" });
    let changed = pipeline.graph();
    assert_eq!(place.plan(&changed).counts(), (2, 1, 1), "damage is not seen before the bytes are read");
    let ran = place.run(&changed);
    assert_eq!(ran.summary.exit_code(), 0, "{:?}", ran.summary.outcomes);
    assert_eq!(ran.executed(), ["a", "c", "d"]);
    assert_eq!(place.text(&ran, "d"), "+/damy");
    assert_eq!(ran.outputs("a"), first.outputs("a"));
    assert!(ran.heard.notes()[0].contains("`a` run again"), "{:?}", ran.heard.notes());
    assert!(place.store.verify(1.0).unwrap().is_clean());
}

#[test]
fn damage_is_recovered_from_through_several_stages() {
    let place = Place::new();
    let graph = diamond("deep", "y");
    place.run(&graph);
    // `d` is gone, what `c` gave is damaged, what `a` gave is missing.
    std::fs::remove_file(place.blob("+-deepy")).unwrap();
    damage(&place.blob("-deepy"));
    std::fs::remove_file(place.blob("deep")).unwrap();
    let ran = place.run(&graph);
    assert_eq!(ran.summary.exit_code(), 0, "{:?}", ran.heard.events());
    assert_eq!(ran.executed(), ["a", "c", "d"]);
    assert_eq!(place.text(&ran, "d"), "+-deepy");
}

#[test]
fn a_damaged_tree_is_made_again() {
    let place = Place::new();
    let graph = diamond("tree", "y");
    let first = place.run(&graph);
    let name = first.outputs("c")["text"].tree.to_string();
    damage(&place.store.root().join("blobs").join(&name[..2]).join(&name[2..]));
    let ran = place.run(&graph);
    assert_eq!(ran.executed(), ["c"]);
    assert_eq!(ran.summary.outputs, first.summary.outputs);
}

#[test]
fn damage_that_only_results_show_is_recovered_from() {
    let place = Place::new();
    let graph = diamond("res", "y");
    place.run(&graph);
    damage(&place.blob("res"));
    let with_results = Options { results: Some(place.folder.path().join("results")), ..options() };
    let ran = place.run_with(&graph, &with_results);
    assert_eq!(ran.summary.exit_code(), 0);
    assert_eq!(ran.executed(), ["a"]);
    assert_eq!(std::fs::read_to_string(place.path("results/test/a/text/text")).unwrap(), "res");
}

/// Damages what `a` gave whenever it is done.
struct Vandal(PathBuf);
impl Listener for Vandal {
    fn hear(&mut self, event: &Event) {
        if matches!(event, Event::Finished { instance, .. } if instance == "a") {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

#[test]
fn what_damages_again_and_again_ends() {
    let place = Place::new();
    let graph = diamond("vandal", "y");
    let plan = place.plan(&graph);
    let mut listener = Vandal(place.blob("vandal"));
    let summary = run(&graph, &plan, &place.store, &options(), &mut listener, &Interrupt::default()).unwrap();
    assert_eq!(summary.exit_code(), 4);
    assert!(matches!(&summary.outcomes[&2], Outcome::Failed { exit_code: 4, .. }));
}

#[test]
fn items_are_cached_one_by_one() {
    let place = Place::new();
    let make = |text: &str| {
        let mut pipeline = Pipeline::default();
        pipeline.add("letters", json!({ "text": text, "items": true }), &[]);
        pipeline.graph()
    };
    let first = place.run(&make("rst"));
    assert_eq!(place.text(&first, "letters"), "RST");
    place.run(&make("rstu"));
    assert_eq!((runs("letter r"), runs("letter u")), (1, 1));
    // An item whose blob is damaged is computed again, although the damage shows only when it is read.
    damage(&place.blob("S"));
    let ran = place.run(&make("tsr"));
    assert_eq!(place.text(&ran, "letters"), "TSR");
    assert_eq!((runs("letter s"), runs("letter t")), (2, 1));
    // Collection keeps the items of the last run, so that growing it costs only what is new.
    let collect = crate::store::GcOptions { grace: std::time::Duration::ZERO, ..Default::default() };
    place.store.gc(&collect).unwrap();
    place.run(&make("tsrv"));
    assert_eq!((runs("letter r"), runs("letter s"), runs("letter t"), runs("letter v")), (1, 2, 1, 1));
}

#[test]
fn longer_work_continues_from_a_checkpoint() {
    let place = Place::new();
    let make = |steps: u64| {
        let mut pipeline = Pipeline::default();
        pipeline.add("train", json!({ "text": "epochs", "steps": steps }), &[]);
        pipeline.graph()
    };
    place.run(&make(2));
    let ran = place.run(&make(4));
    assert_eq!(place.text(&ran, "train"), "epochs.1.2.3.4");
    assert_eq!((runs("epochs step 2"), runs("epochs step 3")), (1, 1));
    let ran = place.run(&make(3));
    assert_eq!(place.text(&ran, "train"), "epochs.1.2.3");
    assert_eq!((runs("epochs step 2"), runs("epochs step 3")), (1, 2), "the milestone at 2 was kept");
}

#[test]
fn what_is_not_deterministic_is_told_and_the_first_result_stays() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    pipeline.add("dice", json!({ "text": "dice", "fail": "other" }), &[]);
    let graph = pipeline.graph();
    let barrier = std::sync::Barrier::new(2);
    // Two stores without a lease between them: as when a lease was lost.
    let results: Vec<_> = std::thread::scope(|scope| {
        let one = || {
            let store = Store::open(place.store.root()).unwrap();
            let plan = plan(&graph, &[0], &store, Numerics::CPU).unwrap();
            barrier.wait();
            let heard = Heard::default();
            let summary = run(&graph, &plan, &store, &options(), &mut heard.clone(), &Interrupt::default()).unwrap();
            (summary.outputs, heard.notes())
        };
        let threads = [scope.spawn(one), scope.spawn(one)];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results[0].0, results[1].0, "both end with the first result");
    let Decision::Hit { key, .. } = place.plan(&graph).steps[0].decision.clone() else { panic!("it ran") };
    let mut entry = place.store.recorded("join", &key).unwrap().unwrap();
    let tree = Tree::default();
    entry.outputs.insert("text".to_owned(), place.store.put_output("files", &tree).unwrap());
    let published = place.store.publish_action(&entry, &crate::store::RunFacts::now(0.0), false).unwrap();
    assert!(matches!(published, crate::store::Published::Different(first) if first.outputs == results[0].0[&0]));
}

#[test]
fn two_processes_on_one_store_do_the_work_once() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    let names: Vec<String> = (0..12).map(|number| format!("race {number}")).collect();
    for name in &names {
        pipeline.add(name, json!({ "text": name }), &[]);
    }
    pipeline.add("all", json!({ "text": "all races" }), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let graph = pipeline.graph();
    let all: Vec<usize> = (0..graph.instances.len()).collect();
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let one = || {
            let store = Store::open(place.store.root()).unwrap();
            let plan = plan(&graph, &all, &store, Numerics::CPU).unwrap();
            let summary = run(&graph, &plan, &store, &options(), &mut Heard::default(), &Interrupt::default()).unwrap();
            assert_eq!(summary.exit_code(), 0, "{summary:?}");
            summary.outputs
        };
        let threads = [scope.spawn(one), scope.spawn(one), scope.spawn(one)];
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
    for name in &names {
        assert_eq!(runs(name), 1, "{name}");
    }
    assert!(place.store.verify(1.0).unwrap().is_clean());
}

#[test]
fn instances_that_are_the_same_run_once() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    for name in ["one", "two", "three"] {
        pipeline.add(name, json!({ "text": "triplets" }), &[]);
    }
    let ran = place.run(&pipeline.graph());
    assert_eq!(ran.executed(), ["one"]);
    assert_eq!(runs("triplets"), 1);
}

#[test]
fn outputs_do_not_depend_on_jobs() {
    let graph = diamond("jobs", "y");
    let outputs = [1, 2, 8].map(|jobs| Place::new().run_with(&graph, &Options { jobs, ..options() }).summary.outputs);
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn results_are_copied_and_the_report_says_how_it_was_made() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    pipeline.add("x[beta=0.5]", json!({ "text": "pe<ople" }), &[]);
    pipeline.add("report", json!({ "text": "r", "report": true }), &["x[beta=0.5]"]);
    let graph = pipeline.graph();
    let options = Options {
        results: Some(place.folder.path().join("results")),
        drawing: Some(|graph| format!("<svg>{}</svg>", graph.instances.len())),
        ..options()
    };
    let ran = place.run_with(&graph, &options);
    let report = ran.summary.report.clone().unwrap();
    assert_eq!(report, place.folder.path().join("results/test/report.html"));
    assert_eq!(std::fs::read_to_string(place.path("results/test/x-beta=0.5/text/text")).unwrap(), "pe<ople");
    let html = std::fs::read_to_string(&report).unwrap();
    for part in ["<h1>Cells</h1>", "How this was made", "<svg>2</svg>", "pe&lt;ople", "x[beta=0.5]", "</body>"] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    std::fs::remove_file(&report).unwrap();
    let ran = place.run_with(&graph, &options);
    assert_eq!(ran.executed(), Vec::<&str>::new());
    assert_eq!(std::fs::read_to_string(&report).unwrap(), html, "restored");
    // A folder that cannot be written is told before anything runs.
    let blocked = Options { results: Some(place.folder.path().join("results/test/report.html")), ..options };
    let plan = place.plan(&graph);
    let error = run(&graph, &plan, &place.store, &blocked, &mut Heard::default(), &Interrupt::default()).unwrap_err();
    assert_eq!(ExitCode::from(&error), ExitCode::BadPipeline);
}

#[test]
fn a_result_that_cannot_be_copied_is_not_lost() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    pipeline.add("blocked", json!({ "text": "blocked" }), &[]);
    let graph = pipeline.graph();
    std::fs::create_dir_all(place.path("results/test")).unwrap();
    std::fs::write(place.path("results/test/blocked"), "a file where a folder must be").unwrap();
    let options = Options { results: Some(place.folder.path().join("results")), ..options() };
    let ran = place.run_with(&graph, &options);
    assert!(matches!(ran.outcome("blocked"), Outcome::Executed { .. }), "{:?}", ran.summary);
    assert!(ran.heard.notes()[0].contains("results/test/blocked"), "{:?}", ran.heard.notes());
    std::fs::remove_file(place.path("results/test/blocked")).unwrap();
    let ran = place.run_with(&graph, &options);
    assert_eq!((ran.outcome("blocked"), ran.heard.notes()), (&Outcome::Hit, Vec::new()));
    assert_eq!(std::fs::read_to_string(place.path("results/test/blocked/text/text")).unwrap(), "blocked");
}

#[test]
fn collection_keeps_what_the_last_run_needs() {
    let place = Place::new();
    place.run(&diamond("old", "y"));
    let graph = diamond("new", "y");
    place.run(&graph);
    let collect = crate::store::GcOptions { grace: std::time::Duration::ZERO, ..Default::default() };
    let would = place.store.gc(&crate::store::GcOptions { dry_run: true, ..collect.clone() }).unwrap();
    assert_eq!(would.actions.len(), 3);
    assert_eq!(place.plan(&diamond("old", "y")).counts(), (4, 0, 0), "a dry run removes nothing");
    // What a plan found counts as used, and the clock of files has long ticks: without any grace, the next one is waited for.
    let tick = || std::thread::sleep(std::time::Duration::from_millis(30));
    tick();
    // What fits stays; all young things stay.
    let roomy = crate::store::GcOptions { max_size: Some(1 << 20), ..collect.clone() };
    assert_eq!(place.store.gc(&roomy).unwrap().actions, vec![]);
    assert_eq!(place.store.gc(&crate::store::GcOptions::default()).unwrap().actions, vec![]);
    let did = place.store.gc(&collect).unwrap();
    assert_eq!((did.actions, did.blobs), (would.actions, would.blobs));
    assert_eq!(place.plan(&graph).counts(), (4, 0, 0));
    assert_eq!(place.plan(&diamond("old", "y")).counts(), (1, 1, 2));
    assert!(place.store.verify(1.0).unwrap().is_clean());
    // A pipeline whose file is gone is kept until it is asked to be forgotten.
    tick();
    let forget = crate::store::GcOptions { forget_missing: true, ..collect };
    assert_eq!(place.store.gc(&forget).unwrap().forgotten.len(), 1);
    assert_eq!(place.store.stats().unwrap().blobs.files, 0);
}

/// Held to: 1000 unchanged instances planned in under 50 ms, a trivial instance executed in under 5 ms (in a release build).
#[test]
#[ignore = "a measurement: cargo test --release --lib measure -- --ignored --nocapture"]
#[expect(clippy::print_stdout, reason = "it is there to print")]
fn measure_a_thousand_instances() {
    let place = Place::new();
    let mut pipeline = Pipeline::default();
    for number in 0..1000 {
        let before = format!("s{}", number / 2);
        let inputs: &[&str] = if number == 0 { &[] } else { &[&before] };
        pipeline.add(&format!("s{number}"), json!({ "text": format!("m{number}"), "keep": 9 }), inputs);
    }
    let graph = pipeline.graph();
    for options in [options(), Options { results: Some(place.folder.path().join("results")), ..options() }] {
        let began = std::time::Instant::now();
        let executed = place.run_with(&graph, &options).executed().len();
        println!("{executed} executed: {:?}", began.elapsed());
        let began = std::time::Instant::now();
        place.plan(&graph);
        println!("planned: {:?}", began.elapsed());
        let began = std::time::Instant::now();
        place.run_with(&graph, &options);
        println!("planned and run again: {:?}", began.elapsed());
    }
}

// --- What must run: random pipelines against an oracle that knows nothing of keys -------------------------------------

/// A stage of a random pipeline: its text, how much it keeps, whom it takes from (earlier ones).
#[derive(Clone, Debug)]
struct Drawn {
    text: u8,
    keep: Option<u64>,
    from: Vec<usize>,
}

fn drawn_graph(stages: &[Drawn]) -> Graph {
    let mut pipeline = Pipeline::default();
    for (number, stage) in stages.iter().enumerate() {
        let mut params = json!({ "text": format!("{}", char::from(b'a' + stage.text)) });
        if let Some(keep) = stage.keep {
            params["keep"] = json!(keep);
        }
        let names: Vec<String> = stage.from.iter().map(|from| format!("s{from}")).collect();
        pipeline.add(&format!("s{number}"), params, &names.iter().map(String::as_str).collect::<Vec<_>>());
    }
    pipeline.graph()
}

/// What was done before: own text, what is kept, the texts of the inputs.
type Done = BTreeSet<(u8, Option<u64>, Vec<String>)>;

/// Runs the stages in mind. Gives their texts, and what had to be done that was not done before.
fn oracle(stages: &[Drawn], done: &mut Done) -> (Vec<String>, usize) {
    let (mut texts, mut new): (Vec<String>, usize) = (Vec::new(), 0);
    for stage in stages {
        let inputs: Vec<String> = stage.from.iter().map(|&from| texts[from].clone()).collect();
        let mut text = format!("{}{}", char::from(b'a' + stage.text), inputs.concat());
        if let Some(keep) = stage.keep {
            text.truncate(keep as usize);
        }
        texts.push(text);
        new += usize::from(done.insert((stage.text, stage.keep, inputs)));
    }
    (texts, new)
}

mod random {
    use super::*;
    use proptest::prelude::*;

    fn stages() -> impl Strategy<Value = Vec<Drawn>> {
        let one = (0_u8..3, prop::option::of(0_u64..3), prop::collection::vec(any::<prop::sample::Index>(), 0..3));
        prop::collection::vec(one, 1..7).prop_map(|drawn| {
            let stage = |(number, (text, keep, from)): (usize, (u8, Option<u64>, Vec<prop::sample::Index>))| Drawn {
                text,
                keep,
                from: if number == 0 { Vec::new() } else { from.iter().map(|index| index.index(number)).collect() },
            };
            drawn.into_iter().enumerate().map(stage).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        /// After any history of pipelines on one store, exactly what was never done before is executed, results are right,
        /// and the plan does not promise a hit that is none.
        #[test]
        fn exactly_what_must_run_runs(history in prop::collection::vec(stages(), 1..4)) {
            let place = Place::new();
            let mut done = Done::new();
            for stages in &history {
                let graph = drawn_graph(stages);
                let plan = place.plan(&graph);
                let (texts, new) = oracle(stages, &mut done);
                let ran = place.run(&graph);
                prop_assert_eq!(ran.summary.exit_code(), 0);
                prop_assert_eq!(ran.executed().len(), new);
                for (number, text) in texts.iter().enumerate() {
                    prop_assert_eq!(&place.text(&ran, &format!("s{number}")), text);
                }
                for step in &plan.steps {
                    let outcome = &ran.summary.outcomes[&step.index];
                    match &step.decision {
                        Decision::Hit { .. } => prop_assert_eq!(outcome, &Outcome::Hit),
                        Decision::Run { reasons, .. } => prop_assert!(!reasons.is_empty()),
                        Decision::Unknown { because } => prop_assert!(!because.is_empty()),
                    }
                }
                prop_assert_eq!(place.plan(&graph).counts(), (stages.len(), 0, 0));
            }
        }
    }
}
