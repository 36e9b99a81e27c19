//! Binary shapes: holes, growing and shrinking.

use rayon::prelude::*;

use super::{Connectivity, Volume, components, distance_within};

/// Fills holes: background that no path through faces joins to the border of the volume.
#[must_use]
pub fn fill_holes(mask: &Volume<u8>) -> Volume<u8> {
    let [depth, height, width] = mask.size;
    let (labels, count) = components(&mask.map(|&v| u8::from(v == 0)), Connectivity::Faces);
    let mut open = vec![false; count as usize + 1];
    for z in 0..depth {
        for y in 0..height {
            let row = labels.index(z, y, 0);
            if z == 0 || z + 1 == depth || y == 0 || y + 1 == height {
                labels.data[row..row + width].iter().for_each(|&label| open[label as usize] = true);
            }
            open[labels.data[row] as usize] = true;
            open[labels.data[row + width - 1] as usize] = true;
        }
    }
    open[0] = false;
    Volume::new(mask.size, labels.data.iter().map(|&label| u8::from(!open[label as usize])).collect())
}

/// Fills the holes of each plane (Z) on its own.
#[must_use]
pub fn fill_holes_in_planes(mask: &Volume<u8>) -> Volume<u8> {
    let plane = mask.size[1] * mask.size[2];
    let mut out = mask.clone();
    out.data.par_chunks_exact_mut(plane.max(1)).for_each(|data| {
        let filled = fill_holes_of_plane(Volume::new([1, mask.size[1], mask.size[2]], data.to_vec()));
        data.copy_from_slice(&filled.data);
    });
    out
}

fn fill_holes_of_plane(plane: Volume<u8>) -> Volume<u8> {
    let [_, height, width] = plane.size;
    let (labels, count) = components(&plane.map(|&v| u8::from(v == 0)), Connectivity::Faces);
    let mut open = vec![false; count as usize + 1];
    for (at, &label) in labels.data.iter().enumerate() {
        let (y, x) = (at / width, at % width);
        if y == 0 || x == 0 || y + 1 == height || x + 1 == width {
            open[label as usize] = true;
        }
    }
    open[0] = false;
    Volume::new(plane.size, labels.data.iter().map(|&label| u8::from(!open[label as usize])).collect())
}

/// Takes away what is thinner than a ball of this radius (µm): opening by a ball, by two distance transforms.
#[must_use]
pub fn open(mask: &Volume<u8>, voxel_um: [f64; 3], radius_um: f32) -> Volume<u8> {
    let deep = distance_within(mask, voxel_um, radius_um).map(|&depth| u8::from(depth <= radius_um));
    distance_within(&deep, voxel_um, radius_um).map(|&away| u8::from(away < radius_um)).and(mask)
}

impl Volume<u8> {
    /// 1 where both are not 0.
    fn and(mut self, other: &Self) -> Self {
        for (a, &b) in self.data.iter_mut().zip(&other.data) {
            *a = u8::from(*a != 0 && b != 0);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::mask;

    #[test]
    fn a_shell_is_filled_and_a_cup_is_not() {
        let size = [9, 9, 9];
        let away = |z: f64, y: f64, x: f64| [z, y, x].iter().map(|v| (v - 4.0).powi(2)).sum::<f64>().sqrt();
        let shell = mask(size, |z, y, x| (2.2..=3.6).contains(&away(z, y, x)));
        let ball = mask(size, |z, y, x| away(z, y, x) <= 3.6);
        assert_eq!(fill_holes(&shell), ball);
        let cup = mask(size, |z, y, x| (2.2..=3.6).contains(&away(z, y, x)) && z > 2.0);
        assert_eq!(fill_holes(&cup), cup);
        // In planes the cup is filled too, but where the plane's ring is open.
        let full = mask(size, |z, y, x| away(z, y, x) <= 3.6 && z > 2.0);
        assert_eq!(fill_holes_in_planes(&cup), full);
    }

    #[test]
    fn opening_takes_a_thread_and_leaves_the_ball() {
        let size = [15, 15, 40];
        let away = |z: f64, y: f64, x: f64| ((z - 7.0).powi(2) + (y - 7.0).powi(2) + (x - 10.0).powi(2)).sqrt();
        let ball = mask(size, |z, y, x| away(z, y, x) < 6.0);
        let thread = mask(size, |z, y, x| away(z, y, x) < 6.0 || ((z - 7.0).abs() < 1.5 && (y - 7.0).abs() < 1.5));
        let opened = open(&thread, [1.0; 3], 2.5);
        let differ = opened.data.iter().zip(&ball.data).filter(|(a, b)| a != b).count();
        assert!(differ < 40, "{differ}");
        assert!(opened.data[opened.index(7, 7, 35)] == 0);
    }
}
