//! `import-fields`: fields of view, and labels from elsewhere, out of image files.

mod channels;
mod fields;
mod labels;
mod pairing;
mod params;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::{
    artifact::{ArtifactType, Fields, FieldsDescription, FieldsWriter, LabelsWriter, Table},
    stage::{
        Arity, Checked, Context, Facts, Input, InputFacts, Inputs, ItemInput, Output, Outputs, Problem, StageError,
        StageKind, Work,
    },
    store::{Tree, TreeEntry},
};

pub(super) use fields::image;
use fields::{ABOUT, About, IMAGE, ReadField};
use labels::ReadLabels;
pub(super) use labels::masks;
use params::Params;
pub(super) use params::{Axes, Channels};

/// The stage kind.
pub(super) struct ImportFields;

impl StageKind for ImportFields {
    type Params = Params;

    const NAME: &'static str = "import-fields";
    const VERSION: u32 = 3;
    const ABOUT: &'static str =
        "reads fields of view (OME-TIFF, ImageJ, Micro-Manager, MetaMorph, plain TIFF), and labels from elsewhere";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[
        ("label-channels", "it is in the key of every label image, and fields know nothing of labels"),
        ("label-axes", "it is in the key of every label image, and fields know nothing of labels"),
        ("dataset", "it stands in the table only"),
        ("structure", "it stands in the table only"),
    ];

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        let masks = |name, of| {
            Input::files(name, Arity::Any, &format!("label images of {of}, matched to the fields by name"))
                .or_artifact(ArtifactType::Files)
        };
        vec![
            Input::files(
                "files",
                Arity::ManyOrNamed,
                "image files, one per field; or one per channel: { dna = \"*_ch1.tif\", membrane = \"*_ch2.tif\" }, matched by the rest \
                 of their names",
            )
            .or_artifact(ArtifactType::Files),
            masks("labels", "nuclei and cells"),
            masks("nuclei", "nuclei"),
            masks("cells", "cells (their nuclei are looked for inside, where `nuclei` is not given)"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::data("fields", ArtifactType::Fields, "the fields"),
            Output::data("labels", ArtifactType::Labels, "the labels from elsewhere; empty when none are given"),
        ]
    }

    fn check(params: &Params, _: &InputFacts) -> Checked {
        let mut problems = Vec::new();
        let names = params.channels.as_ref().map(Channels::names);
        if let Some(names) = &names {
            let distinct: BTreeSet<_> = names.iter().collect();
            if names.is_empty() || distinct.len() != names.len() || distinct.iter().any(|name| name.is_empty()) {
                problems.push(Problem::with("channels", "channels need distinct names, at least one"));
            }
        }
        let sides = params.voxel_size.unwrap_or_default().all();
        if !sides.into_iter().flatten().all(|length| length.is_finite() && length > 0.0) {
            problems.push(Problem::with("voxel-size", "a voxel's size must be above 0 µm"));
        }
        let listed = matches!(params.channels, Some(Channels::List(_)));
        if matches!(params.axes, Some(Axes::Czyx | Axes::Zcyx | Axes::Cyx)) && !listed {
            problems.push(
                Problem::with("axes", "the order of the pages needs the channels' names")
                    .help("name them: channels = [\"membrane\", \"dna\"]"),
            );
        }
        let known = |names: &Vec<String>| {
            [&["nucleus", "cell"][..], &["cell", "nucleus"], &["nucleus"], &["cell"]].iter().any(|known| names == known)
        };
        if params.label_channels.as_ref().is_some_and(|names| !known(names)) {
            problems.push(
                Problem::with(
                    "label-channels",
                    "label files hold `nucleus` and `cell`, in either order, or one of them",
                )
                .help("write `label-channels = [\"nucleus\", \"cell\"]`"),
            );
        }
        if let Some(Channels::List(names)) = &params.channels
            && !params.structure.is_empty()
            && !names.iter().any(|name| name == "structure")
        {
            problems.push(no_structure(&params.structure));
        }
        let channels = names.filter(|_| listed).map(|names| names.into_iter().map(str::to_owned).collect());
        let fields = Facts { dimensions: Some(3), channels, ..Facts::default() };
        Checked { problems, outputs: [("fields".to_owned(), fields)].into() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let Given { names, fields: given, parts } = given(inputs)?;
        let read = ReadField::new(params, parts);
        let items: Vec<Work<()>> = names
            .iter()
            .zip(given)
            .map(|(name, inputs)| Work { name: format!("`{name}`"), item: (), inputs })
            .collect();
        let results = context.map(&read, &[], &items)?;
        let fields = collect(&names, &results, context)?;
        check_alike(params, &fields)?;

        let text = |value: &str| vec![value.to_owned(); fields.len()];
        let column = |of: fn(&Field) -> &String| fields.iter().map(|field| of(field).clone()).collect::<Vec<_>>();
        let table = Table::new()
            .with("field_id", column(|field| &field.id))
            .with("dataset", text(&params.dataset))
            .with("structure", text(&params.structure))
            .with("source", column(|field| &field.source));
        let channels = fields[0].about.channels.clone();
        let mut writer = FieldsWriter::new(FieldsDescription { channels }, context.blobs());
        for field in &fields {
            writer.link(&field.id, &field.image);
        }
        let fields_artifact = writer.finish(&table)?;
        let labels = labels(params, inputs, &fields, &Fields::open(&fields_artifact, context.blobs())?, context)?;
        Ok([("fields".to_owned(), fields_artifact), ("labels".to_owned(), labels)].into())
    }
}

fn no_structure(structure: &str) -> Problem {
    Problem::with("structure", format!("no channel is called `structure`, which would show the {structure}"))
        .help("name it so: `channels = { structure = \"its name in the file\" }`, or in the list of channels")
}

/// What files are given for the fields.
struct Given<'a> {
    /// A name for each field.
    names: Vec<String>,
    /// The field's files.
    fields: Vec<Vec<ItemInput<'a>>>,
    /// The channels, where each file holds one; else empty.
    parts: Vec<String>,
}

