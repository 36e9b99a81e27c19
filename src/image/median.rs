//! The grey median filter in 3D.

use rayon::prelude::*;

use super::Volume;
use crate::simd;

/// Voxels of a row that are worked on together.
const LANES: usize = 64;

/// The median of the box of `2·radius + 1` voxels around each voxel (radius Z, Y, X). Beyond the border the outermost voxel goes on.
///
/// Exact, for real numbers without NaN. It is done by networks of minima and maxima, a run of voxels at a time: the work grows with the
/// square of the window's volume and is meant for radii of 1 or 2. First the voxels of the window that have the same X are sorted, once
/// for all windows that they are in; then of these columns the smallest values, the second smallest, and so on. Of values sorted both
/// ways only those in the middle can be the median, and they alone go through the last network.
#[must_use]
pub fn median(volume: &Volume<f32>, radius: [usize; 3]) -> Volume<f32> {
    let [_, height, width] = volume.size;
    if radius == [0; 3] || volume.data.is_empty() {
        return volume.clone();
    }
    let rows = (2 * radius[0] + 1) * (2 * radius[1] + 1);
    let plan = Plan {
        sort_columns: sorting_network(rows),
        sort_rows: sorting_network(2 * radius[2] + 1),
        middle: middle(rows, 2 * radius[2] + 1),
    };
    let mut out = vec![0.0; volume.data.len()];
    out.par_chunks_mut(width).enumerate().for_each_init(Scratch::default, |scratch, (row, out)| {
        simd::dispatch(
            #[inline(always)]
            || median_row(volume, radius, &plan, [row / height, row % height], out, scratch),
        );
    });
    Volume::new(volume.size, out)
}

/// What is compared with what.
struct Plan {
    sort_columns: Vec<(usize, usize)>,
    sort_rows: Vec<(usize, usize)>,
    /// The places of the sorted values that can be the median: row, column.
    middle: Vec<(usize, usize)>,
}

