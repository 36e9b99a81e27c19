//! The numbers of a model: two flat tensors, of which every layer's tensors are views.
//!
//! What is trained lies in one `Var`, buffers (running statistics, vectors u) in another: Adam is one pass over memory, and a
//! checkpoint is a few stretches of bytes. A tensor of M models lies as M × its numbers, in the order that the operations want.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use super::storage::{floats, update};

/// One tensor of a model: its name and shape in files, and where its numbers lie.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The name, such as `enc.path.0.conv1.weight`.
    pub name: String,
    /// The shape as PyTorch has it.
    pub shape: Vec<usize>,
    /// Whether it is trained; else it is a buffer.
    pub trained: bool,
    /// The place of one model's numbers, among what is trained or among the buffers.
    pub range: Range<usize>,
    /// PyTorch's shape seen with three axes.
    pub axes: [usize; 3],
    /// The axes in the order in which the numbers lie.
    pub order: [usize; 3],
}

impl Slot {
    /// Calls `visit(place in PyTorch's order, place in ours)` for every number.
    fn permuted(&self, mut visit: impl FnMut(usize, usize)) {
        let (axes, order) = (self.axes, self.order);
        let pitch = [axes[1] * axes[2], axes[2], 1];
        let mut ours = 0;
        for a in 0..axes[order[0]] {
            for b in 0..axes[order[1]] {
                let start = a * pitch[order[0]] + b * pitch[order[1]];
                for c in 0..axes[order[2]] {
                    visit(start + c * pitch[order[2]], ours);
                    ours += 1;
                }
            }
        }
    }
}

/// The numbers of some models of the same architecture.
#[derive(Clone, Debug)]
pub struct ParameterSet {
    models: usize,
    slots: Arc<BTreeMap<String, Slot>>,
    parameters: Var,
    buffers: Var,
}

