//! What latent dimensions have to do with features, with each other, and with where cells come from.

use super::plot::{Axis, Chart, ColourMap, pictures};
use crate::artifact::{ArtifactError, Figure, Table};

/// The report's section of these figures.
const SECTION: &str = "Latent space";
/// Side of a square of a heat map, CSS pixels: where there is room, and at least.
const SQUARE: [f64; 2] = [17.0, 9.0];
/// The largest side of a heat map, CSS pixels.
const WIDEST: f64 = 720.0;

/// The tables of `correlate`.
pub struct Shown<'a> {
    /// How many cells there were.
    pub cells: usize,
    /// Latent dimensions of the model.
    pub latent: usize,
    /// `reference` or `target`.
    pub model: &'a str,
    /// A row a feature in the order of the clustering: `feature`, `dimension_…`.
    pub spearman: &'a Table,
    /// A row a dimension by rank: `rank`, `dimension`, `mean_abs_mu`.
    pub dimensions: &'a Table,
    /// A row a dimension: `dimension`, `dimension_…`.
    pub pearson: &'a Table,
    /// A row a component: `component`, `explained`, `together`.
    pub components: &'a Table,
    /// A row for each source and dimension: `source`, `dimension`, `share`.
    pub sources: &'a Table,
}

/// The heat map of features and dimensions (paper, S3a Fig); ranks, components and the dimensions among themselves (S3b–d); and
/// what dye, plate or field explain, where there is something to explain.
///
/// # Errors
/// When a column is missing.
pub fn figures(shown: &Shown) -> Result<Vec<Figure>, ArtifactError> {
    let mut figures = vec![map(shown)?, details(shown)?];
    if shown.sources.rows() > 0 {
        figures.push(sources(shown)?);
    }
    let subject = if shown.model == "target" { "places of structures" } else { "cell and nuclear shape" };
    for figure in &mut figures {
        figure.title = format!("{}: {subject}", figure.title);
    }
    Ok(figures)
}

fn side(squares: usize) -> f64 {
    (squares as f64 * SQUARE[0]).min(WIDEST).max(squares as f64 * SQUARE[1]).max(60.0)
}

/// The columns `dimension_…` of a table: the dimensions' names, and the values row by row.
fn grid(table: &Table) -> Result<(Vec<String>, Vec<f64>), ArtifactError> {
    let names: Vec<String> =
        table.columns().filter_map(|(name, _)| name.strip_prefix("dimension_").map(str::to_owned)).collect();
    let columns = names.iter().map(|name| table.floats(&format!("dimension_{name}"))).collect::<Result<Vec<_>, _>>()?;
    Ok((names, (0..table.rows()).flat_map(|row| columns.iter().map(move |column| column[row])).collect()))
}

fn map(shown: &Shown) -> Result<Figure, ArtifactError> {
    let (dimensions, values) = grid(shown.spearman)?;
    let features: Vec<String> =
        shown.spearman.texts("feature")?.iter().map(|name| name.replace("_um", " µm").replace('_', " ")).collect();
    let chart = Chart::new(
        Axis::categories("latent dimension, by falling mean |μ|", dimensions.clone()),
        Axis::categories("", features.clone()),
    )
    .area(side(dimensions.len()), side(features.len()))
    .heat_map("Spearman's ρ", features.len(), dimensions.len(), &values, ColourMap::Diverging);
    Ok(Figure {
        name: "feature-correlations".to_owned(),
        section: SECTION.to_owned(),
        title: "Latent dimensions and features".to_owned(),
        caption: format!(
            "Spearman's rank correlation of each latent dimension's μ with each feature over {} cells. The {} dimensions with the \
             highest mean |μ| of {} are shown. Features are clustered by 1 − |ρ| among themselves (average linkage, leaves in the order \
             in which neighbours are most alike); grey: no correlation can be computed (paper, S3a Fig).",
            shown.cells,
            dimensions.len(),
            shown.latent
        ),
        pictures: pictures(&[chart], 1),
        table: Some(shown.spearman.clone()),
    })
}

