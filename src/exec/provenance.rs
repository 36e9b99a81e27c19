//! "How this was made": the section that the report gets when it is brought to the results folder.

use std::fmt::Write;

use crate::{
    graph::Graph,
    store::{ActionOutputs, Digest, Store, StoreError},
};

/// Where the report takes the section; without it, the section goes before the end of the body.
pub(super) const PLACE: &str = "<!-- statcell:made-by -->";

/// What an ancestor of the report is and gave.
pub(super) struct Ancestor {
    pub(super) index: usize,
    pub(super) key: Digest,
    pub(super) outputs: ActionOutputs,
}

/// What the section depends on: when it is the same, the section need not be made again.
pub(super) fn version(graph: &Graph, report: &Digest, ancestors: &[Ancestor]) -> Digest {
    let mut text = format!("{} {report}\n", env!("CARGO_PKG_VERSION"));
    for ancestor in ancestors {
        writeln!(text, "{} {}", ancestor.key, graph.instances[ancestor.index].name).expect("writing to a string");
    }
    Digest::of(text.as_bytes())
}

/// The report with the section.
pub(super) fn with_section(report: &str, section: &str) -> String {
    if report.contains(PLACE) {
        return report.replacen(PLACE, section, 1);
    }
    match report.rfind("</body>") {
        Some(at) => format!("{}{section}{}", &report[..at], &report[at..]),
        None => format!("{report}{section}"),
    }
}

/// The section, as HTML: the pipeline's drawing, and a table of everything that the report comes from.
pub(super) fn section(
    graph: &Graph,
    store: &Store,
    ancestors: &[Ancestor],
    drawing: Option<&str>,
) -> Result<String, StoreError> {
    let mut html = String::from("<section id=\"made-by\" class=\"made-by\">\n<h2>How this was made</h2>\n");
    let version = env!("CARGO_PKG_VERSION");
    let pipeline = escape(&graph.pipeline);
    writeln!(html, "<p>By statcell {version}, from the pipeline <code>{pipeline}</code>. A key names a stage's kind and version, its parameters and the contents of its inputs; whoever has the same key has the same result.</p>").expect("writing to a string");
    if let Some(drawing) = drawing {
        writeln!(html, "<figure class=\"pipeline\">{drawing}</figure>").expect("writing to a string");
    }
    html.push_str("<table>\n<thead><tr><th>stage</th><th>kind</th><th>version</th><th>key</th><th>result</th><th>seconds</th><th>parameters</th></tr></thead>\n<tbody>\n");
    for Ancestor { index, key, outputs } in ancestors {
        let instance = &graph.instances[*index];
        let kind = instance.kind;
        let facts = store.facts(kind.name(), key)?;
        let seconds = facts.map_or_else(String::new, |facts| format!("{:.1}", facts.seconds));
        let results: Vec<String> = outputs
            .iter()
            .map(|(port, output)| {
                format!("{} <code title=\"{}\">{}</code>", escape(port), output.tree, output.tree.short())
            })
            .collect();
        let params = serde_json::to_string_pretty(&instance.params).expect("parameters are plain data");
        writeln!(
            html,
            "<tr><td>{name}</td><td>{kind_name}</td><td>{version}</td><td><code title=\"{key}\">{short}</code></td><td>{results}</td>\
             <td>{seconds}</td><td><details><summary>show</summary><pre>{params}</pre></details></td></tr>",
            name = escape(&instance.name),
            kind_name = escape(kind.name()),
            version = kind.version(),
            short = key.short(),
            results = results.join("<br>"),
            params = escape(&params),
        )
        .expect("writing to a string");
    }
    html.push_str("</tbody>\n</table>\n</section>\n");
    Ok(html)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_finds_its_place() {
        assert_eq!(with_section("<body>a<!-- statcell:made-by -->b</body>", "X"), "<body>aXb</body>");
        assert_eq!(with_section("<body>a</body>", "X"), "<body>aX</body>");
        assert_eq!(with_section("a", "X"), "aX");
        assert_eq!(escape("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
    }
}
