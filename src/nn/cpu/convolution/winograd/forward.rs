//! Forward passes and input gradients.

use std::{cell::RefCell, ops::Range};

use super::{
    super::{Lattice, Operands, Roles, Weights, lattices},
    Class, POINTS, SCRATCH, SIDE, SUMMED, Scratch, Stretch, TILES, aligned, enough, patch, signed,
    transform::{both, of_patch, of_taps, to_outputs, to_points},
};
use crate::{
    nn::{
        Shape,
        cpu::{
            micro_kernel::{Accumulators, LANES, ROWS, Segment, multiply_add},
            parallel::{self, Shared},
            view::ViewMut,
        },
    },
    simd::{Instructions, Lanes, WithLanes, with_lanes},
};

/// Blocks of 32 output channels that are worked on together.
const BLOCKS: usize = 4;
/// Summed channels whose weights are transformed together.
const SOME: usize = 16;
/// What a transformed weight costs, in products: it is computed, written and read again for few voxels.
const WEIGHT_COST: usize = 100;
/// Floats from one point to the next in memory: one cache line more than a power of two, lest all points fall on the same lines of the
/// cache.
const APART: usize = TILES * SUMMED + 16;

/// Whether fewer products are also less time, for the output voxels of these lattices, and how many taps a part has then.
fn worth(axes: [&Lattice; 3], images: usize, roles: Roles) -> Option<usize> {
    let reach = Class::reach(axes).filter(|_| enough(roles.summed) && enough(roles.lanes))?;
    let outputs = SIDE + 1 - reach;
    let voxels = images * axes[0].count * axes[1].count * axes[2].count;
    let tiles = images * axes[0].count * axes[1].count.div_ceil(outputs) * axes[2].count.div_ceil(outputs);
    ((tiles + WEIGHT_COST) * POINTS < (voxels + WEIGHT_COST / 2) * reach * reach).then_some(reach)
}

/// As [`super::super::apply`], if that is worth while; says whether it was.
pub(in super::super) fn apply(operands: &Operands, output: &mut ViewMut, panels: &mut Vec<f32>) -> bool {
    let Operands { window, direction, roles, .. } = *operands;
    let shape = output.shape();
    let axes: [Vec<Lattice>; 3] = std::array::from_fn(|axis| {
        lattices(window.kernel[axis], window.stride[axis], window.padding[axis], shape.size[axis], direction)
    });
    let mut all = products(&axes).map(|axes| worth(axes, shape.images, roles));
    let first = all.next().flatten();
    if !all.all(|reach| reach == first) {
        return false;
    }
    match first {
        Some(2) => Forward(operands).run::<2, 3>(&axes, output, panels),
        Some(3) => Forward(operands).run::<3, 2>(&axes, output, panels),
        _ => return false,
    }
    true
}

/// All classes of output voxels: one lattice of each axis.
fn products(axes: &[Vec<Lattice>; 3]) -> impl Iterator<Item = [&Lattice; 3]> {
    let [z, y, x] = axes;
    z.iter().flat_map(move |z| y.iter().flat_map(move |y| x.iter().map(move |x| [z, y, x])))
}

/// Where the sums lie of a point, of one of some blocks of lanes, and of eight tiles. Points lie apart as in [`APART`].
#[inline(always)]
fn block_place(point: usize, some: usize, block: usize, group: usize) -> usize {
    point * (some * (TILES / ROWS) + 1) + block * (TILES / ROWS) + group
}

/// Floats from the panel of one point to that of the next; see [`APART`].
fn panel_apart(roles: Roles) -> usize {
    roles.summed * LANES + 16
}

/// Floats of the panels of all points of a stretch.
fn per_stretch(roles: Roles) -> usize {
    POINTS * panel_apart(roles)
}

/// Transforms the weights of a few summed channels, taps × 16 × 32 lanes.
struct Pack<'a, const R: usize> {
    taps: &'a [f32],
    summed: usize,
    apart: usize,
    out: *mut f32,
}

impl<const R: usize> WithLanes for Pack<'_, R> {
    #[inline(always)]
    fn run<L: Lanes>(self, token: L::Token) {
        for place in (0..self.summed * LANES).step_by(L::COUNT) {
            let mut voxels = [[self.taps.as_ptr(); R]; R];
            for (tap, voxel) in voxels.iter_mut().flatten().enumerate() {
                *voxel = self.taps[tap * SOME * LANES + place..].as_ptr();
            }
            // SAFETY: the taps have so many channels and lanes, the panels have room.
            unsafe { to_points::<L, R>(token, &voxels, L::COUNT, self.out.add(place), self.apart, of_taps) };
        }
    }
}

/// A forward pass or an input gradient.
struct Forward<'a>(&'a Operands<'a>);

