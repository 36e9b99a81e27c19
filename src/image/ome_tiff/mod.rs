//! OME-TIFF, and other TIFFs that microscopes and programs write.
//!
//! | read | not read: refused with the reason |
//! |---|---|
//! | OME-TIFF in one file, ImageJ, tifffile, plain pages; classic and BigTIFF, either byte order | several images, files or time points |
//! | 8, 16, 32, 64 bit whole numbers (none negative), 32 and 64 bit real numbers | colour images, palettes, white as zero, other depths |
//! | strips and tiles; none, LZW, deflate, PackBits, ZSTD; predictors 2 and 3 | JPEG and its kin, volumetric pages |
//!
//! Whatever the header says, nothing is read beyond the file, and no more memory is taken than the file could fill.

mod chunks;
mod directory;
mod metadata;
mod write;

use rayon::prelude::*;

use super::{ImageError, Pixels, Stack};
use directory::{Compression, File, Page};
use metadata::Layout;

pub use metadata::PageOrder;
pub use write::write;

/// What a file may not say of itself, or say wrongly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The number of channels, and the order of the pages where there are several.
    pub channels: Option<(usize, PageOrder)>,
}

/// Reads a TIFF from memory. Channels without a name are called `0`, `1`, …
///
/// # Errors
/// [`ImageError::Damaged`] or [`ImageError::Unsupported`], with the reason.
pub fn read(bytes: &[u8]) -> Result<Stack, ImageError> {
    read_with(bytes, Hints::default())
}

/// [`read`], for a file that does not say what its pages are.
///
/// # Errors
/// As there.
pub fn read_with(bytes: &[u8], hints: Hints) -> Result<Stack, ImageError> {
    let (file, first) = File::open(bytes)?;
    let pages = file.pages(first)?;
    let proper: Vec<usize> = (0..pages.len()).filter(|&page| pages[page].is_some()).collect();
    let Some(first) = proper.first().and_then(|&page| pages[page].as_ref()) else {
        return Err(ImageError::Damaged("it has no page".to_owned()));
    };
    let layout = layout_of(first, &pages, &proper, hints)?;
    if let Some([height, width]) = layout.claims
        && [height, width] != [first.height, first.width]
    {
        return Err(ImageError::Damaged(format!(
            "its pages are {} × {} pixels, its description says {height} × {width}",
            first.height, first.width
        )));
    }

    let contiguous;
    let chosen: Vec<&Page> = if pages.len() == 1 && layout.pages.len() > 1 {
        contiguous = contiguous_pages(file, first, layout.pages.len())?;
        layout.pages.iter().map(|&page| &contiguous[page]).collect()
    } else {
        let page = |&page: &usize| pages.get(page).and_then(Option::as_ref);
        let missing = || ImageError::Damaged("its description counts a thumbnail as a plane".to_owned());
        layout.pages.iter().map(|at| page(at).ok_or_else(missing)).collect::<Result<_, _>>()?
    };
    let alike = |page: &&Page| (page.width, page.height, page.format) == (first.width, first.height, first.format);
    if !chosen.iter().all(alike) {
        return Err(ImageError::Unsupported("pages of different sizes or pixel types".to_owned()));
    }

    let channels = layout.channels.iter().enumerate();
    let channels = channels.map(|(i, name)| if name.is_empty() { i.to_string() } else { name.clone() }).collect();
    let voxel_um = match layout.voxel_um {
        [Some(z), Some(y), Some(x)] => Some([z, y, x]),
        _ => None,
    };
    let pixels = pixels(file, &chosen)?;
    Ok(Stack { channels, size: [layout.depth, first.height, first.width], voxel_um, pixels })
}

fn layout_of(first: &Page, pages: &[Option<Page>], proper: &[usize], hints: Hints) -> Result<Layout, ImageError> {
    // OME-XML counts every page; other programs know of no thumbnails.
    let ome = metadata::is_ome(&first.description);
    let count = if ome { pages.len() } else { proper.len() };
    let told = metadata::layout(&first.description, count, first.resolution)?;
    let mut layout = match (hints.channels, told) {
        (Some((channels, order)), told) => {
            let planes = told.as_ref().map_or(count, |layout| layout.pages.len());
            if channels == 0 || !planes.is_multiple_of(channels) {
                return Err(ImageError::Shape(format!("{planes} pages cannot hold {channels} channels")));
            }
            let told = told.unwrap_or_default();
            Layout {
                voxel_um: told.voxel_um,
                claims: told.claims,
                ..Layout::regular(channels, planes / channels, order)
            }
        }
        (None, Some(told)) => told,
        (None, None) if metadata::is_shaped(&first.description) => {
            return Err(ImageError::Unsupported(
                "pages that may be channels or planes; say which by `axes` and `channels`".to_owned(),
            ));
        }
        (None, None) => Layout::regular(1, count, PageOrder::Czyx),
    };
    if !ome && pages.len() > 1 {
        for page in &mut layout.pages {
            *page = *proper.get(*page).ok_or_else(|| ImageError::Damaged("pages are missing".to_owned()))?;
        }
    }
    Ok(layout)
}

