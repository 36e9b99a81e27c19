//! Weights from elsewhere: the checkpoints of the paper's published program, and bare safetensors.
//!
//! The published program saves encoder and decoder apart, each as `{"model": state dict, "optimizer": Adam's state}`, by
//! `torch.save`. Its images and kernels are ordered (Y, X, Z), ours (Z, Y, X): 3D kernels, and the rows or columns of the
//! linear layers that stand for positions in the image, are put in our order. A layer's `weight` in such a state dict is a copy
//! divided by the spectral norm; `weight_org` and `weight_u` are what it was made from, and what is read.

mod pickle;
mod torch_file;

use std::collections::BTreeMap;

use super::{Architecture, ModelError, ModelKind, Parameters};
pub use pickle::PickleError;
pub use torch_file::TorchFileError;
use torch_file::{Array, TorchFile};

/// Why weights cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("the {part} cannot be read: {source}")]
    File {
        /// `encoder` or `decoder`.
        part: &'static str,
        /// Why.
        source: TorchFileError,
    },
    /// A file holds something else than the networks of the paper.
    #[error("the {part} is not one of the published program's: {reason}")]
    Foreign {
        /// `encoder` or `decoder`.
        part: &'static str,
        /// What is missing or superfluous.
        reason: String,
    },
    /// Encoder and decoder, or weights and what is said of them, do not fit each other.
    #[error("{0}")]
    Mismatch(String),
}

/// The image size of the paper's 3D models in voxels: Z, Y, X.
pub const PAPER_SIZE: [usize; 3] = [64, 160, 96];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Encoder,
    Decoder,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }

    fn foreign(self, reason: impl Into<String>) -> ImportError {
        ImportError::Foreign { part: self.name(), reason: reason.into() }
    }

    /// Our name of a layer, from the published program's.
    fn layer(self, theirs: &str) -> Option<String> {
        let whole = match (self, theirs) {
            (Self::Encoder, "latent_out_mu") => Some("enc.mu"),
            (Self::Encoder, "latent_out_sigma") => Some("enc.logvar"),
            (Self::Decoder, "target_fc") => Some("dec.fc"),
            (Self::Decoder, "target_bn_relu.0") => Some("dec.bn"),
            _ => None,
        };
        if let Some(name) = whole {
            return Some(name.to_owned());
        }
        let number = |text: &str| text.parse::<u8>().ok().filter(|number| number.to_string() == text);
        let (level, inside) = theirs.strip_prefix("target_path.")?.split_once('.')?;
        let level = number(level)?;
        let inside = match (self, inside) {
            (Self::Encoder, "bypass.1") | (Self::Decoder, "bypass.0") => "bypass".to_owned(),
            (_, "resid.0") => "conv1".to_owned(),
            (_, "resid.1") => "bn1".to_owned(),
            (_, "resid.3") => "conv2".to_owned(),
            (_, "resid.4") => "bn2".to_owned(),
            (_, condition) => {
                let (index, layer) = condition.strip_prefix("cond_paths.")?.split_once('.')?;
                let index = number(index)?;
                matches!(layer, "conv" | "bn").then(|| format!("cond.{index}.{layer}"))?
            }
        };
        Some(format!("{}.path.{level}.{inside}", if self == Self::Encoder { "enc" } else { "dec" }))
    }
}

/// What `torch.nn.DataParallel` puts before the names of tensors.
const PARALLEL: &str = "module.";

/// Reads one of the two files: every tensor under our name, axes still as they are.
fn read_part(part: Part, bytes: &[u8]) -> Result<Vec<(String, Array)>, ImportError> {
    let failed = |source| ImportError::File { part: part.name(), source };
    let file = TorchFile::open(bytes).map_err(failed)?;
    let model = file.pickle.entry(file.pickle.root, "model").ok_or_else(|| part.foreign("it has no entry `model`"))?;
    let arrays = file.arrays(model);
    // `torch.nn.DataParallel` puts this before the name of every tensor; the published program trains in it.
    let parallel = !arrays.is_empty() && arrays.keys().all(|key| key.starts_with(PARALLEL));
    let arrays: BTreeMap<&str, _> =
        arrays.into_iter().map(|(key, array)| (if parallel { &key[PARALLEL.len()..] } else { key }, array)).collect();
    let mut tensors = Vec::new();
    for (&key, &array) in &arrays {
        let unknown = || part.foreign(format!("it has a tensor `{}`", key.escape_debug()));
        let (layer, kind) = key.rsplit_once('.').ok_or_else(unknown)?;
        let ours = part.layer(layer).ok_or_else(unknown)?;
        let normalised = arrays.contains_key(format!("{layer}.weight_org").as_str());
        let kind = match kind {
            "weight_org" => "weight",
            "weight_u" => "u",
            // The derived copy, and the count of batches, have no use.
            "weight" if normalised => continue,
            "num_batches_tracked" => continue,
            "weight" | "bias" | "running_mean" | "running_var" => kind,
            _ => return Err(unknown()),
        };
        tensors.push((format!("{ours}.{kind}"), file.read(array).map_err(failed)?));
    }
    if tensors.is_empty() {
        return Err(part.foreign("its entry `model` holds no tensors"));
    }
    Ok(tensors)
}

