//! Shifts of treated cells in latent space.

use super::{
    gallery::{Gallery, Picture, View},
    plot::{Axis, Chart, Colour, GREY, pictures},
};
use crate::artifact::{CellImage, CellsDescription, Figure, Table};

/// The report's section of these figures.
const SECTION: &str = "Perturbation";
/// Bars of the distribution that chance gives.
const BARS: usize = 30;

/// A cell along a shift.
pub struct Along {
    /// Where it lies: 0 at the vehicle's centroid, 1 at the treatment's.
    pub position: f64,
    /// Whether it was treated.
    pub treated: bool,
    /// The cell.
    pub image: CellImage,
    /// How the image is described.
    pub description: CellsDescription,
}

/// A treatment against the vehicle.
pub struct Shift {
    /// Structure and treatment.
    pub title: String,
    /// The treatment.
    pub treatment: String,
    /// The one or two dimensions that are drawn.
    pub dimensions: Vec<usize>,
    /// Where each cell lies in them.
    pub points: Vec<[f64; 2]>,
    /// Which cells were treated.
    pub treated: Vec<bool>,
    /// What labels were permuted among: `well` or `cell`.
    pub unit: &'static str,
    /// The distance of the centroids.
    pub observed: f64,
    /// The distances that permuted labels give.
    pub null: Vec<f64>,
    /// The corrected p-value.
    pub corrected: f64,
    /// Real cells along the shift, in its order.
    pub cells: Vec<Along>,
}

/// Cells in latent space, the distance of the centroids beside what chance gives, and real cells along each shift (paper, Fig 6).
/// `tests`: the table of the tests.
#[must_use]
pub fn figures(shifts: &[Shift], model: &str, tests: &Table) -> Vec<Figure> {
    let subject = if model == "target" { "places of structures" } else { "cell and nuclear shape" };
    let charts: Vec<Chart> = shifts.iter().flat_map(|shift| [scatter(shift), chance(shift)]).collect();
    let units = if shifts.iter().any(|shift| shift.unit == "cell") {
        "Labels were permuted among cells where the table names no wells of one treatment each; cells of one well are not independent, and \
         such p-values are too small."
    } else {
        "Labels were permuted among whole wells, each at the centroid of its cells."
    };
    let mut figures = vec![Figure {
        name: "shifts".to_owned(),
        section: SECTION.to_owned(),
        title: format!("Treated against vehicle cells: {subject}"),
        caption: format!(
            "Left: cells in the two dimensions whose KL divergence varies most over vehicle cells; rings: the centroids. Right: the \
             distance of the centroids in all dimensions that vary (dashed), beside the distances that permuted labels give. p-values \
             are corrected for the number of tests (Bonferroni). {units} The effect size in the table is the distance over the root mean \
             square distance of replicates from their own centroid (paper, Fig 6 c–f)."
        ),
        pictures: pictures(&charts, 2),
        table: Some(tests.clone()),
    }];
    figures.extend(gallery(shifts, subject));
    figures
}

fn scatter(shift: &Shift) -> Chart {
    let axis = |index: usize| {
        shift.dimensions.get(index).map_or_else(|| Axis::linear(""), |d| Axis::linear(format!("μ of dimension {d}")))
    };
    let of = |treated: bool| -> Vec<[f64; 2]> {
        shift
            .points
            .iter()
            .zip(&shift.treated)
            .filter(|(_, label)| **label == treated)
            .map(|(point, _)| *point)
            .collect()
    };
    let centroid = |points: &[[f64; 2]]| {
        let mean = |axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / points.len() as f64;
        [[mean(0), mean(1)]]
    };
    let (vehicle, treated) = (of(false), of(true));
    let line = [centroid(&vehicle)[0], centroid(&treated)[0]];
    Chart::new(axis(0), axis(1))
        .area(300.0, 240.0)
        .title(&shift.title)
        .coloured_points("vehicle", &vehicle, GREY)
        .coloured_points(&shift.treatment, &treated, Colour::category(1))
        .colours_from(0)
        .dotted_line("shift of the centroid", &line)
}

fn chance(shift: &Shift) -> Chart {
    let most = shift.null.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let width = if most > 0.0 { most / BARS as f64 } else { 1.0 };
    let mut counts = [0.0; BARS];
    for &value in shift.null.iter().filter(|value| value.is_finite()) {
        counts[((value / width) as usize).min(BARS - 1)] += 1.0;
    }
    // The outline of the histogram.
    let steps: Vec<[f64; 2]> = counts
        .iter()
        .enumerate()
        .flat_map(|(bar, &count)| [[bar as f64 * width, count], [(bar + 1) as f64 * width, count]])
        .collect();
    let highest = counts.iter().copied().fold(1.0, f64::max);
    let p =
        if shift.corrected.is_nan() { "not tested".to_owned() } else { format!("p = {}", rounded(shift.corrected)) };
    let chart = Chart::new(
        Axis::linear("distance of the centroids").including(0.0),
        Axis::linear("permutations").including(0.0),
    )
    .area(300.0, 240.0)
    .title(p)
    .line("permuted labels", &steps);
    if shift.observed.is_finite() {
        chart.black_dashes("observed", &[[shift.observed, 0.0], [shift.observed, highest]])
    } else {
        chart
    }
}

/// Two significant digits.
fn rounded(p: f64) -> String {
    let digits = if p > 0.0 { (1.0 - libm::log10(p).floor()).clamp(0.0, 12.0) as usize } else { 0 };
    format!("{p:.digits$}")
}

fn gallery(shifts: &[Shift], subject: &str) -> Option<Figure> {
    let described = &shifts.iter().find_map(|shift| shift.cells.first())?.description;
    let view = if described.dimensions == 3 { View::TopAndSide } else { View::Top };
    let mut gallery = Gallery::new().scale_bar(described.voxel_um[2]).legend(&described.channels);
    for shift in shifts.iter().filter(|shift| !shift.cells.is_empty()) {
        gallery.row(shift.title.replace(", ", "\n"));
        for cell in &shift.cells {
            let name = if cell.treated { shift.treatment.as_str() } else { "vehicle" };
            gallery.tile(Picture::cell(&cell.image, &cell.description, view), format!("{name}\n{:+.1}", cell.position));
        }
    }
    let caption = "Real cells from one end of each shift to the other. Numbers: where a cell lies, 0 at the centroid of the vehicle cells, \
                   1 at that of the treated ones (paper, Fig 6 g).";
    Some(gallery.cropped().figure(
        "cells-along-shifts",
        SECTION,
        &format!("Cells along each shift: {subject}"),
        caption,
        None,
    ))
}
