//! Where every tensor of a model lies, and in which order of axes: that which the operations want (taps × inputs × outputs).

use super::{Architecture, ParameterShape};
use crate::nn::Slot;

/// The tensor's axes as PyTorch has them, three of them, and their order here.
fn axes(architecture: &Architecture, described: &ParameterShape) -> ([usize; 3], [usize; 3]) {
    let (name, shape) = (described.name.as_str(), &described.shape);
    let positions: usize = architecture.grid().iter().product();
    let rest: usize = shape.iter().skip(2).product();
    match name {
        "dec.fc.weight" => ([shape[0] / positions, positions, shape[1]], [2, 1, 0]),
        "dec.fc.bias" | "dec.fc.u" => ([shape[0] / positions, positions, 1], [2, 1, 0]),
        "enc.mu.weight" | "enc.logvar.weight" => ([shape[0], shape[1] / positions, positions], [2, 1, 0]),
        _ if shape.len() == 1 => ([shape[0], 1, 1], [0, 1, 2]),
        _ if name.starts_with("dec.path") && name.ends_with("conv1.weight") => ([shape[0], shape[1], rest], [2, 0, 1]),
        _ => ([shape[0], shape[1], rest], [2, 1, 0]),
    }
}

/// The tensors of a checked architecture, in the order of its layers.
pub(super) fn slots(architecture: &Architecture) -> Vec<Slot> {
    let (mut trained, mut buffers) = (0, 0);
    let one = |described: ParameterShape| {
        let length: usize = described.shape.iter().product();
        let end = if described.trained { &mut trained } else { &mut buffers };
        *end += length;
        let (axes, order) = axes(architecture, &described);
        let range = *end - length..*end;
        Slot { name: described.name, shape: described.shape, trained: described.trained, range, axes, order }
    };
    architecture.parameter_shapes().into_iter().map(one).collect()
}
