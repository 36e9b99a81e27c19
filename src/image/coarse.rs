//! Slowly varying quantities on a coarse grid.

use std::ops::Range;

use rayon::prelude::*;

use super::{Volume, simd};

/// Voxels of a row that are interpolated together.
const LANES: usize = 8;

/// A grid whose every point stands for a block of voxels.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// Size of the volume in voxels.
    size: [usize; 3],
    /// Size of a block in voxels.
    block: [usize; 3],
    /// The voxels of a row whose centres lie between the centres of the same two blocks: the first block, and the voxels.
    runs: Vec<(usize, Range<usize>)>,
    /// How far each voxel of a row is from the first of its two blocks to the second; padded.
    shares: Vec<f32>,
}

impl Grid {
    /// Blocks of about `block_um` a side.
    pub(super) fn new(size: [usize; 3], voxel_um: [f64; 3], block_um: f64) -> Self {
        let block = voxel_um.map(|length| ((block_um / length).round() as usize).max(1));
        let mut grid = Self { size, block, runs: Vec::new(), shares: vec![0.0; size[2] + LANES] };
        for x in 0..size[2] {
            let (first, _, share) = grid.between(2, x);
            grid.shares[x] = share;
            match grid.runs.last_mut() {
                Some((block, run)) if *block == first => run.end = x + 1,
                _ => grid.runs.push((first, x..x + 1)),
            }
        }
        grid
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
        let layers: Vec<[Vec<f32>; N]> = (0..depth)
            .into_par_iter()
            .map(|layer| {
                let mut sums = [const { Vec::new() }; N];
                sums.iter_mut().for_each(|sum| sum.resize(rows * columns, 0.0));
                let mut row = vec![[0.0; N]; width];
                for z in layer * self.block[0]..((layer + 1) * self.block[0]).min(self.size[0]) {
                    for y in 0..height {
                        let start = (z * height + y) * width;
                        let values = volumes.map(|volume| &volume.data[start..start + width]);
                        simd::dispatch(
                            #[inline(always)]
                            || {
                                for (x, out) in row.iter_mut().enumerate() {
                                    *out = quantities(values.map(|values| values[x]));
                                }
                                for (column, block) in row.chunks(self.block[2]).enumerate() {
                                    let mut sum = [0.0; N];
                                    for values in block {
                                        for i in 0..N {
                                            sum[i] += values[i];
                                        }
                                    }
                                    for i in 0..N {
                                        sums[i][y / self.block[1] * columns + column] += sum[i];
                                    }
                                }
                            },
                        );
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
    #[inline(always)]
    pub(super) fn row(&self, coarse: &Volume<f32>, z: usize, y: usize, scratch: &mut Vec<f32>, out: &mut Vec<f32>) {
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
        out.resize(self.size[2] + LANES, 0.0);
        for (block, run) in &self.runs {
            let first = scratch[*block];
            let step = scratch[(block + 1).min(columns - 1)] - first;
            // What a run writes beyond its end the next one writes over.
            for x in run.clone().step_by(LANES) {
                for (out, share) in out[x..x + LANES].iter_mut().zip(&self.shares[x..x + LANES]) {
                    *out = first + share * step;
                }
            }
        }
        out.truncate(self.size[2]);
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
        let columns = Volume::new([4, 6, 8], (0..192).map(|at| (at % 8) as f32).collect());
        let [counts, ramp] = grid.sums([&columns], |[x]| [1.0, x]);
        assert!(counts.data.iter().all(|&count| count == 8.0));
        let mean = Volume::new(ramp.size, ramp.data.iter().map(|v| v / 8.0).collect());
        let mut row = Vec::new();
        grid.row(&mean, 1, 2, &mut Vec::new(), &mut row);
        assert_eq!(row[1..7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
