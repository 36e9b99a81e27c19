//! The latent space and the losses.

use super::{
    parallel,
    view::{View, ViewMut},
};

/// KL divergence of N(μ, e^logvar) from N(0, 1): −½ (1 + log σ² − μ² − σ²).
#[must_use]
pub fn kl_divergence(mu: f32, logvar: f32) -> f64 {
    let (mu, logvar) = (f64::from(mu), f64::from(logvar));
    -0.5 * (1.0 + logvar - mu * mu - libm::exp(logvar))
}

/// Puts `value` in a place or adds it.
fn put(place: &mut f32, value: f32, accumulate: bool) {
    *place = if accumulate { *place + value } else { value };
}

/// z = μ + noise · e^(½ log σ²).
pub(super) fn reparameterise(mu: View, logvar: View, noise: View, z: &mut ViewMut) {
    let given = mu.data().iter().zip(logvar.data()).zip(noise.data());
    for (z, ((mu, logvar), noise)) in z.data_mut().iter_mut().zip(given) {
        *z = mu + noise * libm::expf(0.5 * logvar);
    }
}

/// The gradient of log σ², given that of z.
pub(super) fn reparameterise_backward(logvar: View, noise: View, dz: View, d: &mut ViewMut, accumulate: bool) {
    let given = logvar.data().iter().zip(noise.data()).zip(dz.data());
    for (d, ((logvar, noise), dz)) in d.data_mut().iter_mut().zip(given) {
        put(d, dz * noise * 0.5 * libm::expf(0.5 * logvar), accumulate);
    }
}

/// The KL divergence summed over a batch.
pub(super) fn kl(mu: View, logvar: View) -> f64 {
    mu.data().iter().zip(logvar.data()).map(|(&mu, &logvar)| kl_divergence(mu, logvar)).sum()
}

/// `weight` times its gradient for μ.
pub(super) fn kl_backward_mean(mu: View, weight: f32, d: &mut ViewMut, accumulate: bool) {
    d.data_mut().iter_mut().zip(mu.data()).for_each(|(d, mu)| put(d, weight * mu, accumulate));
}

/// `weight` times its gradient for log σ².
pub(super) fn kl_backward_log_variance(logvar: View, weight: f32, d: &mut ViewMut, accumulate: bool) {
    let pairs = d.data_mut().iter_mut().zip(logvar.data());
    pairs.for_each(|(d, logvar)| put(d, weight * 0.5 * (libm::expf(*logvar) - 1.0), accumulate));
}

/// Σ (a − b)² over each image.
pub(super) fn squared_errors(a: View, b: View) -> Vec<f64> {
    let shape = a.shape();
    let per_image = shape.rows() / shape.images;
    let rows = parallel::map(shape.images * shape.size[0], shape.len(), |plane| {
        let rows = plane * shape.size[1]..(plane + 1) * shape.size[1];
        rows.map(|row| {
            let mut lanes = [0.0f32; 16];
            for (a, b) in a.row(row).chunks(16).zip(b.row(row).chunks(16)) {
                for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                    *lane += (a - b) * (a - b);
                }
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
        })
        .sum::<f64>()
    });
    rows.chunks(per_image / shape.size[1]).map(|planes| planes.iter().sum()).collect()
}

/// `factor` · (a − b).
pub(super) fn squared_error_backward(a: View, b: View, factor: f32, d: &mut ViewMut, accumulate: bool) {
    d.for_each_row(
        #[inline(always)]
        |row, d| {
            let given = a.row(row).iter().zip(b.row(row));
            if accumulate {
                d.iter_mut().zip(given).for_each(|(d, (a, b))| *d += factor * (a - b));
            } else {
                d.iter_mut().zip(given).for_each(|(d, (a, b))| *d = factor * (a - b));
            }
        },
    );
}
