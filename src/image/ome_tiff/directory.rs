//! The directories of a TIFF: one a page, each a list of tags.

use super::ImageError;

/// What a page says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Page {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) format: Format,
    pub(super) compression: Compression,
    pub(super) predictor: Predictor,
    /// Size of a chunk (rows, columns): a strip is as wide as the page.
    pub(super) chunk: [usize; 2],
    /// Whether chunks are tiles: always whole, where the last strip ends with the page.
    pub(super) tiled: bool,
    /// Where the chunks lie in the file, row by row: offset and length in bytes.
    pub(super) chunks: Vec<[usize; 2]>,
    /// `ImageDescription`.
    pub(super) description: String,
    /// Pixels per unit (Y, X), as the resolution tags say; their unit is the program's own affair.
    pub(super) resolution: Option<[f64; 2]>,
}

impl Page {
    /// Bytes of its pixels.
    pub(super) fn bytes(&self) -> usize {
        self.width * self.height * self.format.bytes()
    }

    /// Bytes of its chunks once they are unpacked; no more than the largest number.
    pub(super) fn unpacked_bytes(&self) -> usize {
        if !self.tiled {
            return self.bytes();
        }
        self.chunk
            .iter()
            .fold(self.chunks.len().saturating_mul(self.format.bytes()), |bytes, &side| bytes.saturating_mul(side))
    }
}

/// The type of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Unsigned(usize),
    Signed(usize),
    Real(usize),
}

impl Format {
    /// Bytes of a pixel.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) | Self::Real(bytes) => bytes,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predictor {
    None,
    /// Differences from the pixel to the left.
    Horizontal,
    /// Differences of bytes, the most significant bytes of a row first.
    Real,
}

/// The bytes of a file and how its numbers are written.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) big_endian: bool,
    big: bool,
}

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

fn unsupported(reason: impl Into<String>) -> ImageError {
    ImageError::Unsupported(reason.into())
}

/// How many times over the directories may use a file's bytes.
const MOST_SHARED: usize = 16;
/// The tags whose whole value a page keeps: places and lengths of chunks, and the description.
const KEPT: [u16; 5] = [270, 273, 279, 324, 325];

/// A tag's value: where it lies.
#[derive(Clone, Copy)]
struct Value<'a> {
    kind: u16,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> File<'a> {
    /// Reads the header; gives the file and where its first directory lies.
    pub(super) fn open(bytes: &'a [u8]) -> Result<(Self, usize), ImageError> {
        let big_endian = match bytes.get(..2) {
            Some(b"II") => false,
            Some(b"MM") => true,
            _ => return Err(damaged("it does not begin like one")),
        };
        let mut file = Self { bytes, big_endian, big: false };
        match file.number(2, 2)? {
            42 => Ok((file, file.number(4, 4)?)),
            43 if file.number(4, 2)? == 8 => {
                file.big = true;
                Ok((file, file.number(8, 8)?))
            }
            version => Err(damaged(format!("it is of version {version}, not 42 or 43"))),
        }
    }

    /// The whole number of `length` bytes at `offset`.
    fn number(&self, offset: usize, length: usize) -> Result<usize, ImageError> {
        let bytes = self.slice(offset, length)?;
        Ok(self.unsigned(bytes) as usize)
    }

    fn unsigned(&self, bytes: &[u8]) -> u64 {
        let join = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        if self.big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    /// The bytes at `offset`, never beyond the file.
    pub(super) fn slice(&self, offset: usize, length: usize) -> Result<&'a [u8], ImageError> {
        offset
            .checked_add(length)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or_else(|| damaged(format!("it ends before byte {}", offset.saturating_add(length))))
    }

    /// All pages; `None` for a thumbnail or a mask beside the pages proper.
    pub(super) fn pages(&self, first: usize) -> Result<Vec<Option<Page>>, ImageError> {
        let mut pages = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        // Directories may share what they point at, but not so that a small file becomes many large pages.
        let most = self.bytes.len().saturating_mul(MOST_SHARED);
        let mut taken = 0_usize;
        let mut at = first;
        while at != 0 {
            if !seen.insert(at) {
                return Err(damaged("its directories go round in a circle"));
            }
            let (page, next, length) = self.page(at).map_err(|error| match error {
                ImageError::Damaged(reason) => damaged(format!("page {}: {reason}", seen.len() - 1)),
                ImageError::Unsupported(reason) => unsupported(format!("page {}: {reason}", seen.len() - 1)),
                error => error,
            })?;
            taken = taken.saturating_add(length);
            if taken > most {
                return Err(damaged(format!("its {} first directories say more than it holds", seen.len())));
            }
            pages.push(page);
            at = next;
        }
        Ok(pages)
    }

    /// A page, where the next one lies, and the bytes that its directory and the lists and texts in it take.
    fn page(&self, at: usize) -> Result<(Option<Page>, usize, usize), ImageError> {
        let (count_length, entry_length, offset_length) = if self.big { (8, 20, 8) } else { (2, 12, 4) };
        let count = self.number(at, count_length)?;
        let entries = self.slice(at + count_length, count.checked_mul(entry_length).unwrap_or(usize::MAX))?;
        let next = self.number(at + count_length + entries.len(), offset_length)?;
        let mut tags = std::collections::BTreeMap::new();
        let mut taken = entries.len();
        for entry in entries.chunks_exact(entry_length) {
            let (head, inline) = entry.split_at(4 + offset_length);
            let kind = self.unsigned(&head[2..4]) as u16;
            let size = match kind {
                1 | 2 | 6 | 7 => 1,
                3 | 8 => 2,
                4 | 9 | 11 | 13 => 4,
                5 | 10 | 12 | 16..=18 => 8,
                // Tags of unknown types are to be skipped, says the standard.
                _ => continue,
            };
            let count = self.unsigned(&head[4..]) as usize;
            let length = count.checked_mul(size).ok_or_else(|| damaged("a tag is larger than any file"))?;
            let bytes = if length <= inline.len() {
                Ok(&inline[..length])
            } else {
                self.slice(self.unsigned(inline) as usize, length)
            };
            let tag = self.unsigned(&head[..2]) as u16;
            if KEPT.contains(&tag) {
                taken = taken.saturating_add(length);
            }
            tags.insert(tag, bytes.map(|bytes| Value { kind, count, bytes }));
        }
        let tags = Tags { file: *self, tags };
        Ok((tags.page()?, next, taken))
    }
}

