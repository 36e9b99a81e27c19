//! Convolutions with fewer products: minimal filtering, in tiles of 4 × 4 points along Y and X.
//!
//! Three taps at two neighbouring outputs, or two taps at three, need six products along an axis; seen as polynomials at the
//! points 0, 1, −1 and ∞ they need four, and 16 instead of 36 in the plane. Between the two transforms, which are sums and
//! differences, stands one matrix product for each point, over channels. A stride of two is two interleaved parts of half the taps, whose
//! products are summed before the transform back; Z is left as it is, one stretch of the sum for each of its taps.
//!
//! Source: Winograd 1980, "Arithmetic complexity of computations"; Lavin & Gray 2016, "Fast algorithms for convolutional neural
//! networks", section 4. All constants are 0, ±1 and ½, so rounding is hardly worse than that of the plain sums.

use std::{cell::RefCell, ops::Range};

use super::{
    convolution::{Direction, Finish, Lattice, Roles, Weights, Window, lattices},
    kernel::{Block, Instructions, LANES, ROWS, Segment, multiply_add},
    maps::{Maps, Shape},
    parallel::{self, Shared},
};

/// Points along an axis, and of a tile.
const SIDE: usize = 4;
const POINTS: usize = SIDE * SIDE;
/// Tiles of one task that are worked on together.
const TILES: usize = 32;
/// Summed channels that are worked on together.
const SUMMED: usize = 128;
/// Blocks of 32 output channels that are worked on together.
const BLOCKS: usize = 4;
/// Summed channels whose weights are transformed together.
const SOME: usize = 16;
/// Channels of each side of a weight gradient that are worked on together.
const SQUARE: usize = 64;
/// Floats from one point to the next in memory: one cache line more than a power of two, lest all points fall on the same lines of the
/// cache.
const APART: usize = TILES * SUMMED + 16;
const SQUARE_APART: usize = TILES * SQUARE + 16;
/// The transforms take so many channels at once, or half as many.
const WIDTH: usize = 16;
/// What a transformed weight costs, in products: it is computed, written and read again for few voxels.
const WEIGHT_COST: usize = 100;

/// Some channels side by side, as the processor takes them.
trait Lanes: Copy {
    const COUNT: usize;
    fn zero() -> Self;
    /// # Safety
    /// The floats must be readable.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// The floats must be writable.
    unsafe fn store(self, to: *mut f32);
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, factor: f32) -> Self;

    #[inline(always)]
    fn half(self) -> Self {
        self.times(0.5)
    }
}

impl Lanes for [f32; 8] {
    const COUNT: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of floats may lie anywhere that a float may.
        unsafe { from.cast::<Self>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<Self>().write(self) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }

    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        self.map(|value| value * factor)
    }
}

/// Lanes of one register; the functions are only reached where the processor has the instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($register:ty, $count:literal, $zero:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $set:ident) => {
        impl Lanes for $register {
            const COUNT: usize = $count;

            #[inline(always)]
            fn zero() -> Self {
                // SAFETY: `with_lanes` chose this type for a processor that has the instructions.
                unsafe { std::arch::x86_64::$zero() }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above, and the caller's promise.
                unsafe { std::arch::x86_64::$load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above, and the caller's promise.
                unsafe { std::arch::x86_64::$store(to, self) }
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$add(self, other) }
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$sub(self, other) }
            }

            #[inline(always)]
            fn times(self, factor: f32) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$mul(self, std::arch::x86_64::$set(factor)) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(
    std::arch::x86_64::__m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_set1_ps
);
#[cfg(target_arch = "x86_64")]
lanes!(
    std::arch::x86_64::__m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_set1_ps
);

/// Work that is done in the widest registers that the processor has. `run` must be `#[inline(always)]`, all the way down.
trait WithLanes {
    fn run<L: Lanes>(self);
}

fn with_lanes(instructions: Instructions, work: impl WithLanes) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn widest(work: impl WithLanes) {
            work.run::<std::arch::x86_64::__m512>();
        }
        #[target_feature(enable = "avx2")]
        fn wide(work: impl WithLanes) {
            work.run::<std::arch::x86_64::__m256>();
        }
        match instructions {
            // SAFETY: the processor has these instructions.
            Instructions::Avx512 => return unsafe { widest(work) },
            // SAFETY: as above.
            Instructions::Avx2 => return unsafe { wide(work) },
            Instructions::Portable => {}
        }
    }
    work.run::<[f32; 8]>();
}

