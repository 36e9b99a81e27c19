//! Gaussian smoothing.

use rayon::prelude::*;

use super::{Volume, simd};

/// Smooths with a Gaussian of standard deviation `sigma` voxels (Z, Y, X; 0: not along this axis), cut at three standard deviations.
/// Beyond the border the outermost voxel goes on.
#[must_use]
pub fn gaussian(volume: &Volume<f32>, sigma: [f64; 3]) -> Volume<f32> {
    let [depth, height, width] = volume.size;
    if volume.data.is_empty() {
        return volume.clone();
    }
    let weights = sigma.map(half_kernel);
    let plane = height * width;

    // X, then Y within each plane, while the plane is in the processor's cache.
    let mut in_plane = vec![0.0; volume.data.len()];
    in_plane.par_chunks_mut(plane).zip(volume.data.par_chunks(plane)).for_each_init(
        || vec![0.0; plane],
        |rows, (out, source)| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for (source, out) in source.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
                        along_row(source, &weights[2], out);
                    }
                    for (y, out) in out.chunks_exact_mut(width).enumerate() {
                        across(|offset| row_at(rows, width, height, y, offset), &weights[1], out);
                    }
                },
            );
        },
    );
    if weights[0].len() == 1 {
        return Volume::new(volume.size, in_plane);
    }
    let mut out = vec![0.0; volume.data.len()];
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
        let (z, y) = (row / height, row % height);
        simd::dispatch(
            #[inline(always)]
            || across(|offset| row_at(&in_plane[y * width..], plane, depth, z, offset), &weights[0], out),
        );
    });
    // `row_at` gave whole planes from row y on; only their first `width` voxels were read.
    Volume::new(volume.size, out)
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

#[inline(always)]
fn row_at(data: &[f32], stride: usize, count: usize, at: usize, offset: isize) -> &[f32] {
    let index = (at as isize + offset).clamp(0, count as isize - 1) as usize;
    &data[index * stride..]
}

/// The weighted sum of whole rows.
#[inline(always)]
fn across<'a>(row: impl Fn(isize) -> &'a [f32], weights: &[f32], out: &mut [f32]) {
    let width = out.len();
    for (out, centre) in out.iter_mut().zip(&row(0)[..width]) {
        *out = weights[0] * centre;
    }
    for (distance, &weight) in weights.iter().enumerate().skip(1) {
        let (before, after) = (&row(-(distance as isize))[..width], &row(distance as isize)[..width]);
        for ((out, before), after) in out.iter_mut().zip(before).zip(after) {
            *out += weight * (before + after);
        }
    }
}

/// The weighted sum along one row.
#[inline(always)]
fn along_row(source: &[f32], weights: &[f32], out: &mut [f32]) {
    let width = source.len();
    let radius = weights.len() - 1;
    if radius == 0 {
        out.copy_from_slice(source);
        return;
    }
    let at = |x: isize| source[x.clamp(0, width as isize - 1) as usize];
    let inner = radius.min(width)..width.saturating_sub(radius).max(radius.min(width));
    for x in (0..inner.start).chain(inner.end..width) {
        let mut sum = weights[0] * source[x];
        for (distance, weight) in weights.iter().enumerate().skip(1) {
            sum += weight * (at(x as isize - distance as isize) + at(x as isize + distance as isize));
        }
        out[x] = sum;
    }
    if inner.is_empty() {
        return;
    }
    let count = inner.len();
    let inside = &mut out[inner.clone()];
    for (out, centre) in inside.iter_mut().zip(&source[inner.clone()]) {
        *out = weights[0] * centre;
    }
    for (distance, &weight) in weights.iter().enumerate().skip(1) {
        let (before, after) = (inner.start - distance, inner.start + distance);
        let (before, after) = (&source[before..before + count], &source[after..after + count]);
        for ((out, before), after) in inside.iter_mut().zip(before).zip(after) {
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
