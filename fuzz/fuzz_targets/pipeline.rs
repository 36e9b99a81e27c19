//! Whatever the text: a pipeline, or errors that can be shown.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use statcell::{graph, spec::Overrides};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    // Patterns of files could walk through all of this machine.
    if bytes.contains(&b'*') {
        return;
    }
    let path = FOLDER.path().join("pipeline.toml");
    std::fs::write(&path, bytes).expect("a file");
    if let Err(errors) = graph::load(&path, &Overrides::default(), statcell::stages::registry()) {
        let _ = errors.render(false, 80);
    }
});
