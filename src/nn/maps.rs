//! Feature maps: images in channels-last order, with a border of zeros where a convolution needs one.

use super::parallel::{self, Shared};
use crate::simd;

/// The extent of feature maps: images × Z × Y × X × channels, channels contiguous, inside a border of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images of the batch.
    pub images: usize,
    /// Size in voxels without the border: Z, Y, X; Z = 1 in 2D.
    pub size: [usize; 3],
    /// Channels.
    pub channels: usize,
    /// Voxels of zeros on each side along Z, Y, X.
    pub border: [usize; 3],
}

impl Shape {
    /// An extent without a border.
    #[must_use]
    pub const fn bare(images: usize, size: [usize; 3], channels: usize) -> Self {
        Self { images, size, channels, border: [0; 3] }
    }

    /// Vectors without a place in space: one row of `images` voxels.
    #[must_use]
    pub const fn vectors(images: usize, channels: usize) -> Self {
        Self::bare(1, [1, 1, images], channels)
    }

    /// The same extent with another border.
    #[must_use]
    pub const fn with_border(self, border: [usize; 3]) -> Self {
        Self { border, ..self }
    }

    /// Floats from one voxel to the next along Y.
    #[must_use]
    pub const fn row_pitch(&self) -> usize {
        (self.size[2] + 2 * self.border[2]) * self.channels
    }

    /// Floats from one voxel to the next along Z.
    #[must_use]
    pub const fn plane_pitch(&self) -> usize {
        (self.size[1] + 2 * self.border[1]) * self.row_pitch()
    }

    /// Floats from one image to the next.
    #[must_use]
    pub const fn image_pitch(&self) -> usize {
        (self.size[0] + 2 * self.border[0]) * self.plane_pitch()
    }

    /// Floats in all, the border included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.images * self.image_pitch()
    }

    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Voxels of all images, without the border.
    #[must_use]
    pub const fn voxels(&self) -> usize {
        self.images * self.size[0] * self.size[1] * self.size[2]
    }

    /// Rows along X of all images, without the border.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.images * self.size[0] * self.size[1]
    }

    /// Floats of one row, without the border.
    #[must_use]
    pub const fn row_len(&self) -> usize {
        self.size[2] * self.channels
    }

    /// Where voxel (image, z, y, x) begins.
    #[must_use]
    pub const fn offset(&self, image: usize, [z, y, x]: [usize; 3]) -> usize {
        image * self.image_pitch()
            + (z + self.border[0]) * self.plane_pitch()
            + (y + self.border[1]) * self.row_pitch()
            + (x + self.border[2]) * self.channels
    }

    /// (image, z, y) of a row by its number.
    #[must_use]
    pub const fn row_position(&self, row: usize) -> [usize; 3] {
        let (plane, y) = (row / self.size[1], row % self.size[1]);
        [plane / self.size[0], plane % self.size[0], y]
    }

    /// Where a row begins by its number.
    #[must_use]
    pub const fn row_offset(&self, row: usize) -> usize {
        let [image, z, y] = self.row_position(row);
        self.offset(image, [z, y, 0])
    }
}

/// Feature maps. The border is zero and stays so.
#[derive(Clone, Debug)]
pub struct Maps {
    shape: Shape,
    /// At least `shape.len()` floats: a reused buffer may be longer.
    data: Vec<f32>,
}

impl Maps {
    /// Maps of zeros.
    #[must_use]
    pub fn zeros(shape: Shape) -> Self {
        Self { shape, data: vec![0.0; shape.len()] }
    }

