//! Comparisons of two samples.

use super::{ranks, sorted};

/// A two-sample Kolmogorov–Smirnov test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KolmogorovSmirnov {
    /// The largest difference of the two empirical distribution functions.
    pub distance: f64,
    /// The two-sided p-value, exact where there are no ties.
    pub p: f64,
}

/// The two-sample Kolmogorov–Smirnov test (`scipy.stats.ks_2samp` with `method="exact"`): whether two samples, NaN left out, come
/// from one continuous distribution. `None` when one of them is empty. Takes time in proportion to the product of both sizes.
///
/// Source of the p-value: the count of lattice paths in Hodges 1958, as a recursion over probabilities.
#[must_use]
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Option<KolmogorovSmirnov> {
    let (a, b) = (sorted(a), sorted(b));
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (m, n) = (a.len(), b.len());
    // In units of 1 / (m n), so that comparisons are exact.
    let mut largest = 0_i64;
    let (mut in_a, mut in_b) = (0, 0);
    while in_a < m && in_b < n {
        let value = a[in_a].min(b[in_b]);
        in_a += a[in_a..].partition_point(|other| *other <= value);
        in_b += b[in_b..].partition_point(|other| *other <= value);
        largest = largest.max(((in_a * n) as i64 - (in_b * m) as i64).abs());
    }
    // The share of the paths from (0, 0) to (m, n) that never come as far from the diagonal.
    let outside = |i: usize, j: usize| ((i * n) as i64 - (j * m) as i64).abs() >= largest;
    let mut inside: Vec<f64> = (0..=n).map(|j| f64::from(u8::from(!outside(0, j)))).collect();
    for j in 1..=n {
        inside[j] = if outside(0, j) { 0.0 } else { inside[j - 1] };
    }
    for i in 1..=m {
        // The weight makes each number the share among all paths to (i, n), which keeps it in range.
        let weight = i as f64 / (i + n) as f64;
        inside[0] = if outside(i, 0) { 0.0 } else { weight * inside[0] };
        for j in 1..=n {
            inside[j] = if outside(i, j) { 0.0 } else { weight * inside[j] + inside[j - 1] };
        }
    }
    let p = if largest == 0 { 1.0 } else { (1.0 - inside[n]).clamp(0.0, 1.0) };
    Some(KolmogorovSmirnov { distance: largest as f64 / (m * n) as f64, p })
}

/// The area under the receiver operating characteristic: the chance that a random positive has a higher score than a random
/// negative, ties counting half (`sklearn.metrics.roc_auc_score`). `None` when one of them is empty, or a score is not finite.
#[must_use]
pub fn area_under_curve(positive: &[f64], negative: &[f64]) -> Option<f64> {
    let all = [positive, negative].concat();
    if positive.is_empty() || negative.is_empty() || !all.iter().all(|score| score.is_finite()) {
        return None;
    }
    let (p, n) = (positive.len() as f64, negative.len() as f64);
    let sum: f64 = ranks(&all)[..positive.len()].iter().sum();
    Some((sum - p * (p + 1.0) / 2.0) / (p * n))
}

/// How well generated points cover real ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// The share of generated points that lie among real ones.
    pub precision: f64,
    /// The share of real points that lie among generated ones.
    pub recall: f64,
}

/// Precision and recall by nearest neighbours (Kynkäänniemi et al. 2019): a point lies among others when it is no further from one
/// of them than that one's `neighbours`-th nearest neighbour is among its own kind. Points are rows of one length. `None` when one
/// of the two sets has not more than `neighbours` points, or a coordinate is not finite.
#[must_use]
pub fn nearest_neighbour_coverage(real: &[Vec<f64>], generated: &[Vec<f64>], neighbours: usize) -> Option<Coverage> {
    let finite = real.iter().chain(generated).flatten().all(|value| value.is_finite());
    if neighbours == 0 || real.len().min(generated.len()) <= neighbours || !finite {
        return None;
    }
    let squared = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let radii = |points: &[Vec<f64>]| -> Vec<f64> {
        let radius = |(index, point): (usize, &Vec<f64>)| {
            let others = points.iter().enumerate().filter(|(other, _)| *other != index);
            let mut distances: Vec<f64> = others.map(|(_, other)| squared(point, other)).collect();
            *distances.select_nth_unstable_by(neighbours - 1, f64::total_cmp).1
        };
        points.iter().enumerate().map(radius).collect()
    };
    let share = |points: &[Vec<f64>], among: &[Vec<f64>]| {
        let radii = radii(among);
        let lies = |point: &&Vec<f64>| among.iter().zip(&radii).any(|(other, radius)| squared(point, other) <= *radius);
        points.iter().filter(lies).count() as f64 / points.len() as f64
    };
    Some(Coverage { precision: share(generated, real), recall: share(real, generated) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_and_separate_samples() {
        let test = kolmogorov_smirnov(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(test, KolmogorovSmirnov { distance: 0.0, p: 1.0 });
        // 2 of the 20 orders of 3 and 3 are as far apart.
        let test = kolmogorov_smirnov(&[1.0, 2.0, 3.0, f64::NAN], &[4.0, 5.0, 6.0]).unwrap();
        assert!(test.distance == 1.0 && (test.p - 0.1).abs() < 1e-12, "{test:?}");
        assert_eq!(kolmogorov_smirnov(&[], &[1.0]), None);
    }

    #[test]
    fn curves_of_certain_and_of_useless_scores() {
        assert_eq!(area_under_curve(&[3.0, 4.0], &[1.0, 2.0]), Some(1.0));
        assert_eq!(area_under_curve(&[1.0, 1.0], &[1.0]), Some(0.5));
        assert_eq!(area_under_curve(&[], &[1.0]), None);
        assert_eq!(area_under_curve(&[f64::NAN], &[1.0]), None);
    }

    #[test]
    fn points_far_away_are_not_covered() {
        let line = |from: f64| (0..10).map(|i| vec![from + f64::from(i)]).collect::<Vec<_>>();
        let same = nearest_neighbour_coverage(&line(0.0), &line(0.5), 3).unwrap();
        assert_eq!(same, Coverage { precision: 1.0, recall: 1.0 });
        let half = [&line(0.0)[..5], &line(100.0)[..5]].concat();
        let half = nearest_neighbour_coverage(&line(0.0), &half, 3).unwrap();
        assert!(half.precision == 0.5 && half.recall > 0.5, "{half:?}");
        assert_eq!(nearest_neighbour_coverage(&line(0.0), &line(0.0)[..3], 3), None);
    }
}
