//! Grids of voxels in a cell's coordinates, and painting on them.

use super::geometry::{Point, length, subtract};

/// A grid of voxels laid over a cell: where each voxel's centre is, in the cell's coordinates.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Voxels: Z, Y, X.
    pub(super) size: [usize; 3],
    /// µm: Z, Y, X.
    pub(super) voxel_um: Point,
    /// The point of the cell at the grid's middle.
    pub(super) centre: Point,
    /// The grid's Y axis in the cell's plane, from the cell's Y towards its X; radians.
    pub(super) angle: f64,
    /// 1, or -1 where the grid is mirrored: along Y, along X.
    pub(super) mirrored: [f64; 2],
}

impl Frame {
    /// A grid of cubic voxels over the box from `low` to `high`.
    pub(super) fn over(low: Point, high: Point, voxel_um: Point) -> Self {
        let size = std::array::from_fn(|axis| (((high[axis] - low[axis]) / voxel_um[axis]).ceil() as usize).max(1));
        let centre = std::array::from_fn(|axis| low[axis] + size[axis] as f64 * voxel_um[axis] / 2.0);
        Self { size, voxel_um, centre, angle: 0.0, mirrored: [1.0; 2] }
    }

    /// The number of voxels.
    pub(super) fn len(&self) -> usize {
        self.size.iter().product()
    }

    /// The volume of a voxel in µm³.
    pub(super) fn voxel_volume(&self) -> f64 {
        self.voxel_um.iter().product()
    }

    /// The point at a voxel position; (0, 0, 0) is the centre of the first voxel.
    pub(super) fn point(&self, position: Point) -> Point {
        let from_middle: Point =
            std::array::from_fn(|axis| (position[axis] + 0.5 - self.size[axis] as f64 / 2.0) * self.voxel_um[axis]);
        let (y, x) = (from_middle[1] * self.mirrored[0], from_middle[2] * self.mirrored[1]);
        let (sine, cosine) = libm::sincos(self.angle);
        [
            self.centre[0] + from_middle[0],
            self.centre[1] + y * cosine - x * sine,
            self.centre[2] + y * sine + x * cosine,
        ]
    }

    /// The voxel position of a point; the reverse of [`Frame::point`].
    pub(super) fn position(&self, point: Point) -> Point {
        let [z, y, x] = subtract(point, self.centre);
        let (sine, cosine) = libm::sincos(self.angle);
        let from_middle = [z, (y * cosine + x * sine) * self.mirrored[0], (x * cosine - y * sine) * self.mirrored[1]];
        std::array::from_fn(|axis| from_middle[axis] / self.voxel_um[axis] + self.size[axis] as f64 / 2.0 - 0.5)
    }

    /// A value for every voxel, in Z, Y, X order.
    pub(super) fn map<T>(&self, mut f: impl FnMut(Point) -> T) -> Vec<T> {
        let [depth, height, width] = self.size;
        let mut values = Vec::with_capacity(self.len());
        for z in 0..depth {
            for y in 0..height {
                for x in 0..width {
                    values.push(f(self.point([z as f64, y as f64, x as f64])));
                }
            }
        }
        values
    }

    /// The voxels that are within `reach` µm of a point along each of the grid's axes: first and behind the last, by axis.
    pub(super) fn around(&self, point: Point, reach: f64) -> [std::ops::Range<usize>; 3] {
        let position = self.position(point);
        std::array::from_fn(|axis| {
            let voxels = reach / self.voxel_um[axis];
            let bound = |value: f64| value.clamp(0.0, self.size[axis] as f64) as usize;
            bound((position[axis] - voxels).ceil())..bound((position[axis] + voxels).floor() + 1.0)
        })
    }
}

