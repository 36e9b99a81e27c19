//! What an embedding looks like: observed beside reconstructed cells, the latent space, how much of it is used.

use std::collections::BTreeSet;

use super::{
    gallery::{Gallery, Picture, View},
    plot::{Axis, Chart, Colour, GREY, pictures},
};
use crate::{
    artifact::{ArtifactError, Column, Embedding, Figure, Table},
    image::Volume,
};

/// A cell, and what the model makes of it: the same channels of both.
pub struct Observed {
    /// The cell's id.
    pub cell_id: String,
    /// The cell's structure; may be empty.
    pub structure: String,
    /// The channels as they were given.
    pub observed: Vec<Volume<f32>>,
    /// The same, the model's channels decoded from μ.
    pub reconstructed: Vec<Volume<f32>>,
}

/// Mitotic stages in their order (paper, section 4.1.3).
const STAGES: [&str; 5] =
    ["interphase", "prophase", "early-prometaphase", "prometaphase-metaphase", "anaphase-telophase"];

/// Columns of measured quantities that colour the latent space: the first of the names that the cells have, and words.
const MEASURED: [(&[&str], &str); 2] =
    [(&["cell_volume_um3", "volume_um3"], "cell volume (µm³)"), (&["cell_height_um", "height_um"], "cell height (µm)")];

/// The figures of an embedding. `cells`: the cells' own table, a row for each row of the embedding; `channels` and `voxel_um`
/// (Z, Y, X) are those of `pairs`. Figures for which there are too few cells or dimensions are left out.
///
/// # Errors
/// When a column is missing.
pub fn figures(
    embedding: &Embedding,
    cells: &Table,
    channels: &[String],
    voxel_um: [f64; 3],
    pairs: &[Observed],
) -> Result<Vec<Figure>, ArtifactError> {
    let mut figures = Vec::new();
    if !pairs.is_empty() {
        figures.push(reconstruction(embedding, channels, voxel_um, pairs));
    }
    let ranked = embedding.ranked()?;
    if let [first, second, ..] = ranked[..]
        && cells.rows() > 1
    {
        figures.push(latent_space(embedding, cells, [first, second])?);
    }
    if cells.rows() > 0 {
        figures.push(spectrum(embedding)?);
    }
    let subject = subject(embedding, cells)?;
    for figure in &mut figures {
        figure.title = format!("{}: {subject}", figure.title);
    }
    Ok(figures)
}

/// Which model is shown on which cells, in a few words: `cell and nuclear shape, real field`.
fn subject(embedding: &Embedding, cells: &Table) -> Result<String, ArtifactError> {
    let model = match embedding.description.model.as_str() {
        "target" => "places of structures",
        _ => "cell and nuclear shape",
    };
    let datasets: BTreeSet<&String> = cells.texts("dataset")?.iter().filter(|name| !name.is_empty()).collect();
    let datasets: Vec<&str> = datasets.into_iter().map(String::as_str).collect();
    Ok([&[model], datasets.as_slice()].concat().join(", "))
}

/// Most tiles of a row of cells.
const TILES: usize = 12;

fn reconstruction(embedding: &Embedding, channels: &[String], voxel_um: [f64; 3], pairs: &[Observed]) -> Figure {
    let view = if embedding.description.dimensions == 3 { View::TopAndSide } else { View::Top };
    let picture = |volumes: &[Volume<f32>]| Picture::normalised(volumes, channels, voxel_um, view);
    let mut gallery = Gallery::new().scale_bar(voxel_um[2]).legend(channels);
    for pairs in pairs.chunks(TILES) {
        gallery.row("observed");
        for pair in pairs {
            gallery.tile(picture(&pair.observed), "");
        }
        gallery.row("reconstructed");
        for pair in pairs {
            gallery
                .tile(picture(&pair.reconstructed), format!("{}\n{}", pair.structure, pair.cell_id).trim().to_owned());
        }
    }
    let target = embedding.description.model == "target";
    let what = if target {
        "The structure is decoded from the mean of its latent position, given the cell's own membrane and DNA"
    } else {
        "Membrane and DNA are decoded from the mean of each cell's latent position"
    };
    let projected = if view == View::Top { "" } else { " Maximum projections from above and from the side." };
    let caption = format!("Observed cells, and below each what the model keeps of it. {what}.{projected}");
    gallery.cropped().figure("reconstruction", "Reconstruction", "Observed and reconstructed", &caption, None)
}

