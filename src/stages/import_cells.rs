//! Single cells that others have cut out already, by their manifest.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::voxel_size::VoxelSize;
use crate::{
    artifact::{ArtifactType, ArtifactWriter, CellImage, CellsDescription, CellsWriter, Table},
    image::{Frame, ImageError, Pixels, Pose, Stack, Volume, align_linear, align_mask, ome_tiff, regions},
    stage::{
        Arity, Checked, Context, Facts, FileInput, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput,
        ItemWork, Output, Outputs, Problem, StageError, StageKind, Work,
    },
};

/// Imports single cells.
pub(super) struct ImportCells;

/// How single cells are imported.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ImportCellsParams {
    /// Size of each cell's image in voxels: Z, Y, X.
    #[serde(default = "default_size")]
    #[schemars(inner(range(max = 4096)))]
    size: [usize; 3],
    /// Side of a voxel of the cells' images in µm.
    #[serde(default = "default_voxel")]
    #[schemars(range(max = 1000.0))]
    voxel_size: f64,
    /// Side of a voxel of the files in µm, or its sides: Z, Y, X. By default what the manifest's scale column or the files say; aligned
    /// images that say nothing have voxels of `voxel-size`.
    #[serde(default)]
    file_voxel_size: Option<VoxelSize>,
    /// The name of the data set.
    #[serde(default)]
    dataset: String,
}

fn default_size() -> [usize; 3] {
    [64, 160, 96]
}

fn default_voxel() -> f64 {
    0.317
}

const IMAGE: &str = "image.ome.tif";
const REASON: &str = "reason.txt";

/// The most voxels of the image of a cell.
const MOST_VOXELS: usize = 1 << 28;

impl StageKind for ImportCells {
    type Params = ImportCellsParams;
    const NAME: &'static str = "import-cells";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "reads single cells of the Allen Institute's sets: the paper's aligned images, or the later crops";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[("dataset", "it stands in the table only")];

    fn inputs(_: Option<&ImportCellsParams>) -> Vec<Input> {
        vec![
            Input::files("manifest", Arity::One, "the CSV with a row a cell"),
            Input::files("images", Arity::Many, "the TIFF files that the manifest names, found by their file names"),
        ]
    }

    fn outputs(_: Option<&ImportCellsParams>) -> Vec<Output> {
        vec![
            Output::data("cells", ArtifactType::Cells, "the cells, aligned"),
            Output::for_people("table", ArtifactType::Tables, "every row of the manifest, and why it was left out"),
        ]
    }

    fn check(params: &ImportCellsParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params
            .size
            .iter()
            .try_fold(1_usize, |voxels, &side| voxels.checked_mul(side))
            .is_none_or(|n| n > MOST_VOXELS)
        {
            let message = format!("an image of {:?} voxels is too large", params.size);
            checked.problems.push(Problem::with("size", message).help(format!("at most {MOST_VOXELS} voxels")));
        }
        if params.size.contains(&0) {
            checked.problems.push(Problem::with("size", "an image's sides must be at least one voxel"));
        }
        if !(params.voxel_size > 0.0 && params.voxel_size.is_finite()) {
            checked.problems.push(Problem::with("voxel-size", "a voxel's side must be above 0 µm"));
        }
        if params.file_voxel_size.is_some_and(|size| !size.0.iter().all(|side| *side > 0.0 && side.is_finite())) {
            checked.problems.push(Problem::with("file-voxel-size", "a voxel's sides must be above 0 µm"));
        }
        let facts = Facts { size: Some(params.size), dimensions: Some(3), ..Facts::default() };
        checked.outputs.insert("cells".to_owned(), facts);
        checked
    }

