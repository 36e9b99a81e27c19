//! How the program ends.

use crate::{artifact::ArtifactError, plan::PlanError, stage::StageError, store::StoreError};

/// What the program's exit code means. These numbers stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for is done.
    Done = 0,
    /// A stage failed, for a reason that lies in the stage: training diverged, a program ended with an error; or a bug.
    StageFailed = 1,
    /// The arguments or the pipeline are wrong: also when the results, or a file that was asked for, cannot be written to where
    /// the arguments say.
    BadPipeline = 2,
    /// The input data cannot be worked with.
    BadInput = 3,
    /// The store is damaged beyond what it can heal, or cannot be written or read.
    Store = 4,
    /// The user asked to stop.
    Interrupted = 130,
}

impl ExitCode {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.number().into()
    }
}

impl From<&StoreError> for ExitCode {
    fn from(error: &StoreError) -> Self {
        match error {
            // Whoever gave the name is to blame, not the store.
            StoreError::Name { .. } => Self::StageFailed,
            _ => Self::Store,
        }
    }
}

impl From<&PlanError> for ExitCode {
    fn from(error: &PlanError) -> Self {
        match error {
            PlanError::Files(_) => Self::BadInput,
            PlanError::Store(error) => error.into(),
        }
    }
}

impl From<&StageError> for ExitCode {
    fn from(error: &StageError) -> Self {
        match error {
            StageError::Cancelled => Self::Interrupted,
            StageError::BadInput { .. } => Self::BadInput,
            StageError::Artifact(ArtifactError::Store(error)) => error.into(),
            StageError::Failed { .. } | StageError::Artifact(_) => Self::StageFailed,
        }
    }
}
