//! Checkpoints of the paper's published program: import them and compare with that program's own outputs.
//!
//! Reads `tests/fixtures/checkpoints`, or the folder in `STATCELL_FIXTURES_CHECKPOINTS`.

use std::path::{Path, PathBuf};

use statcell::model::import;

fn folder() -> PathBuf {
    std::env::var_os("STATCELL_FIXTURES_CHECKPOINTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints"), PathBuf::from)
}

/// A checkpoint's two files.
fn pair(name: &str) -> [Vec<u8>; 2] {
    ["enc", "dec"].map(|part| std::fs::read(folder().join(format!("{name}-{part}.pth"))).unwrap())
}

/// Damaged and lying files: cut at many places, bytes changed. An error or a model, never a panic, and no memory beyond the
/// file's length (a reader that trusts a length would be killed here).
#[test]
fn damaged_files_are_refused() {
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for name in ["reference-2d-legacy", "target-3d-zip"] {
        let [encoder, decoder] = pair(name);
        let size = Some(if name.contains("3d") { [8, 24, 16] } else { [1, 24, 16] });
        import::published(&encoder, &decoder, size).unwrap();
        for _ in 0..40 {
            let cut = random(encoder.len());
            assert!(import::published(&encoder[..cut], &decoder, size).is_err(), "{name} cut at {cut}");
        }
        let mut refused = 0;
        for round in 0..400 {
            let mut changed = encoder.clone();
            // Headers and pickles are where lies can be told; the numbers behind them are any bytes.
            let reach = if round % 2 == 0 { 2000 } else { encoder.len() };
            for _ in 0..=round % 4 {
                let at = random(reach);
                changed[at] = [0, 0xff, 0x7f, u8::try_from(random(256)).unwrap()][random(4)];
            }
            refused += usize::from(import::published(&changed, &decoder, size).is_err());
        }
        assert!(refused > 100, "{name}: only {refused} of 400 refused");
        // The parts in each other's place.
        let error = import::published(&decoder, &encoder, size).unwrap_err().to_string();
        assert!(error.contains("the encoder is not one of the published program's"), "{error}");
    }
}
