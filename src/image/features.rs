//! Shape and intensity features of one channel (paper, section 4.5).

use std::f64::consts::PI;

use super::Volume;

/// The seven features of one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features {
    /// Voxels above zero.
    pub area: u64,
    /// Voxels above zero whose Euclidean distance to the background is exactly 1: those with a face neighbour that is zero. Outside
    /// the image there is no background.
    pub circumference: u64,
    /// π^⅓ (6·area)^⅔ / circumference, in 2D as in 3D; NaN without circumference.
    pub sphericity: f64,
    /// Median of the values above zero; NaN when there are none, as for the three below.
    pub median: f64,
    /// Mean of the values above zero.
    pub mean: f64,
    /// Standard deviation of the values above zero, n in the denominator.
    pub std: f64,
    /// Entropy of the histogram of the values above zero, in nats.
    pub entropy: f64,
}

impl Features {
    /// The names, in the order of [`Features::values`].
    pub const NAMES: [&str; 7] = ["area", "circumference", "sphericity", "median", "mean", "std", "entropy"];

    /// The values as real numbers.
    #[must_use]
    pub fn values(&self) -> [f64; 7] {
        let Self { area, circumference, sphericity, median, mean, std, entropy } = *self;
        [area as f64, circumference as f64, sphericity, median, mean, std, entropy]
    }

    /// The features of a channel that is zero outside its mask.
    #[must_use]
    pub fn of(image: &Volume<u8>) -> Self {
        let mut histogram = [0_u64; 256];
        for &value in &image.data {
            histogram[usize::from(value)] += 1;
        }
        histogram[0] = 0;
        let area: u64 = histogram.iter().sum();
        let circumference = circumference(image);
        let count = area as f64;
        let counted = || histogram.iter().enumerate().filter(|(_, n)| **n > 0).map(|(v, n)| (v as f64, *n as f64));
        let sum: u64 = histogram.iter().enumerate().map(|(value, n)| value as u64 * n).sum();
        let mean = sum as f64 / count;
        let variance = counted().map(|(value, n)| n * (value - mean).powi(2)).sum::<f64>() / count;
        let entropy: f64 = counted().map(|(_, n)| -(n / count) * libm::log(n / count)).sum();
        let sphericity = libm::cbrt(PI) * libm::pow(6.0 * count, 2.0 / 3.0) / circumference as f64;
        Self {
            area,
            circumference,
            sphericity: if circumference == 0 { f64::NAN } else { sphericity },
            median: median(&histogram, area),
            mean,
            std: variance.sqrt(),
            entropy: if area == 0 { f64::NAN } else { entropy },
        }
    }
}

fn median(histogram: &[u64; 256], count: u64) -> f64 {
    let at = |rank: u64| {
        let mut below = 0;
        histogram.iter().position(|n| {
            below += n;
            below > rank
        })
    };
    match (count.checked_sub(1).and_then(|last| at(last / 2)), at(count / 2)) {
        (Some(low), Some(high)) => f64::midpoint(low as f64, high as f64),
        _ => f64::NAN,
    }
}

fn circumference(image: &Volume<u8>) -> u64 {
    let [depth, height, width] = image.size;
    let strides = [height * width, width, 1];
    let mut count = 0;
    for (index, _) in image.data.iter().enumerate().filter(|(_, value)| **value > 0) {
        let position = [index / strides[0], index / width % height, index % width];
        let at_background = (0..3).any(|axis| {
            let (place, length) = (position[axis], [depth, height, width][axis]);
            (place > 0 && image.data[index - strides[axis]] == 0)
                || (place + 1 < length && image.data[index + strides[axis]] == 0)
        });
        count += u64::from(at_background);
    }
    count
}

/// The image in 8 bit: its maximum becomes 255, fractions are cut off. An image of zeros stays so.
#[must_use]
pub fn to_eight_bits(image: &Volume<u16>) -> Volume<u8> {
    let maximum = u32::from(image.data.iter().copied().max().unwrap_or(0)).max(1);
    image.map(|&value| (u32::from(value) * 255 / maximum) as u8)
}

