//! Intensities of single cells to [0, 1].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::each_cell::{EachCell, each_cell};
use crate::{
    artifact::{ArtifactType, CellImage, Cells, CellsDescription},
    image::Volume,
    stage::{Checked, Context, Facts, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// Normalises the intensities of cells.
pub(super) struct Normalize;

/// How an intensity channel is scaled, after its background was subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Method {
    /// The brightest voxel becomes 1.
    Maximum,
    /// The voxel at `percentile` becomes 1, brighter ones too.
    Percentile,
    /// All voxels together become `total`, as the published program can do; values above 1 become 1.
    ConstantSum,
}

/// How intensities are normalised.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NormalizeParams {
    /// What becomes 1: `maximum`, `percentile`; or `constant-sum`.
    #[serde(default = "maximum")]
    pub(super) method: Method,
    /// The percentile that becomes 1 under `method = "percentile"`; of the voxels inside the mask, where masks are applied.
    #[serde(default = "default_percentile")]
    #[schemars(range(max = 100.0))]
    pub(super) percentile: f64,
    /// The sum of a channel under `method = "constant-sum"`. The default is the published program's, meant for 2D images of
    /// 160 × 96.
    #[serde(default = "default_total")]
    #[schemars(range(max = 1e12))]
    pub(super) total: f64,
    /// Whether DNA is kept inside the nucleus only, and every other channel inside the cell.
    #[serde(default = "yes")]
    pub(super) mask: bool,
}

fn maximum() -> Method {
    Method::Maximum
}

fn default_percentile() -> f64 {
    99.9
}

fn default_total() -> f64 {
    618.0294
}

fn yes() -> bool {
    true
}

impl StageKind for Normalize {
    type Params = NormalizeParams;
    const NAME: &'static str = "normalize";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "subtracts the background, masks, and scales intensities to [0, 1]";

    fn inputs(_: Option<&NormalizeParams>) -> Vec<Input> {
        vec![Input::one("cells", ArtifactType::Cells, "cells with intensities as measured")]
    }

    fn outputs(_: Option<&NormalizeParams>) -> Vec<Output> {
        vec![Output::data("cells", ArtifactType::Cells, "the same cells, intensities in [0, 1]")]
    }

    fn check(params: &NormalizeParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if !(params.percentile > 0.0 && params.percentile <= 100.0) {
            checked.problems.push(Problem::with("percentile", "a percentile lies above 0 and at most at 100"));
        }
        if !(params.total > 0.0 && params.total.is_finite()) {
            checked.problems.push(Problem::with("total", "the sum must be above 0"));
        }
        let facts = inputs.get("cells").and_then(|facts| facts.first()).cloned();
        checked.outputs.insert("cells".to_owned(), facts.unwrap_or_else(Facts::default));
        checked
    }

    fn run(params: &NormalizeParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let cells = Cells::open(inputs.one("cells"), context.blobs())?;
        Ok(Outputs::from([("cells".to_owned(), each_cell(context, &cells, params)?)]))
    }
}

impl EachCell for NormalizeParams {
    fn described(&self, before: &CellsDescription) -> CellsDescription {
        CellsDescription { normalised: true, ..before.clone() }
    }

    fn image(&self, image: CellImage, before: &CellsDescription) -> Result<CellImage, StageError> {
        normalize(image, before, self).map_err(|problem| {
            StageError::bad_input(problem)
                .with_help("look at its image; leave the cell out of the input when it is not a sound one")
        })
    }
}

