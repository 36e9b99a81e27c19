//! Adam as candle's optimiser, with a state that can be kept and taken up again.

use candle_core::{Error, Result, Tensor, Var, backprop::GradStore};
use candle_nn::Optimizer;

use super::{
    cpu,
    storage::{floats, update},
};

/// Adam's numbers. Source: Kingma and Ba 2015, algorithm 1 (ε outside the root, with bias correction).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamParameters {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

impl AdamParameters {
    /// The paper's: β = (0.9, 0.999), ε = 1e-8.
    #[must_use]
    pub const fn new(learning_rate: f64) -> Self {
        Self { learning_rate, betas: [0.9, 0.999], epsilon: 1e-8 }
    }
}

/// One trained tensor and both moments of its gradient.
#[derive(Debug)]
struct Trained {
    var: Var,
    first: Tensor,
    second: Tensor,
}

/// Adam with its state: both moments of every gradient, and how many steps were taken.
#[derive(Debug)]
pub struct Adam {
    trained: Vec<Trained>,
    steps: u64,
    parameters: AdamParameters,
}

impl Adam {
    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Both moments of all trained numbers, in the order of the variables.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn moments(&self) -> Result<[Vec<f32>; 2]> {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for trained in &self.trained {
            first.extend_from_slice(&floats(&trained.first)?);
            second.extend_from_slice(&floats(&trained.second)?);
        }
        Ok([first, second])
    }

    /// Takes up a state that [`Adam::moments`] gave.
    ///
    /// # Errors
    /// When it has another number of moments.
    pub fn restore(&mut self, steps: u64, [mut first, mut second]: [&[f32]; 2]) -> Result<()> {
        let count: usize = self.trained.iter().map(|trained| trained.var.elem_count()).sum();
        if [first.len(), second.len()] != [count; 2] {
            return Err(Error::Msg(format!("{} moments for {count} numbers", first.len())));
        }
        for trained in &self.trained {
            for (moments, from) in [(&trained.first, &mut first), (&trained.second, &mut second)] {
                let (own, rest) = from.split_at(moments.elem_count());
                update(moments, |to| to.copy_from_slice(own))?;
                *from = rest;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

impl Optimizer for Adam {
    type Config = AdamParameters;

    fn new(vars: Vec<Var>, parameters: AdamParameters) -> Result<Self> {
        let one = |var: Var| {
            let (first, second) = (var.zeros_like()?, var.zeros_like()?);
            Ok(Trained { var, first, second })
        };
        Ok(Self { trained: vars.into_iter().map(one).collect::<Result<_>>()?, steps: 0, parameters })
    }

    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        self.steps += 1;
        let AdamParameters { learning_rate, betas, epsilon } = self.parameters;
        let correction = |beta: f64| 1.0 - libm::pow(beta, self.steps as f64);
        let step = cpu::AdamStep {
            step: (learning_rate / correction(betas[0])) as f32,
            root: (1.0 / correction(betas[1]).sqrt()) as f32,
            epsilon: epsilon as f32,
            keep: betas.map(|beta| beta as f32),
            take: betas.map(|beta| (1.0 - beta) as f32),
        };
        for trained in &self.trained {
            let Some(gradient) = gradients.get(trained.var.as_tensor()) else { continue };
            if gradient.elem_count() != trained.var.elem_count() {
                return Err(Error::Msg("a gradient has another length than its numbers".to_owned()));
            }
            let gradient = gradient.contiguous()?;
            let gradient = floats(&gradient)?;
            let mut result = Ok(());
            update(&trained.var, |values| {
                result = update(&trained.first, |first| {
                    // Three tensors are changed at once, each behind its own lock.
                    let _ = update(&trained.second, |second| cpu::adam(step, values, first, second, &gradient));
                });
            })?;
            result?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.parameters.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.parameters.learning_rate = learning_rate;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let var = Var::new(&[1.0f32], &Device::Cpu).unwrap();
        let mut adam = Adam::new(vec![var.clone()], AdamParameters::new(0.1)).unwrap();
        let mut step = |gradient: f32| {
            let mut all = GradStore::default();
            all.insert(var.as_tensor(), Tensor::new(&[gradient], &Device::Cpu).unwrap());
            adam.step(&all).unwrap();
            f64::from(var.to_vec1::<f32>().unwrap()[0])
        };
        // The first step is the learning rate against the gradient's sign.
        assert!((step(0.5) - 0.9).abs() < 1e-6);
        let value = step(-0.25);
        let first = (0.9 * 0.05 - 0.025) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.25e-3 + 0.0625e-3) / (1.0 - 0.999f64.powi(2));
        let wanted = 0.9 - 0.1 * first / (second.sqrt() + 1e-8);
        assert!((value - wanted).abs() < 1e-6, "{value} {wanted}");
        assert_eq!(adam.steps(), 2);
    }

    #[test]
    fn a_state_that_is_taken_up_again_goes_on_as_before() {
        let run = |break_after: Option<u64>| {
            let var = Var::new(&[1.0f32, -2.0, 0.5], &Device::Cpu).unwrap();
            let mut adam = Adam::new(vec![var.clone()], AdamParameters::new(0.01)).unwrap();
            for step in 0..6 {
                if break_after == Some(step) {
                    let [first, second] = adam.moments().unwrap();
                    adam = Adam::new(vec![var.clone()], AdamParameters::new(0.01)).unwrap();
                    adam.restore(step, [&first, &second]).unwrap();
                }
                // Plain candle gives the gradients: Σ x⁴.
                let loss = var.powf(4.0).unwrap().sum_all().unwrap();
                adam.step(&loss.backward().unwrap()).unwrap();
            }
            var.to_vec1::<f32>().unwrap()
        };
        assert_eq!(run(None), run(Some(3)));
    }
}
