//! Broken images and manifests: an answer or an error, no panic, no hang, and no more memory than the file could fill.

#![allow(unsafe_code, reason = "counts what is allocated")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use statcell::{
    image::{ImageError, Pixels, Stack, io},
    stage::{Context, FileInput, Host, Inputs, Item, Numerics, Outputs, Progress, StageError},
    stages,
    store::{Blobs, Digest, MemoryBlobs, Tree},
};

/// Notes the largest piece of memory that was asked for.
struct Noting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// The tests share the note of the largest piece: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No piece of memory for a fixture of a few KiB may be larger: what the reader always allows, and some for its file.
const LARGEST_ALLOWED: usize = 64 << 20;

/// The answer and the largest piece of memory it took; fails when there is none within the time.
fn watched<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    LARGEST.store(0, Ordering::Relaxed);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(f()));
    let answer = receiver
        .recv_timeout(Duration::from_secs(20))
        .unwrap_or_else(|error| panic!("{what}: {error}: it panicked or hangs"));
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest <= LARGEST_ALLOWED, "{what}: {largest} bytes at once");
    answer
}

/// Reproducible numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiff"));
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "tif") && !path.ends_with("empty.tif"));
    paths.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// Where the entries of the first directory of a classic little-endian TIFF lie.
fn entries(bytes: &[u8]) -> Vec<usize> {
    let Some(first) = bytes.get(4..8).filter(|_| bytes.starts_with(b"II*\0")) else { return Vec::new() };
    let first = u32::from_le_bytes(first.try_into().unwrap()) as usize;
    let Some(count) = bytes.get(first..first + 2) else { return Vec::new() };
    let count = usize::from(u16::from_le_bytes(count.try_into().unwrap()));
    (0..count).map(|entry| first + 2 + entry * 12).filter(|at| at + 12 <= bytes.len()).collect()
}

/// Changes a file in one of several ways that files get broken, or break those who trust them.
fn break_tiff(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let entries = entries(bytes);
    match dice.below(6) {
        0 => {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        1 => bytes.truncate(1 + dice.below(bytes.len())),
        // The value, offset or count of a tag: a number from anywhere, a huge one, or that of another tag.
        2 | 3 if !entries.is_empty() => {
            let entry = entries[dice.below(entries.len())] + [4, 8][dice.below(2)];
            let other = entries[dice.below(entries.len())] + [4, 8][dice.below(2)];
            let number = match dice.below(4) {
                0 => u32::MAX.to_le_bytes(),
                1 => (dice.below(1 << 31) as u32).to_le_bytes(),
                2 => (dice.below(2 * bytes.len()) as u32).to_le_bytes(),
                _ => bytes[other..other + 4].try_into().unwrap(),
            };
            bytes[entry..entry + 4].copy_from_slice(&number);
        }
        // The kind or the type of a tag.
        4 if !entries.is_empty() => {
            let entry = entries[dice.below(entries.len())] + dice.below(4);
            bytes[entry] = dice.below(256) as u8;
        }
        // A digit of a description: counts, shapes, sizes.
        _ => {
            let digits: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                bytes[digits[dice.below(digits.len())]] = b"0123456789-.e"[dice.below(13)];
            }
        }
    }
}

/// What the fuzzer found worth keeping: see `fuzz/README.md`.
#[test]
fn seeds_of_the_fuzzer_do_no_harm() {
    let _alone = alone();
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/image"));
    let paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(paths.len() > 10, "{} seeds", paths.len());
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let _ = watched(&path.display().to_string(), move || io::read(&bytes));
    }
}

#[test]
fn broken_tiffs_do_no_harm() {
    let _alone = alone();
    let (fixtures, mut dice) = (fixtures(), Dice(615));
    let (mut read, mut refused) = (0, 0);
    for round in 0..600 {
        let (name, bytes) = &fixtures[round % fixtures.len()];
        let mut bytes = bytes.clone();
        for _ in 0..=dice.below(3) {
            break_tiff(&mut bytes, &mut dice);
        }
        match watched(&format!("{name}, round {round}"), move || io::read(&bytes)) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 50 && refused > 200, "{read} read, {refused} refused");
}

