//! OME-Zarr, versions 0.4 and 0.5 (and 0.1 to 0.3, as far as they are alike), as an archive; folders come as archives too.
//!
//! Read are the full-size images of `multiscales`; the pyramids below them, labels and plates' layouts are not. Chunks may be packed by
//! zstd, gzip, zlib, lz4 and Blosc (with these), and lie in shards. The reader is our own: `zarrs` would bring Blosc's C code, two
//! minutes of building and a newer compiler than this crate asks for, for what is read here of it.

mod archive;
mod array;
mod codec;

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    super::{ImageError, Pixels, Stack, Unclear},
    asked::{Asked, Found},
    layout::Voxel,
    unit::in_um,
};
use archive::Archive;
use array::Array;

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

/// What the metadata of a group say of images: version 0.5 under `attributes.ome`, 0.4 in `.zattrs`.
fn metadata(archive: &mut Archive, folder: &str) -> Result<Option<Value>, ImageError> {
    if let Some(mut group) = archive.json(&format!("{folder}zarr.json"))? {
        let attributes = group["attributes"].take();
        let ome = attributes["ome"].clone();
        return Ok(Some(if ome.is_null() { attributes } else { ome }));
    }
    archive.json(&format!("{folder}.zattrs"))
}

/// Whether an archive holds an OME-Zarr image.
pub(super) fn is_zarr(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
        && Archive::open(bytes).is_some_and(|archive| {
            let ends = |name: &String| {
                [".zattrs", "zarr.json"].iter().any(|end| name == end || name.ends_with(&format!("/{end}")))
            };
            archive.names.iter().any(ends)
        })
}

/// The folders of images, in the order of their names; numbers count as numbers.
fn images(archive: &mut Archive) -> Result<Vec<(String, Value)>, ImageError> {
    let folders: BTreeSet<String> = archive
        .names
        .iter()
        .filter_map(|name| name.strip_suffix(".zattrs").or_else(|| name.strip_suffix("zarr.json")).map(str::to_owned))
        .filter(|folder| folder.is_empty() || folder.ends_with('/'))
        .collect();
    let mut found = Vec::new();
    for folder in folders {
        if let Some(metadata) = metadata(archive, &folder)?
            && metadata["multiscales"].as_array().is_some_and(|list| !list.is_empty())
        {
            found.push((folder, metadata));
        }
    }
    // Labels beside an image are no images, unless there is nothing else.
    if found.iter().any(|(folder, _)| !is_label(folder)) {
        found.retain(|(folder, _)| !is_label(folder));
    }
    let key = |folder: &str| {
        let parts = folder.split('/').map(|part| (part.parse::<u64>().unwrap_or(u64::MAX), part.to_owned()));
        parts.collect::<Vec<_>>()
    };
    found.sort_by_key(|(folder, _)| key(folder));
    Ok(found)
}

fn is_label(folder: &str) -> bool {
    folder.split('/').any(|part| part == "labels")
}

/// Every image and time point that is asked for.
pub(super) fn read(bytes: &[u8], asked: &Asked) -> Result<Vec<Found>, ImageError> {
    let mut archive = Archive::open(bytes).ok_or_else(|| damaged("its archive is broken"))?;
    let images = images(&mut archive)?;
    if images.is_empty() {
        return Err(ImageError::Unsupported("a Zarr hierarchy without an OME-Zarr image (`multiscales`)".to_owned()));
    }
    let names: Vec<&str> = images.iter().map(|(folder, _)| folder.trim_end_matches('/')).collect();
    let mut found = Vec::new();
    for at in asked.scene.of(Unclear::Scenes, &names)? {
        let (folder, metadata) = &images[at];
        for mut one in image(&mut archive, folder, metadata, asked)? {
            one.scene = (images.len() > 1).then_some(at);
            found.push(one);
        }
    }
    Ok(found)
}