/// Values at the four points of a polynomial that has two or three of them as coefficients: Bᵀ of the input.
#[inline(always)]
fn of_patch<L: Lanes>([a, b, c, d]: [L; SIDE]) -> [L; SIDE] {
    [a.minus(c), b.plus(c), c.minus(b), d.minus(b)]
}

/// The weights' transform G along an axis.
#[inline(always)]
fn of_taps<L: Lanes, const R: usize>(taps: [L; R]) -> [L; SIDE] {
    let (first, last) = (taps[0], taps[R - 1]);
    let outer = first.plus(last).half();
    if R == 3 {
        let inner = taps[1].half();
        [first, outer.plus(inner), outer.minus(inner), last]
    } else {
        [first, outer, first.minus(last).half(), last]
    }
}

/// The adjoint of [`of_taps`].
#[inline(always)]
fn to_taps<L: Lanes, const R: usize>([a, b, c, d]: [L; SIDE]) -> [L; R] {
    let (outer, inner) = (b.plus(c).half(), b.minus(c).half());
    let mut taps = [inner; R];
    taps[0] = a.plus(outer);
    taps[R - 1] = d.plus(if R == 3 { outer } else { inner });
    taps
}

/// The outputs along an axis: Aᵀ of the products.
#[inline(always)]
fn to_outputs<L: Lanes, const M: usize>([a, b, c, d]: [L; SIDE]) -> [L; M] {
    let (sum, difference) = (b.plus(c), b.minus(c));
    let mut outputs = [difference; M];
    outputs[0] = a.plus(sum);
    outputs[M - 1] = d.plus(if M == 3 { sum } else { difference });
    outputs
}

/// The adjoint of [`to_outputs`].
#[inline(always)]
fn of_outputs<L: Lanes, const M: usize>(outputs: [L; M]) -> [L; SIDE] {
    let (first, last) = (outputs[0], outputs[M - 1]);
    if M == 3 {
        let outer = first.plus(last);
        [first, outer.plus(outputs[1]), outer.minus(outputs[1]), last]
    } else {
        [first, first.plus(last), first.minus(last), last]
    }
}

/// Applies a transform along both axes of N × N values, giving K × K.
#[inline(always)]
fn both<L: Lanes, const N: usize, const K: usize>(
    values: [[L; N]; N],
    transform: impl Fn([L; N]) -> [L; K],
) -> [[L; K]; K] {
    let mut rows = [[L::zero(); K]; N];
    for (row, values) in rows.iter_mut().zip(values) {
        *row = transform(values);
    }
    let mut out = [[L::zero(); K]; K];
    for x in 0..K {
        let mut column = [L::zero(); N];
        for (value, row) in column.iter_mut().zip(&rows) {
            *value = row[x];
        }
        for (out, value) in out.iter_mut().zip(transform(column)) {
            out[x] = value;
        }
    }
    out
}

/// Every (tap row, tap column) part of the sum that a class of output voxels has for one tap along Z.
struct Stretch {
    /// The taps' numbers in the window, row by row.
    taps: Vec<usize>,
    /// The input voxel that output voxel 0 sees with the first of them.
    from: [isize; 3],
}

/// Output voxels that see the same taps.
struct Class {
    axes: [Lattice; 3],
    stretches: Vec<Stretch>,
    /// Tiles along Y and X.
    tiles: [usize; 2],
    /// Where its panels begin.
    panel: usize,
}

impl Class {
    /// Taps of a part along Y and X, if both have the same, two or three.
    fn reach(axes: [&Lattice; 3]) -> Option<usize> {
        let reach =
            |axis: &Lattice| (axis.taps.len() % axis.input_step == 0).then_some(axis.taps.len() / axis.input_step);
        reach(axes[1]).filter(|taps| (2..=3).contains(taps) && reach(axes[2]) == Some(*taps))
    }

