//! Slowly varying quantities on a coarse grid.

use rayon::prelude::*;

use super::Volume;
use crate::simd;

/// Voxels of a row that are summed up together.
const LANES: usize = 32;

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

    /// Sums `N` quantities of each voxel over each block; `quantities` gives them out of the voxel's values in `M` volumes.
    pub(super) fn sums<const M: usize, const N: usize>(
        &self,
        volumes: [&Volume<f32>; M],
        quantities: impl Fn([f32; M]) -> [f32; N] + Sync,
    ) -> [Volume<f32>; N] {
        let [depth, rows, columns] = self.blocks();
        let [_, height, width] = self.size;
        let runs = width.div_ceil(LANES);
        let layers: Vec<[Vec<f32>; N]> = (0..depth)
            .into_par_iter()
            .map(|layer| {
                // Of each row of blocks, still voxel by voxel along X.
                let mut of_voxels = vec![[[0.0; LANES]; N]; rows * runs];
                for z in layer * self.block[0]..((layer + 1) * self.block[0]).min(self.size[0]) {
                    for y in 0..height {
                        let start = (z * height + y) * width;
                        let values = volumes.map(|volume| &volume.data[start..start + width]);
                        let sums = &mut of_voxels[y / self.block[1] * runs..][..runs];
                        simd::dispatch(
                            #[inline(always)]
                            || add_row(values, &quantities, sums),
                        );
                    }
                }
                std::array::from_fn(|i| {
                    let sum = |row: usize, column: usize| {
                        let voxels = column * self.block[2]..((column + 1) * self.block[2]).min(width);
                        voxels.map(|x| of_voxels[row * runs + x / LANES][i][x % LANES]).sum::<f32>()
                    };
                    (0..rows * columns).map(|block| sum(block / columns, block % columns)).collect()
                })
            })
            .collect();
        let mut out = [const { Vec::new() }; N];
        for part in layers {
            for (out, part) in out.iter_mut().zip(part) {
                out.extend(part);
            }
        }
        out.map(|data| Volume::new(self.blocks(), data))
    }

    /// Interpolates linearly along X between the centres of blocks: as many rows as blocks, each as long as the volume's.
    pub(super) fn stretched(&self, coarse: &Volume<f32>) -> Volume<f32> {
        let [depth, rows, columns] = self.blocks();
        let places: Vec<_> = (0..self.size[2]).map(|x| self.between(2, x)).collect();
        let mut data = Vec::with_capacity(depth * rows * places.len());
        for row in coarse.data.chunks_exact(columns) {
            data.extend(places.iter().map(|&(x0, x1, share)| row[x0] + share * (row[x1] - row[x0])));
        }
        Volume::new([depth, rows, self.size[2]], data)
    }

    /// The values of row (z, y) of the volume, interpolated linearly between the centres of blocks.
    #[inline(always)]
    pub(super) fn row(&self, stretched: &Volume<f32>, z: usize, y: usize, out: &mut [f32]) {
        let (z0, z1, fz) = self.between(0, z);
        let (y0, y1, fy) = self.between(1, y);
        let width = out.len();
        let line = |z, y| &stretched.data[stretched.index(z, y, 0)..][..width];
        let lines = [line(z0, y0), line(z0, y1), line(z1, y0), line(z1, y1)];
        for x in 0..width {
            let near = lines[0][x] + fy * (lines[1][x] - lines[0][x]);
            let far = lines[2][x] + fy * (lines[3][x] - lines[2][x]);
            out[x] = near + fz * (far - near);
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

/// Adds the quantities of each voxel of a row.
#[inline(always)]
fn add_row<const M: usize, const N: usize>(
    values: [&[f32]; M],
    quantities: impl Fn([f32; M]) -> [f32; N],
    sums: &mut [[[f32; LANES]; N]],
) {
    let runs = values.map(|row| row.as_chunks::<LANES>().0);
    // What is summed up beyond the end of the row belongs to no block.
    let last = values.map(|row| {
        let mut last = [0.0; LANES];
        let rest = row.as_chunks::<LANES>().1;
        last[..rest.len()].copy_from_slice(rest);
        last
    });
    for (run, sums) in sums.iter_mut().enumerate() {
        let values: [&[f32; LANES]; M] = std::array::from_fn(|i| runs[i].get(run).unwrap_or(&last[i]));
        for lane in 0..LANES {
            let quantities = quantities(std::array::from_fn(|i| values[i][lane]));
            for i in 0..N {
                sums[i][lane] += quantities[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_a_ramp() {
        let grid = Grid::new([4, 6, 8], [1.0; 3], 2.0);
        assert_eq!(grid.blocks(), [2, 3, 4]);
        let columns = Volume::new([4, 6, 8], (0..192).map(|at| (at % 8) as f32).collect());
        let [counts, ramp] = grid.sums([&columns], |[x]| [1.0, x]);
        assert!(counts.data.iter().all(|&count| count == 8.0));
        let mean = Volume::new(ramp.size, ramp.data.iter().map(|v| v / 8.0).collect());
        let mut row = [0.0; 8];
        grid.row(&grid.stretched(&mean), 1, 2, &mut row);
        assert_eq!(row[1..7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