/// The axes of an image: letters, and their units.
fn axes(image: &Value, dimensions: usize) -> Result<Vec<(char, Option<String>)>, ImageError> {
    let Some(list) = image["axes"].as_array() else {
        // Versions before 0.3 have these, and always these.
        let letters = ['t', 'c', 'z', 'y', 'x'];
        return if dimensions == 5 {
            Ok(letters.map(|letter| (letter, None)).to_vec())
        } else {
            Err(damaged("it has no axes"))
        };
    };
    let one = |axis: &Value| {
        let name = axis["name"].as_str().or(axis.as_str()).unwrap_or_default().to_lowercase();
        let letter = match (axis["type"].as_str(), name.as_str()) {
            (_, "t" | "c" | "z" | "y" | "x") => name.chars().next(),
            (Some("time"), _) => Some('t'),
            (Some("channel"), _) => Some('c'),
            _ => None,
        };
        let letter = letter.ok_or_else(|| ImageError::Unsupported(format!("a Zarr axis `{name}`")))?;
        Ok((letter, axis["unit"].as_str().map(str::to_owned)))
    };
    let axes: Vec<(char, Option<String>)> = list.iter().map(one).collect::<Result<_, ImageError>>()?;
    let distinct: BTreeSet<char> = axes.iter().map(|(letter, _)| *letter).collect();
    if axes.len() != dimensions || distinct.len() != axes.len() || !distinct.contains(&'y') || !distinct.contains(&'x')
    {
        return Err(damaged(format!("{} axes of an array of {dimensions} dimensions", axes.len())));
    }
    Ok(axes)
}

/// How much larger a step on each axis is than one: the product of the scales.
fn scales(image: &Value, dataset: &Value, dimensions: usize) -> Vec<Option<f64>> {
    let mut scales = vec![None; dimensions];
    for transformations in [&dataset["coordinateTransformations"], &image["coordinateTransformations"]] {
        for one in transformations.as_array().into_iter().flatten().filter(|one| one["type"] == "scale") {
            for (scale, own) in scales.iter_mut().zip(one["scale"].as_array().into_iter().flatten()) {
                *scale = own.as_f64().map(|own| scale.unwrap_or(1.0) * own);
            }
        }
    }
    scales
}

fn image(archive: &mut Archive, folder: &str, metadata: &Value, asked: &Asked) -> Result<Vec<Found>, ImageError> {
    let image = &metadata["multiscales"][0];
    let dataset = &image["datasets"][0];
    let path = dataset["path"].as_str().ok_or_else(|| damaged("its `multiscales` name no dataset"))?;
    let array = Array::open(archive, &format!("{folder}{}/", path.trim_matches('/')))?;
    let axes = axes(image, array.shape.len())?;
    let place = |letter: char| axes.iter().position(|(axis, _)| *axis == letter);
    let length = |letter: char| place(letter).map_or(1, |at| array.shape[at]);

    let scales = scales(image, dataset, axes.len());
    let mut voxel = Voxel::default();
    for (side, letter) in ['z', 'y', 'x'].into_iter().enumerate() {
        let Some(at) = place(letter) else { continue };
        let unit = axes[at].1.as_deref();
        voxel.um[side] = scales[at].zip(unit).and_then(|(scale, unit)| in_um(scale, unit));
        if voxel.um[side].is_none() {
            voxel.said[side] = match (scales[at], unit) {
                (Some(scale), Some(unit)) => format!("the scale of {letter} is {scale} in `{unit}`"),
                (Some(scale), None) => format!("the scale of {letter} is {scale}, without a unit"),
                (None, _) => String::new(),
            };
        }
    }
    let labels = metadata["omero"]["channels"].as_array();
    let label = |at: usize| labels.and_then(|labels| labels.get(at)?["label"].as_str()).unwrap_or_default().to_owned();
    let names: Vec<String> = (0..length('c')).map(label).collect();
    let named = names.iter().any(|name| !name.is_empty());
    let channels: Vec<String> =
        names.into_iter().enumerate().map(|(at, name)| if name.is_empty() { at.to_string() } else { name }).collect();

    let times: Vec<String> = (0..length('t')).map(|time| time.to_string()).collect();
    let mut found = Vec::new();
    for time in asked.time.of(Unclear::Times, &times.iter().map(String::as_str).collect::<Vec<_>>())? {
        let fixed: Vec<Option<usize>> = axes.iter().map(|(letter, _)| (*letter == 't').then_some(time)).collect();
        let (shape, pixels) = array.read(archive, &fixed)?;
        let letters: Vec<char> = axes.iter().map(|(letter, _)| *letter).collect();
        let pixels = in_order(pixels, &shape, &letters);
        let size = [length('z'), length('y'), length('x')];
        let stack = Stack { channels: channels.clone(), size, voxel_um: voxel.whole(), pixels };
        let time = (times.len() > 1).then_some(time);
        found.push(Found { stack, voxel: voxel.clone(), named, scene: None, time });
    }
    Ok(found)
}

