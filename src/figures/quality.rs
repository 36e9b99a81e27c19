//! How much of the images a model explains.

use super::plot::{Axis, Chart, pictures};
use crate::artifact::{ArtifactError, Figure, Table};

/// What a model explains of each structure or channel, at the mean of a cell's own latent position and at z = 0. `table`: rows
/// `structure`, `channel`, `cells`, `explained`, `explained_at_zero`, `gain`; `findings`: what people must be told; `model`:
/// `reference` or `target`; `cells`: which cells, in words.
///
/// # Errors
/// When a column is missing.
pub fn explained(table: &Table, findings: &[String], model: &str, cells: &str) -> Result<Figure, ArtifactError> {
    let (structures, channels) = (table.texts("structure")?, table.texts("channel")?);
    let names: Vec<&String> =
        structures.iter().zip(channels).map(|(name, channel)| if name.is_empty() { channel } else { name }).collect();
    let bars = |column: &str| -> Result<Vec<[f64; 2]>, ArtifactError> {
        Ok(table.floats(column)?.into_iter().enumerate().map(|(place, share)| [place as f64, share * 100.0]).collect())
    };
    let count = table.floats("cells")?.iter().copied().fold(0.0, f64::max);
    let width = (names.len() as f64 * 42.0).max(160.0);
    let chart = Chart::new(
        Axis::categories("", names.into_iter().map(String::as_str)),
        Axis::linear("squared signal explained (%)").including(100.0),
    )
    .area(width, 240.0)
    .bars("at the cell's own μ", &bars("explained")?)
    .bars("at z = 0", &bars("explained_at_zero")?);
    let subject = if model == "target" { "places of structures" } else { "cell and nuclear shape" };
    let told = if findings.is_empty() { String::new() } else { format!(" Note: {}.", findings.join(". ")) };
    Ok(Figure {
        name: format!("explained-{model}"),
        section: "Learning".to_owned(),
        title: format!("What the model explains: {subject}"),
        caption: format!(
            "1 − squared error / squared signal over {cells} (up to {count} of each), decoded at the mean μ of each cell's latent position, \
             and at z = 0, which is what the model says without having looked at the cell's image. The difference is what the latent \
             position is worth.{told}"
        ),
        pictures: pictures(&[chart], 1),
        table: Some(table.clone()),
    })
}