impl ParameterSet {
    /// Zeros for these tensors of `models` models.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn zeros(models: usize, slots: impl IntoIterator<Item = Slot>, device: &Device) -> Result<Self> {
        let slots: BTreeMap<String, Slot> = slots.into_iter().map(|slot| (slot.name.clone(), slot)).collect();
        let length = |trained: bool| -> usize {
            slots.values().filter(|slot| slot.trained == trained).map(|slot| slot.range.len()).sum()
        };
        let zeros = |trained: bool| Var::zeros(models * length(trained), DType::F32, device);
        let (parameters, buffers) = (zeros(true)?, zeros(false)?);
        Ok(Self { models, slots: Arc::new(slots), parameters, buffers })
    }

    /// How many models.
    #[must_use]
    pub fn models(&self) -> usize {
        self.models
    }

    /// What is trained, of all models.
    #[must_use]
    pub fn parameters(&self) -> &Var {
        &self.parameters
    }

    /// Running statistics and vectors u, of all models.
    #[must_use]
    pub fn buffers(&self) -> &Var {
        &self.buffers
    }

    /// Builds layers. A tensor is asked for by its name, in PyTorch's shape or in any shape that has as many numbers; then it is a view
    /// of the numbers as they lie. In PyTorch's shape it is a view too, unless a linear layer behind a flattened image forbids it.
    #[must_use]
    pub fn builder(&self) -> VarBuilder<'static> {
        let device = self.parameters.device().clone();
        VarBuilder::from_backend(Box::new(Views(self.clone())), DType::F32, device)
    }

    fn flat(&self, trained: bool) -> &Var {
        if trained { &self.parameters } else { &self.buffers }
    }

    /// The numbers of all models as they lie.
    fn view(&self, slot: &Slot) -> Result<Tensor> {
        let length = slot.range.len();
        self.flat(slot.trained).narrow(0, self.models * slot.range.start, self.models * length)
    }

    /// A model's tensors by name, in PyTorch's shapes; `flat` holds the numbers, instead of what is trained.
    fn tensors(&self, model: usize, slot: &Slot, flat: &Tensor) -> Result<Tensor> {
        let length = slot.range.len();
        let all = floats(flat)?;
        let source = &all[self.models * slot.range.start + model * length..][..length];
        let mut out = vec![0.0; length];
        slot.permuted(|theirs, ours| out[theirs] = source[ours]);
        Tensor::from_vec(out, slot.shape.clone(), &Device::Cpu)
    }

    /// The tensors of a model by name, in PyTorch's shapes.
    ///
    /// # Errors
    /// When candle cannot hold them.
    pub fn export(&self, model: usize) -> Result<BTreeMap<String, Tensor>> {
        let one = |slot: &Slot| Ok((slot.name.clone(), self.tensors(model, slot, self.flat(slot.trained))?));
        self.slots.values().map(one).collect()
    }

    /// Numbers that belong to the trained ones (gradients, moments) of a model, by name, in PyTorch's shapes.
    ///
    /// # Errors
    /// When there are not as many as trained numbers.
    pub fn export_like_trained(&self, model: usize, flat: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        if flat.elem_count() != self.parameters.elem_count() {
            return Err(Error::Msg(format!("{} numbers are not as many as are trained", flat.elem_count())));
        }
        let one = |slot: &Slot| Ok((slot.name.clone(), self.tensors(model, slot, flat)?));
        self.slots.values().filter(|slot| slot.trained).map(one).collect()
    }

    /// Sets the tensors of a model.
    ///
    /// # Errors
    /// When one is missing or has another number of values.
    pub fn import(&self, model: usize, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        for slot in self.slots.values() {
            let source =
                tensors.get(&slot.name).ok_or_else(|| Error::Msg(format!("there is no tensor `{}`", slot.name)))?;
            let source = source.flatten_all()?.to_vec1::<f32>()?;
            let length = slot.range.len();
            if source.len() != length {
                return Err(Error::Msg(format!("`{}` has {} numbers, not {length}", slot.name, source.len())));
            }
            update(self.flat(slot.trained), |all| {
                let target = &mut all[self.models * slot.range.start + model * length..][..length];
                slot.permuted(|theirs, ours| target[ours] = source[theirs]);
            })?;
        }
        Ok(())
    }

    /// One of the models alone, in tensors of its own.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn model(&self, model: usize) -> Result<Self> {
        let alone = Self::zeros(1, self.slots.values().cloned(), self.parameters.device())?;
        alone.import(0, &self.export(model)?)?;
        Ok(alone)
    }

    /// The numbers as they lie: what is trained, and the buffers.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn values(&self) -> Result<[Vec<f32>; 2]> {
        Ok([floats(&self.parameters)?.to_vec(), floats(&self.buffers)?.to_vec()])
    }

    /// Sets the numbers as they lie. All layers see it.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn set_values(&self, [parameters, buffers]: [&[f32]; 2]) -> Result<()> {
        for (var, values) in [(&self.parameters, parameters), (&self.buffers, buffers)] {
            if var.elem_count() != values.len() {
                return Err(Error::Msg(format!("{} numbers instead of {}", values.len(), var.elem_count())));
            }
            update(var, |to| to.copy_from_slice(values))?;
        }
        Ok(())
    }
}

struct Views(ParameterSet);

impl Views {
    fn slot(&self, name: &str) -> Result<&Slot> {
        self.0.slots.get(name).ok_or_else(|| Error::Msg(format!("the model has no tensor `{name}`")))
    }

    /// A tensor of one model in PyTorch's shape.
    fn in_order_of_files(&self, slot: &Slot) -> Result<Tensor> {
        let ordered: [usize; 3] = std::array::from_fn(|at| slot.axes[slot.order[at]]);
        let mut inverse = [0; 3];
        for (at, axis) in slot.order.iter().enumerate() {
            inverse[*axis] = at;
        }
        self.0.view(slot)?.reshape(ordered.to_vec())?.permute(inverse)?.reshape(slot.shape.clone())
    }
}

impl SimpleBackend for Views {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, _: &Device) -> Result<Tensor> {
        let slot = self.slot(name)?;
        let tensor = if self.0.models == 1 && shape.dims() == slot.shape {
            self.in_order_of_files(slot)?
        } else if shape.elem_count() == self.0.models * slot.range.len() {
            self.0.view(slot)?.reshape(shape)?
        } else {
            return Err(Error::Msg(format!("`{name}` has the shape {:?}, not {:?}", slot.shape, shape.dims())));
        };
        if tensor.dtype() == dtype { Ok(tensor) } else { tensor.to_dtype(dtype) }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = Shape::from(self.slot(name)?.shape.clone());
        self.get(shape, name, Init::Const(0.0), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.slots.contains_key(name)
    }
}
