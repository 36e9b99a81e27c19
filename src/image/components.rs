//! Connected components.

use super::Volume;

/// Which voxels touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The six that share a face.
    Faces,
    /// All 26 around.
    All,
}

impl Connectivity {
    /// The offsets (z, y, x) to the neighbours that come earlier in memory.
    fn earlier(self) -> Vec<[isize; 3]> {
        let mut offsets = Vec::new();
        for z in -1..=1 {
            for y in -1..=1 {
                for x in -1..=1_isize {
                    let offset: [isize; 3] = [z, y, x];
                    let steps = offset.iter().map(|o| o.abs()).sum::<isize>();
                    if offset < [0; 3] && (self == Self::All || steps == 1) {
                        offsets.push(offset);
                    }
                }
            }
        }
        offsets
    }
}

/// Numbers the connected components of the voxels that are not 0: 1, 2, … in the order of their first voxels; 0 elsewhere.
/// Gives the numbers and how many there are.
#[must_use]
pub fn components(mask: &Volume<u8>, connectivity: Connectivity) -> (Volume<u32>, u32) {
    let [depth, height, width] = mask.size;
    let offsets = connectivity.earlier();
    let mut labels = vec![0_u32; mask.data.len()];
    // parents[0] stands for the background.
    let mut parents = vec![0_u32];
    for z in 0..depth {
        for y in 0..height {
            let row = mask.index(z, y, 0);
            // The earlier rows that touch this one, and how far sideways.
            let rows: Vec<(usize, isize)> = offsets
                .iter()
                .filter(|offset| offset[2] == 0 && (offset[0] != 0 || offset[1] != 0))
                .filter_map(|offset| {
                    let (z, y) = (z as isize + offset[0], y as isize + offset[1]);
                    let inside = z >= 0 && y >= 0 && y < height as isize;
                    inside.then(|| {
                        (mask.index(z as usize, y as usize, 0), isize::from(connectivity == Connectivity::All))
                    })
                })
                .collect();
            for x in 0..width {
                if mask.data[row + x] == 0 {
                    continue;
                }
                let mut label = if x > 0 { labels[row + x - 1] } else { 0 };
                for &(other, reach) in &rows {
                    let first = (x as isize - reach).max(0) as usize;
                    let last = (x + reach as usize).min(width - 1);
                    for &neighbour in &labels[other + first..=other + last] {
                        if neighbour == 0 || neighbour == label {
                            continue;
                        }
                        label = if label == 0 { neighbour } else { union(&mut parents, label, neighbour) };
                    }
                }
                if label == 0 {
                    label = parents.len() as u32;
                    parents.push(label);
                }
                labels[row + x] = label;
            }
        }
    }
    // Parents are always the smaller number, so one pass in order gives every root its final number.
    let mut count = 0;
    let mut numbers = vec![0_u32; parents.len()];
    for label in 1..parents.len() {
        let parent = parents[label] as usize;
        numbers[label] = if parent == label {
            count += 1;
            count
        } else {
            numbers[parent]
        };
    }
    for label in &mut labels {
        *label = numbers[*label as usize];
    }
    (Volume::new(mask.size, labels), count)
}

fn find(parents: &mut [u32], mut label: u32) -> u32 {
    while parents[label as usize] != label {
        let grand = parents[parents[label as usize] as usize];
        parents[label as usize] = grand;
        label = grand;
    }
    label
}

/// Joins two sets; gives their root, the smaller number.
fn union(parents: &mut [u32], a: u32, b: u32) -> u32 {
    let (a, b) = (find(parents, a), find(parents, b));
    let (low, high) = (a.min(b), a.max(b));
    parents[high as usize] = low;
    low
}

/// The voxels of each number: `counts[label]`; `counts[0]` is the background.
#[must_use]
pub fn label_counts(labels: &Volume<u32>, highest: u32) -> Vec<usize> {
    let mut counts = vec![0; highest as usize + 1];
    for &label in &labels.data {
        counts[label as usize] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    /// Numbers by flooding from each voxel in order.
    fn naive(mask: &Volume<u8>, connectivity: Connectivity) -> Volume<u32> {
        let mut labels = Volume::filled(mask.size, 0);
        let mut count = 0;
        for start in 0..mask.data.len() {
            if mask.data[start] == 0 || labels.data[start] != 0 {
                continue;
            }
            count += 1;
            let mut stack = vec![start];
            labels.data[start] = count;
            while let Some(at) = stack.pop() {
                let here = [at / (mask.size[1] * mask.size[2]), at / mask.size[2] % mask.size[1], at % mask.size[2]];
                for step in 0..27_usize {
                    let d = [step / 9, step / 3 % 3, step % 3];
                    let faces = d.iter().filter(|&&d| d != 1).count();
                    if faces == 0 || (connectivity == Connectivity::Faces && faces > 1) {
                        continue;
                    }
                    let to = [0, 1, 2].map(|i| (here[i] + d[i]).wrapping_sub(1));
                    if (0..3).all(|i| to[i] < mask.size[i]) {
                        let to = mask.index(to[0], to[1], to[2]);
                        if mask.data[to] != 0 && labels.data[to] == 0 {
                            labels.data[to] = count;
                            stack.push(to);
                        }
                    }
                }
            }
        }
        labels
    }

    #[test]
    fn as_by_flooding() {
        for share in [200.0, 350.0, 600.0] {
            let mask = noise([6, 9, 11]).map(|&value| u8::from(value < share));
            for connectivity in [Connectivity::Faces, Connectivity::All] {
                let (labels, count) = components(&mask, connectivity);
                assert_eq!(labels, naive(&mask, connectivity), "{share} {connectivity:?}");
                assert_eq!(labels.data.iter().max(), Some(&count));
            }
        }
    }
}