/// Puts the axes of a tensor in another order: axis `a` of the result is axis `order[a]` of `values`. `None` when the number
/// of values is not that of the shape.
pub(super) fn permuted(values: &[f32], shape: &[usize], order: &[usize]) -> Option<Vec<f32>> {
    let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side))?;
    if count != values.len() {
        return None;
    }
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    let sides: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    let steps: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
    let mut position = vec![0usize; sides.len()];
    let mut result = Vec::with_capacity(count);
    for _ in 0..count {
        result.push(values[position.iter().zip(&steps).map(|(p, s)| p * s).sum::<usize>()]);
        for axis in (0..sides.len()).rev() {
            position[axis] += 1;
            if position[axis] < sides[axis] {
                break;
            }
            position[axis] = 0;
        }
    }
    Some(result)
}

/// Imports encoder and decoder of the published program.
///
/// `size` (Z, Y, X; Z = 1 in 2D) is the size of the images that the model was trained on. It is needed for 3D models only, whose
/// weights depend on it; without it the paper's [`PAPER_SIZE`] is assumed if that fits the weights.
///
/// # Errors
/// See [`ImportError`]. Nothing in the files is executed, and no more memory is taken than the files are long.
pub fn published(encoder: &[u8], decoder: &[u8], size: Option<[usize; 3]>) -> Result<Parameters, ImportError> {
    let mut parameters = Parameters::default();
    for (part, bytes) in [(Part::Encoder, encoder), (Part::Decoder, decoder)] {
        for (name, Array { shape, data }) in read_part(part, bytes)? {
            parameters.insert(&name, shape, data).map_err(mismatch)?;
        }
    }
    let facts = Facts::of(&parameters)?;
    if facts.dimensions == 3 {
        let [depth, height, width] = facts.grid(size)?;
        let channels = facts.channels[facts.channels.len() - 1];
        for (name, tensor) in parameters.0.clone() {
            let (latent, mut own) = (facts.latent, tensor.dims().to_vec());
            let (shape, order): (Vec<usize>, &[usize]) = match name.as_str() {
                "enc.mu.weight" | "enc.logvar.weight" => {
                    (vec![latent, channels, height, width, depth], &[0, 1, 4, 2, 3])
                }
                "dec.fc.weight" => (vec![channels, height, width, depth, latent], &[0, 3, 1, 2, 4]),
                "dec.fc.bias" | "dec.fc.u" => (vec![channels, height, width, depth], &[0, 3, 1, 2]),
                _ if own.len() == 5 => (own.clone(), &[0, 1, 4, 2, 3]),
                _ => continue,
            };
            let values = parameters.values(&name).map_err(mismatch)?;
            let values = permuted(&values, &shape, order).ok_or_else(|| {
                ImportError::Mismatch(format!("`{name}` has the shape {own:?}; {shape:?} was expected"))
            })?;
            if own.len() == 5 {
                own = order.iter().map(|&axis| shape[axis]).collect();
            }
            parameters.insert(&name, own, values).map_err(mismatch)?;
        }
    }
    facts.check(&parameters, size)?;
    Ok(parameters)
}

fn mismatch(error: ModelError) -> ImportError {
    ImportError::Mismatch(error.to_string())
}

/// What the shapes of a model's weights say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// 2 or 3.
    pub dimensions: usize,
    /// Channels of the levels, from the image inwards.
    pub channels: Vec<usize>,
    /// Latent dimensions.
    pub latent: usize,
    /// Channels of the encoded images.
    pub image_channels: usize,
    /// Channels of the reference image that conditions a target model; 0 for a reference model.
    pub reference_channels: usize,
    /// Structures that a target model tells apart; 0 for a reference model.
    pub labels: usize,
    /// Positions of the image below the last level: the product of the grid's sides.
    pub positions: usize,
}

