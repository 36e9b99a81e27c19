//! How strongly structures hang on membrane and nucleus.

use super::plot::{Axis, Chart, Colour, ColourMap, GREY, pictures};
use crate::artifact::{ArtifactError, Figure, Table};

/// The report's section of these figures.
const SECTION: &str = "Coupling";
/// Height of a structure's row, CSS pixels.
const ROW: f64 = 22.0;

/// Couplings of each structure (paper, Fig 5). `cells`: a row a cell: `structure`, `control`, `coupling_…` of each of `channels`;
/// `structures`: a row for each structure and phase: `structure`, `phase`, `cells`, `coupling_…`, and where there are two channels
/// `relative`, `relative_of_means`, `undefined`.
///
/// # Errors
/// When a column is missing.
pub fn figures(
    cells: &Table,
    structures: &Table,
    channels: &[String],
    floor: f64,
) -> Result<Vec<Figure>, ArtifactError> {
    let phases = structures.texts("phase")?;
    let all: Vec<usize> = (0..structures.rows()).filter(|&row| phases[row] == "all").collect();
    let names = structures.texts("structure")?;
    let count = structures.floats("cells")?;
    let titled = |&row: &usize| format!("{} ({})", names[row], count[row]);
    let mut means = Vec::new();
    for channel in channels {
        let column = structures.floats(&format!("coupling_{channel}"))?;
        means.push(all.iter().map(|&row| column[row]).collect::<Vec<f64>>());
    }
    let values: Vec<f64> = (0..all.len()).flat_map(|row| means.iter().map(move |column| column[row])).collect();
    let height = (all.len() as f64 * ROW).max(80.0);
    let map = Chart::new(Axis::categories("", channels), Axis::categories("", all.iter().map(titled)))
        .area(60.0 * channels.len() as f64, height)
        .title("coupling")
        .heat_map("1 − ELBO /\nELBO swapped", all.len(), channels.len(), &values, ColourMap::Diverging);
    let mut charts = vec![map];
    let mut sentences = String::new();
    if let [first, second] = channels {
        charts.extend(against_each_other(cells, first, second)?);
        charts.push(relative(structures, &all, first, second)?);
        sentences = format!(
            " Middle: the same for each cell; a structure whose place hangs on the {first} lies to the right, one that hangs on the \
             {second} above. Right: which of the two is stronger, +1 only the {first}, −1 only the {second}: the mean over cells of \
             (C {first} − C {second}) / (C {first} + C {second}), for all cells and for each phase. The table has the ratio of the means beside \
             it, and the share of cells for which the ratio is undefined because both couplings are near 0."
        );
    }
    Ok(vec![Figure {
        name: "coupling".to_owned(),
        section: SECTION.to_owned(),
        title: "Coupling of structures to membrane and nucleus".to_owned(),
        caption: format!(
            "Left: by how much the model's ELBO of a cell's structure falls when one of the reference channels is taken from another cell \
             with the same structure: 1 − ELBO / (mean ELBO after the swap), mean over cells (paper, Eq 4 and Fig 5). 0: the model does not \
             look at the channel. Cells whose |ELBO| is below {floor} do not count, and have no colour: a quotient of two tiny numbers says \
             nothing. Numbers of cells in brackets.{sentences}"
        ),
        pictures: pictures(&charts, 3),
        table: Some(structures.clone()),
    }])
}

/// The coupling of each cell to both channels.
fn against_each_other(cells: &Table, first: &str, second: &str) -> Result<Option<Chart>, ArtifactError> {
    let x = cells.floats(&format!("coupling_{first}"))?;
    let y = cells.floats(&format!("coupling_{second}"))?;
    let structures = cells.texts("structure")?;
    let mut names: Vec<&String> = structures.iter().collect();
    names.sort();
    names.dedup();
    let of = |name: &String| -> Vec<[f64; 2]> {
        (0..cells.rows()).filter(|&row| structures[row] == *name).map(|row| [x[row], y[row]]).collect()
    };
    let known = |points: &Vec<[f64; 2]>| points.iter().any(|[x, y]| x.is_finite() && y.is_finite());
    let shown: Vec<(&String, Vec<[f64; 2]>)> =
        names.into_iter().map(|name| (name, of(name))).filter(|(_, points)| known(points)).collect();
    if shown.is_empty() {
        return Ok(None);
    }
    let chart = Chart::new(
        Axis::linear(format!("coupling to the {first}")).including(0.0),
        Axis::linear(format!("coupling to the {second}")).including(0.0),
    )
    .area(280.0, 280.0)
    .title("each cell")
    .reference("", &[[-9.0, -9.0], [9.0, 9.0]]);
    Ok(Some(shown.into_iter().fold(chart, |chart, (name, points)| chart.points(name.as_str(), &points))))
}

/// Which coupling is stronger, a row a structure, a mark a phase.
fn relative(structures: &Table, all: &[usize], first: &str, second: &str) -> Result<Chart, ArtifactError> {
    let (names, phases) = (structures.texts("structure")?, structures.texts("phase")?);
    let values = structures.floats("relative")?;
    let place = |row: usize| all.iter().position(|&first| names[first] == names[row]).unwrap_or(0);
    let titles = all.iter().map(|&row| names[row].as_str());
    let chart = Chart::new(
        Axis::categories("", titles),
        Axis::linear(format!("{second} −1 … +1 {first}")).between(-1.05, 1.05),
    )
    .area((all.len() as f64 * 34.0).max(120.0), 280.0)
    .title("relative coupling")
    .reference("", &[[-1.0, 0.0], [all.len() as f64, 0.0]]);
    let mark = |phase: &str| -> Vec<[f64; 2]> {
        (0..structures.rows()).filter(|&row| phases[row] == phase).map(|row| [place(row) as f64, values[row]]).collect()
    };
    let interphase = mark("interphase");
    let mut chart = chart.coloured_points("all cells", &mark("all"), GREY);
    for (name, colour) in [("interphase", Colour::category(0)), ("mitosis", Colour::category(1))] {
        let points = mark(name);
        if !points.is_empty() && !interphase.is_empty() {
            chart = chart.coloured_points(name, &points, colour);
        }
    }
    Ok(chart)
}