/// Suffixes of images among other files that a command writes.
const IMAGES: [&str; 6] = [".tif", ".tiff", ".stk", ".zarr", ".zarr.zip", ".ozx"];

/// The files at a port: from outside, and those that other stages wrote.
fn sources<'a>(inputs: &'a Inputs, port: &str) -> Result<Vec<(String, ItemInput<'a>)>, StageError> {
    let mut all: Vec<(String, ItemInput)> =
        inputs.files(port).iter().map(|file| (file.name.clone(), ItemInput::File(file))).collect();
    for artifact in inputs.many(port) {
        let image = |entry: &&TreeEntry| IMAGES.iter().any(|suffix| entry.name.to_lowercase().ends_with(suffix));
        let before = all.len();
        for entry in artifact.tree.entries().iter().filter(image) {
            let name = entry.name.rsplit('/').next().unwrap_or(&entry.name).to_owned();
            all.push((name, ItemInput::Blob(entry.digest)));
        }
        if all.len() == before {
            let names: Vec<&str> = artifact.tree.entries().iter().map(|entry| entry.name.as_str()).take(6).collect();
            let message = format!("the stage at `{port}` wrote no image (.tif, .tiff, …), only {}", names.join(", "));
            return Err(StageError::bad_input(message));
        }
    }
    Ok(all)
}

fn given(inputs: &Inputs) -> Result<Given<'_>, StageError> {
    let files = sources(inputs, "files")?;
    let ports: BTreeSet<&String> = inputs.files.keys().chain(inputs.artifacts.keys()).collect();
    let parts: Vec<String> =
        ports.into_iter().filter_map(|port| port.strip_prefix("files.")).map(str::to_owned).collect();
    if parts.is_empty() {
        if files.is_empty() {
            return Err(StageError::bad_input("no field is given"));
        }
        let (names, inputs): (Vec<String>, Vec<ItemInput>) = files.into_iter().unzip();
        return Ok(Given { names, fields: inputs.into_iter().map(|input| vec![input]).collect(), parts });
    }
    let groups: Vec<Vec<(String, ItemInput)>> =
        parts.iter().map(|part| sources(inputs, &format!("files.{part}"))).collect::<Result<_, _>>()?;
    let group_names: Vec<(&str, Vec<&str>)> = parts
        .iter()
        .zip(&groups)
        .map(|(part, files)| (part.as_str(), files.iter().map(|(name, _)| name.as_str()).collect()))
        .collect();
    let rows = pairing::groups(&group_names).map_err(|reason| {
        StageError::bad_input(reason)
            .with_help("the names of one field's files must differ in the part that stands for the channel only")
    })?;
    let name = |row: &Vec<usize>| {
        let names: Vec<&str> = row.iter().zip(&group_names).map(|(&at, (_, names))| names[at]).collect();
        pairing::common_name(&names)
    };
    let fields = rows.iter().map(|row| row.iter().zip(&groups).map(|(&at, files)| files[at].1).collect()).collect();
    Ok(Given { names: rows.iter().map(name).collect(), fields, parts })
}

/// One field that was read.
struct Field {
    id: String,
    source: String,
    image: TreeEntry,
    about: About,
}

