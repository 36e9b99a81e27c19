//! How the chunks of Zarr arrays are packed: the codecs of both versions, Blosc among them.

use std::io::Read;

use serde_json::Value;

use super::super::super::ImageError;

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

fn unsupported(reason: impl Into<String>) -> ImageError {
    ImageError::Unsupported(reason.into())
}

fn broken(codec: &str) -> ImageError {
    damaged(format!("a chunk is too short or broken ({codec})"))
}

/// One step from a chunk's bytes in the file to its pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Codec {
    /// The byte order of numbers.
    Bytes {
        big_endian: bool,
    },
    Gzip,
    Zlib,
    Zstd,
    Lz4,
    Blosc,
    /// Four bytes of checksum at the end.
    Crc32c,
    /// A chunk of chunks, with an index of where each lies.
    Sharding {
        chunk: Vec<usize>,
        codecs: Vec<Codec>,
        index_codecs: Vec<Codec>,
        index_at_end: bool,
    },
}

/// The codecs of a chunk in version 3, in the order of writing.
pub(super) fn of_version_3(list: &Value) -> Result<Vec<Codec>, ImageError> {
    let list = list.as_array().ok_or_else(|| damaged("its array has no codecs"))?;
    let mut codecs = Vec::new();
    for codec in list {
        let name = codec["name"].as_str().or(codec.as_str()).unwrap_or_default();
        let settings = &codec["configuration"];
        codecs.push(match name {
            "bytes" | "endian" => Codec::Bytes { big_endian: settings["endian"].as_str() == Some("big") },
            "gzip" => Codec::Gzip,
            "zlib" | "numcodecs.zlib" => Codec::Zlib,
            "zstd" | "numcodecs.zstd" => Codec::Zstd,
            "blosc" => Codec::Blosc,
            "crc32c" => Codec::Crc32c,
            "sharding_indexed" => {
                let chunk = sizes(&settings["chunk_shape"]).ok_or_else(|| damaged("its shards have no chunk shape"))?;
                let at = settings["index_location"].as_str().unwrap_or("end");
                Codec::Sharding {
                    chunk,
                    codecs: of_version_3(&settings["codecs"])?,
                    index_codecs: of_version_3(&settings["index_codecs"])?,
                    index_at_end: at != "start",
                }
            }
            "transpose" => {
                let order = sizes(&settings["order"]).unwrap_or_default();
                if order.iter().copied().eq(0..order.len()) && !order.is_empty() {
                    continue;
                }
                return Err(unsupported("a Zarr array with its axes transposed; save it without"));
            }
            other => {
                return Err(unsupported(format!("a Zarr array packed by `{other}`; save it with zstd, blosc or gzip")));
            }
        });
    }
    Ok(codecs)
}

/// The compressor of version 2.
pub(super) fn of_version_2(compressor: &Value) -> Result<Option<Codec>, ImageError> {
    match compressor["id"].as_str() {
        None if compressor.is_null() => Ok(None),
        Some("zlib") => Ok(Some(Codec::Zlib)),
        Some("gzip") => Ok(Some(Codec::Gzip)),
        Some("zstd") => Ok(Some(Codec::Zstd)),
        Some("lz4") => Ok(Some(Codec::Lz4)),
        Some("blosc") => Ok(Some(Codec::Blosc)),
        other => {
            let other = other.unwrap_or("something unknown");
            Err(unsupported(format!("a Zarr array packed by `{other}`; save it with zstd, blosc or gzip")))
        }
    }
}

/// A list of whole numbers.
pub(super) fn sizes(list: &Value) -> Option<Vec<usize>> {
    list.as_array()?.iter().map(|size| size.as_u64().map(|size| size as usize)).collect()
}

/// Unpacks what steps that turn bytes to bytes did, up to so many bytes.
pub(super) fn unpack(bytes: Vec<u8>, codecs: &[Codec], most: usize) -> Result<Vec<u8>, ImageError> {
    let mut bytes = bytes;
    for codec in codecs.iter().rev() {
        let limited = |reader: &mut dyn Read, name: &str| {
            let mut out = Vec::new();
            reader.take(most as u64 + 1).read_to_end(&mut out).map_err(|_| broken(name))?;
            if out.len() > most { Err(damaged("a chunk is larger than its shape")) } else { Ok(out) }
        };
        bytes = match codec {
            Codec::Bytes { .. } | Codec::Sharding { .. } => bytes,
            // Several streams one after the other are one.
            Codec::Gzip => limited(&mut flate2::read::MultiGzDecoder::new(bytes.as_slice()), "gzip")?,
            Codec::Zlib => limited(&mut flate2::read::ZlibDecoder::new(bytes.as_slice()), "zlib")?,
            Codec::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(bytes.as_slice());
                limited(&mut decoder.map_err(|_| broken("zstd"))?, "zstd")?
            }
            Codec::Lz4 => {
                let (length, packed) = bytes.split_at_checked(4).ok_or_else(|| broken("lz4"))?;
                let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
                lz4(packed, length.min(most))?
            }
            Codec::Blosc => blosc(&bytes, most)?,
            Codec::Crc32c => {
                let length = bytes.len().checked_sub(4).ok_or_else(|| broken("crc32c"))?;
                let sum = u32::from_le_bytes(bytes[length..].try_into().expect("four bytes"));
                if crc32c(&bytes[..length]) != sum {
                    return Err(damaged("a chunk does not have its checksum (crc32c)"));
                }
                bytes.truncate(length);
                bytes
            }
        };
    }
    Ok(bytes)
}