/// An image that is painted on.
pub(super) struct Canvas<'a> {
    pub(super) frame: &'a Frame,
    /// Brightness of every voxel, Z, Y, X order.
    pub(super) data: Vec<f32>,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(frame: &'a Frame) -> Self {
        Self { frame, data: vec![0.0; frame.len()] }
    }

    /// Adds a round spot: a Gaussian of this width (standard deviation, µm) and brightness in its middle. Voxels see its mean
    /// over their volume, so a spot smaller than a voxel is dimmer, not lost.
    pub(super) fn spot(&mut self, point: Point, sigma: f64, brightness: f64) {
        let position = self.frame.position(point);
        let mut total = brightness;
        let mut profile: [Vec<f64>; 3] = Default::default();
        let mut from = [0; 3];
        for axis in 0..3 {
            let voxel = self.frame.voxel_um[axis];
            let seen = seen_width(sigma, voxel);
            total *= sigma / seen;
            let reach = 2.7 * seen / voxel;
            let first = (position[axis] - reach).ceil().max(0.0);
            let last = (position[axis] + reach).floor().min(self.frame.size[axis] as f64 - 1.0);
            if last < first {
                return;
            }
            from[axis] = first as usize;
            profile[axis] = (first as usize..=last as usize)
                .map(|voxel_index| {
                    let distance = (voxel_index as f64 - position[axis]) * voxel / seen;
                    libm::exp(-0.5 * distance * distance)
                })
                .collect();
        }
        let [_, height, width] = self.frame.size;
        for (z, weight_z) in profile[0].iter().enumerate() {
            for (y, weight_y) in profile[1].iter().enumerate() {
                let start = ((from[0] + z) * height + from[1] + y) * width + from[2];
                let weight = total * weight_z * weight_y;
                for (value, weight_x) in self.data[start..].iter_mut().zip(&profile[2]) {
                    *value += (weight * weight_x) as f32;
                }
            }
        }
    }

    /// Adds a line through these points: a tube of this width (standard deviation of its cross-section, µm) and brightness in
    /// its middle.
    pub(super) fn line(&mut self, points: &[Point], sigma: f64, brightness: f64) {
        let voxel = self.frame.voxel_um.iter().copied().fold(f64::INFINITY, f64::min);
        let wanted = 1.3 * seen_width(sigma, voxel);
        for pair in points.windows(2) {
            let long = length(subtract(pair[1], pair[0]));
            let steps = (long / wanted).ceil().max(1.0);
            let step = long / steps;
            // A row of Gaussians `step` apart adds up to √(2π)·sigma/step times one of them.
            let own = brightness * step / (2.506_628 * sigma);
            for number in 0..steps as usize {
                let t = (number as f64 + 0.5) / steps;
                self.spot(std::array::from_fn(|axis| pair[0][axis] + t * (pair[1][axis] - pair[0][axis])), sigma, own);
            }
        }
    }

    /// Adds a brightness to every voxel.
    pub(super) fn add(&mut self, brightness: impl Iterator<Item = f64>) {
        for (value, more) in self.data.iter_mut().zip(brightness) {
            *value += more as f32;
        }
    }
}

/// The standard deviation of a Gaussian after it was averaged over voxels of this side.
pub(super) fn seen_width(sigma: f64, voxel: f64) -> f64 {
    (sigma * sigma + voxel * voxel / 12.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            size: [20, 24, 22],
            voxel_um: [0.5, 0.4, 0.4],
            centre: [4.0, 1.0, -2.0],
            angle: 0.7,
            mirrored: [-1.0, 1.0],
        }
    }

    #[test]
    fn points_and_positions_are_each_others_reverse() {
        let frame = frame();
        let back = frame.position(frame.point([3.0, 7.0, 11.0]));
        assert!(length(subtract(back, [3.0, 7.0, 11.0])) < 1e-9);
    }

    #[test]
    fn light_is_kept_whatever_the_voxels() {
        for voxel in [0.2, 0.6] {
            let frame = Frame::over([0.0; 3], [9.0; 3], [voxel; 3]);
            let mut canvas = Canvas::new(&frame);
            canvas.spot([4.4, 4.6, 4.5], 0.25, 2.0);
            let light = canvas.data.iter().map(|&v| f64::from(v)).sum::<f64>() * frame.voxel_volume();
            let expected = 2.0 * (2.506_628f64 * 0.25).powi(3);
            assert!((light / expected - 1.0).abs() < 0.05, "{voxel}: {light} {expected}");
            let mut canvas = Canvas::new(&frame);
            canvas.line(&[[4.5, 2.0, 4.5], [4.5, 5.0, 4.5], [4.5, 7.0, 4.5]], 0.25, 1.0);
            let light = canvas.data.iter().map(|&v| f64::from(v)).sum::<f64>() * frame.voxel_volume();
            let expected = 5.0 * (2.506_628f64 * 0.25).powi(2);
            assert!((light / expected - 1.0).abs() < 0.05, "{voxel}: {light} {expected}");
        }
    }
}
