//! Features of generated cells beside those of real ones.

use std::collections::BTreeMap;

use super::{
    features::SECTION,
    plot::{Axis, Chart, Colour, pictures},
};
use crate::artifact::{ArtifactError, Figure, Table};

/// Most lines that join cells.
const LINES: usize = 60;

/// A chart for each feature: the distribution over real cells and over each generated set; grey lines join a cell with what was made
/// of it (paper, Fig 3d and S7). `table`: the numbers behind it.
///
/// # Errors
/// When a column is missing.
pub fn figures(
    real: &Table,
    generated: &[Table],
    names: &[String],
    columns: &[String],
    table: &Table,
) -> Result<Vec<Figure>, ArtifactError> {
    let titles = || ["real"].into_iter().map(str::to_owned).chain(names.iter().cloned());
    let width = (titles().count() as f64 * 44.0).max(150.0);
    let places: BTreeMap<&String, usize> =
        real.texts("cell_id")?.iter().enumerate().map(|(row, id)| (id, row)).collect();
    // For each cell that some set holds, where it stands in the real table and in each set.
    let mut joined: BTreeMap<usize, Vec<Option<usize>>> = BTreeMap::new();
    for (set, table) in generated.iter().enumerate() {
        for (row, id) in table.texts("cell_id")?.iter().enumerate() {
            if let Some(&at) = places.get(id) {
                joined.entry(at).or_insert_with(|| vec![None; generated.len()])[set] = Some(row);
            }
        }
    }
    let step = joined.len().div_ceil(LINES).max(1);
    let mut charts = Vec::new();
    for column in columns {
        let of_real = real.floats(column)?;
        let others = generated.iter().map(|table| table.floats(column)).collect::<Result<Vec<_>, _>>()?;
        let mut chart = Chart::new(Axis::categories("", titles()), Axis::linear(""))
            .area(width, 140.0)
            .title(column.replace("_um", " µm").replace('_', " "));
        for (&at, rows) in joined.iter().step_by(step) {
            let value =
                |(set, row): (usize, &Option<usize>)| [set as f64 + 1.0, row.map_or(f64::NAN, |row| others[set][row])];
            let line: Vec<[f64; 2]> =
                [[0.0, of_real[at]]].into_iter().chain(rows.iter().enumerate().map(value)).collect();
            chart = chart.coloured_line("", &line, Colour(0xD0, 0xD0, 0xD0));
        }
        let groups = [of_real].into_iter().chain(others).collect();
        charts.push(chart.violins("", groups));
    }
    let columns = ((1040.0 / (width + 80.0)) as usize).clamp(1, 4);
    Ok(vec![Figure {
        name: "features-generated".to_owned(),
        section: SECTION.to_owned(),
        title: "Features of real and generated cells".to_owned(),
        caption: format!(
            "Distribution of each feature over {} real cells and over each set of generated ones. Grey lines join a cell with what was made of \
             it, where a set holds the same cells (paper, Fig 3d and S7 Fig). The table has the correlation over the same cells, and the \
             Kolmogorov–Smirnov distance of the distributions.",
            real.rows()
        ),
        pictures: pictures(&charts, columns),
        table: Some(table.clone()),
    }])
}
