//! Active contours: Chan and Vese's energy with local means.

use rayon::prelude::*;

use super::{
    Volume,
    coarse::Grid,
    gaussian::{gaussian, gaussian_into},
};
use crate::simd;

/// How a contour is found. Lengths in µm.
#[derive(Clone, Copy, Debug)]
pub struct Contour {
    /// Reach (standard deviation) of the mean inside: an object's brightness.
    pub inside_um: f64,
    /// Reach of the mean outside: the background around an object.
    pub outside_um: f64,
    /// Scale at which the surface is smoothed.
    pub smoothing_um: f64,
    /// Weight of the surface against the image.
    pub smoothness: f32,
    /// The least difference between inside and outside that counts as an object, in grey values.
    pub contrast: f32,
    /// The most steps; fewer when the contour stands still.
    pub steps: usize,
}

/// Moves the surface of `start` (1 inside) until the image inside is as even as can be around the local mean inside, the image outside
/// around the local mean outside, and the surface is small. Gives 1 inside.
///
/// At rest a sharp edge lies where the image crosses half way between the two local means, which is where a blurred edge was before
/// the blur. The means leave out a rim of about `smoothing_um` on both sides of the surface, where the blur mixes the two.
///
/// Source: Chan & Vese 2001; local means as in Li et al. 2008 (region-scalable fitting); moved by threshold dynamics (Esedoğlu &
/// Tsai 2006; Wang et al. 2017): each step convolves the inside with a Gaussian and thresholds, so a surface may jump, split and
/// merge, and anisotropic voxels cost nothing.
#[must_use]
pub fn active_contour(image: &Volume<f32>, start: Volume<u8>, voxel_um: [f64; 3], contour: &Contour) -> Volume<u8> {
    let [_, height, width] = image.size;
    let grid = Grid::new(image.size, voxel_um, (contour.inside_um / 2.0).min(1.2));
    let smoothing = voxel_um.map(|length| contour.smoothing_um / length);
    let mut inside = start;
    let (mut smooth, mut in_plane) = (Volume::filled(image.size, 0.0), Vec::new());
    for _ in 0..contour.steps {
        gaussian_into(&inside, smoothing, &mut smooth, &mut in_plane);
        let [sum_in, weight_in, sum_out, weight_out] = grid.sums(
            [image, &smooth],
            #[inline(always)]
            |[value, smooth]| {
                let share = 2.0 * smooth - 1.0;
                let (deep_in, deep_out) = (share.max(0.0), (-share).max(0.0));
                [value * deep_in, deep_in, value * deep_out, deep_out]
            },
        );
        let mean_in = grid.stretched(&local_mean(&sum_in, &weight_in, grid.sigma(contour.inside_um, voxel_um)));
        let mean_out = grid.stretched(&local_mean(&sum_out, &weight_out, grid.sigma(contour.outside_um, voxel_um)));
        let changed: usize = inside
            .data
            .par_chunks_mut(width)
            .enumerate()
            .map_init(
                || (vec![0.0; width], vec![0.0; width], vec![0; width]),
                |(high, low, now), (row, inside)| {
                    let image = &image.data[row * width..(row + 1) * width];
                    let smooth = &smooth.data[row * width..(row + 1) * width];
                    simd::dispatch(
                        #[inline(always)]
                        || {
                            grid.row(&mean_in, row / height, row % height, high);
                            grid.row(&mean_out, row / height, row % height, low);
                            let (high, low, now) = (&high[..width], &low[..width], &mut now[..width]);
                            for x in 0..width {
                                let difference = high[x] - low[x];
                                // (I - out)² - (I - in)² = 2 (in - out) (I - (in + out) / 2), in units of (in - out)².
                                let data = image[x] - 0.5 * (high[x] + low[x]);
                                let surface = contour.smoothness * difference * (smooth[x] - 0.5);
                                now[x] = u8::from((difference > contour.contrast) & (data + surface > 0.0));
                            }
                            let changed: u32 =
                                now.iter().zip(&*inside).map(|(now, before)| u32::from(now != before)).sum();
                            inside.copy_from_slice(now);
                            changed as usize
                        },
                    )
                },
            )
            .sum();
        if changed * 50_000 <= image.data.len() {
            break;
        }
    }
    inside
}

/// Weighted means around each block; where there is no weight far and wide, the mean of all.
fn local_mean(sum: &Volume<f32>, weight: &Volume<f32>, sigma: [f64; 3]) -> Volume<f32> {
    let total: f64 = sum.data.iter().map(|&v| f64::from(v)).sum();
    let all: f64 = weight.data.iter().map(|&v| f64::from(v)).sum();
    let prior = if all > 0.0 { (total / all) as f32 } else { 0.0 };
    // As much as one voxel in a thousand of a block: nothing where there is any weight nearby.
    let trust = 1e-2;
    let (sum, weight) = (gaussian(sum, sigma), gaussian(weight, sigma));
    let means = sum.data.iter().zip(&weight.data).map(|(s, w)| (s + trust * prior) / (w + trust)).collect();
    Volume::new(sum.size, means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::{mask, noise};

    /// Two balls of different brightness on an uneven background, blurred and noisy, in flat voxels.
    #[test]
    fn finds_balls_of_different_brightness_where_they_are() {
        let (size, voxel) = ([36, 60, 110], [0.4, 0.3, 0.3]);
        let ball = |centre: [f64; 3], radius: f64| {
            mask(size, move |z, y, x| {
                let d = [z * voxel[0] - centre[0], y * voxel[1] - centre[1], x * voxel[2] - centre[2]];
                d.iter().map(|d| d * d).sum::<f64>() < radius * radius
            })
        };
        let (dim, bright) = (ball([7.0, 9.0, 8.0], 4.0), ball([7.0, 9.0, 25.0], 4.0));
        let mut image = Volume::filled(size, 0.0);
        for at in 0..image.data.len() {
            let ramp = (at % size[2]) as f32;
            image.data[at] = 100.0 + ramp + 150.0 * f32::from(dim.data[at]) + 1500.0 * f32::from(bright.data[at]);
        }
        let mut image = gaussian(&image, [1.8, 1.0, 1.0]);
        for (value, noise) in image.data.iter_mut().zip(noise(size).data) {
            *value += (noise - 500.0) * 0.06;
        }
        let start = image.map(|&value| u8::from(value > 270.0));
        let contour =
            Contour { inside_um: 2.0, outside_um: 6.0, smoothing_um: 0.5, smoothness: 0.5, contrast: 60.0, steps: 30 };
        let found = active_contour(&image, start, voxel, &contour);
        for (truth, name) in [(&dim, "dim"), (&bright, "bright")] {
            let half = |at: usize| (at % size[2] < 55) == (name == "dim");
            let volume = |m: &Volume<u8>| (0..m.data.len()).filter(|&at| half(at) && m.data[at] == 1).count() as f64;
            let both = (0..found.data.len()).filter(|&at| found.data[at] & truth.data[at] == 1).count() as f64;
            let overlap = both / (volume(&found) + volume(truth) - both);
            assert!(overlap > 0.93, "{name}: {overlap}");
            let bias = volume(&found) / volume(truth);
            assert!((bias - 1.0).abs() < 0.05, "{name}: {bias}");
        }
    }
}
