//! Fields and masks as people have them: read right, or refused with the way out.

use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::{
    artifact::Labels,
    image::{
        Pixels, Stack,
        io::{
            self,
            testing::{SIZES, flat, longs, ome, plane_real, plane8, plane16, resolution, short, text, tiff},
        },
    },
    stage::FileInput,
    stages::testing::MemoryHost,
    store::Digest,
};

fn params(text: &str) -> Params {
    toml::from_str(text).unwrap()
}

/// Files by port: their names and bytes.
type Files<'a> = &'a [(&'a str, &'a [(&'a str, Vec<u8>)])];

fn inputs(folder: &Path, files: Files) -> Inputs {
    let write = |(name, bytes): &(&str, Vec<u8>)| {
        let path = folder.join(format!("{}-{name}", Digest::of(bytes)));
        std::fs::write(&path, bytes).unwrap();
        FileInput { name: (*name).to_owned(), path, digest: Digest::of(bytes) }
    };
    let files = files.iter().map(|(port, files)| ((*port).to_owned(), files.iter().map(write).collect()));
    Inputs { files: files.collect(), artifacts: BTreeMap::new() }
}

/// What came out: fields and their ids, labels by id.
struct Out {
    ids: Vec<String>,
    fields: Vec<Stack>,
    labels: BTreeMap<String, [Vec<u32>; 2]>,
    notes: Vec<String>,
}

fn run(settings: &str, files: Files) -> Result<Out, String> {
    let folder = tempfile::tempdir().unwrap();
    let host = MemoryHost::default();
    let given = inputs(folder.path(), files);
    let told = |error: StageError| match error {
        StageError::BadInput { message, help } => format!("{message} | {}", help.unwrap_or_default()),
        other => other.to_string(),
    };
    let outputs = ImportFields::run(&params(settings), &given, &Context::new(&host)).map_err(told)?;
    let fields = Fields::open(&outputs["fields"], &host.blobs).unwrap();
    let labels = Labels::open(&outputs["labels"], &host.blobs);
    let of = |id: &str| labels.image(id).unwrap().map(|image| [image.nucleus.data, image.cell.data]);
    Ok(Out {
        ids: fields.ids().to_vec(),
        fields: (0..fields.len()).map(|index| fields.image(index).unwrap()).collect(),
        labels: fields.ids().iter().filter_map(|id| Some((id.clone(), of(id)?))).collect(),
        notes: host.notes(),
    })
}

/// A field of 4 × 5 pixels, planes of these values.
fn planes(values: &[u16]) -> Vec<u8> {
    tiff(&values.iter().map(|&value| flat(value)).collect::<Vec<_>>(), [4, 5], &[], &[])
}

const ONE: &str = "channels = ['membrane']\nvoxel-size = 1\n";

#[test]
fn masks_go_to_the_field_of_their_name() {
    let fields = ["s1.tif", "s10.tif", "s2.tif"].map(|name| (name, planes(&[name[1..2].parse().unwrap()])));
    let mask = |name: &'static str, value: u8| (name, tiff(&[plane8([value; 20])], [4, 5], &[], &[]));
    for masks in [
        [mask("s10_cp_masks.tif", 10), mask("s1_cp_masks.tif", 1), mask("s2_cp_masks.tif", 2)],
        [mask("s10.stardist.tif", 10), mask("s2.stardist.tif", 2), mask("s1.stardist.tif", 1)],
        [
            mask("s10_struct_segmentation.tiff", 10),
            mask("s1_struct_segmentation.tiff", 1),
            mask("s2_struct_segmentation.tiff", 2),
        ],
    ] {
        let out = run(ONE, &[("files", &fields), ("nuclei", &masks)]).unwrap();
        for (id, label) in [("s1", 1), ("s10", 10), ("s2", 2)] {
            assert_eq!(out.labels[id], [vec![label; 20], vec![0; 20]], "{id}");
        }
    }
    let two = &fields[..2];
    let error = run(ONE, &[("files", two), ("cells", &[mask("s1_a.tif", 1), mask("s1_b.tif", 1)])]).err().unwrap();
    assert!(error.contains("`s10.tif`") && error.contains("`s1_a.tif`, `s1_b.tif`"), "{error}");
}

#[test]
fn masks_of_every_form() {
    let field = [("f.tif", planes(&[1, 1]))];
    let labels: Vec<u8> = (0..20).map(|value| value % 3).collect();
    let due: Vec<u32> = labels.iter().chain(&labels).map(|&label| u32::from(label)).collect();
    let one = |bytes: Vec<u8>| {
        run(ONE, &[("files", &field), ("cells", &[("m.tif", bytes)])]).map(|out| out.labels["f"][1].clone())
    };
    let stack =
        |first: &[io::testing::Tag]| tiff(&[plane8(labels.clone()), plane8(labels.clone())], [4, 5], first, &[]);
    assert_eq!(one(stack(&[])), Ok(due.clone()), "plain pages");
    assert_eq!(one(stack(&[text(270, "{\"shape\": [2, 4, 5]}")])), Ok(due.clone()), "Cellpose, by tifffile");
    assert_eq!(one(stack(&[text(270, "ImageJ=1.54f\nimages=2\nframes=2\n")])), Ok(due.clone()), "time for z");
    assert_eq!(one(stack(&[text(270, "ImageJ=1.54f\nimages=2\nchannels=2\n")])), Ok(due.clone()), "channels for z");
    let colours = longs(320, 3, 768, &[7; 384]);
    let page = plane8(labels.clone());
    assert_eq!(one(tiff(&[page.clone(), page], [4, 5], &[], &[short(262, 3), colours])), Ok(due.clone()), "a palette");
    let real = || plane_real(labels.iter().map(|&label| f32::from(label)));
    assert_eq!(one(tiff(&[real(), real()], [4, 5], &[], &[])), Ok(due), "whole real numbers");
    let half = one(tiff(&[plane_real([0.5; 20]), real()], [4, 5], &[], &[])).unwrap_err();
    assert!(half.contains("`m.tif`") && half.contains("0.5 is no label"), "{half}");
    // The Segmenter's masks are black and white: two pieces, two labels.
    let white: Vec<u8> = (0..20).map(|at| if at % 5 == 2 { 0 } else { 255 }).collect();
    let pieces = one(tiff(&[plane8(white.clone()), plane8(white)], [4, 5], &[], &[])).unwrap();
    assert_eq!((pieces[0], pieces[2], pieces[4]), (1, 0, 2));
    let flat_mask = one(tiff(&[plane8(labels)], [4, 5], &[], &[])).unwrap_err();
    assert!(flat_mask.contains("1 × 4 × 5") && flat_mask.contains("one mask per plane"), "{flat_mask}");
}

#[test]
fn masks_of_both_kinds() {
    let field = [("f.tif", planes(&[1, 1]))];
    let both = |settings: &str, bytes: Vec<u8>| {
        run(&format!("{ONE}{settings}"), &[("files", &field), ("labels", &[("m.tif", bytes)])])
            .map(|out| out.labels["f"].clone())
    };
    let four = planes(&[1, 2, 3, 4]);
    let of = |a: u32, b: u32| [[a; 20], [b; 20]].concat();
    assert_eq!(both("label-axes = 'czyx'", four.clone()), Ok([of(1, 2), of(3, 4)]));
    assert_eq!(both("label-axes = 'zcyx'", four.clone()), Ok([of(1, 3), of(2, 4)]));
    assert_eq!(
        both("label-axes = 'czyx'\nlabel-channels = ['cell', 'nucleus']", four.clone()),
        Ok([of(3, 4), of(1, 2)])
    );
    let unclear = both("", four).unwrap_err();
    assert!(unclear.contains("`label-axes"), "{unclear}");
    let shaped = tiff(&[1, 2, 3, 4].map(flat), [4, 5], &[text(270, "{\"shape\": [2, 2, 4, 5]}")], &[]);
    assert!(both("", shaped).unwrap_err().contains("`label-axes = \"czyx\"`"));
    let named = tiff(
        &[1, 2, 3, 4].map(flat),
        [4, 5],
        &[text(270, &ome(&["Cells", "Nuclei"], 2, 1, SIZES, "<TiffData/>"))],
        &[],
    );
    assert_eq!(both("", named), Ok([of(3, 4), of(1, 2)]), "as the file names them");
    let single = both("", planes(&[1, 2])).unwrap_err();
    assert!(single.contains("label-channels") && single.contains("`cells = …`"), "{single}");
    assert_eq!(both("label-channels = ['cell']", planes(&[1, 2])), Ok([vec![0; 40], of(1, 2)]));
    let apart =
        [("files", &field[..]), ("nuclei", &[("n.tif", planes(&[5, 6]))]), ("cells", &[("c.tif", planes(&[7, 8]))])];
    assert_eq!(run(ONE, &apart).unwrap().labels["f"], [of(5, 6), of(7, 8)]);
}

#[test]
fn one_file_per_channel() {
    let dna = [("s1_ch1.tif", planes(&[1])), ("s10_ch1.tif", planes(&[10]))];
    let membrane = [("s10_ch2.tif", planes(&[110])), ("s1_ch2.tif", tiff(&[plane8([101; 20])], [4, 5], &[], &[]))];
    let out = run("voxel-size = 1", &[("files.dna", &dna), ("files.membrane", &membrane)]).unwrap();
    assert_eq!(out.ids, ["s1", "s10"]);
    assert_eq!(out.fields[0].channels, ["dna", "membrane"]);
    assert_eq!(out.fields[0].pixels, Pixels::U16([[1; 20], [101; 20]].concat()));
    assert_eq!(out.fields[1].pixels, Pixels::U16([[10; 20], [110; 20]].concat()));
    let error = run("voxel-size = 1", &[("files.dna", &dna), ("files.membrane", &membrane[..1])]).err().unwrap();
    assert!(error.contains("2 of `dna`, 1 of `membrane`"), "{error}");
    let small = [("s1_ch2.tif", tiff(&[plane8([1; 10])], [2, 5], &[], &[]))];
    let error = run("voxel-size = 1", &[("files.dna", &dna[..1]), ("files.membrane", &small)]).err().unwrap();
    assert!(error.contains("voxels large"), "{error}");
}

#[test]
fn what_is_not_finite_is_refused_or_masked() {
    let mut values = [1.0_f32; 20];
    values[7] = f32::NAN;
    let field = [("f.tif", tiff(&[plane_real([1.0; 20]), plane_real(values)], [4, 5], &[], &[]))];
    let refused = run(ONE, &[("files", &field)]).err().unwrap();
    for what in ["`f.tif`", "channel `membrane`, plane 1", "NaN", "non-finite = \"mask\""] {
        assert!(refused.contains(what), "{what}: {refused}");
    }
    let masked = run(&format!("{ONE}non-finite = 'mask'"), &[("files", &field)]).unwrap();
    assert_eq!(masked.fields[0].pixels, Pixels::F32(vec![1.0; 40]));
    assert!(
        masked.notes.iter().any(|note| note.contains("1 pixels that are not finite are masked")),
        "{:?}",
        masked.notes
    );
}

#[test]
fn what_is_said_counts_more_than_the_file() {
    let pages = [0, 1, 2].map(flat);
    let imagej = tiff(
        &pages,
        [4, 5],
        &[vec![text(270, "ImageJ=1.54f\nimages=3\nframes=3\nunit=um\n")], resolution(10)].concat(),
        &[],
    );
    let field = [("f.tif", imagej)];
    let refused = run("channels = ['dna']", &[("files", &field)]).err().unwrap();
    assert!(
        refused.contains("3 time points") && refused.contains("`axes`") && refused.contains("`time = 0`"),
        "{refused}"
    );
    let planes = run("channels = ['dna']\naxes = 'czyx'\nvoxel-size = { z = 0.3 }", &[("files", &field)]).unwrap();
    assert_eq!((planes.fields[0].size, planes.fields[0].voxel_um), ([3, 4, 5], Some([0.3, 0.1, 0.1])));
    let each = run("channels = ['dna']\ntime = 'each'\nvoxel-size = 1", &[("files", &field)]).unwrap();
    assert_eq!(each.ids, ["f_t0", "f_t1", "f_t2"]);
    assert_eq!(each.fields[2].pixels, Pixels::U16(vec![2; 20]));
    let z =
        tiff(&pages, [4, 5], &[text(270, &ome(&["a"], 3, 1, "PhysicalSizeX=\"0.1\" PhysicalSizeY=\"0.1\"", ""))], &[]);
    let missing = run("", &[("files", &[("z.tif", z)])]).err().unwrap();
    assert!(missing.contains("in y, x, not in z") && missing.contains("voxel-size = { z = 0.29 }"), "{missing}");
}

#[test]
fn channels_by_name_and_structures_without_one() {
    let two = |names: &[&str]| tiff(&[1, 2].map(flat), [4, 5], &[text(270, &ome(names, 1, 1, SIZES, ""))], &[]);
    let field = [("f.tif", two(&["DAPI", "CellMask"]))];
    let wrong = run("channels = ['membrane', 'dna']", &[("files", &field)]).err().unwrap();
    assert!(wrong.contains("`f.tif`") && wrong.contains("dna = \"DAPI\""), "{wrong}");
    let mapped = run("channels = { membrane = 'CellMask', dna = 'DAPI' }", &[("files", &field)]).unwrap();
    assert_eq!(mapped.fields[0].channels, ["dna", "membrane"]);
    assert_eq!(mapped.fields[0].pixels, Pixels::U16([[1; 20], [2; 20]].concat()));
    let structure = run("structure = 'mitochondria'", &[("files", &field)]).err().unwrap();
    assert!(
        structure.contains("no channel is called `structure`") && structure.contains("DAPI, CellMask"),
        "{structure}"
    );
    let known = ImportFields::check(&params("structure = 'mito'\nchannels = ['membrane', 'mito']"), &InputFacts::new());
    assert_eq!(known.problems.len(), 1);
    let others = [("a.tif", two(&["x", "y"])), ("b.tif", two(&["y", "x"]))];
    let differ = run("", &[("files", &others)]).err().unwrap();
    assert!(differ.contains("`a.tif` x, y; `b.tif` y, x"), "{differ}");
}

#[test]
fn files_of_other_forms_are_known_by_name() {
    let error = |bytes: &[u8]| run("", &[("files", &[("f.tif", bytes.to_vec())])]).err().unwrap();
    assert!(error(b"").contains("empty file"));
    assert!(error(&[b"ZISRAWFILE".as_slice(), &[1; 100]].concat()).contains("Zeiss CZI file: convert it with"));
    assert!(error(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
}

#[test]
fn ids_are_fit_for_files() {
    let planes = planes(&[1]);
    let files = [("a b.ome.tif", planes.clone()), ("a-b.tiff", planes)];
    let out = run(&format!("{ONE}dataset = 'd'"), &[("files", &files)]).unwrap();
    assert_eq!(out.ids, ["a-b", "a-b-2"]);
    assert!(out.labels.is_empty());
}

#[test]
fn parameters_are_checked() {
    let problems = |text: &str| ImportFields::check(&params(text), &InputFacts::new()).problems.len();
    assert_eq!(problems("axes = 'zcyx'"), 1);
    assert_eq!(problems("axes = 'zyx'"), 0);
    assert_eq!(problems("channels = ['dna', 'dna']\nvoxel-size = [0, 1, 1]\nlabel-channels = ['cells']"), 3);
    assert_eq!(problems("label-channels = ['cell']\nvoxel-size = { z = 0.3 }"), 0);
    assert_eq!(plane16([1]).bytes, [1, 0]);
}
