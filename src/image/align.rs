//! Alignment of single cells: how a cell lies in its field, and its image in a frame of its own.

use rayon::prelude::*;

use super::{ImageError, Region, Volume};

/// How a cell lies in a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// The centre of mass of its nucleus in µm from the centre of the field's first voxel (Z, Y, X).
    pub centre_um: [f64; 3],
    /// The angle in radians from the field's Y axis to the major axis of the cell's shape in the plane, towards X; above −π/2, up to π/2.
    pub angle: f64,
    /// Whether the aligned image is mirrored along Y and along X.
    pub flip: [bool; 2],
}

/// The frame that an aligned cell is put in, the nucleus's centre of mass in its middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Size in voxels: Z, Y, X.
    pub size: [usize; 3],
    /// Size of a voxel in µm: Z, Y, X.
    pub voxel_um: [f64; 3],
}

impl Pose {
    /// The pose of the cell and its nucleus, each the voxels of label `label` in the region's bounding box.
    ///
    /// The major axis is that of the second moments of the cell's voxels in the plane; each axis of the aligned shape is mirrored where
    /// its skew (third moment) is negative, so that the longer tail points up. A cell upside down would be another cell: Z is not mirrored.
    /// Source: paper, 4.1.2.
    #[must_use]
    pub fn of(cells: &Volume<u32>, label: u32, cell: &Region, nucleus: &Region, voxel_um: [f64; 3]) -> Self {
        // Moments need each column of voxels (y, x) only once, with its count.
        let (rows, columns) = (cell.high[1] - cell.low[1], cell.high[2] - cell.low[2]);
        let mut counts = vec![0_u32; rows * columns];
        for z in cell.low[0]..cell.high[0] {
            for y in 0..rows {
                let row = &cells.data[cells.index(z, cell.low[1] + y, cell.low[2])..][..columns];
                for (count, &at) in counts[y * columns..(y + 1) * columns].iter_mut().zip(row) {
                    *count += u32::from(at == label);
                }
            }
        }
        let middle = [cell.centre[1] - cell.low[1] as f64, cell.centre[2] - cell.low[2] as f64];
        let columns_um = |f: &mut dyn FnMut(f64, f64, f64)| {
            for (at, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let y = ((at / columns) as f64 - middle[0]) * voxel_um[1];
                let x = ((at % columns) as f64 - middle[1]) * voxel_um[2];
                f(f64::from(count), y, x);
            }
        };
        let (mut yy, mut yx, mut xx) = (0.0, 0.0, 0.0);
        columns_um(&mut |count, y, x| {
            yy += count * y * y;
            yx += count * y * x;
            xx += count * x * x;
        });
        let angle = 0.5 * libm::atan2(2.0 * yx, yy - xx);
        let (sin, cos) = libm::sincos(angle);
        let mut skew = [0.0; 2];
        columns_um(&mut |count, y, x| {
            skew[0] += count * (cos * y + sin * x).powi(3);
            skew[1] += count * (cos * x - sin * y).powi(3);
        });
        Self {
            centre_um: [0, 1, 2].map(|axis| nucleus.centre[axis] * voxel_um[axis]),
            angle,
            flip: skew.map(|skew| skew < 0.0),
        }
    }

    /// From the aligned frame, in µm from its middle, to the field's plane, in µm from the nucleus's centre (Y, X).
    fn to_field(self, y: f64, x: f64) -> [f64; 2] {
        let (sin, cos) = libm::sincos(self.angle);
        let (y, x) = (if self.flip[0] { -y } else { y }, if self.flip[1] { -x } else { x });
        [cos * y - sin * x, sin * y + cos * x]
    }

    /// The other way.
    fn to_frame(self, y: f64, x: f64) -> [f64; 2] {
        let (sin, cos) = libm::sincos(self.angle);
        let (along, across) = (cos * y + sin * x, cos * x - sin * y);
        [if self.flip[0] { -along } else { along }, if self.flip[1] { -across } else { across }]
    }

    /// The least frame in voxels (Z, Y, X) that holds the cell: the label `label` inside the region's bounding box.
    #[must_use]
    pub fn extent(
        self,
        cells: &Volume<u32>,
        label: u32,
        cell: &Region,
        voxel_um: [f64; 3],
        frame: &Frame,
    ) -> [usize; 3] {
        let mut reach = [0.0_f64; 3];
        for z in cell.low[0]..cell.high[0] {
            for y in cell.low[1]..cell.high[1] {
                let row = cells.index(z, y, 0);
                let inside = |x: &usize| cells.data[row + x] == label;
                // The ends of a row reach farthest.
                let ends = [(cell.low[2]..cell.high[2]).find(inside), (cell.low[2]..cell.high[2]).rfind(inside)];
                for x in ends.into_iter().flatten() {
                    let from = |axis: usize, at: usize| at as f64 * voxel_um[axis] - self.centre_um[axis];
                    let [across_y, across_x] = self.to_frame(from(1, y), from(2, x));
                    for (reach, at) in reach.iter_mut().zip([from(0, z), across_y, across_x]) {
                        *reach = reach.max(at.abs());
                    }
                }
            }
        }
        [0, 1, 2].map(|axis| (2.0 * reach[axis] / frame.voxel_um[axis]).ceil() as usize + 1)
    }

