//! What a latent space says of the features of cells.

use super::{
    features::SECTION,
    plot::{Axis, Chart, ColourMap, pictures},
    rate_distortion::Models,
};
use crate::artifact::{ArtifactError, Figure, Table};

/// Below this, R² is off the axis.
const LOWEST_R_SQUARED: f64 = -0.5;

/// The variance that the first principal components of the features explain, and the weight of each feature in them (paper, S8b, c
/// Fig).
///
/// `table`: a row a component: `component` (from 1), `explained`, and a column of loadings for each of `features`. `cells`: how
/// many cells there were.
///
/// # Errors
/// When a column is missing.
pub fn components(table: &Table, features: &[String], cells: usize) -> Result<Figure, ArtifactError> {
    let (component, explained) = (table.floats("component")?, table.floats("explained")?);
    let count = component.len();
    let names = || component.iter().map(|number| format!("PC{number}"));
    let together = explained.iter().scan(0.0, |sum, part| {
        *sum += part;
        Some(*sum)
    });
    let bars: Vec<[f64; 2]> = explained.iter().enumerate().map(|(i, &part)| [i as f64, part * 100.0]).collect();
    let line: Vec<[f64; 2]> = together.enumerate().map(|(i, sum)| [i as f64, sum * 100.0]).collect();
    let total = line.last().map_or(0.0, |point| point[1]);
    let variance = Chart::new(Axis::categories("", names()), Axis::linear("variance explained (%)").including(100.0))
        .area(260.0, 320.0)
        .bars("each", &bars)
        .dotted_line("together", &line);
    let columns: Vec<Vec<f64>> = features.iter().map(|name| table.floats(name)).collect::<Result<_, _>>()?;
    let readable = features.iter().map(|name| name.replace('_', " "));
    let loadings = Chart::new(Axis::categories("", names()), Axis::categories("", readable))
        .area(240.0, 320.0)
        .heat_map("loading", features.len(), count, &columns.concat(), ColourMap::Diverging);
    Ok(Figure {
        name: "feature-components".to_owned(),
        section: SECTION.to_owned(),
        title: "Principal components of the features".to_owned(),
        caption: format!(
            "Left: the share of the variance of the {} z-scored features that the first {count} principal components explain, \
             {total:.1} % together, over {cells} cells. Right: the weight of each feature in each component (paper, S8b and c \
             Fig).",
            features.len()
        ),
        pictures: pictures(&[variance, loadings], 2),
        table: Some(table.clone()),
    })
}

/// R² of each principal component against β, and the variance of all features that follows (paper, S8d Fig).
///
/// `table`: rows `model` (from 1), `component` (from 1), `explained`, `r2`, `r2_all_folds`. `held_out`: the share of cells of one
/// fold.
///
/// # Errors
/// When a column is missing.
pub fn scores(models: &Models, table: &Table, held_out: f64) -> Result<Figure, ArtifactError> {
    let (model, component, explained) =
        (table.floats("model")?, table.floats("component")?, table.floats("explained")?);
    let count = component.iter().copied().fold(0.0, f64::max) as usize;
    let mut off = false;
    let mut chart = |title: &str, column: &str| -> Result<Chart, ArtifactError> {
        let r2 = table.floats(column)?;
        off |= r2.iter().any(|&value| value < LOWEST_R_SQUARED);
        let mut chart = Chart::new(Axis::linear(&models.title), Axis::linear("R²").between(LOWEST_R_SQUARED, 1.05))
            .area(300.0, 280.0)
            .title(title)
            .reference("", &[[-1e3, 0.0], [1e3, 0.0]]);
        let point = |index: usize, value: f64| [models.positions[index], value];
        let rows: Vec<Vec<usize>> = (0..models.positions.len())
            .map(|index| (0..table.rows()).filter(|&row| model[row] == index as f64 + 1.0).collect())
            .collect();
        for number in 1..=count {
            let of = |index: usize| {
                rows[index].iter().find(|&&row| component[row] == number as f64).map_or(f64::NAN, |&row| r2[row])
            };
            let line: Vec<[f64; 2]> = models.order().into_iter().map(|index| point(index, of(index))).collect();
            chart = chart.dotted_line(format!("PC{number}"), &line);
        }
        let total = |index: usize| rows[index].iter().map(|&row| explained[row] * r2[row]).sum::<f64>();
        let line: Vec<[f64; 2]> = models.order().into_iter().map(|index| point(index, total(index))).collect();
        Ok(chart.black_dashes("all features", &line))
    };
    let charts = [chart("one part held out", "r2")?, chart("every part held out in turn", "r2_all_folds")?];
    let note =
        if off { format!(" Values below {LOWEST_R_SQUARED} are off the axis, see the table.") } else { String::new() };
    Ok(Figure {
        name: "feature-regression".to_owned(),
        section: SECTION.to_owned(),
        title: "What the latent space says of the features".to_owned(),
        caption: format!(
            "R² of linear regressions from the important latent dimensions to each principal component of the features. Left: on {:.0} \
             % of the cells that were held out (paper, S8d Fig). Right: the same, every such part held out in turn and the \
             predictions taken together, which a few cells determine less. Dashed: the share of the variance of all \
             features, the sum over the components of R² × variance explained. Below 0 the regression predicts worse than the mean; no \
             point: too few cells for the number of dimensions.{note}",
            held_out * 100.0
        ),
        pictures: pictures(&charts, 2),
        table: Some(table.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_values_are_drawn_as_gaps() {
        let models = Models::new(&[Some(0.0), Some(0.5)]);
        let table = Table::new()
            .with("model", vec![1_i64, 1, 2, 2])
            .with("component", vec![1_i64, 2, 1, 2])
            .with("explained", vec![0.6, 0.3, 0.6, 0.3])
            .with("r2", vec![f64::NAN, f64::NAN, 0.8, -1e9])
            .with("r2_all_folds", vec![0.4, 0.3, 0.5, 0.1]);
        let figure = scores(&models, &table, 0.1).unwrap();
        assert!(figure.caption.contains("off the axis"));
        let svg = String::from_utf8(figure.pictures[0].1.clone()).unwrap();
        assert!(!svg.contains("NaN") && svg.len() < 40_000, "{}", svg.len());
    }

    #[test]
    fn loadings_are_a_row_a_feature() {
        let table = Table::new()
            .with("component", vec![1_i64, 2])
            .with("explained", vec![0.7, 0.2])
            .with("cell_area", vec![0.5, 0.1])
            .with("cell_mean", vec![-0.5, 0.9]);
        let figure = components(&table, &["cell_area".to_owned(), "cell_mean".to_owned()], 30).unwrap();
        assert!(figure.caption.contains("90.0 % together"), "{}", figure.caption);
    }
}
