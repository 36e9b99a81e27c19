//! Convolutions and transposed convolutions in 1 to 3 dimensions, without unfolding: each tile of eight output voxels by
//! 32 output channels is one call of the [kernel](super::kernel), which reads the input where it lies.
//!
//! Weights are held as taps × input channels × output channels (taps in Z, Y, X order), output channels contiguous.
//! A transposed convolution of stride 2 is 2^d small convolutions, one for each parity of the output voxel, and is the
//! input gradient of a convolution; so forward passes and input gradients share one function, [`apply`].

use std::ops::Range;

use super::{
    kernel::{Block, FEW, Instructions, LANES, ROWS, Segment, dots, multiply_add},
    maps::{Maps, Shape},
    parallel::{self, Shared},
    winograd,
};

/// Where a convolution looks: kernel, stride and padding along Z, Y, X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: [usize; 3],
    /// Stride.
    pub stride: [usize; 3],
    /// Zeros on each side.
    pub padding: [usize; 3],
}

impl Window {
    /// A window of these numbers along every axis; in 2D Z is left alone.
    #[must_use]
    pub const fn new(dimensions: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let (k, s, p) = if dimensions == 3 { (kernel, stride, padding) } else { (1, 1, 0) };
        Self { kernel: [k, kernel, kernel], stride: [s, stride, stride], padding: [p, padding, padding] }
    }

    /// The number of taps.
    #[must_use]
    pub const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.kernel[2]
    }
}

/// How a window is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As a convolution: output voxel o sees input voxels o·stride + k − padding.
    Gather,
    /// As a transposed convolution: input voxel i adds to output voxels i·stride + k − padding.
    Spread,
}

/// Weights of a convolution: taps × inputs × outputs, outputs contiguous.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// Input channels of the forward pass.
    pub inputs: usize,
    /// Output channels of the forward pass.
    pub outputs: usize,
}

/// The output voxels of one axis that see the same taps.
#[derive(Clone, Debug)]
pub(super) struct Lattice {
    /// First output voxel, and the step to the next.
    pub(super) start: usize,
    pub(super) step: usize,
    /// How many output voxels.
    pub(super) count: usize,
    /// Input voxels from one output voxel to the next.
    pub(super) input_step: usize,
    /// (tap, input voxel that it sees for the first output voxel), by rising input voxel.
    pub(super) taps: Vec<(usize, isize)>,
}

pub(super) fn lattices(
    kernel: usize,
    stride: usize,
    padding: usize,
    outputs: usize,
    direction: Direction,
) -> Vec<Lattice> {
    let signed = |value: usize| isize::try_from(value).expect("sizes of images are small");
    match direction {
        Direction::Gather => {
            let taps = (0..kernel).map(|tap| (tap, signed(tap) - signed(padding))).collect();
            vec![Lattice { start: 0, step: 1, count: outputs, input_step: stride, taps }]
        }
        Direction::Spread => {
            let class = |start: usize| {
                let taps = (0..kernel).rev().filter(|tap| (start + padding + kernel * stride - tap) % stride == 0);
                let taps = taps.map(|tap| (tap, (signed(start + padding) - signed(tap)).div_euclid(signed(stride))));
                Lattice {
                    start,
                    step: stride,
                    count: outputs.saturating_sub(start).div_ceil(stride),
                    input_step: 1,
                    taps: taps.collect(),
                }
            };
            (0..stride).map(class).collect()
        }
    }
}

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

/// Channels that are summed over, and channels that come out.
#[derive(Clone, Copy)]
pub(super) struct Roles {
    pub(super) summed: usize,
    pub(super) lanes: usize,
}

impl Roles {
    /// Whether so few channels come out that 32 lanes would be mostly empty: then each one is a dot product over the summed ones.
    fn few(self) -> bool {
        self.lanes <= FEW && self.summed >= 8
    }

