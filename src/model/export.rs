//! Weights for the paper's published program: encoder and decoder apart, as PyTorch files; the way back from [`super::import`].
//!
//! Each file is `{"model": state dict}` in PyTorch's archive form, opened by `torch.load` (also with `weights_only=True`). Axes are
//! put in the published program's order (Y, X, Z). There is no state of the optimiser in it: it goes on with a fresh one.

use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{
    Architecture, Parameters,
    import::{self, Description, Facts, ImportError},
};

/// Encoder and decoder as PyTorch files. `size` (Z, Y, X) as [`import::published`] takes it.
///
/// # Errors
/// [`ImportError::Mismatch`] when the weights are not those of one of the paper's models, or not for images of this size.
pub fn published(parameters: &Parameters, size: Option<[usize; 3]>) -> Result<[Vec<u8>; 2], ImportError> {
    let facts = Facts::of(parameters)?;
    let architecture = facts.architecture(&Description { size, voxel_um: [1.0; 3], ..Description::default() })?;
    parameters.check(&architecture).map_err(|error| ImportError::Mismatch(error.to_string()))?;
    ["enc", "dec"]
        .map(|part| archive(&state_dict(parameters, &architecture, part)?))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map(|files| files.try_into().expect("two files"))
}

/// The published program's name of one of our layers.
fn layer(ours: &str) -> Option<String> {
    let whole = match ours {
        "enc.mu" => Some("latent_out_mu"),
        "enc.logvar" => Some("latent_out_sigma"),
        "dec.fc" => Some("target_fc"),
        "dec.bn" => Some("target_bn_relu.0"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(name.to_owned());
    }
    let (part, rest) = ours.split_once(".path.")?;
    let (level, inside) = rest.split_once('.')?;
    let inside = match inside {
        "bypass" if part == "enc" => "bypass.1".to_owned(),
        "bypass" => "bypass.0".to_owned(),
        "conv1" => "resid.0".to_owned(),
        "bn1" => "resid.1".to_owned(),
        "conv2" => "resid.3".to_owned(),
        "bn2" => "resid.4".to_owned(),
        condition => format!("cond_paths.{}", condition.strip_prefix("cond.")?),
    };
    Some(format!("target_path.{level}.{inside}"))
}

/// Real numbers with a shape, the last axis contiguous.
#[derive(Clone)]
struct Array {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The tensor of this name.
fn array(parameters: &Parameters, name: &str) -> Result<Array, ImportError> {
    let failed = |error: super::ModelError| ImportError::Mismatch(error.to_string());
    let shape = parameters.get(name).map_err(failed)?.dims().to_vec();
    Ok(Array { shape, values: parameters.values(name).map_err(failed)? })
}

/// An entry of a state dict.
enum Entry {
    Real(Array),
    /// The count of batches, which no layer of these uses.
    Count,
}

/// The tensors of one part under the published program's names, axes in its order.
fn state_dict(
    parameters: &Parameters,
    architecture: &Architecture,
    part: &str,
) -> Result<BTreeMap<String, Entry>, ImportError> {
    let mut entries = BTreeMap::new();
    for name in parameters.0.keys() {
        let Some((ours, kind)) = name.rsplit_once('.').filter(|_| name.starts_with(part)) else { continue };
        let theirs =
            layer(ours).ok_or_else(|| ImportError::Mismatch(format!("the published program has no layer `{ours}`")))?;
        let tensor = theirs_order(name, &array(parameters, name)?, architecture)?;
        match kind {
            "weight" => {
                let of_u = format!("{ours}.u");
                if parameters.0.contains_key(&of_u) {
                    let u = theirs_order(&of_u, &array(parameters, &of_u)?, architecture)?;
                    entries.insert(format!("{theirs}.weight"), Entry::Real(normalised(&tensor, &u.values)));
                    entries.insert(format!("{theirs}.weight_org"), Entry::Real(tensor));
                } else {
                    entries.insert(format!("{theirs}.weight"), Entry::Real(tensor));
                }
            }
            "u" => drop(entries.insert(format!("{theirs}.weight_u"), Entry::Real(tensor))),
            "running_var" => {
                entries.insert(format!("{theirs}.num_batches_tracked"), Entry::Count);
                entries.insert(format!("{theirs}.{kind}"), Entry::Real(tensor));
            }
            _ => drop(entries.insert(format!("{theirs}.{kind}"), Entry::Real(tensor))),
        }
    }
    Ok(entries)
}

/// A tensor with its axes in the published program's order.
fn theirs_order(name: &str, tensor: &Array, architecture: &Architecture) -> Result<Array, ImportError> {
    if architecture.dimensions == 2 {
        return Ok(tensor.clone());
    }
    let levels = architecture.channels.len();
    let [depth, height, width] = architecture.size.map(|side| side >> levels);
    let (latent, channels) = (architecture.latent, architecture.channels[levels - 1]);
    let (shape, order): (Vec<usize>, &[usize]) = match name {
        "enc.mu.weight" | "enc.logvar.weight" => (vec![latent, channels, depth, height, width], &[0, 1, 3, 4, 2]),
        "dec.fc.weight" => (vec![channels, depth, height, width, latent], &[0, 2, 3, 1, 4]),
        "dec.fc.bias" | "dec.fc.u" => (vec![channels, depth, height, width], &[0, 2, 3, 1]),
        _ if tensor.shape.len() == 5 => (tensor.shape.clone(), &[0, 1, 3, 4, 2]),
        _ => return Ok(tensor.clone()),
    };
    let values = import::permuted(&tensor.values, &shape, order)
        .ok_or_else(|| ImportError::Mismatch(format!("`{name}` has the shape {:?}, not {shape:?}", tensor.shape)))?;
    let shape =
        if tensor.shape.len() == 5 { order.iter().map(|&axis| shape[axis]).collect() } else { tensor.shape.clone() };
    Ok(Array { shape, values })
}

/// The weight divided by its spectral norm, as `u` estimates it: what the published program makes again at every step.
fn normalised(weight: &Array, u: &[f32]) -> Array {
    let columns = weight.values.len() / u.len().max(1);
    let mut v = vec![0.0_f64; columns];
    for (row, &u) in weight.values.chunks_exact(columns.max(1)).zip(u) {
        v.iter_mut().zip(row).for_each(|(v, &w)| *v += f64::from(u) * f64::from(w));
    }
    let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    // With v = Wᵀu / |Wᵀu| the estimate uᵀWv is |Wᵀu|.
    let sigma = if norm > 0.0 { norm } else { 1.0 };
    Array {
        shape: weight.shape.clone(),
        values: weight.values.iter().map(|&w| (f64::from(w) / sigma) as f32).collect(),
    }
}

/// Writes pickles of the few kinds of value that a state dict has.
#[derive(Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn number(&mut self, number: usize) {
        // A long of eight bytes, the last one 0: never negative.
        self.0.extend([0x8a, 8]);
        self.0.extend((number as u64).to_le_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn tuple(&mut self, numbers: &[usize]) {
        self.0.push(b'(');
        numbers.iter().for_each(|&number| self.number(number));
        self.0.push(b't');
    }

    fn empty_ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend(b")R");
    }

    /// A tensor whose values lie in the archive's record `key`.
    fn tensor(&mut self, key: usize, storage: &str, count: usize, shape: &[usize]) {
        let mut strides = vec![1; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1];
        }
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.extend(b"((");
        self.text("storage");
        self.global("torch", storage);
        self.text(&key.to_string());
        self.text("cpu");
        self.number(count);
        self.0.extend(b"tQ");
        self.number(0);
        self.tuple(shape);
        self.tuple(&strides);
        self.0.push(0x89);
        self.empty_ordered_dict();
        self.0.extend(b"tR");
    }
}

