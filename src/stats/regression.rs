//! Linear regression.

use faer::Mat;

use super::mean;

/// An ordinary least squares fit with an intercept.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearFit {
    /// The value where all predictors are zero.
    pub intercept: f64,
    /// The coefficient of each predictor.
    pub coefficients: Vec<f64>,
}

/// Fits each of `responses` by a linear function of predictors; each is given by its values over the same observations.
///
/// Predictors that depend on each other linearly, or do not vary, have no unique coefficients: then those of the smallest norm are
/// given (as by `scikit-learn` and LAPACK's `gelsd`), through the singular value decomposition of the centred predictors.
///
/// `None` when there are not more observations than predictors (such a fit would pass through every point), or a value is not
/// finite.
///
/// # Panics
/// When the lengths differ, or there is no response.
#[must_use]
pub fn least_squares(predictors: &[Vec<f64>], responses: &[Vec<f64>]) -> Option<Vec<LinearFit>> {
    let (rows, columns) = (responses[0].len(), predictors.len());
    assert!(predictors.iter().chain(responses).all(|values| values.len() == rows), "values of different observations");
    if rows <= columns || predictors.iter().chain(responses).flatten().any(|value| !value.is_finite()) {
        return None;
    }
    let means: Vec<f64> = predictors.iter().map(|values| mean(values)).collect();
    let mut coefficients = vec![vec![0.0; columns]; responses.len()];
    if columns > 0 {
        let centred = Mat::from_fn(rows, columns, |row, column| predictors[column][row] - means[column]);
        let svd = centred.thin_svd().ok()?;
        let singular: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let scale = predictors.iter().flatten().fold(singular[0], |most: f64, value| most.max(value.abs()));
        let noise = scale * f64::EPSILON * rows as f64;
        for (index, &value) in singular.iter().enumerate().take_while(|(_, value)| **value > noise) {
            for (response, coefficients) in responses.iter().zip(&mut coefficients) {
                let centre = mean(response);
                let along: f64 = svd.U().col(index).iter().zip(response).map(|(u, y)| u * (y - centre)).sum();
                for (coefficient, v) in coefficients.iter_mut().zip(svd.V().col(index).iter()) {
                    *coefficient += v * along / value;
                }
            }
        }
    }
    let fits = responses.iter().zip(coefficients).map(|(response, coefficients)| LinearFit {
        intercept: mean(response) - coefficients.iter().zip(&means).map(|(c, m)| c * m).sum::<f64>(),
        coefficients,
    });
    Some(fits.collect())
}

impl LinearFit {
    /// The fitted values for predictors given as for the fit.
    ///
    /// # Panics
    /// When there are not as many predictors as coefficients.
    #[must_use]
    pub fn predict(&self, predictors: &[Vec<f64>], rows: usize) -> Vec<f64> {
        assert_eq!(predictors.len(), self.coefficients.len(), "predictors of another fit");
        let at = |row: usize| predictors.iter().zip(&self.coefficients).map(|(p, c)| p[row] * c).sum::<f64>();
        (0..rows).map(|row| self.intercept + at(row)).collect()
    }
}

/// The coefficient of determination, 1 − Σ(y − ŷ)² / Σ(y − ȳ)², below zero when the prediction is worse than the mean.
/// `None` when there are fewer than two values, or they do not vary.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn r_squared(observed: &[f64], predicted: &[f64]) -> Option<f64> {
    assert_eq!(observed.len(), predicted.len(), "R² is of pairs");
    let mean = mean(observed);
    let total: f64 = observed.iter().map(|y| (y - mean).powi(2)).sum();
    let residual: f64 = observed.iter().zip(predicted).map(|(y, p)| (y - p).powi(2)).sum();
    (observed.len() > 1 && total > 0.0).then(|| 1.0 - residual / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [f64; 6] = [2.0, 4.0, 6.0, 8.0, 1.0, 5.0];
    const B: [f64; 6] = [7.0, 3.0, 1.0, 2.0, 9.0, 5.0];
    const C: [f64; 6] = [1.0, 0.5, 2.0, 0.1, 1.4, 0.9];
    const Y: [f64; 6] = [1.0, 2.5, 2.0, 4.0, 0.5, 3.0];

    fn close(a: &[f64], b: &[f64]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10), "{a:?} {b:?}");
    }

    #[test]
    fn as_scikit_learn() {
        let fit = least_squares(&[A[..5].to_vec(), C[..5].to_vec()], &[Y[..5].to_vec()]).unwrap().remove(0);
        close(&[fit.intercept], &[1.111_764_343_757_694_7]);
        close(&fit.coefficients, &[0.381_217_680_374_292_3, -0.712_878_601_329_722_6]);
        let predicted = fit.predict(&[A.to_vec(), C.to_vec()], 6);
        close(&[r_squared(&Y, &predicted).unwrap()], &[0.943_328_268_620_358_1]);
    }

    #[test]
    fn dependent_and_constant_predictors_share_the_smallest_coefficients() {
        let sum: Vec<f64> = A.iter().zip(B).map(|(a, b)| a + b).collect();
        let predictors = [&A[..5], &B[..5], &sum[..5], &[5.0; 5]].map(<[f64]>::to_vec);
        let fit = least_squares(&predictors, &[Y[..5].to_vec()]).unwrap().remove(0);
        close(&[fit.intercept], &[-0.501_694_915_254_237_8]);
        close(&fit.coefficients, &[0.322_598_870_056_497_1, -0.125_197_740_112_994_34, 0.197_401_129_943_502_9, 0.0]);
    }

    #[test]
    fn too_few_observations_have_no_fit() {
        assert_eq!(least_squares(&[vec![1.0, 2.0], vec![3.0, 1.0]], &[vec![1.0, 2.0]]), None);
        assert_eq!(least_squares(&[vec![1.0, f64::NAN, 2.0]], &[vec![1.0, 2.0, 3.0]]), None);
        assert_eq!(least_squares(&[], &[vec![1.0, 3.0]]).unwrap()[0].intercept, 2.0);
        assert_eq!(r_squared(&[1.0], &[1.0]), None);
        assert_eq!(r_squared(&[2.0, 2.0], &[1.0, 3.0]), None);
    }
}
