//! Predictions of cells by fits that they were held out of.

use super::id_hash::id_hash;
use crate::stats::least_squares;

/// The cells by the hash of their ids: the first of them are held out, then the next, … (the order does not depend on the order of
/// the set).
pub(super) fn held_out_order(ids: &[String], seed: u64) -> Vec<usize> {
    let mut order: Vec<(f64, &String, usize)> =
        ids.iter().enumerate().map(|(index, id)| (id_hash(seed, id), id, index)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    order.into_iter().map(|(_, _, index)| index).collect()
}

/// Fits each response linearly by the predictors without the first `held_out` cells of `order`, and predicts those; then the same for
/// the next `held_out` cells, and so on. The predictions of each response come in the order of `order`.
///
/// # Errors
/// Why there is no fit, in words.
pub(super) fn predict_held_out(
    predictors: &[Vec<f64>],
    responses: &[Vec<f64>],
    order: &[usize],
    held_out: usize,
) -> Result<Vec<Vec<f64>>, String> {
    if held_out < 2 {
        return Err(format!("of {} cells fewer than two are held out", order.len()));
    }
    let pick = |columns: &[Vec<f64>], cells: &[usize]| -> Vec<Vec<f64>> {
        columns.iter().map(|column| cells.iter().map(|&cell| column[cell]).collect()).collect()
    };
    let mut predicted = vec![Vec::with_capacity(order.len()); responses.len()];
    for start in (0..order.len()).step_by(held_out) {
        let end = (start + held_out).min(order.len());
        let rest = [&order[..start], &order[end..]].concat();
        let Some(fits) = least_squares(&pick(predictors, &rest), &pick(responses, &rest)) else {
            return Err(format!("{} cells do not determine a fit by {} dimensions", rest.len(), predictors.len()));
        };
        let held = pick(predictors, &order[start..end]);
        predicted.iter_mut().zip(fits).for_each(|(values, fit)| values.extend(fit.predict(&held, end - start)));
    }
    Ok(predicted)
}
