//! `weights`: a model whose weights come from elsewhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::ArtifactType,
    model::{
        Parameters,
        artifact::write,
        import::{self, Description, ImportError},
    },
    stage::{
        Arity, Checked, Context, FileInput, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind,
    },
};

/// The stage kind.
pub(super) struct Weights;

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// Encoder and decoder as the paper's published program saved them, in either of PyTorch's file forms.
    #[default]
    Published,
    /// One file of safetensors, as `statcell import-weights` or a training gives it.
    Safetensors,
}

/// Parameters of `weights`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// `published`: the ports `encoder` and `decoder`; `safetensors`: the port `weights`.
    #[serde(default)]
    pub from: Source,
    /// Size in voxels of the images that the model was trained on: z, y, x (z = 1 in 2D); absent: the paper's, 64 × 160 × 96.
    #[serde(default)]
    #[schemars(inner(range(max = 4096)))]
    pub size: Option<[usize; 3]>,
    /// Side of a (cubic) voxel in µm.
    #[serde(default = "voxel_size")]
    #[schemars(range(max = 1000.0))]
    pub voxel_size: f64,
    /// Names of the channels that the model encodes, in order; absent: `membrane`, `dna` for two channels, `structure` for one.
    #[serde(default)]
    pub image_channels: Vec<String>,
    /// Names of a target model's structures in the order of its one-hot label; absent: `label-00`, `label-01`, …
    #[serde(default)]
    pub labels: Vec<String>,
    /// The β that the model was trained with, if known.
    #[serde(default)]
    #[schemars(range(max = 1.0))]
    pub beta: Option<f64>,
}

fn voxel_size() -> f64 {
    0.317
}

impl From<ImportError> for StageError {
    fn from(error: ImportError) -> Self {
        Self::bad_input(error.to_string())
    }
}

impl StageKind for Weights {
    type Params = Params;

    const NAME: &'static str = "weights";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "a model from weights that were trained elsewhere";

    fn inputs(params: Option<&Params>) -> Vec<Input> {
        let published = params.is_none_or(|params| params.from == Source::Published);
        let safetensors = params.is_none_or(|params| params.from == Source::Safetensors);
        let arity = if params.is_none() { Arity::Optional } else { Arity::One };
        let port = |name, about| Input::files(name, arity, about);
        let encoder = port("encoder", "the encoder as the published program saved it (.pth)");
        let decoder = port("decoder", "the decoder as the published program saved it (.pth)");
        let weights = port("weights", "all weights (.safetensors)");
        [(published, encoder), (published, decoder), (safetensors, weights)]
            .into_iter()
            .filter_map(|(wanted, port)| wanted.then_some(port))
            .collect()
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![Output::data("model", ArtifactType::Model, "the model")]
    }

    fn check(params: &Params, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if !(params.voxel_size.is_finite() && params.voxel_size > 0.0) {
            checked.problems.push(Problem::with("voxel-size", "a voxel's size must be above 0 µm"));
        }
        if params.beta.is_some_and(|beta| !(0.0..=1.0).contains(&beta)) {
            checked.problems.push(Problem::with("beta", "β lies between 0 and 1"));
        }
        let facts = checked.outputs.entry("model".to_owned()).or_default();
        facts.size = params.size;
        facts.dimensions = params.size.map(|size| if size[0] == 1 { 2 } else { 3 });
        if !params.image_channels.is_empty() {
            facts.channels = Some(params.image_channels.clone());
        }
        if !params.labels.is_empty() {
            facts.model = Some("target".to_owned());
        }
        checked
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let read = |port: &str| inputs.files(port).first().map_or_else(|| Err(missing(port)), FileInput::read);
        let parameters = match params.from {
            Source::Published => import::published(&read("encoder")?, &read("decoder")?, params.size)?,
            Source::Safetensors => {
                Parameters::from_safetensors(&read("weights")?).map_err(|e| StageError::bad_input(e.to_string()))?
            }
        };
        let description = Description {
            size: params.size,
            image_channels: params.image_channels.clone(),
            labels: params.labels.clone(),
            beta: params.beta,
            voxel_um: [params.voxel_size; 3],
        };
        let architecture = import::Facts::of(&parameters)?.architecture(&description)?;
        parameters.check(&architecture).map_err(|error| StageError::bad_input(error.to_string()))?;
        context.check()?;
        Ok(Outputs::from([("model".to_owned(), write(&architecture, &parameters, context.blobs())?)]))
    }
}

fn missing(port: &str) -> StageError {
    StageError::bad_input(format!("no file is given for `{port}`"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::{
        model::{ModelKind, artifact::read},
        store::Digest,
    };

    fn file(path: &Path) -> FileInput {
        FileInput {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            path: path.to_owned(),
            digest: Digest::of(&std::fs::read(path).unwrap()),
        }
    }

    fn run(json: serde_json::Value, files: &[(&str, &Path)], host: &MemoryHost) -> Result<Outputs, StageError> {
        let files = files.iter().map(|(port, path)| ((*port).to_owned(), vec![file(path)]));
        let inputs = Inputs { files: files.collect(), ..Inputs::default() };
        Weights::run(&params::<Weights>(json), &inputs, &Context::new(host))
    }

    #[test]
    fn published_and_safetensors_give_the_same_model() {
        let host = MemoryHost::default();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
        let (encoder, decoder) = (fixtures.join("target-3d-zip-enc.pth"), fixtures.join("target-3d-zip-dec.pth"));
        let files = [("encoder", encoder.as_path()), ("decoder", decoder.as_path())];
        let labels: Vec<String> = ('a'..='e').map(String::from).collect();
        let outputs = run(json!({ "size": [8, 24, 16], "labels": labels }), &files, &host).unwrap();
        let (architecture, parameters) = read(&outputs["model"], &host.blobs).unwrap();
        assert_eq!((architecture.kind, architecture.size), (ModelKind::Target, [8, 24, 16]));
        assert_eq!(architecture.labels, labels);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        std::fs::write(&path, parameters.to_safetensors()).unwrap();
        let settings = json!({ "from": "safetensors", "size": [8, 24, 16], "labels": labels });
        let again = run(settings, &[("weights", &path)], &host).unwrap();
        assert_eq!(again, outputs);

        let error = run(json!({ "size": [8, 24, 16], "labels": ["a"] }), &files, &host).unwrap_err();
        assert!(error.to_string().contains("1 labels are named; the weights have 5"), "{error}");
        let error = run(json!({ "size": [8, 24, 16] }), &[files[0], ("decoder", &encoder)], &host).unwrap_err();
        assert!(error.to_string().contains("the decoder is not one"), "{error}");
    }

    #[test]
    fn ports_follow_the_source() {
        let names = |value: Option<serde_json::Value>| {
            let params = value.map(params::<Weights>);
            Weights::inputs(params.as_ref()).into_iter().map(|input| input.name).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["encoder", "decoder", "weights"]);
        assert_eq!(names(Some(json!({}))), ["encoder", "decoder"]);
        assert_eq!(names(Some(json!({ "from": "safetensors" }))), ["weights"]);
    }
}
