//! One step of Adam on the processor.

use super::parallel::{self, Shared};

/// What a step needs besides the numbers, in the precision of the numbers.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) struct Step {
    /// The learning rate over the first bias correction.
    pub(in crate::nn) step: f32,
    /// 1/√ of the second bias correction.
    pub(in crate::nn) root: f32,
    pub(in crate::nn) epsilon: f32,
    /// Shares of the old moments, and of the new gradient.
    pub(in crate::nn) keep: [f32; 2],
    pub(in crate::nn) take: [f32; 2],
}

/// Changes `values` and both moments, given the gradients; all of one length.
pub(in crate::nn) fn adam(step: Step, values: &mut [f32], first: &mut [f32], second: &mut [f32], gradients: &[f32]) {
    let count = values.len();
    assert_eq!((first.len(), second.len(), gradients.len()), (count, count, count));
    let (values, first, second) = (Shared::new(values), Shared::new(first), Shared::new(second));
    let parts = parallel::parts(count, count >> 17);
    parallel::for_each(parts, |part| {
        let range = parallel::part(count, parts, part);
        // SAFETY: the parts lie apart.
        let stretch =
            |shared: Shared| unsafe { std::slice::from_raw_parts_mut(shared.pointer().add(range.start), range.len()) };
        let moments = stretch(first).iter_mut().zip(stretch(second));
        let numbers = stretch(values).iter_mut().zip(&gradients[range.clone()]).zip(moments);
        for ((value, gradient), (first, second)) in numbers {
            *first = step.keep[0] * *first + step.take[0] * gradient;
            *second = step.keep[1] * *second + step.take[1] * (gradient * gradient);
            *value -= step.step * *first / (second.sqrt() * step.root + step.epsilon);
        }
    });
}
