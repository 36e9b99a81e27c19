//! `statcell stages`: every stage kind with its parameters, defaults and ports.

use std::io::Write;

use clap::Args;

use super::Failure;
use crate::{
    exec::ExitCode,
    spec::{self, KindDescription},
    stages::registry,
};

/// List the stage kinds with their ports, parameters and defaults
#[derive(Args, Debug)]
pub(super) struct StagesArgs {
    /// Only these kinds
    kinds: Vec<String>,

    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// Prints the kinds to `out`.
pub(super) fn stages(args: &StagesArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let all = spec::describe(registry());
    for name in &args.kinds {
        if all.iter().all(|kind| kind.name != name) {
            let known = || all.iter().map(|kind| kind.name);
            let hint = spec::did_you_mean(name, known())
                .unwrap_or_else(|| format!("there is {}", known().collect::<Vec<_>>().join(", ")));
            return Err(Failure::new(ExitCode::BadPipeline, format!("there is no stage kind `{name}`"), Some(&hint)));
        }
    }
    let wanted = |kind: &KindDescription| args.kinds.is_empty() || args.kinds.iter().any(|name| kind.name == name);
    let kinds: Vec<KindDescription> = all.into_iter().filter(wanted).collect();
    let text = if args.json {
        serde_json::to_string_pretty(&kinds).expect("descriptions are plain data") + "\n"
    } else {
        spec::describe_text(&kinds, 100)
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}
