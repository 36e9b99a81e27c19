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
fn references_fix_axes_and_name_ports() {
    let graph = graph(&format!(
        r#"{BASE}
[stages.best]
uses = "embed"
model = "sweep[beta=0.50].model"
cells = "parts.validation"

[stages.page]
uses = "summary"
figures = ["sweep[beta=1].figures", "sweep.figures", "results"]
"#
    ));
    assert_eq!(taken(&graph, "best"), ["cells: parts.validation", "model: sweep[beta=0.5].model"]);
    assert_eq!(
        taken(&graph, "page"),
        [
            "figures: sweep[beta=1].figures sweep[beta=0].figures sweep[beta=0.5].figures sweep[beta=1].figures results.figures"
        ]
    );
}

#[test]
fn shared_axes_go_together_and_others_multiply() {
    let graph = graph(
        r#"
[stages.colony]
uses = "colony"
matrix.cells = [10, 20]

[stages.parts]
uses = "split"
cells = "colony"

[stages.sweep]
uses = "train"
cells = "parts.train"
epochs = 3
matrix.beta = { from = 0, to = 1, count = 2 }

[stages.embedding]
uses = "embed"
model = "sweep"
cells = "parts.test"

[stages.across]
uses = "embed"
model = "sweep[cells=10]"
cells = "parts.test"
"#,
    );
    assert_eq!(
        taken(&graph, "embedding[cells=20,beta=1]"),
        ["cells: parts[cells=20].test", "model: sweep[cells=20,beta=1].model"]
    );
    assert_eq!(graph.instances.iter().filter(|instance| instance.stage == "embedding").count(), 4);
    // The model's `cells` is fixed; that of the cells is not.
    assert_eq!(
        taken(&graph, "across[beta=0,cells=20]"),
        ["cells: parts[cells=20].test", "model: sweep[cells=10,beta=0].model"]
    );
}

#[test]
fn instances_stand_behind_what_they_take_from() {
    let graph = graph(
        r#"
[stages.last]
uses = "split"
cells = "middle.test"
[stages.other]
uses = "colony"
cells = 1
[stages.middle]
uses = "split"
cells = "first"
[stages.first]
uses = "colony"
cells = 1
"#,
    );
    assert_eq!(names(&graph), ["other", "first", "middle", "last"]);
}

#[test]
fn sets_and_profiles_override() {
    let text = whole(&format!("{BASE}\n[profiles.smoke.stages.sweep]\nepochs = 1\nmatrix.beta = [0.25]\n"));
    let overrides = Overrides {
        sets: [
            "sweep.learning-rate=1",
            "sweep.epochs=2",
            "embedding.cells=parts.train",
            "colony.shape=flat",
            "pipeline.seed=9",
        ]
        .map(str::to_owned)
        .into(),
        profile: Some("smoke".to_owned()),
    };
    let graph = graph_with(&text, &overrides).unwrap_or_else(|errors| panic!("{}", errors.render(false, 100)));
    let sweep = &graph.instances[graph.find("sweep[beta=0.25]").unwrap()];
    assert_eq!(sweep.params["epochs"], 2, "a set is stronger than a profile");
    assert_eq!(sweep.params["learning-rate"], 1.0);
    assert_eq!(sweep.params["seed"], 9);
    assert_eq!(graph.instances[0].params["shape"], "flat");
    assert_eq!(taken(&graph, "embedding[beta=0.25]")[0], "cells: parts.train");
}

#[test]
fn a_set_changes_a_part_of_an_axis() {
    let text = whole(BASE).replace("[0.0, 0.5, 1]", "{ from = 0.0, to = 1.0, count = 3 }");
    let graph = graph_with(&text, &sets(&["sweep.matrix.beta.count = 25"])).unwrap();
    assert!(graph.find("sweep[beta=0.04167]").is_some());
    assert_eq!(graph.select(&["sweep".to_owned()]).unwrap().len(), 25);
    let graph = graph_with(&text, &sets(&["sweep.matrix.beta=[0.1]"])).unwrap();
    assert_eq!(graph.select(&["sweep".to_owned()]).unwrap().len(), 1);
}

