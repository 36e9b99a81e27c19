//! Writing OME-TIFF by the `tiff` crate.
//!
//! The crate packs planes one after the other, and writes no ZSTD; so planes are packed here, in parallel, and the crate writes the
//! file around them.

use std::{
    fmt::Write as _,
    io::{Cursor, Write as _},
};

use rayon::prelude::*;
use tiff::{
    TiffError,
    encoder::{Rational, TiffEncoder, TiffKind, TiffKindBig, TiffKindStandard},
    tags::Tag,
};

use super::super::super::{ImageError, Pixels, Stack};

/// Writes an OME-TIFF: axes CZYX, channel names, voxel size in µm, deflate, one page per plane; BigTIFF from 4 GB on. Equal stacks
/// give equal bytes.
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
    let total: usize = packed.iter().map(|page| page.len() + 300).sum::<usize>() + 4096;
    let written = if total > u32::MAX as usize {
        file::<TiffKindBig>(stack, packed, total)
    } else {
        file::<TiffKindStandard>(stack, packed, total)
    };
    written.map_err(|error| ImageError::Shape(format!("it cannot be written: {error}")))
}

fn file<K: TiffKind>(stack: &Stack, packed: Vec<Vec<u8>>, total: usize) -> Result<Vec<u8>, TiffError> {
    let [_, height, width] = stack.size;
    let (name, bits, format) = match stack.pixels {
        Pixels::U8(_) => ("uint8", 8_u16, 1_u16),
        Pixels::U16(_) => ("uint16", 16, 1),
        Pixels::U32(_) => ("uint32", 32, 1),
        Pixels::F32(_) => ("float", 32, 3),
    };
    let mut file = Cursor::new(Vec::with_capacity(total));
    let mut encoder = TiffEncoder::<_, K>::new_generic(&mut file)?;
    for (index, page) in packed.into_iter().enumerate() {
        let mut directory = encoder.image_directory()?;
        let pixels = directory.write_data(page.as_slice())?;
        directory.write_tag(Tag::ImageWidth, width as u32)?;
        directory.write_tag(Tag::ImageLength, height as u32)?;
        directory.write_tag(Tag::BitsPerSample, bits)?;
        directory.write_tag(Tag::Compression, 8_u16)?;
        directory.write_tag(Tag::PhotometricInterpretation, 1_u16)?;
        if index == 0 {
            directory.write_tag(Tag::ImageDescription, description(stack, name).as_str())?;
        }
        directory.write_tag(Tag::StripOffsets, K::convert_offset(pixels)?)?;
        directory.write_tag(Tag::SamplesPerPixel, 1_u16)?;
        directory.write_tag(Tag::RowsPerStrip, height as u32)?;
        directory.write_tag(Tag::StripByteCounts, K::convert_offset(page.len() as u64)?)?;
        if let Some([_, y, x]) = stack.voxel_um {
            directory.write_tag(Tag::XResolution, per_cm(x))?;
            directory.write_tag(Tag::YResolution, per_cm(y))?;
            directory.write_tag(Tag::ResolutionUnit, 3_u16)?;
        }
        directory.write_tag(Tag::Predictor, if format == 1 { 2_u16 } else { 1 })?;
        directory.write_tag(Tag::SampleFormat, format)?;
        directory.finish()?;
    }
    Ok(file.into_inner())
}

/// Pixels per centimetre as a ratio, for programs that do not read OME-XML.
fn per_cm(um: f64) -> Rational {
    Rational { n: 10_000_000, d: (um * 1000.0).round().clamp(1.0, f64::from(u32::MAX)) as u32 }
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
