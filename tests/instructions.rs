//! AVX-512, AVX2 and plain code give the same bytes, so a store can be shared by machines of every kind.

mod place;

use place::{Place, text};

/// Networks large enough that all ways of convolving are taken.
const PIPELINE: &str = r#"
[pipeline]
name = "instructions"
seed = 5

[stages.colony]
uses = "simulate"
as = "fields"
fields = 1
structures = []

[stages.segmented]
uses = "segment-align"
fields = "colony.fields"

[stages.many]
uses = "simulate"
as = "cells"
cells = 50
size = [16, 32, 24]
voxel-size = 1.4
structures = ["golgi", "nuclear-envelope"]

[stages.normalized]
uses = "normalize"
cells = "many"

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
channels = [16, 32]
latent = 8
epochs = 2
batch = 16

[stages.structure]
uses = "train-target"
train = "parts.train"
validation = "parts.validation"
channels = [16, 32]
latent = 8
epochs = 1
batch = 16

[stages.embedding]
uses = "embed"
model = "shape"
cells = "parts.test"
"#;

#[test]
fn all_instruction_sets_give_the_same_bytes() {
    let digests = |instructions: &str| {
        let place = Place::new(PIPELINE);
        let output = place.call(&["run", "small.toml", "--instructions", instructions]);
        assert!(output.status.success(), "{instructions}: {}", text(&output));
        place.digests()
    };
    let best = digests("avx512");
    assert_eq!(digests("avx2"), best);
    assert_eq!(digests("portable"), best);
}

#[test]
fn an_unknown_instruction_set_is_refused() {
    let place = Place::new(PIPELINE);
    let output = place.command(&["plan", "small.toml"]).env("STATCELL_INSTRUCTIONS", "sse9").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("avx512, avx2, portable"), "{}", text(&output));
}
