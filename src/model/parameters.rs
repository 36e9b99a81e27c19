//! The numbers of a model by name, in a fixed order, and as safetensors.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{Architecture, ModelError};

/// Real numbers with a shape, the last axis contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// The numbers: the product of `shape` of them.
    pub values: Vec<f32>,
}

/// The numbers of a model by name, ordered by name: weights, biases, statistics of BatchNorm, vectors u of spectral normalisation.
/// Names and shapes are those of [`Architecture::parameter_shapes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(pub BTreeMap<String, Tensor>);

impl Parameters {
    /// The tensor of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.0.get(name).ok_or_else(|| ModelError::Parameters(format!("there is no tensor `{name}`")))
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
            if tensor.shape != wanted.shape || tensor.values.len() != wanted.shape.iter().product::<usize>() {
                return fail(format!(
                    "`{}` has the shape {:?}; the model needs {:?}",
                    wanted.name, tensor.shape, wanted.shape
                ));
            }
            if !tensor.values.iter().all(|value| value.is_finite()) {
                return fail(format!("`{}` holds numbers that are not finite", wanted.name));
            }
        }
        if self.0.len() > shapes.len() {
            let extra = self.0.keys().find(|name| shapes.iter().all(|wanted| wanted.name != **name));
            return fail(format!("the model has no tensor `{}`", extra.map_or("", String::as_str)));
        }
        Ok(())
    }

    /// The numbers as safetensors (float32). Equal numbers give equal bytes.
    #[must_use]
    pub fn to_safetensors(&self) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = self
            .0
            .values()
            .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.0.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("the bytes fit the shape");
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
        let file = SafeTensors::deserialize(bytes).map_err(|error| fail(error.to_string()))?;
        let tensors = file.iter().map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(fail(format!("`{name}` is {:?}, not F32", view.dtype())));
            }
            let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            let values = view.data().chunks_exact(4).map(word).collect();
            Ok((name.to_owned(), Tensor { shape: view.shape().to_vec(), values }))
        });
        Ok(Self(tensors.collect::<Result<_, ModelError>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_round_trip_and_stable_bytes() {
        let tensor = |values: &[f32]| Tensor { shape: vec![values.len(), 1], values: values.to_vec() };
        let parameters = Parameters([("b".to_owned(), tensor(&[1.0, -2.5])), ("a".to_owned(), tensor(&[0.1]))].into());
        let bytes = parameters.to_safetensors();
        assert_eq!(bytes, parameters.to_safetensors());
        assert_eq!(Parameters::from_safetensors(&bytes).unwrap(), parameters);
        assert!(Parameters::from_safetensors(b"no weights").is_err());
    }
}
