//! Without unfolding: each tile of eight output voxels by 32 output channels is one call of the [micro-kernel](crate::nn::cpu::micro_kernel), which
//! reads the input where it lies.

mod gradient;

use std::ops::Range;

pub(super) use gradient::weight_gradient;

use super::{Direction, Epilogue, Operands, Roles, Weights, Window, lattices};
use crate::{
    nn::{
        Shape,
        cpu::{
            micro_kernel::{LANES, ROWS, Segment, dots, multiply_add},
            parallel::{self, Shared},
            view::ViewMut,
        },
    },
    simd::Instructions,
};

/// The output voxels that see the same taps, and those taps.
struct Class {
    start: [usize; 3],
    step: [usize; 3],
    count: [usize; 3],
    input_step: [usize; 3],
    /// Taps in the order of the panel: (Z, Y) pairs, inside them X, which lie side by side in the input.
    taps: Vec<usize>,
    segments: Vec<Segment>,
    /// Where the class's panels begin.
    panel: usize,
}

fn classes(window: &Window, direction: Direction, input: &Shape, output: &Shape, roles: Roles) -> Vec<Class> {
    let [z_axis, y_axis, x_axis] = std::array::from_fn(|axis| {
        lattices(window.kernel[axis], window.stride[axis], window.padding[axis], output.size[axis], direction)
    });
    let blocks = roles.lanes.div_ceil(LANES);
    // Panels of 32 lanes hold all lanes of one summed channel side by side; those of a few channels hold one channel behind the other.
    let (width, apart) = (roles.width(), if roles.few() { 1 } else { LANES });
    let signed = |value: usize| isize::try_from(value).expect("a buffer's length");
    let (plane, row, voxel) = (signed(input.plane_pitch()), signed(input.row_pitch()), signed(input.channels));
    let mut all = Vec::new();
    let mut panel = 0;
    for z in &z_axis {
        for y in &y_axis {
            for x in &x_axis {
                let count = x.taps.len() * roles.summed;
                let mut taps = Vec::new();
                let mut segments = Vec::new();
                for &(tap_z, from_z) in &z.taps {
                    for &(tap_y, from_y) in &y.taps {
                        segments.push(Segment {
                            a: from_z * plane + from_y * row + x.taps.first().map_or(0, |tap| tap.1) * voxel,
                            b: signed(segments.len() * count * apart),
                            count,
                        });
                        let first = (tap_z * window.kernel[1] + tap_y) * window.kernel[2];
                        taps.extend(x.taps.iter().map(|&(tap_x, _)| first + tap_x));
                    }
                }
                let length = blocks * taps.len() * roles.summed * width;
                all.push(Class {
                    start: [z.start, y.start, x.start],
                    step: [z.step, y.step, x.step],
                    count: [z.count, y.count, x.count],
                    input_step: [z.input_step, y.input_step, x.input_step],
                    taps,
                    segments,
                    panel,
                });
                panel += length;
            }
        }
    }
    all
}

/// Copies weights into panels: class, block of 32 lanes, taps, summed channels, lanes. Missing lanes are zero.
fn pack(weights: Weights, transposed: bool, roles: Roles, classes: &[Class], panels: &mut Vec<f32>) {
    let blocks = roles.lanes.div_ceil(LANES);
    let per_tap = roles.summed * roles.width();
    let length = classes.iter().map(|class| class.taps.len()).sum::<usize>() * blocks * per_tap;
    if panels.len() < length {
        panels.resize(length, 0.0);
    }
    if roles.few() {
        pack_few(weights, transposed, roles, classes, panels);
        return;
    }
    let shared = Shared::new(panels);
    let jobs: Vec<(usize, usize, usize)> = classes
        .iter()
        .flat_map(|class| {
            let count = class.taps.len();
            (0..blocks).flat_map(move |block| {
                let at = move |index: usize| class.panel + (block * count + index) * per_tap;
                class.taps.iter().enumerate().map(move |(index, &tap)| (at(index), block, tap))
            })
        })
        .collect();
    let matrix = weights.inputs * weights.outputs;
    let parts = jobs.len().min(64);
    parallel::for_each(parts, |part| {
        for &(start, block, tap) in &jobs[parallel::part(jobs.len(), parts, part)] {
            // SAFETY: every job has its own stretch of the panels.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.pointer().add(start), per_tap) };
            let source = &weights.values[tap * matrix..(tap + 1) * matrix];
            let first = block * LANES;
            let width = (roles.lanes - first).min(LANES);
            if width < LANES {
                out.fill(0.0);
            }
            if transposed {
                let rows = &source[first * weights.outputs..(first + width) * weights.outputs];
                transpose(rows, weights.outputs, out);
            } else {
                for (out, row) in out.chunks_exact_mut(LANES).zip(source.chunks_exact(weights.outputs)) {
                    out[..width].copy_from_slice(&row[first..first + width]);
                }
            }
        }
    });
}