/// ImageJ and tifffile write large stacks as one page with the pixels of all planes behind each other.
fn contiguous_pages(file: File, first: &Page, count: usize) -> Result<Vec<Page>, ImageError> {
    let row = first.width * first.format.bytes();
    let plane = row * first.height;
    let mut end = first.chunks[0][0];
    let gapless = first.chunks.iter().all(|&[offset, length]| {
        let follows = offset == end;
        end = offset + length;
        follows
    });
    if first.compression != Compression::None || first.tiled || !gapless {
        return Err(ImageError::Damaged(format!("one page, where its description says {count}")));
    }
    // Before anything is made for each of them.
    file.slice(first.chunks[0][0], plane.saturating_mul(count))?;
    let page = |index| Page {
        width: first.width,
        height: first.height,
        format: first.format,
        compression: first.compression,
        predictor: first.predictor,
        chunk: [first.height, first.width],
        tiled: false,
        chunks: vec![[first.chunks[0][0] + index * plane, plane]],
        description: String::new(),
        resolution: first.resolution,
    };
    Ok((0..count).map(page).collect())
}

/// Memory that a file may always fill, and how much more for each of its bytes: deflate and LZW shrink at most a thousandfold, ZSTD
/// farther, but not pictures.
const ALWAYS: usize = 16 << 20;
const PER_BYTE: usize = 2048;
/// Pages that are unpacked at a time.
const BATCH: usize = 64;

fn pixels(file: File, pages: &[&Page]) -> Result<Pixels, ImageError> {
    let limit = file.bytes.len().saturating_mul(PER_BYTE).saturating_add(ALWAYS);
    let total = |bytes: fn(&Page) -> usize| pages.iter().map(|page| bytes(page)).fold(0, usize::saturating_add);
    let bytes = total(Page::bytes);
    // Tiles reach beyond their page, perhaps far, and may share what they point at.
    let unpacked = bytes.max(total(Page::unpacked_bytes));
    if unpacked > limit {
        return Err(ImageError::Damaged(format!(
            "it says {unpacked} bytes of pixels, more than a file of {} bytes can hold",
            file.bytes.len()
        )));
    }
    let mut all: Option<Pixels> = None;
    for batch in pages.chunks(BATCH) {
        let planes: Vec<_> = batch.par_iter().map(|page| chunks::plane(file, page)).collect();
        for plane in planes {
            let plane = plane?;
            all = Some(match all {
                None => reserved(plane, bytes),
                Some(all) => joined(all, plane),
            });
        }
    }
    all.ok_or_else(|| ImageError::Damaged("it has no plane".to_owned()))
}

/// The first plane, with room for the others.
fn reserved(plane: Pixels, bytes: usize) -> Pixels {
    macro_rules! room {
        ($pixels:expr, $kind:ident) => {{
            let mut all = $pixels;
            let size = size_of_val(&all[0]);
            all.reserve_exact((bytes / size).saturating_sub(all.len()));
            Pixels::$kind(all)
        }};
    }
    match plane {
        Pixels::U8(pixels) => room!(pixels, U8),
        Pixels::U16(pixels) => room!(pixels, U16),
        Pixels::U32(pixels) => room!(pixels, U32),
        Pixels::F32(pixels) => room!(pixels, F32),
    }
}