/// What the weights do not say of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Size of the images: Z, Y, X. `None`: the paper's, if it fits.
    pub size: Option<[usize; 3]>,
    /// Names of the encoded channels; empty: `membrane`, `dna` for two, `structure` for one.
    pub image_channels: Vec<String>,
    /// Names of the structures in the order of the one-hot label; empty: `label-00`, `label-01`, …
    pub labels: Vec<String>,
    /// β of the training, if known.
    pub beta: Option<f64>,
    /// Size of a voxel in µm: Z, Y, X.
    pub voxel_um: [f64; 3],
}

impl Facts {
    /// Reads them from weights under our names.
    ///
    /// # Errors
    /// [`ImportError::Mismatch`] when tensors are missing that every model has. Whether all fit is for [`Parameters::check`].
    pub fn of(parameters: &Parameters) -> Result<Self, ImportError> {
        let shape = |name: &str| parameters.0.get(name).map(candle_core::Tensor::dims);
        let axis = |name: &str, axis: usize| {
            let found = shape(name).and_then(|shape| shape.get(axis)).copied().filter(|&side| side > 0);
            found.ok_or_else(|| ImportError::Mismatch(format!("the weights have no proper tensor `{name}`")))
        };
        let first = "enc.path.0.conv1.weight";
        let dimensions = match shape(first).map(<[usize]>::len) {
            Some(axes @ (4 | 5)) => axes - 2,
            _ => return Err(ImportError::Mismatch(format!("the weights have no convolution `{first}`"))),
        };
        let mut channels = Vec::new();
        while let Some(shape) = shape(&format!("enc.path.{}.conv2.weight", channels.len())) {
            channels.push(shape.first().copied().unwrap_or(0));
        }
        let last = channels.last().copied().filter(|&last| last > 0);
        let last = last.ok_or_else(|| ImportError::Mismatch("the weights have no level".to_owned()))?;
        let flat = axis("enc.mu.weight", 1)?;
        if flat % last != 0 {
            return Err(ImportError::Mismatch(format!("`enc.mu.weight` has {flat} columns, no multiple of {last}")));
        }
        let optional = |name: &str| if parameters.0.contains_key(name) { axis(name, 1) } else { Ok(0) };
        Ok(Self {
            dimensions,
            latent: axis("enc.mu.weight", 0)?,
            image_channels: axis(first, 1)?,
            reference_channels: optional("enc.path.0.cond.0.conv.weight")?,
            labels: optional("enc.path.0.cond.1.conv.weight")?,
            positions: flat / last,
            channels,
        })
    }

    /// The image size: the one that is given, else the paper's, if it fits the weights.
    fn size(&self, given: Option<[usize; 3]>) -> Result<[usize; 3], ImportError> {
        let paper = [if self.dimensions == 3 { PAPER_SIZE[0] } else { 1 }, PAPER_SIZE[1], PAPER_SIZE[2]];
        let size = given.unwrap_or(paper);
        super::check_sizes(self.dimensions, size, &self.channels).map_err(ImportError::Mismatch)?;
        let levels = self.channels.len();
        let sides = size.iter().skip(3 - self.dimensions).map(|side| side >> levels);
        let positions = sides.fold(1, usize::saturating_mul);
        if positions == self.positions && (self.dimensions == 3 || size[0] == 1) {
            return Ok(size);
        }
        let [z, y, x] = size;
        Err(ImportError::Mismatch(if given.is_some() {
            format!("the weights are not for images of {z} × {y} × {x} voxels (z, y, x)")
        } else {
            format!(
                "the weights are not for images of the paper's size, {z} × {y} × {x} voxels (z, y, x); say which size they are for"
            )
        }))
    }

    /// Whether encoder and decoder are two halves of one model, and all of it is there.
    fn check(&self, parameters: &Parameters, size: Option<[usize; 3]>) -> Result<(), ImportError> {
        // The weights of a 2D model do not hang on the image's size but through the number of positions: any that has it will do.
        let any = [1, self.positions << self.channels.len(), 1 << self.channels.len()];
        let size = if self.dimensions == 3 { self.size(size)? } else { size.unwrap_or(any) };
        let description = Description { size: Some(size), voxel_um: [1.0; 3], ..Description::default() };
        let architecture = self.architecture(&description)?;
        parameters.check(&architecture).map_err(|error| {
            ImportError::Mismatch(format!("encoder and decoder are not the two halves of one model: {error}"))
        })
    }

    /// Size of the image below the last level: Z, Y, X.
    fn grid(&self, given: Option<[usize; 3]>) -> Result<[usize; 3], ImportError> {
        Ok(self.size(given)?.map(|side| side >> self.channels.len()))
    }

