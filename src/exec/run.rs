//! The dispatcher: puts everything that happens in one order, and decides what happens next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{Builder, Scope},
    time::{Duration, Instant},
};

use super::{
    Event, ExitCode, Interrupt, Listener, Outcome,
    host::ProgressSlot,
    local::{Ended, Failure, Job, execute},
    provenance::{self, Ancestor},
    results::{Contents, ResultFile, Results, ResultsError, kept_note, safe_name},
};
use crate::{
    artifact::ArtifactType,
    graph::{Graph, Instance},
    plan::{Decision, Plan, PlanError, Planner, Reasons},
    store::{ActionOutputs, Blobs, Digest, Root, Roots, Store},
};

/// Progress is passed on, and the wish to stop is looked at, this often.
const TICK: Duration = Duration::from_millis(100);

/// What the pipeline needs is written down at most this often while it runs.
const ROOTS_EVERY: Duration = Duration::from_secs(2);

/// An instance is tried again this often when its inputs or results are found damaged.
const RECOVERIES: usize = 5;

/// Stages recurse deeply where gradients flow backwards.
const STACK: usize = 16 << 20;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Instances that run side by side; at least one.
    pub jobs: usize,
    /// After a failure, go on with everything that does not depend on what failed.
    pub keep_going: bool,
    /// The results folder; `None`: nothing is copied.
    pub results: Option<PathBuf>,
    /// In the results folder, replace also what the user changed or put in a result's place.
    pub force_results: bool,
    /// Draws the pipeline for the report, as SVG.
    pub drawing: Option<fn(&Graph) -> String>,
}

/// A run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan does not hold.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The results folder cannot be used.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

impl From<&RunError> for ExitCode {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Plan(error) => error.into(),
            RunError::Results(error) => error.into(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How each instance ended that was looked at, by its position in the graph.
    pub outcomes: BTreeMap<usize, Outcome>,
    /// The outputs of the instances that are done, by position in the graph.
    pub outputs: BTreeMap<usize, ActionOutputs>,
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// Seconds of wall time.
    pub seconds: f64,
    /// Where the report lies, if the pipeline has one.
    pub report: Option<PathBuf>,
}

impl Summary {
    /// The exit code: that of the first instance, in the graph's order, that failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.interrupted {
            return ExitCode::Interrupted.number();
        }
        let failed = self.outcomes.values().find_map(|outcome| match outcome {
            Outcome::Failed { exit_code, .. } => Some(*exit_code),
            _ => None,
        });
        failed.unwrap_or(ExitCode::Done.number())
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.values().filter(|outcome| which(outcome)).count()
    }
}

/// What running instances tell the dispatcher.
pub(super) enum Message {
    /// It holds the lease and begins.
    Started { index: usize, reason: String },
    /// It has something to say.
    Note { index: usize, message: String },
    /// Its work ended.
    Ended { index: usize, ended: Ended },
    /// Its results were copied, with a note about what was left alone, or not.
    Published { index: usize, result: Result<Option<String>, ResultsError> },
}

/// Runs what a plan names: everything that is not cached, in the graph's order, as much side by side as `options` allow. The plan's
/// decisions are made again as inputs become known, so an unknown instance may turn out to be cached.
///
/// # Errors
/// [`RunError`] when it cannot begin. What fails later stands in the [`Summary`].
pub fn run(
    graph: &Graph,
    plan: &Plan,
    store: &Store,
    options: &Options,
    listener: &mut dyn Listener,
    interrupt: &Interrupt,
) -> Result<Summary, RunError> {
    let began = Instant::now();
    let results = match &options.results {
        Some(folder) => {
            let mut results = Results::open(folder, graph, options.force_results)?;
            let kept = results.remove_others(graph);
            Some((Mutex::new(results), kept_note(&kept)))
        }
        None => None,
    };
    let (results, kept) = results.unzip();
    // What this run finds or makes, garbage collection lets be until the run has ended.
    let _announced = store.announce();
    let planner = Planner::new(graph, store, plan.files.clone(), plan.numerics)?;
    let mut roots = planner.last().clone();
    let before = roots.instances.len();
    roots.instances.retain(|name, _| graph.find(name).is_some());
    let order: Vec<usize> = plan.steps.iter().map(|step| step.index).collect();
    let (sender, receiver) = channel();
    let mut run = Run {
        graph,
        store,
        options,
        interrupt,
        listener,
        results: results.as_ref(),
        dependencies: order.iter().map(|&index| (index, graph.dependencies(index))).collect(),
        waiting: order.iter().copied().collect(),
        order,
        planner,
        decided: BTreeMap::new(),
        planned: plan
            .steps
            .iter()
            .filter_map(|step| match &step.decision {
                Decision::Hit { key, outputs } => Some((step.index, (*key, outputs.clone()))),
                _ => None,
            })
            .collect(),
        known: BTreeMap::new(),
        keys: BTreeMap::new(),
        running: BTreeMap::new(),
        recoveries: BTreeMap::new(),
        recovering: BTreeSet::new(),
        outcomes: BTreeMap::new(),
        failed: None,
        roots_unsaved: roots.instances.len() != before,
        roots,
        roots_saved: Instant::now(),
        sender,
    };
    run.tell(&Event::RunStarted {
        pipeline: graph.pipeline.clone(),
        instances: run.order.iter().map(|&index| graph.instances[index].name.clone()).collect(),
        expected_hits: plan.counts().0,
    });
    if let Some(note) = kept.flatten() {
        run.note(None, note);
    }
    std::thread::scope(|scope| run.dispatch(scope, &receiver));
    run.finish(began)
}