/// PyTorch's archive of `{"model": …}`.
fn archive(entries: &BTreeMap<String, Entry>) -> Result<Vec<u8>, ImportError> {
    let mut pickle = Pickle(b"\x80\x02}(".to_vec());
    pickle.text("model");
    pickle.empty_ordered_dict();
    pickle.0.push(b'(');
    let mut records = Vec::new();
    for (name, entry) in entries {
        pickle.text(name);
        match entry {
            Entry::Real(Array { shape, values }) => {
                pickle.tensor(records.len(), "FloatStorage", values.len(), shape);
                records.push(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            }
            Entry::Count => {
                pickle.tensor(records.len(), "LongStorage", 1, &[]);
                records.push(vec![0; 8]);
            }
        }
    }
    pickle.0.extend(b"uu.");
    let failed =
        |error: zip::result::ZipError| ImportError::Mismatch(format!("the archive cannot be written: {error}"));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let mut record = |name: String, bytes: &[u8]| {
        zip.start_file(name, options).map_err(failed)?;
        zip.write_all(bytes).map_err(|error| failed(error.into()))
    };
    record("archive/data.pkl".to_owned(), &pickle.0)?;
    record("archive/byteorder".to_owned(), b"little")?;
    for (key, bytes) in records.iter().enumerate() {
        record(format!("archive/data/{key}"), bytes)?;
    }
    record("archive/version".to_owned(), b"3\n")?;
    Ok(zip.finish().map_err(failed)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn what_is_exported_is_imported_again() {
        for (name, size) in [("target-3d-zip", Some([8, 24, 16])), ("reference-2d-legacy", Some([1, 24, 16]))] {
            let [encoder, decoder] = ["enc", "dec"].map(|part| fixture(&format!("{name}-{part}.pth")));
            let parameters =
                import::published(&encoder, &decoder, size).unwrap_or_else(|error| panic!("{name}: {error}"));
            let [encoder, decoder] = published(&parameters, size).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(import::published(&encoder, &decoder, size).unwrap(), parameters, "{name}");
            assert_eq!(published(&parameters, size).unwrap()[0], encoder, "stable bytes");
            assert!(published(&parameters, Some([16, 16, 16])).is_err());
        }
    }
}
