//! What a manifest says: one row per cell, in one of three forms.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    params::{ImportCellsParams, Missing},
    sheet::Sheet,
};
use crate::stage::{FileInput, StageError};

/// The forms of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// The paper's: one aligned image per cell, intensities over the whole range of its 8 or 16 bit, masks among its channels.
    Aligned,
    /// The Institute's later set: a crop of the field and its segmentation, not aligned, intensities as measured.
    Crops,
    /// Anybody's: columns `cell_id`, `image` and masks; see `docs/manifest.md`.
    Own,
}

/// The channels of a cell by what they hold: positions in the files. (Of the Institute's forms; others name them.)
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Positions {
    pub(super) membrane: usize,
    pub(super) dna: usize,
    pub(super) structure: Option<usize>,
    pub(super) cell_mask: usize,
    pub(super) nucleus_mask: usize,
    /// How many channels each file has at least.
    pub(super) counts: Vec<usize>,
}

/// What a file of a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Holds {
    /// Intensities (and masks, where no other file holds them).
    Image,
    /// Masks of nucleus and cell.
    Masks,
    /// A mask of the cell.
    Cell,
    /// A mask of the nucleus.
    Nucleus,
}

/// A row of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) field: String,
    pub(super) structure: String,
    pub(super) stage: String,
    pub(super) drug: String,
    pub(super) well: String,
    pub(super) plate: String,
    /// The files' names, without folders.
    pub(super) files: Vec<String>,
    pub(super) holds: Vec<Holds>,
    pub(super) positions: Positions,
    /// The number of the cell in its masks; `None`: all that is not 0.
    pub(super) label: Option<u32>,
    /// Size of the files' voxels in µm, where the manifest says it: Z, Y, X.
    pub(super) scale: Option<[f64; 3]>,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    pub(super) form: Form,
    pub(super) rows: Vec<Row>,
    /// Rows whose files are missing and that are left out: the cell and what is missing.
    pub(super) skipped: Vec<(String, String)>,
}

/// The longest list in a message.
const LISTED: usize = 12;

/// Some of a list, and how many more there are.
fn listed(all: &[String]) -> String {
    let some = all.iter().take(LISTED).map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ");
    if all.len() > LISTED { format!("{some} and {} more", all.len() - LISTED) } else { some }
}

fn lines(lines: &[usize]) -> String {
    let some = lines.iter().take(LISTED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let more = if lines.len() > LISTED { format!(" and {} more", lines.len() - LISTED) } else { String::new() };
    format!("{} {some}{more}", if lines.len() == 1 { "line" } else { "lines" })
}

/// The file's name at the end of a path of either system.
fn file_name(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
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

/// Columns of manifests of one's own: the name, and whether each row needs it.
pub(super) const COLUMNS: [&str; 15] = [
    "cell_id",
    "image",
    "mask",
    "cell_mask",
    "nucleus_mask",
    "label",
    "structure",
    "stage",
    "drug",
    "well",
    "plate",
    "field",
    "voxel_z",
    "voxel_y",
    "voxel_x",
];

/// A name of a column without what people write in different ways.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Where the columns are.
struct Columns {
    headers: Vec<String>,
    /// Our names and theirs, as the pipeline maps them.
    mapped: BTreeMap<String, String>,
}

impl Columns {
    /// The column of this very name.
    fn exact(&self, name: &str) -> Option<usize> {
        self.headers.iter().position(|header| header == name)
    }

    /// Our column: the one that is mapped to it, else the one of its name in any spelling.
    fn own(&self, name: &str) -> Option<usize> {
        match self.mapped.get(name) {
            Some(theirs) => self.exact(theirs),
            None => self.headers.iter().position(|header| plain(header) == plain(name)),
        }
    }
}

/// Mistakes of rows: each once, with the lines that have it, in the order of the first.
#[derive(Default)]
struct Mistakes(Vec<(String, Vec<usize>)>);

impl Mistakes {
    fn add(&mut self, line: usize, what: String) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, lines)) => lines.push(line),
            None => self.0.push((what, vec![line])),
        }
    }
}

