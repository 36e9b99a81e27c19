//! What happens in a run, in one order. Terminal, plain lines, JSON lines and the closing table only listen.

use serde::{Deserialize, Serialize};

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The cache had it.
    Hit,
    /// It was executed.
    Executed {
        /// Seconds of wall time.
        seconds: f64,
    },
    /// It failed.
    Failed {
        /// The error's message.
        message: String,
        /// Advice.
        help: Option<String>,
        /// The exit code that this failure asks for.
        exit_code: u8,
    },
    /// It was not tried, because another instance failed: one that it depends on, or one at which the run stopped.
    Skipped {
        /// The instance that failed.
        because: String,
    },
    /// The user asked to stop.
    Interrupted,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run begins.
    RunStarted {
        /// The pipeline's name.
        pipeline: String,
        /// Names of the instances that take part, in order.
        instances: Vec<String>,
        /// How many of them the plan expects to be cached.
        expected_hits: usize,
    },
    /// An instance begins to execute.
    Started {
        /// The instance.
        instance: String,
        /// Its stage kind.
        kind: String,
        /// Why it runs, in words.
        reason: String,
    },
    /// An instance tells how far it is.
    Progress {
        /// The instance.
        instance: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted, plural.
        unit: String,
        /// A few words.
        message: String,
        /// Seconds since the instance began.
        seconds: f64,
    },
    /// An instance, or the run (`None`), tells something worth a line.
    Note {
        /// The instance.
        instance: Option<String>,
        /// The line.
        message: String,
    },
    /// An instance ended.
    Finished {
        /// The instance.
        instance: String,
        /// Its stage kind.
        kind: String,
        /// How.
        outcome: Outcome,
        /// Bytes of its output artifacts.
        bytes: u64,
    },
    /// The run ended.
    RunFinished {
        /// Instances that were executed.
        executed: usize,
        /// Instances that the cache had.
        hits: usize,
        /// Instances that failed.
        failed: usize,
        /// Instances that were not tried.
        skipped: usize,
        /// Whether the user stopped it.
        interrupted: bool,
        /// Seconds of wall time.
        seconds: f64,
        /// Where the report lies, if the pipeline has one.
        report: Option<String>,
    },
}

/// Someone who listens to a run. Called from one thread at a time, in order.
pub trait Listener: Send {
    /// Something happened.
    fn hear(&mut self, event: &Event);
}
