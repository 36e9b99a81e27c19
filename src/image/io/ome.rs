//! OME-XML, of every schema since 2010: images, axes, channels, where planes lie, the size of a voxel.
//!
//! | element and attribute | what becomes of it |
//! |---|---|
//! | `Image` | a scene; `Name` its name |
//! | `Pixels/@SizeX … SizeT`, `@DimensionOrder` | axes; sizes in x and y are held against the pages |
//! | `Pixels/@PhysicalSizeX …`, `…Unit` (µm where a schema before 2015 has none) | the voxel; 0 is no size |
//! | `Channel/@Name`, `@SamplesPerPixel` | names; several samples are refused |
//! | `TiffData/@IFD, FirstZ, FirstC, FirstT, PlaneCount` | where planes lie |
//! | `TiffData/UUID`, `OME/@UUID` | scenes in other files are left out; a scene over several files is refused |
//! | `BinaryOnly` | refused: the description is in another file |
//! | `StructuredAnnotations` and everything else | not looked at |

use std::collections::BTreeSet;

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use super::{
    super::ImageError,
    layout::{MOST_PLANES, Scene, Voxel},
    unit::in_um,
};

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

fn unsupported(reason: impl Into<String>) -> ImageError {
    ImageError::Unsupported(reason.into())
}

/// Whether a description is OME-XML.
pub(super) fn is_ome(description: &str) -> bool {
    let text = description.trim_start_matches('\u{feff}').trim_start();
    text.starts_with('<') && ["<OME", ":OME "].iter().any(|name| text.contains(name))
}

/// An attribute of an element. What is no proper escape (`DAPI & GFP`) stands for itself.
fn attribute(element: &BytesStart, name: &str) -> Result<Option<String>, ImageError> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| damaged(format!("its OME-XML is broken: {error}")))?;
        if attribute.key.local_name().as_ref() == name {
            let text = quick_xml::escape::unescape(&attribute.value);
            return Ok(Some(text.map_or_else(|_| attribute.value.to_string(), std::borrow::Cow::into_owned)));
        }
    }
    Ok(None)
}

fn number(element: &BytesStart, name: &str) -> Result<Option<usize>, ImageError> {
    let Some(text) = attribute(element, name)? else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| damaged(format!("OME-XML says {name}=\"{text}\", which is no number")))
}

/// Where the planes of one `TiffData` element begin.
#[derive(Default)]
struct Run {
    page: Option<usize>,
    /// Z, C, T.
    first: [usize; 3],
    count: Option<usize>,
    /// The file that they lie in: its UUID and its name.
    file: Option<[String; 2]>,
}

/// One `Image`.
#[derive(Default)]
struct Image {
    name: String,
    /// Sizes X, Y, Z, C, T and the order; `None`: it has no `Pixels`.
    sizes: Option<([usize; 5], String)>,
    voxel: Voxel,
    channels: Vec<String>,
    /// Several samples in one pixel.
    colour: bool,
    runs: Vec<Run>,
}

/// How many times each plane may be placed, on average.
const MOST_REPEATS: usize = 16;

/// The scenes that lie in this file of so many pages.
pub(super) fn scenes(description: &str, pages: usize) -> Result<Vec<Scene>, ImageError> {
    let (own, mut images) = parse(description)?;
    let files: BTreeSet<[String; 2]> =
        images.iter().flat_map(|image| &image.runs).filter_map(|run| run.file.clone()).collect();
    // A file that was renamed is still the only one that is named.
    let is_own = |file: &[String; 2]| files.len() == 1 || own.as_ref().is_some_and(|own| *own == file[0]);
    let elsewhere = |run: &Run| run.file.as_ref().is_some_and(|file| !is_own(file));
    if images.iter().any(|image| image.runs.iter().any(elsewhere)) {
        let here = |image: &Image| image.runs.iter().any(|run| run.file.is_some() && !elsewhere(run));
        if images.iter().any(here) {
            images.retain(here);
        }
        if images.iter().any(|image| image.runs.iter().any(elsewhere)) {
            return Err(unsupported(format!("an image in {} files; save it as one file", files.len())));
        }
    }
    if images.is_empty() {
        return Err(damaged("its OME-XML has no pixels"));
    }
    images.into_iter().map(|image| scene(image, pages)).collect()
}