    /// The places in the field's plane of the frame's voxels (y, x), in voxels of the field.
    fn places(self, voxel_um: [f64; 3], frame: &Frame) -> Vec<[f64; 2]> {
        let [_, height, width] = frame.size;
        let from_middle =
            |axis: usize, at: usize| (at as f64 - (frame.size[axis] - 1) as f64 / 2.0) * frame.voxel_um[axis];
        (0..height * width)
            .map(|at| {
                let [y, x] = self.to_field(from_middle(1, at / width), from_middle(2, at % width));
                [(self.centre_um[1] + y) / voxel_um[1], (self.centre_um[2] + x) / voxel_um[2]]
            })
            .collect()
    }

    /// The place in the field of the frame's plane `z`, in voxels of the field.
    fn plane(self, voxel_um: [f64; 3], frame: &Frame, z: usize) -> f64 {
        let from_middle = (z as f64 - (frame.size[0] - 1) as f64 / 2.0) * frame.voxel_um[0];
        (self.centre_um[0] + from_middle) / voxel_um[0]
    }
}

/// The image in the aligned frame: rotation, mirroring, scaling and shift in one linear interpolation. Beyond the field its outermost
/// voxels go on.
///
/// # Errors
/// [`ImageError::Shape`] when the volume is empty.
pub fn align_linear(
    volume: &Volume<f32>,
    voxel_um: [f64; 3],
    pose: Pose,
    frame: &Frame,
) -> Result<Volume<f32>, ImageError> {
    if volume.data.is_empty() {
        return Err(ImageError::Shape("an empty image cannot be aligned".to_owned()));
    }
    let [depth, height, width] = volume.size;
    // The two neighbours along an axis, and the share of the second.
    let between = |at: f64, count: usize| {
        let at = at.clamp(0.0, (count - 1) as f64);
        let first = (at as usize).min(count.saturating_sub(2));
        (first, (first + 1).min(count - 1), (at - first as f64) as f32)
    };
    let places: Vec<_> = pose
        .places(voxel_um, frame)
        .into_iter()
        .map(|[y, x]| {
            let ((y0, y1, fy), (x0, x1, fx)) = (between(y, height), between(x, width));
            let offsets = [y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1];
            (offsets.map(|offset| offset as u32), fy, fx)
        })
        .collect();
    let mut out = vec![0.0; frame.size.iter().product()];
    out.par_chunks_mut(places.len().max(1)).enumerate().for_each(|(z, out)| {
        let (z0, z1, fz) = between(pose.plane(voxel_um, frame, z), depth);
        let plane = |z: usize| &volume.data[z * height * width..(z + 1) * height * width];
        let (near, far) = (plane(z0), plane(z1));
        for (out, (offsets, fy, fx)) in out.iter_mut().zip(&places) {
            let in_plane = |plane: &[f32]| {
                let at = |i: usize| plane[offsets[i] as usize];
                let back = at(0) + fx * (at(1) - at(0));
                let front = at(2) + fx * (at(3) - at(2));
                back + fy * (front - back)
            };
            let (near, far) = (in_plane(near), in_plane(far));
            *out = near + fz * (far - near);
        }
    });
    Ok(Volume::new(frame.size, out))
}

