//! The graph as a picture: one SVG without anything from outside.

use std::fmt::Write;

use super::{
    Drawing, Node,
    layout::{Layout, Spacing, layout},
};
use crate::{artifact::ArtifactType, graph::Graph};

const NODE_HEIGHT: f64 = 46.0;
const SPACING: Spacing = Spacing { node_height: NODE_HEIGHT, between_nodes: 22.0, between_layers: 40.0 };
const MARGIN: f64 = 20.0;
/// How far a group's lowest sheet looks out.
const STACK: f64 = 6.0;
const LEGEND: f64 = 30.0;
const NAME_SIZE: f64 = 13.0;
const KIND_SIZE: f64 = 11.0;
const FONT: &str = "Inter, 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, sans-serif";

/// Fill and stroke for a stage that gives artifacts of this type first.
const fn colours(gives: ArtifactType) -> (&'static str, &'static str) {
    match gives {
        ArtifactType::Fields | ArtifactType::Labels => ("#e6f0fb", "#2f6fb0"),
        ArtifactType::Cells => ("#e2f5f0", "#12806f"),
        ArtifactType::Model => ("#efe9fb", "#7449bd"),
        ArtifactType::Tables => ("#fdf2d8", "#a66f08"),
        ArtifactType::Figures => ("#fde9f1", "#bb3a74"),
        ArtifactType::Report => ("#e9edf2", "#334155"),
        ArtifactType::Files => ("#f0f1f3", "#667180"),
    }
}

/// The width of a text, roughly: letters of a sans-serif font come in three widths.
fn text_width(text: &str, size: f64) -> f64 {
    let letter = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | '\'' | '|' | '!' | ':' => 0.28,
        'f' | 't' | 'r' | '-' | ' ' | '(' | ')' | '[' | ']' => 0.38,
        'm' | 'w' | 'M' | 'W' | '×' => 0.86,
        c if c.is_ascii_uppercase() => 0.70,
        _ => 0.57,
    };
    text.chars().map(letter).sum::<f64>() * size
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The graph as an SVG: the flow goes down; a group is a stack; colours say what a stage gives.
///
/// Figures that go to a stage which only gathers them are not drawn as edges where the figures' stage has others: a dot in
/// the stage's corner says the same, and the rest of the flow stays readable.
pub fn svg(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let gathered: Vec<bool> = drawing.edges.iter().map(|edge| edge.figures && gathers(&drawing, edge.to)).collect();
    let kept: Vec<usize> = (0..drawing.edges.len())
        .filter(|&at| {
            let from = drawing.edges[at].from;
            !gathered[at]
                || drawing.edges.iter().zip(&gathered).all(|(other, gathered)| other.from != from || *gathered)
        })
        .collect();
    let dotted =
        |node: usize| drawing.edges.iter().zip(&gathered).any(|(edge, gathered)| *gathered && edge.from == node);

    let widths: Vec<f64> = drawing.nodes.iter().map(width).collect();
    let ends: Vec<(usize, usize)> = kept.iter().map(|&at| (drawing.edges[at].from, drawing.edges[at].to)).collect();
    let layout = layout(&widths, &ends, &SPACING);

    let mut body = String::new();
    edges(&mut body, &drawing, &kept, &layout);
    for (at, node) in drawing.nodes.iter().enumerate() {
        draw_node(&mut body, node, layout.nodes[at], widths[at], dotted(at));
    }
    let legend_width = legend(&mut body, &drawing, layout.height + LEGEND, gathered.contains(&true));
    let (inner_width, inner_height) = (layout.width.max(legend_width), layout.height + LEGEND + 8.0);
    let (width, height) = ((inner_width + 2.0 * MARGIN).ceil(), (inner_height + 2.0 * MARGIN).ceil());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" font-family=\"{FONT}\">\n<title>{title}</title>\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0.6 L8 4 L0 7.4 z\" fill=\"#8492a3\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n\
         <g transform=\"translate({x} {MARGIN})\">\n{body}</g>\n</svg>\n",
        title = escape(&format!("The pipeline {}: {} stages", graph.pipeline, drawing.nodes.len())),
        x = MARGIN + ((inner_width - layout.width) / 2.0).max(0.0).floor(),
    )
}

/// Whether a stage takes nothing but figures, and from several stages: a report.
fn gathers(drawing: &Drawing, node: usize) -> bool {
    let mut entering = drawing.edges.iter().filter(|edge| edge.to == node);
    entering.clone().count() > 2 && entering.all(|edge| edge.figures)
}

fn badge(node: &Node) -> Option<String> {
    (node.members > 1).then(|| format!("× {}", node.members))
}

fn width(node: &Node) -> f64 {
    let badge = badge(node).map_or(0.0, |badge| text_width(&badge, KIND_SIZE) + 20.0);
    (text_width(node.name, NAME_SIZE) + badge).max(text_width(node.kind, KIND_SIZE)) + 32.0
}

