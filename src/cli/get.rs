//! `statcell get`: copies an artifact out of the store.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::{
    Failure,
    args::{ChangeArgs, NumericsArgs, StoreArgs},
};
use crate::{
    console::words,
    exec::{self, ExitCode, ResultsError},
    plan::{self, Decision},
    store::Store,
};

/// Copy a result out of the store into a folder
#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// The pipeline: a TOML file
    pipeline: PathBuf,

    /// Whose result, and which of its outputs: `shape.model`, `sweep[beta=0.5]`; without an output: the first
    #[arg(value_name = "INSTANCE[.PORT]")]
    result: String,

    /// The folder to copy to; made if it is not there, and left alone if it holds a file that is in the way
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    changes: ChangeArgs,

    #[command(flatten)]
    numerics: NumericsArgs,

    #[command(flatten)]
    store: StoreArgs,
}

/// Copies the artifact; prints the folder to `out`.
pub(super) fn get(args: &GetArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let graph = args.changes.load(&args.pipeline)?;
    let (index, port) = graph.output(&args.result)?;
    let store = Store::open_existing(&args.store.store)?;
    let plan = plan::plan(&graph, &[index], &store, args.numerics.resolve()?)?;
    let step = plan.step(index).expect("it was selected");
    let Decision::Hit { outputs, .. } = &step.decision else {
        let message = format!("the store has no result of `{}`", step.instance);
        let hint = format!("compute it: statcell run {} '{}'", args.pipeline.display(), step.instance);
        return Err(Failure::new(ExitCode::BadPipeline, message, Some(&hint)));
    };
    let tree = store.tree(&outputs[&port].tree)?;
    if let Some(entry) = tree.entries().iter().find(|entry| args.out.join(&entry.name).exists()) {
        let message = format!("`{}` is there already", args.out.join(&entry.name).display());
        return Err(Failure::new(ExitCode::BadPipeline, message, Some("choose another folder, or remove it")));
    }
    exec::copy_tree(&store, &tree, &args.out).map_err(|error| match error {
        ResultsError::Io { action, path, source } => Failure::file(action, &path, &source),
        ResultsError::Store(error) => error.into(),
    })?;
    eprint_line(&format!(
        "{} of `{}`: {}, {}",
        port,
        step.instance,
        words::count(tree.entries().len(), "file"),
        words::size(tree.total_size())
    ));
    writeln!(out, "{}", args.out.display()).map_err(Failure::output)
}

fn eprint_line(text: &str) {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(std::io::stderr(), "{text}");
}
