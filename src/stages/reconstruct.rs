//! `reconstruct`: cells as a model sees them, decoded from the mean of each one's own latent position.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    inference::{Fit, Inference, check_fit, shown_channels, volumes},
    sample::with_masks,
};
use crate::{
    artifact::{ArtifactError, ArtifactType, CellImage, Cells, CellsDescription, CellsWriter},
    model::ModelKind,
    stage::{
        Checked, Context, Facts, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output,
        Outputs, StageError, StageKind, Work,
    },
};

/// The stage kind.
pub(super) struct Reconstruct;

/// Parameters of `reconstruct`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// Reconstruct control cells with a reference model too, where they are copies of other cells. A target model always does.
    #[serde(default)]
    pub with_controls: bool,
}

/// The name of the image in the result of an item.
const IMAGE: &str = "image.ome.tif";

impl StageKind for Reconstruct {
    type Params = Params;

    const NAME: &'static str = "reconstruct";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "decodes every cell from its own latent position: the same cells as a model sees them";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] =
        &[("with-controls", "it says which cells are decoded")];

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("model", ArtifactType::Model, "a reference or target model"),
            Input::one("cells", ArtifactType::Cells, "normalised cells of the model's size"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![Output::data(
            "cells",
            ArtifactType::Cells,
            "the cells under the same ids; masks by the paper's adaptive threshold",
        )]
    }

    fn check(_: &Params, inputs: &InputFacts) -> Checked {
        let facts = inputs.get("cells").and_then(|facts| facts.first());
        let known = Facts {
            size: facts.and_then(|facts| facts.size),
            dimensions: facts.and_then(|facts| facts.dimensions),
            ..Facts::default()
        };
        Checked { problems: check_fit(inputs, "model", "cells"), outputs: [("cells".to_owned(), known)].into() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let model = inputs.one("model");
        let inference = Inference::open(model, blobs)?;
        let architecture = inference.architecture();
        let cells = Cells::open(inputs.one("cells"), blobs)?;
        inference.fit(&cells.description)?;
        let controls = cells.table.flags("control")?;
        let target = architecture.kind == ModelKind::Target;
        let with_controls = params.with_controls || target;
        let rows: Vec<usize> = (0..cells.len()).filter(|&row| with_controls || !controls[row]).collect();
        let structures = cells.table.texts("structure")?;
        for &row in &rows {
            let about = |error: StageError| error.about(&format!("cell `{}`", cells.ids()[row]));
            inference.label(&structures[row]).map_err(about)?;
        }
        let description = CellsDescription { channels: shown_channels(architecture), ..cells.description.clone() };
        let items = rows.iter().map(|&row| {
            Ok(Work {
                name: format!("cell `{}`", cells.ids()[row]),
                item: if target { structures[row].clone() } else { String::new() },
                inputs: vec![ItemInput::Blob(cells.entry(row)?.digest)],
            })
        });
        let items = items.collect::<Result<Vec<_>, ArtifactError>>()?;
        let work = ReconstructCell { given: cells.description.clone() };
        let results = context.map(&work, &[ItemInput::Artifact(model)], &items)?;
        let mut writer = CellsWriter::new(description, blobs);
        for (&row, result) in rows.iter().zip(&results) {
            writer.link(&cells.ids()[row], &result.entries()[0]);
        }
        Ok(Outputs::from([("cells".to_owned(), writer.finish(&cells.table.select(&rows))?)]))
    }
}

/// Decodes one cell.
#[derive(Serialize, Deserialize)]
struct ReconstructCell {
    /// What the given cells are like.
    given: CellsDescription,
}

impl ItemWork for ReconstructCell {
    /// The structure that a target model takes; empty for a reference model.
    type Item = String;
    type Shared = (Inference, Fit);
    const UNIT: &'static str = "cells";

    fn open(&self, inputs: &ItemContext) -> Result<(Inference, Fit), StageError> {
        let model = inputs.artifact(0).ok_or_else(|| StageError::failed("there is no model"))?;
        let inference = Inference::open(model, inputs.blobs())?;
        let fit = inference.fit(&self.given)?;
        Ok((inference, fit))
    }

    fn run(
        &self,
        (inference, fit): &(Inference, Fit),
        structure: String,
        inputs: &ItemContext,
    ) -> Result<ItemFiles, StageError> {
        let architecture = inference.architecture();
        let images = fit.images(&CellImage::decode(&inputs.bytes(0)?, &self.given)?);
        let condition = images.condition(inference.label(&structure)?);
        let (mu, _) = inference.encode(&images.encoded, condition)?;
        let decoded = inference.decode(&mu, condition)?;
        let channels = shown_channels(architecture);
        let image = with_masks(volumes(architecture, &images.reference, &decoded), &channels);
        let description = CellsDescription { channels, ..self.given.clone() };
        Ok(vec![(IMAGE.to_owned(), image.encode(&description)?)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{
        inference::tests::tiny_model,
        testing::{MemoryHost, noisy_cells, params},
    };
    use super::*;
    use crate::model::{Vae, artifact::read};

    #[test]
    fn cells_keep_their_ids_and_are_decoded_from_their_own_position() {
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Reference, &host.blobs);
        let cells = noisy_cells(&host, &["a", "b"], &["golgi", ""]);
        let ports = [("model", &model), ("cells", &cells)];
        let outputs = host.run::<Reconstruct>(&params::<Reconstruct>(json!({})), &ports).unwrap();
        let decoded = Cells::open(&outputs["cells"], &host.blobs).unwrap();
        assert_eq!(decoded.ids(), ["a", "b"]);
        assert_eq!(decoded.description.channels, ["membrane", "dna"]);
        assert_eq!(decoded.table, Cells::open(&cells, &host.blobs).unwrap().table);

        let (architecture, parameters) = read(&model, &host.blobs).unwrap();
        let vae = Vae::from_parameters(&architecture, &parameters).unwrap();
        let image = Cells::open(&cells, &host.blobs).unwrap().image(1).unwrap();
        let given: Vec<f32> = image.channels[..2].iter().flat_map(|channel| channel.data.clone()).collect();
        let (mu, _) = vae.encode(&given, None).unwrap();
        let expected = vae.decode(&mu, None).unwrap();
        let found = decoded.image(1).unwrap().channels[1].data.clone();
        let close = |(a, b): (&f32, &f32)| (a.clamp(0.0, 1.0) - b).abs() < 1e-4;
        assert!(expected[256..].iter().zip(&found).all(close));
    }

    #[test]
    fn a_target_model_keeps_the_reference_as_it_was() {
        let host = MemoryHost::default();
        let model = tiny_model(ModelKind::Target, &host.blobs);
        let cells = noisy_cells(&host, &["a", "b"], &["golgi", "nucleoli"]);
        let ports = [("model", &model), ("cells", &cells)];
        let outputs = host.run::<Reconstruct>(&params::<Reconstruct>(json!({})), &ports).unwrap();
        let decoded = Cells::open(&outputs["cells"], &host.blobs).unwrap().image(0).unwrap();
        let given = Cells::open(&cells, &host.blobs).unwrap().image(0).unwrap();
        assert_eq!(decoded.channels[..2], given.channels[..2]);
        assert_ne!(decoded.channels[2], given.channels[2]);
        host.run::<Reconstruct>(&params::<Reconstruct>(json!({})), &ports).unwrap();
        assert_eq!(host.recalled(), 2);
    }
}
