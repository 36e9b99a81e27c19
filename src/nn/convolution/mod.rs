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
    kernel::{FEW, LANES},
    maps::{Maps, Shape},
};

/// Where a convolution looks: kernel, stride and padding along Z, Y, X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: [usize; 3],
    /// Stride.
    pub stride: [usize; 3],
    /// Zeros on each side.
    pub padding: [usize; 3],
}

impl Window {
    /// A window of these numbers along every axis; in 2D Z is left alone.
    #[must_use]
    pub const fn new(dimensions: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let (k, s, p) = if dimensions == 3 { (kernel, stride, padding) } else { (1, 1, 0) };
        Self { kernel: [k, kernel, kernel], stride: [s, stride, stride], padding: [p, padding, padding] }
    }

    /// The number of taps.
    #[must_use]
    pub const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.kernel[2]
    }
}

/// How a window is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As a convolution: output voxel o sees input voxels o·stride + k − padding.
    Gather,
    /// As a transposed convolution: input voxel i adds to output voxels i·stride + k − padding.
    Spread,
}

/// Weights of a convolution: taps × inputs × outputs, outputs contiguous.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// Input channels of the forward pass.
    pub inputs: usize,
    /// Output channels of the forward pass.
    pub outputs: usize,
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
        Direction::Gather => {
            let taps = (0..kernel).map(|tap| (tap, signed(tap) - signed(padding))).collect();
            vec![Lattice { start: 0, step: 1, count: outputs, input_step: stride, taps }]
        }
        Direction::Spread => {
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

/// What happens to a sum of products: `scale · sum + bias`, put in place of the output or added to it.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// Factor, 1/σ of spectral normalisation.
    pub scale: f32,
    /// A number for each output channel.
    pub bias: Option<&'a [f32]>,
    /// Whether the result is added to what the output holds.
    pub add: bool,
}

/// What is convolved, and how.
#[derive(Clone, Copy)]
struct Operands<'a> {
    window: &'a Window,
    direction: Direction,
    weights: Weights<'a>,
    transposed: bool,
    roles: Roles,
    input: &'a Maps,
    finish: Finish<'a>,
}

/// Applies a window to `input`, giving `output`.
///
/// `direction` is how voxels are seen. `transposed`: sums over the weights' output channels and gives their input
/// channels, as input gradients do. So a convolution is (`Gather`, false) and its input gradient (`Spread`, true);
/// a transposed convolution is (`Spread`, false) and its input gradient (`Gather`, true).
/// `panels` is scratch memory.
///
/// # Panics
/// When channels do not fit the weights, or the input's border is narrower than the window reaches.
#[expect(clippy::too_many_arguments, reason = "one operation's operands")]
pub fn apply(
    window: &Window,
    direction: Direction,
    weights: Weights,
    transposed: bool,
    input: &Maps,
    output: &mut Maps,
    finish: Finish,
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
    let operands = Operands { window, direction, weights, transposed, roles, input, finish };
    if !winograd::apply(&operands, output, panels) {
        direct::apply(&operands, output, panels);
    }
}