/// An instance at work.
struct Running {
    began: Instant,
    progress: ProgressSlot,
    /// What it gave, while its results are copied.
    executed: Option<(ActionOutputs, Outcome)>,
    key: Digest,
}

struct Run<'a> {
    graph: &'a Graph,
    store: &'a Store,
    options: &'a Options,
    interrupt: &'a Interrupt,
    listener: &'a mut dyn Listener,
    results: Option<&'a Mutex<Results>>,
    dependencies: BTreeMap<usize, Vec<usize>>,
    order: Vec<usize>,
    /// Not begun yet, or to be done again.
    waiting: BTreeSet<usize>,
    planner: Planner<'a>,
    /// Decisions about waiting instances whose inputs are known.
    decided: BTreeMap<usize, Decision>,
    /// What the plan found cached.
    planned: BTreeMap<usize, (Digest, ActionOutputs)>,
    /// The outputs of instances that are done.
    known: BTreeMap<usize, ActionOutputs>,
    keys: BTreeMap<usize, Digest>,
    running: BTreeMap<usize, Running>,
    recoveries: BTreeMap<usize, usize>,
    /// Instances that are done again because something of theirs was damaged.
    recovering: BTreeSet<usize>,
    outcomes: BTreeMap<usize, Outcome>,
    /// The first one that failed.
    failed: Option<usize>,
    roots: Roots,
    roots_unsaved: bool,
    roots_saved: Instant,
    sender: Sender<Message>,
}

impl<'a> Run<'a> {
    fn tell(&mut self, event: &Event) {
        self.listener.hear(event);
    }

    fn note(&mut self, instance: Option<usize>, message: String) {
        let instance = instance.map(|index| self.graph.instances[index].name.clone());
        self.tell(&Event::Note { instance, message });
    }

    /// Whether nothing new is begun.
    fn is_stopping(&self) -> bool {
        self.interrupt.is_requested() || (self.failed.is_some() && !self.options.keep_going)
    }