/// Copies weights into panels for a few channels: class, channel, taps, summed channels.
fn pack_few(weights: Weights, transposed: bool, roles: Roles, classes: &[Class], panels: &mut [f32]) {
    let mut next = panels.iter_mut();
    for class in classes {
        for lane in 0..roles.lanes {
            for &tap in &class.taps {
                let source = &weights.values[tap * weights.inputs * weights.outputs..];
                for summed in 0..roles.summed {
                    let (input, output) = if transposed { (lane, summed) } else { (summed, lane) };
                    *next.next().expect("panels are as long as the weights") = source[input * weights.outputs + output];
                }
            }
        }
    }
}

/// Writes the rows (of `length` floats, at most 32 of them) as columns of `out`, which is 32 wide; in blocks that stay in the first-level
/// cache.
fn transpose(rows: &[f32], length: usize, out: &mut [f32]) {
    const BLOCK: usize = 16;
    for start in (0..length).step_by(BLOCK) {
        let end = length.min(start + BLOCK);
        for (lane, row) in rows.chunks_exact(length).enumerate() {
            for (out, value) in out[start * LANES + lane..].iter_mut().step_by(LANES).zip(&row[start..end]) {
                *out = *value;
            }
        }
    }
}

/// Panels that stay in a core's second-level cache.
const PANEL_FLOATS: usize = 96 * 1024;
/// Multiply-adds of one task, about: some tens of microseconds.
const TASK_WORK: usize = 2 << 20;

/// See [`super::apply`].
pub(super) fn apply(operands: &Operands, output: &mut ViewMut, panels: &mut Vec<f32>) {
    let Operands { window, direction, weights, transposed, roles, input, epilogue } = *operands;
    let (from, to) = (input.shape(), output.shape());
    let classes = classes(window, direction, &from, &to, roles);
    for class in &classes {
        assert_reach(class, &from);
    }
    pack(weights, transposed, roles, &classes, panels);
    let blocks = roles.lanes.div_ceil(LANES);
    let mut tasks: Vec<(usize, Range<usize>, usize)> = Vec::new();
    for (index, class) in classes.iter().enumerate() {
        let voxels = to.images * class.count.iter().product::<usize>();
        let work = class.taps.len() * roles.summed * roles.width();
        let step = (TASK_WORK / work.max(1)).max(ROWS).next_multiple_of(ROWS);
        for first in (0..voxels).step_by(step) {
            tasks.extend((0..blocks).map(|block| (index, first..voxels.min(first + step), block)));
        }
    }
    let instructions = Instructions::detect();
    let (shared, source) = (Shared::new(output.data_mut()), input.data());
    parallel::for_each(tasks.len(), |task| {
        let (class, voxels, block) = &tasks[task];
        let class = &classes[*class];
        let panel = &panels[class.panel + block * class.taps.len() * roles.summed * roles.width()..];
        let tile = Tile { instructions, class, from: &from, to: &to, source, panel, out: shared, roles };
        tile.run(voxels.clone(), block * LANES, epilogue);
    });
}

fn assert_reach(class: &Class, input: &Shape) {
    let signed = |value: usize| isize::try_from(value).expect("a size");
    let low = class.segments.iter().map(|segment| segment.a).min().unwrap_or(0);
    let high = class.segments.iter().map(|s| s.a + signed(s.count)).max().unwrap_or(0);
    let last: [usize; 3] = std::array::from_fn(|axis| class.count[axis].saturating_sub(1) * class.input_step[axis]);
    let first_voxel = signed(input.offset(0, [0; 3]));
    let last_voxel = signed(input.offset(input.images.saturating_sub(1), last));
    assert!(
        class.count.contains(&0) || (first_voxel + low >= 0 && last_voxel + high <= signed(input.len())),
        "the halo of {:?} voxels is narrower than the window reaches",
        input.halo
    );
}

