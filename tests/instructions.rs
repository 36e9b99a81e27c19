//! AVX-512, AVX2 and plain code give the same bytes, so a store can be shared by machines of every kind.

mod place;

use place::{Place, text};
use statcell::simd::Instructions;

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
    // The program refuses a set that the processor does not have, or that it cannot use any more: what succeeds ran on that set.
    let digests = |instructions: &str| {
        let place = Place::new(PIPELINE);
        let output = place.call(&["run", "small.toml", "--instructions", instructions]);
        assert!(output.status.success(), "{instructions}: {}", text(&output));
        place.digests()
    };
    let sets: Vec<&str> = Instructions::available().iter().map(|set| set.name()).collect();
    assert!(sets.len() > 1 || cfg!(not(target_arch = "x86_64")), "only {sets:?}: nothing to compare");
    let portable = digests("portable");
    for set in sets.iter().filter(|set| **set != "portable") {
        assert!(digests(set) == portable, "{set} gives other bytes than plain code");
    }
}

#[test]
fn a_set_that_the_processor_does_not_have_is_refused() {
    let known = ["portable", "avx2", "avx512"];
    let sets: Vec<&str> = Instructions::available().iter().map(|set| set.name()).collect();
    for name in known.iter().filter(|name| !sets.contains(*name)) {
        let output = Place::new(PIPELINE).call(&["plan", "small.toml", "--instructions", name]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", text(&output));
    }
}
