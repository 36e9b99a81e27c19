//! Nearest sampling, average pooling, nearest upsampling, and their adjoints.

use super::view::{View, ViewMut};

/// Copies rows: maps with another halo.
pub(super) fn copy(from: View, to: &mut ViewMut) {
    to.for_each_row(
        #[inline(always)]
        |row, out| out.copy_from_slice(from.row(row)),
    );
}

/// `to += from`.
pub(super) fn add(from: View, to: &mut ViewMut) {
    to.for_each_row(
        #[inline(always)]
        |row, out| out.iter_mut().zip(from.row(row)).for_each(|(out, value)| *out += value),
    );
}

/// The nearest voxels: those at multiples of the ratio of the sizes.
pub(super) fn nearest(from: View, to: &mut ViewMut) {
    let (full, shape) = (from.shape(), to.shape());
    let step: [usize; 3] = std::array::from_fn(|axis| full.size[axis] / shape.size[axis]);
    let channels = shape.channels;
    to.for_each_row(
        #[inline(always)]
        |row, out| {
            let [image, z, y] = shape.row_position(row);
            let source = &from.data()[full.offset(image, [z * step[0], y * step[1], 0])..];
            let source = source.chunks_exact(channels).step_by(step[2]);
            out.chunks_exact_mut(channels).zip(source).for_each(|(out, source)| out.copy_from_slice(source));
        },
    );
}

/// The sum over every 2 × 2 (× 2) voxels, each times `factor`: average pooling, and the adjoint of nearest upsampling.
fn corners(large: View, small: &mut ViewMut, scale: impl Fn(f32) -> f32 + Sync + Send) {
    let (from, to) = (large.shape(), small.shape());
    let deep = from.size[0] / to.size[0];
    let channels = from.channels;
    small.for_each_row(
        #[inline(always)]
        |row, out| {
            let [image, z, y] = to.row_position(row);
            out.fill(0.0);
            for corner in 0..2 * deep {
                let start = from.offset(image, [z * deep + corner / 2, 2 * y + corner % 2, 0]);
                let source = &large.data()[start..start + from.row_len()];
                for (out, pair) in out.chunks_exact_mut(channels).zip(source.chunks_exact(2 * channels)) {
                    let (left, right) = pair.split_at(channels);
                    out.iter_mut().zip(left).zip(right).for_each(|((out, left), right)| *out += scale(left + right));
                }
            }
        },
    );
}

/// Means of 2 × 2 (× 2) voxels.
pub(super) fn average(large: View, small: &mut ViewMut) {
    let factor = 1.0 / (4 * large.shape().size[0] / small.shape().size[0]) as f32;
    corners(
        large,
        small,
        #[inline(always)]
        |sum| sum * factor,
    );
}

/// The adjoint of nearest upsampling.
pub(super) fn sum_corners(large: View, small: &mut ViewMut) {
    corners(
        large,
        small,
        #[inline(always)]
        |sum| sum,
    );
}

/// The adjoint of average pooling: every voxel's share to each of its 2 × 2 (× 2) voxels, put there or added.
pub(super) fn spread_average(small: View, large: &mut ViewMut, accumulate: bool) {
    let (from, to) = (small.shape(), large.shape());
    let deep = to.size[0] / from.size[0];
    let factor = 1.0 / (4 * deep) as f32;
    let channels = from.channels;
    large.for_each_row(
        #[inline(always)]
        |row, out| {
            let [image, z, y] = to.row_position(row);
            let source = &small.data()[from.offset(image, [z / deep, y / 2, 0])..];
            if !accumulate {
                out.fill(0.0);
            }
            for (pair, source) in out.chunks_exact_mut(2 * channels).zip(source.chunks_exact(channels)) {
                let (left, right) = pair.split_at_mut(channels);
                for ((left, right), source) in left.iter_mut().zip(right).zip(source) {
                    *left += source * factor;
                    *right += source * factor;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Maps, Rng, Shape};

    fn random(shape: Shape, seed: u64) -> Maps {
        let mut rng = Rng::new(seed, "test", 0);
        let mut maps = Maps::zeros(shape);
        let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.normal() as f32).collect();
        maps.of_model_mut(0).read_channels_first(&values);
        maps
    }

    fn product(a: View, b: View) -> f64 {
        let rows = (0..a.shape().rows()).flat_map(|row| a.row(row).iter().zip(b.row(row)));
        rows.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn adjoints_are_adjoint_in_two_and_three_dimensions() {
        for size in [[1, 4, 6], [4, 2, 6]] {
            let small = std::array::from_fn(|axis| (size[axis] / 2).max(1));
            let (large, small) = (Shape::new(2, size, 3), Shape::new(2, small, 3));
            let (x, y) = (random(large.with_halo([1; 3]), 1), random(small, 2));
            let mut pooled = Maps::zeros(small);
            average(x.of_model(0), &mut pooled.of_model_mut(0));
            let mut back = Maps::zeros(large);
            spread_average(y.of_model(0), &mut back.of_model_mut(0), false);
            let (left, right) = (product(pooled.of_model(0), y.of_model(0)), product(x.of_model(0), back.of_model(0)));
            assert!((left - right).abs() < 1e-5, "{left} {right}");
            // Added once more, it is twice as much.
            spread_average(y.of_model(0), &mut back.of_model_mut(0), true);
            assert!((product(x.of_model(0), back.of_model(0)) - 2.0 * right).abs() < 1e-5);

            let mut corners = Maps::zeros(small);
            sum_corners(x.of_model(0), &mut corners.of_model_mut(0));
            let count = if size[0] > 1 { 8.0 } else { 4.0 };
            for (sum, mean) in corners.data().iter().zip(pooled.data()) {
                assert!((sum - mean * count).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn nearest_takes_every_other_voxel() {
        let x = random(Shape::new(1, [2, 4, 4], 2), 3);
        let mut y = Maps::zeros(Shape::new(1, [1, 2, 2], 2));
        nearest(x.of_model(0), &mut y.of_model_mut(0));
        assert_eq!(y.data()[..2], x.data()[..2]);
        assert_eq!(y.data()[2..4], x.data()[4..6]);
    }
}