#[test]
fn named_inputs_are_ports_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["script.R", "b.csv", "a.csv"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let text = whole(&format!(
        r#"{BASE}
[stages.plot]
uses = "program"
argv = ["Rscript", "{{files.script}}"]
inputs = {{ table = "embedding", cells = "colony" }}
files = {{ script = "script.R", numbers = ["*.csv"] }}
outputs = {{ plots = "files" }}
"#
    ));
    let spec = spec::read("test.toml", folder.path(), &text, &Overrides::default(), KINDS);
    let graph = build(spec).unwrap_or_else(|errors| panic!("{}", errors.render(false, 100)));
    assert_eq!(
        taken(&graph, "plot[beta=0.5]"),
        [
            "files.numbers: a.csv b.csv",
            "files.script: script.R",
            "inputs.cells: colony.cells",
            "inputs.table: embedding[beta=0.5].embedding"
        ]
    );
    assert_eq!(graph.instances.last().unwrap().outputs[0].name, "plots");
}

#[test]
fn selectors_mean_stages_members_and_patterns() {
    let graph = graph(BASE);
    let select = |selector: &str| {
        let found = graph.select(&[selector.to_owned()])?;
        Ok::<_, super::SelectorError>(found.into_iter().map(|at| graph.instances[at].name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(select("colony").unwrap(), ["colony"]);
    assert_eq!(select("sweep").unwrap().len(), 3);
    assert_eq!(select("sweep[beta=0.50]").unwrap(), ["sweep[beta=0.5]"]);
    assert_eq!(select("*[beta=1]").unwrap(), ["sweep[beta=1]", "embedding[beta=1]"]);
    assert_eq!(select("*e*").unwrap().len(), 7);
    assert_eq!(graph.select(&[]).unwrap().len(), graph.instances.len());
    assert_eq!(select("colnoy").unwrap_err().help.unwrap(), "did you mean `colony`?");
    assert_eq!(
        select("sweep[beta=0.7]").unwrap_err().help.unwrap(),
        "there is `sweep[beta=0]`, `sweep[beta=0.5]`, `sweep[beta=1]`"
    );
    assert!(select("colony[beta=1]").is_err());
    assert!(select("sweep[").is_err());
    assert!(select("parts.test").is_err());
    assert_eq!(graph.output("parts.test").unwrap(), (1, "test".to_owned()));
    assert_eq!(graph.output("parts").unwrap(), (1, "train".to_owned()));
    assert_eq!(graph.output("sweep[beta=1].figures").unwrap().1, "figures");
    assert!(graph.output("sweep").unwrap_err().message.contains("3 instances"));
    assert_eq!(graph.output("parts.tset").unwrap_err().help.unwrap(), "did you mean `test`?");
    let everything = graph.with_ancestors(&graph.select(&["embedding[beta=0]".to_owned()]).unwrap());
    assert_eq!(everything.len(), 4);
}

#[test]
fn drawings_show_a_group_as_one() {
    let graph = graph(BASE);
    insta::assert_snapshot!("dot", super::draw::dot(&graph));
    insta::assert_snapshot!("mermaid", super::draw::mermaid(&graph));
    let svg = super::draw::svg(&graph);
    assert!(svg.contains(">× 3<"), "{svg}");
    assert_eq!(svg.matches("<path d=\"M").count(), 6 + 1, "edges and the arrow's head");
    assert_eq!(svg, super::draw::svg(&graph));
}

// --- What can be wrong ---------------------------------------------------------------------------------------

#[test]
fn syntax_errors_are_shown_all_at_once() {
    insta::assert_snapshot!(
        "syntax",
        errors("[stages.a]\nuses = colony\ncells = [1, 2\n\n[stages.b]\nuses \"split\"\n")
    );
}

#[test]
fn mistakes_in_parameters_are_shown_all_at_once() {
    insta::assert_snapshot!(
        "parameters",
        errors(
            r#"
[stages.colony]
uses = "colony"
cells = "many"
siez = [32, 80, 48]
size = [32, 80]
shape = "rond"
seed = -3

[stages.training]
uses = "train"
cells = "colony"
learning-rate = true
epoch = 3
levels = 2.5

[stages.again]
uses = "colony"
cells = 4
size = [1, "two", 3]
"#
        )
    );
}

#[test]
fn kinds_are_named_rightly() {
    insta::assert_snapshot!(
        "kinds",
        errors("[stages.a]\nuses = \"colny\"\n[stages.b]\ncells = \"a\"\n[stages.c]\nuses = 3\n[stages]\nd = 4\n")
    );
}

#[test]
fn what_is_missing_is_said() {
    insta::assert_snapshot!(
        "missing",
        errors("[stages.a]\nuses = \"colony\"\n[stages.b]\nuses = \"train\"\nbeta = 0.5\n")
    );
}

#[test]
fn references_must_mean_something() {
    insta::assert_snapshot!(
        "references",
        errors(&format!(
            r#"{BASE}
[stages.wrong]
uses = "embed"
model = "colony"
cells = "swep[beta=0.5]"

[stages.more]
uses = "summary"
figures = ["colony.figurs", "parts", "sweep[gamma=1].figures", "sweep[beta=2].figures", "a b", 3, "colony[x=1].figures"]

[stages.list]
uses = "split"
cells = ["colony", "colony"]
"#
        ))
    );
}

#[test]
fn a_cycle_is_named_whole() {
    insta::assert_snapshot!(
        "cycle",
        errors(
            r#"
[stages.first]
uses = "split"
cells = "third.test"
[stages.second]
uses = "split"
cells = "first"
[stages.third]
uses = "split"
cells = "second"
[stages.behind]
uses = "split"
cells = "third"
[stages.alone]
uses = "split"
cells = "alone"
"#
        )
    );
}

#[test]
fn a_matrix_must_make_sense() {
    insta::assert_snapshot!(
        "matrix",
        errors(&format!(
            r#"{BASE}
[stages.empty]
uses = "train"
cells = "parts.train"
epochs = 3
matrix.beta = []

[stages.none]
uses = "train"
cells = "parts.train"
epochs = 3
matrix.beta = {{ from = 0, to = 1, count = 0 }}

[stages.unknown]
uses = "train"
cells = "parts.train"
epochs = 3
matrix.betta = [1]
matrix.cells = ["parts.train", "parts.test"]

[stages.both]
uses = "train"
cells = "parts.train"
epochs = 3
beta = 0.5
matrix.beta = [0.1, 0.2]

[stages.twice]
uses = "train"
cells = "parts.train"
epochs = 3
matrix.beta = [0.5, 0.1, 0.50]

[stages.wrong]
uses = "train"
cells = "parts.train"
matrix.epochs = [1, 2.5, "three"]
matrix.beta = 7
"#
        ))
    );
}

#[test]
fn groups_with_different_values_do_not_go_together() {
    insta::assert_snapshot!(
        "axes-differ",
        errors(
            r#"
[stages.a]
uses = "colony"
matrix.cells = [1, 2]
[stages.b]
uses = "colony"
matrix.cells = [1, 3]
[stages.model]
uses = "train"
cells = "a"
epochs = 1
[stages.embedding]
uses = "embed"
model = "model"
cells = "b"
"#
        )
    );
}

#[test]
fn shapes_are_checked_through_the_graph() {
    insta::assert_snapshot!(
        "shapes",
        errors(
            r#"
[stages.colony]
uses = "colony"
cells = 0
size = [32, 80, 47]

[stages.parts]
uses = "split"
cells = "colony"

[stages.fine]
uses = "colony"
cells = 1
size = [32, 80, 44]

[stages.training]
uses = "train"
cells = "fine"
epochs = 0
"#
        )
    );
}

#[test]
fn names_are_checked() {
    let twice = "[stages.c]\nuses = \"colony\"\ncells = 1\n[stages.b]\n[stages.c]\nuses = \"split\"\n[stages.d]\nuses = 1\nuses = 2\n";
    insta::assert_snapshot!("twice", errors(twice));
    let text = "[pipeline]\nname = \"my pipeline\"\nsede = 3\n[stage.a]\nuses = \"colony\"\n[stages.\"a b\"]\nuses = \"colony\"\ncells = 1\n";
    let found = graph_with(text, &Overrides::default()).err().unwrap();
    insta::assert_snapshot!("names", found.render(false, 100));
    let empty = graph_with("", &Overrides::default()).err().unwrap();
    insta::assert_snapshot!("empty", empty.render(false, 100));
    insta::assert_snapshot!("no-stages", errors(""));
}

#[test]
fn files_must_be_there() {
    insta::assert_snapshot!(
        "files",
        errors(
            r#"
[stages.a]
uses = "import"
files = ["src/lib.rz", "src/*.tiff", "src", "nowhere/x.tif", 3]
table = "src/*.rs"
"#
        )
    );
}

#[test]
fn sets_are_checked_like_the_text() {
    let overrides = sets(&[
        "swep.epochs=3",
        "sweep.epohcs=3",
        "sweep.learning-rate=fast",
        "sweep.matrix.beta=[]",
        "colony.size=[1, 2",
        "colony",
        "colony=3",
        "parts.cells=colny",
        "a b.c=x",
    ]);
    insta::assert_snapshot!("sets", errors_with(BASE, &overrides));
}

#[test]
fn profiles_are_checked_like_the_text() {
    let stages = format!(
        "{BASE}\n[profiles.smoke.stages.sweep]\nepochs = \"few\"\n[profiles.smoke.stages.swep]\nepochs = 1\n[profiles.other]\nstags = 1\n"
    );
    let overrides = Overrides { profile: Some("smoke".to_owned()), sets: Vec::new() };
    insta::assert_snapshot!("profile", errors_with(&stages, &overrides));
    let overrides = Overrides { profile: Some("smok".to_owned()), sets: Vec::new() };
    insta::assert_snapshot!("no-profile", errors_with(&format!("{BASE}\n[profiles.smoke]\n"), &overrides));
}

#[test]
fn odd_numbers_are_refused() {
    insta::assert_snapshot!(
        "numbers",
        errors(&BASE.replace("[0.0, 0.5, 1]", "[nan, 1e300]").replace("cells = 10", "cells = 99999999999999999999999"))
    );
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let error = super::load(Path::new("no/such/pipeline.toml"), &Overrides::default(), KINDS).err().unwrap();
    assert!(error.render(false, 100).contains("cannot read the pipeline `no/such/pipeline.toml`"));
}

// --- Whatever stands in the text, nothing panics -------------------------------------------------------------

mod mutations {
    use proptest::prelude::*;

    use super::*;

    const PIECES: &[&str] = &[
        "\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        ",",
        ".",
        "\n",
        "#",
        "0",
        "-1",
        "1e999",
        "nan",
        "true",
        "''",
        "\"\"\"",
        "matrix",
        "uses",
        "[stages.x]",
        "stages",
        "profiles",
        "\"colony\"",
        "\"sweep[beta=0]\"",
        "ä×",
        "\\",
        "\u{0}",
        "1979-05-27",
        "999999999999",
        "[stages.colony]",
        "matrix.cells = [1]\n",
        "inputs.a = \"b\"\n",
        "*",
        "seed = 3\n",
    ];

    fn mutated(text: &str, edits: &[(usize, usize, usize)]) -> String {
        let mut text: Vec<char> = text.chars().collect();
        for &(at, removed, piece) in edits {
            let at = at % (text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, PIECES[piece % PIECES.len()].chars());
        }
        text.into_iter().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn mutated_pipelines_never_panic(
            edits in prop::collection::vec((0usize..10_000, 0usize..12, 0usize..100), 1..6),
            set in "[a-z]{0,6}\\.?[a-z-]{0,8}=?[ -~]{0,12}",
        ) {
            let text = mutated(&whole(BASE), &edits);
            if let Err(errors) = graph_with(&text, &Overrides { sets: vec![set], profile: None }) {
                prop_assert!(!errors.render(false, 80).is_empty());
            }
            if let Err(errors) = graph_with(&text, &Overrides::default()) {
                prop_assert!(!errors.render(false, 80).contains("Failed to read"));
            }
        }

        #[test]
        fn mutated_quickstart_never_panics(edits in prop::collection::vec((0usize..10_000, 0usize..12, 0usize..100), 1..4)) {
            let text = mutated(include_str!("../../pipelines/quickstart.toml"), &edits);
            let spec = spec::read("q.toml", Path::new("pipelines"), &text, &Overrides::default(), crate::stages::registry());
            if let Err(errors) = build(spec) {
                prop_assert!(!errors.render(false, 80).contains("Failed to read"));
            }
        }
    }
}
