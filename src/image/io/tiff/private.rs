//! TIFFs of programs with a form of their own: known by a tag or by how the description begins. None is ever read as plain pages.

use super::{
    super::{
        super::{ImageError, Unclear},
        layout::{Axis, MOST_PLANES, Scene},
    },
    page::Page,
};

/// Forms whose pages are whole planes, but in an order that is not read here: (tag, or the description's beginning; the name).
const ORDERED: [(u16, &str, &str); 9] = [
    (34361, "", "Olympus FluoView"),
    (33560, "", "Olympus Soft Imaging"),
    (51123, "", "Micro-Manager, without its description"),
    (33445, "", "Molecular Dynamics GEL"),
    (37706, "", "TVIPS"),
    (4869, "", "Andor"),
    (0, "SI.", "ScanImage"),
    (0, "state.configPath", "ScanImage"),
    (0, "[Acquisition Parameters]", "Olympus FluoView"),
];

/// Forms with pyramids, thumbnails or packed channels among their pages.
const CLOSED: [(u16, &str, &str); 9] = [
    (34412, "", "Zeiss LSM"),
    (65420, "", "Hamamatsu NDPI"),
    (0, "Aperio", "Aperio SVS"),
    (0, "<scn", "Leica SCN"),
    (0, "<?xml version=\"1.0\"?><scn", "Leica SCN"),
    (0, "<PerkinElmer-QPI", "PerkinElmer QPTIFF"),
    (0, "<?xml version=\"1.0\" encoding=\"utf-16\"?>\r\n<PerkinElmer-QPI", "PerkinElmer QPTIFF"),
    (0, "<DataObject ObjectType=\"DPUfsImport\"", "Philips TIFF"),
    (0, "ImarisDataSet", "Imaris TIFF"),
];

fn known(list: &[(u16, &str, &'static str)], page: &Page) -> Option<&'static str> {
    let begins =
        |start: &str| !start.is_empty() && page.descriptions.iter().any(|text| text.trim_start().starts_with(start));
    let found = list.iter().find(|(tag, start, _)| page.private.tags.contains(tag) || begins(start));
    found.map(|(_, _, name)| *name)
}

/// Refuses forms that nobody can say the order of.
pub(super) fn refuse_closed(page: &Page) -> Result<(), ImageError> {
    match known(&CLOSED, page) {
        Some(name) => Err(ImageError::Unsupported(format!("{name}; save it as OME-TIFF in the program that wrote it"))),
        None => Ok(()),
    }
}

/// The planes of a form that is known; `None`: it is none of them.
pub(super) fn scene(page: &Page, pages: usize) -> Result<Option<Scene>, ImageError> {
    if let Some(metamorph) = &page.private.metamorph {
        return metamorph_scene(metamorph.planes, metamorph.times, metamorph.channels, pages).map(Some);
    }
    match known(&ORDERED, page) {
        Some(name) => {
            let reason =
                format!("it is of a form that is not read here ({name}), and its {pages} pages may be in any order");
            Err(ImageError::Unclear(Unclear::Order, reason))
        }
        None => Ok(None),
    }
}

/// MetaMorph's stack: one directory, planes behind each other, counted by `UIC2Tag`.
fn metamorph_scene(planes: usize, times: bool, channels: bool, pages: usize) -> Result<Scene, ImageError> {
    if !(1..=MOST_PLANES).contains(&planes) {
        return Err(ImageError::Damaged(format!("MetaMorph says {planes} planes")));
    }
    let planes = match (planes, pages) {
        (1, pages) => pages,
        (planes, 1) => planes,
        _ => {
            let reason = format!("a MetaMorph stack of {planes} planes in a file of {pages} pages");
            return Err(ImageError::Unsupported(reason));
        }
    };
    if channels {
        let reason = format!("a MetaMorph stack whose {planes} planes are of several wavelengths");
        return Err(ImageError::Unclear(Unclear::Order, reason));
    }
    Ok(Scene::regular(&[(if times { Axis::T } else { Axis::Z }, planes)]))
}
