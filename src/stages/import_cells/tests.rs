//! Manifests in the Institute's two forms and in others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::json;

use super::{
    super::testing::{MemoryHost, params},
    *,
};
use crate::{
    artifact::Cells,
    image::{Pixels, Stack, io},
    stage::FileInput,
    store::Digest,
};

/// Puts files into a folder.
fn files(folder: &Path, named: &[(&str, Vec<u8>)]) -> Vec<FileInput> {
    named
        .iter()
        .map(|(name, bytes)| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            FileInput { name: (*name).to_owned(), path, digest: Digest::of(bytes) }
        })
        .collect()
}

fn run(
    host: &MemoryHost,
    manifest: &str,
    images: &[(&str, Vec<u8>)],
    extra: serde_json::Value,
) -> Result<Outputs, StageError> {
    let folder = tempfile::tempdir().unwrap();
    let inputs = Inputs {
        files: BTreeMap::from([
            ("manifest".to_owned(), files(folder.path(), &[("manifest.csv", manifest.as_bytes().to_vec())])),
            ("images".to_owned(), files(folder.path(), images)),
        ]),
        ..Inputs::default()
    };
    ImportCells::run(&params::<ImportCells>(extra), &inputs, &Context::new(host))
}

/// A box-shaped cell in `size`: 1 in it, 0 outside; `margin` voxels on every side.
fn block(size: [usize; 3], margin: [usize; 3]) -> Vec<u8> {
    let within = |i: usize, axis: usize| (margin[axis]..size[axis] - margin[axis]).contains(&i);
    let [_, height, width] = size;
    (0..size.iter().product::<usize>())
        .map(|i| u8::from(within(i / (height * width), 0) && within(i / width % height, 1) && within(i % width, 2)))
        .collect()
}

fn tiff(channels: &[&str], size: [usize; 3], voxel_um: Option<[f64; 3]>, pixels: Pixels) -> Vec<u8> {
    let channels = channels.iter().map(|name| (*name).to_owned()).collect();
    io::write(&Stack { channels, size, voxel_um, pixels }).unwrap()
}

const ALIGNED: &str = "CellId,StructureId/Name,save_reg_path,ch_dna,ch_memb,ch_seg_cell,ch_seg_nuc,ch_struct,ch_trans";

fn aligned_image(size: [usize; 3]) -> Vec<u8> {
    let (nucleus, cell) = (block(size, [2, 4, 3]), block(size, [1, 2, 1]));
    let mut pixels = [nucleus.clone(), cell.clone()].concat();
    pixels.extend(nucleus.iter().map(|v| v * 200));
    pixels.extend(cell.iter().map(|v| v * 51));
    pixels.extend(cell.iter().map(|v| v * 255));
    pixels.extend(vec![9; cell.len()]);
    // As the published files are: no names, all planes in one row.
    tiff(&["planes"], [6 * size[0], size[1], size[2]], None, Pixels::U8(pixels))
}

#[test]
fn the_papers_manifest_with_and_without_drugs() {
    let host = MemoryHost::default();
    let size = [6, 12, 8];
    let same = json!({"size": size, "dataset": "paper"});
    let manifest =
        format!("{ALIGNED}\n12.0,Golgi,/x/y/images/a.tiff,2,3,1,0,4,5\n7,Lysosome,images/b.tiff,2,3,1,0,4,5\n");
    let images = [("a.tiff", aligned_image(size)), ("b.tiff", aligned_image(size))];
    let out = run(&host, &manifest, &images, same.clone()).unwrap();
    // Both images are the same file, so the cell is cut once.
    assert_eq!(host.items(), 1);
    let cells = Cells::open(&out["cells"], &host.blobs).unwrap();
    assert_eq!(cells.ids(), ["12", "7"]);
    assert!(cells.description.normalised);
    let image = cells.image(0).unwrap();
    assert_eq!(image.cell.data, block(size, [1, 2, 1]));
    assert_eq!(image.nucleus.data, block(size, [2, 4, 3]));
    for (channel, top) in image.channels.iter().zip([0.2, 200.0 / 255.0, 1.0]) {
        let most = channel.data.iter().copied().fold(0.0, f32::max);
        assert!((most - top).abs() < 1e-4, "{most} {top}");
    }
    let drugs = manifest.replace("ch_trans\n", "ch_trans,drug_label\n").replace(",5\n", ",5,Brefeldin\n");
    let out = run(&host, &drugs, &images, same).unwrap();
    let cells = Cells::open(&out["cells"], &host.blobs).unwrap();
    assert_eq!(cells.table.texts("drug").unwrap(), ["Brefeldin", "Brefeldin"]);
}

