//! The directories of a TIFF, read by the `tiff` crate, and what each says of its page.
//!
//! What the crate would read wrong in silence is refused here by its tag; what it leaves to its callers is checked here: lengths
//! against the file, circles, directories that share what they point at.

use std::{borrow::Cow, collections::BTreeSet, io::Cursor};

use tiff::{
    Directory, TiffError,
    decoder::{Decoder, ifd::Entry},
    tags::{IfdPointer, Tag, Type, ValueBuffer},
};

use super::super::super::ImageError;

/// What a page says of itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Page {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) format: Format,
    /// The number in the tag.
    pub(super) compression: u16,
    pub(super) predictor: u16,
    /// Size of a chunk (rows, columns): a strip is as wide as the page.
    pub(super) chunk: [usize; 2],
    /// Whether chunks are tiles: always whole, where the last strip ends with the page.
    pub(super) tiled: bool,
    /// Where the chunks lie in the file, row by row: offset and length in bytes.
    pub(super) chunks: Vec<[usize; 2]>,
    /// Every `ImageDescription`, in order: Micro-Manager writes two.
    pub(super) descriptions: Vec<String>,
    /// Pixels per unit (Y, X), as the resolution tags say; their unit is the program's own affair.
    pub(super) resolution: Option<[f64; 2]>,
    /// What the pixels' numbers stand for, when it is not brightness itself.
    pub(super) palette: Palette,
    /// Tags of programs of their own.
    pub(super) private: Private,
}

/// What a palette makes of the pixels' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    /// There is none: numbers are brightness.
    None,
    /// Brighter with every number, in one colour: numbers are brightness.
    Ramp,
    /// Any colours: numbers are names.
    Colours,
}

/// Tags that programs of their own write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Private {
    /// Their numbers: all from 32768 on, and Andor's.
    pub(super) tags: Vec<u16>,
    /// What MetaMorph says of a stack.
    pub(super) metamorph: Option<MetaMorph>,
}

/// What MetaMorph says of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetaMorph {
    /// Its planes: the count of `UIC2Tag`.
    pub(super) planes: usize,
    /// They were taken one after the other at one height.
    pub(super) times: bool,
    /// They are of several wavelengths (`UIC3Tag`).
    pub(super) channels: bool,
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

/// The type of a pixel and its bytes.
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

/// The bytes of a file and how its numbers are written.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) big_endian: bool,
    big: bool,
    first: u64,
}

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

fn unsupported(reason: impl Into<String>) -> ImageError {
    ImageError::Unsupported(reason.into())
}

/// An error of the crate, in our words.
pub(super) fn from_crate(error: TiffError) -> ImageError {
    match error {
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            damaged("it ends before its directories or pixels do")
        }
        TiffError::UnsupportedError(error) => unsupported(error.to_string()),
        error => damaged(error.to_string()),
    }
}

/// How many times over the directories may use a file's bytes.
const MOST_SHARED: usize = 16;
/// The tags whose whole value a page keeps: places and lengths of chunks, and the description.
const KEPT: [Tag; 5] =
    [Tag::ImageDescription, Tag::StripOffsets, Tag::StripByteCounts, Tag::TileOffsets, Tag::TileByteCounts];

const IMAGE_DEPTH: Tag = Tag::Unknown(32997);
const TILE_DEPTH: Tag = Tag::Unknown(32998);
const FILL_ORDER: Tag = Tag::FillOrder;
/// `UIC2Tag` and `UIC3Tag`.
const METAMORPH: [Tag; 2] = [Tag::Unknown(33629), Tag::Unknown(33630)];
const ANDOR: u16 = 4869;

