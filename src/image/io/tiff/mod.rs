//! TIFF: OME-TIFF, and what other microscopes and programs write.
//!
//! | read | not read: refused with the reason |
//! |---|---|
//! | OME-TIFF in one file, ImageJ, Micro-Manager, SCIFIO, MetaMorph stacks, tifffile, plain pages; classic and BigTIFF, either byte order | other forms of programs (LSM, SVS, NDPI, …), images over several files |
//! | 8, 16, 32, 64 bit whole numbers (none negative), 32 and 64 bit real numbers | colour images, white as zero, other depths |
//! | palettes that are a ramp of one colour; as labels any palette | other palettes |
//! | strips and tiles; none, LZW, deflate, PackBits, ZSTD; predictors 2 and 3 | JPEG and its kin, volumetric pages |
//!
//! Whatever the header says, nothing is read beyond the file, and no more memory is taken than the file could fill.

mod decode;
mod head;
mod page;
mod private;
mod write;

use super::{
    super::{ImageError, Stack, Unclear},
    asked::{Asked, Found},
    imagej,
    layout::{PageOrder, Scene, Voxel},
    ome,
    shaped::{self, Shaped},
};
use page::{File, Page, Palette};

pub use write::write;

/// Whether a file begins like a TIFF.
pub(super) fn is_tiff(bytes: &[u8]) -> bool {
    [&b"II\x2a\0"[..], b"II\x2b\0", b"MM\0\x2a", b"MM\0\x2b"].iter().any(|magic| bytes.starts_with(magic))
}

/// Every scene and time point that is asked for.
pub(super) fn read(bytes: &[u8], asked: &Asked) -> Result<Vec<Found>, ImageError> {
    let file = File::open(bytes)?;
    let pages = file.pages()?;
    let proper: Vec<usize> = (0..pages.len()).filter(|&page| pages[page].is_some()).collect();
    let Some(first) = proper.first().and_then(|&page| pages[page].as_ref()) else {
        return Err(ImageError::Damaged("it has no page".to_owned()));
    };
    private::refuse_closed(first)?;
    if first.palette == Palette::Colours && !asked.labels {
        return Err(ImageError::Unsupported("colours by a palette; save it as grey values".to_owned()));
    }
    let scenes = scenes(first, &pages, &proper, asked)?;
    let names: Vec<&str> = scenes.iter().map(|scene| scene.name.as_str()).collect();
    let mut found = Vec::new();
    for at in asked.scene.of(Unclear::Scenes, &names)? {
        let scene = &scenes[at];
        let times: Vec<String> = (0..scene.times).map(|time| time.to_string()).collect();
        for time in asked.time.of(Unclear::Times, &times.iter().map(String::as_str).collect::<Vec<_>>())? {
            found.push(Found {
                scene: (scenes.len() > 1).then_some(at),
                time: (scene.times > 1).then_some(time),
                ..image(file, first, &pages, scene, time)?
            });
        }
    }
    Ok(found)
}

/// One scene at one time.
fn image(file: File, first: &Page, pages: &[Option<Page>], scene: &Scene, time: usize) -> Result<Found, ImageError> {
    let places = scene.at(time)?;
    let contiguous;
    let chosen: Vec<&Page> = if pages.len() == 1 && scene.pages.len() > 1 {
        contiguous = contiguous_pages(file, first, scene.pages.len())?;
        places.iter().map(|&page| &contiguous[page]).collect()
    } else {
        let page = |&page: &usize| pages.get(page).and_then(Option::as_ref);
        let missing = || ImageError::Damaged("its description counts a thumbnail as a plane".to_owned());
        places.iter().map(|at| page(at).ok_or_else(missing)).collect::<Result<_, _>>()?
    };
    let Some(&own) = chosen.first() else { return Err(ImageError::Damaged("it has no plane".to_owned())) };
    if let Some([height, width]) = scene.claims
        && [height, width] != [own.height, own.width]
    {
        return Err(ImageError::Damaged(format!(
            "its pages are {} × {} pixels, its description says {height} × {width}",
            own.height, own.width
        )));
    }
    let alike = |page: &&Page| (page.width, page.height, page.format) == (own.width, own.height, own.format);
    if !chosen.iter().all(alike) {
        return Err(ImageError::Unsupported("pages of different sizes or pixel types".to_owned()));
    }
    let named = scene.channels.iter().any(|name| !name.is_empty());
    let channels = scene.channels.iter().enumerate();
    let channels = channels.map(|(i, name)| if name.is_empty() { i.to_string() } else { name.clone() }).collect();
    let stack = Stack {
        channels,
        size: [scene.depth, own.height, own.width],
        voxel_um: scene.voxel.whole(),
        pixels: decode::pixels(file, &chosen)?,
    };
    Ok(Found { stack, voxel: scene.voxel.clone(), named, scene: None, time: None })
}

