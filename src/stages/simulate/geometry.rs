//! Points, smooth minima and smooth noise: what shapes are made of. Lengths are µm, axes Z, Y, X.

use crate::nn::Rng;

/// A point or direction: Z, Y, X.
pub(super) type Point = [f64; 3];

pub(super) fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(super) fn subtract(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(super) fn scale(a: Point, factor: f64) -> Point {
    [a[0] * factor, a[1] * factor, a[2] * factor]
}

pub(super) fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(super) fn length(a: Point) -> f64 {
    dot(a, a).sqrt()
}

/// The direction of `a`; up, when it has none.
pub(super) fn direction(a: Point) -> Point {
    let length = length(a);
    if length > 1e-9 { scale(a, 1.0 / length) } else { [1.0, 0.0, 0.0] }
}

/// Two directions that are perpendicular to a direction and to each other.
pub(super) fn perpendicular(axis: Point) -> [Point; 2] {
    let other = if axis[0].abs() < 0.8 { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
    let first = direction(cross(axis, other));
    [first, cross(axis, first)]
}

fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// A direction, all equally likely.
pub(super) fn random_direction(rng: &mut Rng) -> Point {
    direction([rng.normal(), rng.normal(), rng.normal()])
}

/// The distance of a point to a segment.
pub(super) fn distance_to_segment(point: Point, a: Point, b: Point) -> f64 {
    let along = subtract(b, a);
    let position = (dot(subtract(point, a), along) / dot(along, along).max(1e-12)).clamp(0.0, 1.0);
    length(subtract(point, add(a, scale(along, position))))
}

/// The minimum of some values, with its edges rounded over about `width`; never above the minimum.
pub(super) fn smooth_minimum(values: impl Iterator<Item = f64> + Clone, width: f64) -> f64 {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    // Values further away than this add less than a thousandth.
    let near = values.filter(|value| value - least < 7.0 * width);
    let sum: f64 = near.map(|value| if value == least { 1.0 } else { libm::exp((least - value) / width) }).sum();
    if sum == 1.0 { least } else { least - width * libm::log(sum) }
}

/// From 0 to 1 as `value` goes from `from` to `to`, smoothly.
pub(super) fn smooth_step(from: f64, to: f64, value: f64) -> f64 {
    let t = ((value - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Smooth random values in space: gradient noise on a cubic lattice (after Perlin 2002). Roughly within ±1, mean 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    key: u32,
    frequency: f64,
}

impl Noise {
    /// Noise whose hills and valleys are about `wavelength` µm apart.
    pub(super) fn new(rng: &mut Rng, wavelength: f64) -> Self {
        Self { key: rng.bits(), frequency: 2.0 / wavelength }
    }

    /// The value at a point.
    pub(super) fn at(&self, point: Point) -> f64 {
        let scaled = scale(point, self.frequency);
        let cell = scaled.map(|v| v.floor() as i32);
        let inside: Point = std::array::from_fn(|axis| scaled[axis] - f64::from(cell[axis]));
        let fade = inside.map(|t| t * t * t * (t * (t * 6.0 - 15.0) + 10.0));
        let mut corners = [0.0; 8];
        for (number, corner) in corners.iter_mut().enumerate() {
            let offset = [number >> 2 & 1, number >> 1 & 1, number & 1];
            let hash = self.hash(std::array::from_fn(|axis| cell[axis].wrapping_add(offset[axis] as i32)));
            let d: Point = std::array::from_fn(|axis| inside[axis] - offset[axis] as f64);
            *corner = gradient(hash, d);
        }
        let mix = |a: f64, b: f64, t: f64| a + t * (b - a);
        let plane = |i: usize| {
            mix(mix(corners[i], corners[i + 1], fade[2]), mix(corners[i + 2], corners[i + 3], fade[2]), fade[1])
        };
        1.5 * mix(plane(0), plane(4), fade[0])
    }

    fn hash(&self, cell: [i32; 3]) -> u32 {
        let mut hash = self.key;
        for part in cell {
            hash = (hash ^ part as u32).wrapping_mul(0x9E37_79B1);
            hash ^= hash >> 15;
        }
        hash = hash.wrapping_mul(0x85EB_CA77);
        hash ^ hash >> 13
    }
}

/// The product of an offset with one of the twelve edges of a cube.
fn gradient(hash: u32, d: Point) -> f64 {
    let (first, second) = match hash % 3 {
        0 => (d[0], d[1]),
        1 => (d[1], d[2]),
        _ => (d[2], d[0]),
    };
    (if hash & 64 == 0 { first } else { -first }) + (if hash & 128 == 0 { second } else { -second })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_minimum_rounds_where_values_are_near() {
        assert_eq!(smooth_minimum([1.0, 50.0].into_iter(), 0.5), 1.0);
        let corner = smooth_minimum([1.0, 1.0].into_iter(), 0.5);
        assert!((corner - (1.0 - 0.5 * libm::log(2f64))).abs() < 1e-12);
    }

    #[test]
    fn noise_is_smooth_centred_and_repeatable() {
        let noise = Noise::new(&mut Rng::new(1, "noise", 0), 4.0);
        let values: Vec<f64> =
            (0..4000).map(|i| noise.at([f64::from(i) * 1.37, f64::from(i) * 0.73, f64::from(i) * 2.11])).collect();
        let mean = values.iter().sum::<f64>() / 4000.0;
        assert!(mean.abs() < 0.05 && values.iter().all(|v| v.abs() < 1.6), "{mean}");
        assert!(values.iter().any(|v| v.abs() > 0.6));
        assert!((noise.at([0.3, 0.4, 0.5]) - noise.at([0.3, 0.4, 0.501])).abs() < 0.01);
        assert_eq!(noise.at([1.0, 2.0, 3.5]), noise.at([1.0, 2.0, 3.5]));
    }

    #[test]
    fn perpendiculars_and_segments() {
        let axis = direction([0.2, 0.5, -0.7]);
        let [a, b] = perpendicular(axis);
        assert!(dot(a, axis).abs() < 1e-12 && dot(b, axis).abs() < 1e-12 && dot(a, b).abs() < 1e-12);
        assert!((distance_to_segment([0.0, 3.0, 0.0], [0.0; 3], [0.0, 0.0, 9.0]) - 3.0).abs() < 1e-12);
        assert!((distance_to_segment([0.0, 0.0, 12.0], [0.0; 3], [0.0, 0.0, 9.0]) - 3.0).abs() < 1e-12);
    }
}