    fn dispatch<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, receiver: &Receiver<Message>)
    where
        'a: 'scope,
    {
        loop {
            if !self.is_stopping() {
                self.begin_what_is_ready(scope);
            }
            if self.running.is_empty() {
                return;
            }
            match receiver.recv_timeout(TICK) {
                Ok(message) => self.handle(scope, message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the dispatcher holds a sender"),
            }
            self.pass_progress_on();
            self.save_roots(false);
        }
    }

    /// Begins waiting instances whose inputs are known: in the graph's order, as many as there are places.
    fn begin_what_is_ready<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        for index in self.waiting.clone() {
            let ready = self.dependencies[&index].iter().all(|dependency| self.known.contains_key(dependency));
            if !ready || !self.waiting.contains(&index) || self.is_stopping() {
                continue;
            }
            let decision = match self.decide(index) {
                Ok(decision) => decision,
                Err(error) => {
                    self.fail(index, (&error).into());
                    continue;
                }
            };
            match decision {
                Decision::Hit { key, outputs } => {
                    self.keys.insert(index, key);
                    if self.results_are_current(index, &outputs) {
                        self.done(index, outputs, Outcome::Hit);
                    } else if self.running.len() < self.options.jobs.max(1) {
                        self.publish(scope, index, outputs, Outcome::Hit);
                    }
                }
                Decision::Run { key, reasons } => {
                    // Another instance is at the same work: its result will be this one's.
                    let same = self.running.values().any(|running| running.key == key);
                    if !same && self.running.len() < self.options.jobs.max(1) {
                        self.keys.insert(index, key);
                        self.execute(scope, index, key, Reasons(&reasons).to_string());
                    } else if same {
                        self.decided.remove(&index);
                    }
                }
                Decision::Unknown { .. } => unreachable!("all inputs are known"),
            }
        }
    }

    fn decide(&mut self, index: usize) -> Result<Decision, PlanError> {
        if let Some(decision) = self.decided.get(&index) {
            return Ok(decision.clone());
        }
        let decision = match (self.planned.get(&index), self.planner.ingredients(index, &self.known)) {
            // What the plan saw a moment ago is not looked up again.
            (Some((key, outputs)), Ok(ingredients)) if ingredients.key() == *key => {
                Decision::Hit { key: *key, outputs: outputs.clone() }
            }
            _ => self.planner.decide(index, &self.known)?,
        };
        self.decided.insert(index, decision.clone());
        Ok(decision)
    }

    fn execute<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, index: usize, key: Digest, reason: String)
    where
        'a: 'scope,
    {
        let instance = &self.graph.instances[index];
        let ingredients = self.planner.ingredients(index, &self.known).expect("all inputs are known");
        let extent = instance.kind.extent();
        if !extent.is_empty() {
            // So that garbage collection keeps the checkpoints of work that is never finished.
            let root = self.root(index);
            root.checkpoints = Some(ingredients.checkpoints_key(extent));
            self.roots_unsaved = true;
        }
        let reason =
            if self.recovering.contains(&index) { "a part of its result was damaged".to_owned() } else { reason };
        let progress = ProgressSlot::default();
        let known = self.dependencies[&index].iter().map(|other| (*other, self.known[other].clone())).collect();
        let job = Job { index, instance, ingredients, key, known, reason, progress: ProgressSlot::clone(&progress) };
        let (store, interrupt, sender) = (self.store, self.interrupt, self.sender.clone());
        self.begin(scope, index, Running { began: Instant::now(), progress, executed: None, key }, move || {
            let ended = execute(&job, store, interrupt, &sender);
            let _ = sender.send(Message::Ended { index, ended });
        });
    }

    fn begin<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        index: usize,
        running: Running,
        work: impl FnOnce() + Send + 'scope,
    ) {
        self.waiting.remove(&index);
        self.decided.remove(&index);
        let name = safe_name(&self.graph.instances[index].name);
        match Builder::new().name(name).stack_size(STACK).spawn_scoped(scope, work) {
            Ok(_) => drop(self.running.insert(index, running)),
            Err(error) => {
                let message = format!("cannot start a thread: {error}");
                self.fail(index, Failure { message, help: None, code: ExitCode::StageFailed });
            }
        }
    }

    fn handle<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, message: Message)
    where
        'a: 'scope,
    {
        match message {
            Message::Started { index, reason } => {
                if let Some(running) = self.running.get_mut(&index) {
                    running.began = Instant::now();
                }
                let Instance { name, kind, .. } = &self.graph.instances[index];
                self.tell(&Event::Started { instance: name.clone(), kind: kind.name().to_owned(), reason });
            }
            Message::Note { index, message } => self.note(Some(index), message),
            Message::Ended { index, ended } => {
                self.pass_progress_on();
                self.running.remove(&index);
                match ended {
                    Ended::Hit(outputs) => self.publish_or_finish(scope, index, outputs, Outcome::Hit),
                    Ended::Executed { outputs, seconds } => {
                        self.publish_or_finish(scope, index, outputs, Outcome::Executed { seconds });
                    }
                    Ended::Failed(failure) => self.fail(index, failure),
                    Ended::Damaged { blobs, failure } => self.recover(index, &blobs, failure),
                    Ended::Interrupted => self.end(index, Outcome::Interrupted, 0),
                }
            }
            Message::Published { index, result } => {
                let running = self.running.remove(&index);
                let Some((outputs, outcome)) = running.and_then(|running| running.executed) else { return };
                match result {
                    Ok(kept) => {
                        if let Some(note) = kept {
                            self.note(Some(index), note);
                        }
                        self.done(index, outputs, outcome);
                    }
                    Err(error) => {
                        let failure = Failure::from(&error);
                        if let ResultsError::Store(error) = &error
                            && let Some(digest) = error.blob()
                        {
                            // All other bad blobs of the result are to be found now, too.
                            let _ = self.store.check_outputs(&outputs);
                            self.drop_result(index);
                            self.recover(index, &BTreeSet::from([digest]), failure);
                        } else {
                            self.fail(index, failure);
                        }
                    }
                }
            }
        }
    }

    // --- Results ------------------------------------------------------------------------------------------------

    /// The outputs that people open, with their ports.
    fn for_people<'o>(&self, index: usize, outputs: &'o ActionOutputs) -> Vec<(&'o String, Digest, bool)> {
        let ports = self.graph.instances[index].outputs.iter().filter(|port| port.for_people);
        let found = ports.filter_map(|port| {
            let (name, output) = outputs.get_key_value(&port.name)?;
            Some((name, output.tree, port.kind == ArtifactType::Report))
        });
        found.collect()
    }

    fn ancestors(&self, index: usize, outputs: &ActionOutputs) -> Vec<Ancestor> {
        let all = self.graph.with_ancestors(&[index]).into_iter();
        let found = all.filter_map(|other| {
            let outputs = if other == index { Some(outputs) } else { self.known.get(&other) }?;
            Some(Ancestor { index: other, key: *self.keys.get(&other)?, outputs: outputs.clone() })
        });
        found.collect()
    }

    fn results_version(&self, index: usize, outputs: &ActionOutputs) -> Option<Digest> {
        let ports = self.for_people(index, outputs);
        if ports.is_empty() {
            return None;
        }
        let mut text = String::new();
        for (port, tree, is_report) in ports {
            let version =
                if is_report { provenance::version(self.graph, &tree, &self.ancestors(index, outputs)) } else { tree };
            writeln!(text, "{port} {version}").expect("writing to a string");
        }
        Some(Digest::of(text.as_bytes()))
    }

    fn results_are_current(&self, index: usize, outputs: &ActionOutputs) -> bool {
        let Some(results) = self.results else { return true };
        let Some(version) = self.results_version(index, outputs) else { return true };
        let name = &self.graph.instances[index].name;
        // When somebody is copying, that copy is waited for on another thread.
        results.try_lock().is_ok_and(|results| results.is_current(name, &version))
    }

    fn publish_or_finish<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        index: usize,
        outputs: ActionOutputs,
        outcome: Outcome,
    ) where
        'a: 'scope,
    {
        if self.results_are_current(index, &outputs) {
            self.done(index, outputs, outcome);
        } else {
            self.publish(scope, index, outputs, outcome);
        }
    }

    /// Copies the results of an instance on a thread of its own.
    fn publish<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        index: usize,
        outputs: ActionOutputs,
        outcome: Outcome,
    ) where
        'a: 'scope,
    {
        let (Some(results), Some(version)) = (self.results, self.results_version(index, &outputs)) else {
            self.done(index, outputs, outcome);
            return;
        };
        let ports: Vec<(String, Digest, bool)> = self
            .for_people(index, &outputs)
            .into_iter()
            .map(|(port, tree, is_report)| (port.clone(), tree, is_report))
            .collect();
        let ancestors = if ports.iter().any(|port| port.2) { self.ancestors(index, &outputs) } else { Vec::new() };
        let key = self.keys[&index];
        let (graph, store, drawing) = (self.graph, self.store, self.options.drawing);
        let report = self.report_name(index);
        let sender = self.sender.clone();
        let running = Running {
            began: Instant::now(),
            progress: ProgressSlot::default(),
            executed: Some((outputs, outcome)),
            key,
        };
        self.begin(scope, index, running, move || {
            let publish = || {
                let name = &graph.instances[index].name;
                let mut results = results.lock().expect("no panic while locked");
                let folder = results.folder_of(name);
                let mut files = Vec::new();
                for (port, tree, is_report) in &ports {
                    for file in store.tree(tree)?.entries() {
                        if *is_report && file.name == "report.html" {
                            let drawing = drawing.map(|draw| draw(graph));
                            let section = provenance::section(graph, store, &ancestors, drawing.as_deref())?;
                            let html = store.get(&file.digest)?;
                            let html = provenance::with_section(&String::from_utf8_lossy(&html), &section);
                            files.push(ResultFile {
                                path: report.clone(),
                                contents: Contents::Bytes(html.into_bytes()),
                            });
                            continue;
                        }
                        files.push(ResultFile {
                            path: format!("{folder}/{}/{}", safe_name(port), file.name),
                            contents: Contents::Blob(file.digest),
                        });
                    }
                }
                let kept = results.publish(store, name, version, &files)?;
                Ok(kept_note(&kept))
            };
            // A panic here is a bug; the dispatcher must hear of the end all the same.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(publish)).unwrap_or_else(|_| {
                let source = std::io::Error::other("this is a bug in statcell: copying results panicked");
                Err(ResultsError::Io {
                    action: "copy results of",
                    path: graph.instances[index].name.clone().into(),
                    source,
                })
            });
            let _ = sender.send(Message::Published { index, result });
        });
    }

    /// Where the report of an instance lies below the results folder: the only report of a pipeline at the top.
    fn report_name(&self, index: usize) -> String {
        let reports = self.graph.instances.iter().filter(|instance| has_report(instance)).count();
        if reports <= 1 {
            "report.html".to_owned()
        } else {
            format!("{}.html", safe_name(&self.graph.instances[index].name))
        }
    }

    // --- Ends ---------------------------------------------------------------------------------------------------

    fn root(&mut self, index: usize) -> &mut Root {
        let Instance { name, kind, .. } = &self.graph.instances[index];
        let root = self.roots.instances.entry(name.clone()).or_insert_with(|| Root {
            kind: kind.name().to_owned(),
            key: None,
            checkpoints: None,
        });
        if root.kind != kind.name() {
            *root = Root { kind: kind.name().to_owned(), key: None, checkpoints: None };
        }
        root
    }

    fn done(&mut self, index: usize, outputs: ActionOutputs, outcome: Outcome) {
        let key = self.keys[&index];
        let root = self.root(index);
        if root.key != Some(key) {
            root.key = Some(key);
            self.roots_unsaved = true;
        }
        if outcome == Outcome::Hit {
            self.store.touch_action(self.graph.instances[index].kind.name(), &key);
        }
        let bytes = outputs.values().map(|output| output.bytes).sum();
        self.known.insert(index, outputs);
        self.waiting.remove(&index);
        self.recovering.remove(&index);
        self.end(index, outcome, bytes);
    }

    fn end(&mut self, index: usize, outcome: Outcome, bytes: u64) {
        self.waiting.remove(&index);
        self.decided.remove(&index);
        self.outcomes.insert(index, outcome.clone());
        let Instance { name, kind, .. } = &self.graph.instances[index];
        self.tell(&Event::Finished { instance: name.clone(), kind: kind.name().to_owned(), outcome, bytes });
    }

    /// An instance failed: what depends on it is not tried.
    fn fail(&mut self, index: usize, failure: Failure) {
        self.failed.get_or_insert(index);
        self.end(index, failure.outcome(), 0);
        let because = self.graph.instances[index].name.clone();
        let mut lost = BTreeSet::from([index]);
        for other in self.order.clone() {
            if self.dependencies[&other].iter().any(|dependency| lost.contains(dependency)) {
                lost.insert(other);
                if self.waiting.contains(&other) {
                    self.end(other, Outcome::Skipped { because: because.clone() }, 0);
                }
            }
        }
    }

    // --- Recovery -----------------------------------------------------------------------------------------------

    /// Forgets the result of an instance: it is done again.
    fn drop_result(&mut self, index: usize) {
        self.known.remove(&index);
        self.planned.remove(&index);
        self.decided.remove(&index);
        self.recovering.insert(index);
        if let Some(key) = self.keys.get(&index) {
            // An entry that cannot be removed is found incomplete, now that its blobs are gone.
            let _ = self.store.drop_action(self.graph.instances[index].kind.name(), key);
        }
    }

    /// Blobs that an instance needs are gone: whoever gave them is done again, and then the instance.
    fn recover(&mut self, index: usize, blobs: &BTreeSet<Digest>, failure: Failure) {
        let tries = self.recoveries.entry(index).or_default();
        *tries += 1;
        if *tries > RECOVERIES {
            self.fail(index, Failure { code: ExitCode::Store, ..failure });
            return;
        }
        self.planner.forget();
        self.decided.clear();
        self.planned.remove(&index);
        let mut producers = Vec::new();
        for producer in self.dependencies[&index].clone() {
            let Some(outputs) = self.known.get(&producer) else { continue };
            // Where one blob is damaged, others may be: all are looked at now, so that one more run mends all of them.
            let bad = self.store.check_outputs(outputs).map_or(true, |bad| !bad.is_empty());
            let needs = bad
                || outputs.values().any(|output| {
                    // A tree that cannot be read any more needs everything.
                    blobs.contains(&output.tree)
                        || self
                            .store
                            .tree(&output.tree)
                            .map_or(true, |tree| tree.entries().iter().any(|file| blobs.contains(&file.digest)))
                });
            if needs {
                producers.push(producer);
            }
        }
        let shown: Vec<String> = blobs.iter().take(3).map(Digest::short).collect();
        let names: Vec<String> =
            producers.iter().map(|&producer| format!("`{}`", self.graph.instances[producer].name)).collect();
        let again =
            if names.is_empty() { "it is tried again".to_owned() } else { format!("{} run again", names.join(", ")) };
        self.note(Some(index), format!("damaged or missing in the store: {}; {again}", shown.join(", ")));
        for producer in producers {
            self.drop_result(producer);
            self.waiting.insert(producer);
        }
        self.waiting.insert(index);
    }

    // --- Housekeeping -------------------------------------------------------------------------------------------

    /// Passes on what running instances told of their progress since the last time.
    fn pass_progress_on(&mut self) {
        let mut events = Vec::new();
        for (&index, running) in &self.running {
            let progress = running.progress.lock().expect("no panic while locked").take();
            if let Some(progress) = progress {
                events.push(Event::Progress {
                    instance: self.graph.instances[index].name.clone(),
                    done: progress.done,
                    total: progress.total,
                    unit: progress.unit.to_owned(),
                    message: progress.message,
                    seconds: running.began.elapsed().as_secs_f64(),
                });
            }
        }
        for event in &events {
            self.tell(event);
        }
    }

    /// Writes down what the pipeline needs. If that fails, garbage collection may take what it should not: worth a note.
    fn save_roots(&mut self, now: bool) {
        if self.roots_unsaved && (now || self.roots_saved.elapsed() > ROOTS_EVERY) {
            self.roots_unsaved = false;
            self.roots_saved = Instant::now();
            let mut instances = self.graph.instances.iter();
            let whole = instances.all(|it| self.roots.instances.get(&it.name).is_some_and(|root| root.key.is_some()));
            if let Err(error) = self.store.put_roots(&self.roots, whole) {
                self.note(None, format!("what this pipeline needs could not be written down: {error}"));
            }
        }
    }

    fn finish(mut self, began: Instant) -> Result<Summary, RunError> {
        self.save_roots(true);
        // Who asks to stop when all is done stops nothing.
        let stopped = self.outcomes.values().any(|outcome| *outcome == Outcome::Interrupted);
        let interrupted = self.interrupt.is_requested() && (stopped || !self.waiting.is_empty());
        if let Some(failed) = self.failed.filter(|_| !interrupted) {
            let because = self.graph.instances[failed].name.clone();
            for index in self.waiting.clone() {
                self.end(index, Outcome::Skipped { because: because.clone() }, 0);
            }
        }
        let (mut report, mut saved) = (None, Ok(()));
        if let Some(results) = self.results {
            let mut results = results.lock().expect("no panic while locked");
            saved = results.save();
            let found = self.known.keys().find(|&&index| has_report(&self.graph.instances[index]));
            report = found.map(|&index| results.folder().join(self.report_name(index)));
        }
        let summary = Summary {
            outcomes: self.outcomes.clone(),
            outputs: std::mem::take(&mut self.known),
            interrupted,
            seconds: began.elapsed().as_secs_f64(),
            report,
        };
        self.tell(&Event::RunFinished {
            executed: summary.count(|outcome| matches!(outcome, Outcome::Executed { .. })),
            hits: summary.count(|outcome| matches!(outcome, Outcome::Hit)),
            failed: summary.count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            skipped: summary.count(|outcome| matches!(outcome, Outcome::Skipped { .. })),
            interrupted,
            seconds: summary.seconds,
            report: summary.report.as_ref().map(|path| path.display().to_string()),
        });
        saved?;
        Ok(summary)
    }
}

fn has_report(instance: &Instance) -> bool {
    instance.outputs.iter().any(|port| port.for_people && port.kind == ArtifactType::Report)
}
