//! The pixels of pages, by the `tiff` crate: one decoder per plane, planes in parallel.
//!
//! A decoder never sees the file. It is given a directory made of what was checked in [`super::page`], and behind it the chunks, each
//! in a place of its own that ends where the chunk ends. So a tag that was not checked cannot change a pixel, a chunk that is too
//! short does not run on into its neighbour, planes without a directory of their own (ImageJ's large stacks, MetaMorph's) are read
//! like others, and no chain of directories is walked.

use std::io::{self, Read, Seek, SeekFrom};

use rayon::prelude::*;
use tiff::decoder::{Decoder, DecodingBuffer, Limits};

use super::{
    super::super::{ImageError, Pixels},
    head::head,
    page::{File, Format, Page, from_crate},
};

/// Where chunk `i` begins, in units of this: `i + 1`. The directory lies before all of them.
const PLACE: u64 = 1 << 44;

/// A directory and its chunks, each in a place of its own.
struct Chunks<'a> {
    head: Vec<u8>,
    file: File<'a>,
    chunks: &'a [[usize; 2]],
    position: u64,
}

impl Read for Chunks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (place, at) = ((self.position / PLACE) as usize, (self.position % PLACE) as usize);
        let source = match place.checked_sub(1).map(|index| self.chunks.get(index)) {
            None => self.head.as_slice(),
            Some(Some(&[offset, length])) => self.file.bytes.get(offset..offset + length).unwrap_or_default(),
            Some(None) => &[],
        };
        let rest = source.get(at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Chunks<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(position) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.position = position;
        Ok(position)
    }
}

/// Unpacks one page into `out`, in this machine's byte order.
fn plane(file: File, page: &Page, mut out: DecodingBuffer) -> Result<(), ImageError> {
    let format = match page.format {
        Format::Unsigned(_) => 1,
        Format::Signed(_) => 2,
        Format::Real(_) => 3,
    };
    let one = |tag: u16, value: usize| (tag, vec![value as u64]);
    let mut tags = vec![
        one(256, page.width),
        one(257, page.height),
        one(258, page.format.bytes() * 8),
        one(259, page.compression.into()),
        one(262, 1),
        one(277, 1),
        one(317, page.predictor.into()),
        one(339, format),
    ];
    let places = (1..=page.chunks.len() as u64).map(|place| place * PLACE).collect();
    let lengths = page.chunks.iter().map(|chunk| chunk[1] as u64).collect();
    let [rows, columns] = page.chunk;
    if page.tiled {
        tags.extend([one(322, columns), one(323, rows), (324, places), (325, lengths)]);
    } else {
        tags.extend([(273, places), one(278, rows), (279, lengths)]);
    }
    tags.sort_unstable_by_key(|(tag, _)| *tag);
    let chunks = Chunks { head: head(file.big_endian, true, &tags), file, chunks: &page.chunks, position: 0 };
    let mut decoder = Decoder::new(chunks).map_err(from_crate)?.with_limits(Limits::unlimited());
    decoder.read_image_bytes(out.as_bytes_mut()).map_err(|error| match from_crate(error) {
        ImageError::Damaged(_) => ImageError::Damaged("a chunk of pixels is too short or broken".to_owned()),
        error => error,
    })
}

/// Memory that a file may always fill, and how much more for each of its bytes: deflate and LZW shrink at most a thousandfold, ZSTD
/// farther, but not pictures.
pub(super) const ALWAYS: usize = 16 << 20;
pub(super) const PER_BYTE: usize = 2048;
/// Chunks of a page, at most: their places must be told apart.
const MOST_CHUNKS: usize = 1 << 19;

/// The pixels of these pages, one after the other; all of one size and type.
pub(super) fn pixels(file: File, pages: &[&Page]) -> Result<Pixels, ImageError> {
    let Some(first) = pages.first() else { return Err(ImageError::Damaged("it has no plane".to_owned())) };
    if pages.iter().any(|page| page.chunks.len() > MOST_CHUNKS) {
        return Err(ImageError::Unsupported(format!("more than {MOST_CHUNKS} chunks in a page")));
    }
    let limit = file.bytes.len().saturating_mul(PER_BYTE).saturating_add(ALWAYS);
    let total = |bytes: fn(&Page) -> usize| pages.iter().map(|page| bytes(page)).fold(0, usize::saturating_add);
    let bytes = total(Page::bytes);
    // Tiles reach beyond their page, perhaps far, and may share what they point at.
    let unpacked = bytes.max(total(Page::unpacked_bytes));
    if unpacked > limit {
        return Err(ImageError::Damaged(format!(
            "it says {unpacked} bytes of pixels, more than a file of {} bytes can hold",
            file.bytes.len()
        )));
    }
    let size = first.width * first.height;
    macro_rules! read {
        ($number:ty, $buffer:ident) => {{
            let mut all: Vec<$number> = vec![Default::default(); size * pages.len()];
            let planes: Vec<Result<(), ImageError>> = all
                .par_chunks_mut(size)
                .zip(pages)
                .map(|(out, page)| plane(file, page, DecodingBuffer::$buffer(out)))
                .collect();
            planes.into_iter().collect::<Result<(), ImageError>>()?;
            all
        }};
    }
    macro_rules! narrowed {
        ($number:ty, $buffer:ident, $to:ty) => {{
            let narrow = |number: $number| {
                <$to>::try_from(number).map_err(|_| {
                    ImageError::Unsupported(format!("the value {number}: pixels must be 0 to {}", <$to>::MAX))
                })
            };
            read!($number, $buffer).into_iter().map(narrow).collect::<Result<Vec<$to>, ImageError>>()?
        }};
    }
    // Signed and long numbers become the shortest unsigned type that always holds their absolute range.
    Ok(match first.format {
        Format::Unsigned(1) => Pixels::U8(read!(u8, U8)),
        Format::Unsigned(2) => Pixels::U16(read!(u16, U16)),
        Format::Unsigned(4) => Pixels::U32(read!(u32, U32)),
        Format::Unsigned(_) => Pixels::U32(narrowed!(u64, U64, u32)),
        Format::Signed(1) => Pixels::U8(narrowed!(i8, I8, u8)),
        Format::Signed(2) => Pixels::U16(narrowed!(i16, I16, u16)),
        Format::Signed(4) => Pixels::U32(narrowed!(i32, I32, u32)),
        Format::Signed(_) => Pixels::U32(narrowed!(i64, I64, u32)),
        Format::Real(4) => Pixels::F32(read!(f32, F32)),
        // Beyond the range of 32 bit a number becomes infinite, which whoever imports a file looks for.
        Format::Real(_) => Pixels::F32(read!(f64, F64).into_iter().map(|number| number as f32).collect()),
    })
}
