//! Reads the labels of one field.

use serde::{Deserialize, Serialize};

use super::{fields::IMAGE, params::Axes};
use crate::{
    artifact::LabelImage,
    image::{
        Connectivity, ImageError, Pixels, Stack, Unclear, Volume, components,
        io::{self, Asked, PageOrder},
    },
    stage::{ItemContext, ItemFiles, ItemWork, StageError},
};

const NUCLEUS: &str = "nucleus";
const CELL: &str = "cell";

/// Reads the labels of one field. Inputs: the field as it was imported, then the label files.
#[derive(Serialize, Deserialize)]
pub(super) struct ReadLabels {
    /// What each label file holds; empty: it says so itself.
    pub(super) files: Vec<Vec<String>>,
    pub(super) axes: Option<Axes>,
}

impl ItemWork for ReadLabels {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "label images";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let field = io::read(&inputs.bytes(0)?)?;
        let voxel_um = field.voxel_um.ok_or_else(|| StageError::failed("the field does not say its voxel size"))?;
        let (mut nucleus, mut cell) = (None, None);
        for (input, names) in self.files.iter().enumerate() {
            let found = masks(&inputs.bytes(input + 1)?, names, self.axes, field.size)?;
            (nucleus, cell) = (found.0.or(nucleus), found.1.or(cell));
        }
        let none = || Volume::filled(field.size, 0);
        let image = LabelImage { nucleus: nucleus.unwrap_or_else(none), cell: cell.unwrap_or_else(none), voxel_um };
        Ok(vec![(IMAGE.to_owned(), image.encode()?)])
    }
}

/// Labels of nuclei and of cells in a file of an image of this size. `names`: what it holds, in its order; empty: as it says itself.
pub(in crate::stages) fn masks(
    bytes: &[u8],
    names: &[String],
    axes: Option<Axes>,
    size: [usize; 3],
) -> Result<(Option<Volume<u32>>, Option<Volume<u32>>), StageError> {
    let (stack, names) = read(bytes, names, axes, size)?;
    let (mut nucleus, mut cell) = (None, None);
    for (index, name) in names.iter().enumerate() {
        *(if name == NUCLEUS { &mut nucleus } else { &mut cell }) = Some(labels(&stack, index)?);
    }
    Ok((nucleus, cell))
}

/// What a file of these names of channels holds, if they say it.
fn by_names(channels: &[String]) -> Option<Vec<String>> {
    let one = |name: &String| {
        let name = name.to_lowercase();
        let begins = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
        if begins(&["nucle", "dna"]) {
            Some(NUCLEUS.to_owned())
        } else if begins(&["cell", "membrane", "cyto"]) {
            Some(CELL.to_owned())
        } else {
            None
        }
    };
    let names: Vec<String> = channels.iter().map(one).collect::<Option<_>>()?;
    (names.len() == 1 || names[0] != names[1]).then_some(names).filter(|names| names.len() <= 2)
}

/// A label file of a field of this size, and what its channels are.
fn read(
    bytes: &[u8],
    names: &[String],
    axes: Option<Axes>,
    size: [usize; 3],
) -> Result<(Stack, Vec<String>), StageError> {
    let count = (!names.is_empty()).then_some(names.len());
    let ask = |channels: Option<usize>, axes: Option<PageOrder>| {
        io::read_one(bytes, &Asked { channels, axes, labels: true, ..Asked::default() })
    };
    if let Some(axes) = axes {
        let (order, only) = axes.order();
        let channels = only.or(count).unwrap_or(2);
        let stack = ask(Some(channels), Some(order)).map_err(with_help)?.stack;
        return fitting(stack, names, size);
    }
    let found = ask(count, None);
    let fits = found
        .as_ref()
        .is_ok_and(|found| found.stack.size == size && count.is_none_or(|n| n == found.stack.channels.len()));
    if fits {
        let found = found?;
        let names = if names.is_empty() && found.named { by_names(&found.stack.channels) } else { None }
            .unwrap_or_else(|| names.to_vec());
        return fitting(found.stack, &names, size);
    }
    // Whatever it says of its pages (time points, channels, nothing): as many as the field has planes are its planes.
    for (channels, order) in [(1, PageOrder::Czyx), (2, PageOrder::Czyx)] {
        let single = channels == 1 || size[0] == 1;
        if single
            && count.is_none_or(|count| count == channels)
            && let Ok(found) = ask(Some(channels), Some(order))
            && found.stack.size == size
        {
            return fitting(found.stack, names, size);
        }
    }
    let found = found.map_err(with_help)?;
    fitting(found.stack, names, size)
}

fn with_help(error: ImageError) -> StageError {
    let help = match &error {
        ImageError::Unclear(Unclear::Order, _) => {
            "say it: `label-axes = \"czyx\"` (all planes of the first kind of labels, then of the next) or `label-axes = \"zcyx\"`, \
             or give nuclei and cells as files of their own: `nuclei = …`, `cells = …`"
        }
        ImageError::Unclear(..) => "save the labels of one time point and position as a file of their own",
        _ => return error.into(),
    };
    StageError::from(error).with_help(help)
}

/// The stack, if it is of the field's size and has a channel for each name.
fn fitting(stack: Stack, names: &[String], size: [usize; 3]) -> Result<(Stack, Vec<String>), StageError> {
    let channels = stack.channels.len();
    let names = match (names.len(), channels) {
        (0, 2) => vec![NUCLEUS.to_owned(), CELL.to_owned()],
        _ => names.to_vec(),
    };
    let [depth, height, width] = size;
    if stack.size != size {
        let [z, y, x] = stack.size;
        let error = StageError::bad_input(format!(
            "the labels are {z} × {y} × {x} voxels large (z, y, x) in {}, the field {depth} × {height} × {width}",
            if channels == 1 { "one channel".to_owned() } else { format!("{channels} channels") }
        ));
        let both = [y, x] == [height, width] && channels * z == 2 * depth;
        return Err(if both {
            error.with_help(
                "if it holds nuclei and cells, say in which order: `label-axes = \"czyx\"` or `label-axes = \"zcyx\"`",
            )
        } else if z == 1 && [y, x] == [height, width] {
            error.with_help("the masks of a stack must be a stack: one mask per plane")
        } else {
            error
        });
    }
    if names.len() != channels {
        let error = StageError::bad_input(match names.len() {
            0 => format!(
                "it holds {channels} channels of labels, and does not say which are of nuclei and which of cells"
            ),
            count => format!("it holds {channels} channels of labels, and {count} are expected ({})", names.join(", ")),
        });
        return Err(error.with_help(
            "say what it holds: `label-channels = [\"cell\"]`, `[\"nucleus\"]` or `[\"nucleus\", \"cell\"]`; or give masks of one kind as \
             `cells = …` or `nuclei = …` in place of `labels`",
        ));
    }
    Ok((stack, names))
}

/// The labels of one channel. A mask that is only black and white (the Allen Cell Segmenter's, say) is labelled by its connected
/// pieces.
fn labels(stack: &Stack, index: usize) -> Result<Volume<u32>, ImageError> {
    let labels = stack.channel_u32(index)?;
    let white = match stack.pixels {
        Pixels::U8(_) => 255,
        Pixels::U16(_) => 65_535,
        _ => return Ok(labels),
    };
    if labels.data.iter().all(|&label| label == 0 || label == white) && labels.data.contains(&white) {
        let mask = labels.map(|&label| u8::from(label != 0));
        return Ok(components(&mask, Connectivity::All).0);
    }
    Ok(labels)
}
