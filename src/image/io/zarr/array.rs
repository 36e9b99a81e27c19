//! One array of a Zarr hierarchy: its shape and type, and its chunks put together.

use rayon::prelude::*;
use serde_json::Value;

use super::{
    super::super::{ImageError, Pixels},
    archive::Archive,
    codec::{self, Codec, sizes},
};

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

fn unsupported(reason: impl Into<String>) -> ImageError {
    ImageError::Unsupported(reason.into())
}

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Unsigned,
    Signed,
    Real,
}

/// What the metadata say of an array.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    chunk: Vec<usize>,
    kind: Kind,
    /// Bytes of a number.
    size: usize,
    big_endian: bool,
    fill: f64,
    codecs: Vec<Codec>,
    /// Where chunks lie: the array's folder, what stands before their numbers and between them.
    folder: String,
    prefix: &'static str,
    separator: char,
}

/// The most numbers an array may hold.
const MOST: usize = 1 << 36;

impl Array {
    /// Reads the metadata of the array in a folder.
    pub(super) fn open(archive: &mut Archive, folder: &str) -> Result<Self, ImageError> {
        let array = if let Some(text) = archive.json(&format!("{folder}zarr.json"))? {
            Self::version_3(&text, folder)?
        } else if let Some(text) = archive.json(&format!("{folder}.zarray"))? {
            Self::version_2(&text, folder)?
        } else {
            return Err(damaged(format!("there is no array `{}`", folder.trim_end_matches('/'))));
        };
        let product = |sizes: &[usize]| {
            let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
            product.filter(|product| (1..=MOST).contains(product))
        };
        if array.shape.len() != array.chunk.len() || product(&array.shape).is_none() || product(&array.chunk).is_none()
        {
            return Err(damaged(format!("an array of shape {:?} in chunks of {:?}", array.shape, array.chunk)));
        }
        Ok(array)
    }

    fn version_2(text: &Value, folder: &str) -> Result<Self, ImageError> {
        let list = |key: &str| sizes(&text[key]).ok_or_else(|| damaged(format!("its array has no `{key}`")));
        if text["order"].as_str().is_some_and(|order| order != "C") {
            return Err(unsupported("a Zarr array in Fortran's order; save it in C's"));
        }
        if !text["filters"].is_null() && text["filters"].as_array().is_none_or(|filters| !filters.is_empty()) {
            return Err(unsupported("a Zarr array with filters; save it without"));
        }
        let dtype = text["dtype"].as_str().unwrap_or_default();
        let (order, rest) = dtype.split_at_checked(1).unwrap_or_default();
        let (letter, bytes) = rest.split_at_checked(1).unwrap_or_default();
        let kind = match letter {
            "u" => Kind::Unsigned,
            "i" => Kind::Signed,
            "f" => Kind::Real,
            _ => return Err(unsupported(format!("a Zarr array of `{dtype}`"))),
        };
        Ok(Self {
            shape: list("shape")?,
            chunk: list("chunks")?,
            kind,
            size: number_size(bytes.parse().unwrap_or(0), kind)?,
            big_endian: order == ">",
            fill: fill(&text["fill_value"]),
            codecs: codec::of_version_2(&text["compressor"])?.into_iter().collect(),
            folder: folder.to_owned(),
            prefix: "",
            separator: text["dimension_separator"].as_str().and_then(|text| text.chars().next()).unwrap_or('.'),
        })
    }