fn details(shown: &Shown) -> Result<Figure, ArtifactError> {
    let curve = |values: Vec<f64>, scale: f64| -> Vec<[f64; 2]> {
        values.into_iter().enumerate().map(|(place, value)| [place as f64 + 1.0, value * scale]).collect()
    };
    let ranks =
        Chart::new(Axis::linear("rank of the dimension"), Axis::linear("mean |μ| over the cells").including(0.0))
            .area(260.0, 260.0)
            .title("use of dimensions")
            .dotted_line("", &curve(shown.dimensions.floats("mean_abs_mu")?, 1.0));
    let components = Chart::new(
        Axis::linear("principal components of the features"),
        Axis::linear("variance explained (%)").including(0.0).including(100.0),
    )
    .area(260.0, 260.0)
    .title("features")
    .dotted_line("", &curve(shown.components.floats("together")?, 100.0));
    let (names, values) = grid(shown.pearson)?;
    let among = Chart::new(Axis::categories("", names.clone()), Axis::categories("", names.clone()))
        .area(side(names.len()).min(420.0), side(names.len()).min(420.0))
        .title("dimensions among themselves")
        .heat_map("Pearson's r", names.len(), names.len(), &values, ColourMap::Diverging);
    Ok(Figure {
        name: "latent-dimensions".to_owned(),
        section: SECTION.to_owned(),
        title: "Latent dimensions among themselves".to_owned(),
        caption: format!(
            "Mean |μ| of each dimension by rank; the variance of all z-scored features that their first principal components explain \
             together; Pearson's correlation of the dimensions' μ with each other, which is near 0 where they say different things \
             ({} cells; paper, S3b–d Fig).",
            shown.cells
        ),
        pictures: pictures(&[ranks, components, among], 2),
        table: Some(shown.dimensions.clone()),
    })
}

fn sources(shown: &Shown) -> Result<Figure, ArtifactError> {
    let (sources, dimensions) = (shown.sources.texts("source")?, shown.sources.floats("dimension")?);
    let shares = shown.sources.floats("share")?;
    let mut names: Vec<&String> = Vec::new();
    let mut columns: Vec<f64> = Vec::new();
    for (source, &dimension) in sources.iter().zip(&dimensions) {
        if !names.contains(&source) {
            names.push(source);
        }
        if !columns.contains(&dimension) {
            columns.push(dimension);
        }
    }
    let of = |name: &String, dimension: f64| {
        (0..shares.len())
            .find(|&row| sources[row] == *name && dimensions[row] == dimension)
            .map_or(f64::NAN, |row| shares[row] * 100.0)
    };
    let values: Vec<f64> = names
        .iter()
        .flat_map(|name| columns.iter().map(|&dimension| of(name, dimension)).collect::<Vec<_>>())
        .collect();
    let chart = Chart::new(
        Axis::categories(
            "latent dimension, by falling mean |μ|",
            columns.iter().map(|dimension| dimension.to_string()),
        ),
        Axis::categories("", names.iter().map(|name| name.as_str())),
    )
    .area(side(columns.len()), side(names.len()))
    .heat_map("variance\nexplained (%)", names.len(), columns.len(), &values, ColourMap::Sequential);
    Ok(Figure {
        name: "latent-sources".to_owned(),
        section: SECTION.to_owned(),
        title: "What dye and origin explain of the latent dimensions".to_owned(),
        caption: format!(
            "The share of the variance of each dimension's μ that a cell's data set, plate, well, field, structure or stage explains \
             (between groups), and that its dye's intensity explains (squared Pearson correlation), over {} cells. Many groups of few cells \
             explain something by chance: the table says how much. The paper found that a top dimension followed the intensity of a dye.",
            shown.cells
        ),
        pictures: pictures(&[chart], 1),
        table: Some(shown.sources.clone()),
    })
}
