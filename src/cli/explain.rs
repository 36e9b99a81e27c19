//! `statcell explain`: why an instance runs, back to what changed first.

use std::{fmt::Write as _, io::Write, path::PathBuf};

use clap::Args;

use super::{
    Failure,
    args::{ChangeArgs, NumericsArgs, StoreArgs},
};
use crate::{
    plan::{self, Decision, Explanation, Reasons, keys::Content},
    store::Store,
};

/// Explain why an instance is cached or runs, back to what changed first
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The pipeline: a TOML file
    pipeline: PathBuf,

    /// The instance: `shape`, `sweep[beta=0.5]`
    instance: String,

    #[command(flatten)]
    changes: ChangeArgs,

    #[command(flatten)]
    numerics: NumericsArgs,

    #[command(flatten)]
    store: StoreArgs,

    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// Prints the explanation to `out`.
pub(super) fn explain(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let graph = args.changes.load(&args.pipeline)?;
    let (index, _) = graph.output(&args.instance)?;
    let store = Store::open(&args.store.store)?;
    let plan = plan::plan(&graph, &[index], &store, args.numerics.resolve()?)?;
    let explanation = plan::explain(&graph, &plan, &store, index)?.expect("it was selected");
    let text = if args.json {
        serde_json::to_string_pretty(&explanation).expect("plain data") + "\n"
    } else {
        in_words(&explanation)
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}

fn in_words(explanation: &Explanation) -> String {
    let mut text = format!("{} ({})\n", explanation.instance, explanation.kind);
    // Writing to a string cannot fail.
    let mut line = |words: String| writeln!(text, "{words}").expect("a string");
    match &explanation.decision {
        Decision::Hit { key, .. } => line(format!("  hit: the store has the result of key {}", key.short())),
        Decision::Run { key, reasons } => {
            line(format!("  runs: {}", Reasons(reasons)));
            line(format!("  key {}", key.short()));
        }
        Decision::Unknown { because } => {
            line(format!("  may run: it takes from {}", because.join(", ")));
        }
    }
    for root in &explanation.roots {
        if root.path.len() > 1 {
            line(format!("  because {}: {}", root.path[0], Reasons(&root.reasons)));
            line(format!("    {}", root.path.join(" → ")));
        }
    }
    let Some(ingredients) = &explanation.ingredients else { return text };
    line(format!("  made of: {} version {}, {}", ingredients.kind, ingredients.version, ingredients.numerics));
    for (port, contents) in &ingredients.inputs {
        for content in contents {
            line(match content {
                Content::Artifact { kind, digest } => format!("    input {port}: {kind} {}", digest.short()),
                Content::File { name, digest } => format!("    file {port}: {name} {}", digest.short()),
            });
        }
    }
    if let Some(params) = ingredients.params.as_object() {
        for (name, value) in params {
            line(format!("    {name} = {value}"));
        }
    }
    text
}
