//! What a model is made of: everything that its weights' shapes and meaning depend on.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// Which of the paper's two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// MR: cell and nuclear shape, p(reference image).
    Reference,
    /// MT: a structure in a given cell, p(target image | reference image, label).
    Target,
}

impl ModelKind {
    /// The name as it stands in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Target => "target",
        }
    }
}

/// Everything that the shapes and the meaning of a model's weights depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Architecture {
    /// Which model.
    pub kind: ModelKind,
    /// 2 or 3.
    pub dimensions: usize,
    /// Size of an image in voxels: Z, Y, X; Z = 1 in 2D. Every side is a multiple of 2^levels.
    pub size: [usize; 3],
    /// The channels that are encoded and reconstructed.
    pub image_channels: Vec<String>,
    /// The channels that condition a target model; empty for a reference model.
    pub reference_channels: Vec<String>,
    /// The structures that condition a target model, in the order of the one-hot label; empty for a reference model.
    pub labels: Vec<String>,
    /// Channels of the levels, from the image inwards; their number is the number of levels.
    pub channels: Vec<usize>,
    /// Latent dimensions.
    pub latent: usize,
    /// β of the loss 2((1 − β)·reconstruction + β·KL); `None`: reconstruction + KL.
    pub beta: Option<f64>,
    /// Size of a voxel in µm: Z, Y, X.
    pub voxel_um: [f64; 3],
}

/// Name and shape of one tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterShape {
    /// The name, such as `enc.path.0.conv1.weight`.
    pub name: String,
    /// The shape, as PyTorch has it: `(out, in, [Z,] Y, X)` for convolutions, `(in, out, [Z,] Y, X)` for transposed ones.
    pub shape: Vec<usize>,
    /// Whether it is trained; else it is a statistic of BatchNorm or a vector u of spectral normalisation.
    pub trained: bool,
}

