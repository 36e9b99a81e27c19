//! What models of different β spend on describing a cell, and what they gain by it.

use super::plot::{Axis, Chart, Colour, ColourMap, pictures};
use crate::artifact::{ArtifactError, Figure, Table};

/// The report's section of these figures.
pub const SECTION: &str = "Rate and distortion";

/// KL divergences below this are not drawn: such dimensions are not used.
const SMALLEST_KL: f64 = 1e-3;

/// Several models on an axis: by their β where each has one, else by their number.
#[derive(Clone, Debug, PartialEq)]
pub struct Models {
    /// The title of the axis.
    pub title: String,
    /// Where each model stands, in the order of the pipeline.
    pub positions: Vec<f64>,
    /// What each is called: `β = 0.25`, `model 2`.
    pub labels: Vec<String>,
}

impl Models {
    /// The axis of models with these β's; `None`: trained with the plain ELBO.
    #[must_use]
    pub fn new(betas: &[Option<f64>]) -> Self {
        match betas.iter().copied().collect::<Option<Vec<f64>>>() {
            Some(positions) => {
                let labels = positions.iter().map(|beta| format!("β = {beta}")).collect();
                Self { title: "β".to_owned(), positions, labels }
            }
            None => Self {
                title: "model".to_owned(),
                positions: (1..=betas.len()).map(|number| number as f64).collect(),
                labels: (1..=betas.len()).map(|number| format!("model {number}")).collect(),
            },
        }
    }

    /// The colour of each model.
    fn colours(&self) -> Vec<Colour> {
        let (low, high) =
            self.positions.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &p| (l.min(p), h.max(p)));
        let part = |position: f64| if high > low { (position - low) / (high - low) } else { 0.5 };
        self.positions.iter().map(|&position| ColourMap::Sequential.at(part(position))).collect()
    }

    /// The models' indices by position.
    #[must_use]
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.positions.len()).collect();
        order.sort_by(|&a, &b| self.positions[a].total_cmp(&self.positions[b]));
        order
    }
}

/// Mean rate against mean distortion, one point a model, and the line on which both add up to the best model's sum (paper, Fig 3a).
///
/// `table`: a row a model, in the order of `models`: `rate`, `distortion`, `cells`.
///
/// # Errors
/// When a column is missing.
pub fn rate_distortion(models: &Models, table: &Table) -> Result<Figure, ArtifactError> {
    let (rate, distortion) = (table.floats("rate")?, table.floats("distortion")?);
    let order = models.order();
    let points: Vec<[f64; 2]> = order.iter().map(|&model| [rate[model], distortion[model]]).collect();
    let positions: Vec<f64> = order.iter().map(|&model| models.positions[model]).collect();
    let labels: Vec<&str> = order.iter().map(|&model| models.labels[model].as_str()).collect();
    let best = points.iter().map(|[rate, distortion]| rate + distortion).fold(f64::INFINITY, f64::min);
    let cells = table.floats("cells")?.first().copied().unwrap_or(0.0);
    // β = 1 does not learn to reconstruct at all: beside it, on a linear axis, all others lie on the floor.
    let (least, most) = distortion.iter().fold((f64::INFINITY, 0.0f64), |(l, h), &d| (l.min(d), h.max(d)));
    let title = "distortion: squared error per cell";
    let wide = least > 0.0 && most > 10.0 * least;
    let axis = if wide { Axis::log(title) } else { Axis::linear(title) };
    let end = if wide { best - least / 2.0 } else { best };
    let sum: Vec<[f64; 2]> =
        (0..=40).map(|step| f64::from(step) / 40.0 * end).map(|rate| [rate, best - rate]).collect();
    let chart = Chart::new(Axis::linear("rate: KL divergence (nats per cell)"), axis)
        .area(440.0, 320.0)
        .reference("sum of the best model", &sum)
        .graded_curve(&models.title, &points, &positions)
        .labels(&points, labels);
    Ok(Figure {
        name: "rate-distortion".to_owned(),
        section: SECTION.to_owned(),
        title: "Sparse or exact: the price of a cell".to_owned(),
        caption: format!(
            "Each model's mean rate (KL divergence, how much the latent space says of a cell) against its mean distortion (squared \
             reconstruction error), over {cells} cells that it was not trained on. On the dashed line both add up to the sum of \
             the best model, the one with the highest ELBO. A small β buys exactness with many dimensions, a large β the \
             reverse (paper, Fig 3a)."
        ),
        pictures: pictures(&[chart], 1),
        table: Some(table.clone()),
    })
}