/// A classic little-endian TIFF of one directory: (tag, type, count, value) and bytes behind it, which begin at the place given back.
fn tiff(tags: &[(u16, u16, u32, u32)], behind: &[u8]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in tags {
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes.extend(behind);
    bytes
}

#[test]
fn dimensions_that_lie_are_refused_before_memory_is_taken() {
    let _alone = alone();
    let (strips, tiles) = ([273, 279], [324, 325]);
    let page = |width, height, [offsets, lengths]: [u16; 2], more: &[(u16, u16, u32, u32)], description: &str| {
        let count = 8 + more.len() as u32 + u32::from(!description.is_empty());
        let behind = 8 + 2 + 12 * count + 4;
        let mut tags = vec![
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, 1, 8),
            (262, 3, 1, 1),
            (277, 3, 1, 1),
            (offsets, 4, 1, behind),
            (lengths, 4, 1, 64),
            (259, 3, 1, 1),
        ];
        tags.extend_from_slice(more);
        if !description.is_empty() {
            tags.push((270, 2, description.len() as u32, behind + 64));
        }
        tiff(&tags, &[[7; 64].as_slice(), description.as_bytes()].concat())
    };
    assert!(io::read(&page(8, 8, strips, &[], "")).is_ok(), "what is not a lie is read");

    let long = format!("{{\"shape\": [1048576, 1, 1], \"axes\": \"ZYX\", \"x\": \"{}\"}}", "y".repeat(100_000));
    let ome = |data: &str| {
        format!(
            "<OME><Image><Pixels DimensionOrder=\"XYZCT\" SizeX=\"8\" SizeY=\"8\" SizeZ=\"1048576\" SizeC=\"1\" \
             SizeT=\"1\">{data}</Pixels></Image></OME>"
        )
    };
    let lies = [
        ("a wide page", page(1 << 20, 1 << 20, strips, &[], "")),
        ("a page of all bits", page(u32::MAX, u32::MAX, strips, &[], "")),
        ("a huge tile", page(8, 8, tiles, &[(322, 4, 1, 1 << 20), (323, 4, 1, 1 << 20)], "")),
        ("deflate", {
            let mut bytes = page(1 << 20, 1 << 20, strips, &[], "");
            let at = bytes.windows(4).position(|tag| tag == [3, 1, 3, 0]).unwrap();
            bytes[at + 8] = 8;
            bytes
        }),
        ("a million pages in one, by ImageJ", page(8, 8, strips, &[], "ImageJ=1\nimages=1048576\nslices=1048576\n")),
        ("a million pages in one, by a shape", page(1, 1, strips, &[], &long)),
        ("a million planes, by OME-XML", page(8, 8, strips, &[], &ome(""))),
        (
            "a million planes, placed again and again",
            page(8, 8, strips, &[], &ome(&"<TiffData IFD=\"0\" PlaneCount=\"1048576\"/>".repeat(20_000))),
        ),
    ];
    for (what, bytes) in lies {
        let result = watched(what, move || io::read(&bytes));
        assert!(matches!(result, Err(ImageError::Damaged(_))), "{what}: {result:?}");
    }

    // Tiles that reach far beyond the page and are all one and the same deflated chunk: a terabyte of zeros to unpack.
    let (tiles, columns, rows) = (1_u32 << 16, 16, 1_u32 << 20);
    let mut chunk = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut chunk, &vec![0; (columns * rows) as usize]).unwrap();
    let chunk = chunk.finish().unwrap();
    let behind = 8 + 2 + 12 * 8 + 4;
    let lengths = behind + 4 * tiles;
    let tags = [
        (256, 4, 1, tiles * columns),
        (257, 4, 1, 1),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (322, 4, 1, columns),
        (323, 4, 1, rows),
        (324, 4, tiles, behind),
        (325, 4, tiles, lengths),
    ];
    let offsets = (lengths + 4 * tiles).to_le_bytes().repeat(tiles as usize);
    let lengths = (chunk.len() as u32).to_le_bytes().repeat(tiles as usize);
    let bytes = tiff(&tags, &[offsets, lengths, chunk].concat());
    let result = watched("tiles that share", move || io::read(&bytes));
    assert!(matches!(result, Err(ImageError::Damaged(_))), "{:?}", result.err());

    // A chain of directories that all point at one long list.
    let (pages, chunks) = (20_000_u32, 60_000_u32);
    let length = 2 + 12 * 6 + 4;
    let list = 8 + pages * length;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    for page in 0..pages {
        bytes.extend(6_u16.to_le_bytes());
        let tags = [(256, 1), (257, chunks), (258, 8), (278, 1), (273, list), (279, list)];
        for (tag, value) in tags {
            let count = if tag == 273 || tag == 279 { chunks } else { 1 };
            bytes.extend([u16::to_le_bytes(tag), 4_u16.to_le_bytes()].concat());
            bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        }
        let next = if page + 1 < pages { 8 + (page + 1) * length } else { 0 };
        bytes.extend(next.to_le_bytes());
    }
    bytes.extend(1_u32.to_le_bytes().repeat(chunks as usize));
    let result = watched("directories that share", move || io::read(&bytes));
    assert!(matches!(result, Err(ImageError::Damaged(_))), "{:?}", result.err());
}

