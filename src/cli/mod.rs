//! The command line, one file a subcommand.
//!
//! The standard output carries data alone (a plan, a drawing, a path); everything for people goes to the standard error.

mod args;
mod cache;
mod completions;
mod explain;
mod export;
mod failure;
mod get;
mod graph;
pub mod import_weights;
mod plan;
mod run;
mod schema;
mod stages;

use std::{ffi::OsString, io::Write};

use clap::{Parser, Subcommand};

pub use failure::Failure;

use crate::{exec::ExitCode, simd::Instructions};

/// Learns from 3D microscopy how cells are organised, in one command
///
/// A pipeline is a TOML file that names stages and what each takes from the others. statcell runs what is not in the
/// store yet, keeps every result there under a key made of contents, and leaves figures, tables and a report in a folder.
///
/// Begin with `statcell run pipelines/quickstart.toml`.
#[derive(Parser, Debug)]
#[command(name = "statcell", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 a stage failed, 2 bad arguments or pipeline, 3 bad input data,\n\
                        4 the store is damaged or cannot be written, 130 interrupted")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Use these vector instructions, which the processor must have; all give the same bytes
    #[arg(long, global = true, env = "STATCELL_INSTRUCTIONS", value_name = "SET", hide_short_help = true)]
    #[arg(value_parser = ["avx512", "avx2", "portable"])]
    instructions: Option<String>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    Plan(plan::PlanArgs),
    Explain(explain::ExplainArgs),
    Graph(graph::GraphArgs),
    Get(get::GetArgs),
    Cache(cache::CacheArgs),
    Schema(schema::SchemaArgs),
    Stages(stages::StagesArgs),
    ImportWeights(import_weights::ImportWeights),
    Export(export::ExportArgs),
    Completions(completions::CompletionsArgs),
    /// Runs a program of a `command` stage; statcell starts itself so
    #[command(hide = true)]
    Supervise {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<OsString>,
    },
}

/// Does what the arguments ask; data goes to `out`.
///
/// # Errors
/// [`Failure`], with the exit code and what to tell the user.
pub fn execute(cli: &Cli, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(name) = &cli.instructions {
        Instructions::choose(name).map_err(|reason| Failure::new(ExitCode::BadPipeline, reason, None))?;
    }
    match &cli.command {
        Command::Run(args) => run::run(args, out),
        Command::Plan(args) => plan::plan(args, out),
        Command::Explain(args) => explain::explain(args, out),
        Command::Graph(args) => graph::graph(args, out),
        Command::Get(args) => get::get(args, out),
        Command::Cache(args) => cache::cache(args, out),
        Command::Schema(args) => schema::schema(args, out),
        Command::Stages(args) => stages::stages(args, out),
        Command::ImportWeights(args) => {
            let line = import_weights::run(args).map_err(Failure::from)?;
            writeln!(out, "{line}").map_err(Failure::output)
        }
        Command::Export(args) => export::export(args, out),
        Command::Completions(args) => completions::completions(args, out),
        Command::Supervise { argv } => crate::stages::supervise(argv)
            .map_err(|error| Failure::new(ExitCode::StageFailed, format!("cannot supervise a program: {error}"), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
