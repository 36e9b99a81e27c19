//! Hierarchical clustering, and the order in which its leaves are shown.

use kodama::{Method, linkage};

/// A merge of two clusters. Leaves are the clusters 0 to n − 1; merge number i makes cluster n + i.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merge {
    /// The two clusters, the lower number first.
    pub clusters: [usize; 2],
    /// Their distance: the mean over all pairs of their leaves.
    pub distance: f64,
}

/// A hierarchical clustering of leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustering {
    /// The merges, by rising distance; one fewer than leaves.
    pub merges: Vec<Merge>,
    /// The leaves in the order that the tree allows in which the sum of the distances of neighbours is smallest; of the two
    /// directions, the one that begins with the lower number.
    pub order: Vec<usize>,
}

/// Clusters by average linkage (UPGMA) the leaves whose distances are given as a square matrix, row by row; only what is
/// above the diagonal is read. Leaves are ordered optimally after Bar-Joseph, Gifford and Jaakkola 2001
/// (`scipy.cluster.hierarchy.optimal_leaf_ordering`).
///
/// # Panics
/// When the matrix is not square, or a distance is not finite.
#[must_use]
pub fn cluster(distances: &[f64], leaves: usize) -> Clustering {
    assert_eq!(distances.len(), leaves * leaves, "distances of {leaves} leaves");
    let mut condensed: Vec<f64> =
        (0..leaves).flat_map(|a| distances[a * leaves + a + 1..(a + 1) * leaves].iter().copied()).collect();
    assert!(condensed.iter().all(|distance| distance.is_finite()), "distances are finite");
    if leaves < 2 {
        return Clustering { merges: Vec::new(), order: (0..leaves).collect() };
    }
    let dendrogram = linkage(&mut condensed, leaves, Method::Average);
    let merges: Vec<Merge> = dendrogram
        .steps()
        .iter()
        .map(|step| Merge { clusters: [step.cluster1, step.cluster2], distance: step.dissimilarity })
        .collect();
    let order = optimal_order(&merges, leaves, |a, b| distances[a.min(b) * leaves + a.max(b)]);
    Clustering { merges, order }
}

/// A cluster of the tree: its children, and the leaves of each.
struct Node {
    children: Option<[usize; 2]>,
    leaves: Vec<usize>,
}

/// What the ordering works out for two leaves that stand at the two ends of the smallest cluster that holds both.
#[derive(Clone, Copy)]
struct Ends {
    /// The sum of the distances of neighbours in the best such order.
    cost: f64,
    /// The two leaves in the middle where the children meet: the first in the first leaf's child.
    middle: [usize; 2],
}

fn optimal_order(merges: &[Merge], leaves: usize, distance: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    let mut nodes: Vec<Node> = (0..leaves).map(|leaf| Node { children: None, leaves: vec![leaf] }).collect();
    let mut best = vec![Ends { cost: 0.0, middle: [0; 2] }; leaves * leaves];
    for merge in merges {
        let [left, right] = merge.clusters.map(|cluster| &nodes[cluster]);
        for &first in &left.leaves {
            // The best way from `first` through its cluster to each leaf of the other.
            let inner = opposite(&nodes, left, first);
            let across: Vec<(f64, usize)> = right
                .leaves
                .iter()
                .map(|&entry| {
                    let by = |&exit: &usize| best[first * leaves + exit].cost + distance(exit, entry);
                    inner.iter().map(|exit| (by(exit), *exit)).min_by(|a, b| a.0.total_cmp(&b.0)).expect("a leaf")
                })
                .collect();
            for &last in &right.leaves {
                let entries = opposite(&nodes, right, last);
                let through = right.leaves.iter().zip(&across).filter(|(entry, _)| entries.contains(entry));
                let (cost, middle) = through
                    .map(|(&entry, &(cost, exit))| (cost + best[last * leaves + entry].cost, [exit, entry]))
                    .min_by(|a, b| a.0.total_cmp(&b.0))
                    .expect("a leaf");
                best[first * leaves + last] = Ends { cost, middle };
                best[last * leaves + first] = Ends { cost, middle: [middle[1], middle[0]] };
            }
        }
        let both = [left.leaves.as_slice(), &right.leaves].concat();
        nodes.push(Node { children: Some(merge.clusters), leaves: both });
    }
    let root = nodes.last().expect("at least two leaves");
    let [left, right] = root.children.expect("at least two leaves").map(|child| &nodes[child]);
    let ends =
        left.leaves.iter().flat_map(|&first| right.leaves.iter().map(move |&last| [first.min(last), first.max(last)]));
    let [first, last] = ends
        .min_by(|a, b| {
            let cost = |ends: &[usize; 2]| best[ends[0] * leaves + ends[1]].cost;
            cost(a).total_cmp(&cost(b)).then(a.cmp(b))
        })
        .expect("at least two leaves");
    let mut order = Vec::with_capacity(leaves);
    lay_out(first, last, &best, leaves, &mut order);
    order
}

