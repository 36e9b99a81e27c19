//! A tape: a model is written forward only, and the tape runs it backwards.
//!
//! Each operation records how it passes a gradient on; [`Tape::backward`] walks in reverse. The first gradient of a map is written,
//! later ones are added. A map may be lazy (a normalisation with its ReLU, a mean of voxels): it is computed again wherever it is read, and
//! never kept. Maps go back to the backend as soon as nothing needs them. In evaluation nothing is recorded.
//!
//! Why not candle's own gradients: they keep every input of every operation and cannot be extended from outside. [`Tape::candle`]
//! differentiates any plain candle expression all the same.

use std::{collections::BTreeMap, rc::Rc};

use candle_core::{Error, Result, Tensor, Var};

use super::{
    Activation, Backend, Condition, Convolution, Given, Maps, Normalisation, Normalised, Read, Sampled, Shape,
    Spectral, Term,
    backend::{Folded, Latent, Propagate},
};

/// A value on a tape.
#[derive(Clone, Debug)]
pub struct Map(Rc<Node>);

#[derive(Debug)]
struct Node {
    slot: Slot,
    content: Content,
}

/// Where the gradient of a value gathers.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: usize,
    /// Shape of the value and its gradient, whose halo is the one that the operation before it reads.
    shape: Shape,
    /// Whether anything before it can be trained.
    wanted: bool,
}

#[derive(Debug)]
enum Content {
    Kept(Maps),
    Normalised { of: Map, norm: Rc<Normalised>, relu: bool },
    Pooled(Map),
    Upsampled(Map),
    Reference(Folded, Rc<Sampled>),
    Label(Folded),
}

impl Map {
    /// The extent, without a halo.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.0.slot.shape.with_halo([0; 3])
    }

    /// The maps of a value that is kept.
    ///
    /// # Errors
    /// When it is computed only where it is read.
    pub fn kept(&self) -> Result<&Maps> {
        match &self.0.content {
            Content::Kept(maps) => Ok(maps),
            _ => Err(Error::Msg("this value is computed where it is read; keep it first".to_owned())),
        }
    }

    fn read(&self) -> Result<Read<'_>> {
        Ok(match &self.0.content {
            Content::Kept(maps) => Read::Kept(maps),
            Content::Normalised { of, norm, relu } => Read::Normalised(of.kept()?, norm, *relu),
            Content::Pooled(of) => Read::Pooled(of.kept()?),
            _ => return Err(Error::Msg("this value can only be a term of a sum".to_owned())),
        })
    }

    fn term(&self) -> Result<Term<'_>> {
        Ok(match &self.0.content {
            Content::Kept(maps) => Term::Kept(maps),
            Content::Normalised { of, norm, relu: false } => Term::Normalised(of.kept()?, norm),
            Content::Upsampled(of) => Term::Upsampled(of.kept()?),
            Content::Reference(folded, sampled) => Term::Reference(folded, &sampled.maps),
            Content::Label(folded) => Term::Label(folded),
            _ => return Err(Error::Msg("this value cannot be a term of a sum; keep it first".to_owned())),
        })
    }
}

type Record = Box<dyn FnOnce(&mut Backward) -> Result<()>>;

/// What the reverse walk knows.
struct Backward<'b> {
    backend: &'b mut dyn Backend,
    slots: Vec<Option<Rc<Maps>>>,
    /// As long as all parameters.
    gradients: &'b Tensor,
}

