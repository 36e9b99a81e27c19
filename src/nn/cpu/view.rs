//! The maps of one model, as the processor's operations see them.

use super::parallel::{self, Shared};
use crate::{
    nn::{Maps, Shape},
    simd,
};

/// The maps of one model.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) struct View<'a> {
    shape: Shape,
    data: &'a [f32],
}

/// The maps of one model, to be changed. The halo must stay zero.
#[derive(Debug)]
pub(in crate::nn) struct ViewMut<'a> {
    shape: Shape,
    data: &'a mut [f32],
}

impl Maps {
    /// The maps of a model; those that all models share (of one model) for any.
    pub(in crate::nn) fn of_model(&self, model: usize) -> View<'_> {
        let shape = self.shape();
        let start = if shape.models == 1 { 0 } else { model * shape.model_pitch() };
        View { shape: shape.with_models(1), data: &self.data()[start..start + shape.model_pitch()] }
    }

    /// The maps of a model, to be changed.
    pub(in crate::nn) fn of_model_mut(&mut self, model: usize) -> ViewMut<'_> {
        let shape = self.shape();
        let pitch = shape.model_pitch();
        ViewMut { shape: shape.with_models(1), data: &mut self.data_mut()[model * pitch..(model + 1) * pitch] }
    }
}

impl<'a> View<'a> {
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// All floats, the halo included.
    pub(super) fn data(&self) -> &'a [f32] {
        self.data
    }

    /// One row along X by its number.
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        let start = self.shape.row_offset(row);
        &self.data[start..start + self.shape.row_len()]
    }

    /// The images channels-first (N, C, Z, Y, X).
    pub(super) fn to_channels_first(self) -> Vec<f32> {
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

impl ViewMut<'_> {
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// All floats, the halo included, which must stay zero.
    pub(super) fn data_mut(&mut self) -> &mut [f32] {
        self.data
    }

    /// Calls `f(number, row)` for every row, in parallel. With `#[inline(always)]`, `f` gets wide vector instructions.
    pub(super) fn for_each_row(&mut self, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
        let (shape, shared) = (self.shape, Shared::new(self.data));
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
    pub(super) fn read_channels_first(&mut self, images: &[f32]) {
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

    /// Fills the halo with zeros.
    pub(super) fn clear_halo(&mut self) {
        let shape = self.shape;
        if shape.halo == [0; 3] {
            return;
        }
        let [depth, height, _] = shape.size;
        let (row, plane, side) = (shape.row_pitch(), shape.plane_pitch(), shape.halo[2] * shape.channels);
        for (index, plane) in self.data.chunks_exact_mut(plane).enumerate() {
            let z = index % (depth + 2 * shape.halo[0]);
            if z < shape.halo[0] || z >= depth + shape.halo[0] {
                plane.fill(0.0);
                continue;
            }
            for (y, row) in plane.chunks_exact_mut(row).enumerate() {
                if y < shape.halo[1] || y >= height + shape.halo[1] {
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
    fn channels_first_and_back() {
        let images: Vec<f32> = (0..2 * 3 * 24).map(|v| v as f32).collect();
        let mut maps = Maps::zeros(Shape { models: 2, images: 2, size: [2, 3, 4], channels: 3, halo: [1, 1, 1] });
        maps.of_model_mut(1).read_channels_first(&images);
        assert_eq!(maps.of_model(1).to_channels_first(), images);
        assert_eq!(maps.of_model(1).row(0)[..4], [0.0, 24.0, 48.0, 1.0]);
        assert!(maps.of_model(0).data().iter().all(|value| *value == 0.0));
    }

    #[test]
    fn a_cleared_halo_is_zero_and_nothing_else_changes() {
        let shape = Shape { models: 1, images: 2, size: [2, 3, 4], channels: 3, halo: [1, 1, 1] };
        let mut maps = Maps::zeros(shape);
        maps.data_mut().fill(7.0);
        maps.of_model_mut(0).clear_halo();
        let view = maps.of_model(0);
        assert!((0..shape.rows()).all(|row| view.row(row).iter().all(|value| *value == 7.0)));
        maps.of_model_mut(0).for_each_row(|_, row| row.fill(0.0));
        assert!(maps.data().iter().all(|&value| value == 0.0));
    }
}