    fn run(params: &ImportCellsParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let manifest = inputs.files("manifest").first().ok_or_else(|| StageError::bad_input("no manifest is given"))?;
        let manifest = Manifest::parse(&manifest.name, &manifest.read()?, inputs.files("images"))?;
        let files = manifest.find(inputs.files("images"))?;
        let description = CellsDescription {
            size: params.size,
            dimensions: 3,
            voxel_um: [params.voxel_size; 3],
            channels: manifest.channels(),
            normalised: manifest.form == Form::Aligned,
        };
        let items: Vec<Work<CellToCut>> = manifest
            .rows
            .iter()
            .zip(&files)
            .map(|(row, files)| Work {
                name: files.iter().map(|file| format!("`{}`", file.name)).collect::<Vec<_>>().join(", "),
                item: CellToCut { channels: row.channels.clone(), scale: row.scale },
                inputs: files.iter().map(|file| ItemInput::File(file)).collect(),
            })
            .collect();
        let cut =
            CutCell { form: manifest.form, file_voxel_size: params.file_voxel_size, description: description.clone() };
        let results = context.map(&cut, &[], &items)?;

        let mut writer = CellsWriter::new(description, context.blobs());
        let (mut kept, mut reasons) = (Vec::new(), Vec::new());
        for (index, (row, result)) in manifest.rows.iter().zip(&results).enumerate() {
            if let Some(entry) = result.get(IMAGE) {
                writer.link(&row.id, entry);
                kept.push(index);
                reasons.push(String::new());
            } else {
                let bytes = context.blobs().get(&result.entries()[0].digest)?;
                let reason = String::from_utf8_lossy(&bytes).into_owned();
                context.note(format!("cell `{}` is left out: {reason}", row.id));
                reasons.push(reason);
            }
        }
        if kept.is_empty() {
            return Err(StageError::bad_input("every cell of the manifest was left out")
                .with_help(reasons.first().cloned().unwrap_or_else(|| "the manifest has no rows".to_owned())));
        }
        let texts = |f: fn(&Row) -> &String| manifest.rows.iter().map(|row| f(row).clone()).collect::<Vec<_>>();
        let count = manifest.rows.len();
        let all = Table::new()
            .with("cell_id", texts(|row| &row.id))
            .with("source_id", texts(|row| &row.id))
            .with("dataset", vec![params.dataset.clone(); count])
            .with("field", texts(|row| &row.field))
            .with("structure", texts(|row| &row.structure))
            .with("control", vec![false; count])
            .with("stage", texts(|row| &row.stage))
            .with("drug", texts(|row| &row.drug));
        let cells = writer.finish(&all.select(&kept))?;
        let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
        all.with("reason", reasons).write(&mut out, "cells")?;
        Ok(Outputs::from([("cells".to_owned(), cells), ("table".to_owned(), out.finish()?)]))
    }
}

/// The published forms of single cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    /// The paper's: one aligned 8-bit image a cell, intensities already from 0 to 255, masks among its channels.
    Aligned,
    /// The later set's: a crop of the field and its segmentation, not aligned, intensities as measured.
    Crops,
}

/// The channels of a cell by what they hold: positions in the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Channels {
    membrane: usize,
    dna: usize,
    structure: Option<usize>,
    cell_mask: usize,
    nucleus_mask: usize,
    /// How many channels each file has at least.
    counts: Vec<usize>,
}

/// A row of a manifest.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    id: String,
    field: String,
    structure: String,
    stage: String,
    drug: String,
    /// The files' names, without folders: image; or crop and segmentation.
    files: Vec<String>,
    channels: Channels,
    /// Size of the files' voxels in µm, where the manifest says it: Z, Y, X.
    scale: Option<[f64; 3]>,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq)]
struct Manifest {
    form: Form,
    rows: Vec<Row>,
}

/// The longest list in a message.
const LISTED: usize = 12;

/// Some of a list, and how many more there are.
fn listed(all: &[String]) -> String {
    let some = all.iter().take(LISTED).map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ");
    if all.len() > LISTED { format!("{some} and {} more", all.len() - LISTED) } else { some }
}

/// The file's name at the end of a path of either system.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// A mitotic stage in this program's words; what is not known is kept.
fn stage_name(theirs: &str) -> String {
    let words = match theirs {
        "M0" | "Interphase" => "interphase",
        "M1M2" | "Prophase" => "prophase",
        "M3" => "early-prometaphase",
        "M4M5" => "prometaphase-metaphase",
        "M6M7_complete" | "M6M7_single" | "M6M7" => "anaphase-telophase",
        other => return other.trim().to_lowercase().replace([' ', '_'], "-"),
    };
    words.to_owned()
}