/// A host in memory that keeps no results of items.
#[derive(Default)]
struct Memory(MemoryBlobs);

impl Host for Memory {
    fn blobs(&self) -> &dyn Blobs {
        &self.0
    }

    fn numerics(&self) -> Numerics {
        Numerics::CPU
    }

    fn progress(&self, _: Progress) {}

    fn note(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        false
    }

    fn recall(&self, _: &Item) -> Option<Tree> {
        None
    }

    fn remember(&self, _: &Item, _: &Tree) -> Result<(), StageError> {
        Ok(())
    }

    fn load_checkpoint(&self, _: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
        Ok(None)
    }

    fn save_checkpoint(&self, _: u64, _: &[u8], _: bool) -> Result<(), StageError> {
        Ok(())
    }

    fn scratch(&self) -> Result<PathBuf, StageError> {
        Err(StageError::bad_input("no folder here"))
    }
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> FileInput {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    FileInput { name: name.to_owned(), path, digest: Digest::of(bytes) }
}

fn import(manifest: FileInput, images: Vec<FileInput>) -> Result<Outputs, StageError> {
    let parameters = serde_json::json!({
        "size": [8, 16, 12], "voxel-size": 0.317, "file-voxel-size": null, "dataset": ""
    });
    let files = BTreeMap::from([("manifest".to_owned(), vec![manifest]), ("images".to_owned(), images)]);
    let host = Memory::default();
    let stage = stages::find("import-cells").expect("a stage kind");
    stage.run(&parameters, &Inputs { files, ..Inputs::default() }, &Context::new(&host))
}

/// A stack whose channels are boxes.
fn boxes(channels: &[&str], size: [usize; 3]) -> Vec<u8> {
    let [depth, height, width] = size;
    let inside = |at: usize, length: usize| (2..length - 2).contains(&at);
    let one = |at: usize| {
        inside(at / (height * width), depth) && inside(at / width % height, height) && inside(at % width, width)
    };
    let pixels = (0..depth * height * width).map(|at| if one(at) { 200 } else { 0 }).collect::<Vec<u8>>();
    let channels: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
    let pixels = Pixels::U8(pixels.repeat(channels.len()));
    io::write(&Stack { channels, size, voxel_um: Some([0.317; 3]), pixels }).unwrap()
}

const ALIGNED: &str = "CellId,StructureId/Name,save_reg_path,ch_dna,ch_memb,ch_seg_cell,ch_seg_nuc,ch_struct,ch_trans\n\
    12.0,Golgi,/x/images/a.tif,2,3,1,0,4,5\n7,Lysosome,images/b.tif,2,3,1,0,4,5\n";
const CROPS: &str = "CellId,structure_name,crop_raw,crop_seg,name_dict,cell_stage,scale_micron\n\
    5,LMNB1,raw/r.tif,seg/s.tif,\"{'crop_raw': ['dna', 'membrane', 'gfp'], 'crop_seg': ['dna_segmentation', \
    'membrane_segmentation']}\",M4M5,\"[0.317, 0.317, 0.317]\"\n";

/// Changes a manifest: bytes, the end, lines and fields in other places, numbers that lie.
fn break_manifest(bytes: &mut Vec<u8>, dice: &mut Dice) {
    match dice.below(6) {
        0 => {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        1 => bytes.truncate(dice.below(bytes.len())),
        2 => {
            let commas: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] == b',').collect();
            if !commas.is_empty() {
                bytes.remove(commas[dice.below(commas.len())]);
            }
        }
        3 => {
            let mut fields: Vec<Vec<u8>> = bytes.split(|&byte| byte == b',').map(<[u8]>::to_vec).collect();
            let (one, other) = (dice.below(fields.len()), dice.below(fields.len()));
            fields.swap(one, other);
            *bytes = fields.join(&b',');
        }
        4 => {
            let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            let (one, other) = (dice.below(lines.len()), dice.below(lines.len()));
            let copied = lines[other].clone();
            lines[one] = copied;
            *bytes = lines.join(&b'\n');
        }
        _ => {
            let digits: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                let at = digits[dice.below(digits.len())];
                let numbers: [&[u8]; 8] =
                    [b"0", b"-1", b"63", b"18446744073709551616", b"1e308", b"1e-308", b"NaN", b"999999999"];
                bytes.splice(at..=at, numbers[dice.below(8)].iter().copied());
            }
        }
    }
}

