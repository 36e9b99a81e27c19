//! Gaussian smoothing.

use super::{
    Volume,
    separable::{Combine, separable},
};

/// Smooths with a Gaussian of standard deviation `sigma` voxels (Z, Y, X; 0: not along this axis), cut at three standard deviations.
/// Beyond the border the outermost voxel goes on.
#[must_use]
pub fn gaussian(volume: &Volume<f32>, sigma: [f64; 3]) -> Volume<f32> {
    let mut out = Volume::filled(volume.size, 0.0);
    gaussian_into(volume, sigma, &mut out, &mut Vec::new());
    out
}

/// [`gaussian`] of voxels of any type, into `out`, which has the volume's size. Who calls it again and again keeps `in_plane`, room of
/// its own.
pub(super) fn gaussian_into<T: Copy + Into<f32> + Sync>(
    volume: &Volume<T>,
    sigma: [f64; 3],
    out: &mut Volume<f32>,
    in_plane: &mut Vec<f32>,
) {
    separable::<WeightedSum, T>(volume, Into::into, &sigma.map(half_kernel), out, in_plane);
}

struct WeightedSum;

impl Combine for WeightedSum {
    #[inline(always)]
    fn centre(weight: f32, value: f32) -> f32 {
        weight * value
    }

    #[inline(always)]
    fn pair(so_far: f32, weight: f32, before: f32, after: f32) -> f32 {
        so_far + weight * (before + after)
    }
}

/// The weights of the voxels 0, 1, 2, … away; those of both sides together sum to 1.
fn half_kernel(sigma: f64) -> Vec<f32> {
    if sigma <= 0.0 {
        return vec![1.0];
    }
    let radius = (3.0 * sigma).ceil() as usize;
    let raw: Vec<f64> = (0..=radius).map(|i| libm::exp(-0.5 * (i as f64 / sigma).powi(2))).collect();
    let sum = 2.0 * raw.iter().sum::<f64>() - 1.0;
    raw.iter().map(|weight| (weight / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    #[test]
    fn as_by_the_definition() {
        for (size, sigma) in [([5, 6, 9], [1.0, 0.7, 1.3]), ([3, 4, 40], [2.0, 0.0, 3.0]), ([1, 2, 2], [0.0, 1.0, 1.0])]
        {
            let volume = noise(size);
            let got = gaussian(&volume, sigma);
            let kernel = sigma.map(half_kernel);
            for z in 0..size[0] {
                for y in 0..size[1] {
                    for x in 0..size[2] {
                        let mut sum = 0.0;
                        let reach = kernel.each_ref().map(|k| k.len() as isize - 1);
                        for dz in -reach[0]..=reach[0] {
                            for dy in -reach[1]..=reach[1] {
                                for dx in -reach[2]..=reach[2] {
                                    let near = |at: usize, d: isize, n: usize| {
                                        (at as isize + d).clamp(0, n as isize - 1) as usize
                                    };
                                    let at =
                                        volume.index(near(z, dz, size[0]), near(y, dy, size[1]), near(x, dx, size[2]));
                                    let weight = kernel[0][dz.unsigned_abs()]
                                        * kernel[1][dy.unsigned_abs()]
                                        * kernel[2][dx.unsigned_abs()];
                                    sum += f64::from(weight) * f64::from(volume.data[at]);
                                }
                            }
                        }
                        let value = f64::from(got.data[got.index(z, y, x)]);
                        assert!((value - sum).abs() < 1e-2, "{size:?} {sigma:?}: {value} {sum}");
                    }
                }
            }
        }
    }
}
