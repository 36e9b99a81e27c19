//! Layers: what they are and the tensors that they read. They are built through a [`VarBuilder`], as candle's own layers are.
//!
//! A layer knows nothing of devices; [`super::Backend`] computes it.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

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
    Convolution,
    /// As a transposed convolution: input voxel i adds to output voxels i·stride + k − padding.
    Transposed,
}

impl Direction {
    /// The direction of the input gradient.
    #[must_use]
    pub const fn adjoint(self) -> Self {
        match self {
            Self::Convolution => Self::Transposed,
            Self::Transposed => Self::Convolution,
        }
    }
}

/// A convolution, a transposed convolution, or a linear layer (a window of one tap over vectors), under spectral normalisation.
///
/// Source: Donovan-Maiye et al. 2022, section 4.2; Miyato et al. 2018.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// The window.
    pub window: Window,
    /// How the window is applied.
    pub direction: Direction,
    /// Weights: models × taps × inputs × outputs, taps in Z, Y, X order.
    pub weight: Tensor,
    /// Biases: models × outputs.
    pub bias: Tensor,
    /// The vector u of spectral normalisation, models × outputs (a transposed convolution: × inputs); a buffer.
    pub u: Tensor,
}

impl Convolution {
    /// A convolution whose tensors are called `weight`, `bias` and `u` in `vb`, for this many models.
    ///
    /// # Errors
    /// When `vb` has no such tensors.
    pub fn new(
        models: usize,
        [inputs, outputs]: [usize; 2],
        window: Window,
        direction: Direction,
        vb: VarBuilder,
    ) -> Result<Self> {
        let rows = if direction == Direction::Transposed { inputs } else { outputs };
        Ok(Self {
            inputs,
            outputs,
            window,
            direction,
            weight: vb.get((models, window.taps(), inputs, outputs), "weight")?,
            bias: vb.get((models, 1, 1, outputs), "bias")?,
            u: vb.get((models, 1, 1, rows), "u")?,
        })
    }

    /// A linear layer.
    ///
    /// # Errors
    /// When `vb` has no such tensors.
    pub fn linear(models: usize, channels: [usize; 2], vb: VarBuilder) -> Result<Self> {
        Self::new(models, channels, Window::new(2, 1, 1, 0), Direction::Convolution, vb)
    }

    /// The halo that the input must have.
    #[must_use]
    pub fn input_halo(&self) -> [usize; 3] {
        self.reach(self.direction)
    }

    /// The halo that the gradient of the output must have.
    #[must_use]
    pub fn gradient_halo(&self) -> [usize; 3] {
        self.reach(self.direction.adjoint())
    }

    /// How far outside its operand a window looks.
    fn reach(&self, direction: Direction) -> [usize; 3] {
        let Window { kernel, stride, padding } = self.window;
        std::array::from_fn(|axis| match direction {
            Direction::Convolution => padding[axis],
            Direction::Transposed => (kernel[axis] - 1).saturating_sub(padding[axis]).div_ceil(stride[axis]),
        })
    }

    /// Where the weights begin among all parameters: no two layers of a model share it.
    pub(super) fn place(&self) -> usize {
        self.weight.layout().start_offset()
    }

    /// Models whose weights are held.
    #[must_use]
    pub fn models(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Size of the output for an input of this size: Z, Y, X.
    #[must_use]
    pub fn output_size(&self, input: [usize; 3]) -> [usize; 3] {
        let Window { kernel, stride, padding } = self.window;
        std::array::from_fn(|axis| match self.direction {
            Direction::Convolution => (input[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1,
            Direction::Transposed => (input[axis] - 1) * stride[axis] + kernel[axis] - 2 * padding[axis],
        })
    }
}

/// A batch normalisation over images and voxels, per channel. ε and momentum are PyTorch's.
#[derive(Clone, Debug)]
pub struct Normalisation {
    /// Factors: models × channels.
    pub weight: Tensor,
    /// What is added: models × channels.
    pub bias: Tensor,
    /// Running means: models × channels; a buffer.
    pub running_mean: Tensor,
    /// Running variances: models × channels; a buffer.
    pub running_var: Tensor,
}

impl Normalisation {
    /// ε of batch normalisation.
    pub const EPSILON: f64 = 1e-5;
    /// Weight of a batch in the running statistics.
    pub const MOMENTUM: f64 = 0.1;

    /// A normalisation whose tensors are called as in PyTorch in `vb`.
    ///
    /// # Errors
    /// When `vb` has no such tensors.
    pub fn new(models: usize, channels: usize, vb: VarBuilder) -> Result<Self> {
        let get = |name: &str| vb.get((models, 1, 1, channels), name);
        Ok(Self {
            weight: get("weight")?,
            bias: get("bias")?,
            running_mean: get("running_mean")?,
            running_var: get("running_var")?,
        })
    }

    /// Channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.weight.dims()[3]
    }
}

/// A condition of a block: ReLU(normalisation(1 × 1 convolution)), added to the block's sum.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The convolution; its inputs are the reference image's channels, or the labels.
    pub conv: Convolution,
    /// The normalisation.
    pub norm: Normalisation,
}

impl Condition {
    /// A condition whose layers are called `conv` and `bn` in `vb`.
    ///
    /// # Errors
    /// When `vb` has no such tensors.
    pub fn new(models: usize, channels: [usize; 2], vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            conv: Convolution::linear(models, channels, vb.pp("conv"))?,
            norm: Normalisation::new(models, channels[1], vb.pp("bn"))?,
        })
    }
}

/// What ends a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// ln(1 + eˣ).
    Softplus,
}
