//! Weight gradients.

use std::{cell::RefCell, ops::Range};

use super::{
    super::{Direction, Lattice, Window, lattices},
    Class, POINTS, SCRATCH, SIDE, Scratch, Stretch, TILES, enough, patch, signed,
    transform::{both, of_outputs, of_patch, to_points, to_taps},
};
use crate::{
    nn::cpu::{
        micro_kernel::{Accumulators, LANES, ROWS, Segment, multiply_add},
        parallel,
        view::View,
    },
    simd::{Instructions, Lanes, WithLanes, with_lanes},
};

/// Channels of each side that are worked on together.
const SQUARE: usize = 64;
/// Fewer tiles than these are left to the direct way: it is as fast, and where a tap meets nothing but zeros its gradient is exactly zero
/// there, which Adam tells from a rounding error.
const FEWEST_TILES: usize = 64;
/// Floats from one point to the next in memory: one cache line more than a power of two, lest all points fall on the same lines of the
/// cache.
const APART: usize = TILES * SQUARE + 16;

/// As [`crate::nn::weight_gradient`], if that is worth while; says whether it was.
pub(in super::super) fn weight_gradient(
    window: &Window,
    direction: Direction,
    input: View,
    gradient: View,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) -> bool {
    let (small, large) = match direction {
        Direction::Convolution => (gradient, input),
        Direction::Transposed => (input, gradient),
    };
    let axes: [Lattice; 3] = std::array::from_fn(|axis| {
        let (kernel, stride, padding) = (window.kernel[axis], window.stride[axis], window.padding[axis]);
        lattices(kernel, stride, padding, small.shape().size[axis], Direction::Convolution).remove(0)
    });
    let axes: [&Lattice; 3] = std::array::from_fn(|axis| &axes[axis]);
    if !enough(small.shape().channels) || !enough(large.shape().channels) {
        return false;
    }
    let spread = direction == Direction::Transposed;
    match Class::reach(axes) {
        Some(2) => Gradient::<2, 3>::new(axes, window, small, large, spread).run(out, scratch),
        Some(3) => Gradient::<3, 2>::new(axes, window, small, large, spread).run(out, scratch),
        _ => false,
    }
}

/// A weight gradient: at every point the products of the transformed patches of the larger maps with the transformed tiles of the smaller.
struct Gradient<'a, const R: usize, const M: usize> {
    class: Class,
    small: View<'a>,
    large: View<'a>,
    /// Whether the smaller maps are the forward pass's input.
    spread: bool,
    /// Channels of the forward pass's input and output.
    inputs: usize,
    outputs: usize,
}

impl<'a, const R: usize, const M: usize> Gradient<'a, R, M> {
    fn new(axes: [&Lattice; 3], window: &Window, small: View<'a>, large: View<'a>, spread: bool) -> Self {
        let (few, many) = (small.shape().channels, large.shape().channels);
        let (inputs, outputs) = if spread { (few, many) } else { (many, few) };
        Self { class: Class::new(axes, window, M, 0), small, large, spread, inputs, outputs }
    }

    /// Says whether there were enough tiles to do it.
    fn run(&self, out: &mut [f32], scratch: &mut Vec<f32>) -> bool {
        let tiles = self.class.all_tiles(self.small.shape().images);
        if tiles < FEWEST_TILES {
            return false;
        }
        let squares: Vec<(usize, usize, usize)> = (0..self.class.stretches.len())
            .flat_map(|stretch| {
                let inputs = (0..self.inputs).step_by(SQUARE);
                inputs.flat_map(move |input| {
                    (0..self.outputs).step_by(SQUARE).map(move |output| (stretch, input, output))
                })
            })
            .collect();
        let groups = (32 / squares.len()).clamp(1, tiles.div_ceil(TILES));
        parallel::sum_of_groups(out, scratch, groups, squares.len(), |group, square, sums| {
            // Each square has its own taps and channels.
            let tiles = parallel::part(tiles, groups, group);
            SCRATCH.with(|scratch| self.square(squares[square], tiles, sums, scratch));
        });
        true
    }

