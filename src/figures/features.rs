//! Distributions of shape and intensity features.

use super::plot::{Axis, Chart, pictures};
use crate::{
    artifact::{ArtifactError, Figure, Table},
    image::features::Features,
    stats::{mean, quantile, sorted, standard_deviation},
};

/// The report's section of feature figures.
pub const SECTION: &str = "Features";

/// A group of cells: a name, and rows of the table.
type Group = (String, Vec<usize>);

/// Two figures, of the nucleus and of the cell: violins of seven features each, the cells grouped by data set where there are
/// several, else by structure. Controls are copies of other cells in these channels, so they are left out.
///
/// `table`: a row a cell; columns `dataset`, `structure`, `control`, and `nucleus_…` and `cell_…` of every feature. `dimensions`: 2
/// or 3. Source: paper, Fig 3d and S7.
///
/// # Errors
/// When a column is missing.
pub fn distributions(table: &Table, dimensions: usize) -> Result<Vec<Figure>, ArtifactError> {
    let groups = groups(table)?;
    let datasets = table.texts("dataset")?;
    // Several data sets stand side by side in one figure; a single one is named.
    let single = datasets.first().filter(|name| !name.is_empty() && datasets.iter().all(|other| other == *name));
    let of = single.map_or(String::new(), |name| format!(": {name}"));
    ["nucleus", "cell"].into_iter().map(|part| figure(table, &groups, part, &of, dimensions)).collect()
}

fn groups(table: &Table) -> Result<Vec<Group>, ArtifactError> {
    let control = table.flags("control")?;
    let rows: Vec<usize> = (0..table.rows()).filter(|&row| !control[row]).collect();
    for column in ["dataset", "structure"] {
        let texts = table.texts(column)?;
        let mut names: Vec<&String> = rows.iter().map(|&row| &texts[row]).collect();
        names.sort();
        names.dedup();
        if names.len() > 1 {
            let of = |name: &&String| rows.iter().copied().filter(|&row| texts[row] == **name).collect();
            let shown = |name: &String| if name.is_empty() { "none".to_owned() } else { name.clone() };
            return Ok(names.iter().map(|name| (shown(name), of(name))).collect());
        }
    }
    Ok(vec![("all cells".to_owned(), rows)])
}

fn figure(table: &Table, groups: &[Group], part: &str, of: &str, dimensions: usize) -> Result<Figure, ArtifactError> {
    let unit = if dimensions == 3 { "voxels" } else { "pixels" };
    let width = (groups.len() as f64 * 30.0).max(170.0);
    let names = || groups.iter().map(|(name, _)| name.clone());
    let mut charts = Vec::new();
    let (mut group_names, mut features, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let mut numbers: [Vec<f64>; 5] = Default::default();
    for feature in Features::NAMES {
        let column = table.floats(&format!("{part}_{feature}"))?;
        let values: Vec<Vec<f64>> =
            groups.iter().map(|(_, rows)| rows.iter().map(|&row| column[row]).collect()).collect();
        for ((name, _), values) in groups.iter().zip(&values) {
            let known = sorted(values);
            group_names.push(name.clone());
            features.push(feature.to_owned());
            counts.push(known.len() as i64);
            let summary = [
                mean(&known),
                standard_deviation(&known),
                quantile(&known, 0.25),
                quantile(&known, 0.5),
                quantile(&known, 0.75),
            ];
            numbers.iter_mut().zip(summary).for_each(|(column, value)| column.push(value));
        }
        let axis = match feature {
            "area" | "circumference" => unit,
            "sphericity" => "ratio",
            "entropy" => "nats",
            _ => "grey levels (0 to 255)",
        };
        let chart = Chart::new(Axis::categories("", names()), Axis::linear(axis))
            .area(width, 130.0)
            .title(feature)
            .colours_from(usize::from(part == "cell"))
            .violins("", values);
        charts.push(chart);
    }
    let columns = ((1040.0 / (width + 80.0)) as usize).clamp(1, 4);
    let [means, deviations, lower, medians, upper] = numbers;
    let summary = Table::new()
        .with("group", group_names)
        .with("feature", features)
        .with("cells", counts)
        .with("mean", means)
        .with("std", deviations)
        .with("quartile_25", lower)
        .with("median", medians)
        .with("quartile_75", upper);
    let (channel, total) =
        (if part == "cell" { "membrane" } else { "DNA" }, groups.iter().map(|g| g.1.len()).sum::<usize>());
    Ok(Figure {
        name: format!("features-{part}"),
        section: SECTION.to_owned(),
        title: format!("Shape and intensity of the {part}{of}"),
        caption: format!(
            "Seven features of the {channel} channel inside the {part}, {dimensions}D, for {total} cells (controls left out): \
             distribution, quartiles (bar) and median (dot). Area: {unit} above zero; circumference: those beside the \
             background; intensities after scaling each image to 8 bit by its maximum (paper, section 4.5 and S7 Fig)."
        ),
        pictures: pictures(&charts, columns),
        table: Some(summary),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(structures: &[&str]) -> Table {
        let texts = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let rows = structures.len();
        let mut table = Table::new()
            .with("dataset", texts(vec!["colony"; rows]))
            .with("structure", texts(structures.to_vec()))
            .with("control", structures.iter().map(|name| *name == "Blank").collect::<Vec<_>>());
        for part in ["nucleus", "cell"] {
            for feature in Features::NAMES {
                let values = (0..rows).map(|row| if row == 1 { f64::NAN } else { row as f64 });
                table = table.with(format!("{part}_{feature}"), values.collect::<Vec<_>>());
            }
        }
        table
    }

    #[test]
    fn groups_by_structure_without_controls() {
        let figures = distributions(&cells(&["golgi", "golgi", "actin", "Blank"]), 2).unwrap();
        assert_eq!(figures.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["features-nucleus", "features-cell"]);
        let table = figures[0].table.as_ref().unwrap();
        assert_eq!(table.texts("group").unwrap()[..2], ["actin", "golgi"]);
        assert_eq!(table.floats("cells").unwrap()[..2], [1.0, 1.0]);
        assert_eq!(table.floats("median").unwrap()[..2], [2.0, 0.0]);
        assert_eq!(table.rows(), 14);
    }

    #[test]
    fn one_group_or_none() {
        assert_eq!(
            distributions(&cells(&["", ""]), 3).unwrap()[1].table.as_ref().unwrap().texts("group").unwrap()[0],
            "all cells"
        );
        assert_eq!(distributions(&cells(&[]), 3).unwrap().len(), 2);
    }
}