/// The mean KL divergence of each latent dimension, ranked, a line a model (paper, S6 and S8a Figs).
///
/// `table`: rows `model` (from 1), `rank` (from 1), `mean_kl`, `important`.
///
/// # Errors
/// When a column is missing.
pub fn spectrum(models: &Models, table: &Table, threshold: f64) -> Result<Figure, ArtifactError> {
    let (model, rank, kl) = (table.floats("model")?, table.floats("rank")?, table.floats("mean_kl")?);
    let important = table.flags("important")?;
    let ranks = rank.iter().copied().fold(1.0, f64::max);
    let kl_axis = Axis::log("mean KL divergence (nats)").including(threshold / 2.0);
    let mut spectrum = Chart::new(Axis::linear("rank of the latent dimension"), kl_axis)
        .reference(format!("threshold {threshold}"), &[[0.0, threshold], [ranks * 2.0, threshold]]);
    let mut counts = Vec::new();
    for (&index, colour) in models.order().iter().zip(models.order().iter().map(|&index| models.colours()[index])) {
        let rows = || (0..table.rows()).filter(|&row| model[row] == index as f64 + 1.0);
        let line: Vec<[f64; 2]> =
            rows().filter(|&row| kl[row] >= SMALLEST_KL).map(|row| [rank[row], kl[row]]).collect();
        spectrum = spectrum.coloured_line("", &line, colour);
        counts.push([models.positions[index], rows().filter(|&row| important[row]).count() as f64]);
    }
    let spectrum = spectrum.colour_scale(&models.title, &models.positions);
    let counts = Chart::new(Axis::linear(&models.title), Axis::linear("important dimensions").including(0.0))
        .dotted_line("", &counts);
    Ok(Figure {
        name: "kl-spectrum".to_owned(),
        section: SECTION.to_owned(),
        title: "How many dimensions a model uses".to_owned(),
        caption: format!(
            "Left: mean KL divergence of each latent dimension by rank, a line a model; dimensions below {SMALLEST_KL} nats are not \
             drawn. Right: the number of important dimensions, those above {threshold} nats (paper, S6 and S8a Figs)."
        ),
        pictures: pictures(&[spectrum.area(380.0, 270.0), counts.area(260.0, 270.0)], 2),
        table: Some(table.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_stand_by_beta_or_by_number() {
        let models = Models::new(&[Some(1.0), Some(0.0)]);
        assert_eq!((models.order(), models.labels[0].as_str()), (vec![1, 0], "β = 1"));
        let models = Models::new(&[Some(0.5), None]);
        assert_eq!((models.positions, models.title.as_str()), (vec![1.0, 2.0], "model"));
    }

    #[test]
    fn one_model_is_enough() {
        let models = Models::new(&[Some(0.5)]);
        let table = Table::new().with("rate", vec![3.0]).with("distortion", vec![5.0]).with("cells", vec![4_i64]);
        assert_eq!(rate_distortion(&models, &table).unwrap().pictures.len(), 2);
        let table = Table::new()
            .with("model", vec![1_i64, 1])
            .with("rank", vec![1_i64, 2])
            .with("mean_kl", vec![2.0, 0.0])
            .with("important", vec![true, false]);
        assert_eq!(spectrum(&models, &table, 0.6).unwrap().pictures.len(), 2);
    }
}