    fn new(axes: [&Lattice; 3], window: &Window, outputs: usize, panel: usize) -> Self {
        let [z, y, x] = axes;
        let mut stretches = Vec::new();
        for &(tap_z, from_z) in &z.taps {
            for part_y in 0..y.input_step {
                for part_x in 0..x.input_step {
                    let part = |axis: &Lattice, first: usize| -> Vec<usize> {
                        axis.taps.iter().skip(first).step_by(axis.input_step).map(|tap| tap.0).collect()
                    };
                    let (taps_y, taps_x) = (part(y, part_y), part(x, part_x));
                    let number = |y: usize, x: usize| (tap_z * window.kernel[1] + y) * window.kernel[2] + x;
                    let taps_x = &taps_x;
                    stretches.push(Stretch {
                        taps: taps_y.iter().flat_map(|&y| taps_x.iter().map(move |&x| number(y, x))).collect(),
                        from: [from_z, y.taps[part_y].1, x.taps[part_x].1],
                    });
                }
            }
        }
        let tiles = [y.count.div_ceil(outputs), x.count.div_ceil(outputs)];
        Self { axes: axes.map(Lattice::clone), stretches, tiles, panel }
    }

    /// Tiles of all images.
    fn all_tiles(&self, images: usize) -> usize {
        images * self.axes[0].count * self.tiles[0] * self.tiles[1]
    }

    /// Image, z, y and x of a tile, in tiles.
    fn tile(&self, number: usize) -> [usize; 4] {
        let [height, across] = self.tiles;
        let (x, rest) = (number % across, number / across);
        let (y, rest) = (rest % height, rest / height);
        [rest / self.axes[0].count, rest % self.axes[0].count, y, x]
    }
}

fn signed(value: usize) -> isize {
    isize::try_from(value).expect("sizes of images are small")
}

/// What a patch has outside its image.
static ZEROS: [f32; SUMMED] = [0.0; SUMMED];

/// Where the voxels of a patch begin, from `first` with `spacing` along Y and X; zeros outside the image and its border.
fn patch<const N: usize>(
    maps: &Maps,
    image: usize,
    z: isize,
    first: [isize; 2],
    spacing: [usize; 2],
    channel: usize,
) -> [[*const f32; N]; N] {
    let (shape, data) = (maps.shape(), maps.data());
    let within = |at: isize, length: usize, axis: usize| {
        let border = signed(shape.border[axis]);
        at >= -border && at + signed(length) <= signed(shape.size[axis]) + border
    };
    let length = |axis: usize| (N - 1) * spacing[axis] + 1;
    if within(z, 1, 0) && within(first[0], length(0), 1) && within(first[1], length(1), 2) {
        let at = |at: isize, axis: usize| (at + signed(shape.border[axis])).unsigned_abs();
        let (row, voxel) = (shape.row_pitch(), shape.channels);
        let corner = image * shape.image_pitch()
            + at(z, 0) * shape.plane_pitch()
            + at(first[0], 1) * row
            + at(first[1], 2) * voxel;
        let corner = data[corner + channel..].as_ptr();
        // Inside the buffer, as was just seen.
        return std::array::from_fn(|y| {
            std::array::from_fn(|x| corner.wrapping_add(y * spacing[0] * row + x * spacing[1] * voxel))
        });
    }
    let inside = |at: isize, axis: usize| {
        let border = signed(shape.border[axis]);
        (at >= -border && at < signed(shape.size[axis]) + border).then_some((at + border).unsigned_abs())
    };
    let z = inside(z, 0);
    std::array::from_fn(|y| {
        let row = inside(first[0] + signed(y * spacing[0]), 1);
        let row =
            z.zip(row).map(|(z, y)| image * shape.image_pitch() + z * shape.plane_pitch() + y * shape.row_pitch());
        std::array::from_fn(|x| {
            let place = row.zip(inside(first[1] + signed(x * spacing[1]), 2));
            place.map_or(ZEROS.as_ptr(), |(row, x)| data[row + x * shape.channels + channel..].as_ptr())
        })
    })
}

/// Transforms the `channels` channels of N × N voxels; the points are `apart` floats from each other.
///
/// # Safety
/// All channels must be readable, and writable at all points.
#[inline(always)]
unsafe fn to_points<L: Lanes, const N: usize>(
    voxels: &[[*const f32; N]; N],
    channels: usize,
    out: *mut f32,
    apart: usize,
    transform: impl Fn([L; N]) -> [L; SIDE],
) {
    for channel in (0..channels).step_by(L::COUNT) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = [[L::zero(); N]; N];
            for (values, voxels) in values.iter_mut().zip(voxels) {
                for (value, voxel) in values.iter_mut().zip(voxels) {
                    *value = L::load(voxel.add(channel));
                }
            }
            let points = both(values, &transform);
            for (point, value) in points.iter().flatten().enumerate() {
                value.store(out.add(point * apart + channel));
            }
        }
    }
}

/// Memory of one thread: on whole cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; 16]);

