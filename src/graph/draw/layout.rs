//! A layered layout: every node below those that it takes from, few crossings, edges as straight as they can be.
//!
//! The steps are those of Sugiyama, Tagawa and Toda (1981): layers by longest path, edges over several layers cut into pieces
//! by dummy nodes, order within a layer by repeated barycentres, and places by least squares over all edges, layer by layer
//! (under the condition that nodes do not overlap, the best places of one layer are an isotonic regression).

/// How far apart things stand, in pixels.
pub(super) struct Spacing {
    pub(super) node_height: f64,
    pub(super) between_nodes: f64,
    pub(super) between_layers: f64,
}

/// Where everything stands, in pixels. The top left corner of the whole is (0, 0).
pub(super) struct Layout {
    /// The centre of each node.
    pub(super) nodes: Vec<(f64, f64)>,
    /// For each edge, the points that it passes, its ends at the nodes' borders included.
    pub(super) edges: Vec<Vec<(f64, f64)>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A node, or the place where an edge passes a layer.
struct Vertex {
    layer: usize,
    width: f64,
    above: Vec<usize>,
    below: Vec<usize>,
    dummy: bool,
}

const DUMMY_WIDTH: f64 = 10.0;
const SWEEPS: usize = 30;
const PLACE_SWEEPS: usize = 300;

/// Lays out nodes of these widths. An edge goes from a node to one with a higher number.
pub(super) fn layout(widths: &[f64], edges: &[(usize, usize)], spacing: &Spacing) -> Layout {
    let layers = layers(widths.len(), edges);
    let mut vertices: Vec<Vertex> = widths
        .iter()
        .zip(&layers)
        .map(|(&width, &layer)| Vertex { layer, width, above: Vec::new(), below: Vec::new(), dummy: false })
        .collect();
    let mut chains = Vec::with_capacity(edges.len());
    for &(from, to) in edges {
        let mut chain = vec![from];
        for layer in layers[from] + 1..layers[to] {
            vertices.push(Vertex { layer, width: DUMMY_WIDTH, above: Vec::new(), below: Vec::new(), dummy: true });
            chain.push(vertices.len() - 1);
        }
        chain.push(to);
        for pair in chain.windows(2) {
            vertices[pair[0]].below.push(pair[1]);
            vertices[pair[1]].above.push(pair[0]);
        }
        chains.push(chain);
    }
    let rows = order(&vertices);
    let x = places(&vertices, &rows, spacing);

    let leftmost = |at: usize| x[at] - vertices[at].width / 2.0;
    let left = (0..vertices.len()).map(leftmost).fold(f64::INFINITY, f64::min);
    let right = (0..vertices.len()).map(|at| x[at] + vertices[at].width / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let (left, right) = if vertices.is_empty() { (0.0, 0.0) } else { (left, right) };
    let pitch = spacing.node_height + spacing.between_layers;
    let centre = |at: usize| (x[at] - left, vertices[at].layer as f64 * pitch + spacing.node_height / 2.0);
    Layout {
        nodes: (0..widths.len()).map(centre).collect(),
        edges: routes(&vertices, edges, &chains, &x, &centre, spacing),
        width: right - left,
        height: (rows.len() as f64 * pitch - spacing.between_layers).max(0.0),
    }
}

/// The layer of each node: just below the lowest that it takes from; then nodes that more edges leave than enter move down to
/// those that need them.
fn layers(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layers = vec![0; nodes];
    for node in 0..nodes {
        let above = edges.iter().filter(|(_, to)| *to == node).map(|(from, _)| layers[*from] + 1);
        layers[node] = above.max().unwrap_or(0);
    }
    for node in (0..nodes).rev() {
        let entering = edges.iter().filter(|(_, to)| *to == node).count();
        let leaving: Vec<usize> = edges.iter().filter(|(from, _)| *from == node).map(|(_, to)| layers[*to]).collect();
        if leaving.len() > entering {
            layers[node] = leaving.into_iter().min().map_or(layers[node], |lowest| lowest - 1);
        }
    }
    layers
}

/// The vertices of each layer from left to right, with few crossings.
fn order(vertices: &[Vertex]) -> Vec<Vec<usize>> {
    let depth = vertices.iter().map(|vertex| vertex.layer + 1).max().unwrap_or(0);
    let mut rows = vec![Vec::new(); depth];
    // Depth first, so that what hangs together begins together.
    let mut seen = vec![false; vertices.len()];
    for start in 0..vertices.len() {
        let mut stack = vec![start];
        while let Some(at) = stack.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                rows[vertices[at].layer].push(at);
                stack.extend(vertices[at].below.iter().rev());
            }
        }
    }
    let mut best = rows.clone();
    let mut fewest = crossings(vertices, &best);
    for sweep in 0..SWEEPS {
        let downwards = sweep % 2 == 0;
        let row_order: Vec<usize> =
            if downwards { (1..depth).collect() } else { (0..depth.saturating_sub(1)).rev().collect() };
        for row in row_order {
            let positions = positions(vertices.len(), &rows);
            let barycentre = |at: usize| {
                let neighbours = if downwards { &vertices[at].above } else { &vertices[at].below };
                if neighbours.is_empty() {
                    positions[at] as f64
                } else {
                    neighbours.iter().map(|&other| positions[other] as f64).sum::<f64>() / neighbours.len() as f64
                }
            };
            rows[row].sort_by(|&a, &b| barycentre(a).total_cmp(&barycentre(b)));
        }
        exchange(vertices, &mut rows);
        let found = crossings(vertices, &rows);
        if found < fewest {
            fewest = found;
            best.clone_from(&rows);
        }
    }
    best
}

