//! The same table through SciPy and scikit-learn gives the same numbers (`tests/fixtures/stats/make.py`).

use serde_json::Value;

use super::*;

const TABLE: &str = include_str!("../../tests/fixtures/stats/table.csv");
const EXPECTED: &str = include_str!("../../tests/fixtures/stats/expected.json");
const TOLERANCE: f64 = 1e-8;

struct Peers {
    columns: Vec<Vec<f64>>,
    groups: Vec<String>,
    positive: Vec<bool>,
    expected: Value,
}

fn peers() -> Peers {
    let mut reader = csv::Reader::from_reader(TABLE.as_bytes());
    let mut peers = Peers {
        columns: vec![Vec::new(); 8],
        groups: Vec::new(),
        positive: Vec::new(),
        expected: serde_json::from_str(EXPECTED).unwrap(),
    };
    for record in reader.records() {
        let record = record.unwrap();
        for (column, text) in peers.columns.iter_mut().zip(&record) {
            column.push(text.parse().unwrap());
        }
        peers.groups.push(record[8].to_owned());
        peers.positive.push(&record[9] == "true");
    }
    assert_eq!(peers.positive.len(), 80);
    peers
}

impl Peers {
    fn numbers(&self, name: &str) -> Vec<f64> {
        fn flat(value: &Value) -> Vec<f64> {
            match value {
                Value::Array(values) => values.iter().flat_map(flat).collect(),
                other => vec![other.as_f64().unwrap()],
            }
        }
        flat(&self.expected[name])
    }

    fn holds(&self, name: &str, ours: &[f64]) {
        let theirs = self.numbers(name);
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() < TOLERANCE, "{name}: {ours} here, {theirs} there");
        }
    }

    fn split(&self, column: usize) -> [Vec<f64>; 2] {
        [true, false].map(|wanted| {
            let some = self.columns[column].iter().zip(&self.positive).filter(|(_, label)| **label == wanted);
            some.map(|(value, _)| *value).collect()
        })
    }
}

fn matrix(columns: &[Vec<f64>], correlation: fn(&[f64], &[f64]) -> f64) -> Vec<f64> {
    columns.iter().flat_map(|a| columns.iter().map(|b| correlation(a, b))).collect()
}

#[test]
fn correlations_and_clusters() {
    let peers = peers();
    peers.holds("pearson", &matrix(&peers.columns, pearson));
    let ranked = matrix(&peers.columns, spearman);
    peers.holds("spearman", &ranked);
    let distances: Vec<f64> = ranked.iter().map(|r| 1.0 - r.abs()).collect();
    let clustering = cluster(&distances, 8);
    peers.holds("cluster distances", &clustering.merges.iter().map(|merge| merge.distance).collect::<Vec<_>>());
    peers.holds("leaf order", &clustering.order.iter().map(|&leaf| leaf as f64).collect::<Vec<_>>());
}

#[test]
fn samples() {
    let peers = peers();
    let [(a, b), (c, d)] = [1, 2].map(|column| {
        let [positive, negative] = peers.split(column);
        (positive, negative)
    });
    let first = &peers.columns[0];
    let tests =
        [(&a[..], &b[..]), (&c, &d), (&first[..40], &first[40..])].map(|(a, b)| kolmogorov_smirnov(a, b).unwrap());
    peers.holds("kolmogorov smirnov", &tests.map(|test| [test.distance, test.p]).concat());
    peers.holds("area under curve", &[area_under_curve(&a, &b).unwrap(), area_under_curve(&c, &d).unwrap()]);
    let points = |rows: std::ops::Range<usize>| -> Vec<Vec<f64>> {
        rows.map(|row| peers.columns[..3].iter().map(|column| column[row]).collect()).collect()
    };
    let coverage = nearest_neighbour_coverage(&points(0..40), &points(40..80), 3).unwrap();
    peers.holds("coverage", &[coverage.precision, coverage.recall]);
}

#[test]
fn explanations() {
    let peers = peers();
    peers.holds("between groups", &[between_groups(&peers.columns[6], &peers.groups).unwrap().share]);
    let fit = least_squares(&peers.columns[..2], &peers.columns[3..4]).unwrap().remove(0);
    let predicted: Vec<f64> = fit.predict(&peers.columns[..2], 80).into_iter().map(|value| value + 0.25).collect();
    peers.holds("explained variance", &[explained_variance(&peers.columns[3], &predicted).unwrap()]);
    peers.holds("r squared", &[r_squared(&peers.columns[3], &predicted).unwrap()]);
    peers.holds("components", &pca(&peers.columns).unwrap().explained);
}

#[test]
fn permutations() {
    let peers = peers();
    let values = &peers.columns[0][..12];
    let treated: Vec<bool> = (0..12).map(|unit| unit < 6).collect();
    let statistic = |labels: &[bool]| {
        let mean_of = |wanted| {
            mean(&values.iter().zip(labels).filter(|(_, l)| **l == wanted).map(|(v, _)| *v).collect::<Vec<_>>())
        };
        (mean_of(true) - mean_of(false)).abs()
    };
    let test = permutation_test(&treated, &[0; 12], 1000, statistic, |_| unreachable!("all are tried"));
    peers.holds("permutation", &[test.observed, test.p]);
}
