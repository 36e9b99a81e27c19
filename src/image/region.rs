//! Measures of labelled regions.

use rayon::prelude::*;

use super::Volume;

/// One labelled region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Its voxels.
    pub voxels: usize,
    /// The first voxel of its bounding box (Z, Y, X).
    pub low: [usize; 3],
    /// The voxel behind the last of its bounding box.
    pub high: [usize; 3],
    /// Its centre of mass, in voxels.
    pub centre: [f64; 3],
}

impl Region {
    /// Whether it touches one of the four sides of a field of this size.
    #[must_use]
    pub fn touches_side(&self, size: [usize; 3]) -> bool {
        (1..3).any(|axis| self.low[axis] == 0 || self.high[axis] == size[axis])
    }

    /// Whether it touches the first or the last plane of a field of this size.
    #[must_use]
    pub fn touches_end(&self, size: [usize; 3]) -> bool {
        self.low[0] == 0 || self.high[0] == size[0]
    }
}

/// The regions of the labels 1 to `highest` (place 0 is label 1); `None` where there is no voxel.
#[must_use]
pub fn regions(labels: &Volume<u32>, highest: u32) -> Vec<Option<Region>> {
    #[derive(Clone, Copy)]
    struct Sums {
        voxels: usize,
        low: [usize; 3],
        high: [usize; 3],
        sums: [u64; 3],
    }
    const NONE: Sums = Sums { voxels: 0, low: [usize::MAX; 3], high: [0; 3], sums: [0; 3] };
    let [_, height, width] = labels.size;
    let plane = (height * width).max(1);
    // Whole numbers: the sums are the same in every order.
    let add = |mut all: Vec<Sums>, part: Vec<Sums>| {
        for (all, part) in all.iter_mut().zip(part) {
            all.voxels += part.voxels;
            for axis in 0..3 {
                all.low[axis] = all.low[axis].min(part.low[axis]);
                all.high[axis] = all.high[axis].max(part.high[axis]);
                all.sums[axis] += part.sums[axis];
            }
        }
        all
    };
    let none = || vec![NONE; highest as usize];
    let sums = labels
        .data
        .par_chunks(plane)
        .enumerate()
        .fold(none, |mut all, (z, data)| {
            for (row, data) in data.chunks_exact(width).enumerate() {
                for (x, &label) in data.iter().enumerate().filter(|(_, label)| **label != 0 && **label <= highest) {
                    let sums = &mut all[label as usize - 1];
                    sums.voxels += 1;
                    for (axis, at) in [z, row, x].into_iter().enumerate() {
                        sums.low[axis] = sums.low[axis].min(at);
                        sums.high[axis] = sums.high[axis].max(at + 1);
                        sums.sums[axis] += at as u64;
                    }
                }
            }
            all
        })
        .reduce(none, add);
    sums.into_iter()
        .map(|sums| {
            (sums.voxels > 0).then(|| Region {
                voxels: sums.voxels,
                low: sums.low,
                high: sums.high,
                centre: sums.sums.map(|sum| sum as f64 / sums.voxels as f64),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn box_centre_and_border() {
        let mut labels = Volume::filled([3, 4, 5], 0);
        for (z, y, x) in [(0, 1, 2), (1, 1, 2), (1, 1, 3), (1, 2, 3)] {
            let at = labels.index(z, y, x);
            labels.data[at] = 2;
        }
        let regions = regions(&labels, 2);
        assert_eq!(regions[0], None);
        let region = regions[1].unwrap();
        assert_eq!((region.voxels, region.low, region.high), (4, [0, 1, 2], [2, 3, 4]));
        assert_eq!(region.centre, [0.75, 1.25, 2.5]);
        assert!(region.touches_end([3, 4, 5]) && !region.touches_side([3, 4, 5]));
    }
}
