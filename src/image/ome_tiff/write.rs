//! Writing OME-TIFF.

use std::{fmt::Write as _, io::Write as _};

use rayon::prelude::*;

use super::{ImageError, Pixels, Stack};

/// Writes an OME-TIFF: axes CZYX, channel names, voxel size in µm, deflate, a page a plane; BigTIFF from 4 GB on. Equal stacks give
/// equal bytes.
///
/// # Errors
/// [`ImageError::Shape`] when the pixels do not fit channels and size.
pub fn write(stack: &Stack) -> Result<Vec<u8>, ImageError> {
    let [depth, height, width] = stack.size;
    let plane = height * width;
    let pages = depth * stack.channels.len();
    if plane * pages != stack.pixels.len() || stack.pixels.is_empty() {
        return Err(ImageError::Shape(format!(
            "{} pixels do not fill {} channels of {:?}",
            stack.pixels.len(),
            stack.channels.len(),
            stack.size
        )));
    }
    let packed: Vec<Vec<u8>> =
        (0..pages).into_par_iter().map(|page| pack(&stack.pixels, page * plane, plane, width)).collect();
    let (name, bits, format) = match stack.pixels {
        Pixels::U8(_) => ("uint8", 8, 1),
        Pixels::U16(_) => ("uint16", 16, 1),
        Pixels::U32(_) => ("uint32", 32, 1),
        Pixels::F32(_) => ("float", 32, 3),
    };
    let description = description(stack, name);
    let resolution = stack.voxel_um.map(|voxel| [voxel[2], voxel[1]].map(per_cm));

    let total: usize = packed.iter().map(|page| page.len() + 300).sum::<usize>() + description.len() + 64;
    let big = total > u32::MAX as usize;
    let mut file = Output { bytes: Vec::with_capacity(total), big };
    file.bytes.extend_from_slice(if big { b"II\x2b\0\x08\0\0\0" } else { b"II\x2a\0" });
    file.offset(0);
    let mut link = file.bytes.len() - file.offset_length();
    for (index, page) in packed.into_iter().enumerate() {
        let pixels = file.put(&page);
        let text = if index == 0 { Some(file.put_text(&description)) } else { None };
        let resolution = resolution.map(|axes| axes.map(|numbers| file.put(&numbers.map(u32::to_le_bytes).concat())));
        // Directories begin on even bytes.
        file.bytes.resize(file.bytes.len().next_multiple_of(8), 0);
        let at = file.bytes.len();
        file.set_offset(link, at);
        let mut entries = vec![
            (256, LONG, 1, width),
            (257, LONG, 1, height),
            (258, SHORT, 1, bits),
            (259, SHORT, 1, 8),
            (262, SHORT, 1, 1),
            (273, file.offset_kind(), 1, pixels),
            (277, SHORT, 1, 1),
            (278, LONG, 1, height),
            (279, file.offset_kind(), 1, page.len()),
            (317, SHORT, 1, if format == 1 { 2 } else { 1 }),
            (339, SHORT, 1, format),
        ];
        if let Some(text) = text {
            entries.push((270, ASCII, description.len() + 1, text));
        }
        if let Some([x, y]) = resolution {
            if big {
                // In a BigTIFF a ratio stands in the entry itself.
                let ratio =
                    |at: usize| u64::from_le_bytes(file.bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
                entries.extend([(282, RATIONAL, 1, ratio(x)), (283, RATIONAL, 1, ratio(y))]);
            } else {
                entries.extend([(282, RATIONAL, 1, x), (283, RATIONAL, 1, y)]);
            }
            entries.push((296, SHORT, 1, 3));
        }
        entries.sort_unstable();
        link = file.directory(&entries);
    }
    Ok(file.bytes)
}

const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const RATIONAL: u16 = 5;
const LONG8: u16 = 16;

struct Output {
    bytes: Vec<u8>,
    big: bool,
}

impl Output {
    fn offset_length(&self) -> usize {
        if self.big { 8 } else { 4 }
    }

    fn offset_kind(&self) -> u16 {
        if self.big { LONG8 } else { LONG }
    }

    fn offset(&mut self, value: usize) {
        let length = self.offset_length();
        self.bytes.extend_from_slice(&(value as u64).to_le_bytes()[..length]);
    }

    fn set_offset(&mut self, at: usize, value: usize) {
        let length = self.offset_length();
        self.bytes[at..at + length].copy_from_slice(&(value as u64).to_le_bytes()[..length]);
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        at
    }

    fn put_text(&mut self, text: &str) -> usize {
        let at = self.put(text.as_bytes());
        self.bytes.push(0);
        at
    }

    /// Writes a directory; gives the place of its link to the next one.
    fn directory(&mut self, entries: &[(u16, u16, usize, usize)]) -> usize {
        let count = entries.len() as u64;
        self.bytes.extend_from_slice(&count.to_le_bytes()[..if self.big { 8 } else { 2 }]);
        for &(tag, kind, count, value) in entries {
            self.bytes.extend_from_slice(&tag.to_le_bytes());
            self.bytes.extend_from_slice(&kind.to_le_bytes());
            self.offset(count);
            self.offset(value);
        }
        self.offset(0);
        self.bytes.len() - self.offset_length()
    }
}

/// Pixels per centimetre as a ratio, for programs that do not read OME-XML.
fn per_cm(um: f64) -> [u32; 2] {
    [10_000_000, (um * 1000.0).round().clamp(1.0, f64::from(u32::MAX)) as u32]
}

/// One plane, whole numbers as differences from the left neighbour, deflated.
fn pack(pixels: &Pixels, start: usize, count: usize, width: usize) -> Vec<u8> {
    let range = start..start + count;
    macro_rules! differences {
        ($pixels:expr) => {{
            let mut bytes = Vec::with_capacity(size_of_val(&$pixels[range.clone()]));
            for row in $pixels[range].chunks_exact(width) {
                let mut left = 0;
                for &pixel in row {
                    bytes.extend_from_slice(&pixel.wrapping_sub(left).to_le_bytes());
                    left = pixel;
                }
            }
            bytes
        }};
    }
    let bytes = match pixels {
        Pixels::U8(pixels) => differences!(pixels),
        Pixels::U16(pixels) => differences!(pixels),
        Pixels::U32(pixels) => differences!(pixels),
        Pixels::F32(pixels) => pixels[range].iter().flat_map(|pixel| pixel.to_le_bytes()).collect(),
    };
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2), flate2::Compression::fast());
    let expect = "writing to memory";
    encoder.write_all(&bytes).expect(expect);
    encoder.finish().expect(expect)
}