/// Normalises every channel of an image (paper, section 4.1.2; masks as the published program applies them).
///
/// Voxels that are 0 in every channel are padding, not background: a camera adds an offset. They do not count when the
/// background is looked for, and stay 0.
fn normalize(
    mut image: CellImage,
    description: &CellsDescription,
    params: &NormalizeParams,
) -> Result<CellImage, String> {
    if description.normalised {
        // Background is looked for among whole numbers, as they are stored.
        let scale = |channel: &mut Volume<f32>| channel.data.iter_mut().for_each(|value| *value *= 65535.0);
        image.channels.iter_mut().for_each(scale);
    }
    let padding: Vec<bool> =
        (0..image.cell.data.len()).map(|i| image.channels.iter().all(|channel| channel.data[i] == 0.0)).collect();
    for (name, channel) in description.channels.iter().zip(&mut image.channels) {
        if channel.data.iter().any(|value| !value.is_finite()) {
            return Err(format!("channel `{name}` holds values that are no numbers"));
        }
        let background = most_populous(channel.data.iter().zip(&padding).filter(|(_, p)| !**p).map(|(v, _)| *v));
        let mask = if name == "dna" { &image.nucleus } else { &image.cell };
        let mut inside = Vec::new();
        for ((value, &mask), &padding) in channel.data.iter_mut().zip(&mask.data).zip(&padding) {
            let kept = !params.mask || mask != 0;
            *value = if kept && !padding { (*value - background).max(0.0) } else { 0.0 };
            if kept {
                inside.push(*value);
            }
        }
        if inside.is_empty() {
            return Err(format!("its mask for channel `{name}` is empty"));
        }
        let full_scale = match params.method {
            Method::Maximum => inside.iter().copied().fold(0.0, f32::max),
            Method::Percentile => percentile(&mut inside, params.percentile),
            Method::ConstantSum => (inside.iter().map(|&value| f64::from(value)).sum::<f64>() / params.total) as f32,
        };
        if full_scale <= 0.0 {
            return Err(format!(
                "channel `{name}` has nothing above its background of {background}{}",
                if params.mask { " inside the mask" } else { "" }
            ));
        }
        channel.data.iter_mut().for_each(|value| *value = (*value / full_scale).min(1.0));
    }
    Ok(image)
}

/// The most populous of some whole numbers in 0..=65535.
///
/// The counts of an image with camera noise are noisy themselves, so the values in a window around each value are counted:
/// the odd width next to 2 · interquartile range / n^⅓ (Freedman and Diaconis 1981). Without noise that is 1, and the result the
/// plain mode. Of several, the one with the highest count of its own, then the lowest. 0 when there are no values.
fn most_populous(values: impl Iterator<Item = f32>) -> f32 {
    let mut counts = vec![0_u64; 1 << 16];
    let mut total = 0_u64;
    for value in values {
        counts[value.round().clamp(0.0, 65535.0) as usize] += 1;
        total += 1;
    }
    let mut below = vec![0_u64; counts.len() + 1];
    for (value, count) in counts.iter().enumerate() {
        below[value + 1] = below[value] + count;
    }
    let quantile = |share: f64| below.partition_point(|&seen| (seen as f64) < share * total as f64);
    let half = ((quantile(0.75) - quantile(0.25)) as f64 / libm::cbrt(total.max(1) as f64)).round() as usize;
    let around = |value: usize| below[(value + half + 1).min(counts.len())] - below[value.saturating_sub(half)];
    let present = (0..counts.len()).rev().filter(|&value| counts[value] > 0);
    present.max_by_key(|&value| (around(value), counts[value])).unwrap_or(0) as f32
}

