//! A TIFF writer for tests, which writes what no library would: any tags, twice if need be, planes without directories.

/// A tag: number, type, count and bytes, little-endian.
pub(crate) type Tag = (u16, u16, u32, Vec<u8>);

pub(crate) fn text(tag: u16, value: &str) -> Tag {
    let bytes = [value.as_bytes(), &[0]].concat();
    (tag, 2, bytes.len() as u32, bytes)
}

pub(crate) fn short(tag: u16, value: u16) -> Tag {
    (tag, 3, 1, value.to_le_bytes().to_vec())
}

pub(crate) fn longs(tag: u16, kind: u16, count: u32, values: &[u32]) -> Tag {
    (tag, kind, count, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Resolution tags: so many pixels per unit.
pub(crate) fn resolution(pixels: u32) -> Vec<Tag> {
    [282, 283].map(|tag| longs(tag, 5, 1, &[pixels, 1])).to_vec()
}

/// Pixels of a plane: their bytes, bits and sample format.
#[derive(Clone)]
pub(crate) struct Plane {
    pub(crate) bytes: Vec<u8>,
    pub(crate) bits: u16,
    pub(crate) format: u16,
}

pub(crate) fn plane16(values: impl IntoIterator<Item = u16>) -> Plane {
    Plane { bytes: values.into_iter().flat_map(u16::to_le_bytes).collect(), bits: 16, format: 1 }
}

pub(crate) fn plane8(values: impl IntoIterator<Item = u8>) -> Plane {
    Plane { bytes: values.into_iter().collect(), bits: 8, format: 1 }
}

pub(crate) fn plane_real(values: impl IntoIterator<Item = f32>) -> Plane {
    Plane { bytes: values.into_iter().flat_map(f32::to_le_bytes).collect(), bits: 32, format: 3 }
}

/// One value all over 5 × 4 pixels.
pub(crate) fn flat(value: u16) -> Plane {
    plane16([value; 20])
}

/// A little-endian TIFF, one directory per plane. `first`: more tags of the first page; `every`: of each page. A tag that is given
/// replaces the usual one of its number.
pub(crate) fn tiff(planes: &[Plane], [height, width]: [usize; 2], first: &[Tag], every: &[Tag]) -> Vec<u8> {
    let mut out = b"II*\0\0\0\0\0".to_vec();
    let mut link = 4;
    for (number, plane) in planes.iter().enumerate() {
        let at = out.len() as u32;
        out.extend(&plane.bytes);
        out.resize(out.len().next_multiple_of(2), 0);
        let long = |tag, value: usize| longs(tag, 4, 1, &[value as u32]);
        let own: Vec<Tag> = every.iter().chain(if number == 0 { first } else { &[] }).cloned().collect();
        let mut tags = vec![
            long(256, width),
            long(257, height),
            short(258, plane.bits),
            short(259, 1),
            short(262, 1),
            long(273, at as usize),
            short(277, 1),
            long(278, height),
            long(279, plane.bytes.len()),
            short(339, plane.format),
        ];
        tags.retain(|tag| own.iter().all(|own| own.0 != tag.0));
        tags.extend(own);
        tags.sort_by_key(|tag| tag.0);
        let directory = out.len() as u32;
        out[link..link + 4].copy_from_slice(&directory.to_le_bytes());
        out.extend((tags.len() as u16).to_le_bytes());
        let behind = out.len() + 12 * tags.len() + 4;
        let mut values = Vec::new();
        for (tag, kind, count, bytes) in tags {
            out.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            out.extend(count.to_le_bytes());
            if bytes.len() <= 4 {
                out.extend([bytes.as_slice(), &[0; 4]].concat().iter().take(4));
            } else {
                out.extend(((behind + values.len()) as u32).to_le_bytes());
                values.extend(bytes);
                values.resize(usize::next_multiple_of(values.len(), 2), 0);
            }
        }
        link = out.len();
        out.extend([0; 4]);
        out.extend(values);
    }
    out
}

/// OME-XML of one image of 5 × 4 pixels, 16 bit. `sizes`: physical sizes; `inner`: what stands in `Pixels` behind the channels.
pub(crate) fn ome(channels: &[&str], depth: usize, times: usize, sizes: &str, inner: &str) -> String {
    let list: String = channels
        .iter()
        .enumerate()
        .map(|(at, name)| format!("<Channel ID=\"Channel:0:{at}\" Name=\"{name}\"/>"))
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><OME xmlns=\"http://www.openmicroscopy.org/Schemas/OME/2016-06\">\
         <Image ID=\"Image:0\"><Pixels ID=\"Pixels:0\" DimensionOrder=\"XYZCT\" Type=\"uint16\" SizeX=\"5\" SizeY=\"4\" \
         SizeZ=\"{depth}\" SizeC=\"{}\" SizeT=\"{times}\" {sizes}>{list}{inner}</Pixels></Image></OME>",
        channels.len()
    )
}

/// Sizes of 0.3 × 0.1 × 0.1 µm.
pub(crate) const SIZES: &str = "PhysicalSizeX=\"0.1\" PhysicalSizeY=\"0.1\" PhysicalSizeZ=\"0.3\"";
