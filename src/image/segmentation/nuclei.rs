//! Nuclei by active contours.

use rayon::prelude::*;

use crate::image::{
    Connectivity, Contour, Volume, active_contour, basins, components, distance, distance_within, fill_holes,
    fill_holes_in_planes, label_counts, median, open, otsu,
};

/// How nuclei are found. Lengths in µm.
#[derive(Clone, Copy, Debug)]
pub struct NucleiParams {
    /// Radius of the median filter.
    pub median_um: f64,
    /// Scale at which the surface is smoothed.
    pub smoothing_um: f64,
    /// Reach of the local brightness of nuclei.
    pub inside_um: f64,
    /// Reach of the local background.
    pub outside_um: f64,
    /// Least brightness above the background, as a share of the typical nucleus's.
    pub contrast: f32,
    /// Two nuclei that touch are taken apart when their neck is narrower than this share of the smaller one's radius.
    pub neck: f32,
    /// Smaller objects are no nuclei, µm³.
    pub smallest_um3: f64,
}

impl Default for NucleiParams {
    fn default() -> Self {
        Self {
            median_um: 0.3,
            smoothing_um: 0.4,
            inside_um: 2.5,
            outside_um: 6.0,
            contrast: 0.25,
            neck: 0.8,
            smallest_um3: 30.0,
        }
    }
}

/// Numbers the nuclei of a field: 1, 2, … in the order of their first voxels; and how many there are.
#[must_use]
pub fn nuclei(dna: &Volume<f32>, voxel_um: [f64; 3], params: &NucleiParams) -> (Volume<u32>, u32) {
    let radius = voxel_um.map(|length| (params.median_um / length).round() as usize);
    let image = median(dna, radius);

    // A start: Otsu's threshold of the logarithm, so that a mitotic nucleus, many times brighter, does not hide the others.
    let lowest = image.data.iter().copied().fold(f32::INFINITY, f32::min);
    let log = Volume::new(image.size, image.data.par_iter().map(|value| libm::logf(value - lowest + 1.0)).collect());
    let threshold = libm::expf(otsu(&log)) + lowest - 1.0;
    let start = image.map(|&value| u8::from(value > threshold));
    let (mut sums, mut counts) = ([0.0_f64; 2], [0.0_f64; 2]);
    for (&value, &inside) in image.data.iter().zip(&start.data) {
        sums[usize::from(inside)] += f64::from(value);
        counts[usize::from(inside)] += 1.0;
    }
    let typical = (sums[1] / counts[1].max(1.0) - sums[0] / counts[0].max(1.0)) as f32;

    let contour = Contour {
        inside_um: params.inside_um,
        outside_um: params.outside_um,
        smoothing_um: params.smoothing_um,
        smoothness: 0.5,
        contrast: params.contrast * typical,
        steps: 30,
    };
    let found = active_contour(&image, start, voxel_um, &contour);
    let solid = open(&fill_holes_in_planes(&fill_holes(&found)), voxel_um, 0.8);
    let least = params.smallest_um3 / voxel_um.iter().product::<f64>();
    let level = (sums[0] / counts[0].max(1.0)) as f32 + CHROMOSOMES * typical;
    let solid = with_chromosomes(solid, &image, level, voxel_um, least);

    let depth = distance(&solid, voxel_um);
    let (labels, count) = basins(&depth, |peak, neck| neck < params.neck * peak);
    remove_small(&labels, count, least)
}

/// Chromosomes are this many times as bright above the background as what is in nuclei on average.
const CHROMOSOMES: f32 = 1.25;
/// Gaps between chromosomes are closed up to twice this, µm.
const BETWEEN_UM: f32 = 0.8;
/// How far the mass of chromosomes reaches beyond them, µm.
const MASS_UM: f32 = 0.4;

/// Adds the chromosomes of dividing cells where their arms are so thin that smoothing took them away: what is brighter than `level`, its
/// gaps closed, where nuclei are less than half of it.
fn with_chromosomes(
    mut solid: Volume<u8>,
    image: &Volume<f32>,
    level: f32,
    voxel_um: [f64; 3],
    least: f64,
) -> Volume<u8> {
    let bright = image.map(|&value| u8::from(value > level));
    let outside = bright.data.iter().zip(&solid.data).filter(|(bright, solid)| **bright != 0 && **solid == 0).count();
    if (outside as f64) < least / 4.0 {
        return solid;
    }
    let away = distance_within(&bright.map(|&bright| 1 - bright), voxel_um, BETWEEN_UM);
    let wide = away.map(|&away| u8::from(away <= BETWEEN_UM));
    let shrink = BETWEEN_UM - MASS_UM;
    let closed = distance_within(&wide, voxel_um, shrink).map(|&depth| u8::from(depth > shrink));
    let (masses, count) = components(&fill_holes(&closed), Connectivity::Faces);
    let mut voxels = vec![[0_usize; 2]; count as usize + 1];
    for (&mass, &solid) in masses.data.iter().zip(&solid.data) {
        voxels[mass as usize][usize::from(solid != 0)] += 1;
    }
    for (solid, &mass) in solid.data.iter_mut().zip(&masses.data) {
        let [without, within] = voxels[mass as usize];
        *solid |= u8::from(mass != 0 && within < without && (without + within) as f64 >= least);
    }
    solid
}

/// Drops regions of fewer voxels and numbers the others anew, in the same order.
fn remove_small(labels: &Volume<u32>, count: u32, least: f64) -> (Volume<u32>, u32) {
    let counts = label_counts(labels, count);
    let mut kept = 0;
    let numbers: Vec<u32> = counts
        .iter()
        .enumerate()
        .map(|(label, &voxels)| {
            if label == 0 || (voxels as f64) < least {
                return 0;
            }
            kept += 1;
            kept
        })
        .collect();
    (labels.map(|&label| numbers[label as usize]), kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::mask;

    #[test]
    fn thin_chromosomes_become_one_mass_and_nuclei_stay_as_they_are() {
        let size = [20, 40, 80];
        let ball = mask(size, |z, y, x| (z - 10.0).powi(2) + (y - 20.0).powi(2) + (x - 20.0).powi(2) < 80.0);
        // Four rods of one voxel, 1.2 µm apart, and bright chromatin across a nucleus's surface.
        let is_rod =
            |z: f64, y: f64, x: f64| z == 10.0 && (10.0..30.0).contains(&y) && [50.0, 54.0, 58.0, 62.0].contains(&x);
        let bright = mask(size, |z, y, x| is_rod(z, y, x) || (z == 10.0 && y == 20.0 && (22.0..31.0).contains(&x)));
        let image = Volume::new(
            size,
            ball.data.iter().zip(&bright.data).map(|(&ball, &bright)| 100.0 * f32::from(ball + 2 * bright)).collect(),
        );
        let solid = with_chromosomes(ball.clone(), &image, 150.0, [0.3; 3], 100.0);
        let added: Vec<usize> = (0..ball.data.len()).filter(|&at| solid.data[at] != ball.data[at]).collect();
        assert!(added.iter().all(|at| at % 80 >= 48), "a nucleus grew");
        let (_, count) = components(&solid, Connectivity::Faces);
        assert_eq!(count, 2);
        assert_eq!(solid.data[solid.index(10, 20, 52)], 1, "between two rods");
        // No mass so small is a nucleus.
        assert_eq!(with_chromosomes(ball.clone(), &image, 150.0, [0.3; 3], 5000.0), ball);
    }
}