impl Manifest {
    /// Reads a manifest whose images are these. Everything missing is named at once: columns, values in rows, and files.
    fn parse(name: &str, bytes: &[u8], images: &[FileInput]) -> Result<Self, StageError> {
        let broken = |error: csv::Error| StageError::bad_input(format!("`{name}` is no readable CSV: {error}"));
        let mut reader = csv::Reader::from_reader(bytes);
        let headers: Vec<String> = reader
            .headers()
            .map_err(broken)?
            .iter()
            .map(|header| header.trim_start_matches('\u{feff}').to_owned())
            .collect();
        let has = |column: &str| headers.iter().any(|header| header == column);
        let (form, needed): (Form, &[&str]) = if has("crop_raw") || has("crop_seg") {
            (Form::Crops, &["CellId", "structure_name", "crop_raw", "crop_seg", "name_dict"])
        } else {
            let needed: &[&str] =
                &["CellId", "StructureId/Name", "save_reg_path", "ch_dna", "ch_memb", "ch_seg_cell", "ch_seg_nuc"];
            (Form::Aligned, needed)
        };
        let missing: Vec<String> = needed.iter().filter(|c| !has(c)).map(|c| (*c).to_owned()).collect();
        let incomplete = !missing.is_empty();
        let mut mistakes = Vec::new();
        if incomplete {
            mistakes.push(format!("it lacks the columns {}", listed(&missing)));
        }
        let present: BTreeSet<&str> = images.iter().map(|file| file.name.as_str()).collect();
        let mut absent = BTreeSet::new();
        let drug_column = headers.iter().find(|header| {
            let header = header.to_lowercase();
            header == "drug" || header.starts_with("drug") && (header.ends_with("name") || header.ends_with("label"))
        });
        let (mut rows, mut wrong) = (Vec::new(), Vec::new());
        for (number, record) in reader.records().enumerate() {
            let record = record.map_err(broken)?;
            let value = |column: &str| {
                let at = headers.iter().position(|header| header == column)?;
                record.get(at).map(str::trim).filter(|value| !value.is_empty())
            };
            let text = |columns: &[&str]| columns.iter().find_map(|c| value(c)).unwrap_or_default().to_owned();
            for column in ["save_reg_path", "crop_raw", "crop_seg"].into_iter().filter(|column| of_form(form, column)) {
                absent.extend(value(column).map(file_name).filter(|name| !present.contains(name)).map(str::to_owned));
            }
            if incomplete {
                continue;
            }
            let channels = match form {
                Form::Aligned => aligned_channels(&value),
                Form::Crops => value("name_dict").ok_or_else(|| "no `name_dict`".to_owned()).and_then(crop_channels),
            };
            let files: Vec<&str> = match form {
                Form::Aligned => value("save_reg_path").into_iter().collect(),
                Form::Crops => value("crop_raw").into_iter().chain(value("crop_seg")).collect(),
            };
            let id = value("CellId").map(|id| id.strip_suffix(".0").unwrap_or(id).to_owned());
            let scale = value("scale_micron").map(scale).transpose();
            let channels = channels.and_then(|channels| Ok((channels, scale?)));
            match (id, channels) {
                (Some(id), Ok((channels, scale))) if files.len() == channels.counts.len() => rows.push(Row {
                    id,
                    field: text(&["FOVId", "DataSetId/CellLineId/Name"]),
                    structure: text(&["StructureId/Name", "structure_name"]),
                    stage: stage_name(&text(&["cell_stage", "MitoticStateId/Name"])),
                    drug: drug_column.map(|column| text(&[column])).unwrap_or_default(),
                    files: files.into_iter().map(|path| file_name(path).to_owned()).collect(),
                    channels,
                    scale,
                }),
                (None, _) => wrong.push(format!("line {}: no `CellId`", number + 2)),
                (_, Err(reason)) => wrong.push(format!("line {}: {reason}", number + 2)),
                _ => wrong.push(format!("line {}: no path of an image", number + 2)),
            }
        }
        if !wrong.is_empty() {
            mistakes.push(format!("it has rows that cannot be used: {}", listed(&wrong)));
        }
        let mut seen = BTreeSet::new();
        let twice: Vec<String> = rows.iter().filter(|row| !seen.insert(&row.id)).map(|row| row.id.clone()).collect();
        if !twice.is_empty() {
            mistakes.push(format!("it has cells twice: {}", listed(&twice)));
        }
        let unsafe_ids: Vec<String> = rows
            .iter()
            .map(|row| &row.id)
            .filter(|id| {
                !id.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.')) || id.starts_with('.')
            })
            .cloned()
            .collect();
        if !unsafe_ids.is_empty() {
            mistakes.push(format!(
                "it has ids that cannot be file names (letters, digits, `-`, `_` and `.` can): {}",
                listed(&unsafe_ids)
            ));
        }
        if !absent.is_empty() {
            let absent: Vec<String> = absent.into_iter().collect();
            mistakes.push(format!("{} files that it names are not there: {}", absent.len(), listed(&absent)));
        }
        if !mistakes.is_empty() {
            let advice = if incomplete {
                "the paper's manifest has `save_reg_path` and `ch_…` columns, the later one `crop_raw`, `crop_seg` and `name_dict`"
            } else {
                "`images` must cover every file that the manifest names"
            };
            return Err(StageError::bad_input(format!("`{name}`: {}", mistakes.join("; "))).with_help(advice));
        }
        if rows.is_empty() {
            return Err(StageError::bad_input(format!("`{name}` has no rows")));
        }
        Ok(Self { form, rows })
    }

