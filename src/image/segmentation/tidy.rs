//! Smooth cells in one piece.

use rayon::prelude::*;

use crate::image::{Connectivity, Volume, components, gaussian, label_counts, regions};

/// Smooths each territory of the labels 1 to `highest` (a Gaussian of `smoothing_um`, and half of it as the limit) and keeps its largest
/// piece; its nucleus stays inside. Voxels that fall to nobody become 0.
#[must_use]
pub fn tidy(
    labels: &Volume<u32>,
    nuclei: &Volume<u32>,
    highest: u32,
    voxel_um: [f64; 3],
    smoothing_um: f64,
) -> Volume<u32> {
    let sigma = voxel_um.map(|length| smoothing_um / length);
    let margin = sigma.map(|sigma| (3.0 * sigma).ceil() as usize);
    let pieces: Vec<_> = regions(labels, highest)
        .into_par_iter()
        .enumerate()
        .filter_map(|(index, region)| {
            let (label, region) = (index as u32 + 1, region?);
            let low = [0, 1, 2].map(|axis| region.low[axis].saturating_sub(margin[axis]));
            let size = [0, 1, 2].map(|axis| (region.high[axis] + margin[axis]).min(labels.size[axis]) - low[axis]);
            let own = labels.crop(low, size).map(|&at| f32::from(u8::from(at == label)));
            let smooth = gaussian(&own, sigma).map(|&share| u8::from(share > 0.5));
            let (parts, count) = components(&smooth, Connectivity::Faces);
            let counts = label_counts(&parts, count);
            let largest = (1..counts.len()).max_by_key(|&part| (counts[part], usize::MAX - part)).unwrap_or(0) as u32;
            Some((label, low, parts.map(|&part| part != 0 && part == largest)))
        })
        .collect();
    let mut out = Volume::filled(labels.size, 0);
    // More than half of a voxel's surroundings can only belong to one label, so the order does not matter.
    for (label, low, inside) in pieces {
        let [depth, height, width] = inside.size;
        for z in 0..depth {
            for y in 0..height {
                let from = inside.index(z, y, 0);
                let to = out.index(low[0] + z, low[1] + y, low[2]);
                for (to, &inside) in out.data[to..to + width].iter_mut().zip(&inside.data[from..from + width]) {
                    if inside {
                        *to = label;
                    }
                }
            }
        }
    }
    for (cell, &nucleus) in out.data.iter_mut().zip(&nuclei.data) {
        if nucleus != 0 {
            *cell = nucleus;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_an_island_go_and_the_nucleus_stays() {
        let size = [9, 20, 40];
        let mut labels = Volume::filled(size, 0);
        let mut nuclei = Volume::filled(size, 0);
        for z in 0..9 {
            for y in 0..20 {
                for x in 0..40 {
                    let at = labels.index(z, y, x);
                    let thread = z == 4 && y == 10 && x < 30;
                    let island = (3..6).contains(&z) && (8..12).contains(&y) && x >= 34;
                    labels.data[at] = if x < 15 || thread || island { 1 } else { 2 };
                }
            }
        }
        nuclei.data[labels.index(4, 10, 20)] = 1;
        let tidied = tidy(&labels, &nuclei, 2, [1.0; 3], 1.0);
        let at = |z, y, x| tidied.data[tidied.index(z, y, x)];
        assert_eq!((at(4, 10, 5), at(4, 10, 25), at(2, 3, 30)), (1, 2, 2));
        assert_eq!(at(4, 10, 37), 0, "an island of one cell in another is nobody's");
        assert_eq!(at(4, 10, 20), 1, "the nucleus");
    }
}
