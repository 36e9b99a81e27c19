//! Convolutions and transposed convolutions in 1 to 3 dimensions, forward and backward.
//!
//! Weights are held as taps × input channels × output channels (taps in Z, Y, X order), output channels contiguous.
//! A transposed convolution of stride 2 is 2^d small convolutions, one for each parity of the output voxel, and is the
//! input gradient of a convolution; so forward passes and input gradients share one function, [`apply`].
//!
//! Two ways lead to the same sums: [`direct`], product by product, and [`winograd`], with fewer products, where there are
//! enough channels and voxels. Which one is taken depends on the sizes alone.

mod direct;
mod winograd;

use super::{
    micro_kernel::{FEW, LANES},
    view::{View, ViewMut},
};
use crate::nn::{Direction, Shape, Window};

/// Weights of a convolution: taps × inputs × outputs, outputs contiguous.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    /// The numbers.
    pub(super) values: &'a [f32],
    /// Input channels of the forward pass.
    pub(super) inputs: usize,
    /// Output channels of the forward pass.
    pub(super) outputs: usize,
}

/// The output voxels of one axis that see the same taps.
#[derive(Clone, Debug)]
struct Lattice {
    /// First output voxel, and the step to the next.
    start: usize,
    step: usize,
    /// How many output voxels.
    count: usize,
    /// Input voxels from one output voxel to the next.
    input_step: usize,
    /// (tap, input voxel that it sees for the first output voxel), by rising input voxel.
    taps: Vec<(usize, isize)>,
}

fn lattices(kernel: usize, stride: usize, padding: usize, outputs: usize, direction: Direction) -> Vec<Lattice> {
    let signed = |value: usize| isize::try_from(value).expect("sizes of images are small");
    match direction {
        Direction::Convolution => {
            let taps = (0..kernel).map(|tap| (tap, signed(tap) - signed(padding))).collect();
            vec![Lattice { start: 0, step: 1, count: outputs, input_step: stride, taps }]
        }
        Direction::Transposed => {
            let class = |start: usize| {
                let taps = (0..kernel).rev().filter(|tap| (start + padding + kernel * stride - tap) % stride == 0);
                let taps = taps.map(|tap| (tap, (signed(start + padding) - signed(tap)).div_euclid(signed(stride))));
                Lattice {
                    start,
                    step: stride,
                    count: outputs.saturating_sub(start).div_ceil(stride),
                    input_step: 1,
                    taps: taps.collect(),
                }
            };
            (0..stride).map(class).collect()
        }
    }
}

/// Channels that are summed over, and channels that come out.
#[derive(Clone, Copy)]
struct Roles {
    summed: usize,
    lanes: usize,
}

impl Roles {
    /// Whether so few channels come out that 32 lanes would be mostly empty: then each one is a dot product over the summed ones.
    fn few(self) -> bool {
        self.lanes <= FEW && self.summed >= 8
    }

    /// Outputs of one panel.
    fn width(self) -> usize {
        if self.few() { self.lanes } else { LANES }
    }
}

/// What happens to a sum of products: `scale · sum + bias`, written to the output or accumulated in it.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Factor, 1/σ of spectral normalisation.
    pub(super) scale: f32,
    /// A number for each output channel.
    pub(super) bias: Option<&'a [f32]>,
    /// Whether the result is added to what the output holds.
    pub(super) accumulate: bool,
}

/// What is convolved, and how.
#[derive(Clone, Copy)]
struct Operands<'a> {
    window: &'a Window,
    direction: Direction,
    weights: Weights<'a>,
    transposed: bool,
    roles: Roles,
    input: View<'a>,
    epilogue: Epilogue<'a>,
}

