//! The seeded watershed.

use super::Volume;

/// Levels that the landscape is cut into.
const LEVELS: usize = 4096;

/// Floods the landscape from the seeds (numbers other than 0) through the faces of voxels, lowest first, inside the mask. Gives
/// the number of the seed that reached each voxel; 0 outside the mask, or where no seed reaches.
///
/// The landscape is in [0, 1]; it is cut into 4096 levels, values beyond are taken as the limits. At equal level the voxel that was
/// reached first is flooded first, so the result is the same on every machine, and plateaus are shared by distance.
/// Source: Meyer 1991; the queue is one list a level.
///
/// # Panics
/// When the sizes differ.
#[must_use]
pub fn watershed(landscape: &Volume<f32>, seeds: &Volume<u32>, mask: Option<&Volume<u8>>) -> Volume<u32> {
    assert_eq!(landscape.size, seeds.size, "seeds and landscape must be of one size");
    assert!(mask.is_none_or(|mask| mask.size == seeds.size), "mask and landscape must be of one size");
    let [depth, height, width] = seeds.size;
    let plane = height * width;
    // A border of blocked voxels saves every check of the limits.
    let (row_step, plane_step) = (width + 2, (width + 2) * (height + 2));
    let mut labels = vec![BLOCKED; plane_step * (depth + 2)];
    let mut levels = vec![0_u16; labels.len()];
    let top = (LEVELS - 1) as f32;
    for z in 0..depth {
        for y in 0..height {
            let from = z * plane + y * width;
            let to = (z + 1) * plane_step + (y + 1) * row_step + 1;
            for x in 0..width {
                if mask.is_none_or(|mask| mask.data[from + x] != 0) {
                    labels[to + x] = seeds.data[from + x];
                    levels[to + x] = (landscape.data[from + x].clamp(0.0, 1.0) * top) as u16;
                }
            }
        }
    }

    let mut queue = Queue::new();
    let steps = [plane_step, row_step, 1];
    let neighbours = |at: usize| steps.into_iter().flat_map(move |step| [at - step, at + step]);
    for at in 0..labels.len() {
        // Only the rim of a seed can flood.
        if labels[at] != 0 && labels[at] != BLOCKED && neighbours(at).any(|to| labels[to] == 0) {
            queue.push(levels[at], at as u32);
        }
    }
    while let Some(at) = queue.pop() {
        let at = at as usize;
        let label = labels[at];
        for to in neighbours(at) {
            if labels[to] == 0 {
                labels[to] = label;
                queue.push(levels[to], to as u32);
            }
        }
    }

    let mut out = Vec::with_capacity(seeds.data.len());
    for z in 0..depth {
        for y in 0..height {
            let from = (z + 1) * plane_step + (y + 1) * row_step + 1;
            out.extend(labels[from..from + width].iter().map(|&label| if label == BLOCKED { 0 } else { label }));
        }
    }
    Volume::new(seeds.size, out)
}

const BLOCKED: u32 = u32::MAX;

/// Voxels by level; in a level first in, first out.
struct Queue {
    levels: Vec<std::collections::VecDeque<u32>>,
    lowest: usize,
}

impl Queue {
    fn new() -> Self {
        Self { levels: vec![std::collections::VecDeque::new(); LEVELS], lowest: 0 }
    }

    fn push(&mut self, level: u16, at: u32) {
        let level = usize::from(level);
        self.levels[level].push_back(at);
        self.lowest = self.lowest.min(level);
    }

    fn pop(&mut self) -> Option<u32> {
        while self.lowest < LEVELS {
            if let Some(at) = self.levels[self.lowest].pop_front() {
                return Some(at);
            }
            self.lowest += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    /// The definition: always the lowest voxel, the oldest of equals, out of a plain list.
    fn naive(landscape: &Volume<f32>, seeds: &Volume<u32>, mask: &Volume<u8>) -> Volume<u32> {
        let [depth, height, width] = seeds.size;
        let mut labels = seeds.map(|&seed| seed);
        for (label, inside) in labels.data.iter_mut().zip(&mask.data) {
            *label *= u32::from(*inside);
        }
        let level = |at: usize| (landscape.data[at] * (LEVELS - 1) as f32) as u16;
        let mut list: Vec<usize> = (0..labels.data.len()).filter(|&at| labels.data[at] != 0).collect();
        while !list.is_empty() {
            let lowest = (0..list.len()).min_by_key(|&i| (level(list[i]), i)).unwrap();
            let at = list.remove(lowest);
            let (z, y, x) = (at / (height * width), at / width % height, at % width);
            let near = [(z > 0, at.wrapping_sub(height * width)), (z + 1 < depth, at + height * width)]
                .into_iter()
                .chain([(y > 0, at.wrapping_sub(width)), (y + 1 < height, at + width)])
                .chain([(x > 0, at.wrapping_sub(1)), (x + 1 < width, at + 1)]);
            for (_, to) in near.filter(|(inside, _)| *inside) {
                if labels.data[to] == 0 && mask.data[to] != 0 {
                    labels.data[to] = labels.data[at];
                    list.push(to);
                }
            }
        }
        labels
    }

    #[test]
    fn as_by_the_definition() {
        let size = [5, 8, 9];
        let landscape = noise(size).map(|value| value / 1000.0);
        let mut seeds = Volume::filled(size, 0);
        seeds.data[3] = 1;
        seeds.data[200] = 7;
        seeds.data[355] = 4;
        let mask = noise([5, 8, 9]).map(|&value| u8::from(value < 900.0 || (value as u32).is_multiple_of(2)));
        assert_eq!(watershed(&landscape, &seeds, Some(&mask)), naive(&landscape, &seeds, &mask));
        let all = Volume::filled(size, 1);
        assert_eq!(watershed(&landscape, &seeds, None), naive(&landscape, &seeds, &all));
    }

    #[test]
    fn a_wall_with_a_gap_holds_and_the_rest_is_shared() {
        // Two basins, a wall between them with a lower pass; a voxel behind the mask stays 0.
        let landscape = Volume::new([1, 1, 7], vec![0.1, 0.2, 0.1, 0.9, 0.1, 0.0, 0.0]);
        let seeds = Volume::new([1, 1, 7], vec![1, 0, 0, 0, 0, 2, 0]);
        let mask = Volume::new([1, 1, 7], vec![1, 1, 1, 1, 1, 1, 0]);
        let labels = watershed(&landscape, &seeds, Some(&mask)).data;
        assert_eq!(labels[..3], [1, 1, 1]);
        assert_eq!(labels[4..], [2, 2, 0]);
    }
}
