//! Checkpoints of the paper's published program: import them and compare with that program's own outputs.
//!
//! Reads `tests/fixtures/checkpoints`, or the folder in `STATCELL_FIXTURES_CHECKPOINTS`.

use std::path::{Path, PathBuf};

use safetensors::{SafeTensors, tensor::Dtype};
use statcell::model::{
    Condition, Vae,
    import::{self, Description, Facts},
};

fn folder() -> PathBuf {
    std::env::var_os("STATCELL_FIXTURES_CHECKPOINTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints"), PathBuf::from)
}

/// A checkpoint's two files.
fn pair(name: &str) -> [Vec<u8>; 2] {
    ["enc", "dec"].map(|part| std::fs::read(folder().join(format!("{name}-{part}.pth"))).unwrap())
}

/// The program's inputs and outputs beside a checkpoint, images in the order (Z, Y, X).
struct Outputs {
    bytes: Vec<u8>,
    config: serde_json::Value,
}

impl Outputs {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let config = serde_json::from_str(&header.metadata().as_ref().unwrap()["config"]).unwrap();
        Self { bytes, config }
    }

    fn number(&self, name: &str) -> usize {
        usize::try_from(self.config[name].as_u64().unwrap()).unwrap()
    }

    /// Size of the images: Z, Y, X.
    fn size(&self) -> [usize; 3] {
        let size: Vec<usize> = serde_json::from_value(self.config["size"].clone()).unwrap();
        match (self.config["axes"].as_str().unwrap(), &size[..]) {
            ("YX", &[y, x]) => [1, y, x],
            ("YXZ", &[y, x, z]) => [z, y, x],
            axes => panic!("axes {axes:?}"),
        }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// Images: each channel from (Y, X, Z) to (Z, Y, X).
    fn images(&self, name: &str) -> Vec<f32> {
        let [depth, height, width] = self.size();
        let mut images = Vec::new();
        for channel in self.floats(name).chunks_exact(depth * height * width) {
            for z in 0..depth {
                images.extend((0..height * width).map(|at| channel[at * depth + z]));
            }
        }
        images
    }

    fn labels(&self) -> Vec<usize> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor("label").unwrap();
        assert_eq!(view.dtype(), Dtype::I64);
        let word = |word: &[u8]| usize::try_from(i64::from_le_bytes(word.try_into().unwrap())).unwrap();
        view.data().chunks_exact(8).map(word).collect()
    }
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(0.1 * scale), "{what} at {at}: {a}, not {b}");
    }
}

/// Every `NAME-enc.pth` with `NAME-dec.pth`, against `NAME.safetensors`.
#[test]
fn checkpoints() {
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        names.extend(file.strip_suffix("-enc.pth").map(str::to_owned));
    }
    names.sort();
    assert!(!names.is_empty(), "no checkpoints in {}", folder().display());
    for name in names {
        let outputs = Outputs::read(&folder().join(format!("{name}.safetensors")));
        let [encoder, decoder] = pair(&name);
        let parameters = import::published(&encoder, &decoder, Some(outputs.size())).unwrap();
        let facts = Facts::of(&parameters).unwrap();
        assert_eq!(facts.latent, outputs.number("latent"), "{name}");
        assert_eq!(facts.image_channels, outputs.number("image_channels"), "{name}");
        assert_eq!(facts.reference_channels, outputs.number("reference_channels"), "{name}");
        assert_eq!(facts.labels, outputs.number("classes"), "{name}");
        let description = Description { size: Some(outputs.size()), voxel_um: [0.317; 3], ..Description::default() };
        let vae = Vae::from_parameters(&facts.architecture(&description).unwrap(), &parameters).unwrap();

        let (reference, labels) =
            if facts.labels > 0 { (outputs.images("ref"), outputs.labels()) } else { (Vec::new(), Vec::new()) };
        let condition = Condition { reference: &reference, labels: &labels };
        let condition = (facts.labels > 0).then_some(&condition);
        let (mu, logvar) = vae.encode(&outputs.images("x"), condition).unwrap();
        assert_close(&format!("{name}: mu"), &mu, &outputs.floats("mu"));
        assert_close(&format!("{name}: logvar"), &logvar, &outputs.floats("logvar"));
        let decoded = vae.decode(&mu, condition).unwrap();
        assert_close(&format!("{name}: x_hat_of_mu"), &decoded, &outputs.images("x_hat_of_mu"));
    }
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
