//! `statcell export`: results in the forms of other programs.

use std::{io::Write, path::PathBuf};

use clap::Subcommand;

use super::Failure;
use crate::{
    exec::ExitCode,
    model::{Parameters, export},
};

/// Writes results in the forms of other programs
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    form: Form,
}

#[derive(Debug, Subcommand)]
enum Form {
    Pytorch(Pytorch),
}

/// Weights as the paper's published program saves them
///
/// Writes encoder and decoder as PyTorch files (`torch.load`). The weights are a `.safetensors` file: that of a trained model
/// (`statcell get PIPELINE STAGE.model --out FOLDER`) or of `import-weights`. The optimiser's state is not in them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: statcell export pytorch weights.safetensors --encoder enc.pth --decoder dec.pth")]
struct Pytorch {
    /// The weights
    #[arg(value_name = "FILE.safetensors")]
    weights: PathBuf,
    /// Where the encoder goes
    #[arg(long, value_name = "FILE.pth")]
    encoder: PathBuf,
    /// Where the decoder goes
    #[arg(long, value_name = "FILE.pth")]
    decoder: PathBuf,
    /// Size in voxels of the images that the model was trained on, if it is not the paper's 64,160,96
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', num_args = 1..=3)]
    size: Option<Vec<usize>>,
}

/// Writes the files.
///
/// # Errors
/// [`Failure`]: bad input when the weights cannot be read or are of no model of the paper's.
pub(super) fn export(arguments: &ExportArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Form::Pytorch(arguments) = &arguments.form;
    let bad = |error: &dyn std::fmt::Display| Failure::new(ExitCode::BadInput, error, None);
    let size = super::import_weights::three_sides(arguments.size.as_deref())?;
    let bytes = std::fs::read(&arguments.weights)
        .map_err(|error| bad(&format!("cannot read `{}`: {error}", arguments.weights.display())))?;
    let parameters = Parameters::from_safetensors(&bytes).map_err(|error| bad(&error))?;
    let parts = export::published(&parameters, size).map_err(|error| bad(&error))?;
    for (path, bytes) in [&arguments.encoder, &arguments.decoder].into_iter().zip(&parts) {
        super::import_weights::write_whole(path, bytes).map_err(|error| Failure::file("write", path, &error))?;
        writeln!(out, "{}", path.display()).map_err(Failure::output)?;
    }
    Ok(())
}
