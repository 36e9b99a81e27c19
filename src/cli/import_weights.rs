//! `statcell import-weights`: a checkpoint of the paper's published program, as safetensors.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::model::import::{self, Facts, ImportError};

/// Turns a checkpoint of the paper's published program into safetensors
///
/// The published program saves encoder and decoder apart, as PyTorch files. Both of PyTorch's file forms are read, without
/// Python, and nothing in them is executed. The stage `weights` uses the result, or the two files themselves, in a pipeline.
#[derive(Debug, clap::Args)]
pub struct ImportWeights {
    /// The encoder's file
    #[arg(long, value_name = "FILE.pth")]
    pub encoder: PathBuf,
    /// The decoder's file
    #[arg(long, value_name = "FILE.pth")]
    pub decoder: PathBuf,
    /// Where the weights go
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Size in voxels of the images that a 3D model was trained on, if it is not the paper's 64,160,96
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', num_args = 1..=3)]
    pub size: Option<Vec<usize>>,
}

/// Why `import-weights` failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportWeightsError {
    /// A file cannot be read or written.
    #[error("cannot {verb} `{path}`: {source}")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The size is not three numbers.
    #[error("`--size` needs three numbers, z, y and x, not {0}: `--size 64,160,96`")]
    Size(usize),
    /// The files are no such checkpoint.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// Reads both files, writes the weights, and gives a line that says what they are. The output is whole or not there.
///
/// # Errors
/// See [`ImportWeightsError`].
pub fn run(arguments: &ImportWeights) -> Result<String, ImportWeightsError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ImportWeightsError::File { verb: "read", path: path.clone(), source })
    };
    let size = three_sides(arguments.size.as_deref())?;
    let parameters = import::published(&read(&arguments.encoder)?, &read(&arguments.decoder)?, size)?;
    let Facts { dimensions, channels, latent, labels, .. } = Facts::of(&parameters)?;
    let out = &arguments.out;
    write_whole(out, &parameters.to_safetensors()).map_err(|source| ImportWeightsError::File {
        verb: "write",
        path: out.clone(),
        source,
    })?;
    let kind = if labels > 0 { format!("target model of {labels} structures") } else { "reference model".to_owned() };
    Ok(format!(
        "{dimensions}D {kind}, channels {channels:?}, {latent} latent dimensions, {} tensors",
        parameters.0.len()
    ))
}

/// Three sides, `64,160,96` or `64 160 96`.
pub(super) fn three_sides(sides: Option<&[usize]>) -> Result<Option<[usize; 3]>, ImportWeightsError> {
    let three = |sides: &[usize]| <[usize; 3]>::try_from(sides).map_err(|_| ImportWeightsError::Size(sides.len()));
    sides.map(three).transpose()
}

/// Writes a file: whole, or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // The umask decides who may read it, as with every file that people ask for.
    let mode = std::fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Parameters;

    #[test]
    fn a_checkpoint_becomes_safetensors() {
        let folder = tempfile::tempdir().unwrap();
        let fixture =
            |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(name);
        let mut arguments = ImportWeights {
            encoder: fixture("target-3d-zip-enc.pth"),
            decoder: fixture("target-3d-zip-dec.pth"),
            out: folder.path().join("weights.safetensors"),
            size: Some(vec![8, 24, 16]),
        };
        let line = run(&arguments).unwrap();
        assert!(line.contains("3D target model of 5 structures"), "{line}");
        let written = std::fs::read(&arguments.out).unwrap();
        assert_eq!(Facts::of(&Parameters::from_safetensors(&written).unwrap()).unwrap().channels, [4, 8, 16]);
        arguments.size = Some(vec![8, 24]);
        assert!(run(&arguments).unwrap_err().to_string().contains("three numbers"));
        arguments.size = Some(vec![8, 24, 16]);
        let decoder = std::mem::replace(&mut arguments.decoder, fixture("reference-2d-legacy-dec.pth"));
        let other = run(&arguments).unwrap_err().to_string();
        assert!(other.contains("not the two halves of one model"), "{other}");
        arguments.decoder = decoder;
        arguments.size = None;
        assert!(run(&arguments).unwrap_err().to_string().contains("say which size"));
        arguments.encoder = folder.path().join("none.pth");
        assert!(run(&arguments).unwrap_err().to_string().starts_with("cannot read"));
    }
}