#[test]
fn the_later_sets_crops_are_aligned() {
    let host = MemoryHost::default();
    // The long axis along X: alignment turns it to Y.
    let size = [10, 14, 30];
    let (nucleus, cell) = (block(size, [3, 5, 10]), block(size, [2, 3, 3]));
    let raw: Vec<u16> =
        [&nucleus, &cell, &cell].iter().flat_map(|v| v.iter().map(|&v| 100 + 900 * u16::from(v))).collect();
    let masks: Vec<u8> = [&nucleus, &cell].iter().flat_map(|v| v.iter().map(|&v| 255 * v)).collect();
    let images = [
        ("r.ome.tif", tiff(&["dna", "membrane", "gfp"], size, Some([0.1; 3]), Pixels::U16(raw))),
        ("s.ome.tif", tiff(&["dna_segmentation", "membrane_segmentation"], size, None, Pixels::U8(masks))),
    ];
    let names =
        "\"{'crop_raw': ['dna', 'membrane', 'gfp'], 'crop_seg': ['dna_segmentation', 'membrane_segmentation']}\"";
    let manifest = format!(
        "CellId,structure_name,crop_raw,crop_seg,name_dict,cell_stage,scale_micron\n5,LMNB1,crop_raw/r.ome.tif,crop_seg/s.ome.tif,{names},M4M5,\"[0.5, 0.5, 0.5]\"\n"
    );
    let out = run(&host, &manifest, &images, json!({"size": [12, 32, 16], "voxel-size": 0.5})).unwrap();
    let cells = Cells::open(&out["cells"], &host.blobs).unwrap();
    assert_eq!(cells.table.texts("stage").unwrap(), ["prometaphase-metaphase"]);
    assert!(!cells.description.normalised);
    let image = cells.image(0).unwrap();
    let along = |axis: usize| {
        let at = |i: usize| [i / (32 * 16), i / 16 % 32, i % 16][axis];
        (0..image.cell.data.len()).filter(|&i| image.cell.data[i] != 0).map(at).collect::<BTreeSet<_>>().len()
    };
    assert_eq!([along(0), along(1), along(2)], [6, 24, 8]);
    assert_eq!(image.cell.data.iter().map(|&v| usize::from(v)).sum::<usize>(), 6 * 24 * 8);
    let small = run(&host, &manifest, &images, json!({"size": [12, 16, 16], "voxel-size": 0.5})).unwrap_err();
    assert!(small.to_string().contains("every cell"), "{small}");
}

#[test]
fn everything_missing_is_named_at_once() {
    let host = MemoryHost::default();
    let message = |manifest: &str| run(&host, manifest, &[], json!({})).unwrap_err().to_string();
    let columns = message("CellId,save_reg_path,ch_dna\n1,a.tiff,0\n");
    for column in ["StructureId/Name", "ch_memb", "ch_seg_cell", "ch_seg_nuc"] {
        assert!(columns.contains(column), "{columns}");
    }
    let missing = message(&format!("{ALIGNED}\n1,Golgi,x/a.tiff,2,3,1,0,4,5\n2,Golgi,x/b.tiff,2,3,1,0,4,5\n"));
    let both = message("CellId,save_reg_path,ch_dna\n1,x/a.tiff,0\n2,b.tiff,0\n");
    assert!(both.contains("`ch_memb`") && both.contains("2 files") && both.contains("`a.tiff`, `b.tiff`"), "{both}");
    let crops = message("CellId,crop_raw,scale_micron\n1,raw/a.tiff,0.1\n");
    for what in ["`structure_name`", "`crop_seg`", "`name_dict`", "1 files", "`a.tiff`"] {
        assert!(crops.contains(what), "{what}: {crops}");
    }
    let names = "\"{'crop_raw': ['dna', 'membrane'], 'crop_seg': ['dna_segmentation', 'membrane_segmentation']}\"";
    let crops = message(&format!(
        "CellId,structure_name,crop_raw,crop_seg,name_dict,scale_micron\n1,G,r.tif,s.tif,{names},1e300\n\
         2,G,r.tif,,{names},0.1\n3,G,r.tif,s.tif,{{}},\"[0.1, 0.1, 0.1]\"\n"
    ));
    for what in ["`scale_micron` is `1e300`", "no path of an image (line 3)", "line 4", "2 files", "`r.tif`, `s.tif`"] {
        assert!(crops.contains(what), "{what}: {crops}");
    }
    assert!(missing.contains("2 files") && missing.contains("`a.tiff`, `b.tiff`"), "{missing}");
    let rows =
        message(&format!("{ALIGNED}\n1,Golgi,a.tiff,x,3,1,0,4,5\n,Golgi,b.tiff,2,3,1,0,4,5\n3,Golgi,,2,3,1,0,4,5\n"));
    assert!(
        rows.contains("`ch_dna` is `x`, not a channel's number (line 2)")
            && rows.contains("line 3")
            && rows.contains("line 4"),
        "{rows}"
    );
    assert!(message(&format!("{ALIGNED}\n../x,Golgi,a.tiff,2,3,1,0,4,5\n")).contains("cannot be a file name"));
    assert!(message("").contains("lacks the columns"));
    let twice = message(&format!("{ALIGNED}\n1,G,a.tiff,2,3,1,0,4,5\n1,G,a.tiff,2,3,1,0,4,5\n"));
    assert!(twice.contains("the cell `1` stands in line 2 already (line 3)"), "{twice}");
}