impl Manifest {
    /// Reads a manifest whose images are these. Everything that is wrong is named at once: columns, values in rows, and files.
    pub(super) fn parse(
        name: &str,
        bytes: &[u8],
        images: &[FileInput],
        params: &ImportCellsParams,
    ) -> Result<Self, StageError> {
        let sheet = Sheet::read(bytes)
            .map_err(|error| StageError::bad_input(format!("`{name}` is no readable table: {error}")))?;
        let columns = Columns { headers: sheet.headers, mapped: params.columns.clone() };
        let form = if !params.columns.is_empty() {
            Form::Own
        } else if columns.exact("crop_raw").is_some() || columns.exact("crop_seg").is_some() {
            Form::Crops
        } else if columns.exact("save_reg_path").is_some() || columns.own("image").is_none() {
            Form::Aligned
        } else {
            Form::Own
        };
        // What is wrong, and what to do about each kind of it.
        let mut wrong: Vec<(String, String)> = Vec::new();
        let unmapped: Vec<String> = params
            .columns
            .iter()
            .filter(|(_, theirs)| columns.exact(theirs).is_none())
            .map(|(_, theirs)| theirs.clone())
            .collect();
        let missing = missing_columns(form, &columns);
        let incomplete = !missing.is_empty() || !unmapped.is_empty();
        if incomplete {
            let all: Vec<String> = missing.into_iter().chain(unmapped).collect();
            let headers = if columns.headers.is_empty() {
                "it is empty".to_owned()
            } else {
                format!("it has {}", listed(&columns.headers))
            };
            wrong.push((
                format!("it lacks the columns {} ({headers})", listed(&all)),
                "a manifest of your own has `cell_id`, `image` and `mask` (or `cell_mask` and `nucleus_mask`; other names by `columns = { \
                 cell_id = \"their name\" }`); the paper's has `save_reg_path` and `ch_…`, the later one `crop_raw`, `crop_seg` and \
                 `name_dict`"
                    .to_owned(),
            ));
        }
        let present: BTreeSet<&str> = images.iter().map(|file| file.name.as_str()).collect();
        let (mut rows, mut mistakes, mut absent) = (Vec::new(), Mistakes::default(), BTreeSet::new());
        let (mut skipped, mut first_line) = (Vec::new(), BTreeMap::<String, usize>::new());
        for row in &sheet.rows {
            let named = files_of(form, &columns, &row.values);
            let lost: Vec<String> = named
                .iter()
                .map(|(_, path)| file_name(path).to_owned())
                .filter(|name| !present.contains(name.as_str()))
                .collect();
            if incomplete {
                absent.extend(lost);
                continue;
            }
            match row_of(form, &columns, &row.values, &named) {
                Ok(parsed) => {
                    let id = parsed.id.clone();
                    if let Some(first) = first_line.get(&id) {
                        mistakes.add(row.line, format!("the cell `{id}` stands in line {first} already"));
                    } else {
                        first_line.insert(id, row.line);
                    }
                    if lost.is_empty() || params.missing == Missing::Error {
                        rows.push(parsed);
                    } else {
                        skipped.push((parsed.id, format!("missing: {}", lost.join(", "))));
                    }
                }
                Err(reason) => mistakes.add(row.line, reason),
            }
            absent.extend(lost);
        }
        for (what, at) in mistakes.0.iter().take(LISTED) {
            wrong.push((format!("{what} ({})", lines(at)), help_for(what, form)));
        }
        if mistakes.0.len() > LISTED {
            wrong.push((format!("{} mistakes more", mistakes.0.len() - LISTED), String::new()));
        }
        if !absent.is_empty() && params.missing == Missing::Error {
            let absent: Vec<String> = absent.into_iter().collect();
            wrong.push((
                format!("{} files that it names are not there: {}", absent.len(), listed(&absent)),
                "`images` must match every file that the manifest names; `missing = \"skip\"` takes the other rows"
                    .to_owned(),
            ));
        }
        if !wrong.is_empty() {
            let mut helps: Vec<&String> = Vec::new();
            for (_, help) in &wrong {
                if !help.is_empty() && !helps.contains(&help) {
                    helps.push(help);
                }
            }
            let helps = helps.into_iter().map(String::as_str).collect::<Vec<_>>().join("; ");
            let wrong = wrong.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>().join("; ");
            return Err(StageError::bad_input(format!("`{name}`: {wrong}")).with_help(helps));
        }
        if rows.is_empty() {
            let all_missing = if skipped.is_empty() { "has no rows" } else { "has no row whose files are there" };
            return Err(StageError::bad_input(format!("`{name}` {all_missing}")));
        }
        Ok(Self { form, rows, skipped })
    }

    /// The files of every row; [`Manifest::parse`] made sure that all are there.
    pub(super) fn find<'a>(&self, files: &'a [FileInput]) -> Result<Vec<Vec<&'a FileInput>>, StageError> {
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