fn latent_space(embedding: &Embedding, cells: &Table, top: [usize; 2]) -> Result<Figure, ArtifactError> {
    let (x, y) = (embedding.mu(top[0])?, embedding.mu(top[1])?);
    let points: Vec<[f64; 2]> = x.iter().zip(&y).map(|(&x, &y)| [x, y]).collect();
    let chart = |title: &str| {
        Chart::new(
            Axis::linear(format!("μ of dimension {}", top[0])),
            Axis::linear(format!("μ of dimension {}", top[1])),
        )
        .area(300.0, 260.0)
        .title(title)
    };
    let mut charts = Vec::new();
    let mut table = Table::new();
    for name in ["cell_id", "structure", "stage"] {
        table = table.with(name, cells.texts(name)?.to_vec());
    }
    table = table.with(format!("mu_{}", top[0]), x).with(format!("mu_{}", top[1]), y);

    let stages = cells.texts("stage")?;
    if stages.iter().any(|stage| !stage.is_empty()) {
        let mut by_stage = chart("mitotic stage");
        let at = |name: &str| points_where(&points, stages, |stage| stage == name);
        let unknown = points_where(&points, stages, |stage| !STAGES.contains(&stage));
        if !unknown.is_empty() {
            by_stage = by_stage.coloured_points("not known", &unknown, Colour(0xDD, 0xDD, 0xDD));
        }
        for (index, stage) in STAGES.into_iter().enumerate() {
            let points = at(stage);
            let colour = if index == 0 { GREY } else { Colour::category(index - 1) };
            if !points.is_empty() {
                by_stage = by_stage.coloured_points(stage, &points, colour);
            }
        }
        charts.push(by_stage);
    }
    for (names, title) in MEASURED {
        if let Some(name) = names.iter().find(|name| cells.column(name).is_some()) {
            let values = cells.floats(name)?;
            charts.push(chart(title).graded_points("", &points, &values));
            table = table.with(*name, Column::Float(values));
        }
    }
    let structures = cells.texts("structure")?;
    let mut names: Vec<&String> = structures.iter().collect();
    names.sort();
    names.dedup();
    if embedding.description.model == "target" && names.len() > 1 {
        let by_structure = names.into_iter().fold(chart("structure"), |chart, name| {
            chart.points(name.as_str(), &points_where(&points, structures, |structure| structure == name))
        });
        charts.push(by_structure);
    }
    if charts.is_empty() {
        charts.push(chart("").points("", &points));
    }
    Ok(Figure {
        name: "latent-space".to_owned(),
        section: "Latent space".to_owned(),
        title: "Cells in the two top latent dimensions".to_owned(),
        caption: format!(
            "Each point is a cell at the mean of its latent position ({} cells). The two dimensions with the highest mean |μ| are \
             shown (paper, Fig 2).",
            points.len()
        ),
        pictures: pictures(&charts, charts.len().min(2)),
        table: Some(table),
    })
}

fn points_where(points: &[[f64; 2]], texts: &[String], wanted: impl Fn(&str) -> bool) -> Vec<[f64; 2]> {
    points.iter().zip(texts).filter(|(_, text)| wanted(text)).map(|(point, _)| *point).collect()
}

fn spectrum(embedding: &Embedding) -> Result<Figure, ArtifactError> {
    let mut kl = embedding.dimensions.floats("mean_kl")?;
    kl.sort_by(|a, b| b.total_cmp(a));
    let used = kl.iter().filter(|&&kl| kl > THRESHOLD).count();
    let curve: Vec<[f64; 2]> = kl.iter().enumerate().map(|(place, &kl)| [place as f64 + 1.0, kl]).collect();
    let end = kl.len() as f64;
    let chart = Chart::new(Axis::linear("rank"), Axis::linear("mean KL (nats)").including(0.0))
        .reference(format!("{THRESHOLD} nats"), &[[1.0, THRESHOLD], [end, THRESHOLD]])
        .dotted_line("", &curve);
    let beta = embedding.description.beta.map_or(String::new(), |beta| format!(" (β = {beta})"));
    Ok(Figure {
        name: "kl-spectrum".to_owned(),
        section: "Latent space".to_owned(),
        title: "How much of the latent space is used".to_owned(),
        caption: format!(
            "Mean KL divergence of each latent dimension over the cells, the highest first{beta}. {used} of {} dimensions carry more \
             than {THRESHOLD} nats (paper, Fig S6 and S8 a).",
            kl.len()
        ),
        pictures: pictures(&[chart], 1),
        table: Some(embedding.dimensions.clone()),
    })
}

/// Mean KL above which a dimension counts as important, in nats (paper, section 4.5).
const THRESHOLD: f64 = 0.6;
