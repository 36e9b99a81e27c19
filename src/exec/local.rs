//! Executes one instance on this machine: lease, run, publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use super::{
    ExitCode, Interrupt, Outcome, ResultsError,
    host::{LocalHost, ProgressSlot},
    run::Message,
};
use crate::{
    artifact::{Artifact, ArtifactType},
    graph::{Instance, Source},
    plan::{PlanError, keys::Ingredients},
    stage::{Context, FileInput, Inputs, Outputs, StageError},
    store::{ActionEntry, ActionOutputs, Blobs, Digest, Leasing, Presence, Published, RunFacts, Store, StoreError},
};

/// Results of work that took longer than this outlive a loss of power.
const PRECIOUS: Duration = Duration::from_secs(60);

/// How often one looks whether another process is done with the same work.
const LOOK: Duration = Duration::from_millis(100);

/// Why an instance did not end well.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// The message.
    pub(super) message: String,
    /// Advice.
    pub(super) help: Option<String>,
    /// The exit code that it asks for.
    pub(super) code: ExitCode,
}

impl Failure {
    /// As an outcome.
    pub(super) fn outcome(self) -> Outcome {
        Outcome::Failed { message: self.message, help: self.help, exit_code: self.code.number() }
    }

    fn bug(message: impl std::fmt::Display) -> Self {
        Self {
            message: format!("this is a bug in statcell: {message}"),
            help: Some("please report it with this message, the pipeline and the version".to_owned()),
            code: ExitCode::StageFailed,
        }
    }
}

impl From<&StoreError> for Failure {
    fn from(error: &StoreError) -> Self {
        Self { message: error.to_string(), help: error.advice().map(str::to_owned), code: error.into() }
    }
}

impl From<&ResultsError> for Failure {
    fn from(error: &ResultsError) -> Self {
        Self { message: error.to_string(), help: error.advice().map(str::to_owned), code: error.into() }
    }
}

impl From<&PlanError> for Failure {
    fn from(error: &PlanError) -> Self {
        match error {
            PlanError::Store(error) => error.into(),
            PlanError::Files(_) => Self { message: error.to_string(), help: None, code: error.into() },
        }
    }
}

impl From<&StageError> for Failure {
    fn from(error: &StageError) -> Self {
        let help = match error {
            StageError::BadInput { help, .. } | StageError::Failed { help, .. } => help.clone(),
            StageError::Artifact(crate::artifact::ArtifactError::Store(error)) => error.advice().map(str::to_owned),
            StageError::Artifact(_) | StageError::Cancelled => None,
        };
        Self { message: error.to_string(), help, code: error.into() }
    }
}

/// How an execution ended.
pub(super) enum Ended {
    /// Another process was doing the same, and this is its result.
    Hit(ActionOutputs),
    /// It ran.
    Executed { outputs: ActionOutputs, seconds: f64 },
    /// It failed.
    Failed(Failure),
    /// Blobs that it needs are damaged or missing.
    Damaged { blobs: BTreeSet<Digest>, failure: Failure },
    /// The user asked to stop.
    Interrupted,
}

/// What an execution needs.
pub(super) struct Job<'a> {
    pub(super) index: usize,
    pub(super) instance: &'a Instance,
    pub(super) ingredients: Ingredients,
    pub(super) key: Digest,
    /// The outputs of the instances that it takes from.
    pub(super) known: BTreeMap<usize, ActionOutputs>,
    /// Why it runs, in words.
    pub(super) reason: String,
    pub(super) progress: ProgressSlot,
}

/// Executes a job.
pub(super) fn execute(job: &Job, store: &Store, interrupt: &Interrupt, messages: &Sender<Message>) -> Ended {
    match try_execute(job, store, interrupt, messages) {
        Ok(ended) => ended,
        Err(error) => match error.blob() {
            Some(digest) => Ended::Damaged { blobs: BTreeSet::from([digest]), failure: (&error).into() },
            None => Ended::Failed((&error).into()),
        },
    }
}