    /// The extent.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// All floats, the border included.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data[..self.shape.len()]
    }

    /// All floats, the border included, which must stay zero.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.shape.len()]
    }

    /// The same floats seen in another extent.
    ///
    /// # Panics
    /// When either has a border, or the numbers of floats differ.
    #[must_use]
    pub fn reshaped(self, shape: Shape) -> Self {
        assert!(shape.border == [0; 3] && self.shape.border == [0; 3] && shape.len() == self.shape.len());
        Self { shape, data: self.data }
    }

    /// One row along X by its number.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        let start = self.shape.row_offset(row);
        &self.data[start..start + self.shape.row_len()]
    }

    /// Calls `f(number, row)` for every row, in parallel. With `#[inline(always)]`, `f` gets wide vector instructions.
    pub fn for_each_row(&mut self, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
        let (shape, shared) = (self.shape, Shared::new(&mut self.data));
        let rows = shape.rows();
        let parts = parallel::parts(shape.len(), rows.min(64));
        parallel::for_each(parts, |index| {
            simd::dispatch(
                #[inline(always)]
                || {
                    for row in parallel::part(rows, parts, index) {
                        // SAFETY: rows lie apart from each other, and each is given to one call only.
                        let slice = unsafe {
                            std::slice::from_raw_parts_mut(shared.pointer().add(shape.row_offset(row)), shape.row_len())
                        };
                        f(row, slice);
                    }
                },
            );
        });
    }

    /// Reads channels-first images (N, C, Z, Y, X).
    ///
    /// # Panics
    /// When their number of floats does not fit.
    pub fn read_channels_first(&mut self, images: &[f32]) {
        let shape = self.shape;
        let plane: usize = shape.size.iter().product();
        assert_eq!(images.len(), shape.images * shape.channels * plane);
        self.for_each_row(|row, out| {
            let [image, z, y] = shape.row_position(row);
            for channel in 0..shape.channels {
                let start = (image * shape.channels + channel) * plane + (z * shape.size[1] + y) * shape.size[2];
                for (x, value) in images[start..start + shape.size[2]].iter().enumerate() {
                    out[x * shape.channels + channel] = *value;
                }
            }
        });
    }

    /// The images channels-first (N, C, Z, Y, X).
    #[must_use]
    pub fn to_channels_first(&self) -> Vec<f32> {
        let shape = self.shape;
        let plane: usize = shape.size.iter().product();
        let mut out = vec![0.0; shape.voxels() * shape.channels];
        for row in 0..shape.rows() {
            let [image, z, y] = shape.row_position(row);
            for (x, voxel) in self.row(row).chunks_exact(shape.channels).enumerate() {
                for (channel, value) in voxel.iter().enumerate() {
                    out[(image * shape.channels + channel) * plane + (z * shape.size[1] + y) * shape.size[2] + x] =
                        *value;
                }
            }
        }
        out
    }
}

/// Buffers that are used again: a training step allocates nothing after the first.
#[derive(Debug, Default)]
pub struct Pool {
    free: Vec<Vec<f32>>,
}

impl Pool {
    /// Maps whose border is zero and whose inside is anything.
    pub fn take(&mut self, shape: Shape) -> Maps {
        let wanted = shape.len();
        let fitting = self.free.iter().enumerate().filter(|(_, data)| (wanted..=2 * wanted + 64).contains(&data.len()));
        let best = fitting.min_by_key(|(_, data)| data.len()).map(|(index, _)| index);
        let Some(index) = best else { return Maps::zeros(shape) };
        let mut maps = Maps { shape, data: self.free.swap_remove(index) };
        maps.clear_border();
        maps
    }

    /// Takes maps back.
    pub fn give(&mut self, maps: Maps) {
        self.free.push(maps.data);
    }
}

impl Maps {
    fn clear_border(&mut self) {
        let shape = self.shape;
        let [depth, height, _] = shape.size;
        let (row, plane, side) = (shape.row_pitch(), shape.plane_pitch(), shape.border[2] * shape.channels);
        for (index, plane) in self.data[..shape.len()].chunks_exact_mut(plane).enumerate() {
            let z = index % (depth + 2 * shape.border[0]);
            if z < shape.border[0] || z >= depth + shape.border[0] {
                plane.fill(0.0);
                continue;
            }
            for (y, row) in plane.chunks_exact_mut(row).enumerate() {
                if y < shape.border[1] || y >= height + shape.border[1] {
                    row.fill(0.0);
                } else {
                    row[..side].fill(0.0);
                    let end = row.len() - side;
                    row[end..].fill(0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_buffer_has_a_clean_border() {
        let shape = Shape { images: 2, size: [2, 3, 4], channels: 3, border: [1, 1, 1] };
        let mut pool = Pool::default();
        pool.give(Maps { shape: Shape::bare(1, [1, 1, 1200], 1), data: vec![7.0; 1200] });
        let mut maps = pool.take(shape);
        maps.for_each_row(|_, row| row.fill(0.0));
        assert!(maps.data().iter().all(|&value| value == 0.0));
        assert!(pool.free.is_empty());
    }

    #[test]
    fn channels_first_and_back() {
        let images: Vec<f32> = (0..2 * 3 * 24).map(|v| v as f32).collect();
        let mut maps = Maps::zeros(Shape { images: 2, size: [2, 3, 4], channels: 3, border: [1, 1, 1] });
        maps.read_channels_first(&images);
        assert_eq!(maps.to_channels_first(), images);
        assert_eq!(maps.row(0)[..4], [0.0, 24.0, 48.0, 1.0]);
    }
}
