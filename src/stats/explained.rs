//! How much of the variation of a number something else explains.

use super::mean;

/// How much of the variance of values lies between groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BetweenGroups {
    /// The share of the sum of squares about the mean that lies between groups (η²): R² of a regression on the group alone.
    pub share: f64,
    /// What that share is on average when the groups have nothing to do with the values: (groups − 1) / (values − 1).
    pub by_chance: f64,
}

/// The share of the variance of values that the group of each explains. Values that are not finite are left out. `None` when there
/// are fewer than two groups, as many groups as values, or the values do not vary.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn between_groups<G: Ord>(values: &[f64], groups: &[G]) -> Option<BetweenGroups> {
    assert_eq!(values.len(), groups.len(), "a group for each value");
    let mut known: Vec<(&G, f64)> = groups.iter().zip(values.iter().copied()).filter(|(_, v)| v.is_finite()).collect();
    known.sort_by(|a, b| a.0.cmp(b.0));
    let all: Vec<f64> = known.iter().map(|(_, value)| *value).collect();
    let centre = mean(&all);
    let total: f64 = all.iter().map(|value| (value - centre).powi(2)).sum();
    let (mut between, mut count) = (0.0, 0);
    for group in known.chunk_by(|a, b| a.0 == b.0) {
        let values: Vec<f64> = group.iter().map(|(_, value)| *value).collect();
        between += values.len() as f64 * (mean(&values) - centre).powi(2);
        count += 1;
    }
    (count > 1 && count < all.len() && total > 0.0).then(|| BetweenGroups {
        share: (between / total).min(1.0),
        by_chance: (count - 1) as f64 / (all.len() - 1) as f64,
    })
}

/// The share of the variance of `observed` that `predicted` explains, an offset not counted against it:
/// 1 − Var(observed − predicted) / Var(observed) (`sklearn.metrics.explained_variance_score`). `None` when there are fewer than two
/// values, or they do not vary.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn explained_variance(observed: &[f64], predicted: &[f64]) -> Option<f64> {
    assert_eq!(observed.len(), predicted.len(), "explained variance is of pairs");
    let variance = |values: &[f64]| {
        let centre = mean(values);
        values.iter().map(|value| (value - centre).powi(2)).sum::<f64>()
    };
    let rest: Vec<f64> = observed.iter().zip(predicted).map(|(y, p)| y - p).collect();
    let total = variance(observed);
    (observed.len() > 1 && total > 0.0).then(|| 1.0 - variance(&rest) / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_explain_all_some_or_nothing() {
        let all = between_groups(&[1.0, 1.0, 5.0, 5.0, f64::NAN], &["a", "a", "b", "b", "c"]).unwrap();
        assert!((all.share - 1.0).abs() < 1e-12 && (all.by_chance - 1.0 / 3.0).abs() < 1e-12);
        let nothing = between_groups(&[1.0, 5.0, 1.0, 5.0], &["a", "a", "b", "b"]).unwrap();
        assert!(nothing.share.abs() < 1e-12);
        assert_eq!(between_groups(&[1.0, 2.0], &["a", "a"]), None);
        assert_eq!(between_groups(&[1.0, 2.0], &["a", "b"]), None);
        assert_eq!(between_groups(&[1.0, 1.0, 1.0], &["a", "b", "b"]), None);
    }

    #[test]
    fn an_offset_does_not_count() {
        assert_eq!(explained_variance(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]), Some(1.0));
        assert_eq!(explained_variance(&[1.0, 2.0, 3.0], &[0.0; 3]), Some(0.0));
        assert_eq!(explained_variance(&[1.0, 1.0], &[0.0; 2]), None);
    }
}