fn lz4(packed: &[u8], length: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0; length];
    match lz4_flex::block::decompress_into(packed, &mut out) {
        Ok(count) if count == length => Ok(out),
        _ => Err(broken("lz4")),
    }
}

/// CRC-32C (Castagnoli), bit by bit: chunks' indices are short, and a checksum of pixels is rare.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

/// Unpacks a Blosc (version 1) buffer. The form: c-blosc's `README_CHUNK_FORMAT.rst`.
fn blosc(bytes: &[u8], most: usize) -> Result<Vec<u8>, ImageError> {
    let short = || broken("blosc");
    let number = |at: usize| {
        let bytes = at.checked_add(4).and_then(|end| bytes.get(at..end)).ok_or_else(short)?;
        Ok::<_, ImageError>(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    };
    let head = bytes.get(..16).ok_or_else(short)?;
    let (flags, size) = (head[2], usize::from(head[3]).max(1));
    let (length, block, packed) = (number(4)?, number(8)?, number(12)?);
    if length > most || packed > bytes.len() {
        return Err(short());
    }
    if flags & 2 != 0 {
        return Ok(bytes.get(16..16 + length).ok_or_else(short)?.to_vec());
    }
    if block == 0 || length == 0 {
        return if length == 0 { Ok(Vec::new()) } else { Err(short()) };
    }
    let mut out = Vec::with_capacity(length);
    for index in 0..length.div_ceil(block) {
        let own = block.min(length - index * block);
        // Whole blocks of small numbers are packed byte by byte of the number, unless a flag says no.
        let splits = if flags & 0x10 == 0 && size <= 16 && block / size >= 128 && own == block && own % size == 0 {
            size
        } else {
            1
        };
        let mut at = number(16 + 4 * index)?;
        let mut unpacked = Vec::with_capacity(own);
        for _ in 0..splits {
            let count = number(at)?;
            let part = own / splits;
            let source = (at + 4).checked_add(count).and_then(|end| bytes.get(at + 4..end)).ok_or_else(short)?;
            at += 4 + count;
            if count == part {
                unpacked.extend_from_slice(source);
                continue;
            }
            unpacked.extend(match flags >> 5 {
                1 => lz4(source, part)?,
                3 => exactly(&mut flate2::read::ZlibDecoder::new(source), part)?,
                4 => exactly(&mut zstd::stream::read::Decoder::new(source).map_err(|_| short())?, part)?,
                0 => return Err(unsupported("a Zarr array packed by `blosclz`; save it with zstd, blosc-lz4 or gzip")),
                _ => return Err(unsupported("a Zarr array packed by `snappy`; save it with zstd, blosc-lz4 or gzip")),
            });
        }
        if flags & 4 != 0 {
            unshuffle_bits(&unpacked, size, &mut out);
        } else if flags & 1 != 0 && size > 1 {
            unshuffle(&unpacked, size, &mut out);
        } else {
            out.extend(unpacked);
        }
    }
    Ok(out)
}

fn exactly(reader: &mut dyn Read, length: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0; length];
    reader.read_exact(&mut out).map_err(|_| broken("blosc"))?;
    Ok(out)
}

/// Numbers out of their first bytes, then their second bytes, …; what is no whole number stands at the end.
fn unshuffle(bytes: &[u8], size: usize, out: &mut Vec<u8>) {
    let count = bytes.len() / size;
    for index in 0..count {
        out.extend((0..size).map(|byte| bytes[byte * count + index]));
    }
    out.extend_from_slice(&bytes[count * size..]);
}

/// Numbers out of planes of their bits. Blosc leaves a block as it is whose count of numbers is no multiple of eight; what is no whole
/// number stands at the end.
fn unshuffle_bits(bytes: &[u8], size: usize, out: &mut Vec<u8>) {
    let count = bytes.len() / size;
    if count % 8 != 0 {
        out.extend_from_slice(bytes);
        return;
    }
    let row = count / 8;
    for index in 0..count {
        for byte in 0..size {
            let bit = |bit: usize| ((bytes[(byte * 8 + bit) * row + index / 8] >> (index % 8)) & 1) << bit;
            out.push((0..8).map(bit).fold(0, |all, bit| all | bit));
        }
    }
    out.extend_from_slice(&bytes[count * size..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_shuffles() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let numbers: Vec<u8> = (0..32).collect();
        // 16 numbers of two bytes: first bytes, then second bytes, and one byte that is left.
        let mut shuffled: Vec<u8> = (0..16).map(|i| 2 * i).chain((0..16).map(|i| 2 * i + 1)).collect();
        shuffled.push(99);
        let mut out = Vec::new();
        unshuffle(&shuffled, 2, &mut out);
        assert_eq!(out, [numbers.as_slice(), &[99]].concat());
        let mut planes = vec![0_u8; 32];
        for (at, &byte) in numbers.iter().enumerate() {
            let (number, inside) = (at / 2, at % 2);
            for bit in 0..8 {
                planes[(inside * 8 + bit) * 2 + number / 8] |= ((byte >> bit) & 1) << (number % 8);
            }
        }
        let mut out = Vec::new();
        unshuffle_bits(&planes, 2, &mut out);
        assert_eq!(out, numbers);
    }
}
