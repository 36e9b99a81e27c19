//! How a command fails: an exit code, and what the user is told.

use std::io::{self, IsTerminal};

use crate::{
    artifact::ArtifactError,
    cli::import_weights::ImportWeightsError,
    exec::{ExitCode, ResultsError, RunError},
    graph::SelectorError,
    plan::PlanError,
    spec::SpecErrors,
    store::StoreError,
};

/// A command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// The exit code: a number of [`ExitCode`].
    pub code: u8,
    /// What the user is told on the standard error, line ends included; empty when they were told already.
    pub text: String,
}

impl Failure {
    /// A failure with a message and perhaps a hint.
    pub fn new(code: ExitCode, message: impl std::fmt::Display, hint: Option<&str>) -> Self {
        let hint = hint.map_or(String::new(), |hint| format!("hint: {hint}\n"));
        Self { code: code.number(), text: format!("error: {message}\n{hint}") }
    }

    /// The user was told already.
    pub fn told(code: u8) -> Self {
        Self { code, text: String::new() }
    }

    /// The standard output cannot be written. A reader that went away (`statcell stages | head`) is no failure.
    #[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` takes")]
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::told(ExitCode::Done.number());
        }
        Self::new(ExitCode::StageFailed, format!("cannot write to the standard output: {error}"), None)
    }

    /// A file or folder that the user named cannot be written.
    pub fn file(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(ExitCode::BadPipeline, format!("cannot {action} `{}`: {error}", path.display()), None)
    }
}

impl From<SpecErrors> for Failure {
    fn from(errors: SpecErrors) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { code: ExitCode::BadPipeline.number(), text: errors.render(terminal, 100) }
    }
}

impl From<SelectorError> for Failure {
    fn from(error: SelectorError) -> Self {
        Self::new(ExitCode::BadPipeline, &error.message, error.help.as_deref())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new((&error).into(), &error, error.advice())
    }
}

impl From<ResultsError> for Failure {
    fn from(error: ResultsError) -> Self {
        Self::new((&error).into(), &error, error.advice())
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Store(error) => error.into(),
            PlanError::Files(_) => Self::new((&error).into(), &error, None),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Plan(error) => error.into(),
            RunError::Results(error) => error.into(),
        }
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Store(error) => error.into(),
            other => Self::new(ExitCode::Store, other, None),
        }
    }
}

impl From<ImportWeightsError> for Failure {
    fn from(error: ImportWeightsError) -> Self {
        let code = match error {
            ImportWeightsError::Size(_) => ExitCode::BadPipeline,
            _ => ExitCode::BadInput,
        };
        Self::new(code, error, None)
    }
}