fn positions(count: usize, rows: &[Vec<usize>]) -> Vec<usize> {
    let mut positions = vec![0; count];
    for row in rows {
        for (position, &at) in row.iter().enumerate() {
            positions[at] = position;
        }
    }
    positions
}

/// Crossings between the edges of `a` and `b` when `a` stands left of `b`.
fn crossings_of(a: &[usize], b: &[usize], positions: &[usize]) -> usize {
    a.iter().map(|&left| b.iter().filter(|&&right| positions[right] < positions[left]).count()).sum()
}

fn crossings(vertices: &[Vertex], rows: &[Vec<usize>]) -> usize {
    let positions = positions(vertices.len(), rows);
    let row = |row: &Vec<usize>| {
        let pair = |(left, &a): (usize, &usize)| {
            let rest = row[left + 1..].iter();
            rest.map(|&b| crossings_of(&vertices[a].below, &vertices[b].below, &positions)).sum::<usize>()
        };
        row.iter().enumerate().map(pair).sum::<usize>()
    };
    rows.iter().map(row).sum()
}

/// Exchanges neighbours as long as that saves crossings.
fn exchange(vertices: &[Vertex], rows: &mut [Vec<usize>]) {
    let mut positions = positions(vertices.len(), rows);
    for _ in 0..vertices.len() {
        let mut better = false;
        for row in rows.iter_mut() {
            for left in 1..row.len() {
                let (a, b) = (row[left - 1], row[left]);
                let count = |a: usize, b: usize| {
                    crossings_of(&vertices[a].below, &vertices[b].below, &positions)
                        + crossings_of(&vertices[a].above, &vertices[b].above, &positions)
                };
                if count(b, a) < count(a, b) {
                    row.swap(left - 1, left);
                    positions.swap(a, b);
                    better = true;
                }
            }
        }
        if !better {
            return;
        }
    }
}

/// The x coordinate of every vertex's centre.
fn places(vertices: &[Vertex], rows: &[Vec<usize>], spacing: &Spacing) -> Vec<f64> {
    let distance = |a: usize, b: usize| {
        let gap = if vertices[a].dummy && vertices[b].dummy { 0.5 } else { 1.0 } * spacing.between_nodes;
        f64::midpoint(vertices[a].width, vertices[b].width) + gap
    };
    let mut x = vec![0.0; vertices.len()];
    for row in rows {
        for pair in row.windows(2) {
            x[pair[1]] = x[pair[0]] + distance(pair[0], pair[1]);
        }
        let middle = row.last().map_or(0.0, |&last| x[last] / 2.0);
        for &at in row {
            x[at] -= middle;
        }
    }
    // How much an edge wants to be straight: where it passes layers more than where it begins and ends.
    let stiffness = |a: usize, b: usize| match (vertices[a].dummy, vertices[b].dummy) {
        (true, true) => 8.0,
        (false, false) => 1.0,
        _ => 2.0,
    };
    for sweep in 0..PLACE_SWEEPS {
        let downwards = sweep % 2 == 0;
        // The place that makes a vertex's edges straightest, and how much depends on it.
        let wanted = |at: usize, x: &[f64]| {
            let neighbours = || vertices[at].above.iter().chain(&vertices[at].below);
            let weight: f64 = neighbours().map(|&other| stiffness(at, other)).sum();
            let sum: f64 = neighbours().map(|&other| stiffness(at, other) * x[other]).sum();
            if weight > 0.0 { (sum / weight, weight) } else { (x[at], 1.0) }
        };
        let row_order: Vec<&Vec<usize>> = if downwards { rows.iter().collect() } else { rows.iter().rev().collect() };
        for row in row_order {
            // Without the distances that the nodes must keep, the places need only ascend.
            let mut offset = 0.0;
            let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
            let mut offsets = Vec::with_capacity(row.len());
            for (number, &at) in row.iter().enumerate() {
                if number > 0 {
                    offset += distance(row[number - 1], at);
                }
                offsets.push(offset);
                let (place, weight) = wanted(at, &x);
                let mut block = (weight * (place - offset), weight, 1);
                while let Some(&(sum, weight, count)) = blocks.last().filter(|last| last.0 / last.1 > block.0 / block.1)
                {
                    block = (block.0 + sum, block.1 + weight, block.2 + count);
                    blocks.pop();
                }
                blocks.push(block);
            }
            let starts = blocks.iter().flat_map(|&(sum, weight, count)| std::iter::repeat_n(sum / weight, count));
            for ((&at, offset), start) in row.iter().zip(&offsets).zip(starts) {
                x[at] = start + offset;
            }
        }
    }
    x
}