impl Backward<'_> {
    /// The gradient of a value; none: nothing depends on it.
    fn take(&mut self, slot: Slot) -> Option<Rc<Maps>> {
        self.slots[slot.number].take()
    }

    /// The gradient that a value has so far, or room for it: `f(backend, gradient, whether it is to be added to)`.
    fn give(&mut self, to: Slot, f: impl FnOnce(&mut dyn Backend, &mut Maps, bool) -> Result<()>) -> Result<()> {
        if !to.wanted {
            return Ok(());
        }
        let (mut gradient, accumulate) = match self.slots[to.number].take() {
            Some(gradient) => (gradient, true),
            None => (Rc::new(self.backend.take(to.shape)?), false),
        };
        f(self.backend, Rc::make_mut(&mut gradient), accumulate)?;
        self.slots[to.number] = Some(gradient);
        Ok(())
    }

    /// Passes a gradient on as it is; it may be shared.
    fn pass(&mut self, to: Slot, gradient: &Rc<Maps>) -> Result<()> {
        if !to.wanted {
            return Ok(());
        }
        if self.slots[to.number].is_none() && gradient.shape() == to.shape {
            self.slots[to.number] = Some(Rc::clone(gradient));
            return Ok(());
        }
        self.give(to, |backend, own, accumulate| {
            if !accumulate {
                *own = backend.materialise(Read::Kept(gradient), to.shape.halo)?;
                return Ok(());
            }
            backend.accumulate(gradient, own)
        })
    }
}

/// One pass through a model: forward, and in training backward.
pub struct Tape<'a> {
    backend: &'a mut dyn Backend,
    training: bool,
    models: usize,
    /// The halo of kept maps: what the widest window of the next layer reads.
    halo: [usize; 3],
    spectral: BTreeMap<usize, Rc<Spectral>>,
    slots: usize,
    records: Vec<Record>,
}

impl<'a> Tape<'a> {
    /// An empty tape. Kept maps get this halo.
    pub fn new(backend: &'a mut dyn Backend, training: bool, models: usize, halo: [usize; 3]) -> Self {
        Self { backend, training, models, halo, spectral: BTreeMap::new(), slots: 0, records: Vec::new() }
    }

    /// The device's operations.
    pub fn backend(&mut self) -> &mut dyn Backend {
        self.backend
    }

    /// Takes one step of the power iteration of these layers, which are then ready to be used.
    ///
    /// # Errors
    /// When the device fails.
    pub fn spectral_norm(&mut self, layers: &[&Convolution]) -> Result<()> {
        let found = self.backend.spectral_norm(layers, self.training)?;
        self.spectral.extend(layers.iter().map(|layer| layer.place()).zip(found.into_iter().map(Rc::new)));
        Ok(())
    }

    fn spectral(&self, layer: &Convolution) -> Result<Rc<Spectral>> {
        let found = self.spectral.get(&layer.place()).cloned();
        found.ok_or_else(|| Error::Msg("a layer is used before its spectral normalisation".to_owned()))
    }

    fn push(&mut self, shape: Shape, wanted: bool, content: Content) -> Map {
        self.slots += 1;
        Map(Rc::new(Node { slot: Slot { number: self.slots - 1, shape, wanted }, content }))
    }

    fn record(&mut self, record: impl FnOnce(&mut Backward) -> Result<()> + 'static) {
        if self.training {
            self.records.push(Box::new(record));
        }
    }

