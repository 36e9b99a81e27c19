//! Principal components.

use faer::Mat;

use super::{mean, standard_deviation};

/// The principal components of z-scored variables.
#[derive(Clone, Debug, PartialEq)]
pub struct Pca {
    /// The share of the total variance along each component, in descending order.
    pub explained: Vec<f64>,
    /// For each component, the weight of each variable; a unit vector, its largest weight (by absolute value; the first of
    /// equals) positive.
    pub loadings: Vec<Vec<f64>>,
    /// For each component, the coordinate of each observation.
    pub scores: Vec<Vec<f64>>,
}

/// The principal components of variables, each given by its values over the same observations and z-scored first (n in the
/// denominator). A variable that does not vary has weight zero everywhere. Components along which nothing varies are left out,
/// so there are at most as many as variables, and fewer than observations.
///
/// `None` when there is nothing that varies, or a value is not finite.
///
/// # Panics
/// When the variables have different lengths.
#[must_use]
pub fn pca(variables: &[Vec<f64>]) -> Option<Pca> {
    let rows = variables.first()?.len();
    if variables.iter().flatten().any(|value| !value.is_finite()) {
        return None;
    }
    let scaled: Vec<Vec<f64>> = variables.iter().map(|values| z_scores(values)).collect();
    let matrix = Mat::from_fn(rows, scaled.len(), |row, column| scaled[column][row]);
    let svd = matrix.thin_svd().ok()?;
    let singular: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let total: f64 = singular.iter().map(|s| s * s).sum();
    let largest = singular.first().copied().unwrap_or(0.0);
    let noise = largest * f64::EPSILON * rows.max(scaled.len()) as f64;
    let mut pca = Pca { explained: Vec::new(), loadings: Vec::new(), scores: Vec::new() };
    for (index, &value) in singular.iter().enumerate().take_while(|(_, value)| **value > noise) {
        let mut loading: Vec<f64> = svd.V().col(index).iter().copied().collect();
        let mut score: Vec<f64> = svd.U().col(index).iter().map(|u| u * value).collect();
        // The first of those within rounding of the largest: equal weights must not let rounding choose the sign.
        let most = loading.iter().fold(0.0, |most: f64, weight| most.max(weight.abs()));
        let leading = loading.iter().find(|weight| weight.abs() >= most * (1.0 - 1e-9)).copied().unwrap_or(0.0);
        if leading < 0.0 {
            loading.iter_mut().chain(&mut score).for_each(|number| *number = -*number);
        }
        pca.explained.push(value * value / total);
        pca.loadings.push(loading);
        pca.scores.push(score);
    }
    (!pca.explained.is_empty()).then_some(pca)
}

/// Values less their mean, in units of their standard deviation; zeros where they do not vary.
#[must_use]
pub fn z_scores(values: &[f64]) -> Vec<f64> {
    let (mean, deviation) = (mean(values), standard_deviation(values));
    let varies = deviation > mean.abs() * 1e-12;
    values.iter().map(|value| if varies { (value - mean) / deviation } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len(), "{a:?} {b:?}");
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10), "{a:?} {b:?}");
    }

    #[test]
    fn as_scikit_learn_with_a_constant_variable() {
        let variables = vec![
            vec![2.0, 4.0, 6.0, 8.0, 1.0, 5.0],
            vec![7.0, 3.0, 1.0, 2.0, 9.0, 5.0],
            vec![1.0, 0.5, 2.0, 0.1, 1.4, 0.9],
            vec![5.0; 6],
        ];
        let pca = pca(&variables).unwrap();
        close(&pca.explained, &[0.661_835_248_240_672_1, 0.306_788_108_242_037_2, 0.031_376_643_517_290_85]);
        close(&pca.loadings[0], &[0.689_034_152_619_200_4, -0.653_588_708_943_603_8, -0.313_135_331_870_700_5, 0.0]);
        close(&pca.loadings[2], &[0.718_097_588_714_044_7, 0.674_027_890_526_410_5, 0.173_269_316_024_482_5, 0.0]);
        close(
            &pca.scores[0],
            &[
                -1.271_401_614_992_971_7,
                0.499_343_256_097_636_4,
                0.777_849_428_772_961_3,
                2.106_495_641_840_637_8,
                -2.233_848_224_476_133,
                0.121_561_512_757_870_2,
            ],
        );
    }

    #[test]
    fn more_variables_than_observations() {
        let pca = pca(&[vec![1.0, 2.0], vec![2.0, 4.0], vec![3.0, 0.0]]).unwrap();
        close(&pca.explained, &[1.0]);
        close(&pca.loadings[0], &[3f64.sqrt().recip(), 3f64.sqrt().recip(), -(3f64.sqrt().recip())]);
    }

    #[test]
    fn nothing_that_varies_has_no_components() {
        assert_eq!(pca(&[]), None);
        assert_eq!(pca(&[vec![]]), None);
        assert_eq!(pca(&[vec![1.0], vec![2.0]]), None);
        assert_eq!(pca(&[vec![0.1; 10], vec![0.3; 10]]), None);
        assert_eq!(pca(&[vec![1.0, f64::NAN, 2.0]]), None);
    }
}