/// The points that each edge passes. Where several edges leave or enter a node, they are spread over its border.
fn routes(
    vertices: &[Vertex],
    edges: &[(usize, usize)],
    chains: &[Vec<usize>],
    x: &[f64],
    centre: &dyn Fn(usize) -> (f64, f64),
    spacing: &Spacing,
) -> Vec<Vec<(f64, f64)>> {
    // Where along a node's border the edge at this end stands: its rank among the node's edges by the direction it goes.
    let port = |node: usize, mine: usize, leaving: bool| {
        let other = |edge: usize| if leaving { chains[edge][1] } else { chains[edge][chains[edge].len() - 2] };
        let mut all: Vec<usize> = (0..edges.len())
            .filter(|&edge| if leaving { edges[edge].0 == node } else { edges[edge].1 == node })
            .collect();
        all.sort_by(|&a, &b| x[other(a)].total_cmp(&x[other(b)]));
        let rank = all.iter().position(|&edge| edge == mine).unwrap_or(0) as f64;
        let step = (14.0f64).min((vertices[node].width - 24.0) / all.len() as f64);
        centre(node).0 + (rank - (all.len() - 1) as f64 / 2.0) * step
    };
    let half = spacing.node_height / 2.0;
    (0..edges.len())
        .map(|edge| {
            let (from, to) = edges[edge];
            let mut points = vec![(port(from, edge, true), centre(from).1 + half)];
            for &dummy in &chains[edge][1..chains[edge].len() - 1] {
                let (x, y) = centre(dummy);
                points.push((x, y - half));
                points.push((x, y + half));
            }
            points.push((port(to, edge, false), centre(to).1 - half));
            points
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Spacing = Spacing { node_height: 40.0, between_nodes: 20.0, between_layers: 30.0 };

    #[test]
    fn nothing_overlaps_and_every_edge_goes_down() {
        let edges = [(0, 2), (1, 2), (0, 3), (2, 4), (3, 4), (0, 4), (1, 5), (5, 4), (6, 7)];
        let widths = [100.0, 60.0, 140.0, 80.0, 100.0, 120.0, 90.0, 90.0];
        let layout = layout(&widths, &edges, &SPACING);
        for a in 0..widths.len() {
            for b in 0..a {
                let apart = (layout.nodes[a].0 - layout.nodes[b].0).abs() >= f64::midpoint(widths[a], widths[b]);
                assert!(apart || layout.nodes[a].1 != layout.nodes[b].1, "{a} and {b}");
            }
        }
        for (edge, points) in edges.iter().zip(&layout.edges) {
            assert!(points.windows(2).all(|pair| pair[0].1 < pair[1].1), "{edge:?}: {points:?}");
        }
        assert!(layout.nodes.iter().zip(&widths).all(|((x, _), width)| x - width / 2.0 >= -1e-9));
        assert!(layout.nodes.iter().zip(&widths).all(|((x, _), width)| x + width / 2.0 <= layout.width + 1e-9));
    }

    #[test]
    fn a_crossing_that_need_not_be_is_not() {
        // 0 and 1 above, 2 and 3 below, crosswise.
        let layout = layout(&[50.0; 4], &[(0, 3), (1, 2)], &SPACING);
        assert_eq!(layout.nodes[0].0 < layout.nodes[1].0, layout.nodes[3].0 < layout.nodes[2].0);
    }

    #[test]
    fn an_empty_graph_has_no_size() {
        let layout = layout(&[], &[], &SPACING);
        assert_eq!((layout.width, layout.height), (0.0, 0.0));
    }
}
