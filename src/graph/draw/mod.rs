//! Drawings of a graph: for Graphviz, for Mermaid, and a picture of our own. A group is one node: `sweep × 5`.

mod layout;
mod svg;

use std::{collections::BTreeMap, fmt::Write};

use super::{Graph, Source};
use crate::artifact::ArtifactType;

pub use svg::svg;

/// A stage with all its instances.
struct Node<'a> {
    name: &'a str,
    kind: &'static str,
    about: &'static str,
    members: usize,
    /// What it gives first: the colour.
    gives: ArtifactType,
}

/// All that one stage takes from another.
struct Edge<'a> {
    from: usize,
    to: usize,
    /// The output ports, each with the input port that takes it.
    ports: Vec<(&'a str, &'a str)>,
    /// Whether all of it is figures.
    figures: bool,
}

/// The graph with groups as single nodes, in the order of the instances.
struct Drawing<'a> {
    nodes: Vec<Node<'a>>,
    edges: Vec<Edge<'a>>,
}

impl<'a> Drawing<'a> {
    fn of(graph: &'a Graph) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        let mut stage_of = Vec::with_capacity(graph.instances.len());
        for instance in &graph.instances {
            let known = nodes.iter().position(|node| node.name == instance.stage);
            let at = known.unwrap_or(nodes.len());
            if known.is_none() {
                nodes.push(Node {
                    name: &instance.stage,
                    kind: instance.kind.name(),
                    about: instance.kind.about(),
                    members: 0,
                    gives: instance.outputs.first().map_or(ArtifactType::Files, |output| output.kind),
                });
            }
            nodes[at].members += 1;
            stage_of.push(at);
        }
        let mut edges: BTreeMap<(usize, usize), Edge> = BTreeMap::new();
        for (to, instance) in graph.instances.iter().enumerate() {
            for (input, sources) in &instance.inputs {
                for source in sources {
                    let Source::Output { instance: from, port } = source else { continue };
                    let ends = (stage_of[*from], stage_of[to]);
                    let new = || Edge { from: ends.0, to: ends.1, ports: Vec::new(), figures: true };
                    let edge = edges.entry(ends).or_insert_with(new);
                    let output = graph.instances[*from].outputs.iter().find(|output| output.name == *port);
                    edge.figures &= output.is_some_and(|output| output.kind == ArtifactType::Figures);
                    let pair = (port.as_str(), input.as_str());
                    if !edge.ports.contains(&pair) {
                        edge.ports.push(pair);
                    }
                }
            }
        }
        Self { nodes, edges: edges.into_values().collect() }
    }

    /// The output ports of an edge, each once.
    fn ports(edge: &Edge<'a>) -> String {
        let mut ports: Vec<&str> = edge.ports.iter().map(|(output, _)| *output).collect();
        ports.dedup();
        ports.join(", ")
    }
}

impl Node<'_> {
    fn title(&self) -> String {
        if self.members > 1 { format!("{} × {}", self.name, self.members) } else { self.name.to_owned() }
    }
}

/// The graph in Graphviz's language.
pub fn dot(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let mut text = format!("digraph \"{}\" {{\n", graph.pipeline);
    text.push_str("  node [shape=box, style=\"rounded,filled\", fillcolor=\"#f4f6f8\", fontname=\"Helvetica\"];\n");
    text.push_str("  edge [fontname=\"Helvetica\", fontsize=10];\n");
    for node in &drawing.nodes {
        writeln!(text, "  \"{}\" [label=\"{}\\n{}\"];", node.name, node.title(), node.kind)
            .expect("writing to a string");
    }
    for edge in &drawing.edges {
        let (from, to) = (drawing.nodes[edge.from].name, drawing.nodes[edge.to].name);
        writeln!(text, "  \"{from}\" -> \"{to}\" [label=\"{}\"];", Drawing::ports(edge)).expect("writing to a string");
    }
    text.push_str("}\n");
    text
}

/// The graph in Mermaid's language, which GitHub and many editors draw.
pub fn mermaid(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let mut text = "flowchart TD\n".to_owned();
    for (at, node) in drawing.nodes.iter().enumerate() {
        writeln!(text, "  n{at}[\"{}<br/><small>{}</small>\"]", node.title(), node.kind).expect("writing to a string");
    }
    for edge in &drawing.edges {
        writeln!(text, "  n{} -->|{}| n{}", edge.from, Drawing::ports(edge), edge.to).expect("writing to a string");
    }
    text
}