fn joined(all: Pixels, plane: Pixels) -> Pixels {
    macro_rules! join {
        ($all:expr, $plane:expr, $kind:ident) => {{
            let mut all = $all;
            all.extend_from_slice(&$plane);
            Pixels::$kind(all)
        }};
    }
    match (all, plane) {
        (Pixels::U8(all), Pixels::U8(plane)) => join!(all, plane, U8),
        (Pixels::U16(all), Pixels::U16(plane)) => join!(all, plane, U16),
        (Pixels::U32(all), Pixels::U32(plane)) => join!(all, plane, U32),
        (Pixels::F32(all), Pixels::F32(plane)) => join!(all, plane, F32),
        _ => unreachable!("pages of one format give pixels of one type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pixels: Pixels) -> Stack {
        Stack {
            channels: vec!["membrane".to_owned(), "DNA <&\"> µ".to_owned()],
            size: [3, 4, 5],
            voxel_um: Some([0.29, 0.26, 0.26]),
            pixels,
        }
    }

    #[test]
    fn round_trip() {
        let labels = (0..120_u32).map(|i| i * 70_000).collect();
        let real = (0..120_u16).map(|i| f32::from(i) / 7.0).collect();
        for pixels in
            [Pixels::U8((0..120).collect()), Pixels::U16((500..620).collect()), Pixels::U32(labels), Pixels::F32(real)]
        {
            let stack = sample(pixels);
            let bytes = write(&stack).unwrap();
            assert_eq!(read(&bytes).unwrap(), stack);
            assert_eq!(bytes, write(&stack).unwrap(), "stable bytes");
        }
        let mut short = sample(Pixels::U8(vec![0; 119]));
        assert!(write(&short).is_err());
        short.voxel_um = None;
        short.pixels = Pixels::U8(vec![0; 120]);
        assert_eq!(read(&write(&short).unwrap()).unwrap().voxel_um, None);
    }

    /// Files that tifffile wrote, with what they hold: see `tests/fixtures/tiff/make.py`.
    #[test]
    fn variants() {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiff"));
        let list = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
        let mut count = 0;
        for line in list.lines().skip(1) {
            let [name, verdict, channels, size, voxel, sum, weighted]: [&str; 7] =
                line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            let result = read(&std::fs::read(folder.join(name)).unwrap());
            count += 1;
            if verdict != "read" {
                let error = result.expect_err(name).to_string();
                assert!(error.contains(verdict), "{name}: {error}");
                continue;
            }
            let stack = result.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(stack.channels.join(","), channels, "{name}");
            assert_eq!(format!("{:?}", stack.size), size, "{name}");
            let told = stack.voxel_um.map_or("none".to_owned(), |v| format!("{:.3} {:.3} {:.3}", v[0], v[1], v[2]));
            assert_eq!(told, voxel, "{name}");
            let values: Vec<f64> =
                (0..stack.channels.len()).flat_map(|channel| stack.channel_f32(channel).data).map(f64::from).collect();
            let place = |(at, value): (usize, &f64)| (at % 1013) as f64 * value;
            assert_eq!(format!("{:.1}", values.iter().sum::<f64>()), sum, "{name}");
            assert_eq!(format!("{:.1}", values.iter().enumerate().map(place).sum::<f64>()), weighted, "{name}");
        }
        assert!(count >= 60, "{count} files");
    }

    #[test]
    fn hints_say_what_the_file_does_not() {
        let stack = Stack { channels: vec!["0".into()], voxel_um: None, ..sample(Pixels::U8((0..120).collect())) };
        let stack = Stack { size: [6, 4, 5], ..stack };
        let bytes = write(&stack).unwrap();
        let read = |channels, order| read_with(&bytes, Hints { channels: Some((channels, order)) });
        assert_eq!(read(2, PageOrder::Czyx).unwrap().pixels, stack.pixels);
        let zcyx = read(2, PageOrder::Zcyx).unwrap();
        assert_eq!((zcyx.size, zcyx.channels.len()), ([3, 4, 5], 2));
        assert_eq!(zcyx.channel_f32(1).data[0], 20.0);
        assert!(read(4, PageOrder::Czyx).is_err());
    }

    /// Whatever bytes are changed: an image or an error, quickly and in little memory.
    #[test]
    fn mutations_do_no_harm() {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiff"));
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.extension().is_some_and(|suffix| suffix == "tif") && !path.ends_with("empty.tif"));
        names.sort();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as usize) % below
        };
        let mut refused = 0;
        for round in 0..400 {
            let mut bytes = std::fs::read(&names[round % names.len()]).unwrap();
            for _ in 0..=random(4) {
                // Mostly in the header and the directory, which lie at the beginning.
                let at = if random(3) > 0 { random(bytes.len().min(600)) } else { random(bytes.len()) };
                match random(4) {
                    0 => bytes[at] ^= 1 << random(8),
                    1 => bytes[at] = 0xFF,
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes[at] = random(256) as u8,
                }
            }
            let limit = ALWAYS + PER_BYTE * bytes.len();
            match read(&bytes) {
                Ok(stack) => assert!(stack.pixels.len() <= limit),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 50, "{refused}");
    }
}
