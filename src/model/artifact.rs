//! A model as an artifact: `model.json` (the architecture) and `weights.safetensors`.

use super::{Architecture, ModelError, Parameters};
use crate::{
    artifact::{Artifact, ArtifactError, ArtifactType, ArtifactWriter},
    store::Blobs,
};

const ARCHITECTURE: &str = "model.json";
const WEIGHTS: &str = "weights.safetensors";

fn malformed(reason: &ModelError) -> ArtifactError {
    ArtifactError::Malformed { kind: ArtifactType::Model, reason: reason.to_string() }
}

/// Writes a model.
///
/// # Errors
/// When the parameters do not fit the architecture, or cannot be kept.
pub fn write(
    architecture: &Architecture,
    parameters: &Parameters,
    blobs: &dyn Blobs,
) -> Result<Artifact, ArtifactError> {
    architecture.check().and_then(|()| parameters.check(architecture)).map_err(|error| malformed(&error))?;
    let mut out = ArtifactWriter::new(ArtifactType::Model, blobs);
    out.put(ARCHITECTURE, &serde_json::to_vec_pretty(architecture).expect("plain data"))?;
    out.put(WEIGHTS, &parameters.to_safetensors())?;
    out.finish()
}

/// Reads the architecture only.
///
/// # Errors
/// When the artifact is no model.
pub fn read_architecture(artifact: &Artifact, blobs: &dyn Blobs) -> Result<Architecture, ArtifactError> {
    let architecture: Architecture = serde_json::from_slice(&artifact.read(blobs, ARCHITECTURE)?)
        .map_err(|error| malformed(&ModelError::Architecture(error.to_string())))?;
    architecture.check().map_err(|error| malformed(&error))?;
    Ok(architecture)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// When the artifact is no model, or its weights do not fit.
pub fn read(artifact: &Artifact, blobs: &dyn Blobs) -> Result<(Architecture, Parameters), ArtifactError> {
    let architecture = read_architecture(artifact, blobs)?;
    let parameters =
        Parameters::from_safetensors(&artifact.read(blobs, WEIGHTS)?).map_err(|error| malformed(&error))?;
    parameters.check(&architecture).map_err(|error| malformed(&error))?;
    Ok((architecture, parameters))
}
