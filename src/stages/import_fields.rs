//! `import-fields`: fields of view, and labels from elsewhere, out of TIFF files.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactType, Fields, FieldsDescription, FieldsWriter, LabelImage, LabelsWriter, Table},
    image::{
        ImageError, Volume,
        ome_tiff::{self, Hints, PageOrder},
    },
    stage::{
        Arity, Checked, Context, Facts, FileInput, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput,
        ItemWork, Output, Outputs, Problem, StageError, StageKind, Work,
    },
    store::Tree,
};

/// The stage kind.
pub(super) struct ImportFields;

/// Parameters of `import-fields`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// The channels' names, in the order in which the files hold them; absent: as the files name them. `membrane` and `dna` are
    /// needed to find cells, `structure` is the tagged structure; others are kept.
    #[serde(default)]
    pub channels: Option<Vec<String>>,
    /// The order of the pages in the files, for files that do not say it or say it wrongly: `czyx` (all planes of the first channel, then
    /// all of the next) or `zcyx` (all channels of the first plane, then all of the next). Goes with `channels`.
    #[serde(default)]
    pub axes: Option<Axes>,
    /// Size of a voxel in µm: z, y, x; absent: as the files say. Give it where the files are wrong.
    #[serde(default)]
    #[schemars(inner(range(max = 1e6)))]
    pub voxel_size: Option<[f64; 3]>,
    /// What the label files hold, in their order: `nucleus` and `cell`, or only `nucleus` (cells are then found from these nuclei).
    #[serde(default = "label_channels")]
    pub label_channels: Vec<String>,
    /// The name of the data set.
    #[serde(default)]
    pub dataset: String,
    /// The tagged structure in the channel `structure`.
    #[serde(default)]
    pub structure: String,
}

/// The order of the pages in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Axes {
    /// All planes of the first channel, then all of the next.
    Czyx,
    /// All channels of the first plane, then all of the next.
    Zcyx,
}

fn label_channels() -> Vec<String> {
    vec!["nucleus".to_owned(), "cell".to_owned()]
}

const IMAGE: &str = "image.ome.tif";

impl StageKind for ImportFields {
    type Params = Params;

    const NAME: &'static str = "import-fields";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "reads fields of view (OME-TIFF, ImageJ and plain TIFF), and labels from elsewhere";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[
        ("label-channels", "it is in the key of every label image, and fields know nothing of labels"),
        ("dataset", "it stands in the table only"),
        ("structure", "it stands in the table only"),
    ];

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::files("files", Arity::Many, "TIFF files, one a field"),
            Input::files("labels", Arity::Any, "label images from elsewhere, one a field, in the same order"),
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
        if let Some(channels) = &params.channels {
            let distinct: BTreeSet<_> = channels.iter().collect();
            if channels.is_empty() || distinct.len() != channels.len() || distinct.iter().any(|name| name.is_empty()) {
                problems.push(Problem::with("channels", "channels need distinct names, at least one"));
            }
        }
        if let Some(voxel) = params.voxel_size
            && !voxel.iter().all(|length| length.is_finite() && *length > 0.0)
        {
            problems.push(Problem::with("voxel-size", "a voxel's size must be above 0 µm"));
        }
        if params.axes.is_some() && params.channels.is_none() {
            problems.push(
                Problem::with("axes", "the order of the pages needs the channels' names")
                    .help("name them: channels = [\"membrane\", \"dna\"]"),
            );
        }
        let known = |names: &[&str]| params.label_channels == names;
        if !(known(&["nucleus", "cell"]) || known(&["cell", "nucleus"]) || known(&["nucleus"])) {
            problems.push(
                Problem::with("label-channels", "label files hold `nucleus` and `cell`, in either order, or `nucleus`")
                    .help("write `label-channels = [\"nucleus\", \"cell\"]`"),
            );
        }
        let fields = Facts { dimensions: Some(3), channels: params.channels.clone(), ..Facts::default() };
        Checked { problems, outputs: [("fields".to_owned(), fields)].into() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let files = inputs.files("files");
        let label_files = inputs.files("labels");
        if files.is_empty() {
            return Err(StageError::bad_input("no field is given"));
        }
        if !label_files.is_empty() && label_files.len() != files.len() {
            return Err(StageError::bad_input(format!("{} label files for {} fields", label_files.len(), files.len()))
                .with_help("give one label file a field, in the same order"));
        }
        let ids = field_ids(files);

        let work = |file| Work { name: in_file(file), item: (), inputs: vec![ItemInput::File(file)] };
        let read = ReadField { channels: params.channels.clone(), axes: params.axes, voxel_size: params.voxel_size };
        let images = context.map(&read, &[], &files.iter().map(work).collect::<Vec<_>>())?;

        let text = |value: &str| vec![value.to_owned(); files.len()];
        let table = Table::new()
            .with("field_id", ids.clone())
            .with("dataset", text(&params.dataset))
            .with("structure", text(&params.structure))
            .with("source", files.iter().map(|file| file.name.clone()).collect::<Vec<_>>());
        let entry = |result: &Tree| result.get(IMAGE).expect("every item gives an image").clone();

        // All files must hold the same channels; those of the first one stand for all, and the others are held against it.
        let first = ome_tiff::read(&context.blobs().get(&entry(&images[0]).digest)?)?;
        let mut writer = FieldsWriter::new(FieldsDescription { channels: first.channels }, context.blobs());
        for (id, image) in ids.iter().zip(&images) {
            writer.link(id, &entry(image));
        }
        let fields_artifact = writer.finish(&table)?;
        let fields = Fields::open(&fields_artifact, context.blobs())?;

        let work = |(index, file)| {
            let field = ItemInput::Blob(fields.entry(index)?.digest);
            Ok(Work { name: in_file(file), item: (), inputs: vec![ItemInput::File(file), field] })
        };
        let items = label_files.iter().enumerate().map(work).collect::<Result<Vec<_>, StageError>>()?;
        let read = ReadLabels { label_channels: params.label_channels.clone() };
        let label_images = context.map(&read, &[], &items)?;
        let mut writer = LabelsWriter::new(context.blobs());
        for (id, image) in ids.iter().zip(&label_images) {
            writer.link(id, &entry(image));
        }
        let labels_artifact = writer.finish()?;
        Ok([("fields".to_owned(), fields_artifact), ("labels".to_owned(), labels_artifact)].into())
    }
}