/// Applies a window to `input`, giving `output`.
///
/// `direction` is how voxels are seen. `transposed`: sums over the weights' output channels and gives their input
/// channels, as input gradients do. So a convolution is (`Convolution`, false) and its input gradient (`Transposed`, true);
/// a transposed convolution is (`Transposed`, false) and its input gradient (`Convolution`, true).
/// `panels` is scratch memory.
///
/// # Panics
/// When channels do not fit the weights, or the input's halo is narrower than the window reaches.
#[expect(clippy::too_many_arguments, reason = "one operation's operands")]
pub(super) fn apply(
    window: &Window,
    direction: Direction,
    weights: Weights,
    transposed: bool,
    input: View,
    output: &mut ViewMut,
    epilogue: Epilogue,
    panels: &mut Vec<f32>,
) {
    let (from, to) = (input.shape(), output.shape());
    let roles = if transposed {
        Roles { summed: weights.outputs, lanes: weights.inputs }
    } else {
        Roles { summed: weights.inputs, lanes: weights.outputs }
    };
    assert_eq!((from.channels, to.channels, from.images), (roles.summed, roles.lanes, to.images));
    assert_eq!(weights.values.len(), window.taps() * weights.inputs * weights.outputs);
    match direction {
        Direction::Convolution => assert_sizes(window, &from, &to),
        Direction::Transposed => assert_sizes(window, &to, &from),
    }
    let operands = Operands { window, direction, weights, transposed, roles, input, epilogue };
    if !winograd::apply(&operands, output, panels) {
        direct::apply(&operands, output, panels);
    }
}

/// Checks that a window fits its two operands: the larger one, and what a convolution makes of it.
fn assert_sizes(window: &Window, large: &Shape, small: &Shape) {
    let Window { kernel, stride, padding } = window;
    for axis in 0..3 {
        let room = large.size[axis] + 2 * padding[axis];
        assert!(
            room >= kernel[axis] && (room - kernel[axis]) / stride[axis] + 1 == small.size[axis],
            "a window of {kernel:?} taps with stride {stride:?} makes no {:?} voxels of {:?}",
            small.size,
            large.size
        );
    }
}

