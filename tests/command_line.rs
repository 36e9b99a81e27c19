//! The whole program, as a user calls it: what runs again and what does not, bad input, Ctrl-C.

mod place;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use place::{Place, text};

const SMALL: &str = r#"
[pipeline]
name = "small"
seed = 7

[stages.colony]
uses = "simulate"
as = "cells"
cells = 30
size = [16, 32, 24]
voxel-size = 1.4
structures = ["golgi", "nuclear-envelope"]

[stages.normalized]
uses = "normalize"
cells = "colony"

[stages.images]
uses = "project"
cells = "normalized"

[stages.parts]
uses = "split"
cells = "images"
validation = 0.2
test = 0.2

[stages.shape]
uses = "train-reference"
train = "parts.train"
validation = "parts.validation"
channels = [4, 8]
latent = 4
epochs = 2
batch = 8
matrix.beta = [0.25, 0.75]

[stages.embedding]
uses = "embed"
model = "shape"
cells = "parts.test"

[stages.features]
uses = "features"
cells = "images"
"#;

#[test]
fn what_runs_again_and_what_does_not() {
    let one = Place::new(SMALL);
    assert_eq!(one.executed(&["--jobs", "1"]).len(), 9);
    assert!(one.executed(&[]).is_empty(), "the second run executes nothing");

    // Another folder and side by side: the same bytes, trained weights included.
    let two = Place::new(SMALL);
    assert_eq!(two.executed(&["--jobs", "2"]).len(), 9);
    assert_eq!(one.digests(), two.digests());

    // A renamed stage in a moved file, with the store elsewhere.
    let renamed = Place::new(&SMALL.replace("stages.images", "stages.pictures").replace("\"images\"", "\"pictures\""));
    fs::rename(one.path(".statcell"), renamed.path("elsewhere")).unwrap();
    assert!(renamed.executed(&["--store", "elsewhere"]).is_empty());

    // One parameter: that stage and nothing else, and the plan had said so.
    let changed = ["--store", "elsewhere", "--set", "features.block-size=151"];
    let plan = text(&renamed.call(&[&["plan", "small.toml"], &changed[..]].concat()));
    let features = plan.lines().find(|line| line.starts_with("features")).unwrap();
    assert!(features.contains("run") && features.contains("`block-size` changed: 199 → 151"), "{plan}");
    assert_eq!(plan.lines().filter(|line| line.contains("  hit")).count(), 8, "{plan}");
    assert_eq!(renamed.executed(&changed), ["features"]);

    // More epochs go on from the cached ones, and end where a run of its own ends.
    let longer = ["--set", "shape.epochs=3"];
    assert_eq!(renamed.executed(&[&["--store", "elsewhere"], &longer[..]].concat()).len(), 4);
    let fresh = Place::new(&SMALL.replace("epochs = 2", "epochs = 3"));
    fresh.executed(&[]);
    fs::write(renamed.path("small.toml"), fs::read(fresh.path("small.toml")).unwrap()).unwrap();
    fs::rename(renamed.path("elsewhere"), renamed.path(".statcell")).unwrap();
    assert_eq!(renamed.digests(), fresh.digests());

    // A damaged blob is found when it is read, and computed anew.
    let blob = largest_file(&renamed.path(".statcell/blobs"));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, bytes).unwrap();
    let verify = renamed.call(&["cache", "verify"]);
    assert_eq!(verify.status.code(), Some(4), "{}", text(&verify));
    renamed.executed(&[]);
    assert_eq!(renamed.digests(), fresh.digests());
    assert!(renamed.call(&["cache", "verify"]).status.success());
}

fn largest_file(folder: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}

#[test]
fn touching_an_input_file_runs_nothing_and_changing_it_does() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data/hipsc-fov/nuclei-labels.tif");
    let place = Place::new(
        "[pipeline]\nname = \"small\"\n[stages.field]\nuses = \"import-fields\"\nfiles = \"*.tif\"\nchannels = [\"dna\"]\n\
         voxel-size = [0.29, 0.26, 0.26]\n",
    );
    fs::copy(&data, place.path("a.tif")).unwrap();
    assert_eq!(place.executed(&[]), ["field"]);
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    fs::File::options().append(true).open(place.path("a.tif")).unwrap().set_modified(later).unwrap();
    assert!(place.executed(&[]).is_empty());
    fs::copy(place.path("a.tif"), place.path("b.tif")).unwrap();
    assert_eq!(place.executed(&[]), ["field"]);
}