#[derive(Default)]
struct Scratch {
    /// Transformed voxels, of one side and the other.
    points: [Vec<Line>; 2],
    sums: Vec<Block>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Room for the floats and blocks asked for.
    fn reserve(&mut self, points: [usize; 2], blocks: usize) -> ([*mut f32; 2], &mut [Block]) {
        for (buffer, floats) in self.points.iter_mut().zip(points) {
            if buffer.len() * 16 < floats {
                buffer.resize(floats.div_ceil(16), Line([0.0; 16]));
            }
        }
        if self.sums.len() < blocks {
            self.sums.resize(blocks, [[0.0; LANES]; ROWS]);
        }
        let [first, second] = &mut self.points;
        ([first.as_mut_ptr().cast(), second.as_mut_ptr().cast()], &mut self.sums[..blocks])
    }
}

/// Whether fewer products are also less time, for the output voxels of these lattices, and how many taps a part has then.
fn worth(axes: [&Lattice; 3], images: usize, roles: Roles) -> Option<usize> {
    let enough = |channels: usize| channels >= 16 && channels % WIDTH == 0;
    let reach = Class::reach(axes).filter(|_| enough(roles.summed) && enough(roles.lanes))?;
    let outputs = SIDE + 1 - reach;
    let voxels = images * axes[0].count * axes[1].count * axes[2].count;
    let tiles = images * axes[0].count * axes[1].count.div_ceil(outputs) * axes[2].count.div_ceil(outputs);
    ((tiles + WEIGHT_COST) * POINTS < (voxels + WEIGHT_COST / 2) * reach * reach).then_some(reach)
}

/// As [`super::apply`], if that is worth while; says whether it was.
#[expect(clippy::too_many_arguments, reason = "one operation's operands")]
pub(super) fn apply(
    window: &Window,
    direction: Direction,
    weights: Weights,
    transposed: bool,
    roles: Roles,
    input: &Maps,
    output: &mut Maps,
    finish: Finish,
    panels: &mut Vec<f32>,
) -> bool {
    let size = output.shape().size;
    let axes: [Vec<Lattice>; 3] = std::array::from_fn(|axis| {
        lattices(window.kernel[axis], window.stride[axis], window.padding[axis], size[axis], direction)
    });
    let [z_axis, y_axis, x_axis] = &axes;
    let images = output.shape().images;
    let mut reach = None;
    for (number, (z, (y, x))) in products(z_axis, y_axis, x_axis).enumerate() {
        let this = worth([z, y, x], images, roles);
        if this.is_none() || number > 0 && this != reach {
            return false;
        }
        reach = this;
    }
    let operands = Operands { window, weights, transposed, roles, input, finish };
    match reach {
        Some(2) => operands.run::<2, 3>(&axes, output, panels),
        Some(3) => operands.run::<3, 2>(&axes, output, panels),
        _ => return false,
    }
    true
}

fn products<'a>(
    z: &'a [Lattice],
    y: &'a [Lattice],
    x: &'a [Lattice],
) -> impl Iterator<Item = (&'a Lattice, (&'a Lattice, &'a Lattice))> {
    z.iter().flat_map(move |z| y.iter().flat_map(move |y| x.iter().map(move |x| (z, (y, x)))))
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
    fn run<L: Lanes>(self) {
        for place in (0..self.summed * LANES).step_by(L::COUNT) {
            let mut voxels = [[self.taps.as_ptr(); R]; R];
            for (tap, voxel) in voxels.iter_mut().flatten().enumerate() {
                *voxel = self.taps[tap * SOME * LANES + place..].as_ptr();
            }
            // SAFETY: the taps have so many channels and lanes, the panels have room.
            unsafe { to_points::<L, R>(&voxels, L::COUNT, self.out.add(place), self.apart, of_taps) };
        }
    }
}

struct Operands<'a> {
    window: &'a Window,
    weights: Weights<'a>,
    transposed: bool,
    roles: Roles,
    input: &'a Maps,
    finish: Finish<'a>,
}

