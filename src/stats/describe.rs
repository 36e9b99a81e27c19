//! Mean, spread and quantiles.

/// The arithmetic mean; NaN of no values.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation with n in the denominator; NaN of no values.
#[must_use]
pub fn standard_deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// The values that are not NaN, in ascending order.
#[must_use]
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile at `fraction` (0 to 1) of values in ascending order, interpolated linearly between neighbours as `numpy.quantile` and R
/// (type 7) do; NaN of no values.
#[must_use]
pub fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = fraction.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_as_numpy() {
        // numpy.quantile([3, 1, 4, 1, 5, 9], [0, .1, .25, .5, .9, 1])
        let values = sorted(&[3.0, 1.0, f64::NAN, 4.0, 1.0, 5.0, 9.0]);
        let expected = [1.0, 1.0, 1.5, 3.5, 7.0, 9.0];
        for (fraction, expected) in [0.0, 0.1, 0.25, 0.5, 0.9, 1.0].into_iter().zip(expected) {
            assert!((quantile(&values, fraction) - expected).abs() < 1e-12);
        }
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(quantile(&[2.0], 0.3), 2.0);
    }

    #[test]
    fn spread_has_n_in_the_denominator() {
        assert_eq!(standard_deviation(&[1.0, 3.0]), 1.0);
        assert_eq!(mean(&[1.0, 3.0]), 2.0);
    }
}
