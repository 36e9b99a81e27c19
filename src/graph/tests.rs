//! The pipeline language from its text to its graph, good and bad.

use std::path::Path;

use super::{Graph, Source, build};
use crate::spec::{self, Overrides, SpecErrors, test_kinds::KINDS};

fn graph_with(text: &str, overrides: &Overrides) -> Result<Graph, SpecErrors> {
    build(spec::read("test.toml", Path::new(""), text, overrides, KINDS))
}

/// The graph of a pipeline named `test` with these stages.
fn graph(stages: &str) -> Graph {
    graph_with(&whole(stages), &Overrides::default()).unwrap_or_else(|errors| panic!("{}", errors.render(false, 100)))
}

fn whole(stages: &str) -> String {
    format!("[pipeline]\nname = \"test\"\nseed = 7\n\n{}", stages.trim_start())
}

fn sets(sets: &[&str]) -> Overrides {
    Overrides { sets: sets.iter().map(|&set| set.to_owned()).collect(), profile: None }
}

fn errors_with(stages: &str, overrides: &Overrides) -> String {
    match graph_with(&whole(stages), overrides) {
        Ok(_) => panic!("no error was found"),
        Err(errors) => errors.render(false, 100),
    }
}

fn errors(stages: &str) -> String {
    errors_with(stages, &Overrides::default())
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.instances.iter().map(|instance| instance.name.as_str()).collect()
}

/// What an instance takes, by names.
fn taken(graph: &Graph, instance: &str) -> Vec<String> {
    let instance = &graph.instances[graph.find(instance).expect("an instance of this name")];
    let source = |source: &Source| match source {
        Source::Output { instance, port } => format!("{}.{port}", graph.instances[*instance].name),
        Source::File { name, .. } => name.clone(),
    };
    let port = |(port, sources): &(String, Vec<Source>)| {
        format!("{port}: {}", sources.iter().map(source).collect::<Vec<_>>().join(" "))
    };
    instance.inputs.iter().map(port).collect()
}

const BASE: &str = r#"
[stages.colony]
uses = "colony"
cells = 10

[stages.parts]
uses = "split"
cells = "colony"

[stages.sweep]
uses = "train"
cells = "parts.train"
epochs = 3
matrix.beta = [0.0, 0.5, 1]

[stages.embedding]
uses = "embed"
model = "sweep"
cells = "parts.test"

[stages.results]
uses = "regression"
embeddings = ["embedding", "colony.truth"]
"#;

#[test]
fn a_matrix_makes_a_group_that_flows_on() {
    let graph = graph(BASE);
    assert_eq!(
        names(&graph),
        [
            "colony",
            "parts",
            "sweep[beta=0]",
            "sweep[beta=0.5]",
            "sweep[beta=1]",
            "embedding[beta=0]",
            "embedding[beta=0.5]",
            "embedding[beta=1]",
            "results"
        ]
    );
    assert_eq!(taken(&graph, "embedding[beta=0.5]"), ["cells: parts.test", "model: sweep[beta=0.5].model"]);
    assert_eq!(
        taken(&graph, "results"),
        [
            "embeddings: embedding[beta=0].embedding embedding[beta=0.5].embedding embedding[beta=1].embedding colony.truth"
        ]
    );
    let sweep = &graph.instances[3];
    assert_eq!(sweep.params["beta"], 0.5);
    assert_eq!(sweep.params["seed"], 7, "the pipeline's seed");
    assert_eq!(sweep.axes, [("beta".to_owned(), serde_json::json!(0.5))]);
}

#[test]
fn print_errors() {
    println!(
        "{}",
        errors(
            "[stages.colony]\nuses = \"colony\"\ncells = \"ten\"\nsiez = [1,2,3]\nshape=\"rond\"\n[stages.b]\nuses=\"embed\"\nmodel=\"colony\"\ncells=\"parts.train\""
        )
    );
}
