//! Slowly varying quantities on a coarse grid.

use rayon::prelude::*;

use super::Volume;

/// A grid whose every point stands for a block of voxels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Size of the volume in voxels.
    size: [usize; 3],
    /// Size of a block in voxels.
    block: [usize; 3],
}

impl Grid {
    /// Blocks of about `block_um` a side.
    pub(super) fn new(size: [usize; 3], voxel_um: [f64; 3], block_um: f64) -> Self {
        Self { size, block: voxel_um.map(|length| ((block_um / length).round() as usize).max(1)) }
    }

    /// The number of blocks (Z, Y, X).
    pub(super) fn blocks(&self) -> [usize; 3] {
        [0, 1, 2].map(|axis| self.size[axis].div_ceil(self.block[axis]))
    }

    /// A standard deviation in µm as blocks.
    pub(super) fn sigma(&self, um: f64, voxel_um: [f64; 3]) -> [f64; 3] {
        [0, 1, 2].map(|axis| um / (voxel_um[axis] * self.block[axis] as f64))
    }

    /// Sums `N` quantities of each voxel (given by its place in the data) over each block.
    pub(super) fn sums<const N: usize>(&self, value: impl Fn(usize) -> [f32; N] + Sync) -> [Volume<f32>; N] {
        let [depth, rows, columns] = self.blocks();
        let [_, height, width] = self.size;
        let layers: Vec<[Vec<f32>; N]> = (0..depth)
            .into_par_iter()
            .map(|layer| {
                let mut sums = [const { Vec::new() }; N];
                sums.iter_mut().for_each(|sum| sum.resize(rows * columns, 0.0));
                for z in layer * self.block[0]..((layer + 1) * self.block[0]).min(self.size[0]) {
                    for y in 0..height {
                        let row = (z * height + y) * width;
                        for column in 0..columns {
                            let first = column * self.block[2];
                            let mut sum = [0.0; N];
                            for x in first..(first + self.block[2]).min(width) {
                                let values = value(row + x);
                                for i in 0..N {
                                    sum[i] += values[i];
                                }
                            }
                            for i in 0..N {
                                sums[i][y / self.block[1] * columns + column] += sum[i];
                            }
                        }
                    }
                }
                sums
            })
            .collect();
        let mut out = [const { Vec::new() }; N];
        for layer in layers {
            for (out, part) in out.iter_mut().zip(layer) {
                out.extend(part);
            }
        }
        out.map(|data| Volume::new(self.blocks(), data))
    }

    /// The values of row (z, y) of the volume, interpolated linearly between the centres of blocks.
    pub(super) fn row(&self, coarse: &Volume<f32>, z: usize, y: usize, scratch: &mut Vec<f32>, out: &mut [f32]) {
        let (z0, z1, fz) = self.between(0, z);
        let (y0, y1, fy) = self.between(1, y);
        let columns = coarse.size[2];
        let line = |z, y| &coarse.data[coarse.index(z, y, 0)..][..columns];
        let lines = [line(z0, y0), line(z0, y1), line(z1, y0), line(z1, y1)];
        scratch.clear();
        scratch.extend((0..columns).map(|x| {
            let near = lines[0][x] + fy * (lines[1][x] - lines[0][x]);
            let far = lines[2][x] + fy * (lines[3][x] - lines[2][x]);
            near + fz * (far - near)
        }));
        for (x, out) in out.iter_mut().enumerate() {
            let (x0, x1, fx) = self.between(2, x);
            *out = scratch[x0] + fx * (scratch[x1] - scratch[x0]);
        }
    }

    /// The two blocks around a voxel, and how far it is from the first to the second.
    fn between(&self, axis: usize, at: usize) -> (usize, usize, f32) {
        let block = self.block[axis] as f32;
        let place = ((at as f32 + 0.5) / block - 0.5).max(0.0);
        let first = (place as usize).min(self.blocks()[axis] - 1);
        (first, (first + 1).min(self.blocks()[axis] - 1), place - first as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_a_ramp() {
        let grid = Grid::new([4, 6, 8], [1.0; 3], 2.0);
        assert_eq!(grid.blocks(), [2, 3, 4]);
        let [counts, ramp] = grid.sums(|at| [1.0, (at % 8) as f32]);
        assert!(counts.data.iter().all(|&count| count == 8.0));
        let mean = Volume::new(ramp.size, ramp.data.iter().map(|v| v / 8.0).collect());
        let mut row = [0.0; 8];
        grid.row(&mean, 1, 2, &mut Vec::new(), &mut row);
        assert_eq!(row[1..7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