    /// The channels that all cells have.
    fn channels(&self) -> Vec<String> {
        let structure = self.rows.iter().all(|row| row.channels.structure.is_some());
        let names = ["membrane", "dna"].into_iter().chain(structure.then_some("structure"));
        names.map(str::to_owned).collect()
    }

    /// The files of every row; [`Manifest::parse`] made sure that all are there.
    fn find<'a>(&self, files: &'a [FileInput]) -> Result<Vec<Vec<&'a FileInput>>, StageError> {
        let mut by_name: BTreeMap<&str, &FileInput> = BTreeMap::new();
        let mut twice = Vec::new();
        for file in files {
            if let Some(other) = by_name.insert(&file.name, file)
                && other.digest != file.digest
            {
                twice.push(file.name.clone());
            }
        }
        let wanted = self.rows.iter().flat_map(|row| &row.files);
        let wanted: BTreeSet<&str> = wanted.map(String::as_str).collect();
        twice.retain(|name| wanted.contains(name.as_str()));
        if !twice.is_empty() {
            let message = format!("several different files have the names {}", listed(&twice));
            return Err(StageError::bad_input(message).with_help("give the images of one set only"));
        }
        Ok(self.rows.iter().map(|row| row.files.iter().map(|name| by_name[name.as_str()]).collect()).collect())
    }
}

/// The positions of the channels in a row of the paper's manifest.
fn aligned_channels<'a>(value: &impl Fn(&str) -> Option<&'a str>) -> Result<Channels, String> {
    let position = |column: &str| match value(column) {
        None => Ok(None),
        Some(text) => {
            let number = text.strip_suffix(".0").unwrap_or(text).parse::<usize>();
            number
                .ok()
                .filter(|&n| n < 64)
                .map(Some)
                .ok_or_else(|| format!("`{column}` is `{text}`, not a channel's number"))
        }
    };
    let needed = |column: &str| position(column)?.ok_or_else(|| format!("no `{column}`"));
    let (membrane, dna, structure) = (needed("ch_memb")?, needed("ch_dna")?, position("ch_struct")?);
    let (cell_mask, nucleus_mask) = (needed("ch_seg_cell")?, needed("ch_seg_nuc")?);
    let all = [Some(membrane), Some(dna), structure, Some(cell_mask), Some(nucleus_mask), position("ch_trans")?];
    let count = all.into_iter().flatten().max().unwrap_or(0) + 1;
    Ok(Channels { membrane, dna, structure, cell_mask, nucleus_mask, counts: vec![count] })
}

/// The positions of the channels in the later set's `name_dict`: `{'crop_raw': ['dna', …], 'crop_seg': ['dna_segmentation', …]}`.
fn crop_channels(text: &str) -> Result<Channels, String> {
    let names: BTreeMap<String, Vec<String>> = serde_json::from_str(&text.replace('\'', "\""))
        .map_err(|error| format!("`name_dict` cannot be read: {error}"))?;
    let list = |key: &str| names.get(key).ok_or_else(|| format!("`name_dict` has no `{key}`"));
    let (raw, segmentation) = (list("crop_raw")?, list("crop_seg")?);
    let find = |list: &[String], names: &[&str]| list.iter().position(|name| names.contains(&name.as_str()));
    let needed = |list: &[String], names: &[&str]| {
        find(list, names)
            .ok_or_else(|| format!("`name_dict` has no channel `{}`; it has {}", names[0], list.join(", ")))
    };
    Ok(Channels {
        membrane: needed(raw, &["membrane"])?,
        dna: needed(raw, &["dna"])?,
        structure: find(raw, &["structure", "gfp", "struct"]),
        cell_mask: needed(segmentation, &["membrane_segmentation", "cell_segmentation"])?,
        nucleus_mask: needed(segmentation, &["dna_segmentation", "nucleus_segmentation"])?,
        counts: vec![raw.len(), segmentation.len()],
    })
}

