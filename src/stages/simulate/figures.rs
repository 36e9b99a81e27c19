//! What was simulated, to look at.

use crate::{
    artifact::{ArtifactError, Cells, Fields, Figure, FigureSet, Labels, Table},
    figures::{
        gallery::{Contrast, Gallery, Picture, View, channel_color},
        plot::{Axis, Chart, pictures},
    },
    image::Volume,
};

use super::mitosis::Stage;

/// Galleries of a cell of each structure and each mitotic stage; volumes and heights by stage.
pub(super) fn of_cells(cells: &Cells, truth: &Table) -> Result<FigureSet, ArtifactError> {
    let structures = cells.table.texts("structure")?;
    let stages = cells.table.texts("stage")?;
    let interphase = Stage::Interphase.name();
    let mut figures = FigureSet::default();

    let mut names: Vec<&String> = structures.iter().filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let of_structures = names.into_iter().filter_map(|name| {
        let row = (0..cells.len()).find(|&row| structures[row] == *name && stages[row] == interphase)?;
        Some((name.clone(), row))
    });
    figures.0.extend(gallery(
        cells,
        of_structures.collect(),
        "simulated-structures",
        "A simulated cell of each structure",
        "From above and from the side (maximum projections). Membrane magenta, DNA cyan, structure yellow. Every cell has one tagged structure.",
    )?);

    let of_stages = Stage::ALL.into_iter().filter_map(|stage| {
        let row = (0..cells.len()).find(|&row| stages[row] == stage.name())?;
        let count = stages.iter().filter(|name| *name == stage.name()).count();
        Some((format!("{} ({count})", stage.name()), row))
    });
    figures.0.extend(gallery(
        cells,
        of_stages.collect(),
        "simulated-stages",
        "A simulated cell of each mitotic stage",
        "From above and from the side; in brackets, how many cells of the set are in that stage. Stages that no cell is in are left out.",
    )?);

    figures.0.push(volumes(truth, stages)?);
    Ok(figures)
}

/// Some fields from above, and the cells in them; volumes and heights by stage.
pub(super) fn of_fields(fields: &Fields, labels: &Labels, truth: &Table) -> Result<FigureSet, ArtifactError> {
    let mut gallery = Gallery::new().wrap(4).legend(&fields.description.channels);
    for (index, id) in fields.ids().iter().enumerate().take(MOST_FIELDS) {
        let image = fields.image(index)?;
        let voxel_um = image.voxel_um.unwrap_or([1.0; 3]);
        let channels: Vec<Volume<f32>> = (0..image.channels.len()).map(|channel| image.channel_f32(channel)).collect();
        let contrast = Contrast::Percentiles(1.0, 99.8);
        let layers: Vec<_> = channels
            .iter()
            .zip(&image.channels)
            .map(|(volume, name)| (volume, channel_color(name), contrast))
            .collect();
        let whole = Picture::composite(&layers, voxel_um, View::TopAndSide);
        let outlined = labels.image(id)?.map(|labels| {
            // Outlines of the plane through the middle of the cells.
            let [depth, height, width] = labels.cell.size;
            let middle = depth / 3;
            let plane = |volume: &Volume<f32>| {
                Volume::new([1, height, width], volume.data[middle * height * width..][..height * width].to_vec())
            };
            let planes: Vec<_> = channels.iter().map(plane).collect();
            let layers: Vec<_> = planes
                .iter()
                .zip(&image.channels)
                .map(|(volume, name)| (volume, channel_color(name), contrast))
                .collect();
            let outlines = |labels: &Volume<u32>| {
                Volume::new([1, height, width], labels.data[middle * height * width..][..height * width].to_vec())
            };
            Picture::composite(&layers, voxel_um, View::Top)
                .outlined(&outlines(&labels.cell), [255, 255, 255])
                .outlined(&outlines(&labels.nucleus), [255, 200, 0])
        });
        gallery.tile(whole, format!("{id}: all planes, from above and from the side"));
        if let Some(outlined) = outlined {
            gallery.tile(outlined, format!("{id}: one plane, with the true cells (white) and nuclei (orange)"));
        }
    }
    let caption = "Simulated fields of view. Membrane magenta, DNA cyan, structure yellow.";
    let fields = gallery.figure("simulated-fields", "Simulation", "Simulated fields of view", caption, None);
    let whole = truth.flags("whole")?;
    let rows: Vec<usize> = (0..truth.rows()).filter(|&row| whole[row]).collect();
    let inner = truth.select(&rows);
    Ok(FigureSet(vec![fields, volumes(&inner, inner.texts("stage")?)?]))
}

/// The most fields of a gallery.
const MOST_FIELDS: usize = 4;

/// Volumes and heights by mitotic stage.
fn volumes(truth: &Table, stages: &[String]) -> Result<Figure, ArtifactError> {
    let volumes = truth.floats("cell_volume_um3")?;
    let nuclei = truth.floats("nucleus_volume_um3")?;
    let heights = truth.floats("cell_height_um")?;
    let present: Vec<Stage> =
        Stage::ALL.into_iter().filter(|stage| stages.iter().any(|name| name == stage.name())).collect();
    let chart = |title: &str, values: &[f64]| {
        let groups = present.iter().map(|stage| {
            let rows = (0..values.len()).filter(|&row| stages[row] == stage.name());
            rows.map(|row| values[row]).collect::<Vec<f64>>()
        });
        let names = present.iter().map(|stage| stage.name());
        Chart::new(Axis::categories("", names), Axis::linear(title).including(0.0)).violins("", groups.collect())
    };
    let charts = [
        chart("cell volume (µm³)", &volumes),
        chart("nuclear volume (µm³)", &nuclei),
        chart("cell height (µm)", &heights),
    ];
    Ok(Figure {
        name: "simulated-volumes".to_owned(),
        section: "Simulation".to_owned(),
        title: "Volumes and heights of the simulated cells".to_owned(),
        caption: "By mitotic stage, as the masks measure them. Real hiPS cells in interphase: cell volume 1283 to 3046 µm³ (5 to 95 %), \
                  nuclei 350 to 860 µm³, heights 8 to 16 µm."
            .to_owned(),
        pictures: pictures(&charts, 3),
        table: Some(truth.clone()),
    })
}

/// A gallery of some rows of a set; none of no rows.
fn gallery(
    cells: &Cells,
    rows: Vec<(String, usize)>,
    name: &str,
    title: &str,
    caption: &str,
) -> Result<Option<Figure>, ArtifactError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut gallery =
        Gallery::new().wrap(7).scale_bar(cells.description.voxel_um[2]).legend(&cells.description.channels);
    for (caption, row) in rows {
        gallery.tile(Picture::cell(&cells.image(row)?, &cells.description, View::TopAndSide), caption);
    }
    Ok(Some(gallery.figure(name, "Simulation", title, caption, None)))
}
