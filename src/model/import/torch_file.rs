//! PyTorch's two file forms of `torch.save`, read without Python.
//!
//! The old form (before PyTorch 1.6): five pickles one behind the other (a magic number, the protocol, facts of the machine,
//! the object, the order of the storages), then each storage as its length and its numbers. The newer form is a ZIP archive of
//! uncompressed files: `NAME/data.pkl` is the object, `NAME/data/KEY` a storage.

use std::{cell::Cell, collections::BTreeMap, ops::Range};

use super::pickle::{Id, Number, Pickle, PickleError, Value};

/// Why a PyTorch file was refused.
#[derive(Debug, thiserror::Error)]
pub enum TorchFileError {
    /// Neither of the two forms.
    #[error("this is no file of `torch.save`: it begins with neither a ZIP archive nor a pickle")]
    NotTorch,
    /// The object's pickle was refused.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// The file contradicts itself, or lacks a part.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// A sound file of a kind that is not read.
    #[error("this kind of PyTorch file is not read: {0}")]
    Unsupported(String),
}

fn damaged(reason: impl Into<String>) -> TorchFileError {
    TorchFileError::Damaged(reason.into())
}

/// The magic number of the old form, lowest byte first.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version of the old form.
const PROTOCOL: i64 = 1001;

/// A file of `torch.save`: its object, and where its numbers stand.
pub(super) struct TorchFile<'a> {
    bytes: &'a [u8],
    /// The object.
    pub(super) pickle: Pickle,
    storages: BTreeMap<String, Range<usize>>,
    /// Bytes of arrays that may still be read: each byte of the file once, so that a small file cannot ask for much memory.
    budget: Cell<usize>,
}

/// An array: its size by axis, and its numbers, the last axis contiguous.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    /// Size by axis.
    pub(super) shape: Vec<usize>,
    /// The numbers.
    pub(super) data: Vec<f32>,
}

impl<'a> TorchFile<'a> {
    /// Opens a file of either form.
    ///
    /// # Errors
    /// See [`TorchFileError`].
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, TorchFileError> {
        let (pickle, storages) = match bytes {
            [b'P', b'K', 3, 4, ..] => open_zip(bytes)?,
            [0x80, _, ..] => open_old(bytes)?,
            _ => return Err(TorchFileError::NotTorch),
        };
        Ok(Self { bytes, pickle, storages, budget: Cell::new(bytes.len()) })
    }

    /// The arrays of a dictionary, by name; other values are left out.
    pub(super) fn arrays(&self, dict: Id) -> BTreeMap<&str, Id> {
        let Value::Dict(entries) = &self.pickle.values[dict] else { return BTreeMap::new() };
        let named =
            entries.iter().filter_map(|&(name, value)| match (&self.pickle.values[name], &self.pickle.values[value]) {
                (Value::Text(name), Value::Tensor { .. }) => Some((name.as_str(), value)),
                _ => None,
            });
        named.collect()
    }

    /// Reads an array of real numbers.
    ///
    /// # Errors
    /// When its storage is missing, too short, or of whole numbers.
    pub(super) fn read(&self, array: Id) -> Result<Array, TorchFileError> {
        let values = &self.pickle.values;
        let Value::Tensor { storage, offset, shape, strides } = &values[array] else {
            return Err(damaged("an array is something else"));
        };
        let Value::Storage { number, key, length } = &values[*storage] else {
            return Err(damaged("an array has no storage"));
        };
        if let Number::Other { .. } = number {
            return Err(TorchFileError::Unsupported("weights of whole numbers".to_owned()));
        }
        let range = self.storages.get(key).ok_or_else(|| damaged(format!("storage {key} is missing")))?;
        let size = number.size();
        if length.checked_mul(size) != Some(range.len()) {
            return Err(damaged(format!("storage {key} has {} bytes, not {length} numbers of {size}", range.len())));
        }
        let outside = || damaged(format!("an array of shape {shape:?} does not lie inside storage {key}"));
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side)).ok_or_else(outside)?;
        if count > *length {
            return Err(outside());
        }
        let bytes = count * size;
        self.budget.set(self.budget.get().checked_sub(bytes).ok_or_else(|| damaged("arrays share storages"))?);
        let mut data = Vec::with_capacity(count);
        if count > 0 {
            let last = shape
                .iter()
                .zip(strides)
                .try_fold(*offset, |at, (&side, &stride)| at.checked_add((side - 1).checked_mul(stride)?));
            if last.is_none_or(|last| last >= *length) {
                return Err(outside());
            }
            let stored = &self.bytes[range.clone()];
            let mut position = vec![0usize; shape.len()];
            for _ in 0..count {
                let at = offset + position.iter().zip(strides).map(|(p, s)| p * s).sum::<usize>();
                data.push(real(*number, &stored[at * size..(at + 1) * size]));
                for axis in (0..shape.len()).rev() {
                    position[axis] += 1;
                    if position[axis] < shape[axis] {
                        break;
                    }
                    position[axis] = 0;
                }
            }
        }
        Ok(Array { shape: shape.clone(), data })
    }
}