struct Tags<'a> {
    file: File<'a>,
    /// A tag that cannot be read only matters when it is asked for.
    tags: std::collections::BTreeMap<u16, Result<Value<'a>, ImageError>>,
}

impl<'a> Tags<'a> {
    fn value(&self, tag: u16) -> Result<Option<Value<'a>>, ImageError> {
        match self.tags.get(&tag) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(*value)),
            Some(Err(error)) => Err(damaged(format!("tag {tag}: {error}"))),
        }
    }

    /// The whole numbers of a tag.
    fn numbers(&self, tag: u16) -> Result<Option<Vec<usize>>, ImageError> {
        self.first_numbers(tag, usize::MAX)
    }

    fn first_numbers(&self, tag: u16, most: usize) -> Result<Option<Vec<usize>>, ImageError> {
        let Some(value) = self.value(tag)? else { return Ok(None) };
        let size = match value.kind {
            1 | 7 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            kind => return Err(damaged(format!("tag {tag} is of type {kind}, not a whole number"))),
        };
        Ok(Some(value.bytes.chunks_exact(size).take(most).map(|bytes| self.file.unsigned(bytes) as usize).collect()))
    }

    fn number(&self, tag: u16) -> Result<Option<usize>, ImageError> {
        Ok(self.first_numbers(tag, 1)?.and_then(|numbers| numbers.first().copied()))
    }

    fn rational(&self, tag: u16) -> Option<f64> {
        let value = self.value(tag).ok()??;
        let numbers: Vec<u64> = value.bytes.chunks_exact(4).map(|bytes| self.file.unsigned(bytes)).collect();
        (value.kind == 5 && numbers.len() == 2 && numbers[0] > 0 && numbers[1] > 0)
            .then(|| numbers[0] as f64 / numbers[1] as f64)
    }

    fn text(&self, tag: u16) -> Result<String, ImageError> {
        let Some(value) = self.value(tag)? else { return Ok(String::new()) };
        debug_assert!(value.count >= value.bytes.len() || value.kind != 2);
        let end = value.bytes.iter().position(|&byte| byte == 0).unwrap_or(value.bytes.len());
        // Old programs write Latin-1.
        Ok(String::from_utf8(value.bytes[..end].to_vec())
            .unwrap_or_else(|_| value.bytes[..end].iter().map(|&byte| char::from(byte)).collect()))
    }

    fn page(&self) -> Result<Option<Page>, ImageError> {
        let needed = |tag, name| self.number(tag)?.ok_or_else(|| damaged(format!("it has no {name}")));
        if self.number(254)?.unwrap_or(0) & 0b101 != 0 {
            return Ok(None);
        }
        let (width, height) = (needed(256, "width")?, needed(257, "height")?);
        // More than this is no plane of a field, and sizes in bytes must not overflow.
        if !(1..=1 << 20).contains(&width) || !(1..=1 << 20).contains(&height) {
            return Err(damaged(format!("a plane of {height} × {width} pixels")));
        }
        self.refuse_what_would_be_read_wrong()?;
        let bits = self.number(258)?.unwrap_or(1);
        let format = match (self.number(339)?.unwrap_or(1), bits) {
            (1, 8 | 16 | 32 | 64) => Format::Unsigned(bits / 8),
            (2, 8 | 16 | 32 | 64) => Format::Signed(bits / 8),
            (3, 32 | 64) => Format::Real(bits / 8),
            (kind, bits) => {
                let kind =
                    ["", "whole numbers", "signed numbers", "real numbers"].get(kind).unwrap_or(&"an unknown kind");
                return Err(unsupported(format!("pixels of {bits} bit, {kind}")));
            }
        };
        let compression = match self.number(259)?.unwrap_or(1) {
            1 => Compression::None,
            5 => Compression::Lzw,
            8 | 32946 => Compression::Deflate,
            32773 => Compression::PackBits,
            50000 => Compression::Zstd,
            other => {
                let name = match other {
                    2..=4 => "fax",
                    6 | 7 => "JPEG",
                    33003 | 33005 | 34712 => "JPEG 2000",
                    34887 => "LERC",
                    34925 => "LZMA",
                    50001 => "WebP",
                    50002 => "JPEG XL",
                    _ => "unknown",
                };
                return Err(unsupported(format!(
                    "compression {other} ({name}); save it with none, LZW, deflate, PackBits or ZSTD"
                )));
            }
        };
        let predictor = match (self.number(317)?.unwrap_or(1), format) {
            (1, _) => Predictor::None,
            (2, Format::Unsigned(_) | Format::Signed(_)) => Predictor::Horizontal,
            (3, Format::Real(_)) => Predictor::Real,
            (other, _) => return Err(unsupported(format!("predictor {other} with this kind of pixels"))),
        };
        let (tiled, chunk, offsets, lengths) = match (self.number(322)?, self.number(323)?) {
            (Some(columns), Some(rows)) => (true, [rows, columns], self.numbers(324)?, self.numbers(325)?),
            _ => {
                let rows = self.number(278)?.unwrap_or(height).min(height);
                (false, [rows, width], self.numbers(273)?, self.numbers(279)?)
            }
        };
        if !(1..=1 << 20).contains(&chunk[0]) || !(1..=1 << 20).contains(&chunk[1]) {
            return Err(damaged(format!("chunks of {} × {} pixels", chunk[0], chunk[1])));
        }
        let (Some(offsets), Some(lengths)) = (offsets, lengths) else {
            return Err(damaged("it does not say where its pixels are"));
        };
        let count = height.div_ceil(chunk[0]) * width.div_ceil(chunk[1]);
        if offsets.len() != count || lengths.len() != count {
            return Err(damaged(format!("{} chunks where its size needs {count}", offsets.len().min(lengths.len()))));
        }
        let chunks: Vec<[usize; 2]> =
            offsets.into_iter().zip(lengths).map(|(offset, length)| [offset, length]).collect();
        for &[offset, length] in &chunks {
            self.file.slice(offset, length)?;
        }
        let resolution = self.rational(283).zip(self.rational(282)).map(|(y, x)| [y, x]);
        let description = self.text(270)?;
        Ok(Some(Page { width, height, format, compression, predictor, chunk, tiled, chunks, description, resolution }))
    }

    fn refuse_what_would_be_read_wrong(&self) -> Result<(), ImageError> {
        let samples = self.number(277)?.unwrap_or(1);
        if samples != 1 {
            return Err(unsupported(format!(
                "{samples} samples a pixel (a colour image); save each channel as pages of its own"
            )));
        }
        if self.number(262)? == Some(3) {
            return Err(unsupported("colours by a palette; save it as grey values or labels"));
        }
        if self.number(262)? == Some(0) {
            return Err(unsupported("white is zero; save it with black as zero"));
        }
        if self.number(266)?.unwrap_or(1) != 1 {
            return Err(unsupported("bits in reverse order"));
        }
        for tag in [32997, 32998] {
            if self.number(tag)?.unwrap_or(1) > 1 {
                return Err(unsupported("volumetric pages (several planes in one page); save a page a plane"));
            }
        }
        Ok(())
    }
}
