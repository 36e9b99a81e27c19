//! Correlation of two variables.

use super::mean;

/// Pearson's correlation. NaN when there are fewer than two pairs, or one of the variables does not vary.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "a correlation is of pairs");
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut covariance, mut variance_a, mut variance_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        covariance += (a - mean_a) * (b - mean_b);
        variance_a += (a - mean_a).powi(2);
        variance_b += (b - mean_b).powi(2);
    }
    if variance_a > 0.0 && variance_b > 0.0 {
        (covariance / (variance_a.sqrt() * variance_b.sqrt())).clamp(-1.0, 1.0)
    } else {
        f64::NAN
    }
}

/// Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

/// The ranks of values, from 1; equal values share the mean of their ranks.
#[must_use]
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let below = order.partition_point(|&other| values[other].total_cmp(&values[tied[0]]).is_lt());
        for &index in tied {
            ranks[index] = below as f64 + (tied.len() + 1) as f64 / 2.0;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_scipy() {
        let (a, b) = ([1.0, 2.0, 2.0, 3.0, 5.0, 4.0], [2.0, 1.0, 3.0, 3.0, 9.0, 3.0]);
        assert!((pearson(&a, &b) - 0.797_635_258_650_380_1).abs() < 1e-12);
        assert!((spearman(&a, &b) - 0.800_853_434_723_806_7).abs() < 1e-12);
        assert_eq!(ranks(&b), [2.0, 1.0, 4.0, 4.0, 6.0, 4.0]);
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert!(pearson(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(spearman(&[], &[]).is_nan());
        assert!((pearson(&[1.0, 2.0], &[5.0, 3.0]) + 1.0).abs() < 1e-12);
    }
}