impl Operands<'_> {
    fn run<const R: usize, const M: usize>(&self, axes: &[Vec<Lattice>; 3], output: &mut Maps, panels: &mut Vec<f32>) {
        let roles = self.roles;
        let blocks = roles.lanes.div_ceil(LANES);
        let mut classes = Vec::new();
        let mut length = 0;
        for (z, (y, x)) in products(&axes[0], &axes[1], &axes[2]) {
            let class = Class::new([z, y, x], self.window, M, length);
            length += blocks * class.stretches.len() * per_stretch(roles);
            classes.push(class);
        }
        if panels.len() < length + 16 {
            panels.resize(length + 16, 0.0);
        }
        let aligned = panels.as_ptr().align_offset(64);
        let panels = &mut panels[aligned..aligned + length];
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
                    of: self,
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
        let roles = self.roles;
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
        let Weights { values, inputs, outputs } = self.weights;
        let first = block * LANES;
        let width = (self.roles.lanes - first).min(LANES);
        if width < LANES {
            out.fill(0.0);
        }
        let values = &values[tap * inputs * outputs..(tap + 1) * inputs * outputs];
        if self.transposed {
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
        sums: &mut [Block],
    ) {
        let instructions = Instructions::detect();
        let summed = self.roles.summed;
        let (groups, some) = (tiles.len().div_ceil(ROWS), blocks.len());
        for (number, stretch) in class.stretches.iter().enumerate() {
            for first in (0..summed).step_by(SUMMED) {
                let count = (summed - first).min(SUMMED);
                let transform = Patches { of: self, class, stretch, tiles: tiles.clone(), first, count, points };
                with_lanes(instructions, transform);
                for point in 0..POINTS {
                    for (index, block) in blocks.clone().enumerate() {
                        let panel = class.panel + (block * class.stretches.len() + number) * per_stretch(self.roles);
                        let panel = panel + point * panel_apart(self.roles) + first * LANES;
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
    of: &'a Operands<'a>,
    class: &'a Class,
    stretch: &'a Stretch,
    tiles: Range<usize>,
    first: usize,
    count: usize,
    points: *mut f32,
}

impl WithLanes for Patches<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
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
            unsafe { to_points::<L, SIDE>(&voxels, self.count, self.points.add(row * SUMMED), APART, of_patch) };
        }
    }
}

/// Transforms sums back and puts them where they belong.
struct Put<'a, const M: usize> {
    of: &'a Operands<'a>,
    class: &'a Class,
    tiles: Range<usize>,
    blocks: Range<usize>,
    sums: &'a [Block],
    shape: Shape,
    out: Shared,
}

impl<const M: usize> WithLanes for Put<'_, M> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { class, shape, .. } = self;
        let [z_axis, y_axis, x_axis] = &class.axes;
        let (some, finish) = (self.blocks.len(), self.of.finish);
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
                let bias = finish.bias.map_or(&zeros[..width], |bias| &bias[first..first + width]);
                let sums = |point: usize| self.sums[block_place(point, some, index, row / ROWS)][row % ROWS].as_ptr();
                for lane in (0..width).step_by(L::COUNT) {
                    // SAFETY: a row of sums has 32 lanes; voxels and channels of different tasks lie apart, and inside the output.
                    unsafe {
                        let mut values = [[L::zero(); SIDE]; SIDE];
                        for (point, value) in values.iter_mut().flatten().enumerate() {
                            *value = L::load(sums(point).add(lane));
                        }
                        let outputs: [[L; M]; M] = both(values, to_outputs);
                        let bias = L::load(bias.as_ptr().add(lane));
                        let corner = self.out.pointer().add(corner + first + lane);
                        for (y, outputs) in outputs.iter().enumerate().take(rows) {
                            for (x, sum) in outputs.iter().enumerate().take(columns) {
                                let place = corner.add(y * down + x * along);
                                let value = sum.times(finish.scale).plus(bias);
                                let value = if finish.add { L::load(place).plus(value) } else { value };
                                value.store(place);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// As [`super::weight_gradient`], if that is worth while; says whether it was.
pub(super) fn weight_gradient(
    window: &Window,
    direction: Direction,
    input: &Maps,
    gradient: &Maps,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) -> bool {
    let (small, large) = match direction {
        Direction::Gather => (gradient, input),
        Direction::Spread => (input, gradient),
    };
    let axes: [Lattice; 3] = std::array::from_fn(|axis| {
        let (kernel, stride, padding) = (window.kernel[axis], window.stride[axis], window.padding[axis]);
        lattices(kernel, stride, padding, small.shape().size[axis], Direction::Gather).remove(0)
    });
    let axes: [&Lattice; 3] = std::array::from_fn(|axis| &axes[axis]);
    let enough = |maps: &Maps| maps.shape().channels >= 16 && maps.shape().channels % WIDTH == 0;
    let reach = Class::reach(axes).filter(|_| enough(small) && enough(large));
    let spread = direction == Direction::Spread;
    match reach {
        Some(2) => Gradient::<2, 3>::new(axes, window, small, large, spread).run(out, scratch),
        Some(3) => Gradient::<3, 2>::new(axes, window, small, large, spread).run(out, scratch),
        _ => return false,
    }
    true
}

/// A weight gradient: at every point the products of the transformed patches of the larger maps with the transformed tiles of the smaller.
struct Gradient<'a, const R: usize, const M: usize> {
    class: Class,
    small: &'a Maps,
    large: &'a Maps,
    /// Whether the smaller maps are the forward pass's input.
    spread: bool,
    /// Channels of the forward pass's input and output.
    inputs: usize,
    outputs: usize,
}

impl<'a, const R: usize, const M: usize> Gradient<'a, R, M> {
    fn new(axes: [&Lattice; 3], window: &Window, small: &'a Maps, large: &'a Maps, spread: bool) -> Self {
        let (few, many) = (small.shape().channels, large.shape().channels);
        let (inputs, outputs) = if spread { (few, many) } else { (many, few) };
        Self { class: Class::new(axes, window, M, 0), small, large, spread, inputs, outputs }
    }

    fn run(&self, out: &mut [f32], scratch: &mut Vec<f32>) {
        let tiles = self.class.all_tiles(self.small.shape().images);
        let squares: Vec<(usize, usize, usize)> = (0..self.class.stretches.len())
            .flat_map(|stretch| {
                let inputs = (0..self.inputs).step_by(SQUARE);
                inputs.flat_map(move |input| {
                    (0..self.outputs).step_by(SQUARE).map(move |output| (stretch, input, output))
                })
            })
            .collect();
        let groups = (32 / squares.len()).clamp(1, tiles.div_ceil(TILES));
        let length = out.len();
        let target: &mut [f32] = if groups == 1 {
            &mut *out
        } else {
            if scratch.len() < groups * length {
                scratch.resize(groups * length, 0.0);
            }
            scratch
        };
        let shared = Shared::new(target);
        parallel::for_each(groups * squares.len(), |task| {
            let (group, square) = (task / squares.len(), squares[task % squares.len()]);
            // SAFETY: each group has its own sums, and inside them each square its own taps and channels.
            let target = unsafe { shared.pointer().add(group * length) };
            SCRATCH.with(|scratch| self.square(square, parallel::part(tiles, groups, group), target, scratch));
        });
        if groups > 1 {
            parallel::add_up(out, &scratch[..groups * length]);
        }
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
        let floats = POINTS * SQUARE_APART;
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
                        let a = points[0].add(point * SQUARE_APART + row_block * ROWS).cast_const();
                        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.add(row));
                        for lane_block in 0..lane_blocks {
                            let sums = &mut sums[(point * row_blocks + row_block) * lane_blocks + lane_block];
                            let b = points[1].add(point * SQUARE_APART + lane_block * LANES).cast_const();
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
    fn run<L: Lanes>(self) {
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
                to_points::<L, SIDE>(&patch_large, large_channels, large, SQUARE_APART, of_patch);
                to_points::<L, M>(&patch_small, small_channels, small, SQUARE_APART, of_outputs);
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
    sums: &'a [Block],
    out: *mut f32,
}

impl<const R: usize, const M: usize> WithLanes for Taps<'_, R, M> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let ([input, output], [rows, lanes]) = (self.first, self.size);
        let (row_blocks, lane_blocks) = (rows.div_ceil(ROWS), lanes.div_ceil(LANES));
        for row in 0..rows {
            for lane in (0..lanes).step_by(L::COUNT) {
                // SAFETY: a row of sums has 32 lanes; the square has these weights to itself.
                unsafe {
                    let mut values = [[L::zero(); SIDE]; SIDE];
                    for (point, value) in values.iter_mut().flatten().enumerate() {
                        let block = (point * row_blocks + row / ROWS) * lane_blocks + lane / LANES;
                        *value = L::load(self.sums[block][row % ROWS].as_ptr().add(lane % LANES));
                    }
                    let of_taps: [[L; R]; R] = both(values, to_taps);
                    for (value, tap) in of_taps.iter().flatten().zip(&self.stretch.taps) {
                        let place = (tap * self.of.inputs + input + row) * self.of.outputs + output + lane;
                        value.store(self.out.add(place));
                    }
                }
            }
        }
    }
}
