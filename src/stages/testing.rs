//! A host in memory, for the tests of stages.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    artifact::{Artifact, CellImage, CellsDescription, CellsWriter, Table},
    image::Volume,
    nn::Rng,
    stage::{Context, Host, Inputs, Item, Numerics, Outputs, Progress, StageError, StageKind},
    store::{Blobs, MemoryBlobs, Tree},
};

/// Keeps everything in memory, and counts what was recalled.
#[derive(Default)]
pub(crate) struct MemoryHost {
    pub(crate) blobs: MemoryBlobs,
    items: Mutex<BTreeMap<String, Tree>>,
    asked: Mutex<BTreeSet<String>>,
    recalled: AtomicUsize,
    notes: Mutex<Vec<String>>,
}

impl MemoryHost {
    /// Runs a stage on these artifacts.
    pub(crate) fn run<K: StageKind>(
        &self,
        params: &K::Params,
        inputs: &[(&str, &Artifact)],
    ) -> Result<Outputs, StageError> {
        let artifacts = inputs.iter().map(|(port, artifact)| ((*port).to_owned(), vec![(*artifact).clone()]));
        K::run(params, &Inputs { artifacts: artifacts.collect(), ..Inputs::default() }, &Context::new(self))
    }

    /// How many results of items are kept.
    pub(crate) fn items(&self) -> usize {
        self.items.lock().unwrap().len()
    }

    /// The keys of all items that were looked for since the last time.
    pub(crate) fn take_item_keys(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// How many items came from the cache.
    pub(crate) fn recalled(&self) -> usize {
        self.recalled.load(Ordering::Relaxed)
    }

    /// The notes so far.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }
}

fn key(item: &Item) -> String {
    serde_json::to_string(item).expect("plain data")
}

impl Host for MemoryHost {
    fn blobs(&self) -> &dyn Blobs {
        &self.blobs
    }

    fn numerics(&self) -> Numerics {
        Numerics::CPU
    }

    fn progress(&self, _: Progress) {}

    fn note(&self, message: &str) {
        self.notes.lock().unwrap().push(message.to_owned());
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn recall(&self, item: &Item) -> Option<Tree> {
        self.asked.lock().unwrap().insert(key(item));
        let found = self.items.lock().unwrap().get(&key(item)).cloned();
        self.recalled.fetch_add(usize::from(found.is_some()), Ordering::Relaxed);
        found
    }

    fn remember(&self, item: &Item, result: &Tree) -> Result<(), StageError> {
        self.items.lock().unwrap().insert(key(item), result.clone());
        Ok(())
    }

    fn load_checkpoint(&self, _: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
        Ok(None)
    }

    fn save_checkpoint(&self, _: u64, _: &[u8], _: bool) -> Result<(), StageError> {
        Ok(())
    }

    fn scratch(&self) -> Result<PathBuf, StageError> {
        Err(StageError::failed("no folder in this test"))
    }
}

/// Parameters from their JSON, defaults filled in.
pub(crate) fn params<K: StageKind>(json: serde_json::Value) -> K::Params {
    serde_json::from_value(json).expect("sound parameters")
}

/// 3D cells of size 4 × 8 × 8, normalised, with random intensities inside their masks. The image of a cell depends on its id only.
pub(crate) fn noisy_cells(host: &MemoryHost, ids: &[&str], structures: &[&str]) -> Artifact {
    let size = [4, 8, 8];
    let description = CellsDescription {
        size,
        dimensions: 3,
        voxel_um: [0.5; 3],
        channels: ["membrane", "dna", "structure"].map(str::to_owned).to_vec(),
        normalised: true,
    };
    let mut writer = CellsWriter::new(description, &host.blobs);
    let inside = |from: usize| {
        let within = move |i: usize, length: usize| (from.min(length / 4)..length - from.min(length / 4)).contains(&i);
        let data = (0..256).map(|i| u8::from(within(i / 64, 4) && within(i / 8 % 8, 8) && within(i % 8, 8)));
        Volume::new(size, data.collect())
    };
    let (cell, nucleus) = (inside(1), inside(2));
    for id in ids {
        let channels = ["membrane", "dna", "structure"].map(|name| {
            let mut rng = Rng::new(1, &format!("{id} {name}"), 0);
            let mask = if name == "dna" { &nucleus } else { &cell };
            let data = mask.data.iter().map(|&m| (f64::from(m) * rng.uniform()) as f32);
            Volume::new(size, data.collect())
        });
        let image = CellImage { channels: channels.to_vec(), cell: cell.clone(), nucleus: nucleus.clone() };
        writer.image(id, &image).unwrap();
    }
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let all = |text: &str| vec![text.to_owned(); ids.len()];
    let table = Table::new()
        .with("cell_id", owned(ids))
        .with("source_id", owned(ids))
        .with("dataset", all("test"))
        .with("field", all(""))
        .with("structure", owned(structures))
        .with("control", vec![false; ids.len()])
        .with("stage", all("interphase"));
    writer.finish(&table).unwrap()
}
