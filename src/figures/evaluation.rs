//! How well a segmentation and alignment agree with the truth.

use super::plot::{Axis, Chart, pictures};
use crate::artifact::{ArtifactError, Figure, Table};

/// The two sorts of objects, as they stand in the column `object`, and their plural.
pub const OBJECTS: [(&str, &str); 2] = [("nucleus", "nuclei"), ("cell", "cells")];

/// F1 against the overlap that is asked for, found against true volumes, and F1 of each set where there are several.
///
/// `thresholds`: rows `set`, `object`, `iou`, `f1`; `objects`: a row an object: `object`, `outcome`, `truth_volume_um3`,
/// `found_volume_um3`; only those whose outcome is `found` are drawn; `summary`: rows `set`, `object`, `f1_at_50`, `mean_iou`.
/// `sets`: names of the sets; `all`: the name that stands for them together.
///
/// # Errors
/// When a column is missing.
pub fn agreement(
    thresholds: &Table,
    objects: &Table,
    summary: &Table,
    sets: &[String],
    all: &str,
) -> Result<Figure, ArtifactError> {
    let percent = |value: f64| value * 100.0;
    let mut by_iou =
        Chart::new(Axis::linear("least IoU"), Axis::linear("F1 (%)").between(0.0, 102.0)).area(260.0, 260.0);
    let (set, object) = (thresholds.texts("set")?, thresholds.texts("object")?);
    let (iou, f1) = (thresholds.floats("iou")?, thresholds.floats("f1")?);
    for (name, plural) in OBJECTS {
        let rows = (0..thresholds.rows()).filter(|&row| set[row] == all && object[row] == name);
        by_iou = by_iou.dotted_line(plural, &rows.map(|row| [iou[row], percent(f1[row])]).collect::<Vec<_>>());
    }

    let kinds = objects.texts("object")?;
    let (truth, found) = (objects.floats("truth_volume_um3")?, objects.floats("found_volume_um3")?);
    let outcomes = objects.texts("outcome")?;
    let pairs = || (0..objects.rows()).filter(|&row| outcomes[row] == "found");
    let largest = pairs().map(|row| truth[row].max(found[row])).fold(100.0, f64::max);
    let mut volumes = Chart::new(Axis::linear("true volume (µm³)"), Axis::linear("found volume (µm³)"))
        .area(260.0, 260.0)
        .reference("", &[[0.0, 0.0], [largest, largest]]);
    for (name, plural) in OBJECTS {
        let points: Vec<_> = pairs().filter(|&row| kinds[row] == name).map(|row| [truth[row], found[row]]).collect();
        volumes = volumes.points(plural, &points);
    }

    let mut charts = vec![by_iou, volumes];
    if sets.len() > 1 {
        let (set, object) = (summary.texts("set")?, summary.texts("object")?);
        let line = |column: &str, name: &str| -> Result<Vec<[f64; 2]>, ArtifactError> {
            let values = summary.floats(column)?;
            let of = |wanted: &String| (0..summary.rows()).find(|&row| set[row] == *wanted && object[row] == name);
            let points =
                sets.iter().enumerate().filter_map(|(at, wanted)| Some([at as f64, percent(values[of(wanted)?])]));
            Ok(points.collect())
        };
        let mut by_set = Chart::new(Axis::categories("", sets.iter().cloned()), Axis::linear("%").between(0.0, 102.0))
            .area(60.0_f64.mul_add(sets.len() as f64, 60.0).min(640.0), 260.0);
        for (name, plural) in OBJECTS {
            by_set = by_set.dotted_line(format!("F1 of {plural} at IoU 0.5"), &line("f1_at_50", name)?);
        }
        charts.push(by_set.dotted_line("mean IoU of found cells", &line("mean_iou", "cell")?));
    }
    Ok(Figure {
        name: "agreement".to_owned(),
        section: "Segmentation".to_owned(),
        title: "Found against truth".to_owned(),
        caption: "Left: the harmonic mean of precision and recall (F1) against the least overlap (voxels in both over voxels in any of \
                  the two) from which an object counts as found. Right: the volumes of the objects found at an overlap of 0.5, and the line \
                  on which they are the true ones. Objects that touch one of the four sides of their field do not count."
            .to_owned(),
        pictures: pictures(&charts, 2),
        table: Some(summary.clone()),
    })
}