/// What to do about a mistake of a row.
fn help_for(what: &str, form: Form) -> String {
    let help = if what.contains("already") {
        "each row needs an id of its own"
    } else if what.contains("cannot be a file name") {
        "ids are letters, digits, `-`, `_` and `.`, and do not begin with `.`"
    } else {
        match form {
            Form::Own => "mend these rows, or take them out",
            Form::Aligned => "`ch_dna` and the like are positions of channels in the image, from 0",
            Form::Crops => "`name_dict` says what the channels of `crop_raw` and `crop_seg` are",
        }
    };
    help.to_owned()
}

fn missing_columns(form: Form, columns: &Columns) -> Vec<String> {
    let needed: &[&str] = match form {
        Form::Crops => &["CellId", "structure_name", "crop_raw", "crop_seg", "name_dict"],
        Form::Aligned => {
            &["CellId", "StructureId/Name", "save_reg_path", "ch_dna", "ch_memb", "ch_seg_cell", "ch_seg_nuc"]
        }
        Form::Own => &["cell_id", "image"],
    };
    let there = |column: &&&str| match form {
        Form::Own => columns.own(column).is_some() || columns.mapped.contains_key(**column),
        _ => columns.exact(column).is_some(),
    };
    needed.iter().filter(|column| !there(column)).map(|column| (*column).to_owned()).collect()
}

fn value<'a>(values: &'a [String], at: Option<usize>) -> Option<&'a str> {
    values.get(at?).map(String::as_str).filter(|value| !value.is_empty())
}

/// The files that a row names, and what each holds.
fn files_of<'a>(form: Form, columns: &Columns, values: &'a [String]) -> Vec<(Holds, &'a str)> {
    let of = |holds: Holds, at: Option<usize>| value(values, at).map(|path| (holds, path));
    let files = match form {
        Form::Aligned => vec![of(Holds::Image, columns.exact("save_reg_path"))],
        Form::Crops => {
            vec![of(Holds::Image, columns.exact("crop_raw")), of(Holds::Masks, columns.exact("crop_seg"))]
        }
        Form::Own => vec![
            of(Holds::Image, columns.own("image")),
            of(Holds::Masks, columns.own("mask")),
            of(Holds::Cell, columns.own("cell_mask")),
            of(Holds::Nucleus, columns.own("nucleus_mask")),
        ],
    };
    files.into_iter().flatten().collect()
}

fn row_of(form: Form, columns: &Columns, values: &[String], files: &[(Holds, &str)]) -> Result<Row, String> {
    let exact = |name: &str| value(values, columns.exact(name));
    let text = |names: &[&str]| names.iter().find_map(|name| exact(name)).unwrap_or_default().to_owned();
    let own = |name: &str| value(values, columns.own(name));
    let id_column = if form == Form::Own { "cell_id" } else { "CellId" };
    let id = if form == Form::Own { own("cell_id") } else { exact("CellId") };
    let id = id.map(|id| id.strip_suffix(".0").unwrap_or(id)).ok_or_else(|| format!("no `{id_column}`"))?;
    if !id.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.')) || id.starts_with('.') {
        return Err(format!("the id `{id}` cannot be a file name"));
    }
    let positions = match form {
        Form::Aligned => aligned_channels(&exact)?,
        Form::Crops => crop_channels(exact("name_dict").ok_or("no `name_dict`")?)?,
        Form::Own => Positions::default(),
    };
    let holds: Vec<Holds> = files.iter().map(|(holds, _)| *holds).collect();
    match form {
        Form::Own if !holds.contains(&Holds::Image) => return Err("no path of an image".to_owned()),
        Form::Own if holds.contains(&Holds::Masks) && holds.len() > 2 => {
            return Err("both `mask` and `cell_mask` or `nucleus_mask`".to_owned());
        }
        Form::Own if holds == [Holds::Image, Holds::Cell] => {
            return Err("a `cell_mask`, and no `nucleus_mask`".to_owned());
        }
        Form::Own if holds == [Holds::Image, Holds::Nucleus] => {
            return Err("a `nucleus_mask`, and no `cell_mask`".to_owned());
        }
        Form::Aligned | Form::Crops if files.len() != positions.counts.len() => {
            return Err("no path of an image".to_owned());
        }
        _ => {}
    }
    let whole = |text: &str| text.strip_suffix(".0").unwrap_or(text).parse::<u32>().ok().filter(|&label| label > 0);
    let label = match (form, own("label")) {
        (Form::Own, Some(text)) => Some(whole(text).ok_or_else(|| format!("`label` is `{text}`, no number above 0"))?),
        _ => None,
    };
    let drug_column = columns.headers.iter().find(|header| {
        let header = header.to_lowercase();
        header == "drug" || header.starts_with("drug") && (header.ends_with("name") || header.ends_with("label"))
    });
    let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let (field, structure, stage, drug) = match form {
        Form::Own => (owned(own("field")), owned(own("structure")), owned(own("stage")), owned(own("drug"))),
        _ => (
            text(&["FOVId", "DataSetId/CellLineId/Name"]),
            text(&["StructureId/Name", "structure_name"]),
            text(&["cell_stage", "MitoticStateId/Name"]),
            drug_column.map(|column| text(&[column])).unwrap_or_default(),
        ),
    };
    Ok(Row {
        id: id.to_owned(),
        field,
        structure,
        stage: stage_name(&stage),
        drug,
        well: owned(own("well")),
        plate: owned(own("plate")),
        files: files.iter().map(|(_, path)| file_name(path).to_owned()).collect(),
        holds,
        positions,
        label,
        scale: scale(&exact, &own)?,
    })
}

