//! `import-cells`: single cells that others have cut out already, by their manifest.

mod cut;
mod manifest;
mod params;
mod sheet;
#[cfg(test)]
mod tests;

use super::import_fields::Channels;
use crate::{
    artifact::{ArtifactType, ArtifactWriter, CellImage, CellsDescription, CellsWriter, FigureSet, Table},
    figures::gallery::{Gallery, Picture, View},
    stage::{
        Arity, Checked, Context, Facts, Input, InputFacts, Inputs, ItemInput, Output, Outputs, Problem, StageError,
        StageKind, Work,
    },
};
use cut::{CellToCut, CutCell, IMAGE, REASON};
use manifest::{COLUMNS, Form, Manifest, Row};
use params::ImportCellsParams;

/// Imports single cells.
pub(super) struct ImportCells;

/// Cells in the gallery, at most.
const SHOWN: usize = 48;

impl StageKind for ImportCells {
    type Params = ImportCellsParams;
    const NAME: &'static str = "import-cells";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "reads single cells by a manifest: of your own, or the Allen Institute's (the paper's aligned images, the later crops)";

    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] =
        &[("missing", "it says what becomes of rows that give no item"), ("dataset", "it stands in the table only")];

    fn inputs(_: Option<&ImportCellsParams>) -> Vec<Input> {
        vec![
            Input::files(
                "manifest",
                Arity::One,
                "the table with one row per cell (CSV, semicolons, tabs; UTF-8 or UTF-16)",
            ),
            Input::files("images", Arity::Many, "the image files that the manifest names, found by their file names"),
        ]
    }

    fn outputs(_: Option<&ImportCellsParams>) -> Vec<Output> {
        vec![
            Output::data("cells", ArtifactType::Cells, "the cells, aligned"),
            Output::for_people("table", ArtifactType::Tables, "every row of the manifest, and why it was left out"),
            Output::for_people("figures", ArtifactType::Figures, "the cells"),
        ]
    }