/// The UUID of the file itself, and its images.
fn parse(description: &str) -> Result<(Option<String>, Vec<Image>), ImageError> {
    let mut reader = Reader::from_str(description.trim_start_matches('\u{feff}'));
    // Programs write `a & b`.
    reader.config_mut().allow_dangling_amp = true;
    let (mut images, mut own) = (Vec::<Image>::new(), None);
    let mut parents: Vec<String> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|error| damaged(format!("its OME-XML is broken: {error}")))?;
        let (element, open) = match &event {
            Event::Start(element) => (element, true),
            Event::Empty(element) => (element, false),
            Event::End(_) => {
                parents.pop();
                continue;
            }
            Event::Text(text) if parents.last().is_some_and(|name| name == "UUID") => {
                let run = images.last_mut().and_then(|image| image.runs.last_mut());
                if let Some(Run { file: Some(file), .. }) = run {
                    text.trim().clone_into(&mut file[0]);
                }
                continue;
            }
            Event::Eof => break,
            _ => continue,
        };
        let name = element.local_name().as_ref().to_owned();
        match (parents.last().map_or("", String::as_str), name.as_str(), images.last_mut()) {
            (_, "BinaryOnly", _) => {
                return Err(unsupported(
                    "its description is in another file; give the file that holds it, saved as one",
                ));
            }
            ("", "OME", _) => own = attribute(element, "UUID")?,
            ("OME", "Image", _) if parents.len() == 1 => {
                images.push(Image { name: attribute(element, "Name")?.unwrap_or_default(), ..Image::default() });
            }
            // Annotations may hold elements of the same names.
            ("Image", "Pixels", Some(image)) if parents.len() == 2 => {
                let size = |name: &str| match number(element, name)? {
                    Some(size @ 1..=MOST_PLANES) => Ok(size),
                    Some(size) => Err(damaged(format!("OME-XML says {name}=\"{size}\""))),
                    None => Err(damaged(format!("OME-XML does not say {name}"))),
                };
                let order = attribute(element, "DimensionOrder")?.unwrap_or_else(|| "XYCZT".to_owned());
                image.sizes =
                    Some(([size("SizeX")?, size("SizeY")?, size("SizeZ")?, size("SizeC")?, size("SizeT")?], order));
                image.voxel = voxel(element)?;
            }
            ("Pixels", "Channel", Some(image)) if parents.len() == 3 => {
                image.colour |= number(element, "SamplesPerPixel")?.unwrap_or(1) > 1;
                image.channels.push(attribute(element, "Name")?.unwrap_or_default());
            }
            ("Pixels", "TiffData", Some(image)) if parents.len() == 3 => {
                let first = |axis: &str| Ok::<_, ImageError>(number(element, axis)?.unwrap_or(0));
                image.runs.push(Run {
                    page: number(element, "IFD")?,
                    first: [first("FirstZ")?, first("FirstC")?, first("FirstT")?],
                    count: number(element, "PlaneCount")?,
                    file: None,
                });
            }
            ("TiffData", "UUID", Some(image)) => {
                if let (Some(run), Some(name)) = (image.runs.last_mut(), attribute(element, "FileName")?) {
                    run.file = Some([String::new(), name]);
                }
            }
            _ => {}
        }
        if open {
            parents.push(name);
        }
    }
    Ok((own, images))
}

/// Physical sizes.
fn voxel(pixels: &BytesStart) -> Result<Voxel, ImageError> {
    let mut voxel = Voxel::default();
    for (at, axis) in ["Z", "Y", "X"].into_iter().enumerate() {
        let name = format!("PhysicalSize{axis}");
        let Some(text) = attribute(pixels, &name)? else { continue };
        let unit = attribute(pixels, &format!("{name}Unit"))?;
        let unit = unit.as_deref().map_or("µm", str::trim);
        // Programs write `0,26` where people do.
        let length = text.trim().replace(',', ".").parse::<f64>().ok();
        voxel.um[at] = length.and_then(|length| in_um(length, if unit.is_empty() { "µm" } else { unit }));
        if voxel.um[at].is_none() {
            voxel.said[at] = match unit {
                "µm" | "" => format!("`{name}` is `{}`", text.trim()),
                unit => format!("`{name}` is `{}` in `{unit}`", text.trim()),
            };
        }
    }
    Ok(voxel)
}

fn too_few(pages: usize, counts: [usize; 3]) -> ImageError {
    let [depth, channels, times] = counts;
    let times = if times > 1 { format!(" at {times} time points") } else { String::new() };
    damaged(format!("{pages} pages, where OME-XML says {channels} channels of {depth} planes{times}"))
}