fn try_execute(
    job: &Job,
    store: &Store,
    interrupt: &Interrupt,
    messages: &Sender<Message>,
) -> Result<Ended, StoreError> {
    let note = |message: String| drop(messages.send(Message::Note { index: job.index, message }));
    let kind = job.instance.kind;
    let mut told = false;
    let lease = loop {
        let holder = match store.lease(&job.key) {
            Leasing::Held(lease) => break lease,
            Leasing::Busy(holder) => holder,
        };
        if !std::mem::replace(&mut told, true) {
            note(format!("waits for process {} on {}, which does the same", holder.process, holder.host));
        }
        std::thread::sleep(LOOK);
        if interrupt.is_requested() {
            return Ok(Ended::Interrupted);
        }
    };
    // Between the plan and the lease another process may have done it.
    let found = store.lookup(kind.name(), &job.key, &job.instance.ports(), &mut Presence::default())?;
    if let Some(entry) = found {
        return Ok(Ended::Hit(entry.outputs));
    }
    let _ = messages.send(Message::Started { index: job.index, reason: job.reason.clone() });
    let inputs = inputs(job, store)?;
    let host = LocalHost::new(
        job.index,
        store,
        &job.ingredients,
        kind.extent(),
        ProgressSlot::clone(&job.progress),
        messages.clone(),
        interrupt,
    );
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| kind.run(&job.instance.params, &inputs, &Context::new(&host))));
    let elapsed = began.elapsed();
    let failure = match &result {
        Ok(Ok(_)) => None,
        Ok(Err(StageError::Cancelled)) if interrupt.is_requested() => return Ok(Ended::Interrupted),
        Ok(Err(error)) => Some(Failure::from(error)),
        Err(panic) => Some(Failure::bug(panic_message(panic.as_ref()))),
    };
    let blobs = host.bad_blobs();
    if !blobs.is_empty() {
        let failure = failure.unwrap_or_else(|| Failure::bug("a stage went on without an input that is damaged"));
        return Ok(Ended::Damaged { blobs, failure });
    }
    if let Some(failure) = failure {
        return Ok(Ended::Failed(failure));
    }
    let Ok(Ok(outputs)) = result else { unreachable!("every other result is a failure") };
    if let Some(wrong) = wrong_ports(job.instance, &outputs) {
        return Ok(Ended::Failed(Failure::bug(wrong)));
    }
    let mut entry = ActionEntry {
        key: job.key,
        kind: kind.name().to_owned(),
        ingredients: serde_json::to_value(&job.ingredients).expect("plain data"),
        checkpoints: host.checkpoints(),
        outputs: ActionOutputs::new(),
    };
    for (port, artifact) in &outputs {
        entry.outputs.insert(port.clone(), store.put_output(artifact.kind.name(), &artifact.tree)?);
    }
    let mut facts = RunFacts::now(elapsed.as_secs_f64());
    let items = host.item_keys();
    if !items.is_empty() {
        facts.items = Some(store.put(&items)?);
    }
    let outputs = match store.publish_action(&entry, &facts, elapsed > PRECIOUS)? {
        Published::New | Published::Same => entry.outputs,
        Published::Different(first) => {
            note(different(&entry.outputs, &first.outputs));
            first.outputs
        }
    };
    drop(lease);
    Ok(Ended::Executed { outputs, seconds: elapsed.as_secs_f64() })
}

fn different(ours: &ActionOutputs, first: &ActionOutputs) -> String {
    let ports = ours.iter().filter(|(port, output)| first.get(*port) != Some(output));
    let ports: Vec<String> = ports.map(|(port, _)| format!("`{port}`")).collect();
    format!(
        "gave another result than an earlier run of the same key ({}): the stage is not deterministic; the earlier result is kept",
        ports.join(", ")
    )
}

/// What a stage gave that it did not declare, or the reverse.
fn wrong_ports(instance: &Instance, outputs: &Outputs) -> Option<String> {
    let kind = instance.kind.name();
    for port in &instance.outputs {
        match outputs.get(&port.name) {
            None => return Some(format!("`{kind}` gave nothing at its port `{}`", port.name)),
            Some(artifact) if artifact.kind != port.kind => {
                let (given, declared) = (artifact.kind.name(), port.kind.name());
                return Some(format!("`{kind}` gave {given} at its port `{}`, which is of {declared}", port.name));
            }
            Some(_) => {}
        }
    }
    let strange = outputs.keys().find(|name| instance.outputs.iter().all(|port| port.name != **name))?;
    Some(format!("`{kind}` gave something at a port `{strange}` that it does not have"))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// Reads the trees of the inputs.
fn inputs(job: &Job, store: &Store) -> Result<Inputs, StoreError> {
    let mut inputs = Inputs::default();
    for (port, sources) in &job.instance.inputs {
        for (position, source) in sources.iter().enumerate() {
            match source {
                Source::Output { instance, port: from } => {
                    let output = &job.known[instance][from];
                    let artifact = Artifact { kind: artifact_type(&output.kind)?, tree: store.tree(&output.tree)? };
                    inputs.artifacts.entry(port.clone()).or_default().push(artifact);
                }
                Source::File { name, path } => {
                    let contents = &job.ingredients.inputs[port][position];
                    let crate::plan::keys::Content::File { digest, .. } = contents else {
                        unreachable!("ingredients are made from the same sources")
                    };
                    let file = FileInput { name: name.clone(), path: path.clone(), digest: *digest };
                    inputs.files.entry(port.clone()).or_default().push(file);
                }
            }
        }
    }
    Ok(inputs)
}

/// The type of an artifact by its name.
pub(super) fn artifact_type(name: &str) -> Result<ArtifactType, StoreError> {
    serde_json::from_value(serde_json::Value::from(name)).map_err(|_| StoreError::Malformed {
        what: "action entry",
        reason: format!("there are no artifacts of type `{name}`"),
    })
}
