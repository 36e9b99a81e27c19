//! What programs write beside the pixels: OME-XML, ImageJ's lines, tifffile's shape.

use quick_xml::{Reader, events::Event};

use super::ImageError;

/// The order of the pages of a file that holds several channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOrder {
    /// All planes of the first channel, then all of the next.
    Czyx,
    /// All channels of the first plane, then all of the next.
    Zcyx,
}

/// What the pages of a file are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layout {
    /// Channel names, in order; empty names are not known.
    pub(super) channels: Vec<String>,
    /// Planes of a channel.
    pub(super) depth: usize,
    /// The page of plane z of channel c: `pages[c * depth + z]`.
    pub(super) pages: Vec<usize>,
    /// Size of a voxel in µm (Z, Y, X); each may not be known.
    pub(super) voxel_um: [Option<f64>; 3],
    /// Width and height that the metadata claim.
    pub(super) claims: Option<[usize; 2]>,
}

impl Layout {
    /// Pages in a regular order.
    pub(super) fn regular(channels: usize, depth: usize, order: PageOrder) -> Self {
        let page = |at: usize| match order {
            PageOrder::Czyx => at,
            PageOrder::Zcyx => at % depth * channels + at / depth,
        };
        let pages = (0..channels * depth).map(page).collect();
        Self { channels: vec![String::new(); channels], depth, pages, ..Self::default() }
    }
}

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

fn unsupported(reason: impl Into<String>) -> ImageError {
    ImageError::Unsupported(reason.into())
}

/// Counts that are above this are lies, or nothing that fits in memory.
const MOST_PLANES: usize = 1 << 20;

/// The layout that the description of the first page tells of, for a file of so many pages; `None`: it does not tell.
pub(super) fn layout(
    description: &str,
    pages: usize,
    resolution: Option<[f64; 2]>,
) -> Result<Option<Layout>, ImageError> {
    if description.starts_with("ImageJ=") {
        return imagej(description, pages, resolution).map(Some);
    }
    if is_ome(description) {
        return ome(description, pages).map(Some);
    }
    if is_shaped(description) {
        return shaped(description, pages);
    }
    Ok(None)
}

/// Whether a description is OME-XML.
pub(super) fn is_ome(description: &str) -> bool {
    description.trim_start().starts_with('<') && ["<OME", ":OME "].iter().any(|name| description.contains(name))
}

/// Whether a description is one of tifffile's.
pub(super) fn is_shaped(description: &str) -> bool {
    description.starts_with('{') && description.contains("\"shape\"")
}

/// µm of a length in `unit`.
fn in_um(length: f64, unit: &str) -> Option<f64> {
    let unit = unit.trim().trim_matches('"').replace("\\u00B5", "µ");
    let factor = match unit.as_str() {
        "" | "µm" | "μm" | "um" | "micron" | "microns" | "micrometer" | "micrometre" => 1.0,
        "nm" | "nanometer" => 1e-3,
        "mm" | "millimeter" => 1e3,
        "cm" | "centimeter" => 1e4,
        "m" | "meter" => 1e6,
        "pm" => 1e-6,
        "Å" | "angstrom" => 1e-4,
        "inch" | "in" => 25_400.0,
        _ => return None,
    };
    Some(length * factor).filter(|length| length.is_finite() && *length > 0.0)
}

/// ImageJ writes channels fastest, then planes, then time points.
fn imagej(description: &str, pages: usize, resolution: Option<[f64; 2]>) -> Result<Layout, ImageError> {
    let value = |key: &str| {
        description
            .lines()
            .find_map(|line| line.split_once('=').filter(|(name, _)| *name == key))
            .map(|(_, value)| value)
    };
    let count = |key: &str| match value(key) {
        None => Ok(1),
        Some(text) => text
            .trim()
            .parse::<usize>()
            .ok()
            .filter(|count| (1..=MOST_PLANES).contains(count))
            .ok_or_else(|| damaged(format!("ImageJ's `{key}={text}` is no count"))),
    };
    let (images, channels, frames) = (count("images")?, count("channels")?, count("frames")?);
    let depth = match value("slices") {
        Some(_) => count("slices")?,
        // Without dimensions all pages are planes.
        None => images.max(pages) / channels / frames,
    };
    if frames > 1 {
        // A stack of planes is often saved as time points.
        return Err(unsupported(format!(
            "a series of {frames} time points; save one time point, or the stack with `slices` for `frames`"
        )));
    }
    let planes = channels.checked_mul(depth).filter(|planes| *planes <= MOST_PLANES);
    let Some(planes) = planes.filter(|planes| *planes == pages || (pages == 1 && *planes == images)) else {
        return Err(damaged(format!("{pages} pages, where ImageJ says {channels} channels of {depth} planes")));
    };
    debug_assert!(planes > 0);
    let mut layout = Layout::regular(channels, depth, PageOrder::Zcyx);
    let unit = value("unit").unwrap_or("pixel");
    let spacing = value("spacing").and_then(|text| text.trim().parse::<f64>().ok());
    layout.voxel_um = [
        spacing.and_then(|z| in_um(z.abs(), unit)),
        resolution.and_then(|r| in_um(1.0 / r[0], unit)),
        resolution.and_then(|r| in_um(1.0 / r[1], unit)),
    ];
    Ok(layout)
}