/// The gradient of the weights (taps × inputs × outputs), given the forward pass's input and the gradient of its output.
/// `direction` is that of the forward pass.
///
/// The sum over voxels is split by the sizes alone, and its parts are added in order.
///
/// # Panics
/// When sizes do not fit, or a border is narrower than the window reaches.
pub fn weight_gradient(
    window: &Window,
    direction: Direction,
    input: &Maps,
    gradient: &Maps,
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let (from, to) = (input.shape(), gradient.shape());
    let (inputs, outputs) = (from.channels, to.channels);
    let length = window.taps() * inputs * outputs;
    assert_eq!((out.len(), from.images), (length, to.images));
    let reach = |shape: &Shape| (0..3).all(|axis| shape.border[axis] >= window.padding[axis]);
    assert!(reach(if direction == Direction::Gather { &from } else { &to }), "the border is too narrow");
    if !winograd::weight_gradient(window, direction, input, gradient, out, scratch) {
        direct::weight_gradient(window, direction, input, gradient, out, scratch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Rng;

    const PLAIN: Finish<'static> = Finish { scale: 1.0, bias: None, add: false };

    fn random(shape: Shape, rng: &mut Rng) -> Maps {
        let mut maps = Maps::zeros(shape);
        let values: Vec<f32> = (0..shape.voxels() * shape.channels).map(|_| rng.normal() as f32).collect();
        maps.read_channels_first(&values);
        maps
    }

    /// The channels of a voxel.
    fn voxel(maps: &Maps, image: usize, at: [usize; 3]) -> &[f32] {
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
        let window = Window::new(dimensions, kernel, stride, (kernel - 1) / 2);
        let mut rng = Rng::new(3, "test", kernel as u64);
        let border = window.padding;
        let mut fewer = true;
        let small: [usize; 3] = std::array::from_fn(|axis| large[axis] / window.stride[axis]);
        let weights: Vec<f32> = (0..window.taps() * inputs * outputs).map(|_| rng.normal() as f32 * 0.1).collect();
        let weights = Weights { values: &weights, inputs, outputs };
        let bias: Vec<f32> = (0..inputs.max(outputs)).map(|v| v as f32).collect();
        let mut panels = vec![9.0; 10];
        let images = 2;
        for direction in [Direction::Gather, Direction::Spread] {
            let (from, to) = if direction == Direction::Gather { (large, small) } else { (small, large) };
            let x = random(Shape { images, size: from, channels: inputs, border }, &mut rng);
            let dy = random(Shape { images, size: to, channels: outputs, border }, &mut rng);
            let (xs, ys) = (Shape::bare(images, from, inputs), Shape::bare(images, to, outputs));
            let (mut y, mut dx) = (Maps::zeros(ys.with_border(border)), Maps::zeros(xs));
            let other = if direction == Direction::Gather { Direction::Spread } else { Direction::Gather };
            let finish = Finish { scale: 0.5, bias: Some(&bias[..outputs]), add: false };
            apply(&window, direction, weights, false, &x, &mut y, finish, &mut panels);
            dx.for_each_row(|_, row| row.fill(1.0));
            let finish = Finish { scale: 2.0, bias: None, add: true };
            apply(&window, other, weights, true, &dy, &mut dx, finish, &mut panels);
            let mut dw = vec![5.0; weights.values.len()];
            weight_gradient(&window, direction, &x, &dy, &mut dw, &mut vec![3.0; 7]);
            let roles = Roles { summed: inputs, lanes: outputs };
            let operands =
                Operands { window: &window, direction, weights, transposed: false, roles, input: &x, finish: PLAIN };
            let back = Operands {
                direction: other,
                transposed: true,
                roles: Roles { summed: outputs, lanes: inputs },
                input: &dy,
                ..operands
            };
            fewer &= winograd::apply(&operands, &mut y.clone(), &mut panels)
                && winograd::apply(&back, &mut dx.clone(), &mut panels)
                && winograd::weight_gradient(&window, direction, &x, &dy, &mut dw.clone(), &mut Vec::new());

            let mut wanted_y: Vec<f64> = (0..ys.len()).map(|at| f64::from(bias[at % outputs])).collect();
            let mut wanted_dx = vec![1.0; xs.len()];
            let mut wanted_dw = vec![0.0; dw.len()];
            let few = Shape::bare(images, small, 1);
            pairs(&window, &few, |image, small, tap, large| {
                let (i_at, o_at) = if direction == Direction::Gather { (large, small) } else { (small, large) };
                let inside = |at: [isize; 3], size: [usize; 3]| (0..3).all(|a| at[a] >= 0 && at[a] < size[a] as isize);
                if !inside(i_at, from) || !inside(o_at, to) {
                    return;
                }
                let (i_at_u, o_at_u) = (i_at.map(|v| v as usize), o_at.map(|v| v as usize));
                let (xs_here, dy_here) = (voxel(&x, image, i_at_u), voxel(&dy, image, o_at_u));
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
            let inner: Vec<f32> = (0..y.shape().rows()).flat_map(|row| y.row(row).to_vec()).collect();
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