    fn version_3(text: &Value, folder: &str) -> Result<Self, ImageError> {
        if text["node_type"].as_str() != Some("array") {
            return Err(damaged(format!("`{}` is no array", folder.trim_end_matches('/'))));
        }
        let dtype = text["data_type"].as_str().unwrap_or_default();
        let kinds = [("uint", Kind::Unsigned), ("int", Kind::Signed), ("float", Kind::Real)];
        let found =
            kinds.iter().find_map(|(name, kind)| Some((*kind, dtype.strip_prefix(name)?.parse::<usize>().ok()? / 8)));
        let (kind, bytes) = found.ok_or_else(|| unsupported(format!("a Zarr array of `{dtype}`")))?;
        let grid = &text["chunk_grid"];
        if grid["name"].as_str() != Some("regular") {
            return Err(unsupported("a Zarr array whose chunks are not all of one shape"));
        }
        let codecs = codec::of_version_3(&text["codecs"])?;
        let encoding = &text["chunk_key_encoding"];
        let version_2 = encoding["name"].as_str() == Some("v2");
        let separator = encoding["configuration"]["separator"].as_str().and_then(|text| text.chars().next());
        Ok(Self {
            shape: sizes(&text["shape"]).ok_or_else(|| damaged("its array has no shape"))?,
            chunk: sizes(&grid["configuration"]["chunk_shape"])
                .ok_or_else(|| damaged("its array has no chunk shape"))?,
            kind,
            size: number_size(bytes, kind)?,
            big_endian: codecs.contains(&Codec::Bytes { big_endian: true }),
            fill: fill(&text["fill_value"]),
            codecs,
            folder: folder.to_owned(),
            prefix: if version_2 { "" } else { "c" },
            separator: separator.unwrap_or(if version_2 { '.' } else { '/' }),
        })
    }

    /// The whole array, in C's order. Of the axes in `fixed` only one position.
    pub(super) fn read(
        &self,
        archive: &mut Archive,
        fixed: &[Option<usize>],
    ) -> Result<(Vec<usize>, Pixels), ImageError> {
        let low: Vec<usize> = fixed.iter().map(|at| at.unwrap_or(0)).collect();
        let shape: Vec<usize> = fixed.iter().zip(&self.shape).map(|(at, &size)| at.map_or(size, |_| 1)).collect();
        let count: usize = shape.iter().product();
        archive.check_room(count.saturating_mul(self.size))?;
        let wanted: Vec<Vec<usize>> = grid(&self.ranges(&low, &shape, &self.chunk));
        let mut packed = Vec::new();
        for at in wanted {
            let numbers: Vec<String> = at.iter().map(ToString::to_string).collect();
            let mut name = self.folder.clone() + self.prefix;
            for (index, number) in numbers.iter().enumerate() {
                if index > 0 || !self.prefix.is_empty() {
                    name.push(self.separator);
                }
                name.push_str(number);
            }
            if let Some(bytes) = archive.read(&name)? {
                packed.push((at, bytes));
            }
        }
        let unpacked: Vec<Result<Pieces, ImageError>> =
            packed.into_par_iter().map(|(at, bytes)| self.unpack(at, bytes, &low, &shape)).collect();
        let mut bytes = self.filled(count);
        for pieces in unpacked {
            for (at, chunk, data) in pieces? {
                self.place(&mut bytes, (&low, &shape), &at, &chunk, &data)?;
            }
        }
        Ok((shape, self.pixels(&bytes)?))
    }

    /// The chunks that hold the wanted part, on each axis.
    #[expect(clippy::unused_self, reason = "it belongs to the reading of an array")]
    fn ranges(&self, low: &[usize], shape: &[usize], chunk: &[usize]) -> Vec<std::ops::Range<usize>> {
        (0..low.len()).map(|axis| low[axis] / chunk[axis]..(low[axis] + shape[axis]).div_ceil(chunk[axis])).collect()
    }