/// The value at a percentile: the smallest one that at least that share of all values do not exceed.
fn percentile(values: &mut [f32], percent: f64) -> f32 {
    let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
    *values.select_nth_unstable_by(rank - 1, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, noisy_cells, params};
    use super::*;
    use crate::nn::Rng;

    fn description(channels: &[&str], size: [usize; 3]) -> CellsDescription {
        let channels = channels.iter().map(|name| (*name).to_owned()).collect();
        CellsDescription { size, dimensions: 3, voxel_um: [1.0; 3], channels, normalised: false }
    }

    /// One channel each of membrane and DNA: six voxels, the last one padding.
    fn small() -> (CellImage, CellsDescription) {
        let size = [1, 1, 6];
        let image = CellImage {
            channels: vec![
                Volume::new(size, vec![100.0, 100.0, 90.0, 120.0, 300.0, 0.0]),
                Volume::new(size, vec![50.0, 50.0, 50.0, 70.0, 60.0, 0.0]),
            ],
            cell: Volume::new(size, vec![0, 1, 1, 1, 0, 0]),
            nucleus: Volume::new(size, vec![0, 0, 0, 1, 1, 0]),
        };
        (image, description(&["membrane", "dna"], size))
    }

    #[test]
    fn subtracts_the_mode_masks_and_scales() {
        let (image, description) = small();
        let out = normalize(image.clone(), &description, &params::<Normalize>(json!({}))).unwrap();
        assert_eq!(out.channels[0].data, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(out.channels[1].data, [0.0, 0.0, 0.0, 1.0, 0.5, 0.0]);
        let out = normalize(image.clone(), &description, &params::<Normalize>(json!({"mask": false}))).unwrap();
        assert_eq!(out.channels[0].data, [0.0, 0.0, 0.0, 0.1, 1.0, 0.0]);
        let half = json!({"mask": false, "method": "percentile", "percentile": 75.0});
        let out = normalize(image.clone(), &description, &params::<Normalize>(half)).unwrap();
        assert_eq!(out.channels[0].data, [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        let sum = json!({"method": "constant-sum", "total": 0.6});
        let out = normalize(image, &description, &params::<Normalize>(sum)).unwrap();
        assert!((out.channels[1].data.iter().sum::<f32>() - 0.6).abs() < 1e-6);
    }

    #[test]
    fn constant_and_broken_images_are_refused() {
        let (mut image, description) = small();
        image.channels[1].data.fill(7.0);
        let params = params::<Normalize>(json!({}));
        assert!(normalize(image.clone(), &description, &params).unwrap_err().contains("`dna` has nothing above"));
        image.channels[1].data[2] = f32::NAN;
        assert!(normalize(image.clone(), &description, &params).unwrap_err().contains("no numbers"));
        image.channels.pop();
        image.cell.data.fill(0);
        assert!(normalize(image, &description, &params).unwrap_err().contains("mask for channel `membrane` is empty"));
    }

    #[test]
    fn the_mode_survives_camera_noise() {
        let mut rng = Rng::new(4, "camera", 0);
        let mut values: Vec<f32> = (0..40_000).map(|_| (100.0 + 6.0 * rng.normal()).round() as f32).collect();
        values.extend((0..20_000).map(|_| (rng.uniform() * 2000.0 + 110.0).round() as f32));
        let background = most_populous(values.into_iter());
        assert!((background - 100.0).abs() < 2.5, "{background}");
        assert_eq!(most_populous([3.0, 9.0, 9.0, 3.0, 1.0].into_iter()), 3.0);
        assert_eq!(most_populous(std::iter::empty()), 0.0);
    }

    #[test]
    fn only_new_cells_are_computed_and_a_bad_one_is_named() {
        let host = MemoryHost::default();
        let run = |ids: &[&str]| {
            let cells = noisy_cells(&host, ids, &vec!["golgi"; ids.len()]);
            host.run::<Normalize>(&params::<Normalize>(json!({})), &[("cells", &cells)]).unwrap()["cells"].clone()
        };
        let two = run(&["a", "b"]);
        assert_eq!(host.items(), 2);
        let three = run(&["c", "a", "b"]);
        assert_eq!(host.items(), 3);
        assert_eq!(host.notes(), ["1 of 3 cells computed, the others were cached"]);
        for id in ["a", "b"] {
            let name = format!("images/{id}.ome.tif");
            assert_eq!(two.tree.get(&name), three.tree.get(&name));
        }
        let all_alike = Cells::open(&three, &host.blobs).unwrap();
        assert!(all_alike.description.normalised);
    }
}