/// The gradient of the weights (taps × inputs × outputs), given the forward pass's input and the gradient of its output.
/// `direction` is that of the forward pass.
///
/// The sum over voxels is split by the sizes alone, and its parts are added in order.
///
/// # Panics
/// When sizes do not fit, or a halo is narrower than the window reaches.
pub(super) fn weight_gradient(
    window: &Window,
    direction: Direction,
    input: View,
    gradient: View,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (from, to) = (input.shape(), gradient.shape());
    let (inputs, outputs) = (from.channels, to.channels);
    let length = window.taps() * inputs * outputs;
    assert_eq!((out.len(), from.images), (length, to.images));
    let (large, small) = if direction == Direction::Convolution { (&from, &to) } else { (&to, &from) };
    assert_sizes(window, large, small);
    assert!((0..3).all(|axis| large.halo[axis] >= window.padding[axis]), "the halo is too narrow");
    if !winograd::weight_gradient(window, direction, input, gradient, out, scratch) {
        direct::weight_gradient(window, direction, input, gradient, out, scratch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Maps, Rng};

    const PLAIN: Epilogue<'static> = Epilogue { scale: 1.0, bias: None, accumulate: false };

    fn random(shape: Shape, rng: &mut Rng) -> Maps {
        let mut maps = Maps::zeros(shape);
        let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.normal() as f32).collect();
        maps.of_model_mut(0).read_channels_first(&values);
        maps
    }

    /// The channels of a voxel.
    fn voxel(maps: View<'_>, image: usize, at: [usize; 3]) -> &[f32] {
        &maps.data()[maps.shape().offset(image, at)..][..maps.shape().channels]
    }

    /// Every (image, small voxel, tap, large voxel) of a window.
    fn pairs(window: &Window, small: &Shape, mut visit: impl FnMut(usize, [isize; 3], usize, [isize; 3])) {
        for image in 0..small.images {
            for voxel in 0..small.size.iter().product() {
                let [_, height, across] = small.size;
                let o = [voxel / (height * across), voxel / across % height, voxel % across];
                for tap in 0..window.taps() {
                    let [_, kh, kw] = window.kernel;
                    let k = [tap / (kh * kw), tap / kw % kh, tap % kw];
                    let i = std::array::from_fn(|axis| {
                        (o[axis] * window.stride[axis] + k[axis]) as isize - window.padding[axis] as isize
                    });
                    visit(image, o.map(|v| v as isize), tap, i);
                }
            }
        }
    }

    fn compare(got: &[f32], wanted: &[f64]) {
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((f64::from(*got) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{got} {wanted}");
        }
    }

    /// All passes of a convolution and of a transposed one against plain loops in f64.
    fn check(dimensions: usize, kernel: usize, stride: usize, inputs: usize, outputs: usize) {
        let deep = if dimensions == 3 { 4 } else { 1 };
        assert!(!check_size([deep, 6, 10], kernel, stride, inputs, outputs), "too few voxels for Winograd's way");
    }

    /// The same for images of a size; says whether the way with fewer products was taken for all passes.
    fn check_size(large: [usize; 3], kernel: usize, stride: usize, inputs: usize, outputs: usize) -> bool {
        let dimensions = if large[0] > 1 { 3 } else { 2 };
        let padding = (kernel - 1) / 2;
        check_window(large, Window::new(dimensions, kernel, stride, padding), inputs, outputs)
    }

    /// The same for any window.
    fn check_window(large: [usize; 3], window: Window, inputs: usize, outputs: usize) -> bool {
        let mut rng = Rng::new(3, "test", window.taps() as u64);
        // As far as any pass looks: the adjoint of a window without padding looks further than the window.
        let halo: [usize; 3] = std::array::from_fn(|axis| window.padding[axis].max(window.kernel[axis] - 1));
        let mut fewer = true;
        let small: [usize; 3] = std::array::from_fn(|axis| {
            (large[axis] + 2 * window.padding[axis] - window.kernel[axis]) / window.stride[axis] + 1
        });
        let weights: Vec<f32> = (0..window.taps() * inputs * outputs).map(|_| rng.normal() as f32 * 0.1).collect();
        let weights = Weights { values: &weights, inputs, outputs };
        let bias: Vec<f32> = (0..inputs.max(outputs)).map(|v| v as f32).collect();
        let mut panels = vec![9.0; 10];
        let images = 2;
        for direction in [Direction::Convolution, Direction::Transposed] {
            let (from, to) = if direction == Direction::Convolution { (large, small) } else { (small, large) };
            let x = random(Shape::new(images, from, inputs).with_halo(halo), &mut rng);
            let dy = random(Shape::new(images, to, outputs).with_halo(halo), &mut rng);
            let (xs, ys) = (Shape::new(images, from, inputs), Shape::new(images, to, outputs));
            let (mut y, mut dx) = (Maps::zeros(ys.with_halo(halo)), Maps::zeros(xs));
            let other =
                if direction == Direction::Convolution { Direction::Transposed } else { Direction::Convolution };
            let epilogue = Epilogue { scale: 0.5, bias: Some(&bias[..outputs]), accumulate: false };
            apply(&window, direction, weights, false, x.of_model(0), &mut y.of_model_mut(0), epilogue, &mut panels);
            dx.data_mut().fill(1.0);
            let epilogue = Epilogue { scale: 2.0, bias: None, accumulate: true };
            apply(&window, other, weights, true, dy.of_model(0), &mut dx.of_model_mut(0), epilogue, &mut panels);
            let mut dw = vec![5.0; weights.values.len()];
            weight_gradient(&window, direction, x.of_model(0), dy.of_model(0), &mut dw, &mut vec![3.0; 7]);
            let roles = Roles { summed: inputs, lanes: outputs };
            let operands = Operands {
                window: &window,
                direction,
                weights,
                transposed: false,
                roles,
                input: x.of_model(0),
                epilogue: PLAIN,
            };
            let back = Operands {
                direction: other,
                transposed: true,
                roles: Roles { summed: outputs, lanes: inputs },
                input: dy.of_model(0),
                ..operands
            };
            let (x, dy) = (x.of_model(0), dy.of_model(0));
            fewer &= winograd::apply(&operands, &mut y.clone().of_model_mut(0), &mut panels)
                && winograd::apply(&back, &mut dx.clone().of_model_mut(0), &mut panels)
                && winograd::weight_gradient(&window, direction, x, dy, &mut dw.clone(), &mut Vec::new());

            let mut wanted_y: Vec<f64> = (0..ys.len()).map(|at| f64::from(bias[at % outputs])).collect();
            let mut wanted_dx = vec![1.0; xs.len()];
            let mut wanted_dw = vec![0.0; dw.len()];
            let few = Shape::new(images, small, 1);
            pairs(&window, &few, |image, small, tap, large| {
                let (i_at, o_at) = if direction == Direction::Convolution { (large, small) } else { (small, large) };
                let inside = |at: [isize; 3], size: [usize; 3]| (0..3).all(|a| at[a] >= 0 && at[a] < size[a] as isize);
                if !inside(i_at, from) || !inside(o_at, to) {
                    return;
                }
                let (i_at_u, o_at_u) = (i_at.map(|v| v as usize), o_at.map(|v| v as usize));
                let (xs_here, dy_here) = (voxel(x, image, i_at_u), voxel(dy, image, o_at_u));
                let y_here = &mut wanted_y[ys.offset(image, o_at_u)..][..outputs];
                let dx_here = &mut wanted_dx[xs.offset(image, i_at_u)..][..inputs];
                for (i, (dx, x)) in dx_here.iter_mut().zip(xs_here).enumerate() {
                    let at = (tap * inputs + i) * outputs;
                    let weights = weights.values[at..].iter().zip(&mut wanted_dw[at..]);
                    for ((y, dy), (weight, dw)) in y_here.iter_mut().zip(dy_here).zip(weights) {
                        let (weight, x, dy) = (f64::from(*weight), f64::from(*x), f64::from(*dy));
                        *y += 0.5 * weight * x;
                        *dx += 2.0 * weight * dy;
                        *dw += x * dy;
                    }
                }
            });
            let inner: Vec<f32> = (0..y.shape().rows()).flat_map(|row| y.of_model(0).row(row).to_vec()).collect();
            compare(&inner, &wanted_y);
            compare(dx.data(), &wanted_dx);
            compare(&dw, &wanted_dw);
        }
        fewer
    }

    #[test]
    fn all_passes_agree_with_plain_loops() {
        for dimensions in [2, 3] {
            for (inputs, outputs) in [(1, 1), (2, 3), (40, 2), (3, 33)] {
                check(dimensions, 4, 2, inputs, outputs);
                check(dimensions, 3, 1, inputs, outputs);
                check(dimensions, 1, 1, inputs, outputs);
            }
        }
        check(2, 3, 1, 70, 64);
    }

    #[test]
    fn windows_of_other_shapes_agree_with_plain_loops() {
        let odd = Window { kernel: [2, 3, 5], stride: [1, 2, 1], padding: [0, 1, 2] };
        for (inputs, outputs) in [(3, 2), (9, 4), (12, 2), (33, 5)] {
            check_window([3, 7, 9], odd, inputs, outputs);
            for padding in [0, 1, 2] {
                check_window([1, 6, 7], Window::new(2, 3, 1, padding), inputs, outputs);
                check_window([4, 6, 7], Window::new(3, 3, 1, padding), inputs, outputs);
            }
            check_window([1, 7, 8], Window::new(2, 3, 3, 0), inputs, outputs);
        }
    }

    #[test]
    #[should_panic(expected = "makes no")]
    fn sizes_that_do_not_fit_are_refused() {
        let (x, y) = (Maps::zeros(Shape::new(1, [1, 6, 6], 2)), Maps::zeros(Shape::new(1, [1, 6, 6], 3)));
        let mut out = vec![0.0; 9 * 6];
        let window = Window::new(2, 3, 1, 0);
        weight_gradient(&window, Direction::Convolution, x.of_model(0), y.of_model(0), &mut out, &mut Vec::new());
    }

    #[test]
    fn fewer_products_give_the_same_sums() {
        for (inputs, outputs) in [(16, 160), (144, 16)] {
            for (size, kernel, stride) in
                [([1, 40, 44], 4, 2), ([1, 31, 43], 3, 1), ([4, 32, 44], 4, 2), ([3, 15, 17], 3, 1)]
            {
                assert!(check_size(size, kernel, stride, inputs, outputs), "{size:?}");
            }
        }
    }
}
