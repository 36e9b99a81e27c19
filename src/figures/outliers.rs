//! Cells that a model finds unlikely.

use super::{
    gallery::{Gallery, Picture, View},
    plot::{Axis, Chart, pictures},
};
use crate::artifact::{ArtifactError, CellImage, CellsDescription, Figure, Table};

/// The report's section of these figures.
const SECTION: &str = "Outliers";
/// Tiles of a row.
const TILES: usize = 6;

/// A cell that is shown.
pub struct Shown {
    /// The cell.
    pub image: CellImage,
    /// How the image is described.
    pub description: CellsDescription,
    /// What stands below it.
    pub caption: String,
}

/// The ELBO of all cells, beside that of `known` ones, and the most unlikely cells. `table`: rows `structure`, `elbo`.
///
/// # Errors
/// When a column is missing.
pub fn figures(
    table: &Table,
    known: Option<&[f64]>,
    images: &[Shown],
    verdict: &str,
) -> Result<Vec<Figure>, ArtifactError> {
    let (structures, elbo) = (table.texts("structure")?, table.floats("elbo")?);
    let mut names: Vec<&String> = structures.iter().collect();
    names.sort();
    names.dedup();
    let of = |name: &String| (0..elbo.len()).filter(|&row| structures[row] == *name).map(|row| elbo[row]).collect();
    let mut groups: Vec<Vec<f64>> = names.iter().map(|name| of(name)).collect();
    let mut titles: Vec<String> =
        names.iter().map(|name| if name.is_empty() { "no structure".to_owned() } else { (*name).clone() }).collect();
    if let Some(known) = known {
        groups.insert(0, known.to_vec());
        titles.insert(0, "known cells".to_owned());
    }
    let width = (titles.len() as f64 * 46.0).max(160.0);
    let chart =
        Chart::new(Axis::categories("", titles), Axis::linear("ELBO of a cell")).area(width, 260.0).violins("", groups);
    let mut figures = vec![Figure {
        name: "elbo".to_owned(),
        section: SECTION.to_owned(),
        title: "How likely the model finds the cells".to_owned(),
        caption: format!(
            "ELBO = −(squared error + KL divergence) of each cell; a low one means that the model does not expect such a cell. Cells are \
             judged within their structure and phase, by the median and the median absolute deviation. {verdict}."
        ),
        pictures: pictures(&[chart], 1),
        table: Some(table.clone()),
    }];
    if let Some(first) = images.first() {
        let view = if first.description.dimensions == 3 { View::TopAndSide } else { View::Top };
        let mut gallery =
            Gallery::new().wrap(TILES).scale_bar(first.description.voxel_um[2]).legend(&first.description.channels);
        for shown in images {
            gallery.tile(Picture::cell(&shown.image, &shown.description, view), shown.caption.clone());
        }
        let caption = "The cells with the lowest ELBO for their structure and phase; in robust standard deviations from its median. Look \
                       for debris, two cells taken for one, cut or blurred cells, and for biology. The stage `select` drops them.";
        figures.push(gallery.cropped().figure("unlikely-cells", SECTION, "The most unlikely cells", caption, None));
    }
    Ok(figures)
}