/// What the pages are: as somebody says who knows better, else as the file says.
fn scenes(first: &Page, pages: &[Option<Page>], proper: &[usize], asked: &Asked) -> Result<Vec<Scene>, ImageError> {
    let told = told(first, pages.len(), proper);
    // Pages in the order of the file, whatever it says of them.
    let regular = |order: PageOrder, channels: usize, voxel: Voxel, contiguous: Option<usize>| {
        let count = contiguous.filter(|_| pages.len() == 1).unwrap_or(proper.len());
        if channels == 0 || !count.is_multiple_of(channels) {
            let them = if channels == 1 { "channel" } else { "channels" };
            return Err(ImageError::Shape(format!(
                "{count} pages cannot hold {channels} {them} of as many planes each"
            )));
        }
        let mut scene = Scene { voxel, ..Scene::ordered(channels, count / channels, order) };
        if pages.len() > 1 {
            scene.pages.iter_mut().for_each(|page| *page = page.and_then(|page| proper.get(page).copied()));
        }
        Ok(vec![scene])
    };
    if let Some(order) = asked.axes {
        let known = told.as_ref().ok().and_then(|told| told.scenes.as_ref()).and_then(|scenes| scenes.first());
        let voxel = known.map(|scene| scene.voxel.clone()).unwrap_or_default();
        let planes = match &told {
            Ok(Told { unnamed: Some(sizes), .. }) => Some(sizes.iter().product()),
            _ => known.map(|scene| scene.pages.len()).or(first.private.metamorph.as_ref().map(|stack| stack.planes)),
        };
        let channels = asked.channels.unwrap_or(1);
        return regular(order, channels, voxel, planes);
    }
    match told? {
        Told { scenes: Some(scenes), .. } => Ok(scenes),
        Told { unnamed: Some(sizes), .. } => {
            let planes: usize = sizes.iter().product();
            match asked.channels {
                Some(channels) if channels == 1 || channels == planes => {
                    regular(PageOrder::Czyx, channels, Voxel::default(), Some(planes))
                }
                _ => Err(ImageError::Unclear(
                    Unclear::Order,
                    format!("pages of a shape {sizes:?} that may be channels or planes"),
                )),
            }
        }
        // Plain pages are planes; so many channels as pages have one plane each, whatever their order.
        Told { .. } => {
            let channels = asked.channels.filter(|&channels| channels == proper.len()).unwrap_or(1);
            regular(PageOrder::Czyx, channels, Voxel::default(), None)
        }
    }
}

/// What a file says of its pages.
#[derive(Default)]
struct Told {
    /// Its images; `None`: it does not say.
    scenes: Option<Vec<Scene>>,
    /// Outer axes without names.
    unnamed: Option<Vec<usize>>,
}

fn told(first: &Page, pages: usize, proper: &[usize]) -> Result<Told, ImageError> {
    // OME-XML counts every page; other programs know of no thumbnails.
    if let Some(xml) = first.descriptions.iter().find(|text| ome::is_ome(text)) {
        return Ok(Told { scenes: Some(ome::scenes(xml, pages)?), ..Told::default() });
    }
    let count = proper.len();
    let mut told = Told::default();
    if let Some(lines) = first.descriptions.iter().find(|text| imagej::is_imagej(text)) {
        told.scenes = Some(vec![imagej::scene(lines, count, first.resolution)?]);
    } else if let Some(json) = first.descriptions.iter().find(|text| shaped::is_shaped(text)) {
        match shaped::scene(json, count)? {
            Some(Shaped::Axes(scene)) => told.scenes = Some(vec![scene]),
            Some(Shaped::Unnamed(sizes)) => told.unnamed = Some(sizes),
            None => {}
        }
    }
    if told.scenes.is_none() && told.unnamed.is_none() {
        told.scenes = private::scene(first, count)?.map(|scene| vec![scene]);
    }
    for page in told.scenes.iter_mut().flatten().flat_map(|scene| &mut scene.pages) {
        if pages > 1 {
            *page = page.and_then(|page| proper.get(page).copied());
        }
    }
    Ok(told)
}

/// ImageJ, tifffile and MetaMorph write stacks as one page with the pixels of all planes behind each other.
fn contiguous_pages(file: File, first: &Page, count: usize) -> Result<Vec<Page>, ImageError> {
    let row = first.width * first.format.bytes();
    let plane = row * first.height;
    let mut end = first.chunks[0][0];
    let gapless = first.chunks.iter().all(|&[offset, length]| {
        let follows = offset == end;
        end = offset + length;
        follows
    });
    if first.compression != 1 || first.tiled || !gapless {
        return Err(ImageError::Damaged(format!("one page, where its description says {count}")));
    }
    // Before anything is made for each of them.
    file.slice(first.chunks[0][0], plane.saturating_mul(count))?;
    let page = |index| Page {
        chunk: [first.height, first.width],
        chunks: vec![[first.chunks[0][0] + index * plane, plane]],
        descriptions: Vec::new(),
        ..first.clone()
    };
    Ok((0..count).map(page).collect())
}