/// OME-XML, 7 bit as the tag must be.
fn description(stack: &Stack, kind: &str) -> String {
    let [depth, height, width] = stack.size;
    let count = stack.channels.len();
    let mut xml =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><OME xmlns=\"http://www.openmicroscopy.org/Schemas/OME/2016-06\" \
                   xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                   xsi:schemaLocation=\"http://www.openmicroscopy.org/Schemas/OME/2016-06 \
                   http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd\"><Image ID=\"Image:0\">"
            .to_owned();
    let expect = "writing to a string";
    write!(
        xml,
        "<Pixels ID=\"Pixels:0\" DimensionOrder=\"XYZCT\" Type=\"{kind}\" SizeX=\"{width}\" SizeY=\"{height}\" \
         SizeZ=\"{depth}\" SizeC=\"{count}\" SizeT=\"1\""
    )
    .expect(expect);
    if let Some([z, y, x]) = stack.voxel_um {
        for (axis, length) in [("X", x), ("Y", y), ("Z", z)] {
            write!(xml, " PhysicalSize{axis}=\"{length}\" PhysicalSize{axis}Unit=\"&#181;m\"").expect(expect);
        }
    }
    xml.push('>');
    for (index, name) in stack.channels.iter().enumerate() {
        write!(xml, "<Channel ID=\"Channel:0:{index}\" Name=\"").expect(expect);
        for letter in name.chars() {
            match letter {
                '&' | '<' | '>' | '"' => write!(xml, "&#{};", u32::from(letter)).expect(expect),
                _ if letter.is_ascii_graphic() || letter == ' ' => xml.push(letter),
                // Control characters cannot stand in XML at all.
                _ if letter.is_control() => xml.push('?'),
                _ => write!(xml, "&#{};", u32::from(letter)).expect(expect),
            }
        }
        xml.push_str("\" SamplesPerPixel=\"1\"/>");
    }
    write!(xml, "<TiffData IFD=\"0\" PlaneCount=\"{}\"/></Pixels></Image></OME>", depth * count).expect(expect);
    xml
}