    /// The gradient of the weights of one stretch, for 64 × 64 channels, over some tiles.
    fn square(
        &self,
        (stretch, input, output): (usize, usize, usize),
        tiles: Range<usize>,
        out: *mut f32,
        scratch: &RefCell<Scratch>,
    ) {
        let instructions = Instructions::detect();
        let rows = (self.inputs - input).min(SQUARE);
        let lanes = (self.outputs - output).min(SQUARE);
        let (row_blocks, lane_blocks) = (rows.div_ceil(ROWS), lanes.div_ceil(LANES));
        let mut scratch = scratch.borrow_mut();
        let floats = POINTS * APART;
        let (points, sums) = scratch.reserve([floats; 2], POINTS * row_blocks * lane_blocks);
        for sums in sums.iter_mut() {
            *sums = [[0.0; LANES]; ROWS];
        }
        let mut next = tiles.clone();
        while !next.is_empty() {
            let some = next.start..next.end.min(next.start + TILES);
            next.start = some.end;
            let count = some.len();
            let (of_large, of_small) = if self.spread {
                ((points[1], output, lanes), (points[0], input, rows))
            } else {
                ((points[0], input, rows), (points[1], output, lanes))
            };
            let transform =
                Tiles { of: self, stretch: &self.class.stretches[stretch], tiles: some, of_large, of_small };
            with_lanes(instructions, transform);
            for point in 0..POINTS {
                for row_block in 0..row_blocks {
                    // SAFETY: the points have room for these channels of all tiles; missing lanes are not read.
                    unsafe {
                        let a = points[0].add(point * APART + row_block * ROWS).cast_const();
                        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.add(row));
                        for lane_block in 0..lane_blocks {
                            let sums = &mut sums[(point * row_blocks + row_block) * lane_blocks + lane_block];
                            let b = points[1].add(point * APART + lane_block * LANES).cast_const();
                            let width = (lanes - lane_block * LANES).min(LANES);
                            let segment = [Segment { a: 0, b: 0, count }];
                            multiply_add(instructions, sums, &rows, SQUARE, b, SQUARE, width, &segment);
                        }
                    }
                }
            }
        }
        let stretch = &self.class.stretches[stretch];
        with_lanes(instructions, Taps { of: self, stretch, first: [input, output], size: [rows, lanes], sums, out });
    }
}

/// Transforms some tiles: where to, first channel and number of channels for the larger maps and the smaller.
struct Tiles<'a, const R: usize, const M: usize> {
    of: &'a Gradient<'a, R, M>,
    stretch: &'a Stretch,
    tiles: Range<usize>,
    of_large: (*mut f32, usize, usize),
    of_small: (*mut f32, usize, usize),
}

impl<const R: usize, const M: usize> WithLanes for Tiles<'_, R, M> {
    #[inline(always)]
    fn run<L: Lanes>(self, token: L::Token) {
        let class = &self.of.class;
        let [z_axis, y_axis, x_axis] = &class.axes;
        let spacing = [y_axis.input_step, x_axis.input_step];
        let from = self.stretch.from;
        let ((large, large_channel, large_channels), (small, small_channel, small_channels)) =
            (self.of_large, self.of_small);
        for (row, tile) in self.tiles.enumerate() {
            let [image, z, y, x] = class.tile(tile);
            let corner = [from[1] + signed(y * M * spacing[0]), from[2] + signed(x * M * spacing[1])];
            let large_z = from[0] + signed(z * z_axis.input_step);
            let patch_large = patch::<SIDE>(self.of.large, image, large_z, corner, spacing, large_channel);
            let first = [signed(y * M), signed(x * M)];
            let patch_small = patch::<M>(self.of.small, image, signed(z), first, [1; 2], small_channel);
            // SAFETY: the channels are all there; the points have room for so many tiles and channels.
            unsafe {
                let (large, small) = (large.add(row * SQUARE), small.add(row * SQUARE));
                to_points::<L, SIDE>(token, &patch_large, large_channels, large, APART, of_patch);
                to_points::<L, M>(token, &patch_small, small_channels, small, APART, of_outputs);
            }
        }
    }
}

/// Transforms the sums of a square back to weights.
struct Taps<'a, const R: usize, const M: usize> {
    of: &'a Gradient<'a, R, M>,
    stretch: &'a Stretch,
    /// First input and output channel, and how many of each.
    first: [usize; 2],
    size: [usize; 2],
    sums: &'a [Accumulators],
    out: *mut f32,
}

impl<const R: usize, const M: usize> WithLanes for Taps<'_, R, M> {
    #[inline(always)]
    fn run<L: Lanes>(self, token: L::Token) {
        let ([input, output], [rows, lanes]) = (self.first, self.size);
        let (row_blocks, lane_blocks) = (rows.div_ceil(ROWS), lanes.div_ceil(LANES));
        for row in 0..rows {
            for lane in (0..lanes).step_by(L::COUNT) {
                // SAFETY: a row of sums has 32 lanes; the square has these weights to itself.
                unsafe {
                    let mut values = [[L::zero(token); SIDE]; SIDE];
                    for (point, value) in values.iter_mut().flatten().enumerate() {
                        let block = (point * row_blocks + row / ROWS) * lane_blocks + lane / LANES;
                        *value = L::load(token, self.sums[block][row % ROWS].as_ptr().add(lane % LANES));
                    }
                    let of_taps: [[L; R]; R] = both(token, values, to_taps);
                    for (value, tap) in of_taps.iter().flatten().zip(&self.stretch.taps) {
                        let place = (tap * self.of.inputs + input + row) * self.of.outputs + output + lane;
                        value.store(self.out.add(place));
                    }
                }
            }
        }
    }
}
