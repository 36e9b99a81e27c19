//! Whatever the manifest of single cells: the cells, or what is wrong with it.

#![no_main]

use std::{collections::BTreeMap, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use statcell::{
    image::{Pixels, Stack, io},
    stage::{Context, FileInput, Host, Inputs, Item, Numerics, Progress, StageError},
    stages,
    store::{Blobs, Digest, MemoryBlobs, Tree},
};
use tempfile::TempDir;

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

/// A folder with the images that manifests may name: `a.tif` has six channels, `r.tif` three, `s.tif` two.
static IMAGES: LazyLock<(TempDir, Vec<FileInput>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let images = [("a.tif", 6), ("r.tif", 3), ("s.tif", 2)].map(|(name, channels)| {
        let size = [6, 8, 8];
        let inside = |at: usize, length: usize| (2..length - 2).contains(&at);
        let one = |at: usize| if inside(at / 64, 6) && inside(at / 8 % 8, 8) && inside(at % 8, 8) { 200 } else { 0 };
        let pixels = Pixels::U8((0..384).map(one).collect::<Vec<u8>>().repeat(channels));
        let channels = (0..channels).map(|channel| channel.to_string()).collect();
        let stack = Stack { channels, size, voxel_um: Some([0.317; 3]), pixels };
        file(&folder, name, &io::write(&stack).expect("an image"))
    });
    (folder, images.to_vec())
});

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> FileInput {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    FileInput { name: name.to_owned(), path, digest: Digest::of(bytes) }
}

fuzz_target!(|bytes: &[u8]| {
    let (folder, images) = &*IMAGES;
    let manifest = file(folder, "manifest.csv", bytes);
    let parameters = serde_json::json!({
        "size": [8, 16, 12], "voxel-size": 0.317, "file-voxel-size": null, "dataset": ""
    });
    let files = BTreeMap::from([("manifest".to_owned(), vec![manifest]), ("images".to_owned(), images.clone())]);
    let host = Memory::default();
    let stage = stages::find("import-cells").expect("a stage kind");
    match stage.run(&parameters, &Inputs { files, ..Inputs::default() }, &Context::new(&host)) {
        Ok(_) | Err(StageError::BadInput { .. }) => {}
        Err(error) => panic!("{error}"),
    }
});
