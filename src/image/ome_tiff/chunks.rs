//! The pixels of a page: its chunks unpacked and put together.

use std::io::Read;

use super::{
    ImageError, Pixels,
    directory::{Compression, File, Format, Page, Predictor},
};

/// The pixels of one page.
pub(super) fn plane(file: File, page: &Page) -> Result<Pixels, ImageError> {
    let size = page.format.bytes();
    let [chunk_rows, chunk_columns] = page.chunk;
    let across = page.width.div_ceil(chunk_columns);
    let mut bytes = vec![0_u8; page.bytes()];
    let mut unpacked = Vec::new();
    for (index, &[offset, length]) in page.chunks.iter().enumerate() {
        let (first_row, first_column) = (index / across * chunk_rows, index % across * chunk_columns);
        let rows = chunk_rows.min(page.height - first_row);
        let columns = chunk_columns.min(page.width - first_column);
        let whole_rows = if page.tiled { chunk_rows } else { rows };
        let row_length = chunk_columns * size;
        unpacked.clear();
        unpacked.resize(whole_rows * row_length, 0);
        unpack(file.slice(offset, length)?, page.compression, &mut unpacked)?;
        for row in unpacked.chunks_exact_mut(row_length) {
            undo_prediction(row, page, file.big_endian);
        }
        for (row, source) in unpacked.chunks_exact(row_length).take(rows).enumerate() {
            let to = ((first_row + row) * page.width + first_column) * size;
            bytes[to..to + columns * size].copy_from_slice(&source[..columns * size]);
        }
    }
    to_pixels(&bytes, page.format)
}

/// Fills `out` with what `source` holds.
fn unpack(source: &[u8], compression: Compression, out: &mut [u8]) -> Result<(), ImageError> {
    let short = || ImageError::Damaged("a chunk of pixels is too short or broken".to_owned());
    match compression {
        Compression::None => out.copy_from_slice(source.get(..out.len()).ok_or_else(short)?),
        Compression::Deflate => flate2::read::ZlibDecoder::new(source).read_exact(out).map_err(|_| short())?,
        Compression::Zstd => zstd::stream::read::Decoder::new(source)
            .and_then(|mut decoder| decoder.read_exact(out))
            .map_err(|_| short())?,
        Compression::Lzw => {
            let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
            let (mut from, mut to) = (0, 0);
            while to < out.len() {
                let step = decoder.decode_bytes(&source[from..], &mut out[to..]);
                from += step.consumed_in;
                to += step.consumed_out;
                let stuck = step.consumed_in == 0 && step.consumed_out == 0;
                if to < out.len() && (stuck || !matches!(step.status, Ok(weezl::LzwStatus::Ok))) {
                    return Err(short());
                }
            }
        }
        Compression::PackBits => {
            let (mut from, mut to) = (0, 0);
            while to < out.len() {
                let head = i8::from_ne_bytes([*source.get(from).ok_or_else(short)?]);
                from += 1;
                if head == -128 {
                    continue;
                }
                let count = usize::from(head.unsigned_abs()) + 1;
                // A run may not reach beyond the chunk.
                let run = out.get_mut(to..to + count).ok_or_else(short)?;
                if head >= 0 {
                    run.copy_from_slice(source.get(from..from + count).ok_or_else(short)?);
                    from += count;
                } else {
                    run.fill(*source.get(from).ok_or_else(short)?);
                    from += 1;
                }
                to += count;
            }
        }
    }
    Ok(())
}

/// Turns a row into pixels of this machine's byte order, differences summed up.
fn undo_prediction(row: &mut [u8], page: &Page, big_endian: bool) {
    let size = page.format.bytes();
    if page.predictor == Predictor::Real {
        // The bytes of all pixels by significance, the most significant first, whatever the file's byte order.
        for at in 1..row.len() {
            row[at] = row[at].wrapping_add(row[at - 1]);
        }
        let count = row.len() / size;
        let planes = row.to_vec();
        for (pixel, bytes) in row.chunks_exact_mut(size).enumerate() {
            for (significance, byte) in bytes.iter_mut().rev().enumerate() {
                *byte = planes[(size - 1 - significance) * count + pixel];
            }
            if cfg!(target_endian = "little") {
                bytes.reverse();
            }
        }
        return;
    }
    if size > 1 && big_endian != cfg!(target_endian = "big") {
        row.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if page.predictor == Predictor::Horizontal {
        macro_rules! sum_up {
            ($number:ty) => {{
                let mut sum: $number = 0;
                for bytes in row.chunks_exact_mut(size) {
                    sum = sum.wrapping_add(<$number>::from_ne_bytes((&*bytes).try_into().expect("one pixel")));
                    bytes.copy_from_slice(&sum.to_ne_bytes());
                }
            }};
        }
        match size {
            1 => sum_up!(u8),
            2 => sum_up!(u16),
            4 => sum_up!(u32),
            _ => sum_up!(u64),
        }
    }
}

/// Pixels out of bytes in this machine's order. Signed and long numbers become the shortest unsigned type that always holds their
/// absolute range, 64 bit real numbers become 32 bit.
fn to_pixels(bytes: &[u8], format: Format) -> Result<Pixels, ImageError> {
    macro_rules! numbers {
        ($number:ty) => {
            bytes.chunks_exact(size_of::<$number>()).map(|b| <$number>::from_ne_bytes(b.try_into().expect("one pixel")))
        };
    }
    macro_rules! narrowed {
        ($number:ty, $to:ty) => {
            numbers!($number)
                .map(|number| {
                    <$to>::try_from(number).map_err(|_| {
                        ImageError::Unsupported(format!("the value {number}: pixels must be 0 to {}", <$to>::MAX))
                    })
                })
                .collect::<Result<Vec<$to>, ImageError>>()?
        };
    }
    Ok(match format {
        Format::Unsigned(1) => Pixels::U8(bytes.to_vec()),
        Format::Unsigned(2) => Pixels::U16(numbers!(u16).collect()),
        Format::Unsigned(4) => Pixels::U32(numbers!(u32).collect()),
        Format::Unsigned(_) => Pixels::U32(narrowed!(u64, u32)),
        Format::Signed(1) => Pixels::U8(narrowed!(i8, u8)),
        Format::Signed(2) => Pixels::U16(narrowed!(i16, u16)),
        Format::Signed(4) => Pixels::U32(narrowed!(i32, u32)),
        Format::Signed(_) => Pixels::U32(narrowed!(i64, u32)),
        Format::Real(4) => Pixels::F32(numbers!(f32).collect()),
        Format::Real(_) => Pixels::F32(numbers!(f64).map(|number| number as f32).collect()),
    })
}
