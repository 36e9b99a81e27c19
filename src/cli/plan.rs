//! `statcell plan`: what a run would do, and why.

use std::io::Write;

use clap::Args;

use super::{
    Failure,
    args::{PipelineArgs, StoreArgs},
};
use crate::{
    plan::{self, Decision, Reasons},
    store::Store,
};

/// Show what `run` would do and why, a line an instance; runs nothing
///
/// `hit`: the store has the result. `run`: it will be computed, for the reason given. `unknown`: something that it takes
/// from will be computed first; if that turns out as before, this is a hit.
#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,

    #[command(flatten)]
    store: StoreArgs,

    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// Prints the plan to `out`.
pub(super) fn plan(args: &PlanArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let graph = args.pipeline.changes.load(&args.pipeline.pipeline)?;
    let selected = graph.select(&args.pipeline.selectors)?;
    let store = Store::open(&args.store.store)?;
    let plan = plan::plan(&graph, &selected, &store, args.pipeline.numerics.resolve()?)?;
    if args.json {
        let text = serde_json::to_string_pretty(&plan).expect("plans are plain data");
        return writeln!(out, "{text}").map_err(Failure::output);
    }
    let width = plan.steps.iter().map(|step| step.instance.chars().count()).max().unwrap_or(0);
    for step in &plan.steps {
        let (verdict, why) = match &step.decision {
            Decision::Hit { .. } => ("hit", String::new()),
            Decision::Run { reasons, .. } => ("run", Reasons(reasons).to_string()),
            Decision::Unknown { because } => ("unknown", format!("waits for {}", listed(because))),
        };
        let line = format!("{:width$}  {verdict:7}  {why}", step.instance);
        writeln!(out, "{}", line.trim_end()).map_err(Failure::output)?;
    }
    Ok(())
}

fn listed(names: &[String]) -> String {
    match names {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("`{first}`, `{second}`, `{third}` and {} more", rest.len())
        }
        _ => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