impl Architecture {
    /// Levels: how often an image is halved.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.channels.len()
    }

    /// Size of the image below the last level: Z, Y, X.
    #[must_use]
    pub fn grid(&self) -> [usize; 3] {
        self.size_at(self.levels())
    }

    /// Size of the image after `level` halvings: Z, Y, X.
    #[must_use]
    pub fn size_at(&self, level: usize) -> [usize; 3] {
        let halve = |side: usize| side >> level;
        let depth = if self.dimensions == 3 { halve(self.size[0]) } else { 1 };
        [depth, halve(self.size[1]), halve(self.size[2])]
    }

    /// Size of the image at every level, from the whole image inwards.
    #[must_use]
    pub fn sizes(&self) -> Vec<[usize; 3]> {
        (0..=self.levels()).map(|level| self.size_at(level)).collect()
    }

    /// Voxels of one channel of an image.
    #[must_use]
    pub fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// The position of a structure in the one-hot label.
    ///
    /// # Errors
    /// When the model was not trained with it.
    pub fn label(&self, label: &str) -> Result<usize, ModelError> {
        self.labels.iter().position(|known| known == label).ok_or_else(|| {
            let known = self.labels.join(", ");
            ModelError::Input(format!("the model knows no structure `{label}`; it was trained with: {known}"))
        })
    }

    /// Checks that such a model can be.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] saying what to change.
    pub fn check(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Architecture(message));
        if !matches!(self.dimensions, 2 | 3) {
            return fail(format!("a model has 2 or 3 dimensions, not {}", self.dimensions));
        }
        if self.dimensions == 2 && self.size[0] != 1 {
            return fail(format!("a 2D image has one plane, not {}", self.size[0]));
        }
        check_sizes(self.dimensions, self.size, &self.channels).map_err(ModelError::Architecture)?;
        if self.latent == 0 || self.latent > 1 << 20 {
            return fail(format!("`latent` is {}; take a number from 1 to 1048576", self.latent));
        }
        if self.image_channels.is_empty() {
            return fail("the model has no image channel".to_owned());
        }
        let conditioned = !self.reference_channels.is_empty() && !self.labels.is_empty();
        let bare = self.reference_channels.is_empty() && self.labels.is_empty();
        match self.kind {
            ModelKind::Target if !conditioned => {
                fail("a target model needs reference channels and at least one label".to_owned())
            }
            ModelKind::Reference if !bare => {
                fail("a reference model has neither reference channels nor labels".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Every tensor of the model, in the order of the layers.
    #[must_use]
    pub fn parameter_shapes(&self) -> Vec<ParameterShape> {
        let mut list = Shapes { dimensions: self.dimensions, conditions: self.conditions(), list: Vec::new() };
        let images = self.image_channels.len();
        let last = *self.channels.last().unwrap_or(&images);
        let flat = last * self.grid().iter().product::<usize>();
        let mut before = images;
        for (level, &channels) in self.channels.iter().enumerate() {
            list.block(&format!("enc.path.{level}"), before, channels);
            before = channels;
        }
        list.linear("enc.mu", flat, self.latent);
        list.linear("enc.logvar", flat, self.latent);
        list.linear("dec.fc", self.latent, flat);
        list.batch_norm("dec.bn", last);
        let outputs = self.channels.iter().rev().skip(1).copied().chain([images]);
        for (step, (&input, output)) in self.channels.iter().rev().zip(outputs).enumerate() {
            list.block(&format!("dec.path.{step}"), input, output);
        }
        list.list
    }

    /// Channels of each condition: the reference image, the one-hot label; none for a reference model.
    fn conditions(&self) -> Vec<usize> {
        [self.reference_channels.len(), self.labels.len()].into_iter().filter(|&channels| channels > 0).collect()
    }

    /// Trained numbers in all, as the paper counts parameters: weights and biases of convolutions, linear layers and BatchNorms.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.parameter_shapes().iter().filter(|p| p.trained).map(|p| p.shape.iter().product::<usize>()).sum()
    }
}

/// Checks that an image of this size (Z, Y, X) can be halved once a level.
///
/// # Errors
/// A message saying what to change.
pub fn check_sizes(dimensions: usize, size: [usize; 3], channels: &[usize]) -> Result<(), String> {
    if channels.is_empty() || channels.len() > 16 {
        return Err(format!("`channels` has {} levels; give 1 to 16", channels.len()));
    }
    if let Some(bad) = channels.iter().find(|&&channels| channels == 0 || channels > 1 << 16) {
        return Err(format!("`channels` holds {bad}; a level has 1 to 65536 channels"));
    }
    let factor = 1usize << channels.len();
    for (side, axis) in size.iter().zip(["z", "y", "x"]).skip(3 - dimensions) {
        if *side == 0 || side % factor != 0 {
            return Err(format!(
                "the images' size along {axis} is {side}, which is not divisible by {factor} (2 to the number of `channels`, {})",
                channels.len()
            ));
        }
    }
    Ok(())
}

struct Shapes {
    dimensions: usize,
    conditions: Vec<usize>,
    list: Vec<ParameterShape>,
}

impl Shapes {
    fn push(&mut self, layer: &str, part: &str, shape: Vec<usize>, trained: bool) {
        self.list.push(ParameterShape { name: format!("{layer}.{part}"), shape, trained });
    }

    fn convolution(&mut self, layer: &str, first: usize, second: usize, kernel: usize, outputs: usize) {
        let mut shape = vec![first, second];
        shape.extend(std::iter::repeat_n(kernel, self.dimensions));
        self.push(layer, "weight", shape, true);
        self.push(layer, "bias", vec![outputs], true);
        self.push(layer, "u", vec![first], false);
    }

    fn linear(&mut self, layer: &str, input: usize, output: usize) {
        self.push(layer, "weight", vec![output, input], true);
        self.push(layer, "bias", vec![output], true);
        self.push(layer, "u", vec![output], false);
    }

    fn batch_norm(&mut self, layer: &str, channels: usize) {
        for (part, trained) in [("weight", true), ("bias", true), ("running_mean", false), ("running_var", false)] {
            self.push(layer, part, vec![channels], trained);
        }
    }

    fn block(&mut self, name: &str, input: usize, output: usize) {
        self.convolution(&format!("{name}.bypass"), output, input, 1, output);
        // The strided convolution keeps the input's channels, so the first two axes are equal, transposed or not.
        self.convolution(&format!("{name}.conv1"), input, input, 4, input);
        self.batch_norm(&format!("{name}.bn1"), input);
        self.convolution(&format!("{name}.conv2"), output, input, 3, output);
        self.batch_norm(&format!("{name}.bn2"), output);
        for (index, channels) in self.conditions.clone().into_iter().enumerate() {
            self.convolution(&format!("{name}.cond.{index}.conv"), output, channels, 1, output);
            self.batch_norm(&format!("{name}.cond.{index}.bn"), output);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper(kind: ModelKind, dimensions: usize) -> Architecture {
        let target = kind == ModelKind::Target;
        let names = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
        Architecture {
            kind,
            dimensions,
            size: [if dimensions == 3 { 64 } else { 1 }, 160, 96],
            image_channels: names(if target { 1 } else { 2 }),
            reference_channels: names(if target { 2 } else { 0 }),
            labels: names(if target { 24 } else { 0 }),
            channels: vec![32, 64, 128, 256, 512],
            latent: 512,
            beta: None,
            voxel_um: [0.317; 3],
        }
    }

    #[test]
    fn parameter_counts_of_the_paper() {
        use ModelKind::{Reference, Target};
        for (kind, dimensions, count) in
            [(Reference, 2, 22_279_054), (Target, 2, 22_325_495), (Reference, 3, 61_291_342), (Target, 3, 61_336_487)]
        {
            let architecture = paper(kind, dimensions);
            architecture.check().unwrap();
            assert_eq!(architecture.parameter_count(), count, "{kind:?} {dimensions}D");
        }
    }

    #[test]
    fn impossible_models_are_refused_with_the_number_that_is_wrong() {
        let mut odd = paper(ModelKind::Reference, 2);
        odd.size[1] = 150;
        assert!(odd.check().unwrap_err().to_string().contains("150"));
        let mut flat = paper(ModelKind::Reference, 3);
        flat.size[0] = 16;
        assert!(flat.check().unwrap_err().to_string().contains("along z is 16"));
        let mut target = paper(ModelKind::Target, 2);
        target.labels.clear();
        assert!(target.check().unwrap_err().to_string().contains("label"));
        let mut empty = paper(ModelKind::Reference, 2);
        empty.channels.clear();
        assert!(empty.check().is_err());
    }
}