/// Where the label is `label`, in the aligned frame: 1 inside, by the nearest voxel; 0 beyond the field.
#[must_use]
pub fn align_mask(labels: &Volume<u32>, label: u32, voxel_um: [f64; 3], pose: Pose, frame: &Frame) -> Volume<u8> {
    let [depth, height, width] = labels.size;
    let nearest = |at: f64, count: usize| {
        let at = at.round();
        (at >= 0.0 && at < count as f64).then_some(at as usize)
    };
    let places: Vec<Option<usize>> = pose
        .places(voxel_um, frame)
        .into_iter()
        .map(|[y, x]| Some(nearest(y, height)? * width + nearest(x, width)?))
        .collect();
    let mut out = Vec::with_capacity(frame.size.iter().product());
    for z in 0..frame.size[0] {
        let plane = nearest(pose.plane(voxel_um, frame, z), depth).map(|z| z * height * width);
        out.extend(places.iter().map(|place| match (plane, place) {
            (Some(plane), Some(place)) => u8::from(labels.data[plane + place] == label),
            _ => 0,
        }));
    }
    Volume::new(frame.size, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::regions;

    /// A wedge, long along a slanted axis and thicker at one end, with its nucleus off the middle.
    fn wedge(degrees: f64, mirrored: bool) -> (Volume<u32>, Volume<u32>, [f64; 3]) {
        let (size, voxel) = ([20, 90, 80], [0.5, 0.25, 0.3]);
        let (sin, cos) = libm::sincos(degrees.to_radians());
        let (mut cells, mut nuclei) = (Volume::filled(size, 0), Volume::filled(size, 0));
        for z in 0..size[0] {
            for y in 0..size[1] {
                for x in 0..size[2] {
                    let (dz, dy, dx) = (z as f64 * 0.5 - 5.0, y as f64 * 0.25 - 11.0, x as f64 * 0.3 - 12.0);
                    let (along, across) = (cos * dy + sin * dx, cos * dx - sin * dy);
                    let along = if mirrored { -along } else { along };
                    let at = cells.index(z, y, x);
                    // Half as wide at +8 as at -8: the tail points up.
                    let half_width = 3.0 - along / 8.0;
                    cells.data[at] = u32::from(along.abs() < 8.0 && across.abs() < half_width && dz.abs() < 3.0) * 4;
                    let from = dz * dz + (along + 2.0).powi(2) + across * across;
                    nuclei.data[at] = u32::from(from < 4.0) * 4;
                }
            }
        }
        (cells, nuclei, voxel)
    }

    fn pose(cells: &Volume<u32>, nuclei: &Volume<u32>, voxel: [f64; 3]) -> (Pose, Region) {
        let (cell, nucleus) = (regions(cells, 4)[3].unwrap(), regions(nuclei, 4)[3].unwrap());
        (Pose::of(cells, 4, &cell, &nucleus, voxel), cell)
    }

    #[test]
    fn angle_centre_and_flip_are_found() {
        for degrees in [0.0, 25.0, -70.0, 88.0] {
            let (cells, nuclei, voxel) = wedge(degrees, false);
            let (plain, _) = pose(&cells, &nuclei, voxel);
            assert!((plain.angle.to_degrees() - degrees).abs() < 1.0, "{degrees}: {}", plain.angle.to_degrees());
            assert!((plain.centre_um[0] - 5.0).abs() < 0.05);
            let (cells, nuclei, voxel) = wedge(degrees, true);
            let (mirrored, _) = pose(&cells, &nuclei, voxel);
            assert_ne!(plain.flip[0], mirrored.flip[0]);
        }
    }

    #[test]
    fn aligned_wedges_are_the_same_from_every_side() {
        let frame = Frame { size: [24, 70, 40], voxel_um: [0.3; 3] };
        let aligned = |degrees, mirrored| {
            let (cells, nuclei, voxel) = wedge(degrees, mirrored);
            let (pose, cell) = pose(&cells, &nuclei, voxel);
            let needed = pose.extent(&cells, 4, &cell, voxel, &frame);
            assert!((0..3).all(|axis| needed[axis] <= frame.size[axis]), "{needed:?}");
            // The nucleus is 2 µm off the middle of a cell 16 µm long: twice 10 µm must fit.
            assert!(needed[1].abs_diff(67) <= 3, "{needed:?}");
            align_mask(&cells, 4, voxel, pose, &frame)
        };
        let frame_of = |mask: &Volume<u8>| mask.data.iter().map(|&v| usize::from(v)).sum::<usize>();
        let first = aligned(0.0, false);
        // Eleven planes of 0.5 µm lie inside.
        assert!((frame_of(&first) as f64 * 0.027 - 16.0 * 6.0 * 5.5).abs() < 25.0, "{}", frame_of(&first));
        for other in [aligned(33.0, false), aligned(-75.0, true), aligned(90.0, true)] {
            let both = first.data.iter().zip(&other.data).filter(|(a, b)| **a & **b == 1).count();
            let either = first.data.iter().zip(&other.data).filter(|(a, b)| **a | **b == 1).count();
            assert!(both as f64 > 0.9 * either as f64, "{both} {either}");
        }
    }

    #[test]
    fn a_ramp_stays_a_ramp() {
        let (size, voxel) = ([12, 20, 20], [0.5, 0.25, 0.25]);
        let mut ramp = Volume::filled(size, 0.0);
        for at in 0..ramp.data.len() {
            ramp.data[at] = 10.0 * (at / 400) as f32 * 0.5 + (at / 20 % 20) as f32 * 0.25;
        }
        let pose = Pose { centre_um: [2.5, 2.4, 2.3], angle: std::f64::consts::FRAC_PI_2, flip: [false, true] };
        let frame = Frame { size: [5, 7, 9], voxel_um: [0.2; 3] };
        let aligned = align_linear(&ramp, voxel, pose, &frame).unwrap();
        for z in 0..5 {
            for x in 0..9 {
                // At a right angle the frame's Y is the field's X, and its X, mirrored, the field's Y.
                let want = 10.0 * (2.5 + (z as f32 - 2.0) * 0.2) + 2.4 + (x as f32 - 4.0) * 0.2;
                let got = aligned.data[aligned.index(z, 3, x)];
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}
