//! The weights before training.

use super::{Architecture, ModelError, Parameters};
use crate::nn::Rng;

/// The paper's initial weights: convolution weights N(0, 0.02), BatchNorm weights N(1, 0.02) and biases 0; linear layers and convolution biases
/// uniform within ±1/√(inputs · taps); u a random unit vector. Every tensor has its own stream of random numbers.
///
/// # Errors
/// When there is no memory for them.
pub(super) fn init(architecture: &Architecture, seed: u64) -> Result<Parameters, ModelError> {
    let shapes = architecture.parameter_shapes();
    let mut bound = 0.0;
    let mut parameters = Parameters::default();
    for described in shapes {
        let (name, shape) = (described.name, described.shape);
        let mut rng = Rng::new(seed, &format!("weights {name}"), 0);
        let count: usize = shape.iter().product();
        let (layer, part) = name.rsplit_once('.').expect("a layer and a part");
        let norm = layer.rsplit('.').next().is_some_and(|layer| layer.starts_with("bn"));
        let mut draw = |number: &mut dyn FnMut(&mut Rng) -> f64| (0..count).map(|_| number(&mut rng) as f32).collect();
        let values: Vec<f32> = match (norm, part) {
            (true, "weight") => draw(&mut |rng| 1.0 + 0.02 * rng.normal()),
            (true, "running_var") => vec![1.0; count],
            (true, _) => vec![0.0; count],
            (false, "weight") => {
                // PyTorch takes the second axis and the kernel for the inputs, of a transposed convolution too.
                bound = 1.0 / (shape.iter().skip(1).product::<usize>() as f64).sqrt();
                if shape.len() == 2 {
                    draw(&mut |rng| (2.0 * rng.uniform() - 1.0) * bound)
                } else {
                    draw(&mut |rng| 0.02 * rng.normal())
                }
            }
            // The bias stands behind the weight of its layer.
            (false, "bias") => draw(&mut |rng| (2.0 * rng.uniform() - 1.0) * bound),
            (false, _) => {
                let mut u: Vec<f32> = draw(&mut Rng::normal);
                let norm = u.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                u.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
                u
            }
        };
        parameters.insert(&name, shape, values)?;
    }
    Ok(parameters)
}
