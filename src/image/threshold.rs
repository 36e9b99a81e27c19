//! Automatic thresholds.

use super::Volume;

const BINS: usize = 1024;

/// Otsu's threshold: voxels above it are foreground. The histogram has 1024 bins between the smallest and the largest value.
///
/// Source: Otsu 1979. Of equally good thresholds the middle one is given; an image of one value gives that value.
#[must_use]
pub fn otsu(volume: &Volume<f32>) -> f32 {
    let (low, high) = volume.data.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    if !(low < high) {
        return low;
    }
    let scale = (BINS - 1) as f32 / (high - low);
    let mut counts = [0_u64; BINS];
    for &value in &volume.data {
        counts[(((value - low) * scale) as usize).min(BINS - 1)] += 1;
    }
    let total = volume.data.len() as f64;
    let sum: f64 = counts.iter().enumerate().map(|(bin, &count)| bin as f64 * count as f64).sum();
    let (mut below, mut sum_below) = (0.0, 0.0);
    let (mut best, mut first, mut last) = (-1.0, 0, 0);
    for (bin, &count) in counts[..BINS - 1].iter().enumerate() {
        below += count as f64;
        sum_below += bin as f64 * count as f64;
        let above = total - below;
        if below == 0.0 || above == 0.0 {
            continue;
        }
        let difference = sum_below / below - (sum - sum_below) / above;
        let between = below * above * difference * difference;
        if between > best {
            (best, first, last) = (between, bin, bin);
        } else if between == best {
            last = bin;
        }
    }
    low + ((first + last) as f32 / 2.0 + 1.0) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_heaps() {
        let mut data: Vec<f32> = (0..900_u16).map(|i| 100.0 + f32::from(i % 20)).collect();
        data.extend((0..100_u16).map(|i| 500.0 + f32::from(i % 50)));
        let threshold = otsu(&Volume::new([10, 10, 10], data));
        assert!(threshold > 119.0 && threshold <= 500.0, "{threshold}");
        assert_eq!(otsu(&Volume::filled([1, 2, 2], 7.0)), 7.0);
    }
}
