//! What people are told about pipelines that are wrong: every message is pinned, and was read by eye.

use std::{
    fmt::Write,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use statcell::{
    graph,
    spec::{Overrides, SpecErrors},
    stages::registry,
};

fn told(path: &Path) -> Result<(), SpecErrors> {
    graph::load(path, &Overrides::default(), registry()).map(drop)
}

#[test]
fn every_wrong_pipeline_is_told_what_is_wrong() {
    let folder = Path::new("tests/wrong");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "toml"));
    paths.sort();
    assert!(paths.len() >= 60, "{} pipelines", paths.len());
    for path in paths {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let errors = told(&path).expect_err(&name);
        for error in errors.errors() {
            for (_, label) in &error.labels {
                assert!(!label.is_empty(), "{name}: a caret without words: {error}");
            }
        }
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "wrong", omit_expression => true }, {
            insta::assert_snapshot!(name, errors.render(false, 100));
        });
    }
}

fn of_many(lines: impl Fn(usize) -> String, count: usize) -> (String, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    let mut text = "[pipeline]\nname = \"p\"\n[stages.sim]\nuses = \"simulate\"\n".to_owned();
    for number in 0..count {
        writeln!(text, "{}", lines(number)).unwrap();
    }
    fs::write(&path, text).unwrap();
    let began = Instant::now();
    let errors = told(&path).expect_err("mistakes").render(false, 100);
    (errors, began.elapsed())
}

/// Twenty times the mistakes must not take four hundred times the time, and nobody reads megabytes.
#[test]
fn mistakes_are_bounded() {
    type Line = fn(usize) -> String;
    let kinds: [(&str, Line); 6] = [
        ("unknown keys", |n| format!("key{n} = 1")),
        ("unknown stages", |n| format!("[stages.n{n}]\nuses = \"normalize\"\ncells = \"s{n}\"")),
        ("unknown kinds", |n| format!("[stages.n{n}]\nuses = \"k{n}\"")),
        ("wrong values", |n| format!("[stages.n{n}]\nuses = \"simulate\"\ncells = \"x\"\nbrightness = -1")),
        ("no TOML", |n| format!("key{n} = = {n}")),
        ("twice", |_| "cells = 1".to_owned()),
    ];
    for (kind, line) in kinds {
        let (_, few) = of_many(line, 1_000);
        let (text, many) = of_many(line, 20_000);
        assert!(text.len() < 100_000, "{kind}: {} bytes of messages", text.len());
        assert!(text.contains("of which these are the first"), "{kind}: {}", &text[text.len() - 200..]);
        let bound = few.max(Duration::from_millis(50)) * 100;
        assert!(many < bound, "{kind}: {few:?} for 1,000 mistakes, {many:?} for 20,000");
    }
}