impl Forward<'_> {
    fn run<const R: usize, const M: usize>(
        &self,
        axes: &[Vec<Lattice>; 3],
        output: &mut ViewMut,
        panels: &mut Vec<f32>,
    ) {
        let roles = self.0.roles;
        let blocks = roles.lanes.div_ceil(LANES);
        let mut classes = Vec::new();
        let mut length = 0;
        for axes in products(axes) {
            let class = Class::new(axes, self.0.window, M, length);
            length += blocks * class.stretches.len() * per_stretch(roles);
            classes.push(class);
        }
        let panels = aligned(panels, length);
        self.pack::<R>(&classes, panels);
        let panels = &*panels;
        let images = output.shape().images;
        let mut tasks = Vec::new();
        for class in &classes {
            let tiles = class.all_tiles(images);
            for first in (0..tiles).step_by(TILES) {
                let tiles = first..tiles.min(first + TILES);
                tasks.extend(
                    (0..blocks).step_by(BLOCKS).map(|block| (class, tiles.clone(), block..blocks.min(block + BLOCKS))),
                );
            }
        }
        let (shape, shared) = (output.shape(), Shared::new(output.data_mut()));
        let instructions = Instructions::detect();
        parallel::for_each(tasks.len(), |task| {
            let (class, tiles, blocks) = &tasks[task];
            let sums = |scratch: &RefCell<Scratch>| {
                let mut scratch = scratch.borrow_mut();
                let ([points, _], sums) =
                    scratch.reserve([POINTS * APART, 0], POINTS * (blocks.len() * (TILES / ROWS) + 1));
                self.multiply(class, tiles.clone(), blocks.clone(), panels, points, sums);
                let put = Put::<M> {
                    of: *self.0,
                    class,
                    tiles: tiles.clone(),
                    blocks: blocks.clone(),
                    sums,
                    shape,
                    out: shared,
                };
                with_lanes(instructions, put);
            };
            SCRATCH.with(sums);
        });
    }

    /// Transforms the weights into panels: class, block of 32 lanes, stretch, point, summed channel, lane.
    fn pack<const R: usize>(&self, classes: &[Class], panels: &mut [f32]) {
        let roles = self.0.roles;
        let blocks = roles.lanes.div_ceil(LANES);
        let per_stretch = per_stretch(roles);
        let jobs: Vec<(usize, usize, &[usize], usize)> = classes
            .iter()
            .flat_map(|class| {
                (0..blocks).flat_map(move |block| {
                    class.stretches.iter().enumerate().flat_map(move |(number, stretch)| {
                        let at = class.panel + (block * class.stretches.len() + number) * per_stretch;
                        (0..roles.summed).step_by(SOME).map(move |first| (at, block, &stretch.taps[..], first))
                    })
                })
            })
            .collect();
        let shared = Shared::new(panels);
        let instructions = Instructions::detect();
        let parts = jobs.len().min(64);
        parallel::for_each(parts, |part| {
            let mut taps = vec![0.0f32; R * R * SOME * LANES];
            for &(at, block, numbers, first) in &jobs[parallel::part(jobs.len(), parts, part)] {
                let summed = first..roles.summed.min(first + SOME);
                for (number, out) in numbers.iter().zip(taps.chunks_exact_mut(SOME * LANES)) {
                    self.take(*number, block, summed.clone(), out);
                }
                // SAFETY: every job has its own stretch of the panels.
                let out = unsafe { shared.pointer().add(at + first * LANES) };
                let transform = Pack::<R> { taps: &taps, summed: summed.len(), apart: panel_apart(roles), out };
                with_lanes(instructions, transform);
            }
        });
    }

    /// The weights of a tap: summed channels × 32 lanes, zeros for lanes that are none.
    fn take(&self, tap: usize, block: usize, summed: Range<usize>, out: &mut [f32]) {
        let Weights { values, inputs, outputs } = self.0.weights;
        let first = block * LANES;
        let width = (self.0.roles.lanes - first).min(LANES);
        if width < LANES {
            out.fill(0.0);
        }
        let values = &values[tap * inputs * outputs..(tap + 1) * inputs * outputs];
        if self.0.transposed {
            for lane in 0..width {
                let row = &values[(first + lane) * outputs..][summed.clone()];
                out[lane..].iter_mut().step_by(LANES).zip(row).for_each(|(out, value)| *out = *value);
            }
        } else {
            for (out, channel) in out.chunks_exact_mut(LANES).zip(summed) {
                out[..width].copy_from_slice(&values[channel * outputs + first..][..width]);
            }
        }
    }

    /// The products of all points of some tiles: sums, by point, block of lanes, eight tiles.
    fn multiply(
        &self,
        class: &Class,
        tiles: Range<usize>,
        blocks: Range<usize>,
        panels: &[f32],
        points: *mut f32,
        sums: &mut [Accumulators],
    ) {
        let instructions = Instructions::detect();
        let summed = self.0.roles.summed;
        let (groups, some) = (tiles.len().div_ceil(ROWS), blocks.len());
        for (number, stretch) in class.stretches.iter().enumerate() {
            for first in (0..summed).step_by(SUMMED) {
                let count = (summed - first).min(SUMMED);
                let transform = Patches { of: *self.0, class, stretch, tiles: tiles.clone(), first, count, points };
                with_lanes(instructions, transform);
                for point in 0..POINTS {
                    for (index, block) in blocks.clone().enumerate() {
                        let panel = class.panel + (block * class.stretches.len() + number) * per_stretch(self.0.roles);
                        let panel = panel + point * panel_apart(self.0.roles) + first * LANES;
                        let panel = &panels[panel..panel + count * LANES];
                        for group in 0..groups {
                            let sums = &mut sums[block_place(point, some, index, group)];
                            if number == 0 && first == 0 {
                                *sums = [[0.0; LANES]; ROWS];
                            }
                            // SAFETY: the points have room for these tiles, the panel holds these channels.
                            unsafe {
                                let rows: [*const f32; ROWS] = std::array::from_fn(|row| {
                                    points.add(point * APART + (group * ROWS + row) * SUMMED).cast_const()
                                });
                                let segment = [Segment { a: 0, b: 0, count }];
                                multiply_add(instructions, sums, &rows, 1, panel.as_ptr(), LANES, LANES, &segment);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Transforms the voxels of some tiles, `count` channels from `first`.
struct Patches<'a> {
    of: Operands<'a>,
    class: &'a Class,
    stretch: &'a Stretch,
    tiles: Range<usize>,
    first: usize,
    count: usize,
    points: *mut f32,
}

impl WithLanes for Patches<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, token: L::Token) {
        let [z_axis, y_axis, x_axis] = &self.class.axes;
        let spacing = [y_axis.input_step, x_axis.input_step];
        let per_tile = [y_axis, x_axis].map(|axis| axis.input_step * (SIDE + 1 - axis.taps.len() / axis.input_step));
        let from = self.stretch.from;
        for (row, tile) in self.tiles.enumerate() {
            let [image, z, y, x] = self.class.tile(tile);
            let z = from[0] + signed(z * z_axis.input_step);
            let corner = [from[1] + signed(y * per_tile[0]), from[2] + signed(x * per_tile[1])];
            let voxels = patch::<SIDE>(self.of.input, image, z, corner, spacing, self.first);
            // SAFETY: the channels are all there; the points have room for so many tiles and channels.
            unsafe { to_points::<L, SIDE>(token, &voxels, self.count, self.points.add(row * SUMMED), APART, of_patch) };
        }
    }
}

/// Transforms sums back and puts them where they belong.
struct Put<'a, const M: usize> {
    of: Operands<'a>,
    class: &'a Class,
    tiles: Range<usize>,
    blocks: Range<usize>,
    sums: &'a [Accumulators],
    shape: Shape,
    out: Shared,
}

impl<const M: usize> WithLanes for Put<'_, M> {
    #[inline(always)]
    fn run<L: Lanes>(self, token: L::Token) {
        let Self { class, shape, .. } = self;
        let [z_axis, y_axis, x_axis] = &class.axes;
        let (some, epilogue) = (self.blocks.len(), self.of.epilogue);
        let zeros = [0.0; LANES];
        for (row, tile) in self.tiles.enumerate() {
            let [image, z, y, x] = class.tile(tile);
            let rows = (y_axis.count - y * M).min(M);
            let columns = (x_axis.count - x * M).min(M);
            let corner = [
                z_axis.start + z * z_axis.step,
                y_axis.start + y * M * y_axis.step,
                x_axis.start + x * M * x_axis.step,
            ];
            let corner = shape.offset(image, corner);
            let (down, along) = (y_axis.step * shape.row_pitch(), x_axis.step * shape.channels);
            for (index, block) in self.blocks.clone().enumerate() {
                let first = block * LANES;
                let width = LANES.min(shape.channels - first);
                let bias = epilogue.bias.map_or(&zeros[..width], |bias| &bias[first..first + width]);
                let sums = |point: usize| self.sums[block_place(point, some, index, row / ROWS)][row % ROWS].as_ptr();
                for lane in (0..width).step_by(L::COUNT) {
                    // SAFETY: a row of sums has 32 lanes; voxels and channels of different tasks lie apart, and inside the output.
                    unsafe {
                        let mut values = [[L::zero(token); SIDE]; SIDE];
                        for (point, value) in values.iter_mut().flatten().enumerate() {
                            *value = L::load(token, sums(point).add(lane));
                        }
                        let outputs: [[L; M]; M] = both(token, values, to_outputs);
                        let bias = L::load(token, bias.as_ptr().add(lane));
                        let corner = self.out.pointer().add(corner + first + lane);
                        for (y, outputs) in outputs.iter().enumerate().take(rows) {
                            for (x, sum) in outputs.iter().enumerate().take(columns) {
                                let place = corner.add(y * down + x * along);
                                let value = sum.times(epilogue.scale).plus(bias);
                                let value = if epilogue.accumulate { L::load(token, place).plus(value) } else { value };
                                value.store(place);
                            }
                        }
                    }
                }
            }
        }
    }
}