/// One real number from its bytes, lowest first.
fn real(number: Number, bytes: &[u8]) -> f32 {
    match number {
        Number::F32 => f32::from_le_bytes(bytes.try_into().expect("four bytes")),
        #[expect(clippy::cast_possible_truncation, reason = "weights are kept in single precision")]
        Number::F64 => f64::from_le_bytes(bytes.try_into().expect("eight bytes")) as f32,
        Number::F16 => half(u16::from_le_bytes(bytes.try_into().expect("two bytes"))),
        Number::Other { .. } => f32::NAN,
    }
}

/// A 16 bit real number (IEEE 754 binary16).
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

type Opened = (Pickle, BTreeMap<String, Range<usize>>);

/// Storages that the object names, with their bytes each.
fn storage_sizes(pickle: &Pickle) -> Result<BTreeMap<&str, usize>, TorchFileError> {
    let mut sizes = BTreeMap::new();
    for value in &pickle.values {
        if let Value::Storage { number, key, length } = value
            && sizes.insert(key.as_str(), number.size()).is_some_and(|size| size != number.size())
        {
            return Err(damaged(format!("storage {key} is said to have two types ({length} numbers)")));
        }
    }
    Ok(sizes)
}

fn open_old(bytes: &[u8]) -> Result<Opened, TorchFileError> {
    let mut at = 0;
    let mut next = || {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok::<_, TorchFileError>(pickle)
    };
    let (magic, protocol, machine) = (next()?, next()?, next()?);
    if magic.values[magic.root] != Value::Long(MAGIC.to_vec()) {
        return Err(TorchFileError::NotTorch);
    }
    if protocol.values[protocol.root] != Value::Integer(PROTOCOL) {
        return Err(TorchFileError::Unsupported("its version is not 1001".to_owned()));
    }
    let little = machine.entry(machine.root, "little_endian").map(|id| &machine.values[id]);
    if little != Some(&Value::Flag(true)) {
        return Err(TorchFileError::Unsupported("numbers with the highest byte first".to_owned()));
    }
    let (object, order) = (next()?, next()?);
    let sizes = storage_sizes(&object)?;
    let Value::List(keys) = &order.values[order.root] else { return Err(damaged("the storages have no order")) };
    let mut storages = BTreeMap::new();
    for &key in keys {
        let Value::Text(key) = &order.values[key] else { return Err(damaged("a storage without a name")) };
        let size = *sizes.get(key.as_str()).ok_or_else(|| damaged(format!("storage {key} belongs to nothing")))?;
        let head = bytes.get(at..at + 8).ok_or(PickleError::Truncated)?;
        let count = u64::from_le_bytes(head.try_into().expect("eight bytes"));
        let end = usize::try_from(count).ok().and_then(|count| count.checked_mul(size)?.checked_add(at + 8));
        let end = end.filter(|&end| end <= bytes.len()).ok_or(PickleError::Truncated)?;
        storages.insert(key.clone(), at + 8..end);
        at = end;
    }
    if at != bytes.len() {
        return Err(damaged(format!("{} bytes behind its end", bytes.len() - at)));
    }
    drop(sizes);
    Ok((object, storages))
}