/// Whether the column names files in this form.
fn of_form(form: Form, column: &str) -> bool {
    (form == Form::Aligned) == (column == "save_reg_path")
}

/// A scale column: one number, or a list of three: Z, Y, X. No microscope has voxels of less than a nanometre or more than a millimetre.
fn scale(text: &str) -> Result<[f64; 3], String> {
    let parts = text.trim_matches(['[', ']', '(', ')']).split(',');
    let numbers: Option<Vec<f64>> =
        parts.map(|part| part.trim().parse().ok().filter(|side| (1e-3..=1e3).contains(side))).collect();
    match numbers.as_deref() {
        Some([side]) => Ok([*side; 3]),
        Some([z, y, x]) => Ok([*z, *y, *x]),
        _ => Err(format!("`scale_micron` is `{text}`, not the side of a voxel or its three sides in µm")),
    }
}

/// Gives planes without channel names the `count` channels that the manifest speaks of: CZYX.
fn with_channels(mut stack: Stack, count: usize) -> Result<Stack, ImageError> {
    if stack.channels.len() == 1 && count > 1 {
        if !stack.size[0].is_multiple_of(count) {
            return Err(ImageError::Shape(format!("{} planes for {count} channels", stack.size[0])));
        }
        stack.size[0] /= count;
        stack.channels = (0..count).map(|channel| channel.to_string()).collect();
    }
    if stack.channels.len() < count {
        return Err(ImageError::Shape(format!(
            "{} channels, and the manifest speaks of {count}",
            stack.channels.len()
        )));
    }
    Ok(stack)
}

/// Cuts one cell out of its files.
#[derive(Serialize, Deserialize)]
struct CutCell {
    form: Form,
    file_voxel_size: Option<VoxelSize>,
    /// What the cells' images are like.
    description: CellsDescription,
}

/// What the manifest says of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CellToCut {
    channels: Channels,
    scale: Option<[f64; 3]>,
}

impl ItemWork for CutCell {
    type Item = CellToCut;
    type Shared = ();
    const UNIT: &'static str = "cells";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), cell: CellToCut, inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let read = |input: usize| Ok::<_, StageError>(ome_tiff::read(&inputs.bytes(input)?)?);
        let stacks = (0..inputs.inputs().len()).map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(match cut(self, &cell, stacks)? {
            Ok(image) => vec![(IMAGE.to_owned(), image.encode(&self.description)?)],
            Err(reason) => vec![(REASON.to_owned(), reason.into_bytes())],
        })
    }
}

