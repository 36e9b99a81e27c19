//! candle's storages seen as floats in the processor's memory. Besides [`super::maps`], the only place that looks inside candle's tensors.

use std::{cell::Cell, ops::Deref};

use candle_core::{CpuStorage, Error, InplaceOp1, Layout, Result, Storage, Tensor};

/// The floats of a contiguous tensor, locked for reading; `G` is candle's lock.
struct Floats<G> {
    guard: G,
    start: usize,
    len: usize,
}

impl<G: Deref<Target = Storage>> Deref for Floats<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => unreachable!("looked at when it was locked"),
        }
    }
}

fn place(layout: &Layout) -> Result<(usize, usize)> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::Msg("a tensor is not contiguous".to_owned()))?;
    Ok((start, end - start))
}

/// The floats of a contiguous tensor in the processor's memory.
///
/// # Errors
/// When it is something else.
pub(super) fn floats(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (guard, layout) = tensor.storage_and_layout();
    let (start, len) = place(layout)?;
    if !matches!(&*guard, Storage::Cpu(CpuStorage::F32(_))) {
        return Err(Error::Msg("a tensor is not single precision in the processor's memory".to_owned()));
    }
    Ok(Floats { guard, start, len })
}

struct Update<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (start, len) = place(layout)?;
        let CpuStorage::F32(values) = storage else {
            return Err(Error::Msg("a tensor is not single precision".to_owned()));
        };
        if let Some(update) = self.0.take() {
            update(&mut values[start..start + len]);
        }
        Ok(())
    }
}

/// Changes the floats of a contiguous tensor in the processor's memory; all views of the same storage see it.
///
/// # Errors
/// When it is something else.
pub(super) fn update(tensor: &Tensor, change: impl FnOnce(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&Update(Cell::new(Some(change))))
}