/// The leaves that can stand at the other end of a cluster in which `leaf` stands at one end.
fn opposite<'a>(nodes: &'a [Node], node: &'a Node, leaf: usize) -> &'a [usize] {
    let Some([left, right]) = node.children else { return &node.leaves };
    let other = if nodes[left].leaves.contains(&leaf) { right } else { left };
    &nodes[other].leaves
}

fn lay_out(first: usize, last: usize, best: &[Ends], leaves: usize, order: &mut Vec<usize>) {
    if first == last {
        order.push(first);
        return;
    }
    let [exit, entry] = best[first * leaves + last].middle;
    lay_out(first, exit, best, leaves, order);
    lay_out(entry, last, best, leaves, order);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_on_a_line_stand_side_by_side() {
        let at = [3.0, 10.0, 1.0, 11.5, 2.2, 30.0];
        let distances: Vec<f64> = at.iter().flat_map(|a: &f64| at.iter().map(move |b| (a - b).abs())).collect();
        let clustering = cluster(&distances, 6);
        assert_eq!(clustering.order, [2, 4, 0, 1, 3, 5]);
        assert_eq!(clustering.merges[0].clusters, [0, 4]);
        assert!((clustering.merges[0].distance - 0.8).abs() < 1e-12);
    }

    #[test]
    fn none_one_and_two_leaves() {
        assert_eq!(cluster(&[], 0).order, [0usize; 0]);
        assert_eq!(cluster(&[0.0], 1).order, [0]);
        assert_eq!(cluster(&[0.0, 2.0, 2.0, 0.0], 2).order, [0, 1]);
    }

    #[test]
    fn no_order_of_the_tree_is_better() {
        // All orders that the tree allows, by turning every merge or not.
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        let leaves = 9;
        let points: Vec<[f64; 2]> = (0..leaves).map(|_| [random(), random()]).collect();
        let distance = |a: usize, b: usize| libm::hypot(points[a][0] - points[b][0], points[a][1] - points[b][1]);
        let matrix: Vec<f64> = (0..leaves * leaves).map(|i| distance(i / leaves, i % leaves)).collect();
        let clustering = cluster(&matrix, leaves);
        let cost = |order: &[usize]| order.windows(2).map(|pair| distance(pair[0], pair[1])).sum::<f64>();
        let least = (0..1 << clustering.merges.len())
            .map(|turns: u32| {
                let mut orders: Vec<Vec<usize>> = (0..leaves).map(|leaf| vec![leaf]).collect();
                for (index, merge) in clustering.merges.iter().enumerate() {
                    let [a, b] = merge.clusters;
                    // A turned child is read backwards.
                    let mut left = orders[a].clone();
                    if turns >> index & 1 == 1 {
                        left.reverse();
                    }
                    let right = orders[b].clone();
                    let straight = [left.clone(), right.clone()].concat();
                    let turned = [left, right.into_iter().rev().collect()].concat();
                    orders.push(if cost(&turned) < cost(&straight) { turned } else { straight });
                }
                cost(orders.last().unwrap())
            })
            .fold(f64::INFINITY, f64::min);
        assert!(cost(&clustering.order) <= least + 1e-12, "{} {least}", cost(&clustering.order));
        let mut sorted = clustering.order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..leaves).collect::<Vec<_>>());
    }
}
