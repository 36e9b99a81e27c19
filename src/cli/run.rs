//! `statcell run`: runs what is not cached.

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroUsize,
    path::PathBuf,
};

use clap::Args;

use super::{
    Failure,
    args::{PipelineArgs, StoreArgs},
};
use crate::{
    console::{JsonLines, Listeners, Plain, Summary, Terminal},
    exec::{self, ExitCode, Interrupt, Options},
    graph::draw,
    plan,
    store::Store,
};

/// Run a pipeline: everything that is not in the store yet
///
/// Ctrl-C is safe: finished stages and checkpoints are kept, and the same command continues. Figures, tables and the report
/// go to `RESULTS/PIPELINE/`; the path of the report is what is printed on the standard output.
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    store: StoreArgs,

    /// Where figures, tables and the report go
    #[arg(long, value_name = "FOLDER", default_value = "results")]
    results: PathBuf,

    /// Replace also what you changed in the results folder, or put there in a result's place
    #[arg(long)]
    force_results: bool,

    /// How many stages run side by side; each uses all cores where it can. More jobs need more memory
    #[arg(long, short, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,

    /// After a failure, go on with everything that does not depend on what failed
    #[arg(long, short)]
    keep_going: bool,

    /// Write every event as a line of JSON to this file
    #[arg(long, value_name = "FILE.jsonl")]
    events: Option<PathBuf>,
}

/// Runs the pipeline; prints the path of the report to `out`.
pub(super) fn run(args: &RunArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let graph = args.pipeline.changes.load(&args.pipeline.pipeline)?;
    let selected = graph.select(&args.pipeline.selectors)?;
    let store = Store::open(&args.store.store)?;
    // What the plan finds cached, garbage collection lets be from now on.
    let _announced = store.announce();
    let plan = plan::plan(&graph, &selected, &store, args.pipeline.numerics.resolve()?)?;
    let mut listeners = Listeners::default();
    if io::stderr().is_terminal() {
        listeners.0.push(Box::new(Terminal::new()));
    } else {
        listeners.0.push(Box::new(Plain::new(io::stderr())));
    }
    if let Some(path) = &args.events {
        let lines = JsonLines::create(path).map_err(|error| Failure::file("write", path, &error))?;
        listeners.0.push(Box::new(lines));
    }
    listeners.0.push(Box::new(Summary::new(io::stderr())));
    let interrupt = Interrupt::on_signals()
        .map_err(|error| Failure::new(ExitCode::StageFailed, format!("cannot listen for Ctrl-C: {error}"), None))?;
    let options = Options {
        jobs: args.jobs.get(),
        keep_going: args.keep_going,
        results: Some(args.results.clone()),
        force_results: args.force_results,
        drawing: Some(draw::svg),
    };
    let summary = exec::run(&graph, &plan, &store, &options, &mut listeners, &interrupt)?;
    if let Some(report) = &summary.report {
        writeln!(out, "{}", report.display()).map_err(Failure::output)?;
    }
    match summary.exit_code() {
        0 => Ok(()),
        code => Err(Failure::told(code)),
    }
}