/// The aligned image of a cell; `Ok(Err(reason))`: the cell must be left out.
fn cut(work: &CutCell, row: &CellToCut, stacks: Vec<Stack>) -> Result<Result<CellImage, String>, ImageError> {
    let stacks = stacks
        .into_iter()
        .zip(&row.channels.counts)
        .map(|(stack, &count)| with_channels(stack, count))
        .collect::<Result<Vec<_>, _>>()?;
    let (raw, masks) = (&stacks[0], &stacks[stacks.len() - 1]);
    if raw.size != masks.size {
        return Err(ImageError::Shape(format!("the crop is {:?}, its segmentation {:?}", raw.size, masks.size)));
    }
    if work.form == Form::Aligned && !matches!(raw.pixels, Pixels::U8(_)) {
        return Err(ImageError::Shape("aligned images must be 8 bit, with intensities from 0 to 255".to_owned()));
    }
    let own = work.file_voxel_size.map(|size| size.0).or(row.scale).or(raw.voxel_um);
    let voxel_um = match (own, work.form) {
        (Some(own), _) => own,
        (None, Form::Aligned) => work.description.voxel_um,
        (None, Form::Crops) => {
            let message = "neither the manifest nor the file says the size of a voxel: give `file-voxel-size`";
            return Err(ImageError::Shape(message.to_owned()));
        }
    };
    let mask = |position: usize| Ok::<_, ImageError>(masks.channel_u32(position)?.map(|&label| u32::from(label != 0)));
    let (cell, nucleus) = (mask(row.channels.cell_mask)?, mask(row.channels.nucleus_mask)?);
    let region = |mask: &Volume<u32>| regions(mask, 1).swap_remove(0);
    let (Some(body), Some(core)) = (region(&cell), region(&nucleus)) else {
        return Ok(Err("its mask of the cell or of the nucleus is empty".to_owned()));
    };
    let pose = match work.form {
        Form::Crops => Pose::of(&cell, 1, &body, &core, voxel_um),
        Form::Aligned => {
            let middle = [0, 1, 2].map(|axis| (raw.size[axis] as f64 - 1.0) / 2.0 * voxel_um[axis]);
            Pose { centre_um: middle, angle: 0.0, flip: [false; 2] }
        }
    };
    let frame = Frame { size: work.description.size, voxel_um: work.description.voxel_um };
    let extent = pose.extent(&cell, 1, &body, voxel_um, &frame);
    if (0..3).any(|axis| extent[axis] > frame.size[axis] + 1) {
        return Ok(Err(format!("it needs {extent:?} voxels (z, y, x), and `size` is {:?}", frame.size)));
    }
    let full_scale = if work.form == Form::Aligned { 255.0 } else { 1.0 };
    let structure = row.channels.structure.filter(|_| work.description.channels.len() == 3);
    let channels = [Some(row.channels.membrane), Some(row.channels.dna), structure]
        .into_iter()
        .flatten()
        .map(|position| {
            let channel = raw.channel_f32(position).map(|&value| value / full_scale);
            align_linear(&channel, voxel_um, pose, &frame)
        })
        .collect::<Result<_, _>>()?;
    Ok(Ok(CellImage {
        channels,
        cell: align_mask(&cell, 1, voxel_um, pose, &frame),
        nucleus: align_mask(&nucleus, 1, voxel_um, pose, &frame),
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::{artifact::Cells, store::Digest};

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
        ome_tiff::write(&Stack { channels, size, voxel_um, pixels }).unwrap()
    }

    const ALIGNED: &str =
        "CellId,StructureId/Name,save_reg_path,ch_dna,ch_memb,ch_seg_cell,ch_seg_nuc,ch_struct,ch_trans";

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
        assert!(
            both.contains("`ch_memb`") && both.contains("2 files") && both.contains("`a.tiff`, `b.tiff`"),
            "{both}"
        );
        let crops = message("CellId,crop_raw,scale_micron\n1,raw/a.tiff,0.1\n");
        for what in ["`structure_name`", "`crop_seg`", "`name_dict`", "1 files", "`a.tiff`"] {
            assert!(crops.contains(what), "{what}: {crops}");
        }
        let names = "\"{'crop_raw': ['dna', 'membrane'], 'crop_seg': ['dna_segmentation', 'membrane_segmentation']}\"";
        let crops = message(&format!(
            "CellId,structure_name,crop_raw,crop_seg,name_dict,scale_micron\n1,G,r.tif,s.tif,{names},1e300\n\
             2,G,r.tif,,{names},0.1\n3,G,r.tif,s.tif,{{}},\"[0.1, 0.1, 0.1]\"\n"
        ));
        for what in ["line 2: `scale_micron` is `1e300`", "line 3: no path", "line 4", "2 files", "`r.tif`, `s.tif`"] {
            assert!(crops.contains(what), "{what}: {crops}");
        }
        assert!(missing.contains("2 files") && missing.contains("`a.tiff`, `b.tiff`"), "{missing}");
        let rows = message(&format!(
            "{ALIGNED}\n1,Golgi,a.tiff,x,3,1,0,4,5\n,Golgi,b.tiff,2,3,1,0,4,5\n3,Golgi,,2,3,1,0,4,5\n"
        ));
        assert!(
            rows.contains("line 2: `ch_dna` is `x`") && rows.contains("line 3") && rows.contains("line 4"),
            "{rows}"
        );
        assert!(message(&format!("{ALIGNED}\n../x,Golgi,a.tiff,2,3,1,0,4,5\n")).contains("cannot be file names"));
        assert!(message("").contains("lacks the columns"));
        let twice = message(&format!("{ALIGNED}\n1,G,a.tiff,2,3,1,0,4,5\n1,G,a.tiff,2,3,1,0,4,5\n"));
        assert!(twice.contains("twice"), "{twice}");
    }
}