/// The numbers with channels slowest, then z, y and x.
fn in_order(pixels: Pixels, shape: &[usize], letters: &[char]) -> Pixels {
    let order: Vec<usize> =
        ['c', 'z', 'y', 'x'].iter().filter_map(|letter| letters.iter().position(|own| own == letter)).collect();
    if order.windows(2).all(|pair| pair[0] < pair[1]) {
        return pixels;
    }
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len() - 1).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    let places = order.iter().fold(vec![0], |places: Vec<usize>, &axis| {
        places
            .into_iter()
            .flat_map(|place| (0..shape[axis]).map(move |at| (place, at)))
            .map(|(place, at)| place + at * strides[axis])
            .collect()
    });
    macro_rules! ordered {
        ($pixels:expr, $kind:ident) => {{
            let pixels = $pixels;
            Pixels::$kind(places.iter().map(|&place| pixels[place]).collect())
        }};
    }
    match pixels {
        Pixels::U8(pixels) => ordered!(pixels, U8),
        Pixels::U16(pixels) => ordered!(pixels, U16),
        Pixels::U32(pixels) => ordered!(pixels, U32),
        Pixels::F32(pixels) => ordered!(pixels, F32),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Pick, *};

    /// Files that Python's zarr wrote: see `tests/fixtures/zarr/make.py`.
    #[test]
    fn packed_in_every_way() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/zarr");
        let list = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
        assert!(list.lines().count() >= 24);
        for line in list.lines() {
            let [name, voxel, channels, kind]: [&str; 4] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            let bytes = std::fs::read(folder.join(name)).unwrap();
            assert!(is_zarr(&bytes), "{name}");
            let found = read(&bytes, &Asked::default()).unwrap_or_else(|error| panic!("{name}: {error}")).remove(0);
            assert_eq!(found.stack.channels.join(","), channels, "{name}");
            assert!(found.named && found.scene.is_none());
            let own = found.voxel.whole().unwrap().map(|side| side.to_string()).join(" ");
            assert_eq!(own, voxel, "{name}");
            let [depth, height, width] = found.stack.size;
            assert_eq!(depth, 3);
            assert!(matches!(
                (kind.trim_start_matches('>'), &found.stack.pixels),
                ("uint16" | "int16" | "u2", Pixels::U16(_))
                    | ("int32", Pixels::U32(_))
                    | ("float32" | "float64", Pixels::F32(_))
            ));
            for channel in 0..2 {
                let values = found.stack.channel_f32(channel).data;
                for (at, value) in values.into_iter().enumerate() {
                    let (z, y, x) = (at / (height * width), at / width % height, at % width);
                    assert_eq!(value, (1000 * channel + 100 * z + 10 * y + x) as f32, "{name}: {channel} {z} {y} {x}");
                }
            }
        }
    }

    /// Whatever bytes are changed: an image or an error.
    #[test]
    fn mutations_do_no_harm() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/zarr");
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as usize) % below
        };
        for name in ["v04-blosc-lz4-1.zip", "v05-shards.zip", "v04-lz4.zip", "v05-blosc.zip"] {
            let sound = std::fs::read(folder.join(name)).unwrap();
            for _ in 0..150 {
                let mut bytes = sound.clone();
                for _ in 0..=random(4) {
                    let at = random(bytes.len());
                    match random(3) {
                        0 => bytes[at] ^= 1 << random(8),
                        1 => bytes.truncate(at.max(1)),
                        _ => bytes[at] = random(256) as u8,
                    }
                }
                let _ = read(&bytes, &Asked { scene: Pick::Each, ..Asked::default() });
            }
        }
    }
}