fn scene(image: Image, pages: usize) -> Result<Scene, ImageError> {
    let Image { name, sizes, voxel, mut channels, colour, mut runs } = image;
    let Some(([width, height, depth, channel_count, times], order)) = sizes else {
        return Err(damaged("its OME-XML has no pixels"));
    };
    if colour {
        return Err(unsupported("several samples a pixel (a colour image)"));
    }
    let counts = [depth, channel_count, times];
    let planes = counts.iter().try_fold(1_usize, |product, &count| product.checked_mul(count));
    let planes = planes.filter(|planes| *planes <= MOST_PLANES).ok_or_else(|| too_few(pages, counts))?;
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
    if planes > pages && pages > 1 {
        return Err(too_few(pages, counts));
    }
    let mut places = vec![None; planes];
    let mut placed = 0;
    for run in runs {
        let count = run.count.unwrap_or(if run.page.is_some() { 1 } else { pages.max(planes) });
        let mut at = run.first;
        for step in 0..count.min(planes) {
            placed += 1;
            if placed > MOST_REPEATS * planes {
                return Err(damaged("OME-XML places its planes many times over"));
            }
            if (0..3).any(|axis| at[axis] >= counts[axis]) {
                return Err(damaged("OME-XML places a plane outside the image"));
            }
            let page = run.page.unwrap_or(0) + step;
            if page >= pages.max(if pages == 1 { planes } else { 0 }) {
                return Err(damaged(format!(
                    "OME-XML places a plane on page {page}, and the pages end at {}",
                    pages - 1
                )));
            }
            places[(at[2] * channel_count + at[1]) * depth + at[0]] = Some(page);
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
    channels.resize(channel_count, String::new());
    Ok(Scene { name, channels, depth, times, pages: places, voxel, claims: Some([height, width]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(order: &str, data: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><OME xmlns=\"x\" UUID=\"urn:uuid:1\"><Image ID=\"Image:0\" Name=\"one\"><Pixels \
             DimensionOrder=\"{order}\" SizeX=\"5\" SizeY=\"4\" SizeZ=\"3\" SizeC=\"2\" SizeT=\"1\" PhysicalSizeX=\"260\" \
             PhysicalSizeXUnit=\"nm\" PhysicalSizeY=\"0.26\" PhysicalSizeYUnit=\"&#181;m\" PhysicalSizeZ=\"1\" \
             PhysicalSizeZUnit=\"pixel\"><Channel Name=\"a &amp; b\"/><Channel/>{data}</Pixels></Image></OME>"
        )
    }

    fn one(text: &str, pages: usize) -> Result<Scene, ImageError> {
        scenes(text, pages).map(|mut scenes| {
            assert_eq!(scenes.len(), 1);
            scenes.remove(0)
        })
    }

    #[test]
    fn orders_and_runs() {
        let read = |order, data| one(&xml(order, data), 6).unwrap();
        let first = read("XYZCT", "<TiffData/>");
        assert_eq!(first.at(0).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(first.channels, ["a & b", ""]);
        assert_eq!(first.voxel.um, [None, Some(0.26), Some(0.26)]);
        assert_eq!(first.voxel.said[0], "`PhysicalSizeZ` is `1` in `pixel`");
        assert_eq!(read("XYCZT", "<TiffData IFD=\"0\" PlaneCount=\"6\"/>").at(0).unwrap(), [0, 2, 4, 1, 3, 5]);
        let single: String = (0..6)
            .map(|i| format!("<TiffData IFD=\"{}\" FirstC=\"{}\" FirstZ=\"{}\"/>", 5 - i, i / 3, i % 3))
            .collect();
        assert_eq!(read("XYZCT", &single).at(0).unwrap(), [5, 4, 3, 2, 1, 0]);
        let missing = read("XYZCT", "<TiffData IFD=\"0\"/>").at(0).unwrap_err().to_string();
        assert!(missing.contains("places 1 of its 6 planes"), "{missing}");
        let beyond = one(&xml("XYZCT", "<TiffData IFD=\"9\"/>"), 6).unwrap_err().to_string();
        assert!(beyond.contains("page 9") && beyond.contains("end at 5"), "{beyond}");
        assert!(one(&xml("XYZCT", "<TiffData/>"), 5).is_err(), "pages are missing");
        assert!(one(&xml("XYZZT", "<TiffData/>"), 6).is_err());
        let times = xml("XYZCT", "<TiffData/>").replace("SizeC=\"2\" SizeT=\"1\"", "SizeC=\"1\" SizeT=\"2\"");
        let times = one(&times.replace("<Channel/>", ""), 6).unwrap();
        assert_eq!((times.times, times.at(1).unwrap()), (2, vec![3, 4, 5]));
    }

    /// Each schema since 2010 in its own words: the version is in the namespace, prefixes come and go, units since 2015.
    #[test]
    fn every_schema_since_2010() {
        for version in ["2010-04", "2010-06", "2011-06", "2012-06", "2013-06", "2013-10-dev-3", "2015-01", "2016-06"] {
            for prefix in ["", "OME:"] {
                let namespace = format!("http://www.openmicroscopy.org/Schemas/OME/{version}");
                let xmlns = if prefix.is_empty() { "xmlns" } else { "xmlns:OME" };
                let unit = if version >= "2015" { " PhysicalSizeZUnit=\"nm\"" } else { "" };
                let z = if version >= "2015" { "290" } else { "0.29" };
                let p = prefix;
                let text = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- a comment -->\n<{p}OME {xmlns}=\"{namespace}\">\
                     <{p}Experimenter ID=\"Experimenter:0\"/><{p}Instrument ID=\"Instrument:0\"/><{p}Image ID=\"Image:0\" Name=\"f\">\
                     <{p}AcquisitionDate>2012-01-01T00:00:00</{p}AcquisitionDate><{p}Pixels ID=\"Pixels:0\" \
                     DimensionOrder=\"XYCZT\" Type=\"uint16\" SizeX=\"5\" SizeY=\"4\" SizeZ=\"3\" SizeC=\"2\" SizeT=\"1\" \
                     PhysicalSizeX=\"0.26\" PhysicalSizeY=\"0.26\" PhysicalSizeZ=\"{z}\"{unit}><{p}Channel ID=\"Channel:0:0\" \
                     Name=\"membrane\" SamplesPerPixel=\"1\"><{p}LightPath/></{p}Channel><{p}Channel ID=\"Channel:0:1\" \
                     Name=\"dna\"/><{p}TiffData FirstC=\"0\" FirstT=\"0\" FirstZ=\"0\" IFD=\"0\" PlaneCount=\"6\">\
                     <{p}UUID FileName=\"f.ome.tif\">urn:uuid:9</{p}UUID></{p}TiffData><{p}Plane TheZ=\"0\" TheC=\"0\" TheT=\"0\"/>\
                     </{p}Pixels></{p}Image><SA:StructuredAnnotations xmlns:SA=\"sa\"><SA:XMLAnnotation ID=\"A:0\"><SA:Value>\
                     <{p}Image><{p}Pixels/></{p}Image>x & y</SA:Value></SA:XMLAnnotation></SA:StructuredAnnotations></{p}OME>"
                );
                assert!(is_ome(&text), "{text}");
                let scene = one(&text, 6).unwrap_or_else(|error| panic!("{version} {prefix}: {error}"));
                assert_eq!(scene.at(0).unwrap(), [0, 2, 4, 1, 3, 5], "{version}");
                assert_eq!(scene.channels, ["membrane", "dna"]);
                let voxel = scene.voxel.whole().unwrap();
                assert!((voxel[0] - 0.29).abs() < 1e-12 && voxel[1] == 0.26, "{version}: {voxel:?}");
            }
        }
    }

    #[test]
    fn loose_writing_is_read_and_a_size_of_zero_is_none() {
        let loose = xml("XYZCT", "<TiffData/>").replace("a &amp; b", "DAPI & GFP");
        assert_eq!(one(&loose, 6).unwrap().channels[0], "DAPI & GFP");
        let comma = xml("XYZCT", "<TiffData/>").replace("\"0.26\"", "\"0,26\"");
        assert_eq!(one(&comma, 6).unwrap().voxel.um[1], Some(0.26));
        let zero = xml("XYZCT", "<TiffData/>")
            .replace("PhysicalSizeZ=\"1\" PhysicalSizeZUnit=\"pixel\"", "PhysicalSizeZ=\"0\"");
        let zero = one(&zero, 6).unwrap().voxel;
        assert_eq!((zero.um[0], zero.said[0].as_str()), (None, "`PhysicalSizeZ` is `0`"));
        assert!(one(&xml("XYZCT", "<TiffData")[..300], 6).unwrap_err().to_string().contains("OME-XML"));
    }

    /// Micro-Manager lists all positions in each file, and says by UUID which of them it holds.
    #[test]
    fn scenes_in_other_files_are_left_out() {
        let image = |number: usize, uuid: &str| {
            let data = format!(
                "<TiffData IFD=\"0\" PlaneCount=\"6\"><UUID FileName=\"p{number}.tif\">{uuid}</UUID></TiffData>"
            );
            let text = xml("XYZCT", &data).replace("Name=\"one\"", &format!("Name=\"p{number}\""));
            text[text.find("<Image").unwrap()..text.find("</OME>").unwrap()].to_owned()
        };
        let file =
            |own: &str| format!("<OME UUID=\"{own}\">{}{}</OME>", image(0, "urn:uuid:a"), image(1, "urn:uuid:b"));
        assert_eq!(one(&file("urn:uuid:b"), 6).unwrap().name, "p1");
        let unknown = scenes(&file("urn:uuid:c"), 6).unwrap_err().to_string();
        assert!(unknown.contains("in 2 files"), "{unknown}");
    }
}