/// The fields of all files, in order; pixels that were masked are told.
fn collect(names: &[String], results: &[Tree], context: &Context) -> Result<Vec<Field>, StageError> {
    let mut taken = BTreeSet::new();
    let mut fields = Vec::new();
    for (source, result) in names.iter().zip(results) {
        for image in result.entries().iter().filter(|entry| entry.name.ends_with(IMAGE)) {
            let about = result.get(&image.name.replace(IMAGE, ABOUT)).expect("every image has something told of it");
            let about: About = serde_json::from_slice(&context.blobs().get(&about.digest)?)
                .map_err(|error| StageError::failed(format!("what is told of `{source}` cannot be read: {error}")))?;
            let mut stem = pairing::stem(source).to_owned();
            for (letter, number) in [("s", about.scene), ("t", about.time)] {
                stem.push_str(&number.map_or(String::new(), |number| format!("_{letter}{number}")));
            }
            if about.masked > 0 {
                context.note(format!("`{source}`: {} pixels that are not finite are masked", about.masked));
            }
            fields.push(Field { id: field_id(&stem, &mut taken), source: source.clone(), image: image.clone(), about });
        }
    }
    Ok(fields)
}

/// The name made fit for a file name; a number behind it where two fields have the same.
fn field_id(stem: &str, taken: &mut BTreeSet<String>) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let stem: String = stem.chars().map(fit).collect();
    let stem = if stem.is_empty() { "field".to_owned() } else { stem };
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    let id = std::iter::once(stem.clone()).chain(numbered).find(|id| !taken.contains(id)).expect("numbers go on");
    taken.insert(id.clone());
    id
}

/// All fields must hold the same channels, the tagged structure among them when there is one.
fn check_alike(params: &Params, fields: &[Field]) -> Result<(), StageError> {
    let Some(first) = fields.first() else { return Err(StageError::bad_input("no field is given")) };
    if let Some(other) = fields.iter().find(|field| field.about.channels != first.about.channels) {
        return Err(StageError::bad_input(format!(
            "the fields hold different channels: `{}` {}; `{}` {}",
            first.source,
            first.about.channels.join(", "),
            other.source,
            other.about.channels.join(", ")
        ))
        .with_help("name them by `channels`, or import them in stages of their own"));
    }
    if !params.structure.is_empty() && !first.about.channels.iter().any(|name| name == "structure") {
        let problem = no_structure(&params.structure);
        let message = format!("{}; the channels are {}", problem.message, first.about.channels.join(", "));
        return Err(StageError::bad_input(message).with_help(problem.help.unwrap_or_default()));
    }
    Ok(())
}

/// The labels from elsewhere, each with the field of its name.
fn labels(
    params: &Params,
    inputs: &Inputs,
    fields: &[Field],
    images: &Fields,
    context: &Context,
) -> Result<crate::artifact::Artifact, StageError> {
    let names: Vec<&str> = fields.iter().map(|field| field.source.as_str()).collect();
    let (mut holds, mut columns) = (Vec::new(), Vec::new());
    for (port, what) in [("labels", None), ("nuclei", Some("nucleus")), ("cells", Some("cell"))] {
        let files = sources(inputs, port)?;
        if files.is_empty() {
            continue;
        }
        let others: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let pairs = pairing::pair(&names, &others, &format!("files of `{port}`")).map_err(|reason| {
            StageError::bad_input(reason).with_help(
                "a mask belongs to the field whose name it holds: `s1_cp_masks.tif` to `s1.tif`; give one mask per field, and rename \
                 files where that does not hold",
            )
        })?;
        holds
            .push(what.map_or_else(|| params.label_channels.clone().unwrap_or_default(), |what| vec![what.to_owned()]));
        columns.push(pairs.into_iter().map(|at| files[at].clone()).collect::<Vec<_>>());
    }
    let kinds: Vec<&String> = holds.iter().flatten().collect();
    if holds.len() > 1 && (inputs_have(inputs, "labels") || kinds.iter().collect::<BTreeSet<_>>().len() < kinds.len()) {
        return Err(StageError::bad_input("`labels` hold nuclei and cells; `nuclei` and `cells` stand in their place")
            .with_help("give either `labels`, or `nuclei` and `cells`"));
    }
    let mut writer = LabelsWriter::new(context.blobs());
    if !columns.is_empty() {
        let work = |index: usize| {
            let of_field: Vec<&(String, ItemInput)> = columns.iter().map(|files| &files[index]).collect();
            let name = of_field.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let field = ItemInput::Blob(images.entry(index)?.digest);
            let inputs = std::iter::once(field).chain(of_field.iter().map(|(_, input)| *input)).collect();
            Ok(Work { name, item: (), inputs })
        };
        let items = (0..fields.len()).map(work).collect::<Result<Vec<_>, StageError>>()?;
        let results = context.map(&ReadLabels { files: holds, axes: params.label_axes }, &[], &items)?;
        for (field, result) in fields.iter().zip(&results) {
            writer.link(&field.id, result.get(IMAGE).expect("every item gives an image"));
        }
    }
    Ok(writer.finish()?)
}

fn inputs_have(inputs: &Inputs, port: &str) -> bool {
    !inputs.files(port).is_empty() || !inputs.many(port).is_empty()
}