    /// Outputs of one panel.
    fn width(self) -> usize {
        if self.few() { self.lanes } else { LANES }
    }
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
/// Multiply-adds of one task, about: a fraction of a millisecond.
const TASK_WORK: usize = 8 << 20;

/// What happens to a sum of products: `scale · sum + bias`, put in place of the output or added to it.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// Factor, 1/σ of spectral normalisation.
    pub scale: f32,
    /// A number for each output channel.
    pub bias: Option<&'a [f32]>,
    /// Whether the result is added to what the output holds.
    pub add: bool,
}

/// Applies a window to `input`, giving `output`.
///
/// `direction` is how voxels are seen. `transposed`: sums over the weights' output channels and gives their input
/// channels, as input gradients do. So a convolution is (`Gather`, false) and its input gradient (`Spread`, true);
/// a transposed convolution is (`Spread`, false) and its input gradient (`Gather`, true).
/// `panels` is scratch memory.
///
/// # Panics
/// When channels do not fit the weights, or the input's border is narrower than the window reaches.
#[expect(clippy::too_many_arguments, reason = "one operation's operands")]
pub fn apply(
    window: &Window,
    direction: Direction,
    weights: Weights,
    transposed: bool,
    input: &Maps,
    output: &mut Maps,
    finish: Finish,
    panels: &mut Vec<f32>,
) {
    let (from, to) = (input.shape(), output.shape());
    let roles = if transposed {
        Roles { summed: weights.outputs, lanes: weights.inputs }
    } else {
        Roles { summed: weights.inputs, lanes: weights.outputs }
    };
    assert_eq!((from.channels, to.channels, from.images), (roles.summed, roles.lanes, to.images));
    assert_eq!(weights.values.len(), window.taps() * weights.inputs * weights.outputs);
    if winograd::apply(window, direction, weights, transposed, roles, input, output, finish, panels) {
        return;
    }
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
        tile.run(voxels.clone(), block * LANES, finish);
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
        "the border of {:?} voxels is narrower than the window reaches",
        input.border
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
    fn run(&self, voxels: Range<usize>, lane: usize, finish: Finish) {
        let class = self.class;
        let width = (self.to.channels - lane).min(LANES);
        let per_group = (PANEL_FLOATS / class.segments.first().map_or(1, |s| s.count * LANES).max(1)).max(1);
        for (group, segments) in class.segments.chunks(per_group).enumerate() {
            let bias = finish.bias.filter(|_| group == 0).map(|bias| &bias[lane..lane + width]);
            let finish = Finish { bias, add: finish.add || group > 0, ..finish };
            let mut next = voxels.clone();
            while !next.is_empty() {
                let count = next.len().min(ROWS);
                self.one(next.start, count, lane, width, segments, finish);
                next.start += count;
            }
        }
    }

    fn one(&self, first: usize, count: usize, lane: usize, width: usize, segments: &[Segment], finish: Finish) {
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
        let rows = inputs.map(|offset| self.source[offset..].as_ptr());
        if self.roles.few() {
            let (panel, step) = (self.panel.as_ptr(), class.taps.len() * self.roles.summed);
            // SAFETY: as below.
            let sums = unsafe { dots(self.instructions, &rows, panel, step, width, segments) };
            for (sums, offset) in sums.iter().zip(outputs).take(count) {
                // SAFETY: as below.
                let out = unsafe { std::slice::from_raw_parts_mut(self.out.pointer().add(offset), width) };
                write(out, &sums[..width], finish);
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
            write(out, &sums[..width], finish);
        }
    }
}

#[inline]
fn write(out: &mut [f32], sums: &[f32], finish: Finish) {
    match (finish.bias, finish.add) {
        (None, false) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * finish.scale),
        (None, true) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum * finish.scale),
        (Some(bias), false) => {
            out.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out = sum * finish.scale + bias);
        }
        (Some(bias), true) => {
            out.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out += sum * finish.scale + bias);
        }
    }
}

