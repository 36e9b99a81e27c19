//! Adam, with a state that can be kept and taken up again.

use super::parallel::{self, Shared};

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

/// Adam's state: both moments of every gradient, and how many steps were taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Running means of the gradients.
    pub first: Vec<f32>,
    /// Running means of their squares.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl Adam {
    /// The state before the first step of `count` numbers.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { first: vec![0.0; count], second: vec![0.0; count], steps: 0 }
    }

    /// Takes a step: changes `values` against `gradients`.
    ///
    /// # Panics
    /// When their lengths are not that of the state.
    pub fn step(&mut self, parameters: &AdamParameters, values: &mut [f32], gradients: &[f32]) {
        let count = self.first.len();
        assert_eq!((values.len(), gradients.len(), self.second.len()), (count, count, count));
        self.steps += 1;
        let [beta1, beta2] = parameters.betas;
        let correction = |beta: f64| 1.0 - libm::pow(beta, self.steps as f64);
        let step = (parameters.learning_rate / correction(beta1)) as f32;
        let root = (1.0 / correction(beta2).sqrt()) as f32;
        let epsilon = parameters.epsilon as f32;
        let (keep1, keep2) = (beta1 as f32, beta2 as f32);
        let (take1, take2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let (values, first, second) =
            (Shared::new(values), Shared::new(&mut self.first), Shared::new(&mut self.second));
        let parts = parallel::parts(count, count >> 17);
        parallel::for_each(parts, |part| {
            let range = parallel::part(count, parts, part);
            // SAFETY: the parts lie apart.
            let stretch = |shared: Shared| unsafe {
                std::slice::from_raw_parts_mut(shared.pointer().add(range.start), range.len())
            };
            let moments = stretch(first).iter_mut().zip(stretch(second));
            for ((value, gradient), (first, second)) in
                stretch(values).iter_mut().zip(&gradients[range.clone()]).zip(moments)
            {
                *first = keep1 * *first + take1 * gradient;
                *second = keep2 * *second + take2 * (gradient * gradient);
                *value -= step * *first / (second.sqrt() * root + epsilon);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let parameters = AdamParameters::new(0.1);
        let mut adam = Adam::new(1);
        let mut value = [1.0];
        adam.step(&parameters, &mut value, &[0.5]);
        // The first step is the learning rate against the gradient's sign.
        assert!((value[0] - 0.9).abs() < 1e-6);
        adam.step(&parameters, &mut value, &[-0.25]);
        let first = (0.9 * 0.05 - 0.025) / (1.0 - 0.81);
        let second: f64 = (0.999 * 0.25e-3 + 0.0625e-3) / (1.0 - 0.999f64.powi(2));
        let wanted = 0.9 - 0.1 * first / (second.sqrt() + 1e-8);
        assert!((f64::from(value[0]) - wanted).abs() < 1e-6, "{} {wanted}", value[0]);
        assert_eq!(adam.steps, 2);
    }
}