fn open_zip(bytes: &[u8]) -> Result<Opened, TorchFileError> {
    let files = zip_files(bytes)?;
    let (name, object) = files
        .iter()
        .find(|(name, _)| name.ends_with("/data.pkl"))
        .ok_or_else(|| damaged("the archive has no `data.pkl`"))?;
    let root = &name[..name.len() - "data.pkl".len()];
    if let Some(order) = files.get(&format!("{root}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err(TorchFileError::Unsupported("numbers with the highest byte first".to_owned()));
    }
    let pickle = Pickle::read(&bytes[object.clone()])?;
    let prefix = format!("{root}data/");
    let storages = files
        .iter()
        .filter_map(|(name, range)| Some((name.strip_prefix(&prefix)?.to_owned(), range.clone())))
        .collect();
    Ok((pickle, storages))
}

/// The uncompressed files of a ZIP archive, with where their bytes stand.
///
/// PyTorch compresses nothing and aligns the files, so a name and a range are all there is. Archives above 4 GiB (ZIP64) are
/// refused; the paper's largest checkpoint has 0.6 GB.
fn zip_files(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, TorchFileError> {
    const END: [u8; 4] = [b'P', b'K', 5, 6];
    const ENTRY: [u8; 4] = [b'P', b'K', 1, 2];
    const FILE: [u8; 4] = [b'P', b'K', 3, 4];
    let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?) as usize);
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let signed = |at: usize, signature: [u8; 4]| bytes.get(at..at + 4) == Some(&signature[..]);

    // The end record has 22 bytes and a comment of at most 65,535 behind them.
    let first = bytes.len().saturating_sub(22 + 65_535);
    let end = (first..bytes.len().saturating_sub(21)).rev().find(|&at| signed(at, END));
    let end = end.ok_or_else(|| damaged("the archive has no end; it may be cut off"))?;
    let broken = || damaged("the archive's list of files is broken");
    let (count, mut at) = short(end + 10).zip(word(end + 16)).ok_or_else(broken)?;
    if count == 0xffff || at == 0xffff_ffff {
        return Err(TorchFileError::Unsupported("a ZIP64 archive".to_owned()));
    }
    let mut files = BTreeMap::new();
    for _ in 0..count {
        if !signed(at, ENTRY) {
            return Err(broken());
        }
        let field = |offset: usize, read: &dyn Fn(usize) -> Option<usize>| read(at + offset).ok_or_else(broken);
        let (flags, method) = (field(8, &short)?, field(10, &short)?);
        let (packed, length) = (field(20, &word)?, field(24, &word)?);
        let (name_length, extra, comment) = (field(28, &short)?, field(30, &short)?, field(32, &short)?);
        let local = field(42, &word)?;
        let name = bytes.get(at + 46..at + 46 + name_length).ok_or_else(broken)?;
        let name = std::str::from_utf8(name).map_err(|_| broken())?.to_owned();
        if flags & 1 != 0 || method != 0 || packed != length {
            return Err(TorchFileError::Unsupported(format!("`{}` is compressed or encrypted", name.escape_debug())));
        }
        if !signed(local, FILE) {
            return Err(broken());
        }
        let (local_name, local_extra) = short(local + 26).zip(short(local + 28)).ok_or_else(broken)?;
        let start = local + 30 + local_name + local_extra;
        let range = start..start + length;
        if range.end > bytes.len() {
            return Err(damaged(format!("`{}` reaches beyond the file's end", name.escape_debug())));
        }
        if files.insert(name, range).is_some() {
            return Err(damaged("two files of one name"));
        }
        at += 46 + name_length + extra + comment;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        for (bits, value) in [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2f32.powi(-24)), (0x7bff, 65504.0)] {
            assert!((half(bits) - value).abs() < f32::EPSILON * value.abs(), "{bits:#06x}");
        }
        assert!(half(0x7c01).is_nan() && half(0x7c00).is_infinite());
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"GIF89a", b"\x93NUMPY", b"PK\x05\x06"] {
            assert!(matches!(TorchFile::open(bytes), Err(TorchFileError::NotTorch)), "{bytes:?}");
        }
        assert!(matches!(TorchFile::open(b"PK\x03\x04 and no more"), Err(TorchFileError::Damaged(_))));
        assert!(matches!(
            TorchFile::open(b"\x80\x02K\x01.\x80\x02K\x01.\x80\x02K\x01."),
            Err(TorchFileError::NotTorch)
        ));
    }
}
