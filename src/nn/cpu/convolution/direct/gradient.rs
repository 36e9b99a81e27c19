//! Weight gradients, product by product.

use std::ops::Range;

use super::super::{Direction, Window};
use crate::{
    nn::{
        Shape,
        cpu::{
            micro_kernel::{Accumulators, FEW, LANES, ROWS, Segment, multiply_add},
            parallel,
            view::View,
        },
    },
    simd::Instructions,
};

/// See [`crate::nn::weight_gradient`].
pub(in super::super) fn weight_gradient(
    window: &Window,
    direction: Direction,
    input: View,
    gradient: View,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (from, to) = (input.shape(), gradient.shape());
    let (inputs, outputs) = (from.channels, to.channels);
    let length = window.taps() * inputs * outputs;
    let few_lanes = outputs <= FEW && inputs >= 8 && window.stride == [1; 3] && direction == Direction::Convolution;
    // With few output channels the input channels are the lanes, and the taps move the place in the gradient.
    let mirrored: [usize; 3] = std::array::from_fn(|axis| (window.kernel[axis] - 1).wrapping_sub(window.padding[axis]));
    // The mirrored window may look further into the gradient than the window into the input.
    let plan = if few_lanes && (0..3).all(|axis| to.halo[axis] >= mirrored[axis]) {
        let mut plan = Gradient::new(
            &Window { padding: mirrored, ..*window },
            Direction::Convolution,
            to,
            from,
            gradient.data(),
            input.data(),
        );
        plan.mirrored = true;
        plan
    } else {
        Gradient::new(window, direction, from, to, input.data(), gradient.data())
    };
    let rows = plan.few.rows();
    let groups = ((1 << 20) / length).clamp(1, 16).min(rows);
    let splits = (32 / groups).min(plan.blocks.len()).max(1);
    parallel::sum_of_groups(out, scratch, groups, splits, |group, split, sums| {
        // Each split has its own blocks.
        plan.run(
            parallel::part(rows, groups, group),
            &plan.blocks[parallel::part(plan.blocks.len(), splits, split)],
            sums,
        );
    });
}

/// Eight (tap, input channel) pairs of a weight gradient.
struct GradientBlock {
    /// Where the rows begin in the input, for the first voxel.
    rows: [isize; ROWS],
    /// How many of them count.
    count: usize,
    /// Added to the place in the output's gradient.
    shift: isize,
    /// Row of the gradient (taps × inputs) that the first pair has.
    first: usize,
}

struct Gradient<'a> {
    /// The maps with fewer voxels: one product for each of them and each tap.
    few: Shape,
    from: Shape,
    to: Shape,
    input_step: [usize; 3],
    output_step: [usize; 3],
    blocks: Vec<GradientBlock>,
    /// What the rows are read from, and what the lanes are.
    input: &'a [f32],
    gradient: &'a [f32],
    /// Whether input and gradient changed places: then tap t here is the last but t there, and the sums are transposed.
    mirrored: bool,
    taps: usize,
}

impl<'a> Gradient<'a> {
    fn new(
        window: &Window,
        direction: Direction,
        from: Shape,
        to: Shape,
        input: &'a [f32],
        gradient: &'a [f32],
    ) -> Self {
        let signed = |value: usize| isize::try_from(value).expect("a buffer's length");
        let shift = |shape: &Shape, tap: usize| {
            let [_, height, across] = window.kernel;
            let at = [tap / (height * across), tap / across % height, tap % across];
            let pitch = [shape.plane_pitch(), shape.row_pitch(), shape.channels];
            (0..3).map(|axis| (signed(at[axis]) - signed(window.padding[axis])) * signed(pitch[axis])).sum::<isize>()
        };
        let taps = window.taps();
        let mut blocks = Vec::new();
        match direction {
            // Taps move the place in the input: any eight pairs of tap and channel make a block.
            Direction::Convolution => {
                let pairs = taps * from.channels;
                for first in (0..pairs).step_by(ROWS) {
                    let pair = |row: usize| (first + row).min(pairs - 1);
                    let rows = std::array::from_fn(|row| {
                        shift(&from, pair(row) / from.channels) + signed(pair(row) % from.channels)
                    });
                    blocks.push(GradientBlock { rows, count: ROWS.min(pairs - first), shift: 0, first });
                }
            }
            // Taps move the place in the gradient: the pairs of a block share their tap.
            Direction::Transposed => {
                for tap in 0..taps {
                    for channel in (0..from.channels).step_by(ROWS) {
                        let rows = std::array::from_fn(|row| signed((channel + row).min(from.channels - 1)));
                        blocks.push(GradientBlock {
                            rows,
                            count: ROWS.min(from.channels - channel),
                            shift: shift(&to, tap),
                            first: tap * from.channels + channel,
                        });
                    }
                }
            }
        }
        let (few, input_step, output_step) = match direction {
            Direction::Convolution => (to, window.stride, [1; 3]),
            Direction::Transposed => (from, [1; 3], window.stride),
        };
        Self { few, from, to, input_step, output_step, blocks, input, gradient, mirrored: false, taps }
    }