    /// The numbers of one chunk, or of the chunks within it, each with its place in the array and its shape.
    fn unpack(&self, at: Vec<usize>, bytes: Vec<u8>, low: &[usize], shape: &[usize]) -> Result<Pieces, ImageError> {
        let most = self.chunk.iter().product::<usize>().saturating_mul(self.size);
        let start: Vec<usize> = at.iter().zip(&self.chunk).map(|(&at, &chunk)| at * chunk).collect();
        let Some(shard) = self.codecs.iter().position(|codec| matches!(codec, Codec::Sharding { .. })) else {
            return Ok(vec![(start, self.chunk.clone(), codec::unpack(bytes, &self.codecs, most)?)]);
        };
        let Codec::Sharding { chunk, codecs, index_codecs, index_at_end } = &self.codecs[shard] else {
            unreachable!("it was looked for")
        };
        let fits = chunk.len() == self.chunk.len()
            && chunk.iter().zip(&self.chunk).all(|(&inner, &outer)| inner > 0 && outer % inner == 0);
        if !fits {
            return Err(damaged(format!("shards of {:?} in chunks of {chunk:?}", self.chunk)));
        }
        let bytes = codec::unpack(bytes, &self.codecs[shard + 1..], usize::MAX >> 1)?;
        let counts: Vec<usize> = chunk.iter().zip(&self.chunk).map(|(&inner, &outer)| outer / inner).collect();
        let plain = counts.iter().product::<usize>() * 16;
        let length = plain + 4 * index_codecs.iter().filter(|codec| **codec == Codec::Crc32c).count();
        let short = || damaged("a shard is shorter than its index");
        let place = if *index_at_end { bytes.len().checked_sub(length).ok_or_else(short)? } else { 0 };
        let index = bytes.get(place..place + length).ok_or_else(short)?.to_vec();
        let index = codec::unpack(index, index_codecs, plain)?;
        let number = |at: usize| u64::from_le_bytes(index[at * 8..at * 8 + 8].try_into().expect("eight bytes"));
        let most = chunk.iter().product::<usize>().saturating_mul(self.size);
        let mut pieces = Vec::new();
        for (entry, at) in grid(&counts.iter().map(|&count| 0..count).collect::<Vec<_>>()).into_iter().enumerate() {
            let inner: Vec<usize> = (0..at.len()).map(|axis| start[axis] + at[axis] * chunk[axis]).collect();
            let outside = (0..inner.len())
                .any(|axis| inner[axis] >= low[axis] + shape[axis] || inner[axis] + chunk[axis] <= low[axis]);
            let (offset, length) = (number(2 * entry), number(2 * entry + 1));
            if outside || (offset, length) == (u64::MAX, u64::MAX) {
                continue;
            }
            let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok()).ok_or_else(short)?;
            let own = bytes.get(offset as usize..end).ok_or_else(short)?.to_vec();
            pieces.push((inner, chunk.clone(), codec::unpack(own, codecs, most)?));
        }
        Ok(pieces)
    }

    /// So many numbers of the value of what was never written.
    fn filled(&self, count: usize) -> Vec<u8> {
        if self.fill == 0.0 {
            return vec![0; count * self.size];
        }
        let one: Vec<u8> = match (self.kind, self.size) {
            (Kind::Real, 4) => (self.fill as f32).to_le_bytes().to_vec(),
            (Kind::Real, _) => self.fill.to_le_bytes().to_vec(),
            (_, size) => (self.fill as i64).to_le_bytes()[..size].to_vec(),
        };
        let one = if self.big_endian { one.into_iter().rev().collect() } else { one };
        one.repeat(count)
    }

    /// Copies the part of a chunk that is wanted to its place.
    fn place(
        &self,
        out: &mut [u8],
        (low, shape): (&[usize], &[usize]),
        start: &[usize],
        chunk: &[usize],
        data: &[u8],
    ) -> Result<(), ImageError> {
        if data.len() < chunk.iter().product::<usize>() * self.size {
            return Err(damaged("a chunk is shorter than its shape"));
        }
        let last = shape.len() - 1;
        let from: Vec<usize> = (0..=last).map(|axis| low[axis].max(start[axis])).collect();
        let to: Vec<usize> = (0..=last).map(|axis| (low[axis] + shape[axis]).min(start[axis] + chunk[axis])).collect();
        if (0..=last).any(|axis| from[axis] >= to[axis]) {
            return Ok(());
        }
        let offset = |at: &[usize], base: &[usize], sizes: &[usize]| {
            (0..at.len()).fold(0, |offset, axis| offset * sizes[axis] + at[axis] - base[axis])
        };
        let rows: Vec<std::ops::Range<usize>> = (0..last).map(|axis| from[axis]..to[axis]).collect();
        let length = (to[last] - from[last]) * self.size;
        for mut row in grid(&rows) {
            row.push(from[last]);
            let (source, target) = (offset(&row, start, chunk) * self.size, offset(&row, low, shape) * self.size);
            out[target..target + length].copy_from_slice(&data[source..source + length]);
        }
        Ok(())
    }

    fn pixels(&self, bytes: &[u8]) -> Result<Pixels, ImageError> {
        macro_rules! numbers {
            ($number:ty) => {
                bytes.chunks_exact(size_of::<$number>()).map(|bytes| {
                    let bytes = bytes.try_into().expect("one number");
                    if self.big_endian { <$number>::from_be_bytes(bytes) } else { <$number>::from_le_bytes(bytes) }
                })
            };
        }
        macro_rules! narrowed {
            ($number:ty, $to:ty) => {
                numbers!($number)
                    .map(|number| {
                        <$to>::try_from(number)
                            .map_err(|_| unsupported(format!("the value {number}: pixels must be 0 to {}", <$to>::MAX)))
                    })
                    .collect::<Result<Vec<$to>, ImageError>>()?
            };
        }
        Ok(match (self.kind, self.size) {
            (Kind::Unsigned, 1) => Pixels::U8(bytes.to_vec()),
            (Kind::Unsigned, 2) => Pixels::U16(numbers!(u16).collect()),
            (Kind::Unsigned, 4) => Pixels::U32(numbers!(u32).collect()),
            (Kind::Unsigned, _) => Pixels::U32(narrowed!(u64, u32)),
            (Kind::Signed, 1) => Pixels::U8(narrowed!(i8, u8)),
            (Kind::Signed, 2) => Pixels::U16(narrowed!(i16, u16)),
            (Kind::Signed, 4) => Pixels::U32(narrowed!(i32, u32)),
            (Kind::Signed, _) => Pixels::U32(narrowed!(i64, u32)),
            (Kind::Real, 4) => Pixels::F32(numbers!(f32).collect()),
            (Kind::Real, _) => Pixels::F32(numbers!(f64).map(|number| number as f32).collect()),
        })
    }
}

