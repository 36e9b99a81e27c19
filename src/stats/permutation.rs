//! Permutation tests.

/// What a permutation test found.
#[derive(Clone, Debug, PartialEq)]
pub struct PermutationTest {
    /// The statistic of the labels as they are.
    pub observed: f64,
    /// The chance of a statistic at least as large, were the labels exchangeable.
    pub p: f64,
    /// The statistic of each permutation: of all arrangements where `exact`.
    pub null: Vec<f64>,
    /// Whether all arrangements of the labels were tried.
    pub exact: bool,
    /// How many arrangements of the labels there are; no p-value lies below its reciprocal.
    pub arrangements: f64,
}

/// Statistics that differ by less than this part are equal: rounding must not decide.
const ROUNDING: f64 = 1e-12;

/// Tests whether a statistic of labelled units is larger than it would be if the labels were dealt out by chance **inside each
/// stratum**. `treated[i]` and `strata[i]` belong to unit i. Where there are at most `count` arrangements, all are tried and the
/// p-value is exact; else `count` random ones, and p = (1 + those at least as large) / (1 + `count`), as in
/// `scipy.stats.permutation_test`. `below(n)` gives a random whole number below n.
///
/// # Panics
/// When the two slices differ in length.
pub fn permutation_test(
    treated: &[bool],
    strata: &[usize],
    count: usize,
    statistic: impl Fn(&[bool]) -> f64,
    mut below: impl FnMut(usize) -> usize,
) -> PermutationTest {
    assert_eq!(treated.len(), strata.len(), "a stratum for each unit");
    let mut names = strata.to_vec();
    names.sort_unstable();
    names.dedup();
    let members: Vec<Vec<usize>> =
        names.iter().map(|name| (0..strata.len()).filter(|&unit| strata[unit] == *name).collect()).collect();
    let treated_in = |units: &[usize]| units.iter().filter(|&&unit| treated[unit]).count();
    let arrangements: f64 = members.iter().map(|units| binomial(units.len(), treated_in(units))).product();
    let observed = statistic(treated);
    let least = observed - ROUNDING * observed.abs();
    let exact = arrangements <= count as f64;
    let mut null = Vec::new();
    let mut labels = treated.to_vec();
    if exact {
        // All arrangements: an odometer of combinations, one wheel for each stratum.
        let mut wheels: Vec<Vec<usize>> = members.iter().map(|units| (0..treated_in(units)).collect()).collect();
        loop {
            labels.fill(false);
            for (units, chosen) in members.iter().zip(&wheels) {
                chosen.iter().for_each(|&place| labels[units[place]] = true);
            }
            null.push(statistic(&labels));
            let turned = members.iter().zip(&mut wheels).any(|(units, chosen)| next_combination(chosen, units.len()));
            if !turned {
                break;
            }
        }
    } else {
        for _ in 0..count {
            for units in &members {
                for last in (1..units.len()).rev() {
                    labels.swap(units[last], units[below(last + 1)]);
                }
            }
            null.push(statistic(&labels));
        }
    }
    let as_large = null.iter().filter(|&&value| value >= least).count() as f64;
    let p = if exact { as_large / null.len() as f64 } else { (1.0 + as_large) / (1.0 + count as f64) };
    PermutationTest { observed, p, null, exact, arrangements }
}

/// Turns a rising choice from 0..`from` into the next one; back to the first, and `false`, after the last.
fn next_combination(chosen: &mut [usize], from: usize) -> bool {
    let count = chosen.len();
    let movable = (0..count).rev().find(|&place| chosen[place] < from - count + place);
    let (start, value) = movable.map_or((0, 0), |place| (place, chosen[place] + 1));
    chosen[start..].iter_mut().enumerate().for_each(|(offset, place)| *place = value + offset);
    movable.is_some()
}

fn binomial(from: usize, chosen: usize) -> f64 {
    (1..=chosen).map(|i| (from - chosen + i) as f64 / i as f64).product::<f64>().round()
}

/// p-values times their number, at most 1 (Bonferroni). Missing ones (NaN) stay missing and do not count.
#[must_use]
pub fn bonferroni(p: &[f64]) -> Vec<f64> {
    let tests = p.iter().filter(|p| !p.is_nan()).count() as f64;
    p.iter().map(|&p| if p.is_nan() { p } else { (p * tests).min(1.0) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(values: &[f64]) -> impl Fn(&[bool]) -> f64 + '_ {
        move |labels: &[bool]| {
            let mean = |wanted: bool| {
                let some = values.iter().zip(labels).filter(|(_, label)| **label == wanted).map(|(value, _)| value);
                let (sum, count) = some.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
                sum / count
            };
            (mean(true) - mean(false)).abs()
        }
    }

    /// A generator that is good enough for tests.
    fn random(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
        move |bound| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((u128::from(state) * bound as u128) >> 64) as usize
        }
    }

    #[test]
    fn few_units_are_tried_in_all_arrangements() {
        let treated = [true, true, true, false, false, false];
        let values = [5.0, 6.0, 7.0, 1.0, 2.0, 3.0];
        let test = permutation_test(&treated, &[0; 6], 1000, difference(&values), random(1));
        assert!(test.exact && test.null.len() == 20 && test.arrangements == 20.0);
        assert!((test.p - 0.1).abs() < 1e-12, "both extremes of 20: {}", test.p);
    }

    #[test]
    fn strata_keep_their_share_of_labels() {
        // Two plates of which one lies far higher; the treated of each are 1 above the others of their plate.
        let treated = [true, false, false, true, true, false, false];
        let plates = [0, 0, 0, 1, 1, 1, 1];
        let values = [1.0, 0.0, 0.0, 101.0, 101.0, 100.0, 100.0];
        let shares = std::cell::Cell::new(true);
        let statistic = |labels: &[bool]| {
            let first = labels[..3].iter().filter(|&&label| label).count();
            shares.set(shares.get() && first == 1 && labels.iter().filter(|&&label| label).count() == 3);
            // Within plates.
            let plate = |range: std::ops::Range<usize>| difference(&values[range.clone()])(&labels[range]);
            plate(0..3) + plate(3..7)
        };
        let test = permutation_test(&treated, &plates, 100, statistic, random(1));
        assert!(test.exact && test.arrangements == 18.0);
        assert!(shares.get());
        assert!((test.p - 2.0 / 18.0).abs() < 1e-12, "{}", test.p);
    }

    #[test]
    fn random_arrangements_come_near_the_exact_p() {
        let treated: Vec<bool> = (0..12).map(|unit| unit < 6).collect();
        let values: Vec<f64> =
            (0..12).map(|unit| f64::from(unit * unit % 7) + if unit < 6 { 1.0 } else { 0.0 }).collect();
        let exact = permutation_test(&treated, &[0; 12], 1000, difference(&values), random(1));
        let some = permutation_test(&treated, &[0; 12], 900, difference(&values), random(2));
        assert!(exact.exact && exact.null.len() == 924 && !some.exact && some.null.len() == 900);
        assert!((exact.p - some.p).abs() < 0.05, "{} {}", exact.p, some.p);
    }

    #[test]
    fn labels_without_an_alternative_have_p_of_one() {
        let test = permutation_test(&[true, true], &[0, 0], 10, |_| 3.0, random(1));
        assert_eq!((test.p, test.arrangements, test.exact), (1.0, 1.0, true));
        assert_eq!(bonferroni(&[0.01, f64::NAN, 0.6])[..1], [0.02]);
        assert_eq!(bonferroni(&[0.01, f64::NAN, 0.6])[2], 1.0);
    }
}