#[test]
fn bad_input_is_told_clearly_and_ends_with_the_right_code() {
    let small = |from: &str, to: &str| {
        assert!(SMALL.contains(from));
        SMALL.replace(from, to)
    };
    let field = |name: &str, more: &str| {
        format!("[pipeline]\nname = \"small\"\n[stages.field]\nuses = \"import-fields\"\nfiles = \"{name}\"\n{more}")
    };
    let dna = "channels = [\"dna\"]\nvoxel-size = [1.0, 1.0, 1.0]";
    let segment = "voxel-size = [0.3, 0.3, 0.3]\nchannels = [\"membrane\", \"dna\"]\n\
                   [stages.cells]\nuses = \"segment-align\"\nfields = \"field\"\n";
    let cases: Vec<(&str, String, &[&str], i32, &[&str])> = vec![
        ("unknown key", small("latent = 4", "latnt = 4"), &[], 2, &["latnt", "did you mean `latent`", "small.toml:33"]),
        ("wrong type", small("epochs = 2", "epochs = \"two\""), &[], 2, &["epochs", "whole number", "small.toml:34"]),
        (
            "unknown kind",
            small("uses = \"project\"", "uses = \"projekt\""),
            &[],
            2,
            &["projekt", "did you mean `project`"],
        ),
        ("missing port", small("cells = \"normalized\"", ""), &[], 2, &["images", "cells"]),
        (
            "cycle",
            small("cells = \"colony\"", "cells = \"images\""),
            &[],
            2,
            &["`normalized` → `images` → `normalized`"],
        ),
        ("size not divisible", small("[4, 8]", "[4, 8, 8, 8]"), &[], 2, &["channels", "divisible"]),
        ("empty matrix", small("[0.25, 0.75]", "[]"), &[], 2, &["beta", "no values"]),
        ("selector", SMALL.to_owned(), &["shap"], 2, &["shap", "did you mean `shape`"]),
        ("override", SMALL.to_owned(), &["--set", "shape.epoch=3"], 2, &["epoch", "did you mean `epochs`"]),
        ("selector of a matrix", SMALL.to_owned(), &["shape[beta=0.3]"], 2, &["there is `shape[beta=0.25]`"]),
        ("unknown output", small("parts.test", "parts.tests"), &[], 2, &["tests", "did you mean `test`"]),
        ("missing file", field("nothing.tif", ""), &[], 2, &["nothing.tif", "relative to the pipeline's own file"]),
        ("misspelt file", field("label.tif", ""), &[], 2, &["label.tif", "did you mean `labels.tif`"]),
        ("missing folder", field("images/label.tif", ""), &[], 2, &["its folder does not exist"]),
        ("bad voxels", field("labels.tif", "voxel-size = [1.0, -1.0, 1.0]"), &[], 2, &["voxel", "above 0"]),
        ("truncated file", field("truncated.tif", dna), &[], 3, &["truncated.tif", "it ends before byte"]),
        ("beheaded file", field("beheaded.tif", dna), &[], 3, &["beheaded.tif", "it ends before byte"]),
        ("no voxel size", field("labels.tif", "channels = [\"dna\"]"), &[], 3, &["labels.tif", "give `voxel-size`"]),
        ("no image", field("text.tif", dna), &[], 3, &["text.tif", "it is a text: name the images"]),
        (
            "wrong axes",
            field("labels.tif", "channels = [\"membrane\", \"dna\", \"structure\"]\nvoxel-size = [1.0, 1.0, 1.0]"),
            &[],
            3,
            &["labels.tif", "3"],
        ),
        ("no cells", field("blank.tif", segment), &[], 3, &["no cell"]),
        ("results in the way", SMALL.to_owned(), &["--results", "text.tif"], 2, &["text.tif", "--results"]),
        ("store in the way", SMALL.to_owned(), &["--store", "text.tif"], 4, &["text.tif"]),
    ];
    let labels =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data/hipsc-fov/nuclei-labels.tif")).unwrap();
    let blank = statcell::image::Stack {
        channels: vec!["membrane".into(), "dna".into()],
        size: [20, 64, 64],
        voxel_um: None,
        pixels: statcell::image::Pixels::U16(vec![100; 2 * 20 * 64 * 64]),
    };
    let blank = statcell::image::io::write(&blank).unwrap();
    let mut wrong = Vec::new();
    for (name, pipeline, arguments, code, words) in cases {
        let place = Place::new(&pipeline);
        fs::write(place.path("text.tif"), "no image at all").unwrap();
        fs::write(place.path("labels.tif"), &labels).unwrap();
        fs::write(place.path("truncated.tif"), &labels[..labels.len() / 2]).unwrap();
        fs::write(place.path("beheaded.tif"), &labels[..6]).unwrap();
        fs::write(place.path("blank.tif"), &blank).unwrap();
        let output = place.call(&[&["run", "small.toml"], arguments].concat());
        let told = text(&output);
        let flat = told.split_whitespace().collect::<Vec<_>>().join(" ");
        if output.status.code() != Some(code)
            || told.contains("panicked")
            || words.iter().any(|word| !flat.contains(word))
        {
            wrong.push(format!("== {name}: {:?}, not {code} with {words:?}\n{told}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_interrupted_training_continues_to_the_same_bytes() {
    let long = SMALL.replace("epochs = 2", "epochs = 60\ncheckpoint-seconds = 0.2");
    let place = Place::new(&long);
    let mut child =
        place.command(&["run", "small.toml", "--events", "events.jsonl"]).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let trains = || {
        let events = fs::read_to_string(place.path("events.jsonl")).unwrap_or_default();
        events.lines().any(|line| line.contains("\"progress\"") && line.contains("\"steps\""))
    };
    while !trains() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it trained");
        assert!(began.elapsed() < Duration::from_secs(300), "it never trained");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let verify = place.call(&["cache", "verify"]);
    assert!(verify.status.success(), "{}", text(&verify));
    let continued = place.executed(&[]);
    assert!(
        continued.contains(&"shape[beta=0.25]".to_owned()) && !continued.contains(&"colony".to_owned()),
        "{continued:?}"
    );
    let whole = Place::new(&long);
    whole.executed(&[]);
    assert_eq!(place.digests(), whole.digests());
}

#[test]
fn results_are_copied_out_and_listings_print() {
    let place = Place::new(SMALL);
    place.executed(&["features"]);
    assert!(place.path("results/small/features/features/features.csv").exists());
    let get = place.call(&["get", "small.toml", "colony", "--out", "cells"]);
    assert!(get.status.success(), "{}", text(&get));
    assert!(place.path("cells/cells.csv").exists());
    assert_eq!(
        place.call(&["get", "small.toml", "colony", "--out", "cells"]).status.code(),
        Some(2),
        "never overwritten"
    );
    assert_eq!(place.call(&["get", "small.toml", "shape[beta=0.25]", "--out", "m"]).status.code(), Some(2));
    let explain = text(&place.call(&["explain", "small.toml", "embedding[beta=0.75]"]));
    assert!(explain.contains("it never ran"), "{explain}");
    for format in ["dot", "mermaid", "svg"] {
        let drawing = text(&place.call(&["graph", "small.toml", "--format", format]));
        assert!(drawing.contains("shape") && drawing.contains("colony"), "{drawing}");
    }
    let stages = text(&place.call(&["stages"]));
    for kind in statcell::stages::registry() {
        assert!(stages.contains(kind.name()), "{} is not listed", kind.name());
    }
    assert!(text(&place.call(&["cache", "stats"])).contains("simulate"));
    assert!(place.call(&["cache", "gc", "--dry-run"]).status.success());
    assert!(text(&place.call(&["completions", "bash"])).contains("statcell"));
}