/// Parts of an array: where each begins, its shape, its bytes.
type Pieces = Vec<(Vec<usize>, Vec<usize>, Vec<u8>)>;

fn number_size(bytes: usize, kind: Kind) -> Result<usize, ImageError> {
    match (bytes, kind) {
        (1 | 2 | 4 | 8, Kind::Unsigned | Kind::Signed) | (4 | 8, Kind::Real) => Ok(bytes),
        _ => Err(unsupported(format!("a Zarr array of numbers of {} bit", bytes * 8))),
    }
}

/// The value of chunks that were never written.
fn fill(value: &Value) -> f64 {
    match value.as_str() {
        Some("NaN") => f64::NAN,
        Some("Infinity") => f64::INFINITY,
        Some("-Infinity") => f64::NEG_INFINITY,
        _ => value.as_f64().unwrap_or(0.0),
    }
}

/// Every combination of a position on each axis; the last axis changes fastest.
fn grid(ranges: &[std::ops::Range<usize>]) -> Vec<Vec<usize>> {
    ranges.iter().fold(vec![Vec::new()], |prefixes, range| {
        prefixes
            .into_iter()
            .flat_map(|prefix| range.clone().map(move |at| prefix.iter().copied().chain([at]).collect::<Vec<_>>()))
            .collect()
    })
}