    /// Sums over a range of rows of voxels, for some blocks, in chunks of rows that stay in the cache.
    fn run(&self, rows: Range<usize>, blocks: &[GradientBlock], sums: *mut f32) {
        let instructions = Instructions::detect();
        let outputs = self.to.channels;
        let floats = |shape: &Shape, step: [usize; 3]| self.few.size[2] * step[2] * step[1] * shape.channels;
        let per_row = floats(&self.from, self.input_step) + floats(&self.to, self.output_step);
        let chunk = (64 * 1024 / per_row).max(1);
        let mut segments = Vec::with_capacity(chunk);
        let mut next = rows.clone();
        while !next.is_empty() {
            let end = next.end.min(next.start + chunk);
            segments.clear();
            for row in next.start..end {
                let [image, z, y] = self.few.row_position(row);
                let place = |shape: &Shape, step: [usize; 3]| {
                    isize::try_from(shape.offset(image, [z * step[0], y * step[1], 0])).expect("a buffer's length")
                };
                segments.push(Segment {
                    a: place(&self.from, self.input_step),
                    b: place(&self.to, self.output_step),
                    count: self.few.size[2],
                });
            }
            for block in blocks {
                for lane in (0..outputs).step_by(LANES) {
                    let width = (outputs - lane).min(LANES);
                    let mut products = [[0.0; LANES]; ROWS];
                    let source = self.input.as_ptr();
                    let pointers = block.rows.map(|offset| source.wrapping_offset(offset));
                    // SAFETY: the halos are as wide as the window reaches, so all voxels of all taps lie inside.
                    unsafe {
                        multiply_add(
                            instructions,
                            &mut products,
                            &pointers,
                            self.input_step[2] * self.from.channels,
                            self.gradient.as_ptr().wrapping_offset(block.shift).wrapping_add(lane),
                            self.output_step[2] * outputs,
                            width,
                            &segments,
                        );
                    }
                    if self.mirrored {
                        self.add_mirrored(block, lane, width, &products, sums, next.start == rows.start);
                        continue;
                    }
                    for (row, products) in products.iter().enumerate().take(block.count) {
                        // SAFETY: the block has these rows of the gradient to itself.
                        let out = unsafe {
                            std::slice::from_raw_parts_mut(sums.add((block.first + row) * outputs + lane), width)
                        };
                        if next.start == rows.start {
                            out.copy_from_slice(&products[..width]);
                        } else {
                            out.iter_mut().zip(products).for_each(|(out, value)| *out += value);
                        }
                    }
                }
            }
            next.start = end;
        }
    }
}

impl Gradient<'_> {
    /// Adds the sums of a block whose rows are (mirrored tap, output channel) and whose lanes are input channels.
    fn add_mirrored(
        &self,
        block: &GradientBlock,
        lane: usize,
        width: usize,
        products: &Accumulators,
        sums: *mut f32,
        first: bool,
    ) {
        let (outputs, inputs) = (self.from.channels, self.to.channels);
        let taps = self.taps;
        for (row, products) in products.iter().enumerate().take(block.count) {
            let (tap, output) = ((block.first + row) / outputs, (block.first + row) % outputs);
            for (input, product) in products[..width].iter().enumerate() {
                let at = ((taps - 1 - tap) * inputs + lane + input) * outputs + output;
                // SAFETY: the block has these places of the gradient to itself.
                unsafe {
                    let place = sums.add(at);
                    *place = if first { *product } else { *place + product };
                }
            }
        }
    }
}