    /// The model that these weights are of.
    ///
    /// # Errors
    /// [`ImportError::Mismatch`] when the description does not fit the weights.
    pub fn architecture(&self, description: &Description) -> Result<Architecture, ImportError> {
        let counted = |what: &str, names: &[String], count: usize| {
            if names.len() == count {
                return Ok(names.to_vec());
            }
            Err(ImportError::Mismatch(format!("{} {what} are named; the weights have {count}", names.len())))
        };
        let usual = |count: usize| match count {
            0 => Vec::new(),
            1 => vec!["structure".to_owned()],
            2 => vec!["membrane".to_owned(), "dna".to_owned()],
            _ => (0..count).map(|index| format!("channel-{index}")).collect(),
        };
        let image_channels = match description.image_channels.as_slice() {
            [] => usual(self.image_channels),
            names => counted("image channels", names, self.image_channels)?,
        };
        let labels = match description.labels.as_slice() {
            [] => (0..self.labels).map(|index| format!("label-{index:02}")).collect(),
            names => counted("labels", names, self.labels)?,
        };
        let architecture = Architecture {
            kind: if self.labels > 0 { ModelKind::Target } else { ModelKind::Reference },
            dimensions: self.dimensions,
            size: self.size(description.size)?,
            image_channels,
            reference_channels: usual(self.reference_channels),
            labels,
            channels: self.channels.clone(),
            latent: self.latent,
            beta: description.beta,
            voxel_um: description.voxel_um,
        };
        architecture.check().map_err(|error| ImportError::Mismatch(error.to_string()))?;
        Ok(architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers() {
        for (part, theirs, ours) in [
            (Part::Encoder, "target_path.0.resid.3", Some("enc.path.0.conv2")),
            (Part::Encoder, "target_path.10.bypass.1", Some("enc.path.10.bypass")),
            (Part::Decoder, "target_path.2.bypass.0", Some("dec.path.2.bypass")),
            (Part::Decoder, "target_path.1.cond_paths.1.bn", Some("dec.path.1.cond.1.bn")),
            (Part::Decoder, "target_bn_relu.0", Some("dec.bn")),
            (Part::Encoder, "latent_out_sigma", Some("enc.logvar")),
            (Part::Encoder, "target_fc", None),
            (Part::Encoder, "target_path.00.resid.0", None),
            (Part::Encoder, "target_path.0.resid.2", None),
        ] {
            assert_eq!(part.layer(theirs).as_deref(), ours, "{theirs}");
        }
    }

    #[test]
    fn axes_are_permuted() {
        // (y, x, z) of 2 × 3 × 2, each value 100 y + 10 x + z.
        let values: Vec<f32> = (0..12u8).map(|i| f32::from(i / 6 * 100 + i / 2 % 3 * 10 + i % 2)).collect();
        let zyx = permuted(&values, &[2, 3, 2], &[2, 0, 1]).unwrap();
        assert_eq!(zyx, [0., 10., 20., 100., 110., 120., 1., 11., 21., 101., 111., 121.]);
        assert_eq!(permuted(&values, &[2, 3, 3], &[2, 0, 1]), None);
    }

    #[test]
    fn facts_come_from_shapes() {
        let architecture = Architecture {
            kind: ModelKind::Target,
            dimensions: 3,
            size: [8, 24, 16],
            image_channels: vec!["structure".to_owned()],
            reference_channels: vec!["membrane".to_owned(), "dna".to_owned()],
            labels: (0..5).map(|i| format!("label-{i:02}")).collect(),
            channels: vec![4, 8, 16],
            latent: 6,
            beta: None,
            voxel_um: [0.3; 3],
        };
        let mut parameters = Parameters::default();
        for described in architecture.parameter_shapes() {
            let count = described.shape.iter().product();
            parameters.insert(&described.name, described.shape, vec![0.0; count]).unwrap();
        }
        let facts = Facts::of(&parameters).unwrap();
        let mut description = Description { size: Some([8, 24, 16]), voxel_um: [0.3; 3], ..Description::default() };
        assert_eq!(facts.architecture(&description).unwrap(), architecture);
        description.size = None;
        assert!(facts.architecture(&description).unwrap_err().to_string().contains("say which size"));
        description.size = Some([8, 48, 16]);
        assert!(facts.architecture(&description).unwrap_err().to_string().contains("8 × 48 × 16"));
        assert!(Facts::of(&Parameters::default()).is_err());
    }
}