/// The gradient of the weights (taps × inputs × outputs), given the forward pass's input and the gradient of its output.
/// `direction` is that of the forward pass.
///
/// The sum over voxels is split by the sizes alone, and its parts are added in order.
///
/// # Panics
/// When sizes do not fit, or a border is narrower than the window reaches.
pub fn weight_gradient(
    window: &Window,
    direction: Direction,
    input: &Maps,
    gradient: &Maps,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (from, to) = (input.shape(), gradient.shape());
    let (inputs, outputs) = (from.channels, to.channels);
    let length = window.taps() * inputs * outputs;
    assert_eq!((out.len(), from.images), (length, to.images));
    let reach = |shape: &Shape| (0..3).all(|axis| shape.border[axis] >= window.padding[axis]);
    assert!(reach(if direction == Direction::Gather { &from } else { &to }), "the border is too narrow");
    if winograd::weight_gradient(window, direction, input, gradient, out, scratch) {
        return;
    }
    let few_lanes = outputs <= FEW && inputs >= 8 && window.stride == [1; 3] && direction == Direction::Gather;
    // With few output channels the input channels are the lanes, and the taps move the place in the gradient.
    let plan = if few_lanes && (0..3).all(|axis| to.border[axis] >= window.padding[axis]) {
        let mirrored: [usize; 3] = std::array::from_fn(|axis| window.kernel[axis] - 1 - window.padding[axis]);
        let mut plan = Gradient::new(
            &Window { padding: mirrored, ..*window },
            Direction::Gather,
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
    let target: &mut [f32] = if groups == 1 {
        &mut *out
    } else {
        if scratch.len() < groups * length {
            scratch.resize(groups * length, 0.0);
        }
        scratch
    };
    let shared = Shared::new(target);
    parallel::for_each(groups * splits, |task| {
        let (group, split) = (task / splits, task % splits);
        // SAFETY: each group has its own sums, and inside them each split its own blocks.
        let sums = unsafe { shared.pointer().add(group * length) };
        plan.run(
            parallel::part(rows, groups, group),
            &plan.blocks[parallel::part(plan.blocks.len(), splits, split)],
            sums,
        );
    });
    if groups > 1 {
        parallel::add_up(out, &scratch[..groups * length]);
    }
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
            Direction::Gather => {
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
            Direction::Spread => {
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
            Direction::Gather => (to, window.stride, [1; 3]),
            Direction::Spread => (from, [1; 3], window.stride),
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
                    // SAFETY: the borders are as wide as the window reaches, so all voxels of all taps lie inside.
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
        products: &Block,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Rng;

    fn random(shape: Shape, rng: &mut Rng) -> Maps {
        let mut maps = Maps::zeros(shape);
        let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.normal() as f32).collect();
        maps.read_channels_first(&values);
        maps
    }

    fn at(maps: &Maps, image: usize, at: [isize; 3], channel: usize) -> f64 {
        let size = maps.shape().size;
        if (0..3).any(|axis| at[axis] < 0 || at[axis] >= size[axis] as isize) {
            return 0.0;
        }
        f64::from(maps.data()[maps.shape().offset(image, at.map(|v| v as usize)) + channel])
    }

    /// Every (image, small voxel, tap, large voxel) of a window.
    fn pairs(window: &Window, small: &Shape, mut visit: impl FnMut(usize, [isize; 3], usize, [isize; 3])) {
        for image in 0..small.images {
            for voxel in 0..small.size.iter().product() {
                let [_, height, across] = small.size;
                let o = [voxel / (height * across), voxel / across % height, voxel % across];
                for tap in 0..window.taps() {
                    let [_, kh, kw] = window.kernel;
                    let k = [tap / (kh * kw), tap / kw % kh, tap % kw];
                    let i = std::array::from_fn(|axis| {
                        (o[axis] * window.stride[axis] + k[axis]) as isize - window.padding[axis] as isize
                    });
                    visit(image, o.map(|v| v as isize), tap, i);
                }
            }
        }
    }

    fn compare(got: &[f32], wanted: &[f64]) {
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((f64::from(*got) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{got} {wanted}");
        }
    }

    /// All passes of a convolution and of a transposed one against plain loops in f64.
    fn check(dimensions: usize, kernel: usize, stride: usize, inputs: usize, outputs: usize) {
        let window = Window::new(dimensions, kernel, stride, (kernel - 1) / 2);
        let mut rng = Rng::new(3, "test", kernel as u64);
        let border = window.padding;
        let deep = if dimensions == 3 { 4 } else { 1 };
        let large = [deep, 6, 10];
        let small: [usize; 3] = std::array::from_fn(|axis| large[axis] / window.stride[axis]);
        let weights: Vec<f32> = (0..window.taps() * inputs * outputs).map(|_| rng.normal() as f32 * 0.1).collect();
        let weights = Weights { values: &weights, inputs, outputs };
        let weight = |tap: usize, i: usize, o: usize| f64::from(weights.values[(tap * inputs + i) * outputs + o]);
        let bias: Vec<f32> = (0..inputs.max(outputs)).map(|v| v as f32).collect();
        let mut panels = vec![9.0; 10];
        let images = 2;
        for direction in [Direction::Gather, Direction::Spread] {
            let (from, to) = if direction == Direction::Gather { (large, small) } else { (small, large) };
            let x = random(Shape { images, size: from, channels: inputs, border }, &mut rng);
            let dy = random(Shape { images, size: to, channels: outputs, border }, &mut rng);
            let (xs, ys) = (Shape::bare(images, from, inputs), Shape::bare(images, to, outputs));
            let (mut y, mut dx) = (Maps::zeros(ys.with_border(border)), Maps::zeros(xs));
            let other = if direction == Direction::Gather { Direction::Spread } else { Direction::Gather };
            let finish = Finish { scale: 0.5, bias: Some(&bias[..outputs]), add: false };
            apply(&window, direction, weights, false, &x, &mut y, finish, &mut panels);
            dx.for_each_row(|_, row| row.fill(1.0));
            let finish = Finish { scale: 2.0, bias: None, add: true };
            apply(&window, other, weights, true, &dy, &mut dx, finish, &mut panels);
            let mut dw = vec![5.0; weights.values.len()];
            weight_gradient(&window, direction, &x, &dy, &mut dw, &mut vec![3.0; 7]);

            let mut wanted_y: Vec<f64> = (0..ys.len()).map(|at| f64::from(bias[at % outputs])).collect();
            let mut wanted_dx = vec![1.0; xs.len()];
            let mut wanted_dw = vec![0.0; dw.len()];
            let few = Shape::bare(images, small, 1);
            pairs(&window, &few, |image, small, tap, large| {
                let (i_at, o_at) = if direction == Direction::Gather { (large, small) } else { (small, large) };
                let inside = |at: [isize; 3], size: [usize; 3]| (0..3).all(|a| at[a] >= 0 && at[a] < size[a] as isize);
                if !inside(i_at, from) || !inside(o_at, to) {
                    return;
                }
                let (i_at_u, o_at_u) = (i_at.map(|v| v as usize), o_at.map(|v| v as usize));
                for i in 0..inputs {
                    for o in 0..outputs {
                        wanted_y[ys.offset(image, o_at_u) + o] += 0.5 * weight(tap, i, o) * at(&x, image, i_at, i);
                        wanted_dx[xs.offset(image, i_at_u) + i] += 2.0 * weight(tap, i, o) * at(&dy, image, o_at, o);
                        wanted_dw[(tap * inputs + i) * outputs + o] += at(&x, image, i_at, i) * at(&dy, image, o_at, o);
                    }
                }
            });
            let inner: Vec<f32> = (0..y.shape().rows()).flat_map(|row| y.row(row).to_vec()).collect();
            compare(&inner, &wanted_y);
            compare(dx.data(), &wanted_dx);
            compare(&dw, &wanted_dw);
        }
    }

    #[test]
    fn all_passes_agree_with_plain_loops() {
        for dimensions in [2, 3] {
            for (inputs, outputs) in [(1, 1), (2, 3), (40, 2), (3, 33)] {
                check(dimensions, 4, 2, inputs, outputs);
                check(dimensions, 3, 1, inputs, outputs);
                check(dimensions, 1, 1, inputs, outputs);
            }
        }
        check(2, 3, 1, 70, 64);
        for dimensions in [2, 3] {
            for (inputs, outputs) in [(16, 48), (144, 16)] {
                check(dimensions, 4, 2, inputs, outputs);
                check(dimensions, 3, 1, inputs, outputs);
            }
        }
    }
}