/// A manifest of one's own: three cells in two files, masks beside them.
fn own(head: &str, rows: &[&str]) -> String {
    format!("{head}\n{}\n", rows.join("\n"))
}

fn own_images() -> Vec<(&'static str, Vec<u8>)> {
    let size = [10, 14, 30];
    let (nucleus, cell) = (block(size, [3, 5, 10]), block(size, [2, 3, 3]));
    let raw: Vec<u16> = [&cell, &nucleus].iter().flat_map(|v| v.iter().map(|&v| 100 + 900 * u16::from(v))).collect();
    let masks: Vec<u8> = [&nucleus, &cell].iter().flat_map(|v| v.iter().map(|&v| 7 * v)).collect();
    vec![
        ("a.tif", tiff(&["membrane", "dna"], size, Some([0.5; 3]), Pixels::U16(raw))),
        ("a_mask.tif", tiff(&["nucleus", "cell"], size, None, Pixels::U8(masks.clone()))),
        ("n.tif", tiff(&["0"], size, None, Pixels::U8(nucleus.iter().map(|v| v * 255).collect()))),
        ("c.tif", tiff(&["0"], size, None, Pixels::U8(cell))),
    ]
}

#[test]
fn a_manifest_of_ones_own() {
    let host = MemoryHost::default();
    let images = own_images();
    let size = json!({"size": [12, 32, 16], "voxel-size": 0.5});
    let whole = own(
        "cell_id,image,mask,structure,stage,drug,well,plate,field",
        &["a1,crops/a.tif,crops\\a_mask.tif,,M4M5,nocodazole,B03,p1,s1", "a2,a.tif,a_mask.tif,,,,B04,p1,s1"],
    );
    let out = run(&host, &whole, &images, size.clone()).unwrap();
    let cells = Cells::open(&out["cells"], &host.blobs).unwrap();
    assert_eq!(cells.ids(), ["a1", "a2"]);
    assert_eq!(cells.table.texts("stage").unwrap(), ["prometaphase-metaphase", ""]);
    assert_eq!(
        (cells.table.texts("drug").unwrap()[0].as_str(), cells.table.texts("well").unwrap()[1].as_str()),
        ("nocodazole", "B04")
    );
    assert_eq!(cells.image(0).unwrap().cell.data.iter().map(|&v| usize::from(v)).sum::<usize>(), 6 * 24 * 8);
    let figures = crate::artifact::FigureSet::read(&out["figures"], &host.blobs).unwrap();
    assert_eq!(figures.0.len(), 1);
    // Other headers, masks apart, semicolons, UTF-16: the same cells.
    let mut other = size.clone();
    other["columns"] = json!({"cell_id": "Object", "image": "Path", "cell_mask": "Zelle", "nucleus_mask": "Kern"});
    let apart = own("Object;Path;Zelle;Kern", &["a1;a.tif;c.tif;n.tif"]);
    let again = run(&host, &apart, &images, other).unwrap();
    let again = Cells::open(&again["cells"], &host.blobs).unwrap();
    assert_eq!(again.image(0).unwrap(), cells.image(0).unwrap());
    // A number in the mask, and one that is not there.
    let labelled = own("Cell ID\timage\tmask\tlabel", &["a1\ta.tif\ta_mask.tif\t7", "a2\ta.tif\ta_mask.tif\t8"]);
    let out = run(&host, &labelled, &images, size).unwrap();
    assert_eq!(Cells::open(&out["cells"], &host.blobs).unwrap().ids(), ["a1"]);
}

