//! Embeds images with a trained statcell model inside a candle program:
//! `cargo run --release --example candle_module -- MODEL-FOLDER`
//!
//! MODEL-FOLDER is what `statcell get PIPELINE STAGE.model --out MODEL-FOLDER` copied out of the store: `model.json` and
//! `weights.safetensors`. Without it, a small model with random weights is used.

#![expect(clippy::print_stdout, reason = "a program for people to read")]

use std::{error::Error, fs, path::Path};

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module, ModuleT, func_t};
use statcell::model::{Architecture, BoundEncoder, Parameters, Vae};

fn load(folder: &Path) -> Result<Vae, Box<dyn Error>> {
    let architecture: Architecture = serde_json::from_slice(&fs::read(folder.join("model.json"))?)?;
    let parameters = Parameters::from_safetensors(&fs::read(folder.join("weights.safetensors"))?)?;
    Ok(Vae::from_parameters(&architecture, &parameters)?)
}

fn small() -> Result<Vae, Box<dyn Error>> {
    let architecture = serde_json::from_str(
        r#"{"kind": "reference", "dimensions": 2, "size": [1, 32, 32], "image-channels": ["membrane", "dna"],
            "reference-channels": [], "labels": [], "channels": [8, 16], "latent": 4, "beta": null, "voxel-um": [1, 1, 1]}"#,
    )?;
    Ok(Vae::new(&architecture, 1)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let vae = match std::env::args().nth(1) {
        Some(folder) => load(Path::new(&folder))?,
        None => small()?,
    };
    let architecture = vae.architecture();
    if !architecture.labels.is_empty() {
        return Err("this program embeds with a reference model; a target model needs its condition bound".into());
    }
    // Four images of noise; yours would be normalised cells, N × C × (Z ×) Y × X.
    let [depth, height, width] = architecture.size;
    let mut shape = vec![4, architecture.image_channels.len()];
    shape.extend(if architecture.dimensions == 3 { vec![depth, height, width] } else { vec![height, width] });
    let images = Tensor::rand(0f32, 1f32, shape, &Device::Cpu)?;

    // The encoder is one module among others: here, two numbers are read off its latent means.
    let latent = architecture.latent;
    let readout = Linear::new(Tensor::randn(0f32, 1f32, (2, latent), &Device::Cpu)?, None);
    let encoder = BoundEncoder { encoder: vae.encoder().clone(), condition: None };
    let network = func_t(move |images, train| {
        let means = encoder.forward_t(images, train)?.narrow(1, 0, latent)?.contiguous()?;
        readout.forward(&means)
    });
    println!("{}", network.forward_t(&images, false)?);
    Ok(())
}