/// tifffile's own lines: `{"shape": [2, 60, 256, 256], "axes": "CZYX"}`.
fn shaped(description: &str, pages: usize) -> Result<Option<Layout>, ImageError> {
    let Ok(json) = serde_json::from_str::<serde_json::Value>(description) else { return Ok(None) };
    let shape: Option<Vec<usize>> = json["shape"]
        .as_array()
        .map(|sizes| sizes.iter().filter_map(|size| size.as_u64().map(|size| size as usize)).collect());
    let Some(shape) = shape.filter(|shape| shape.len() >= 2) else { return Ok(None) };
    let axes = json["axes"].as_str().unwrap_or_default();
    let claims = Some([shape[shape.len() - 2], shape[shape.len() - 1]]);
    let outer = &shape[..shape.len() - 2];
    let product = outer.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    if product != Some(pages) && pages != 1 || product.is_none_or(|planes| planes == 0 || planes > MOST_PLANES) {
        return Err(damaged(format!("{pages} pages, where it says the shape {shape:?}")));
    }
    let layout = match (outer, axes) {
        (_, "") if outer.len() == 1 || product == Some(1) => Layout::regular(1, product.unwrap_or(1), PageOrder::Czyx),
        // Without axes there is no way to tell channels from planes.
        (_, "") => return Ok(None),
        _ if axes.len() != shape.len() || !axes.ends_with("YX") => {
            return Err(unsupported(format!("axes `{axes}` of a shape {shape:?}")));
        }
        _ => {
            let (mut channels, mut depth, mut order) = (1, 1, String::new());
            for (&size, axis) in outer.iter().zip(axes.chars()) {
                match axis {
                    _ if size == 1 => continue,
                    'C' | 'S' => channels = size,
                    'Z' | 'Q' | 'I' => depth = size,
                    _ => {
                        return Err(unsupported(format!(
                            "an axis `{axis}` of {size}; only channels and planes are read"
                        )));
                    }
                }
                order.push(axis);
            }
            if order.len() > 2 || (order.len() == 2 && channels * depth != product.unwrap_or(0)) {
                return Err(unsupported(format!("axes `{axes}`")));
            }
            let order = if order.starts_with(['C', 'S']) { PageOrder::Czyx } else { PageOrder::Zcyx };
            Layout::regular(channels, depth, order)
        }
    };
    Ok(Some(Layout { claims, ..layout }))
}

/// The attributes of an XML element.
fn attribute(element: &quick_xml::events::BytesStart, name: &str) -> Result<Option<String>, ImageError> {
    let broken = |error: &dyn std::fmt::Display| damaged(format!("its OME-XML is broken: {error}"));
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| broken(&error))?;
        if attribute.key.local_name().as_ref() == name {
            let text = quick_xml::escape::unescape(&attribute.value).map_err(|error| broken(&error))?;
            return Ok(Some(text.into_owned()));
        }
    }
    Ok(None)
}

/// Where the planes of one `TiffData` element begin.
#[derive(Default)]
struct Run {
    page: Option<usize>,
    first: [usize; 3],
    count: Option<usize>,
}

/// How many times each plane may be placed, on average.
const MOST_REPEATS: usize = 16;

fn too_few(pages: usize, channels: usize, depth: usize) -> ImageError {
    damaged(format!("{pages} pages, where OME-XML says {channels} channels of {depth} planes"))
}