/// The positions of the channels in a row of the paper's manifest.
fn aligned_channels<'a>(value: &impl Fn(&str) -> Option<&'a str>) -> Result<Positions, String> {
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
    Ok(Positions { membrane, dna, structure, cell_mask, nucleus_mask, counts: vec![count] })
}

/// The positions of the channels in the later set's `name_dict`: `{'crop_raw': ['dna', …], 'crop_seg': ['dna_segmentation', …]}`.
fn crop_channels(text: &str) -> Result<Positions, String> {
    let names: BTreeMap<String, Vec<String>> = serde_json::from_str(&text.replace('\'', "\""))
        .map_err(|error| format!("`name_dict` cannot be read: {error}"))?;
    let list = |key: &str| names.get(key).ok_or_else(|| format!("`name_dict` has no `{key}`"));
    let (raw, segmentation) = (list("crop_raw")?, list("crop_seg")?);
    let find = |list: &[String], names: &[&str]| list.iter().position(|name| names.contains(&name.as_str()));
    let needed = |list: &[String], names: &[&str]| {
        find(list, names)
            .ok_or_else(|| format!("`name_dict` has no channel `{}`; it has {}", names[0], list.join(", ")))
    };
    Ok(Positions {
        membrane: needed(raw, &["membrane"])?,
        dna: needed(raw, &["dna"])?,
        structure: find(raw, &["structure", "gfp", "struct"]),
        cell_mask: needed(segmentation, &["membrane_segmentation", "cell_segmentation"])?,
        nucleus_mask: needed(segmentation, &["dna_segmentation", "nucleus_segmentation"])?,
        counts: vec![raw.len(), segmentation.len()],
    })
}

/// The size of a voxel: a scale column of one number or a list of three (Z, Y, X), or a column for each side. No microscope has voxels
/// of less than a nanometre or more than a millimetre.
fn scale<'a>(
    exact: &impl Fn(&str) -> Option<&'a str>,
    own: &impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<[f64; 3]>, String> {
    let side = |text: &str| text.trim().replace(',', ".").parse().ok().filter(|side| (1e-3..=1e3).contains(side));
    if let Some(text) = exact("scale_micron") {
        let parts = text.trim_matches(['[', ']', '(', ')']).split(',');
        let numbers: Option<Vec<f64>> = parts.map(side).collect();
        return match numbers.as_deref() {
            Some([side]) => Ok(Some([*side; 3])),
            Some([z, y, x]) => Ok(Some([*z, *y, *x])),
            _ => Err(format!("`scale_micron` is `{text}`, not the side of a voxel or its three sides in µm")),
        };
    }
    let sides = ["voxel_z", "voxel_y", "voxel_x"].map(|column| {
        let text = own(column);
        let told =
            |text: &str| side(text).ok_or_else(|| format!("`{column}` is `{text}`, not the side of a voxel in µm"));
        text.map(told).transpose()
    });
    match sides {
        [Ok(Some(z)), Ok(Some(y)), Ok(Some(x))] => Ok(Some([z, y, x])),
        [Ok(None), Ok(None), Ok(None)] => Ok(None),
        [Ok(_), Ok(_), Ok(_)] => Err("some of `voxel_z`, `voxel_y` and `voxel_x`, and not all".to_owned()),
        [z, y, x] => z.and(y).and(x).map(|_| None),
    }
}
