//! How a training went.

use super::plot::{Axis, Chart, pictures};
use crate::artifact::{ArtifactError, Figure, Table};

/// The report's section of this figure.
pub const SECTION: &str = "Learning";

/// The learning curve: ELBO, reconstruction error and KL divergence a cell, by epoch.
///
/// `table`: a row an epoch: `epoch`, `reconstruction`, `kl`, `validation_reconstruction`, `validation_kl`, `validation_elbo` (missing where
/// there was no validation). `kept`: the epoch of the model that was kept. `name`: the figure's name.
///
/// # Errors
/// When a column is missing.
pub fn learning_curve(table: &Table, kept: u64, name: &str, title: &str) -> Result<Figure, ArtifactError> {
    let epochs = table.floats("epoch")?;
    let column = |name: &str| table.floats(name);
    let curve = |values: &[f64]| -> Vec<[f64; 2]> {
        epochs
            .iter()
            .zip(values)
            .filter(|(_, value)| value.is_finite())
            .map(|(&epoch, &value)| [epoch, value])
            .collect()
    };
    let (reconstruction, kl) = (column("reconstruction")?, column("kl")?);
    let elbo: Vec<f64> = reconstruction.iter().zip(&kl).map(|(reconstruction, kl)| -(reconstruction + kl)).collect();
    let chart = |axis: &str, training: &[f64], validation: &[f64]| {
        let curves = [curve(training), curve(validation)];
        let values = curves.iter().flatten().map(|point| point[1]);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let chart = Chart::new(Axis::linear("epoch"), Axis::linear(axis)).area(300.0, 230.0);
        let chart = chart.dotted_line("training", &curves[0]).dotted_line("validation", &curves[1]);
        chart.reference("kept model", &[[kept as f64, low], [kept as f64, high]])
    };
    let charts = [
        chart("ELBO per cell", &elbo, &column("validation_elbo")?),
        chart("squared error per cell", &reconstruction, &column("validation_reconstruction")?),
        chart("KL divergence per cell (nats)", &kl, &column("validation_kl")?),
    ];
    let best = column("validation_elbo")?.into_iter().fold(f64::NEG_INFINITY, f64::max);
    Ok(Figure {
        name: name.to_owned(),
        section: SECTION.to_owned(),
        title: title.to_owned(),
        caption: format!(
            "The evidence lower bound (ELBO), which is minus the sum of the squared reconstruction error and the KL divergence, and \
             these two, for each epoch: means over the training cells while they are learned from, and over the validation \
             cells behind the epoch. The model of epoch {kept} was kept, the one with the highest validation ELBO, {best:.1}."
        ),
        pictures: pictures(&charts, 3),
        table: Some(table.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_epoch_and_missing_validations_are_drawn() {
        let table = |rows: usize| {
            let some = |from: f64| (0..rows).map(|row| from + row as f64).collect::<Vec<_>>();
            let validation: Vec<f64> = (0..rows).map(|row| if row % 2 == 0 { -3.0 } else { f64::NAN }).collect();
            Table::new()
                .with("epoch", (1..=rows as i64).collect::<Vec<_>>())
                .with("reconstruction", some(2.0))
                .with("kl", some(1.0))
                .with("validation_reconstruction", validation.clone())
                .with("validation_kl", validation.clone())
                .with("validation_elbo", validation)
        };
        for rows in [1, 4] {
            let figure = learning_curve(&table(rows), 1, "learning", "Learning").unwrap();
            assert_eq!(figure.pictures.len(), 2);
            assert!(figure.caption.contains("epoch 1 was kept"));
        }
        assert!(learning_curve(&Table::new(), 1, "learning", "Learning").is_err());
    }
}