fn draw_node(svg: &mut String, node: &Node, (x, y): (f64, f64), width: f64, dotted: bool) {
    let (fill, stroke) = colours(node.gives);
    let (left, top) = (x - width / 2.0, y - NODE_HEIGHT / 2.0);
    let rect = |svg: &mut String, shift: f64| {
        writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{NODE_HEIGHT}\" rx=\"9\" fill=\"{fill}\" \
             stroke=\"{stroke}\" stroke-width=\"1.2\"/>",
            left + shift,
            top - shift,
        )
        .expect("writing to a string");
    };
    writeln!(svg, "<g><title>{}: {}</title>", escape(&node.title()), escape(node.about)).expect("writing to a string");
    if node.members > 1 {
        rect(svg, STACK);
        rect(svg, STACK / 2.0);
    }
    rect(svg, 0.0);
    let badge = badge(node);
    let badge_width = badge.as_ref().map_or(0.0, |badge| text_width(badge, KIND_SIZE) + 12.0);
    let name_x = if badge.is_some() { x - (badge_width + 8.0) / 2.0 } else { x };
    writeln!(
        svg,
        "<text x=\"{name_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"{NAME_SIZE}\" font-weight=\"600\" \
         fill=\"#1c2733\">{}</text>",
        y - 3.0,
        escape(node.name),
    )
    .expect("writing to a string");
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"{KIND_SIZE}\" fill=\"{stroke}\">{}</text>",
        y + 14.0,
        escape(node.kind),
    )
    .expect("writing to a string");
    if let Some(badge) = badge {
        let badge_left = name_x + text_width(node.name, NAME_SIZE) / 2.0 + 8.0;
        writeln!(
            svg,
            "<rect x=\"{badge_left:.1}\" y=\"{:.1}\" width=\"{badge_width:.1}\" height=\"16\" rx=\"8\" fill=\"{stroke}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"{KIND_SIZE}\" font-weight=\"600\" \
             fill=\"#ffffff\">{badge}</text>",
            y - 15.5,
            badge_left + badge_width / 2.0,
            y - 3.5,
        )
        .expect("writing to a string");
    }
    if dotted {
        let (fill, stroke) = (colours(ArtifactType::Figures).1, "#ffffff");
        writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4.5\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.5\"/>",
            left + width - 1.5,
            top + NODE_HEIGHT - 1.5,
        )
        .expect("writing to a string");
    }
    svg.push_str("</g>\n");
}

fn edges(svg: &mut String, drawing: &Drawing, kept: &[usize], layout: &Layout) {
    svg.push_str("<g fill=\"none\" stroke=\"#8492a3\" stroke-width=\"1.4\">\n");
    for (&at, points) in kept.iter().zip(&layout.edges) {
        let edge = &drawing.edges[at];
        let mut points = points.clone();
        if let Some(end) = points.last_mut().filter(|_| drawing.nodes[edge.to].members > 1) {
            end.1 -= STACK;
        }
        let mut path = format!("M{:.1} {:.1}", points[0].0, points[0].1);
        for pair in points.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let middle = f64::midpoint(y0, y1);
            if (x0 - x1).abs() < 0.05 {
                write!(path, " L{x1:.1} {y1:.1}").expect("writing to a string");
            } else {
                write!(path, " C{x0:.1} {middle:.1} {x1:.1} {middle:.1} {x1:.1} {y1:.1}").expect("writing to a string");
            }
        }
        let (from, to) = (drawing.nodes[edge.from].name, drawing.nodes[edge.to].name);
        let ports: Vec<String> =
            edge.ports.iter().map(|(output, input)| format!("{from}.{output} → {to}.{input}")).collect();
        writeln!(
            svg,
            "<path d=\"{path}\" marker-end=\"url(#arrow)\"><title>{}</title></path>",
            escape(&ports.join("\n"))
        )
        .expect("writing to a string");
    }
    svg.push_str("</g>\n");
}

/// What the colours say, for those that stand in the drawing. Gives its width.
fn legend(svg: &mut String, drawing: &Drawing, y: f64, dots: bool) -> f64 {
    let mut types: Vec<ArtifactType> = drawing.nodes.iter().map(|node| node.gives).collect();
    types.sort_unstable();
    types.dedup();
    let mut x = 0.0;
    let mut entry = |svg: &mut String, mark: &str, text: &str| {
        writeln!(
            svg,
            "<g transform=\"translate({x:.1} {y:.1})\">{mark}\
             <text x=\"16\" y=\"9.5\" font-size=\"{KIND_SIZE}\" fill=\"#4a5766\">{text}</text></g>"
        )
        .expect("writing to a string");
        x += text_width(text, KIND_SIZE) + 34.0;
    };
    for (at, kind) in types.into_iter().enumerate() {
        let (fill, stroke) = colours(kind);
        let mark = format!("<rect width=\"11\" height=\"11\" rx=\"3\" fill=\"{fill}\" stroke=\"{stroke}\"/>");
        let verb = if at == 0 { "gives " } else { "" };
        entry(svg, &mark, &format!("{verb}{}", kind.name()));
    }
    if dots {
        let mark = format!("<circle cx=\"6\" cy=\"5.5\" r=\"4.5\" fill=\"{}\"/>", colours(ArtifactType::Figures).1);
        entry(svg, &mark, "its figures are in the report");
    }
    x
}
