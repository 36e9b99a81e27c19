//! Convolutions with fewer products: minimal filtering, in tiles of 4 × 4 points along Y and X.
//!
//! Three taps at two neighbouring outputs, or two taps at three, need six products along an axis; seen as polynomials at the
//! points 0, 1, −1 and ∞ they need four, and 16 instead of 36 in the plane. Between the two transforms, which are sums and
//! differences, stands one matrix product for each point, over channels. A stride of two is two interleaved parts of half the taps, whose
//! products are summed before the transform back; Z is left as it is, one stretch of the sum for each of its taps.
//!
//! Source: Winograd 1980, "Arithmetic complexity of computations"; Lavin & Gray 2016, "Fast algorithms for convolutional neural
//! networks", section 4. All constants are 0, ±1 and ½, so rounding is hardly worse than that of the plain sums.

mod forward;
mod gradient;
mod transform;

use std::cell::RefCell;

pub(super) use self::{forward::apply, gradient::weight_gradient};
use super::{
    super::{
        micro_kernel::{Accumulators, LANES, ROWS},
        view::View,
    },
    Lattice,
};
use crate::nn::Window;

/// Points along an axis, and of a tile.
const SIDE: usize = 4;
const POINTS: usize = SIDE * SIDE;
/// Tiles of one task that are worked on together.
const TILES: usize = 32;
/// Summed channels that are worked on together.
const SUMMED: usize = 128;
/// The transforms take so many channels at once, or half as many.
const WIDTH: usize = 16;

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

/// Where the voxels of a patch begin, from `first` with `spacing` along Y and X; zeros outside the image and its halo.
fn patch<const N: usize>(
    maps: View,
    image: usize,
    z: isize,
    first: [isize; 2],
    spacing: [usize; 2],
    channel: usize,
) -> [[*const f32; N]; N] {
    let (shape, data) = (maps.shape(), maps.data());
    let within = |at: isize, length: usize, axis: usize| {
        let halo = signed(shape.halo[axis]);
        at >= -halo && at + signed(length) <= signed(shape.size[axis]) + halo
    };
    let length = |axis: usize| (N - 1) * spacing[axis] + 1;
    if within(z, 1, 0) && within(first[0], length(0), 1) && within(first[1], length(1), 2) {
        let at = |at: isize, axis: usize| (at + signed(shape.halo[axis])).unsigned_abs();
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
        let halo = signed(shape.halo[axis]);
        (at >= -halo && at < signed(shape.size[axis]) + halo).then_some((at + halo).unsigned_abs())
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

#[derive(Default)]
struct Scratch {
    /// Transformed voxels, of one side and the other.
    points: [Vec<f32>; 2],
    sums: Vec<Accumulators>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Room for the floats and blocks asked for.
    fn reserve(&mut self, points: [usize; 2], blocks: usize) -> ([*mut f32; 2], &mut [Accumulators]) {
        if self.sums.len() < blocks {
            self.sums.resize(blocks, [[0.0; LANES]; ROWS]);
        }
        let [first, second] = &mut self.points;
        let points = [aligned(first, points[0]).as_mut_ptr(), aligned(second, points[1]).as_mut_ptr()];
        (points, &mut self.sums[..blocks])
    }
}

/// So many floats of a buffer, on whole cache lines.
fn aligned(buffer: &mut Vec<f32>, floats: usize) -> &mut [f32] {
    const LINE: usize = 16;
    if buffer.len() < floats + LINE {
        buffer.resize(floats + LINE, 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>());
    &mut buffer[start..start + floats]
}

/// Whether the transforms can take so many channels, and are worth their while.
fn enough(channels: usize) -> bool {
    channels >= WIDTH && channels % WIDTH == 0
}