fn in_file(file: &FileInput) -> String {
    format!("`{}`", file.name)
}

/// Reads one field.
#[derive(Serialize, Deserialize)]
struct ReadField {
    channels: Option<Vec<String>>,
    axes: Option<Axes>,
    voxel_size: Option<[f64; 3]>,
}

impl ItemWork for ReadField {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "fields";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        Ok(vec![(IMAGE.to_owned(), field(self, &inputs.bytes(0)?)?)])
    }
}

/// Reads the labels of one field. Inputs: the file, and the field as it was imported.
#[derive(Serialize, Deserialize)]
struct ReadLabels {
    label_channels: Vec<String>,
}

impl ItemWork for ReadLabels {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "label images";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let field = ome_tiff::read(&inputs.bytes(1)?)?;
        let voxel_um = field.voxel_um.ok_or_else(|| StageError::failed("the field does not say its voxel size"))?;
        Ok(vec![(IMAGE.to_owned(), labels(&self.label_channels, &inputs.bytes(0)?, field.size, voxel_um)?)])
    }
}

/// The file's stem, made fit for a file name; a number behind it where two files have the same.
fn field_ids(files: &[FileInput]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut ids = Vec::new();
    for file in files {
        let lower = file.name.to_lowercase();
        let suffix = [".ome.tiff", ".ome.tif", ".tiff", ".tif"].into_iter().find(|suffix| lower.ends_with(suffix));
        let stem = &file.name[..file.name.len() - suffix.map_or(0, str::len)];
        let fit = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
        let stem: String = stem.chars().map(fit).collect();
        let stem = if stem.is_empty() { "field".to_owned() } else { stem };
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let id = std::iter::once(stem.clone()).chain(numbered).find(|id| !taken.contains(id)).expect("numbers go on");
        taken.insert(id.clone());
        ids.push(id);
    }
    ids
}

/// One field: read, its channels and voxels named as asked, written again.
fn field(params: &ReadField, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let order = params.axes.map(|axes| match axes {
        Axes::Czyx => PageOrder::Czyx,
        Axes::Zcyx => PageOrder::Zcyx,
    });
    let hints = Hints { channels: params.channels.as_ref().map(Vec::len).zip(order) };
    let mut stack = ome_tiff::read_with(bytes, hints)?;
    if let Some(channels) = &params.channels {
        if channels.len() != stack.channels.len() {
            return Err(ImageError::Shape(format!(
                "it holds {} channels of {} planes, `channels` names {}; where the file is wrong, give `axes`",
                stack.channels.len(),
                stack.size[0],
                channels.len()
            )));
        }
        stack.channels.clone_from(channels);
    }
    stack.voxel_um = params.voxel_size.or(stack.voxel_um);
    if stack.voxel_um.is_none() {
        return Err(ImageError::Shape("it does not say the size of its voxels: give `voxel-size`".to_owned()));
    }
    ome_tiff::write(&stack)
}