/// Adaptive threshold: 1 where a voxel is above the arithmetic mean of the block of `block` voxels a side around it, else 0. The
/// image goes on mirrored beyond its borders. `block` is odd; along an axis of length 1 it does not matter.
#[must_use]
pub fn above_local_mean(image: &Volume<u16>, block: usize) -> Volume<u8> {
    let [depth, height, width] = image.size;
    let mut sums: Vec<u64> = image.data.iter().map(|&value| u64::from(value)).collect();
    let mut voxels = 1_u64;
    let mut line = Vec::new();
    for (length, stride) in [(depth, height * width), (height, width), (width, 1)] {
        if length <= 1 {
            continue;
        }
        voxels *= block as u64;
        for start in (0..sums.len()).filter(|start| start / stride % length == 0) {
            line.clear();
            line.extend((0..length).map(|i| sums[start + i * stride]));
            // Position i − block/2 … i + block/2 of the line and its mirror images (period 2 · length).
            let mirrored = |position: usize| {
                let place = position % (2 * length);
                line[if place < length { place } else { 2 * length - 1 - place }]
            };
            // A multiple of the period, so that positions stay positive.
            let offset = (block / 2).next_multiple_of(2 * length) - block / 2;
            let mut sum: u64 = (0..block).map(|i| mirrored(offset + i)).sum();
            for i in 0..length {
                sums[start + i * stride] = sum;
                sum = sum + mirrored(offset + i + block) - mirrored(offset + i);
            }
        }
    }
    let above = image.data.iter().zip(&sums).map(|(&value, &sum)| u8::from(u64::from(value) * voxels > sum));
    Volume::new(image.size, above.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Pixels, io};

    #[test]
    fn as_scikit_image_local_threshold() {
        // skimage.filters.threshold_local(image, block, method="mean"); blocks smaller and larger than the image.
        let image = Volume::new(
            [1, 5, 7],
            vec![
                42, 31, 25, 13, 15, 2, 3, 0, 8, 40, 32, 45, 25, 30, 48, 36, 31, 27, 27, 46, 13, 40, 33, 0, 19, 42, 27,
                1, 38, 36, 42, 8, 4, 43, 1,
            ],
        );
        let small =
            [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0];
        let large =
            [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0];
        assert_eq!(above_local_mean(&image, 3).data, small);
        assert_eq!(above_local_mean(&image, 13).data, large);
        let image = Volume::new(
            [3, 4, 3],
            vec![
                23, 25, 37, 47, 1, 7, 41, 47, 12, 15, 43, 21, 13, 41, 12, 20, 32, 27, 4, 1, 43, 37, 41, 26, 40, 16, 22,
                39, 6, 15, 6, 22, 48, 6, 19, 20,
            ],
        );
        let expected = [
            0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(above_local_mean(&image, 5).data, expected);
    }

    #[test]
    fn eight_bits_are_cut_off() {
        let image = Volume::new([1, 1, 4], vec![0, 1, 599, 600]);
        assert_eq!(to_eight_bits(&image).data, [0, 0, 254, 255]);
        assert_eq!(to_eight_bits(&Volume::filled([1, 2, 2], 0)).data, [0; 4]);
    }

    #[test]
    fn an_image_of_zeros_has_no_intensity() {
        let features = Features::of(&Volume::filled([2, 3, 3], 0));
        assert_eq!((features.area, features.circumference), (0, 0));
        assert!(
            [features.sphericity, features.median, features.mean, features.std, features.entropy]
                .iter()
                .all(|value| value.is_nan())
        );
        // Nothing but foreground: there is no background to have a circumference.
        assert_eq!(Features::of(&Volume::filled([2, 3, 3], 7)).circumference, 0);
    }

    #[test]
    fn features_of_real_cells() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/features");
        let text = std::fs::read_to_string(format!("{folder}/features.json")).unwrap();
        let fixtures: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(fixtures.len(), 10);
        for fixture in fixtures {
            let number = fixture["cell"].as_u64().unwrap();
            let stack = io::read(&std::fs::read(format!("{folder}/cell-{number:02}.tif")).unwrap()).unwrap();
            let Pixels::U8(pixels) = &stack.pixels else { panic!("the fixtures have 8 bit") };
            let size = [stack.size[0] * stack.channels.len() / 2, stack.size[1], stack.size[2]];
            for (channel, name) in pixels.chunks(pixels.len() / 2).zip(["cell", "nucleus"]) {
                let volume = Volume::new(size, channel.iter().map(|&value| u16::from(value)).collect());
                let mut flat = Volume::filled([1, size[1], size[2]], 0);
                for plane in volume.data.chunks(flat.data.len()) {
                    flat.data.iter_mut().zip(plane).for_each(|(most, value)| *most = (*most).max(*value));
                }
                for (image, key) in [(&volume, format!("{name}_3d")), (&flat, format!("{name}_2d"))] {
                    let (features, expected) = (Features::of(&to_eight_bits(image)), &fixture[&key]);
                    let counts = [("area", features.area), ("circumference", features.circumference)];
                    for (feature, value) in counts {
                        assert_eq!(value, expected[feature].as_u64().unwrap(), "cell {number}, {key}, {feature}");
                    }
                    let numbers = [
                        ("sphericity", features.sphericity),
                        ("median", features.median),
                        ("mean", features.mean),
                        ("std", features.std),
                        ("entropy", features.entropy),
                    ];
                    for (feature, value) in numbers {
                        let expected = expected[feature].as_f64().unwrap();
                        assert!(
                            (value - expected).abs() <= 1e-9 * expected.abs(),
                            "cell {number}, {key}, {feature}: {value}, not {expected}"
                        );
                    }
                }
            }
        }
    }
}
