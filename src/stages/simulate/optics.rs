//! What a spinning-disk microscope and its camera make of fluorescence.

use super::geometry::Point;
use crate::nn::Rng;

/// Standard deviations of the blur in µm: about 0.25 µm wide in the plane and 0.75 µm along the light's way, at half maximum.
const BLUR_UM: Point = [0.32, 0.106, 0.106];
/// The camera's reading without light.
const OFFSET: f64 = 100.0;
/// Grey levels for an electron.
const LEVELS_PER_ELECTRON: f64 = 2.17;
/// Noise of reading a pixel, electrons.
const READ_NOISE: f64 = 1.4;
/// Light from everywhere, electrons.
const BACKGROUND: f64 = 8.0;

/// Blurs an image in place. `voxel_um`: Z, Y, X.
pub(super) fn blur(data: &mut [f32], size: [usize; 3], voxel_um: Point) {
    let strides = [size[1] * size[2], size[2], 1];
    let mut line = Vec::new();
    for axis in 0..3 {
        let sigma = BLUR_UM[axis] / voxel_um[axis];
        let reach = (3.0 * sigma).ceil() as usize;
        let weights: Vec<f32> = {
            let raw: Vec<f64> = (0..=reach).map(|i| libm::exp(-0.5 * (i as f64 / sigma).powi(2))).collect();
            let total = raw[0] + 2.0 * raw[1..].iter().sum::<f64>();
            raw.iter().map(|weight| (weight / total) as f32).collect()
        };
        if weights[0] > 0.9999 {
            continue;
        }
        let (length, stride) = (size[axis], strides[axis]);
        // Rows of neighbouring voxels are blurred side by side: `width` lines at once, each `length` long.
        let width = stride.max(1);
        for block in data.chunks_exact_mut(length * width) {
            line.clear();
            line.extend_from_slice(block);
            for position in 0..length {
                let out = &mut block[position * width..(position + 1) * width];
                for (value, middle) in out.iter_mut().zip(&line[position * width..]) {
                    *value = middle * weights[0];
                }
                for (distance, weight) in weights.iter().enumerate().skip(1) {
                    // Beyond the border the image goes on as at the border.
                    let before = position.saturating_sub(distance) * width;
                    let behind = (position + distance).min(length - 1) * width;
                    let pairs = line[before..before + width].iter().zip(&line[behind..behind + width]);
                    for (value, (a, b)) in out.iter_mut().zip(pairs) {
                        *value += weight * (a + b);
                    }
                }
            }
        }
    }
}

/// The 16-bit reading of a camera. `electrons`: how many a brightness of 1 gives in a pixel, on average.
pub(super) fn expose(data: &mut [f32], electrons: f64, rng: &mut Rng) {
    for value in data {
        let mean = BACKGROUND + electrons * f64::from(*value).max(0.0);
        // From 8 electrons on, a normal distribution is a Poisson distribution for our purposes, the reading noise included.
        let counted = mean + (mean + READ_NOISE * READ_NOISE).sqrt() * rng.normal();
        *value = (OFFSET + LEVELS_PER_ELECTRON * counted).round().clamp(0.0, 65535.0) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_light_and_is_wider_along_z() {
        let size = [21, 21, 21];
        let mut data = vec![0.0; 21 * 21 * 21];
        let at = |z: usize, y: usize, x: usize| (z * 21 + y) * 21 + x;
        data[at(10, 10, 10)] = 1.0;
        blur(&mut data, size, [0.2; 3]);
        assert!((data.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        assert!(data[at(12, 10, 10)] > 5.0 * data[at(10, 12, 10)]);
        assert!((data[at(10, 12, 10)] - data[at(10, 10, 8)]).abs() < 1e-7);
    }

    #[test]
    fn noise_grows_with_light() {
        let spread = |brightness: f32| {
            let mut data = vec![brightness; 4000];
            expose(&mut data, 200.0, &mut Rng::new(1, "camera", 0));
            let mean = data.iter().map(|&v| f64::from(v)).sum::<f64>() / 4000.0;
            let variance = data.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / 4000.0;
            (mean, variance)
        };
        let (dark, dark_variance) = spread(0.0);
        assert!((dark - (100.0 + 8.0 * 2.17)).abs() < 0.6, "{dark}");
        let (bright, variance) = spread(1.0);
        assert!((bright - (100.0 + 208.0 * 2.17)).abs() < 3.0, "{bright}");
        assert!(variance > 15.0 * dark_variance, "{variance} {dark_variance}");
    }
}
