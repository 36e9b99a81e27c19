//! A training that is killed (SIGKILL) again and again ends with the bytes of one that was left alone.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const PIPELINE: &str = r#"
[pipeline]
name = "killed"
seed = 11

[stages.colony]
uses = "simulate"
as = "cells"
cells = 40
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
test = 0.1

[stages.structure]
uses = "train-target"
train = "parts.train"
validation = "parts.validation"
channels = [8, 16]
latent = 8
epochs = 60
batch = 8
checkpoint-seconds = 0
"#;

const KILLS: u64 = 20;

fn statcell(folder: &Path, store: &str, verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statcell"));
    command.current_dir(folder).args([verb, "killed.toml", "--store", store]);
    command
}

fn run(folder: &Path, store: &str) -> Command {
    let mut command = statcell(folder, store, "run");
    command.args(["--results", &format!("{store}-results")]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What the training gave: the trees of its artifacts.
fn outputs(folder: &Path, store: &str) -> Option<Value> {
    let output = statcell(folder, store, "plan").arg("--json").output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = plan["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["instance"] == "structure").unwrap();
    (step["decision"]["decision"] == "hit").then(|| step["decision"]["outputs"].clone())
}

#[test]
fn twenty_kills_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("killed.toml"), PIPELINE).unwrap();
    let start = Instant::now();
    assert!(run(folder, "alone").status().unwrap().success());
    let whole = start.elapsed();
    let expected = outputs(folder, "alone").expect("it is done");

    let mut during = 0;
    for kill in 0..KILLS {
        let mut child = run(folder, "killed").spawn().unwrap();
        // Spread over the run, in an order that looks random: multiples of a number that shares no factor with 20.
        std::thread::sleep(whole.mul_f64((kill * 7 % KILLS) as f64 / KILLS as f64 * 0.4) + Duration::from_millis(20));
        if child.try_wait().unwrap().is_none() {
            during += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(during >= 3, "only {during} of the kills came before the end");
    assert!(run(folder, "killed").status().unwrap().success());
    assert_eq!(outputs(folder, "killed"), Some(expected));
    let verified = Command::new(env!("CARGO_BIN_EXE_statcell"))
        .current_dir(folder)
        .args(["cache", "verify", "--store", "killed"])
        .output();
    assert!(verified.unwrap().status.success());
}
