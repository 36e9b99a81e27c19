//! OME-TIFF, and other TIFFs that microscopes and programs write.

use std::io::Cursor;

use tiff::{
    decoder::{Decoder, DecodingResult},
    encoder::{TiffEncoder, colortype},
    tags::Tag,
};

use super::{ImageError, Pixels, Stack};

/// Reads a TIFF from memory.
///
/// # Errors
/// [`ImageError::Damaged`] or [`ImageError::Unsupported`].
pub fn read(bytes: &[u8]) -> Result<Stack, ImageError> {
    let damaged = |error: tiff::TiffError| ImageError::Damaged(error.to_string());
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let description = decoder.get_tag_ascii_string(Tag::ImageDescription).unwrap_or_default();
    let (width, height) = decoder.dimensions().map_err(damaged)?;
    let mut pixels: Option<Pixels> = None;
    let mut planes = 0;
    loop {
        let part = match decoder.read_image().map_err(damaged)? {
            DecodingResult::U8(v) => Pixels::U8(v),
            DecodingResult::U16(v) => Pixels::U16(v),
            DecodingResult::F32(v) => Pixels::F32(v),
            DecodingResult::U32(v) => Pixels::U32(v),
            _ => return Err(ImageError::Unsupported("pixel type".to_owned())),
        };
        planes += 1;
        pixels = Some(match (pixels, part) {
            (None, part) => part,
            (Some(Pixels::U8(mut all)), Pixels::U8(part)) => {
                all.extend(part);
                Pixels::U8(all)
            }
            (Some(Pixels::U16(mut all)), Pixels::U16(part)) => {
                all.extend(part);
                Pixels::U16(all)
            }
            (Some(Pixels::F32(mut all)), Pixels::F32(part)) => {
                all.extend(part);
                Pixels::F32(all)
            }
            (Some(Pixels::U32(mut all)), Pixels::U32(part)) => {
                all.extend(part);
                Pixels::U32(all)
            }
            _ => return Err(ImageError::Unsupported("planes of different pixel types".to_owned())),
        });
        if !decoder.more_images() {
            break;
        }
        decoder.next_image().map_err(damaged)?;
    }
    let names: Vec<String> =
        description.split("Name=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect();
    let channels = if names.is_empty() { vec!["0".to_owned()] } else { names };
    if planes % channels.len() != 0 {
        return Err(ImageError::Damaged(format!("{planes} planes for {} channels", channels.len())));
    }
    let size = [planes / channels.len(), height as usize, width as usize];
    let attribute = |name: &str| description.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.parse().ok();
    let voxel_um = (|| Some([attribute("PhysicalSizeZ")?, attribute("PhysicalSizeY")?, attribute("PhysicalSizeX")?]))();
    Ok(Stack { channels, size, voxel_um, pixels: pixels.expect("at least one plane") })
}

/// Writes an OME-TIFF: axes CZYX, channel names, voxel size in µm, deflate.
///
/// # Errors
/// [`ImageError::Shape`] when the pixels do not fit channels and size.
pub fn write(stack: &Stack) -> Result<Vec<u8>, ImageError> {
    let [depth, height, width] = stack.size;
    let plane = height * width;
    if plane * depth * stack.channels.len() != stack.pixels.len() || stack.pixels.is_empty() {
        return Err(ImageError::Shape(format!(
            "{} pixels do not fill {} channels of {:?}",
            stack.pixels.len(),
            stack.channels.len(),
            stack.size
        )));
    }
    let kind = match stack.pixels {
        Pixels::U8(_) => "uint8",
        Pixels::U16(_) => "uint16",
        Pixels::F32(_) => "float",
        Pixels::U32(_) => "uint32",
    };
    let voxel = stack.voxel_um.map_or(String::new(), |[z, y, x]| {
        format!(" PhysicalSizeX=\"{x}\" PhysicalSizeY=\"{y}\" PhysicalSizeZ=\"{z}\"")
    });
    let channels: String = stack
        .channels
        .iter()
        .enumerate()
        .map(|(i, name)| format!("<Channel ID=\"Channel:0:{i}\" Name=\"{name}\" SamplesPerPixel=\"1\"/>"))
        .collect();
    let description = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><OME xmlns=\"http://www.openmicroscopy.org/Schemas/OME/2016-06\"><Image ID=\"Image:0\"><Pixels ID=\"Pixels:0\" DimensionOrder=\"XYZCT\" Type=\"{kind}\" SizeX=\"{width}\" SizeY=\"{height}\" SizeZ=\"{depth}\" SizeC=\"{}\" SizeT=\"1\"{voxel}>{channels}<TiffData/></Pixels></Image></OME>",
        stack.channels.len(),
    );
    let mut out = Cursor::new(Vec::new());
    let refuse = |error: tiff::TiffError| ImageError::Shape(error.to_string());
    let mut encoder = TiffEncoder::new(&mut out)
        .map_err(refuse)?
        .with_compression(tiff::encoder::Compression::Deflate(tiff::encoder::DeflateLevel::Fast));
    for index in 0..depth * stack.channels.len() {
        let range = index * plane..(index + 1) * plane;
        macro_rules! page {
            ($color:ty, $pixels:expr) => {{
                let mut image = encoder.new_image::<$color>(width as u32, height as u32).map_err(refuse)?;
                if index == 0 {
                    image.encoder().write_tag(Tag::ImageDescription, description.as_str()).map_err(refuse)?;
                }
                image.write_data(&$pixels[range]).map_err(refuse)?;
            }};
        }
        match &stack.pixels {
            Pixels::U8(pixels) => page!(colortype::Gray8, pixels),
            Pixels::U16(pixels) => page!(colortype::Gray16, pixels),
            Pixels::F32(pixels) => page!(colortype::Gray32Float, pixels),
            Pixels::U32(pixels) => page!(colortype::Gray32, pixels),
        }
    }
    Ok(out.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let stack = Stack {
            channels: vec!["membrane".to_owned(), "dna".to_owned()],
            size: [3, 4, 5],
            voxel_um: Some([0.29, 0.26, 0.26]),
            pixels: Pixels::U16((0..120).collect()),
        };
        assert_eq!(read(&write(&stack).unwrap()).unwrap(), stack);
    }
}