    /// Images in channels-first order (N × C × Z × Y × X, of one model or of all); no gradient is wanted.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn images(&mut self, images: &[f32], shape: Shape) -> Result<Map> {
        let maps = self.backend.upload(images, shape.with_halo(self.halo))?;
        Ok(self.push(shape, false, Content::Kept(maps)))
    }

    /// Maps that are there already; no gradient is wanted.
    ///
    /// # Errors
    /// When the device fails.
    pub fn maps(&mut self, maps: &Maps) -> Result<Map> {
        let shape = maps.shape().with_halo([0; 3]);
        let maps = self.backend.materialise(Read::Kept(maps), self.halo)?;
        Ok(self.push(shape, false, Content::Kept(maps)))
    }

    /// Vectors, one per image, models × images × channels; no gradient is wanted.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn vectors(&mut self, values: &[f32], shape: Shape) -> Result<Map> {
        let maps = self.backend.upload_vectors(values, shape)?;
        Ok(self.push(shape, false, Content::Kept(maps)))
    }

    /// A convolution, transposed convolution or linear layer of this input.
    ///
    /// # Errors
    /// When the device fails, or the input does not fit.
    pub fn convolve(&mut self, layer: &Convolution, x: &Map) -> Result<Map> {
        self.convolve_with(layer, x, true)
    }

    fn convolve_with(&mut self, layer: &Convolution, x: &Map, bias_matters: bool) -> Result<Map> {
        let spectral = self.spectral(layer)?;
        let from = x.shape();
        if from.channels != layer.inputs {
            return Err(Error::Msg(format!("a layer of {} channels is given {}", layer.inputs, from.channels)));
        }
        let shape = Shape { models: self.models, size: layer.output_size(from.size), channels: layer.outputs, ..from };
        let mut y = self.backend.take(shape)?;
        self.backend.convolve(layer, &spectral, x.read()?, &mut y)?;
        let y = self.push(shape.with_halo(layer.gradient_halo()), true, Content::Kept(y));
        let (layer, x, slot) = (layer.clone(), x.clone(), y.0.slot);
        self.record(move |back| {
            let Some(dy) = back.take(slot) else { return Ok(()) };
            back.backend.weight_gradient(&layer, &spectral, x.read()?, &dy, back.gradients)?;
            back.backend.bias_gradient(&layer, bias_matters.then_some(&*dy), back.gradients)?;
            let to = x.0.slot;
            drop(x);
            back.give(to, |backend, dx, accumulate| backend.input_gradient(&layer, &spectral, &dy, dx, accumulate))
        });
        Ok(y)
    }

    /// A normalisation of kept maps, computed where it is read.
    ///
    /// # Errors
    /// When the device fails, or the maps are not kept.
    pub fn normalise(&mut self, norm: &Normalisation, x: &Map, relu: bool) -> Result<Map> {
        let found = Rc::new(self.backend.normalise(norm, x.kept()?, self.training)?);
        let content = Content::Normalised { of: x.clone(), norm: Rc::clone(&found), relu };
        let y = self.push(x.0.slot.shape, x.0.slot.wanted, content);
        let (norm, x, slot) = (norm.clone(), x.clone(), y.0.slot);
        self.record(move |back| {
            let Some(dy) = back.take(slot) else { return Ok(()) };
            let to = x.0.slot;
            let dx = match Rc::try_unwrap(dy) {
                Ok(mut own) if own.shape() == to.shape => {
                    let dy = Propagate::InPlace(&mut own);
                    back.backend.normalise_backward(&norm, &found, relu, x.kept()?, dy, back.gradients)?;
                    own
                }
                other => {
                    let dy = other.unwrap_or_else(|shared| (*shared).clone());
                    let mut dx = back.backend.take(to.shape)?;
                    let into = Propagate::Into(&dy, &mut dx);
                    back.backend.normalise_backward(&norm, &found, relu, x.kept()?, into, back.gradients)?;
                    dx
                }
            };
            drop(x);
            back.pass(to, &Rc::new(dx))
        });
        Ok(y)
    }

    /// A convolution and the normalisation of its output, computed where it is read. The convolution's bias has no effect in training;
    /// its gradient is zero.
    ///
    /// # Errors
    /// As [`Tape::convolve`].
    pub fn convolve_normalise(
        &mut self,
        layer: &Convolution,
        norm: &Normalisation,
        x: &Map,
        relu: bool,
    ) -> Result<Map> {
        let y = self.convolve_with(layer, x, false)?;
        self.normalise(norm, &y, relu)
    }

    /// Computes a lazy value and keeps it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn keep(&mut self, x: &Map) -> Result<Map> {
        let maps = self.backend.materialise(x.read()?, self.halo)?;
        let y = self.push(x.0.slot.shape, x.0.slot.wanted, Content::Kept(maps));
        let (from, to) = (y.0.slot, x.0.slot);
        self.record(move |back| match back.take(from) {
            Some(dy) => back.pass(to, &dy),
            None => Ok(()),
        });
        Ok(y)
    }

    /// Means of 2 × 2 (× 2) voxels of kept maps, computed where they are read.
    pub fn average_pool(&mut self, x: &Map, size: [usize; 3]) -> Map {
        let shape = Shape { size, ..x.shape() };
        let y = self.push(shape, x.0.slot.wanted, Content::Pooled(x.clone()));
        let (from, to) = (y.0.slot, x.0.slot);
        self.record(move |back| match back.take(from) {
            Some(dy) => back.give(to, |backend, dx, accumulate| backend.pool_backward(&dy, dx, accumulate)),
            None => Ok(()),
        });
        y
    }

    /// Kept maps whose every voxel stands for 2 × 2 (× 2): a term of a sum.
    pub fn upsample(&mut self, x: &Map, size: [usize; 3]) -> Map {
        let shape = Shape { size, ..x.shape() };
        let y = self.push(shape, x.0.slot.wanted, Content::Upsampled(x.clone()));
        let (from, to) = (y.0.slot, x.0.slot);
        self.record(move |back| {
            let Some(dy) = back.take(from) else { return Ok(()) };
            let mut dx = back.backend.take(to.shape)?;
            back.backend.upsample_backward(&dy, &mut dx)?;
            back.pass(to, &Rc::new(dx))
        });
        y
    }

    /// The condition by the reference image at a level: a term of a sum.
    ///
    /// # Errors
    /// When the device fails.
    pub fn reference_condition(&mut self, condition: &Condition, given: &Given, level: usize) -> Result<Map> {
        let spectral = self.spectral(&condition.conv)?;
        let sampled = Rc::clone(&given.levels[level]);
        let folded = self.backend.reference_condition(condition, &spectral, &sampled, self.training)?;
        let shape = Shape { models: self.models, channels: condition.conv.outputs, ..sampled.maps.shape() };
        let y = self.push(shape, true, Content::Reference(folded.clone(), Rc::clone(&sampled)));
        let (condition, slot) = (condition.clone(), y.0.slot);
        self.record(move |back| {
            let Some(dy) = back.take(slot) else { return Ok(()) };
            let gradients = back.gradients;
            back.backend.reference_condition_backward(&condition, &spectral, &folded, &sampled, &dy, gradients)
        });
        Ok(y)
    }

    /// The condition by the labels: a term of a sum of this size.
    ///
    /// # Errors
    /// When the device fails.
    pub fn label_condition(&mut self, condition: &Condition, given: &Given, size: [usize; 3]) -> Result<Map> {
        let spectral = self.spectral(&condition.conv)?;
        let labels = Rc::clone(&given.labels);
        let folded = self.backend.label_condition(condition, &spectral, &labels, self.training)?;
        let shape = Shape::new(labels.len(), size, condition.conv.outputs).with_models(self.models);
        let y = self.push(shape, true, Content::Label(folded.clone()));
        let (condition, slot) = (condition.clone(), y.0.slot);
        self.record(move |back| {
            let Some(dy) = back.take(slot) else { return Ok(()) };
            back.backend.label_condition_backward(&condition, &spectral, &folded, &labels, &dy, back.gradients)
        });
        Ok(y)
    }

    /// The activation of a sum: a normalised term, one that is kept or upsampled, and perhaps conditions.
    ///
    /// # Errors
    /// When the terms are others, or the device fails.
    pub fn sum(&mut self, terms: &[Map], activation: Activation) -> Result<Map> {
        let shape = terms[0].shape();
        let mut out = self.backend.take(shape.with_halo(self.halo))?;
        let read = terms.iter().map(Map::term).collect::<Result<Vec<_>>>()?;
        self.backend.sum(&read, activation, &mut out)?;
        let slots: Vec<Slot> = terms.iter().map(|term| term.0.slot).collect();
        let y = self.push(shape, true, Content::Kept(out));
        let kept = y.clone();
        self.record(move |back| {
            let Some(mut dy) = back.take(kept.0.slot) else { return Ok(()) };
            back.backend.activation_backward(activation, kept.kept()?, Rc::make_mut(&mut dy))?;
            drop(kept);
            slots.into_iter().try_for_each(|slot| back.pass(slot, &dy))
        });
        Ok(y)
    }

    /// Every image as one vector: voxels in Z, Y, X order, channels contiguous.
    ///
    /// # Errors
    /// When the device fails.
    pub fn flatten(&mut self, x: &Map) -> Result<Map> {
        let from = x.shape();
        let length = from.channels * from.size.iter().product::<usize>();
        let shape = Shape::vectors(from.images, length).with_models(from.models);
        let flat = self.backend.materialise(x.read()?, [0; 3])?.reshaped(shape);
        let y = self.push(shape, x.0.slot.wanted, Content::Kept(flat));
        let (slot, to) = (y.0.slot, x.0.slot);
        self.record(move |back| reshape_back(back, slot, to, from));
        Ok(y)
    }

    /// Vectors, one per image, as maps of this extent.
    ///
    /// # Errors
    /// When something else holds the vectors, or they are not kept.
    pub fn reshape(&mut self, x: Map, shape: Shape) -> Result<Map> {
        let (from, to) = (x.shape(), x.0.slot);
        let node = Rc::try_unwrap(x.0).map_err(|_| Error::Msg("the vectors are in use".to_owned()))?;
        let Content::Kept(maps) = node.content else {
            return Err(Error::Msg("the vectors are not kept".to_owned()));
        };
        let y = self.push(shape, to.wanted, Content::Kept(maps.reshaped(shape)));
        let slot = y.0.slot;
        self.record(move |back| reshape_back(back, slot, to, from));
        Ok(y)
    }

    /// z = μ + noise · e^(½ log σ²).
    ///
    /// # Errors
    /// When the device fails.
    pub fn reparameterise(&mut self, mu: &Map, logvar: &Map, noise: &Map) -> Result<Map> {
        let shape = mu.shape();
        let mut z = self.backend.take(shape)?;
        self.backend.reparameterise(mu.kept()?, logvar.kept()?, noise.kept()?, &mut z)?;
        let z = self.push(shape, true, Content::Kept(z));
        let (slot, to_mu, logvar, noise) = (z.0.slot, mu.0.slot, logvar.clone(), noise.clone());
        self.record(move |back| {
            let Some(dz) = back.take(slot) else { return Ok(()) };
            let (of, noise) = (logvar.kept()?, noise.kept()?);
            back.give(logvar.0.slot, |backend, d, add| backend.reparameterise_backward(of, noise, &dz, d, add))?;
            back.pass(to_mu, &dz)
        });
        Ok(z)
    }

    /// KL divergence from the standard normal, summed over a batch, one per model; adds `weights` (one per model) times it to what is
    /// minimised.
    ///
    /// # Errors
    /// When the device fails.
    pub fn kl(&mut self, mu: &Map, logvar: &Map, weights: &[f64]) -> Result<Tensor> {
        let found = self.backend.kl(mu.kept()?, logvar.kept()?)?;
        let (mu, logvar, weights) = (mu.clone(), logvar.clone(), weights.to_vec());
        self.record(move |back| {
            for (slot, part) in
                [(mu.0.slot, Latent::Mean(mu.kept()?)), (logvar.0.slot, Latent::LogVariance(logvar.kept()?))]
            {
                back.give(slot, |backend, d, add| backend.kl_backward(part, &weights, d, add))?;
            }
            Ok(())
        });
        Ok(found)
    }

    /// Σ (a − b)² over every image, models × images; adds `weights` (one per model) times it to what is minimised.
    ///
    /// # Errors
    /// When the device fails.
    pub fn squared_error(&mut self, a: &Map, b: &Map, weights: &[f64]) -> Result<Tensor> {
        let found = self.backend.squared_error(a.kept()?, b.kept()?)?;
        let (a, b, weights) = (a.clone(), b.clone(), weights.to_vec());
        self.record(move |back| {
            let (of, other) = (a.kept()?, b.kept()?);
            back.give(a.0.slot, |backend, d, add| backend.squared_error_backward(of, other, &weights, d, add))
        });
        Ok(found)
    }

    /// Any differentiable candle expression of a value: images as N × C × Z × Y × X, in 2D N × C × Y × X, all models in one row of
    /// images. Its result has the same form, or is one number.
    ///
    /// A new layer or an auxiliary loss is tried here in plain candle, and becomes an operation of the backend once it has proved itself.
    ///
    /// # Errors
    /// When the expression fails, or its result has another form.
    pub fn candle(&mut self, x: &Map, f: impl Fn(&Tensor) -> Result<Tensor> + 'static) -> Result<Map> {
        let given = self.backend.materialise(x.read()?, [0; 3])?;
        let given = Var::from_tensor(&given.to_tensor(true)?)?;
        let value = f(given.as_tensor())?;
        let models = x.shape().models;
        let (shape, maps) = if value.rank() == 0 {
            let maps = self.backend.upload_vectors(&[value.to_scalar::<f32>()?], Shape::vectors(1, 1))?;
            (Shape::vectors(1, 1), maps)
        } else {
            let maps = Maps::from_tensor(&value)?;
            let shape = maps.shape();
            let shape = Shape { models, images: shape.images / models, ..shape };
            (shape, maps.reshaped(shape))
        };
        let y = self.push(shape, x.0.slot.wanted, Content::Kept(maps));
        let (slot, to, from) = (y.0.slot, x.0.slot, x.shape());
        self.record(move |back| {
            let Some(dy) = back.take(slot) else { return Ok(()) };
            let upstream =
                if value.rank() == 0 { dy.to_tensor(true)?.flatten_all()?.get(0)? } else { dy.to_tensor(true)? };
            let mut found = (value * upstream)?.sum_all()?.backward()?;
            let gradient = found
                .remove(given.as_tensor())
                .ok_or_else(|| Error::Msg("candle has no gradient for an operation of the expression".to_owned()))?;
            back.pass(to, &Rc::new(Maps::from_tensor(&gradient)?.reshaped(from)))
        });
        Ok(y)
    }

    /// Adds `weight` times a number (a value of [`Tape::candle`]) to what is minimised.
    ///
    /// # Errors
    /// When it is not one number.
    pub fn minimise(&mut self, number: &Map, weight: f64) -> Result<f64> {
        let value = self.backend.download_vectors(number.kept()?)?;
        let [value] = value[..] else { return Err(Error::Msg("only one number can be minimised".to_owned())) };
        let (slot, shape) = (number.0.slot, number.shape());
        self.record(move |back| {
            let gradient = back.backend.upload_vectors(&[weight as f32], shape)?;
            back.pass(slot, &Rc::new(gradient))
        });
        Ok(f64::from(value))
    }

    /// Walks backwards: puts the gradient of what is minimised into `gradients`, a tensor as long as all parameters.
    ///
    /// # Errors
    /// When the device fails.
    pub fn backward(self, gradients: &Tensor) -> Result<()> {
        let Self { backend, slots, mut records, .. } = self;
        let mut back = Backward { backend, slots: vec![None; slots], gradients };
        while let Some(record) = records.pop() {
            record(&mut back)?;
        }
        Ok(())
    }
}

/// The gradient of a value that was seen in another extent.
fn reshape_back(back: &mut Backward, slot: Slot, to: Slot, shape: Shape) -> Result<()> {
    let Some(dy) = back.take(slot) else { return Ok(()) };
    let dy = Rc::try_unwrap(dy).unwrap_or_else(|shared| (*shared).clone());
    let bare = if dy.shape().halo == [0; 3] { dy } else { back.backend.materialise(Read::Kept(&dy), [0; 3])? };
    back.pass(to, &Rc::new(bare.reshaped(shape)))
}