/// Pairs to put in order, one after the other, so that so many values are sorted. Source: Batcher's merge exchange, as in Knuth, The Art
/// of Computer Programming 3, algorithm 5.2.2 M.
fn sorting_network(count: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let highest = count.next_power_of_two() / 2;
    let mut p = highest;
    while p > 0 {
        let (mut q, mut r, mut d) = (highest, 0, p);
        loop {
            pairs.extend((0..count.saturating_sub(d)).filter(|i| i & p == r).map(|i| (i, i + d)));
            if q == p {
                break;
            }
            (d, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
    pairs
}

/// Of rows × columns values sorted along both, those that have neither more than half of all values above nor below them. There are
/// as many too small as too large, so their median is that of all.
fn middle(rows: usize, columns: usize) -> Vec<(usize, usize)> {
    let half = rows * columns / 2 + 1;
    (0..rows * columns)
        .map(|at| (at / columns, at % columns))
        .filter(|(row, column)| (row + 1) * (column + 1) <= half && (rows - row) * (columns - column) <= half)
        .collect()
}

/// The window's rows with their borders, and the values in the networks.
#[derive(Default)]
struct Scratch {
    rows: Vec<f32>,
    values: Vec<[f32; LANES]>,
    row: Vec<[f32; LANES]>,
}

#[inline(always)]
fn median_row(
    volume: &Volume<f32>,
    radius: [usize; 3],
    plan: &Plan,
    [z, y]: [usize; 2],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let [depth, height, width] = volume.size;
    let padded = (width.next_multiple_of(LANES) + 2 * radius[2]).next_multiple_of(LANES);
    scratch.rows.clear();
    for dz in 0..=2 * radius[0] {
        let z = (z + dz).saturating_sub(radius[0]).min(depth - 1);
        for dy in 0..=2 * radius[1] {
            let y = (y + dy).saturating_sub(radius[1]).min(height - 1);
            let start = volume.index(z, y, 0);
            let row = &volume.data[start..start + width];
            let first = scratch.rows.len();
            scratch.rows.resize(first + radius[2], row[0]);
            scratch.rows.extend_from_slice(row);
            scratch.rows.resize(first + padded, row[width - 1]);
        }
    }
    for first in (0..padded).step_by(LANES) {
        scratch.values.clear();
        scratch.values.extend(scratch.rows.chunks_exact(padded).map(|row| run_at(row, first)));
        for &(low, high) in &plan.sort_columns {
            order(&mut scratch.values, low, high);
        }
        for (row, values) in scratch.rows.chunks_exact_mut(padded).zip(&scratch.values) {
            row[first..first + LANES].copy_from_slice(values);
        }
    }
    for (run, out) in out.chunks_mut(LANES).enumerate() {
        scratch.values.clear();
        for (at, row) in scratch.rows.chunks_exact(padded).enumerate() {
            scratch.row.clear();
            scratch.row.extend((0..=2 * radius[2]).map(|dx| run_at(row, run * LANES + dx)));
            for &(low, high) in &plan.sort_rows {
                order(&mut scratch.row, low, high);
            }
            let middle = plan.middle.iter().filter(|(row, _)| *row == at);
            scratch.values.extend(middle.map(|&(_, column)| scratch.row[column]));
        }
        out.copy_from_slice(&select_median(&mut scratch.values)[..out.len()]);
    }
}

#[inline(always)]
fn run_at(row: &[f32], first: usize) -> [f32; LANES] {
    row[first..first + LANES].try_into().expect("a run of lanes")
}

/// The median of each lane of an odd number of values. Of any n/2 + 2 values the smallest and the largest cannot be the median of n: both are forgotten, and
/// a value that was not looked at yet comes in, until one is left.
#[inline(always)]
fn select_median(values: &mut [[f32; LANES]]) -> [f32; LANES] {
    let count = values.len();
    let mut held = (count / 2 + 2).min(count);
    let mut next = held;
    let mut first = 0;
    loop {
        let last = first + held - 1;
        if held == 1 {
            return values[first];
        }
        // Order pairs from the two ends, so that the smallest is in the front half and the largest in the back half.
        for i in 0..held / 2 {
            order(values, first + i, last - i);
        }
        for i in 1..held.div_ceil(2) {
            order(values, first, first + i);
        }
        for i in 1..held.div_ceil(2) {
            order(values, last - i, last);
        }
        // The slot of the smallest is dropped; that of the largest takes the next value, if there is one.
        first += 1;
        if next < count {
            values[last] = values[next];
            next += 1;
            held -= 1;
        } else {
            held -= 2;
        }
    }
}

#[inline(always)]
fn order(values: &mut [[f32; LANES]], low: usize, high: usize) {
    let (a, b) = (values[low], values[high]);
    let (mut least, mut most) = (a, b);
    for lane in 0..LANES {
        least[lane] = if a[lane] < b[lane] { a[lane] } else { b[lane] };
        most[lane] = if a[lane] < b[lane] { b[lane] } else { a[lane] };
    }
    values[low] = least;
    values[high] = most;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    fn naive(volume: &Volume<f32>, radius: [usize; 3]) -> Volume<f32> {
        let mut out = volume.clone();
        let [depth, height, width] = volume.size;
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    let mut window = Vec::new();
                    for dz in 0..=2 * radius[0] {
                        for dy in 0..=2 * radius[1] {
                            for dx in 0..=2 * radius[2] {
                                window.push(
                                    volume.data[volume.index(
                                        (z + dz).saturating_sub(radius[0]).min(depth - 1),
                                        (y + dy).saturating_sub(radius[1]).min(height - 1),
                                        (x + dx).saturating_sub(radius[2]).min(width - 1),
                                    )],
                                );
                            }
                        }
                    }
                    window.sort_by(f32::total_cmp);
                    let at = volume.index(z, y, x);
                    out.data[at] = window[window.len() / 2];
                }
            }
        }
        out
    }

    #[test]
    fn as_by_sorting() {
        for (size, radius) in [
            ([4, 5, 37], [1, 1, 1]),
            ([3, 4, 70], [0, 1, 2]),
            ([1, 6, 5], [0, 1, 1]),
            ([5, 3, 33], [2, 1, 0]),
            ([2, 2, 3], [1, 2, 2]),
        ] {
            let volume = noise(size);
            assert_eq!(median(&volume, radius), naive(&volume, radius), "{size:?} {radius:?}");
        }
    }
}