    fn check(params: &ImportCellsParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params.size.contains(&0) {
            checked.problems.push(Problem::with("size", "an image's sides must be at least one voxel"));
        }
        if !(params.voxel_size > 0.0 && params.voxel_size.is_finite()) {
            checked.problems.push(Problem::with("voxel-size", "a voxel's side must be above 0 µm"));
        }
        if params.file_voxel_size.is_some_and(|size| !size.0.iter().all(|side| *side > 0.0 && side.is_finite())) {
            checked.problems.push(Problem::with("file-voxel-size", "a voxel's sides must be above 0 µm"));
        }
        if let Some(unknown) = params.columns.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
            checked.problems.push(
                Problem::with("columns", format!("there is no column `{unknown}` to map"))
                    .help(format!("the names on the left are ours: {}", COLUMNS.join(", "))),
            );
        }
        if params.mask_channels.len() > 2 || params.mask_channels.iter().any(|name| name != "nucleus" && name != "cell")
        {
            checked.problems.push(Problem::with("mask-channels", "masks are of `nucleus` and `cell`"));
        }
        let facts = Facts { size: Some(params.size), dimensions: Some(3), ..Facts::default() };
        checked.outputs.insert("cells".to_owned(), facts);
        checked
    }

    fn run(params: &ImportCellsParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let manifest = inputs.files("manifest").first().ok_or_else(|| StageError::bad_input("no manifest is given"))?;
        let manifest = Manifest::parse(&manifest.name, &manifest.read()?, inputs.files("images"), params)?;
        let files = manifest.find(inputs.files("images"))?;
        let description = CellsDescription {
            size: params.size,
            dimensions: 3,
            voxel_um: [params.voxel_size; 3],
            channels: channels(&manifest, params.channels.as_ref()),
            normalised: manifest.form == Form::Aligned,
        };
        let items = manifest.rows.iter().zip(&files).map(|(row, files)| Work {
            name: files.iter().map(|file| format!("`{}`", file.name)).collect::<Vec<_>>().join(", "),
            item: CellToCut {
                holds: row.holds.clone(),
                positions: row.positions.clone(),
                label: row.label,
                scale: row.scale,
            },
            inputs: files.iter().map(|file| ItemInput::File(file)).collect(),
        });
        let items: Vec<Work<CellToCut>> = items.collect();
        let cut = CutCell {
            form: manifest.form,
            columns: params.columns.clone(),
            channels: params.channels.clone(),
            axes: params.axes,
            mask_channels: params.mask_channels.clone(),
            mask_axes: params.mask_axes,
            aligned: params.aligned,
            file_voxel_size: params.file_voxel_size,
            description: description.clone(),
        };
        let results = context.map(&cut, &[], &items)?;

        let mut writer = CellsWriter::new(description.clone(), context.blobs());
        let mut gallery = Gallery::new().wrap(8);
        let (mut kept, mut reasons) = (Vec::new(), Vec::new());
        for (index, (row, result)) in manifest.rows.iter().zip(&results).enumerate() {
            if let Some(entry) = result.get(IMAGE) {
                writer.link(&row.id, entry);
                if kept.len() < SHOWN {
                    let image = CellImage::decode(&context.blobs().get(&entry.digest)?, &description)?;
                    let top = Picture::cell(&image, &description, View::Top);
                    let words = [&row.id, &row.structure, &row.stage, &row.drug];
                    let words: Vec<&str> =
                        words.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
                    gallery.tile(top.above(&Picture::cell(&image, &description, View::Side), 2), words.join("\n"));
                }
                kept.push(index);
                reasons.push(String::new());
            } else {
                let entry = result.get(REASON).expect("an item gives an image or a reason");
                let reason = String::from_utf8_lossy(&context.blobs().get(&entry.digest)?).into_owned();
                context.note(format!("cell `{}` is left out: {reason}", row.id));
                reasons.push(reason);
            }
        }
        if kept.is_empty() {
            return Err(StageError::bad_input("every cell of the manifest was left out")
                .with_help(reasons.first().cloned().unwrap_or_else(|| "the manifest has no rows".to_owned())));
        }
        if !manifest.skipped.is_empty() {
            let count = manifest.skipped.len();
            context.note(format!("{count} rows are left out, for their files are missing; the table lists them"));
        }
        let all = table(&manifest, &params.dataset);
        let cells = all.select(&kept);
        let figure = gallery.scale_bar(params.voxel_size).legend(&description.channels).figure(
            "imported-cells",
            "Cells",
            "Imported cells",
            "Maximum projections from above and from the side of each cell, as it was imported.",
            Some(cells.clone()),
        );
        let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
        all.with("reason", reasons).write(&mut out, "cells")?;
        if !manifest.skipped.is_empty() {
            let (ids, reasons): (Vec<String>, Vec<String>) = manifest.skipped.iter().cloned().unzip();
            Table::new().with("cell_id", ids).with("reason", reasons).write(&mut out, "missing")?;
        }
        Ok(Outputs::from([
            ("cells".to_owned(), writer.finish(&cells)?),
            ("table".to_owned(), out.finish()?),
            ("figures".to_owned(), FigureSet(vec![figure]).write(context.blobs())?),
        ]))
    }
}

/// The channels that all cells have.
fn channels(manifest: &Manifest, named: Option<&Channels>) -> Vec<String> {
    let structure = match (manifest.form, named) {
        (Form::Own, Some(named)) => named.names().contains(&"structure"),
        (Form::Own, None) => manifest.rows.iter().any(|row| !row.structure.is_empty()),
        _ => manifest.rows.iter().all(|row| row.positions.structure.is_some()),
    };
    let names = ["membrane", "dna"].into_iter().chain(structure.then_some("structure"));
    names.map(str::to_owned).collect()
}

fn table(manifest: &Manifest, dataset: &str) -> Table {
    let texts = |f: fn(&Row) -> &String| manifest.rows.iter().map(|row| f(row).clone()).collect::<Vec<_>>();
    let count = manifest.rows.len();
    let mut table = Table::new()
        .with("cell_id", texts(|row| &row.id))
        .with("source_id", texts(|row| &row.id))
        .with("dataset", vec![dataset.to_owned(); count])
        .with("field", texts(|row| &row.field))
        .with("structure", texts(|row| &row.structure))
        .with("control", vec![false; count])
        .with("stage", texts(|row| &row.stage))
        .with("drug", texts(|row| &row.drug));
    for (name, of) in [("well", (|row| &row.well) as fn(&Row) -> &String), ("plate", |row| &row.plate)] {
        let values = texts(of);
        if values.iter().any(|value| !value.is_empty()) {
            table = table.with(name, values);
        }
    }
    table
}