#[test]
fn broken_manifests_do_no_harm() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let size = [8, 16, 12];
    let aligned = boxes(&["0", "1", "2", "3", "4", "5"], size);
    let images = vec![
        file(folder.path(), "a.tif", &aligned),
        file(folder.path(), "b.tif", &aligned),
        file(folder.path(), "r.tif", &boxes(&["dna", "membrane", "gfp"], size)),
        file(folder.path(), "s.tif", &boxes(&["dna_segmentation", "membrane_segmentation"], size)),
    ];
    for whole in [ALIGNED, CROPS] {
        let manifest = file(folder.path(), "whole.csv", whole.as_bytes());
        import(manifest, images.clone()).unwrap_or_else(|error| panic!("{error}: {whole}"));
        let (mut dice, mut read, mut refused) = (Dice(7), 0, 0);
        for round in 0..250 {
            let mut bytes = whole.as_bytes().to_vec();
            for _ in 0..=dice.below(2) {
                if !bytes.is_empty() {
                    break_manifest(&mut bytes, &mut dice);
                }
            }
            let what = format!("round {round}: {}", String::from_utf8_lossy(&bytes));
            let manifest = file(folder.path(), "broken.csv", &bytes);
            let images = images.clone();
            match watched(&what, move || import(manifest, images)) {
                Ok(_) => read += 1,
                Err(StageError::BadInput { .. }) => refused += 1,
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert!(read > 10 && refused > 50, "{read} read, {refused} refused");
    }
}

#[test]
fn broken_images_of_a_manifest_are_named() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let sound = boxes(&["0", "1", "2", "3", "4", "5"], [8, 16, 12]);
    let (mut dice, mut refused) = (Dice(99), 0);
    for round in 0..200 {
        let mut bytes = sound.clone();
        break_tiff(&mut bytes, &mut dice);
        let images = vec![file(folder.path(), "a.tif", &bytes), file(folder.path(), "b.tif", &sound)];
        let manifest = file(folder.path(), "manifest.csv", ALIGNED.as_bytes());
        match watched(&format!("round {round}"), move || import(manifest, images)) {
            Ok(_) => {}
            Err(error @ StageError::BadInput { .. }) => {
                assert!(error.to_string().contains("a.tif"), "round {round}: {error}");
                refused += 1;
            }
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(refused > 20, "{refused} refused");
}