struct Tile<'a> {
    instructions: Instructions,
    class: &'a Class,
    from: &'a Shape,
    to: &'a Shape,
    source: &'a [f32],
    panel: &'a [f32],
    out: Shared,
    roles: Roles,
}

impl Tile<'_> {
    /// Computes a stretch of the class's voxels (counted over images, z, y, x) for the 32 channels from `lane`.
    fn run(&self, voxels: Range<usize>, lane: usize, epilogue: Epilogue) {
        let class = self.class;
        let width = (self.to.channels - lane).min(LANES);
        let per_group = (PANEL_FLOATS / class.segments.first().map_or(1, |s| s.count * LANES).max(1)).max(1);
        for (group, segments) in class.segments.chunks(per_group).enumerate() {
            let bias = epilogue.bias.filter(|_| group == 0).map(|bias| &bias[lane..lane + width]);
            let epilogue = Epilogue { bias, accumulate: epilogue.accumulate || group > 0, ..epilogue };
            let mut next = voxels.clone();
            while !next.is_empty() {
                let count = next.len().min(ROWS);
                self.one(next.start, count, lane, width, segments, epilogue);
                next.start += count;
            }
        }
    }

    fn one(&self, first: usize, count: usize, lane: usize, width: usize, segments: &[Segment], epilogue: Epilogue) {
        let class = self.class;
        let [depth, height, across] = class.count;
        let mut inputs = [0; ROWS];
        let mut outputs = [0; ROWS];
        let (mut x, rest) = (first % across, first / across);
        let (mut y, rest) = (rest % height, rest / height);
        let (mut z, mut image) = (rest % depth, rest / depth);
        for row in 0..count {
            let place = |at: [usize; 3], start: [usize; 3], step: [usize; 3]| -> [usize; 3] {
                std::array::from_fn(|axis| start[axis] + at[axis] * step[axis])
            };
            inputs[row] = self.from.offset(image, place([z, y, x], [0; 3], class.input_step));
            outputs[row] = self.to.offset(image, place([z, y, x], class.start, class.step)) + lane;
            x += 1;
            if x == across {
                (x, y) = (0, y + 1);
                if y == height {
                    (y, z) = (0, z + 1);
                    if z == depth {
                        (z, image) = (0, image + 1);
                    }
                }
            }
        }
        for row in count..ROWS {
            inputs[row] = inputs[0];
        }
        // Segments begin before these places too, so the pointers are those of the whole buffer.
        let rows = inputs.map(|offset| self.source.as_ptr().wrapping_add(offset));
        if self.roles.few() {
            let (panel, step) = (self.panel.as_ptr(), class.taps.len() * self.roles.summed);
            // SAFETY: as below.
            let sums = unsafe { dots(self.instructions, &rows, panel, step, width, segments) };
            for (sums, offset) in sums.iter().zip(outputs).take(count) {
                // SAFETY: as below.
                let out = unsafe { std::slice::from_raw_parts_mut(self.out.pointer().add(offset), width) };
                write(out, &sums[..width], epilogue);
            }
            return;
        }
        let mut block = [[0.0; LANES]; ROWS];
        // SAFETY: `assert_reach` made sure that all taps of all voxels lie inside the input; panels hold all segments.
        unsafe {
            multiply_add(self.instructions, &mut block, &rows, 1, self.panel.as_ptr(), LANES, LANES, segments);
        }
        for (sums, offset) in block.iter().zip(outputs).take(count) {
            // SAFETY: voxels and channels of different tasks lie apart, and inside the output.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.pointer().add(offset), width) };
            write(out, &sums[..width], epilogue);
        }
    }
}

#[inline]
fn write(out: &mut [f32], sums: &[f32], epilogue: Epilogue) {
    match (epilogue.bias, epilogue.accumulate) {
        (None, false) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * epilogue.scale),
        (None, true) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum * epilogue.scale),
        (Some(bias), false) => {
            out.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out = sum * epilogue.scale + bias);
        }
        (Some(bias), true) => {
            out.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out += sum * epilogue.scale + bias);
        }
    }
}
