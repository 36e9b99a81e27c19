//! Every parameter of every stage kind is in the key of every item, or the kind says why it is not.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::{
    controls::Controls,
    coupling::Coupling,
    embed::Embed,
    evaluate::Evaluate,
    features::Features,
    import_cells::ImportCells,
    import_fields::ImportFields,
    inference::tests::tiny_model,
    normalize::Normalize,
    project::Project,
    reconstruct::Reconstruct,
    sample::Sample,
    segment_align::SegmentAlign,
    simulate::Simulate,
    testing::{MemoryHost, noisy_cells, params},
};
use crate::{
    artifact::{Artifact, LabelImage, LabelsWriter},
    image::{Pixels, Stack, Volume, io},
    model::ModelKind,
    stage::{Context, FileInput, Inputs, StageKind, erased},
    store::Digest,
};

/// A stage kind whose parameters are changed one by one.
struct Probe {
    kind: &'static str,
    /// The parameters that the kind has.
    parameters: BTreeSet<String>,
    not_in_items: &'static [(&'static str, &'static str)],
    keys: Box<dyn Fn(&Value) -> BTreeSet<String>>,
    base: Value,
    /// Another value of each parameter.
    others: Vec<(&'static str, Value)>,
}

fn probe<K: StageKind>(
    inputs: impl Fn(&MemoryHost) -> Inputs + 'static,
    base: Value,
    others: &[(&'static str, Value)],
) -> Probe {
    let schema = erased::<K>().schema().to_value();
    let parameters = schema["properties"].as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    let keys = move |json: &Value| {
        let host = MemoryHost::default();
        let inputs = inputs(&host);
        host.take_item_keys();
        // Another value may lead to a failure; what items there are is known by then.
        let _ = K::run(&params::<K>(json.clone()), &inputs, &Context::new(&host));
        host.take_item_keys()
    };
    Probe {
        kind: K::NAME,
        parameters,
        not_in_items: K::NOT_IN_ITEMS,
        keys: Box::new(keys),
        base,
        others: others.to_vec(),
    }
}

fn with(ports: &[(&str, Artifact)]) -> Inputs {
    let artifacts = ports.iter().map(|(port, artifact)| ((*port).to_owned(), vec![artifact.clone()]));
    Inputs { artifacts: artifacts.collect(), ..Inputs::default() }
}

fn cells(host: &MemoryHost) -> Inputs {
    with(&[("cells", noisy_cells(host, &["a", "b", "c", "d"], &["golgi"; 4]))])
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> FileInput {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    FileInput { name: name.to_owned(), path, digest: Digest::of(bytes) }
}

fn stack(channels: &[&str], size: [usize; 3]) -> Vec<u8> {
    let channels: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
    let count = channels.len() * size.iter().product::<usize>();
    let pixels = Pixels::U8((0..count).map(|i| (i % 251) as u8).collect());
    io::write(&Stack { channels, size, voxel_um: Some([1.0; 3]), pixels }).unwrap()
}

fn labels(host: &MemoryHost) -> Artifact {
    let image =
        LabelImage { nucleus: Volume::filled([2, 4, 4], 1), cell: Volume::filled([2, 4, 4], 1), voxel_um: [1.0; 3] };
    let mut writer = LabelsWriter::new(&host.blobs);
    writer.image("a", &image.encode().unwrap()).unwrap();
    writer.finish().unwrap()
}

fn fields(host: &MemoryHost) -> Artifact {
    let small = json!({
        "as": "fields", "size": [14, 40, 44], "voxel-size": [1.2, 1.1, 1.1], "seed": 3, "structures": ["golgi"],
    });
    host.run::<Simulate>(&params::<Simulate>(small), &[]).unwrap()["fields"].clone()
}

fn probes() -> Vec<Probe> {
    let colony = [
        ("size", json!([13, 27, 17])),
        ("voxel-size", json!(1.8)),
        ("structures", json!(["nucleoli-gc"])),
        ("mitotic-fraction", json!(0.07)),
        ("density", json!(1.5)),
        ("brightness", json!(2.0)),
        ("drug", json!("brefeldin")),
        ("population", json!({ "cell-height": [6.0, 8.0, 9.5, 11.0, 13.0] })),
        ("wells", json!(2)),
        ("plates", json!(2)),
        ("well-effect", json!(0.1)),
        ("dataset", json!("other")),
        ("seed", json!(8)),
        ("cells", json!(3)),
        ("fields", json!(2)),
    ];
    let others = |more: &[(&'static str, Value)]| colony.iter().chain(more).cloned().collect::<Vec<_>>();
    let single = json!({ "cells": 2, "size": [12, 26, 16], "voxel-size": 1.7, "seed": 7, "structures": ["golgi"] });
    let field = json!({ "as": "fields", "size": [14, 40, 44], "voxel-size": 1.2, "seed": 3, "structures": ["golgi"] });
    let folder = tempfile::tempdir().unwrap().keep();
    let (in_fields, in_cells) = (folder.clone(), folder);
    vec![
        probe::<ImportFields>(
            move |_| {
                let mut inputs = Inputs::default();
                let images = stack(&["a", "b"], [2, 3, 4]);
                inputs.files.insert("files".into(), vec![file(&in_fields, "f.tif", &images)]);
                inputs.files.insert("labels".into(), vec![file(&in_fields, "l.tif", &stack(&["l"], [2, 3, 4]))]);
                inputs
            },
            json!({ "channels": ["x", "y"], "axes": "czyx", "voxel-size": [1, 1, 1], "label-channels": ["nucleus"] }),
            &[
                ("channels", json!(["x", "z"])),
                ("axes", json!("zcyx")),
                ("voxel-size", json!([1, 2, 2])),
                ("scene", json!(0)),
                ("time", json!(0)),
                ("non-finite", json!("mask")),
                ("label-channels", json!(["cell"])),
                ("label-axes", json!("zyx")),
                ("dataset", json!("other")),
                ("structure", json!("golgi")),
            ],
        ),
        probe::<ImportCells>(
            move |_| {
                let manifest =
                    "CellId,StructureId/Name,save_reg_path,ch_dna,ch_memb,ch_seg_cell,ch_seg_nuc\n1,G,a.tif,2,3,1,0\n";
                let planes = stack(&["planes"], [8, 6, 6]);
                let mut inputs = Inputs::default();
                inputs.files.insert("manifest".into(), vec![file(&in_cells, "m.csv", manifest.as_bytes())]);
                inputs.files.insert("images".into(), vec![file(&in_cells, "a.tif", &planes)]);
                inputs
            },
            json!({ "size": [2, 6, 6] }),
            &[
                ("size", json!([3, 6, 6])),
                ("voxel-size", json!(0.5)),
                ("file-voxel-size", json!(0.4)),
                ("columns", json!({ "cell_id": "CellId", "image": "save_reg_path" })),
                ("channels", json!(["a"])),
                ("axes", json!("zcyx")),
                ("mask-channels", json!(["cell"])),
                ("mask-axes", json!("zcyx")),
                ("aligned", json!(true)),
                ("missing", json!("skip")),
                ("dataset", json!("other")),
            ],
        ),
        probe::<SegmentAlign>(
            |host| with(&[("fields", fields(host))]),
            json!({ "size": [16, 40, 24], "voxel-size": 1.2 }),
            &[
                ("size", json!([17, 40, 24])),
                ("voxel-size", json!(1.3)),
                ("median-radius", json!(0.0)),
                ("nucleus-smoothing", json!(0.5)),
                ("nucleus-reach", json!(2.6)),
                ("background-reach", json!(6.1)),
                ("nucleus-contrast", json!(0.3)),
                ("nucleus-neck", json!(0.7)),
                ("nucleus-least", json!(31.0)),
                ("mitotic-brightness", json!(1.7)),
                ("membrane-scale", json!(0.4)),
                ("membrane-reach", json!([4.1, 1.2])),
                ("wall", json!(0.3)),
                ("vesicle-volume", json!(11.0)),
                ("gap", json!(0.5)),
                ("cell-smoothing", json!(0.4)),
                ("nucleus-volume", json!([101.0, 2000.0])),
                ("cell-volume", json!([601.0, 6000.0])),
            ],
        ),
        probe::<Simulate>(|_| Inputs::default(), single, &others(&[("as", json!("fields"))])),
        probe::<Simulate>(|_| Inputs::default(), field, &others(&[("as", json!("cells"))])),
        probe::<Evaluate>(
            |host| with(&[("labels", labels(host)), ("truth", labels(host))]),
            json!({}),
            &[("names", json!(["x"]))],
        ),
        probe::<Normalize>(
            cells,
            json!({}),
            &[("method", json!("percentile")), ("percentile", json!(50)), ("total", json!(10)), ("mask", json!(false))],
        ),
        probe::<Project>(cells, json!({}), &[]),
        probe::<Controls>(
            cells,
            json!({ "labels": ["Noise"], "seed": 1 }),
            &[("labels", json!(["Noise", "Blank"])), ("seed", json!(2))],
        ),
        probe::<Embed>(
            |host| {
                let model = tiny_model(ModelKind::Reference, &host.blobs);
                with(&[("model", model), ("cells", noisy_cells(host, &["a", "b"], &["golgi"; 2]))])
            },
            json!({ "seed": 1 }),
            &[("samples", json!(3)), ("with-controls", json!(true)), ("shown", json!(1)), ("seed", json!(2))],
        ),
        probe::<Reconstruct>(
            |host| {
                let model = tiny_model(ModelKind::Reference, &host.blobs);
                with(&[("model", model), ("cells", noisy_cells(host, &["a", "b"], &["golgi"; 2]))])
            },
            json!({}),
            &[("with-controls", json!(true))],
        ),
        probe::<Coupling>(
            |host| {
                let model = tiny_model(ModelKind::Target, &host.blobs);
                with(&[("model", model), ("cells", noisy_cells(host, &["a", "b"], &["golgi"; 2]))])
            },
            json!({ "seed": 1 }),
            &[
                ("permutations", json!(50)),
                ("samples", json!(2)),
                ("floor", json!(2.0)),
                ("least", json!(0.1)),
                ("seed", json!(2)),
            ],
        ),
        probe::<Sample>(
            |host| {
                let (reference, target) =
                    (tiny_model(ModelKind::Reference, &host.blobs), tiny_model(ModelKind::Target, &host.blobs));
                with(&[("reference", reference), ("target", target)])
            },
            json!({ "seed": 1, "count": 2 }),
            &[("count", json!(3)), ("structures", json!(["golgi"])), ("draws", json!(2)), ("seed", json!(2))],
        ),
        probe::<Features>(
            cells,
            json!({ "from-intensity": true, "block-size": 5 }),
            &[("from-intensity", json!(false)), ("block-size", json!(7))],
        ),
    ]
}

#[test]
fn another_parameter_is_another_item() {
    let probes = probes();
    for probe in &probes {
        let kind = probe.kind;
        let before = (probe.keys)(&probe.base);
        assert!(!before.is_empty(), "{kind}: no item was looked for");
        assert_eq!((probe.keys)(&probe.base), before, "{kind}: the same parameters");
        let given: BTreeSet<String> = probe.others.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(given, probe.parameters, "{kind}: give another value of every parameter");
        for (name, other) in &probe.others {
            let mut changed = probe.base.clone();
            changed[*name] = other.clone();
            assert_ne!(changed, probe.base, "{kind}: the same `{name}`");
            let shared = before.intersection(&(probe.keys)(&changed)).count();
            let declared = probe.not_in_items.iter().find(|(declared, _)| declared == name);
            match declared {
                // A stage with items of two sorts (fields and their masks) may keep those of the other sort.
                None => assert!(shared < before.len(), "{kind}: another `{name}`, and items that are the same"),
                Some((_, reason)) => assert!(!reason.is_empty(), "{kind}: `{name}` needs a reason"),
            }
        }
    }
    // What is declared is true: the parameter leaves items as they are in one form of the stage at least.
    for (kind, name) in probes.iter().flat_map(|probe| probe.not_in_items.iter().map(|(name, _)| (probe.kind, *name))) {
        let shared = probes.iter().filter(|probe| probe.kind == kind).any(|probe| {
            let mut changed = probe.base.clone();
            let other = probe.others.iter().find(|(other, _)| *other == name);
            changed[name] = other.expect("it is a parameter").1.clone();
            (probe.keys)(&probe.base).intersection(&(probe.keys)(&changed)).next().is_some()
        });
        assert!(shared, "{kind}: `{name}` is declared not to matter to items, and it does");
    }
}

/// Whoever writes a stage with items must write it into the table above.
#[test]
fn every_kind_with_items_is_probed() {
    fn with_items(folder: &Path, found: &mut BTreeSet<String>, kind: Option<&str>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let kind = kind.unwrap_or(&stem);
            if path.is_dir() {
                with_items(&path, found, Some(kind));
            } else if ["impl ItemWork for", "impl EachCell for", "ItemWork for OfCell"]
                .iter()
                .any(|with| fs::read_to_string(&path).unwrap().contains(with))
            {
                found.insert(kind.replace('_', "-"));
            }
        }
    }
    let mut found = BTreeSet::new();
    with_items(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stages"), &mut found, None);
    // This file, and what kinds share.
    found.retain(|kind| kind != "item-keys" && kind != "each-cell");
    let probed: BTreeSet<String> = probes().iter().map(|probe| probe.kind.to_owned()).collect();
    assert_eq!(found, probed);
}
