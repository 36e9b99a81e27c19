//! Filters that work along one axis after the other.

use rayon::prelude::*;

use super::Volume;
use crate::simd;

/// Voxels of a row that are worked on together.
const LANES: usize = 32;

/// What a filter makes of a voxel and those around it along one axis.
pub(super) trait Combine {
    /// The voxel itself, at weight 0 away.
    fn centre(weight: f32, value: f32) -> f32;
    /// What there is so far and the two voxels so far before and after it, with their weight.
    fn pair(so_far: f32, weight: f32, before: f32, after: f32) -> f32;
}

/// Filters along X, Y, then Z, into `out`, which has the volume's size. `value` is what a voxel counts as; `weights` (Z, Y, X) are those of
/// voxels 0, 1, 2, … away. Beyond the border the outermost voxel goes on. Who calls it again and again keeps `in_plane`, room of its own.
pub(super) fn separable<C: Combine, T: Copy + Sync>(
    volume: &Volume<T>,
    value: impl Fn(T) -> f32 + Sync,
    weights: &[Vec<f32>; 3],
    out: &mut Volume<f32>,
    in_plane: &mut Vec<f32>,
) {
    let [depth, height, width] = volume.size;
    if volume.data.is_empty() {
        return;
    }
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
                        line.resize(radius, value(source[0]));
                        line.extend(source.iter().map(|&voxel| value(voxel)));
                        line.resize(width + 2 * radius, value(source[width - 1]));
                        rows_around::<C>(|offset| &line[radius.wrapping_add_signed(offset)..], &weights[2], out);
                    }
                    for (y, out) in out.chunks_exact_mut(width).enumerate() {
                        rows_around::<C>(|offset| row_at(rows, width, height, y, offset), &weights[1], out);
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
            || rows_around::<C>(|offset| row_at(&in_plane[y * width..], plane, depth, z, offset), &weights[0], out),
        );
    });
}

/// The data from the row on that is `offset` away from row `at`, or the outermost one.
#[inline(always)]
fn row_at(data: &[f32], stride: usize, count: usize, at: usize, offset: isize) -> &[f32] {
    let index = (at as isize + offset).clamp(0, count as isize - 1) as usize;
    &data[index * stride..]
}

/// Combines rows: `row` gives the one so far away, and maybe more behind it.
#[inline(always)]
fn rows_around<'a, C: Combine>(row: impl Fn(isize) -> &'a [f32], weights: &[f32], out: &mut [f32]) {
    let (runs, rest) = out.as_chunks_mut::<LANES>();
    let first_of_rest = runs.len() * LANES;
    for (run, out) in runs.iter_mut().enumerate() {
        let part = |offset| &row(offset)[run * LANES..][..LANES];
        let mut sums = [0.0; LANES];
        for (sum, &centre) in sums.iter_mut().zip(part(0)) {
            *sum = C::centre(weights[0], centre);
        }
        for (distance, &weight) in weights.iter().enumerate().skip(1) {
            let (before, after) = (part(-(distance as isize)), part(distance as isize));
            for lane in 0..LANES {
                sums[lane] = C::pair(sums[lane], weight, before[lane], after[lane]);
            }
        }
        *out = sums;
    }
    let part = |offset| &row(offset)[first_of_rest..];
    for (out, &centre) in rest.iter_mut().zip(part(0)) {
        *out = C::centre(weights[0], centre);
    }
    for (distance, &weight) in weights.iter().enumerate().skip(1) {
        let (before, after) = (part(-(distance as isize)), part(distance as isize));
        for ((out, &before), &after) in rest.iter_mut().zip(before).zip(after) {
            *out = C::pair(*out, weight, before, after);
        }
    }
}