/// Labels of one field of this size.
fn labels(names: &[String], bytes: &[u8], size: [usize; 3], voxel_um: [f64; 3]) -> Result<Vec<u8>, ImageError> {
    let stack = ome_tiff::read(bytes)?;
    if stack.size != size {
        return Err(ImageError::Shape(format!("the labels are {:?} voxels large, the field {size:?}", stack.size)));
    }
    if names.len() != stack.channels.len() {
        return Err(ImageError::Shape(format!(
            "it holds {} channels, `label-channels` names {}",
            stack.channels.len(),
            names.len()
        )));
    }
    let channel = |name: &str| names.iter().position(|n| n == name).map(|index| stack.channel_u32(index)).transpose();
    LabelImage {
        nucleus: channel("nucleus")?.unwrap_or_else(|| Volume::filled(size, 0)),
        cell: channel("cell")?.unwrap_or_else(|| Volume::filled(size, 0)),
        voxel_um,
    }
    .encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        artifact::Labels,
        image::{Pixels, Stack},
        stages::testing::MemoryHost,
        store::Digest,
    };

    fn params(text: &str) -> Params {
        toml::from_str(text).unwrap()
    }

    fn file(folder: &std::path::Path, name: &str, channels: usize) -> FileInput {
        let stack = Stack {
            channels: (0..channels).map(|c| format!("c{c}")).collect(),
            size: [2, 3, 4],
            voxel_um: Some([1.0; 3]),
            pixels: Pixels::U16((0..24 * u16::try_from(channels).unwrap()).collect()),
        };
        let bytes = ome_tiff::write(&stack).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, &bytes).unwrap();
        FileInput { name: name.to_owned(), path, digest: Digest::of(&bytes) }
    }

    #[test]
    fn fields_and_labels_are_read_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let host = MemoryHost::default();
        let mut inputs = Inputs::default();
        inputs
            .files
            .insert("files".into(), vec![file(folder.path(), "a b.ome.tif", 2), file(folder.path(), "a-b.tiff", 2)]);
        inputs.files.insert("labels".into(), vec![file(folder.path(), "la.tif", 1), file(folder.path(), "lb.tif", 1)]);
        let params = params(
            "channels = ['membrane', 'dna']\nvoxel-size = [0.3, 0.2, 0.2]\ndataset = 'd'\nlabel-channels = ['nucleus']",
        );
        let outputs = ImportFields::run(&params, &inputs, &Context::new(&host)).unwrap();
        let fields = Fields::open(&outputs["fields"], &host.blobs).unwrap();
        assert_eq!(fields.ids(), ["a-b", "a-b-2"]);
        let image = fields.image(1).unwrap();
        assert_eq!(image.voxel_um, Some([0.3, 0.2, 0.2]));
        assert_eq!(image.pixels, Pixels::U16((0..48).collect()));
        let labels = Labels::open(&outputs["labels"], &host.blobs).image("a-b-2").unwrap().unwrap();
        assert_eq!(labels.nucleus.data, (0..24).collect::<Vec<u32>>());
        assert!(labels.cell.data.iter().all(|&label| label == 0));
        assert_eq!(labels.voxel_um, [0.3, 0.2, 0.2]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let host = MemoryHost::default();
        let mut inputs = Inputs::default();
        inputs.files.insert("files".into(), vec![file(folder.path(), "odd.tif", 3)]);
        let run = |inputs: &Inputs| {
            ImportFields::run(&params("channels = ['membrane', 'dna']"), inputs, &Context::new(&host))
                .unwrap_err()
                .to_string()
        };
        let message = run(&inputs);
        assert!(message.contains("odd.tif") && message.contains("3 channels"), "{message}");
        inputs.files.insert("labels".into(), vec![file(folder.path(), "a.tif", 1), file(folder.path(), "b.tif", 1)]);
        assert!(run(&inputs).contains("2 label files for 1 fields"));

        let only_axes = ImportFields::check(&params("axes = 'zcyx'"), &InputFacts::new());
        assert_eq!(only_axes.problems.len(), 1);
        let bad = params("channels = ['dna', 'dna']\nvoxel-size = [0, 1, 1]\nlabel-channels = ['cell']");
        assert_eq!(ImportFields::check(&bad, &InputFacts::new()).problems.len(), 3);
    }
}
