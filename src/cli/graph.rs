//! `statcell graph`: draws a pipeline.

use std::{io::Write, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{Failure, args::ChangeArgs};
use crate::graph::draw;

/// Draw the pipeline; a group of instances is one box
#[derive(Args, Debug)]
pub(super) struct GraphArgs {
    /// The pipeline: a TOML file
    pipeline: PathBuf,

    /// As what
    #[arg(long, value_enum, default_value_t = Format::Svg)]
    format: Format,

    #[command(flatten)]
    changes: ChangeArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Graphviz
    Dot,
    /// Mermaid, for Markdown
    Mermaid,
    /// A picture
    Svg,
}

/// Prints the drawing to `out`.
pub(super) fn graph(args: &GraphArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let graph = args.changes.load(&args.pipeline)?;
    let text = match args.format {
        Format::Dot => draw::dot(&graph),
        Format::Mermaid => draw::mermaid(&graph),
        Format::Svg => draw::svg(&graph),
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}
