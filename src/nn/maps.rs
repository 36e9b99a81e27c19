//! Feature maps: images in channels-last order that own a candle storage, inside a halo of zeros where a convolution needs one.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, Device, Error, Result, Storage, Tensor, op::BackpropOp};

use super::Shape;

/// Storages that are used again: a training step allocates nothing after the first.
pub(super) type Pool = Arc<Mutex<Vec<Storage>>>;

/// Feature maps. The halo is zero and stays so. Dropped maps give their storage back to the backend that they come from.
#[derive(Debug)]
pub struct Maps {
    shape: Shape,
    /// At least `shape.len()` floats: a reused storage may be longer.
    storage: Storage,
    pool: Option<Pool>,
}

impl Maps {
    /// Maps in a storage of a backend's own; it goes back to `pool`.
    pub(super) fn in_storage(shape: Shape, storage: Storage, pool: Option<Pool>) -> Self {
        Self { shape, storage, pool }
    }

    /// Maps of zeros in the processor's memory.
    #[must_use]
    pub fn zeros(shape: Shape) -> Self {
        Self::in_storage(shape, Storage::Cpu(CpuStorage::F32(vec![0.0; shape.len()])), None)
    }

    /// The extent.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The storage that holds the maps; it may be longer than they are.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The same floats seen in another extent.
    ///
    /// # Panics
    /// When either has a halo, or the numbers of floats differ.
    #[must_use]
    pub fn reshaped(mut self, shape: Shape) -> Self {
        assert!(shape.halo == [0; 3] && self.shape.halo == [0; 3] && shape.len() == self.shape.len());
        self.shape = shape;
        self
    }

    /// The floats of maps in the processor's memory, the halo included.
    ///
    /// # Panics
    /// When they lie elsewhere.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        match &self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[..self.shape.len()],
            _ => panic!("the maps are not single precision in the processor's memory"),
        }
    }

    /// The same, to be changed; the halo must stay zero.
    ///
    /// # Panics
    /// When they lie elsewhere.
    pub fn data_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &mut data[..self.shape.len()],
            _ => panic!("the maps are not single precision in the processor's memory"),
        }
    }

    /// Maps of images, N × C × Z × Y × X or N × C × Y × X.
    ///
    /// # Errors
    /// When the tensor has other axes, or cannot be read.
    pub fn from_tensor(images: &Tensor) -> Result<Self> {
        let (count, channels, size) = match *images.dims() {
            [count, channels, height, width] => (count, channels, [1, height, width]),
            [count, channels, depth, height, width] => (count, channels, [depth, height, width]),
            _ => return Err(Error::Msg(format!("images have 4 or 5 axes, not {:?}", images.dims()))),
        };
        let axes: Vec<usize> = [0].into_iter().chain(2..images.rank()).chain([1]).collect();
        let values = images.to_device(&Device::Cpu)?.permute(axes)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self::in_storage(Shape::new(count, size, channels), Storage::Cpu(CpuStorage::F32(values)), None))
    }

    /// The images of all models as a tensor, N × C × Z × Y × X; in 2D without Z if `flat`.
    ///
    /// # Errors
    /// When candle cannot hold them.
    pub fn to_tensor(&self, flat: bool) -> Result<Tensor> {
        let Shape { models, images, size: [depth, height, width], channels, .. } = self.shape;
        let bare = self.shape.with_halo([0; 3]);
        let mut values = Vec::with_capacity(bare.len());
        for model in self.data().chunks_exact(self.shape.model_pitch()) {
            for row in 0..self.shape.rows() {
                values.extend_from_slice(&model[self.shape.row_offset(row)..][..self.shape.row_len()]);
            }
        }
        let all = [models * images, depth, height, width, channels];
        let storage = Storage::Cpu(CpuStorage::F32(values));
        let tensor = Tensor::from_storage(storage, all.to_vec(), BackpropOp::none(), false).permute([0, 4, 1, 2, 3])?;
        let tensor = if flat && depth == 1 { tensor.squeeze(2)? } else { tensor };
        tensor.contiguous()
    }
}

impl Clone for Maps {
    fn clone(&self) -> Self {
        Self::in_storage(self.shape, Storage::Cpu(CpuStorage::F32(self.data().to_vec())), None)
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let storage = std::mem::replace(&mut self.storage, Storage::Cpu(CpuStorage::F32(Vec::new())));
            pool.lock().unwrap_or_else(PoisonError::into_inner).push(storage);
        }
    }
}