/// OME-XML: the first image's planes, channels and voxels.
fn ome(description: &str, pages: usize) -> Result<Layout, ImageError> {
    let mut reader = Reader::from_str(description);
    let mut images = 0;
    let mut sizes: Option<([usize; 5], String)> = None;
    let mut voxel_um = [None; 3];
    let mut names = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    let mut files = std::collections::BTreeSet::new();
    loop {
        let event = reader.read_event().map_err(|error| damaged(format!("its OME-XML is broken: {error}")))?;
        let element = match &event {
            Event::Start(element) | Event::Empty(element) => element,
            Event::Eof => break,
            _ => continue,
        };
        let number = |name: &str, otherwise: usize| match attribute(element, name)? {
            None => Ok(otherwise),
            Some(text) => {
                text.trim().parse::<usize>().map_err(|_| damaged(format!("`{name}=\"{text}\"` is no number")))
            }
        };
        match element.local_name().as_ref() {
            "BinaryOnly" => {
                return Err(unsupported(
                    "its description is in another file; give the file that holds it, saved as one",
                ));
            }
            "Image" => images += 1,
            "Pixels" if images == 1 => {
                let size = |name: &str| match number(name, 0)? {
                    size @ 1..=MOST_PLANES => Ok(size),
                    size => Err(damaged(format!("OME-XML says {name}=\"{size}\""))),
                };
                let order = attribute(element, "DimensionOrder")?.unwrap_or_else(|| "XYCZT".to_owned());
                sizes = Some(([size("SizeX")?, size("SizeY")?, size("SizeZ")?, size("SizeC")?, size("SizeT")?], order));
                for (voxel, axis) in voxel_um.iter_mut().zip(["Z", "Y", "X"]) {
                    let length = attribute(element, &format!("PhysicalSize{axis}"))?;
                    let unit = attribute(element, &format!("PhysicalSize{axis}Unit"))?.unwrap_or_default();
                    *voxel = length.and_then(|text| text.trim().parse().ok()).and_then(|length| in_um(length, &unit));
                }
            }
            "Channel" if images == 1 => {
                if number("SamplesPerPixel", 1)? > 1 {
                    return Err(unsupported("several samples a pixel (a colour image)"));
                }
                names.push(attribute(element, "Name")?.unwrap_or_default());
            }
            "TiffData" if images == 1 => runs.push(Run {
                page: attribute(element, "IFD")?.map(|_| number("IFD", 0)).transpose()?,
                first: [number("FirstZ", 0)?, number("FirstC", 0)?, number("FirstT", 0)?],
                count: attribute(element, "PlaneCount")?.map(|_| number("PlaneCount", 0)).transpose()?,
            }),
            "UUID" if images == 1 => files.extend(attribute(element, "FileName")?),
            _ => {}
        }
    }
    if images > 1 {
        return Err(unsupported(format!("{images} images in one file; save each as a file of its own")));
    }
    if files.len() > 1 {
        return Err(unsupported(format!("an image in {} files; save it as one file", files.len())));
    }
    let Some(([width, height, depth, channels, times], order)) = sizes else {
        return Err(damaged("its OME-XML has no pixels"));
    };
    if times > 1 {
        return Err(unsupported(format!("a series of {times} time points; save one time point")));
    }
    let planes = depth.checked_mul(channels).filter(|planes| *planes <= MOST_PLANES);
    let planes = planes.ok_or_else(|| damaged(format!("OME-XML says {channels} channels of {depth} planes")))?;
    let counts = [depth, channels, times];
    // The axes of planes, fastest first, as places in [z, c, t].
    let axes: Vec<usize> = order.chars().filter_map(|axis| "ZCT".find(axis)).collect();
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if sorted != [0, 1, 2] {
        return Err(damaged(format!("OME-XML says DimensionOrder=\"{order}\"")));
    }
    if runs.is_empty() {
        runs.push(Run::default());
    }
    if planes > pages {
        return Err(too_few(pages, channels, depth));
    }
    let mut places = vec![None; planes];
    let mut placed = 0;
    for run in runs {
        let count = run.count.unwrap_or(if run.page.is_some() { 1 } else { pages });
        let mut at = run.first;
        for step in 0..count.min(planes) {
            placed += 1;
            if placed > MOST_REPEATS * planes {
                return Err(damaged("OME-XML places its planes many times over"));
            }
            if (0..3).any(|axis| at[axis] >= counts[axis]) {
                return Err(damaged("OME-XML places a plane outside the image"));
            }
            places[at[1] * depth + at[0]] = Some(run.page.unwrap_or(0) + step);
            for &axis in &axes {
                at[axis] += 1;
                if at[axis] < counts[axis] {
                    break;
                }
                at[axis] = 0;
            }
            if at == [0; 3] {
                break;
            }
        }
    }
    let place = |place: Option<usize>| place.filter(|page| *page < pages);
    let Some(places) = places.into_iter().map(place).collect::<Option<Vec<usize>>>() else {
        return Err(too_few(pages, channels, depth));
    };
    names.resize(channels, String::new());
    Ok(Layout { channels: names, depth, pages: places, voxel_um, claims: Some([height, width]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_runs_of_ome() {
        let xml = |order: &str, data: &str| {
            format!(
                "<?xml version=\"1.0\"?><OME xmlns=\"x\"><Image ID=\"Image:0\"><Pixels DimensionOrder=\"{order}\" SizeX=\"5\" \
                 SizeY=\"4\" SizeZ=\"3\" SizeC=\"2\" SizeT=\"1\" PhysicalSizeX=\"260\" PhysicalSizeXUnit=\"nm\" \
                 PhysicalSizeY=\"0.26\" PhysicalSizeYUnit=\"&#181;m\" PhysicalSizeZ=\"1\" PhysicalSizeZUnit=\"pixel\">\
                 <Channel Name=\"a &amp; b\"/><Channel/>{data}</Pixels></Image></OME>"
            )
        };
        let read = |order, data| layout(&xml(order, data), 6, None).unwrap().unwrap();
        let first = read("XYZCT", "<TiffData/>");
        assert_eq!(first.pages, [0, 1, 2, 3, 4, 5]);
        assert_eq!(first.channels, ["a & b", ""]);
        assert_eq!(first.voxel_um, [None, Some(0.26), Some(0.26)]);
        assert_eq!(read("XYCZT", "<TiffData IFD=\"0\" PlaneCount=\"6\"/>").pages, [0, 2, 4, 1, 3, 5]);
        let single: String = (0..6)
            .map(|i| format!("<TiffData IFD=\"{}\" FirstC=\"{}\" FirstZ=\"{}\"/>", 5 - i, i / 3, i % 3))
            .collect();
        assert_eq!(read("XYZCT", &single).pages, [5, 4, 3, 2, 1, 0]);
        assert!(layout(&xml("XYZCT", "<TiffData IFD=\"0\"/>"), 6, None).is_err(), "planes are missing");
        assert!(layout(&xml("XYZCT", "<TiffData/>"), 5, None).is_err(), "pages are missing");
        assert!(layout(&xml("XYZZT", "<TiffData/>"), 6, None).is_err());
        let two = xml("XYZCT", "<TiffData/>").replace("</Image>", "</Image><Image/>");
        assert!(layout(&two, 6, None).unwrap_err().to_string().contains("2 images"));
    }

    #[test]
    fn imagej_and_shapes() {
        let text = "ImageJ=1.53\nimages=6\nchannels=2\nslices=3\nhyperstack=true\nunit=\\u00B5m\nspacing=0.5\n";
        let found = layout(text, 6, Some([4.0, 5.0])).unwrap().unwrap();
        assert_eq!(found.pages, [0, 2, 4, 1, 3, 5]);
        assert_eq!(found.voxel_um, [Some(0.5), Some(0.25), Some(0.2)]);
        assert!(layout("ImageJ=1.53\nimages=6\nframes=6\n", 6, None).unwrap_err().to_string().contains("time points"));
        assert!(layout("ImageJ=1.53\nimages=7\nchannels=7\n", 6, None).is_err());

        let shape = |text: &str, pages| layout(text, pages, None);
        assert_eq!(shape("{\"shape\": [6, 4, 5]}", 6).unwrap().unwrap().depth, 6);
        assert_eq!(shape("{\"shape\": [2, 3, 4, 5]}", 6).unwrap(), None, "channels or planes first?");
        let zc = shape("{\"shape\": [3, 2, 4, 5], \"axes\": \"ZCYX\"}", 6).unwrap().unwrap();
        assert_eq!(zc.pages, [0, 2, 4, 1, 3, 5]);
        assert!(shape("{\"shape\": [6, 4, 5], \"axes\": \"TYX\"}", 6).is_err());
        assert!(shape("{\"shape\": [7, 4, 5]}", 6).is_err());
    }
}