#[test]
fn mistakes_of_a_manifest_of_ones_own() {
    let host = MemoryHost::default();
    let images = own_images();
    let told = |manifest: &str, extra: serde_json::Value| match run(&host, manifest, &images, extra) {
        Err(StageError::BadInput { message, help }) => format!("{message} | {}", help.unwrap_or_default()),
        other => panic!("{:?}", other.map(|_| ())),
    };
    let head = "cell_id,image,mask";
    let rows = own(
        head,
        &["a,a.tif,a_mask.tif", "", ",,", "a,a.tif,a_mask.tif", "b,,a_mask.tif", "c,,a_mask.tif", "d,x.tif,y.tif"],
    );
    let all = told(&rows, json!({}));
    for what in [
        "the cell `a` stands in line 2 already (line 5)",
        "no path of an image (lines 6, 7)",
        "2 files that it names are not there: `x.tif`, `y.tif`",
        "each row needs an id of its own",
        "`missing = \"skip\"`",
    ] {
        assert!(all.contains(what), "{what}: {all}");
    }
    assert_eq!(all.matches("no path of an image").count(), 1);
    let skipped = own(head, &["a,a.tif,a_mask.tif", "d,x.tif,y.tif"]);
    let out =
        run(&host, &skipped, &images, json!({"missing": "skip", "size": [12, 32, 16], "voxel-size": 0.5})).unwrap();
    assert_eq!(Cells::open(&out["cells"], &host.blobs).unwrap().ids(), ["a"]);
    assert_eq!(Table::read(&out["table"], &host.blobs, "missing").unwrap().texts("cell_id").unwrap(), ["d"]);
    let columns = told("Object,image\n1,a.tif\n", json!({}));
    assert!(
        columns.contains("it lacks the columns `cell_id` (it has `Object`, `image`)")
            && columns.contains("columns = {"),
        "{columns}"
    );
    let unmapped = told("cell_id,image\n1,a.tif\n", json!({"columns": {"image": "Path"}}));
    assert!(unmapped.contains("`Path`"), "{unmapped}");
    let none = told(&own("cell_id,image", &["a,a.tif"]), json!({}));
    assert!(none.contains("no masks of both cell and nucleus"), "{none}");
}

#[test]
fn the_papers_manifest_in_16_bit_and_other_tables() {
    let host = MemoryHost::default();
    let size = [6, 12, 8];
    let wide = |bytes: Vec<u8>| {
        let stack = io::read(&bytes).unwrap();
        let Pixels::U8(pixels) = stack.pixels else { panic!("8 bit") };
        // Without structure and transmitted light, the file holds four channels.
        let (planes, plane) = (4 * size[0], size[1] * size[2]);
        let pixels = Pixels::U16(pixels[..planes * plane].iter().map(|&value| u16::from(value) * 257).collect());
        tiff(&["planes"], [planes, size[1], size[2]], None, pixels)
    };
    let images = [("a.tiff", wide(aligned_image(size)))];
    let table = format!("{ALIGNED}\n0,Golgi,a.tiff,2,3,1,0,nan,NaN\n1,Golgi,a.tiff,2,3,1,0,,\n");
    for text in [
        table.clone(),
        table.replace(',', ";"),
        table.replace(',', "\t"),
        format!("sep=,\n{table}"),
        format!("{table},,,,,,,,\n"),
    ] {
        let out = run(&host, &text, &images, json!({"size": size})).unwrap_or_else(|error| panic!("{text}: {error}"));
        let cells = Cells::open(&out["cells"], &host.blobs).unwrap();
        assert_eq!(cells.ids(), ["0", "1"]);
        assert_eq!(cells.description.channels, ["membrane", "dna"]);
        let image = cells.image(0).unwrap();
        let most = image.channels[1].data.iter().copied().fold(0.0, f32::max);
        assert!((most - 200.0 / 255.0).abs() < 1e-4, "{most}");
    }
}
