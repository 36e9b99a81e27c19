//! A training that is killed (SIGKILL) again and again ends with the bytes of one that was left alone.

mod place;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use place::Place;

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

fn run(place: &Place) -> Command {
    let mut command = place.command(&["run", "small.toml"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn twenty_kills_change_no_byte() {
    let (alone, killed) = (Place::new(PIPELINE), Place::new(PIPELINE));
    let start = Instant::now();
    assert!(run(&alone).status().unwrap().success());
    let whole = start.elapsed();

    let mut during = 0;
    for kill in 0..KILLS {
        let mut child = run(&killed).spawn().unwrap();
        // Spread over the run, in an order that looks random: multiples of a number that shares no factor with 20.
        std::thread::sleep(whole.mul_f64((kill * 7 % KILLS) as f64 / KILLS as f64 * 0.4) + Duration::from_millis(20));
        if child.try_wait().unwrap().is_none() {
            during += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(during >= 3, "only {during} of the kills came before the end");
    assert!(run(&killed).status().unwrap().success());
    assert_eq!(killed.digests(), alone.digests());
    assert!(killed.call(&["cache", "verify"]).status.success());
}
