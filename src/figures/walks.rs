//! Galleries of latent walks.

use super::gallery::{Gallery, Picture, View};
use crate::{
    artifact::{Figure, Table},
    image::Volume,
};

/// One step of a walk.
pub struct Step {
    /// Where it stands, in standard deviations of the dimension's μ.
    pub sigmas: f64,
    /// What is decoded there.
    pub channels: Vec<Volume<f32>>,
}

/// A walk along one latent dimension, all others at 0.
pub struct Walk {
    /// The dimension, counted from 0.
    pub dimension: usize,
    /// Standard deviation of its μ over the embedded cells.
    pub deviation: f64,
    /// Its mean KL divergence over the embedded cells, in nats.
    pub mean_kl: f64,
    /// The feature that it follows most, and Spearman's correlation with it, where that is known.
    pub follows: Option<(String, f64)>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// The gallery: a row a dimension, a column a step. `channels`, `voxel_um` (Z, Y, X) and `dimensions` (2 or 3) describe the
/// decoded images; `condition`: id and structure of the cell that a target model was given.
#[must_use]
pub fn figure(
    walks: &[Walk],
    channels: &[String],
    voxel_um: [f64; 3],
    dimensions: usize,
    condition: Option<(&str, &str)>,
) -> Figure {
    let view = if dimensions == 3 { View::TopAndSide } else { View::Top };
    let titles = walks.first().into_iter().flat_map(|walk| walk.steps.iter().map(|step| sigmas(step.sigmas)));
    let mut gallery = Gallery::new().columns(titles).scale_bar(voxel_um[2]).legend(channels);
    for walk in walks {
        let follows = walk.follows.as_ref().map_or(String::new(), |(feature, correlation)| {
            format!("\n{}\nρ = {correlation:.2}", feature.replace("_um", " µm").replace('_', " "))
        });
        gallery.row(format!("dimension {}\n{:.1} nats{follows}", walk.dimension, walk.mean_kl));
        for step in &walk.steps {
            gallery.tile(Picture::normalised(&step.channels, channels, voxel_um, view), "");
        }
    }
    let table = Table::new()
        .with("dimension", walks.iter().map(|walk| walk.dimension as i64).collect::<Vec<_>>())
        .with("std_mu", walks.iter().map(|walk| walk.deviation).collect::<Vec<_>>())
        .with("mean_kl", walks.iter().map(|walk| walk.mean_kl).collect::<Vec<_>>())
        .with(
            "follows",
            walks.iter().map(|walk| walk.follows.as_ref().map_or(String::new(), |f| f.0.clone())).collect::<Vec<_>>(),
        )
        .with("spearman", walks.iter().map(|walk| walk.follows.as_ref().map_or(f64::NAN, |f| f.1)).collect::<Vec<_>>());
    let given = condition.map_or(String::new(), |(cell, structure)| {
        format!(" The structure `{structure}` is drawn into cell `{cell}`.")
    });
    let projected = if view == View::Top { "" } else { " Maximum projections from above and from the side." };
    let caption = format!(
        "Walks along the latent dimensions with the highest mean |μ|, all other dimensions at 0; σ is the standard deviation of \
         the dimension's μ over the embedded cells (paper, Fig 2 e, f). Where features were correlated, each dimension is named by the one that it follows most; features are \
         correlated among themselves, so it may follow others nearly as well.{given}{projected}"
    );
    gallery.cropped().figure(
        "latent-walks",
        "Latent walks",
        "Walks along the top latent dimensions",
        &caption,
        Some(table),
    )
}

/// A position in standard deviations, for people: `−1.5 σ`.
fn sigmas(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    let sign = if rounded < 0.0 {
        "−"
    } else if rounded > 0.0 {
        "+"
    } else {
        ""
    };
    format!("{sign}{} σ", rounded.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_named_with_their_sign() {
        assert_eq!([-2.0, -0.5, 0.0, -0.001, 1.0 / 3.0].map(sigmas), ["−2 σ", "−0.5 σ", "0 σ", "0 σ", "+0.33 σ"]);
    }
}
