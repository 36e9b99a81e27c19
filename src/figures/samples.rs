//! Galleries of generated cells.

use super::gallery::{Gallery, Picture, View};
use crate::artifact::{ArtifactError, Cells, Figure};

/// Most rows of the gallery of structures.
const ROWS: usize = 8;
/// Most tiles of the gallery of cells, and how many stand in a row.
const TILES: [usize; 2] = [36, 12];

/// The figures of a set of generated cells, rows of one source next to each other. `real`: structures were drawn into real cells.
///
/// # Errors
/// When an image cannot be read.
pub fn figures(cells: &Cells, real: bool) -> Result<Vec<Figure>, ArtifactError> {
    let view = if cells.description.dimensions == 3 { View::TopAndSide } else { View::Top };
    let (sources, structures) = (cells.table.texts("source_id")?, cells.table.texts("structure")?);
    let of_first: Vec<usize> = (0..cells.len()).take_while(|&row| sources[row] == sources[0]).collect();
    let first_rows: Vec<usize> = (0..cells.len()).step_by(of_first.len().max(1)).collect();
    let projected = if view == View::Top { "" } else { " Maximum projections from above and from the side." };
    let gallery = || Gallery::new().scale_bar(cells.description.voxel_um[2]);
    let mut figures = Vec::new();
    // The structure channel, if there is one, is left out of the pictures of bare cells.
    let bare = |row: usize| {
        let mut image = cells.image(row)?;
        let mut description = cells.description.clone();
        if let Some(at) = description.channels.iter().position(|channel| channel == "structure") {
            image.channels.remove(at);
            description.channels.remove(at);
        }
        Ok::<_, ArtifactError>(Picture::cell(&image, &description, view))
    };
    if !real {
        let mut all = gallery().wrap(TILES[1]).legend(["membrane", "dna"]);
        for &row in first_rows.iter().take(TILES[0]) {
            all.tile(bare(row)?, "");
        }
        let caption = format!(
            "Cells that no microscope saw: latent positions drawn from N(0, 1), decoded by the reference model. {} of {} \
             are shown (paper, Fig 4 a).{projected}",
            first_rows.len().min(TILES[0]),
            first_rows.len()
        );
        figures.push(all.cropped().figure("sampled-cells", "Sampled cells", "Sampled cells", &caption, None));
    }
    if structures.iter().any(|structure| !structure.is_empty()) {
        let titles = of_first.iter().map(|&row| structures[row].as_str());
        let mut all =
            gallery().columns(["membrane, DNA"].into_iter().chain(titles)).legend(["membrane", "dna", "structure"]);
        for &first in first_rows.iter().take(ROWS) {
            all.row(sources[first].clone());
            all.tile(bare(first)?, "");
            for row in first..(first + of_first.len()).min(cells.len()) {
                all.tile(Picture::cell(&cells.image(row)?, &cells.description, view), "");
            }
        }
        let what = if real { "Real cells" } else { "Sampled cells" };
        let caption = format!(
            "{what} (first column), and every structure drawn into each by the target model, which was given the cell's \
             membrane and DNA (paper, Fig 4 b). {} of {} cells are shown.{projected}",
            first_rows.len().min(ROWS),
            first_rows.len()
        );
        figures.push(all.cropped().figure("sampled-structures", "Sampled cells", "Sampled structures", &caption, None));
    }
    Ok(figures)
}
