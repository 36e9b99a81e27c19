//! Gaussian smoothing.

use rayon::prelude::*;

use super::{Volume, simd};

/// Voxels of a row that are summed up together.
const LANES: usize = 32;

/// Smooths with a Gaussian of standard deviation `sigma` voxels (Z, Y, X; 0: not along this axis), cut at three standard deviations.
/// Beyond the border the outermost voxel goes on.
#[must_use]
pub fn gaussian(volume: &Volume<f32>, sigma: [f64; 3]) -> Volume<f32> {
    let mut out = Volume::filled(volume.size, 0.0);
    gaussian_into(volume, sigma, &mut out, &mut Vec::new());
    out
}

/// [`gaussian`] of voxels of any type, into `out`, which has the volume's size. Who calls it again and again keeps `in_plane`, room of
/// its own.
pub(super) fn gaussian_into<T: Copy + Into<f32> + Sync>(
    volume: &Volume<T>,
    sigma: [f64; 3],
    out: &mut Volume<f32>,
    in_plane: &mut Vec<f32>,
) {
    let [depth, height, width] = volume.size;
    if volume.data.is_empty() {
        return;
    }
    let weights = sigma.map(half_kernel);
    let plane = height * width;

    // X, then Y within each plane, while the plane is in the processor's cache.
    in_plane.resize(volume.data.len(), 0.0);
    in_plane.par_chunks_mut(plane).zip(volume.data.par_chunks(plane)).for_each_init(
        || (Vec::new(), vec![0.0; plane]),
        |(line, rows), (out, source)| {
            simd::dispatch(
                #[inline(always)]
                || {
                    let radius = weights[2].len() - 1;
                    for (source, out) in source.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
                        line.clear();
                        line.resize(radius, source[0].into());
                        line.extend(source.iter().map(|&value| value.into()));
                        line.resize(width + 2 * radius, source[width - 1].into());
                        weighted_sum(|offset| &line[radius.wrapping_add_signed(offset)..], &weights[2], out);
                    }
                    for (y, out) in out.chunks_exact_mut(width).enumerate() {
                        weighted_sum(|offset| row_at(rows, width, height, y, offset), &weights[1], out);
                    }
                },
            );
        },
    );
    if weights[0].len() == 1 {
        std::mem::swap(&mut out.data, in_plane);
        return;
    }
    out.data.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
        let (z, y) = (row / height, row % height);
        simd::dispatch(
            #[inline(always)]
            || weighted_sum(|offset| row_at(&in_plane[y * width..], plane, depth, z, offset), &weights[0], out),
        );
    });
}

/// The weights of the voxels 0, 1, 2, … away; those of both sides together sum to 1.
fn half_kernel(sigma: f64) -> Vec<f32> {
    if sigma <= 0.0 {
        return vec![1.0];
    }
    let radius = (3.0 * sigma).ceil() as usize;
    let raw: Vec<f64> = (0..=radius).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp()).collect();
    let sum = 2.0 * raw.iter().sum::<f64>() - 1.0;
    raw.iter().map(|weight| (weight / sum) as f32).collect()
}

/// The data from the row on that is `offset` away from row `at`, or the outermost one.
#[inline(always)]
fn row_at(data: &[f32], stride: usize, count: usize, at: usize, offset: isize) -> &[f32] {
    let index = (at as isize + offset).clamp(0, count as isize - 1) as usize;
    &data[index * stride..]
}

/// The weighted sum of rows: `row` gives the one so far away, and maybe more behind it.
#[inline(always)]
fn weighted_sum<'a>(row: impl Fn(isize) -> &'a [f32], weights: &[f32], out: &mut [f32]) {
    let (runs, rest) = out.as_chunks_mut::<LANES>();
    let first_of_rest = runs.len() * LANES;
    for (run, out) in runs.iter_mut().enumerate() {
        let part = |offset| &row(offset)[run * LANES..][..LANES];
        let mut sums = [0.0; LANES];
        for (sum, centre) in sums.iter_mut().zip(part(0)) {
            *sum = weights[0] * centre;
        }
        for (distance, &weight) in weights.iter().enumerate().skip(1) {
            let (before, after) = (part(-(distance as isize)), part(distance as isize));
            for lane in 0..LANES {
                sums[lane] += weight * (before[lane] + after[lane]);
            }
        }
        *out = sums;
    }
    let part = |offset| &row(offset)[first_of_rest..];
    for (out, centre) in rest.iter_mut().zip(part(0)) {
        *out = weights[0] * centre;
    }
    for (distance, &weight) in weights.iter().enumerate().skip(1) {
        let (before, after) = (part(-(distance as isize)), part(distance as isize));
        for ((out, before), after) in rest.iter_mut().zip(before).zip(after) {
            *out += weight * (before + after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    #[test]
    fn as_by_the_definition() {
        for (size, sigma) in [([5, 6, 9], [1.0, 0.7, 1.3]), ([3, 4, 40], [2.0, 0.0, 3.0]), ([1, 2, 2], [0.0, 1.0, 1.0])]
        {
            let volume = noise(size);
            let got = gaussian(&volume, sigma);
            let kernel = sigma.map(half_kernel);
            for z in 0..size[0] {
                for y in 0..size[1] {
                    for x in 0..size[2] {
                        let mut sum = 0.0;
                        let reach = kernel.each_ref().map(|k| k.len() as isize - 1);
                        for dz in -reach[0]..=reach[0] {
                            for dy in -reach[1]..=reach[1] {
                                for dx in -reach[2]..=reach[2] {
                                    let near = |at: usize, d: isize, n: usize| {
                                        (at as isize + d).clamp(0, n as isize - 1) as usize
                                    };
                                    let at =
                                        volume.index(near(z, dz, size[0]), near(y, dy, size[1]), near(x, dx, size[2]));
                                    let weight = kernel[0][dz.unsigned_abs()]
                                        * kernel[1][dy.unsigned_abs()]
                                        * kernel[2][dx.unsigned_abs()];
                                    sum += f64::from(weight) * f64::from(volume.data[at]);
                                }
                            }
                        }
                        let value = f64::from(got.data[got.index(z, y, x)]);
                        assert!((value - sum).abs() < 1e-2, "{size:?} {sigma:?}: {value} {sum}");
                    }
                }
            }
        }
    }
}
