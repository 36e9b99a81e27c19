//! Objects that touch, taken apart at their necks.

use rayon::prelude::*;

use super::Volume;

/// Takes the voxels where `height` is above 0 apart into the regions around its peaks: numbers 1, 2, … in the order of the regions'
/// first voxels, 0 elsewhere; and how many there are.
///
/// Water falls from the highest voxel down (26 neighbours). Where two regions meet, they stay apart if
/// `apart(lower peak, meeting height)` says so, else they become one. With the distance to the surface as height, a peak is the
/// radius of the largest ball at that place, and the meeting height the radius of the neck.
/// Source: the h-maxima of the distance transform with the watershed between them, done in one pass over sorted voxels (the merge tree).
#[must_use]
pub fn basins(height: &Volume<f32>, apart: impl Fn(f32, f32) -> bool) -> (Volume<u32>, u32) {
    let [depth, rows, columns] = height.size;
    // Bits of numbers above 0 are in the numbers' order, so a height and its place are sorted as one whole number.
    let heights = height.data.iter().enumerate().filter(|(_, height)| **height > 0.0);
    let mut order: Vec<u64> = heights.map(|(at, height)| u64::from(!height.to_bits()) << 32 | at as u64).collect();
    order.par_sort_unstable();
    // Regions are numbered from 1; `roots` joins them.
    let mut labels = vec![0_u32; height.data.len()];
    let mut roots = vec![0_u32];
    let mut peaks = vec![0.0_f32];
    for at in order {
        let at = at as u32 as usize;
        let here = height.data[at];
        let (z, y, x) = (at / (rows * columns), at / columns % rows, at % columns);
        // The region of the highest neighbour, and so the way straight up, takes the voxel.
        let (mut own, mut steepest) = (0, 0.0);
        for z in z.saturating_sub(1)..(z + 2).min(depth) {
            for y in y.saturating_sub(1)..(y + 2).min(rows) {
                for x in x.saturating_sub(1)..(x + 2).min(columns) {
                    let near = height.index(z, y, x);
                    if labels[near] == 0 {
                        continue;
                    }
                    let other = root(&mut roots, labels[near]);
                    if own != 0 && root(&mut roots, own) != other {
                        let own = root(&mut roots, own);
                        let (low, high) =
                            if peaks[own as usize] < peaks[other as usize] { (own, other) } else { (other, own) };
                        if !apart(peaks[low as usize], here) {
                            roots[low as usize] = high;
                        }
                    }
                    if height.data[near] > steepest {
                        (own, steepest) = (other, height.data[near]);
                    }
                }
            }
        }
        if own == 0 {
            own = roots.len() as u32;
            roots.push(own);
            peaks.push(here);
        }
        labels[at] = own;
    }
    let mut numbers = vec![0_u32; roots.len()];
    let mut count = 0;
    for label in labels.iter_mut().filter(|label| **label != 0) {
        let root = root(&mut roots, *label) as usize;
        if numbers[root] == 0 {
            count += 1;
            numbers[root] = count;
        }
        *label = numbers[root];
    }
    (Volume::new(height.size, labels), count)
}

fn root(roots: &mut [u32], mut label: u32) -> u32 {
    while roots[label as usize] != label {
        roots[label as usize] = roots[roots[label as usize] as usize];
        label = roots[label as usize];
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{distance, testing::mask};

    #[test]
    fn two_balls_with_a_neck_come_apart_a_rod_does_not() {
        let size = [21, 21, 60];
        let ball =
            |z: f64, y: f64, x: f64, centre: f64| (z - 10.0).powi(2) + (y - 10.0).powi(2) + (x - centre).powi(2) < 81.0;
        let both = mask(size, |z, y, x| ball(z, y, x, 15.0) || ball(z, y, x, 30.0));
        let count = |mask: &Volume<u8>| basins(&distance(mask, [1.0; 3]), |peak, neck| neck < 0.8 * peak).1;
        assert_eq!(count(&both), 2);
        let rod = mask(size, |z, y, x| (z - 10.0).powi(2) + (y - 10.0).powi(2) < 64.0 && x > 5.0 && x < 50.0);
        assert_eq!(count(&rod), 1);
        let (labels, _) = basins(&distance(&both, [1.0; 3]), |peak, neck| neck < 0.8 * peak);
        let volume = |number| labels.data.iter().filter(|&&label| label == number).count();
        assert!(volume(1).abs_diff(volume(2)) < volume(1) / 20, "{} {}", volume(1), volume(2));
    }
}
