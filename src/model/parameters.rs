//! The numbers of a model by name, in a fixed order, and as safetensors.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, safetensors::SliceSafetensors};
use safetensors::{Dtype, tensor::TensorView};

use super::{Architecture, ModelError};

/// The numbers of a model by name, ordered by name: weights, biases, statistics of BatchNorm, vectors u of spectral normalisation.
/// Names and shapes are those of [`Architecture::parameter_shapes`].
#[derive(Clone, Debug, Default)]
pub struct Parameters(pub BTreeMap<String, Tensor>);

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        let same = |(name, tensor): (&String, &Tensor)| {
            other.0.get(name).is_some_and(|other| tensor.dims() == other.dims() && values(tensor) == values(other))
        };
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }
}

/// The numbers of a tensor, in the order of its axes; empty if they are not single precision.
fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).unwrap_or_default()
}

impl Parameters {
    /// Adds a tensor.
    ///
    /// # Errors
    /// When there are not as many values as the shape says.
    pub fn insert(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) -> Result<(), ModelError> {
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)
            .map_err(|error| ModelError::Parameters(format!("`{name}`: {error}")))?;
        self.0.insert(name.to_owned(), tensor);
        Ok(())
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.0.get(name).ok_or_else(|| ModelError::Parameters(format!("there is no tensor `{name}`")))
    }

    /// The numbers of the tensor of this name, in the order of its axes.
    ///
    /// # Errors
    /// When there is none.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(values(self.get(name)?))
    }

    /// Checks that exactly the architecture's tensors are there, in its shapes, and all numbers are finite.
    ///
    /// # Errors
    /// [`ModelError::Parameters`] naming the first tensor that is missing, superfluous or wrong.
    pub fn check(&self, architecture: &Architecture) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Parameters(message));
        let shapes = architecture.parameter_shapes();
        for wanted in &shapes {
            let tensor = self.get(&wanted.name)?;
            if tensor.dims() != wanted.shape || tensor.dtype() != DType::F32 {
                return fail(format!(
                    "`{}` has the shape {:?}; the model needs {:?}",
                    wanted.name,
                    tensor.dims(),
                    wanted.shape
                ));
            }
            if !values(tensor).iter().all(|value| value.is_finite()) {
                return fail(format!("`{}` holds numbers that are not finite", wanted.name));
            }
        }
        if self.0.len() > shapes.len() {
            let extra = self.0.keys().find(|name| shapes.iter().all(|wanted| wanted.name != **name));
            return fail(format!("the model has no tensor `{}`", extra.map_or("", String::as_str)));
        }
        Ok(())
    }

    /// The numbers as safetensors (float32). Equal numbers give equal bytes; candle's own writer knows files only.
    #[must_use]
    pub fn to_safetensors(&self) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = self
            .0
            .values()
            .map(|tensor| values(tensor).iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.0.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.dims().to_vec(), bytes).expect("the bytes fit the shape");
            (name.as_str(), view)
        });
        safetensors::serialize(views, None).expect("names and views are sound")
    }

    /// Reads safetensors of float32.
    ///
    /// # Errors
    /// When the bytes are no safetensors, or hold another number type.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, ModelError> {
        let fail = |reason: String| ModelError::Parameters(format!("the weights cannot be read: {reason}"));
        let file = SliceSafetensors::new(bytes).map_err(|error| fail(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(fail(format!("`{name}` is {:?}, not F32", view.dtype())));
            }
            let tensor = file.load(&name, &Device::Cpu).map_err(|error| fail(error.to_string()))?;
            tensors.insert(name, tensor);
        }
        Ok(Self(tensors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_round_trip_and_stable_bytes() {
        let mut parameters = Parameters::default();
        parameters.insert("b", vec![2, 1], vec![1.0, -2.5]).unwrap();
        parameters.insert("a", vec![1, 1], vec![0.1]).unwrap();
        let bytes = parameters.to_safetensors();
        assert_eq!(bytes, parameters.to_safetensors());
        assert!(Parameters::from_safetensors(&bytes).unwrap() == parameters);
        assert!(Parameters::from_safetensors(b"no weights").is_err());
        assert!(parameters.insert("c", vec![3], vec![1.0]).is_err());
    }
}