impl<'a> File<'a> {
    /// Reads the header.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let big_endian = match bytes.get(..2) {
            Some(b"II") => false,
            Some(b"MM") => true,
            _ => return Err(damaged("it does not begin like a TIFF")),
        };
        let mut file = Self { bytes, big_endian, big: false, first: 0 };
        match file.number(2, 2)? {
            42 => file.first = file.number(4, 4)?,
            43 if file.number(4, 2)? == 8 => {
                file.big = true;
                file.first = file.number(8, 8)?;
            }
            version => return Err(damaged(format!("it is of version {version}, not 42 or 43"))),
        }
        Ok(file)
    }

    fn number(&self, offset: usize, length: usize) -> Result<u64, ImageError> {
        Ok(self.unsigned(self.slice(offset, length)?))
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
    pub(super) fn pages(&self) -> Result<Vec<Option<Page>>, ImageError> {
        let mut tags = Tags::new(*self)?;
        let mut pages = Vec::new();
        let mut seen = BTreeSet::new();
        // Directories may share what they point at, but not so that a small file becomes many large pages.
        let most = self.bytes.len().saturating_mul(MOST_SHARED);
        let mut taken = 0_usize;
        let mut at = self.first;
        while at != 0 {
            if !seen.insert(at) {
                return Err(damaged("its directories go round in a circle"));
            }
            let number = seen.len() - 1;
            let (page, next, length) = tags.read(at).map_err(|error| match error {
                ImageError::Damaged(reason) => damaged(format!("page {number}: {reason}")),
                ImageError::Unsupported(reason) => unsupported(format!("page {number}: {reason}")),
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

    /// What the crate does not tell: entries of types that it does not know, which it skips too few bytes for in a BigTIFF, and
    /// a second description, of which it keeps the last.
    fn entries(&self, at: usize) -> Result<Vec<&'a [u8]>, ImageError> {
        let (count_length, entry_length) = if self.big { (8, 20) } else { (2, 12) };
        let count = self.number(at, count_length)? as usize;
        let entries =
            self.slice(at.saturating_add(count_length), count.checked_mul(entry_length).unwrap_or(usize::MAX))?;
        Ok(entries.chunks_exact(entry_length).collect())
    }
}

/// Bytes of one value.
fn value_bytes(kind: Type) -> usize {
    match kind {
        Type::BYTE | Type::SBYTE | Type::ASCII | Type::UNDEFINED => 1,
        Type::SHORT | Type::SSHORT => 2,
        Type::LONG | Type::SLONG | Type::FLOAT | Type::IFD => 4,
        _ => 8,
    }
}

/// Reads directories, one at a time.
struct Tags<'a> {
    file: File<'a>,
    decoder: Decoder<Cursor<Cow<'a, [u8]>>>,
    directory: Directory,
}

impl<'a> Tags<'a> {
    /// The crate wants a first page that it likes (a photometric interpretation, no palette) before it reads any directory, so it is
    /// opened on a page of one pixel, and then given the file.
    fn new(file: File<'a>) -> Result<Self, ImageError> {
        let pixel = [(256, 1), (257, 1), (262, 1), (273, 0), (279, 1)].map(|(tag, value)| (tag, vec![value]));
        let pixel = super::head::head(file.big_endian, file.big, &pixel);
        let mut decoder = Decoder::new(Cursor::new(Cow::Owned(pixel))).map_err(from_crate)?;
        *decoder.inner() = Cursor::new(Cow::Borrowed(file.bytes));
        Ok(Self { file, decoder, directory: Directory::empty() })
    }

    /// A page, where the next one lies, and the bytes that its directory and the lists and texts in it take.
    fn read(&mut self, at: u64) -> Result<(Option<Page>, u64, usize), ImageError> {
        let entries = self.file.entries(usize::try_from(at).unwrap_or(usize::MAX))?;
        let kind = |entry: &[u8]| self.file.unsigned(&entry[2..4]) as u16;
        if self.file.big && entries.iter().any(|entry| Type::from_u16(kind(entry)).is_none()) {
            return Err(unsupported("a tag of an unknown type in a BigTIFF"));
        }
        self.directory = self.decoder.read_directory(IfdPointer(at)).map_err(from_crate)?;
        let next = self.directory.next().map_or(0, |next| next.0);
        let mut taken = entries.iter().map(|entry| entry.len()).sum::<usize>();
        for tag in KEPT {
            if let Some(entry) = self.directory.get(tag) {
                let length = usize::try_from(entry.count()).unwrap_or(usize::MAX);
                taken = taken.saturating_add(length.saturating_mul(value_bytes(entry.field_type())));
            }
        }
        let descriptions = self.descriptions(&entries)?;
        Ok((self.page(descriptions, &entries)?, next, taken))
    }

    /// The value of an entry, not read when it would reach beyond the file.
    fn value(&mut self, tag: Tag) -> Result<Option<ValueBuffer>, ImageError> {
        let Some(entry) = self.directory.get(tag) else { return Ok(None) };
        let length = usize::try_from(entry.count()).ok().and_then(|n| n.checked_mul(value_bytes(entry.field_type())));
        if length.is_none_or(|length| length > self.file.bytes.len()) {
            return Err(damaged(format!("tag {}: it ends before byte {}", tag.to_u16(), length.unwrap_or(usize::MAX))));
        }
        let mut value = ValueBuffer::empty(Type::BYTE);
        let mut values = self.decoder.read_directory_tags(&self.directory);
        let found = values.find_tag_buf(tag, &mut value).map_err(|error| match from_crate(error) {
            ImageError::Damaged(reason) => damaged(format!("tag {}: {reason}", tag.to_u16())),
            other => other,
        })?;
        Ok(found.map(|_| value))
    }

    /// The whole numbers of a tag.
    fn numbers(&mut self, tag: Tag) -> Result<Option<Vec<usize>>, ImageError> {
        let Some(value) = self.value(tag)? else { return Ok(None) };
        let size = match value.data_type() {
            Type::BYTE | Type::UNDEFINED => 1,
            Type::SHORT => 2,
            Type::LONG | Type::IFD => 4,
            Type::LONG8 | Type::IFD8 => 8,
            kind => {
                return Err(damaged(format!("tag {} is of type {}, not a whole number", tag.to_u16(), kind.to_u16())));
            }
        };
        Ok(Some(value.as_bytes().chunks_exact(size).map(|bytes| self.file.unsigned(bytes) as usize).collect()))
    }

    fn number(&mut self, tag: Tag) -> Result<Option<usize>, ImageError> {
        Ok(self.numbers(tag)?.and_then(|numbers| numbers.first().copied()))
    }

    fn rational(&mut self, tag: Tag) -> Option<f64> {
        let value = self.value(tag).ok()??;
        let numbers: Vec<u64> = value.as_bytes().chunks_exact(4).map(|bytes| self.file.unsigned(bytes)).collect();
        (value.data_type() == Type::RATIONAL && numbers.len() == 2 && numbers[0] > 0 && numbers[1] > 0)
            .then(|| numbers[0] as f64 / numbers[1] as f64)
    }

    /// Every description of the directory. The crate keeps the last one; the others are put into directories of their own.
    fn descriptions(&mut self, entries: &[&[u8]]) -> Result<Vec<String>, ImageError> {
        let tag = Tag::ImageDescription;
        let file = self.file;
        let number = |bytes: &[u8]| file.unsigned(bytes);
        let own: Vec<&&[u8]> = entries.iter().filter(|entry| number(&entry[..2]) == u64::from(tag.to_u16())).collect();
        let mut all = Vec::new();
        for entry in own {
            let Some(kind) = Type::from_u16(number(&entry[2..4]) as u16) else { continue };
            let one = if self.file.big {
                Entry::new_u64(kind, number(&entry[4..12]), entry[12..].try_into().expect("eight bytes"))
            } else {
                Entry::new(kind, number(&entry[4..8]) as u32, entry[8..].try_into().expect("four bytes"))
            };
            let whole = std::mem::replace(&mut self.directory, Directory::from_iter([(tag, one)]));
            let value = self.value(tag);
            self.directory = whole;
            let Some(value) = value? else { continue };
            let bytes = value.as_bytes();
            let text = &bytes[..bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len())];
            // Old programs write Latin-1.
            all.push(
                String::from_utf8(text.to_vec())
                    .unwrap_or_else(|_| text.iter().map(|&byte| char::from(byte)).collect()),
            );
        }
        Ok(all)
    }

    fn page(&mut self, descriptions: Vec<String>, entries: &[&[u8]]) -> Result<Option<Page>, ImageError> {
        if self.number(Tag::NewSubfileType)?.unwrap_or(0) & 0b101 != 0 {
            return Ok(None);
        }
        let mut needed = |tag, name| self.number(tag)?.ok_or_else(|| damaged(format!("it has no {name}")));
        let (width, height) = (needed(Tag::ImageWidth, "width")?, needed(Tag::ImageLength, "height")?);
        // More than this is no plane of a field, and sizes in bytes must not overflow.
        if !(1..=1 << 20).contains(&width) || !(1..=1 << 20).contains(&height) {
            return Err(damaged(format!("a plane of {height} × {width} pixels")));
        }
        self.refuse_what_would_be_read_wrong()?;
        let bits = self.number(Tag::BitsPerSample)?.unwrap_or(1);
        let format = match (self.number(Tag::SampleFormat)?.unwrap_or(1), bits) {
            (1, 8 | 16 | 32 | 64) => Format::Unsigned(bits / 8),
            (2, 8 | 16 | 32 | 64) => Format::Signed(bits / 8),
            (3, 32 | 64) => Format::Real(bits / 8),
            (kind, bits) => {
                let kind =
                    ["", "whole numbers", "signed numbers", "real numbers"].get(kind).unwrap_or(&"an unknown kind");
                return Err(unsupported(format!("pixels of {bits} bit, {kind}")));
            }
        };
        let palette = self.palette()?;
        let compression = self.number(Tag::Compression)?.unwrap_or(1) as u16;
        check_compression(compression)?;
        let predictor = self.number(Tag::Predictor)?.unwrap_or(1) as u16;
        match (predictor, format) {
            (1, _) | (2, Format::Unsigned(_) | Format::Signed(_)) | (3, Format::Real(_)) => {}
            (other, _) => return Err(unsupported(format!("predictor {other} with this kind of pixels"))),
        }
        let (tiled, chunk, offsets, lengths) = match (self.number(Tag::TileWidth)?, self.number(Tag::TileLength)?) {
            (Some(columns), Some(rows)) => {
                (true, [rows, columns], self.numbers(Tag::TileOffsets)?, self.numbers(Tag::TileByteCounts)?)
            }
            _ => {
                let rows = self.number(Tag::RowsPerStrip)?.unwrap_or(height).min(height);
                (false, [rows, width], self.numbers(Tag::StripOffsets)?, self.numbers(Tag::StripByteCounts)?)
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
        let resolution = self.rational(Tag::YResolution).zip(self.rational(Tag::XResolution)).map(|(y, x)| [y, x]);
        let private = self.private(entries)?;
        Ok(Some(Page {
            width,
            height,
            format,
            compression,
            predictor,
            chunk,
            tiled,
            chunks,
            descriptions,
            resolution,
            palette,
            private,
        }))
    }

    /// Tags of programs of their own, and what those of MetaMorph say.
    fn private(&mut self, entries: &[&[u8]]) -> Result<Private, ImageError> {
        let tags = self.directory.iter().map(|(tag, _)| tag.to_u16()).filter(|tag| *tag >= 1 << 15 || *tag == ANDOR);
        let tags: Vec<u16> = tags.collect();
        let Some(planes) = self.directory.get(METAMORPH[0]).map(|entry| entry.count() as usize) else {
            return Ok(Private { tags, metamorph: None });
        };
        let (mut times, mut channels) = (false, false);
        if planes > 1 {
            let wavelengths = self.value(METAMORPH[1])?.filter(|value| value.data_type() == Type::RATIONAL);
            let wavelengths = wavelengths.as_ref().map_or(&[][..], ValueBuffer::as_bytes);
            let differ = |numbers: &[u8], size: usize| numbers.chunks_exact(size).any(|one| one != &numbers[..size]);
            channels = wavelengths.len() == planes.saturating_mul(8) && differ(wavelengths, 8);
            // Six numbers for each plane, which the tag does not count: its height (a ratio), the day and time of its making, those
            // of its last change. Only the place of the first one is in the tag.
            let own = entries.iter().find(|entry| self.file.unsigned(&entry[..2]) == u64::from(METAMORPH[0].to_u16()));
            let at = own.map_or(usize::MAX, |entry| self.file.unsigned(&entry[entry.len() / 2 + 2..]) as usize);
            if let Ok(numbers) = self.file.slice(at, planes.saturating_mul(24)) {
                let each = || numbers.chunks_exact(24);
                times = each().all(|one| one[..8] == numbers[..8]) && each().any(|one| one[8..16] != numbers[8..16]);
            }
        }
        Ok(Private { tags, metamorph: Some(MetaMorph { planes, times, channels }) })
    }

    fn palette(&mut self) -> Result<Palette, ImageError> {
        if self.number(Tag::PhotometricInterpretation)? != Some(3) {
            return Ok(Palette::None);
        }
        let map = self.numbers(Tag::ColorMap)?.unwrap_or_default();
        let colours: Vec<&[usize]> = map.chunks(map.len().div_ceil(3).max(1)).collect();
        let rising = |colour: &&[usize]| colour.windows(2).all(|pair| pair[0] <= pair[1]);
        let brighter = |colour: &&[usize]| colour.first() < colour.last();
        Ok(if colours.len() == 3 && colours.iter().all(rising) && colours.iter().any(brighter) {
            Palette::Ramp
        } else {
            Palette::Colours
        })
    }

    fn refuse_what_would_be_read_wrong(&mut self) -> Result<(), ImageError> {
        // Of planar samples the crate gives the first only.
        let samples = self.number(Tag::SamplesPerPixel)?.unwrap_or(1);
        if samples != 1 {
            return Err(unsupported(format!(
                "{samples} samples a pixel (a colour image); save each channel as pages of its own"
            )));
        }
        // The crate turns whole numbers round, and real ones to 1 − x.
        if self.number(Tag::PhotometricInterpretation)? == Some(0) {
            return Err(unsupported("white is zero; save it with black as zero"));
        }
        // The crate does not look at the order of bits.
        if self.number(FILL_ORDER)?.unwrap_or(1) != 1 {
            return Err(unsupported("bits in reverse order"));
        }
        // Of pages with depth the crate gives the first plane only.
        for tag in [IMAGE_DEPTH, TILE_DEPTH] {
            if self.number(tag)?.unwrap_or(1) > 1 {
                return Err(unsupported("volumetric pages (several planes in one page); save one page per plane"));
            }
        }
        Ok(())
    }
}

/// Compressions that are read: those that give the same pixels back.
fn check_compression(number: u16) -> Result<(), ImageError> {
    let name = match number {
        1 | 5 | 8 | 32946 | 32773 | 50000 => return Ok(()),
        2..=4 => "fax",
        6 | 7 => "JPEG",
        33003 | 33005 | 34712 => "JPEG 2000",
        34887 => "LERC",
        34925 => "LZMA",
        50001 => "WebP",
        50002 => "JPEG XL",
        _ => "unknown",
    };
    Err(unsupported(format!("compression {number} ({name}); save it with none, LZW, deflate, PackBits or ZSTD")))
}
