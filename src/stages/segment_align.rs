//! `segment-align`: from fields of view to aligned single cells.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{
        ArtifactError, ArtifactType, ArtifactWriter, CellImage, CellsDescription, CellsWriter, Fields, FigureSet,
        LabelImage, Labels, LabelsWriter, Table,
    },
    figures::gallery::{Contrast, Gallery, Picture, View, channel_color},
    image::{
        Frame, Pose, Region, Stack, Volume, align_linear, align_mask, io, regions,
        segmentation::{CellsParams, NucleiParams, join_mitotic, nuclei, territories, tidy, walls},
    },
    stage::{
        Checked, Context, Facts, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output,
        Outputs, Problem, StageError, StageKind, Work,
    },
    store::Tree,
};

/// The stage kind.
pub(super) struct SegmentAlign;

/// Parameters of `segment-align`. The defaults suit confocal or spinning-disk fields of hiPS cells with a membrane and a DNA dye.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// Size of the image of one cell in voxels: z, y, x. A cell that does not fit is left out and listed.
    #[serde(default = "size")]
    #[schemars(inner(range(max = 4096)))]
    pub size: [usize; 3],
    /// Side of the cubic voxels of the aligned cells in µm.
    #[serde(default = "voxel_size")]
    #[schemars(range(max = 1000.0))]
    pub voxel_size: f64,
    /// Radius of the median filter that both channels go through first, in µm; 0: none.
    #[serde(default = "median_radius")]
    #[schemars(range(max = 100.0))]
    pub median_radius: f64,
    /// Scale in µm at which the surface of nuclei is smoothed.
    #[serde(default = "nucleus_smoothing")]
    #[schemars(range(max = 100.0))]
    pub nucleus_smoothing: f64,
    /// Reach in µm of the local brightness of nuclei: less than a nucleus's radius.
    #[serde(default = "nucleus_reach")]
    #[schemars(range(max = 1000.0))]
    pub nucleus_reach: f64,
    /// Reach in µm of the local background of the DNA channel.
    #[serde(default = "background_reach")]
    #[schemars(range(max = 1000.0))]
    pub background_reach: f64,
    /// Least brightness of a nucleus above the background, as a share of the typical one's.
    #[serde(default = "nucleus_contrast")]
    #[schemars(range(max = 1000.0))]
    pub nucleus_contrast: f64,
    /// Nuclei that touch are taken apart where their neck is narrower than this share of the smaller one's radius.
    #[serde(default = "nucleus_neck")]
    #[schemars(range(max = 1000.0))]
    pub nucleus_neck: f64,
    /// Objects smaller than this are no nuclei, in µm³.
    #[serde(default = "nucleus_least")]
    #[schemars(range(max = 1e9))]
    pub nucleus_least: f64,
    /// Nuclei that are this many times as bright as the typical one are mitotic: parts of one cell are one nucleus.
    #[serde(default = "mitotic_brightness")]
    #[schemars(range(max = 1000.0))]
    pub mitotic_brightness: f64,
    /// Scale of the membrane in µm: about half its apparent thickness.
    #[serde(default = "membrane_scale")]
    #[schemars(range(max = 100.0))]
    pub membrane_scale: f64,
    /// Reach in µm of the membrane's local brightness: in the plane, across planes.
    #[serde(default = "membrane_reach")]
    #[schemars(inner(range(max = 1000.0)))]
    pub membrane_reach: [f64; 2],
    /// A wall between cells is where the locally normalised membrane is above this, 0 to 1.
    #[serde(default = "wall")]
    #[schemars(range(max = 1000.0))]
    pub wall: f64,
    /// Bright pieces of membrane smaller than this are vesicles and taken out, in µm³.
    #[serde(default = "vesicle_volume")]
    #[schemars(range(max = 1e9))]
    pub vesicle_volume: f64,
    /// Gaps in walls are closed up to this radius in µm.
    #[serde(default = "gap")]
    #[schemars(range(max = 100.0))]
    pub gap: f64,
    /// Scale in µm at which the surface of cells is smoothed.
    #[serde(default = "cell_smoothing")]
    #[schemars(range(max = 100.0))]
    pub cell_smoothing: f64,
    /// Plausible volumes of a nucleus in µm³: smallest and largest. Others are left out and listed.
    #[serde(default = "nucleus_volume")]
    #[schemars(inner(range(max = 1e12)))]
    pub nucleus_volume: [f64; 2],
    /// Plausible volumes of a cell in µm³: smallest and largest. Others are left out and listed.
    #[serde(default = "cell_volume")]
    #[schemars(inner(range(max = 1e12)))]
    pub cell_volume: [f64; 2],
}

fn size() -> [usize; 3] {
    [64, 160, 96]
}
fn voxel_size() -> f64 {
    0.317
}
fn median_radius() -> f64 {
    0.3
}
fn nucleus_smoothing() -> f64 {
    0.4
}
fn nucleus_reach() -> f64 {
    2.5
}
fn background_reach() -> f64 {
    6.0
}
fn nucleus_contrast() -> f64 {
    0.25
}
fn nucleus_neck() -> f64 {
    0.8
}
fn nucleus_least() -> f64 {
    30.0
}
fn mitotic_brightness() -> f64 {
    1.6
}
fn membrane_scale() -> f64 {
    0.35
}
fn membrane_reach() -> [f64; 2] {
    [4.0, 1.2]
}
fn wall() -> f64 {
    0.2
}
fn vesicle_volume() -> f64 {
    10.0
}
fn gap() -> f64 {
    0.4
}
fn cell_smoothing() -> f64 {
    0.3
}
fn nucleus_volume() -> [f64; 2] {
    [100.0, 2000.0]
}
fn cell_volume() -> [f64; 2] {
    [600.0, 6000.0]
}

/// The channels that cells are found by.
const REFERENCE: [&str; 2] = ["membrane", "dna"];
const STRUCTURE: &str = "structure";

// Files of a field's result.
const LABELS: &str = "labels.ome.tif";
const ROWS: &str = "rows.json";
const OVERLAY: &str = "overlay.png";

/// Fields and cells shown in the figures, at most.
const FIELDS_SHOWN: usize = 12;
const CELLS_SHOWN: usize = 48;

/// What was found for one nucleus or space.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    label: u32,
    /// Why it is left out; empty: it is not.
    reason: String,
    centre_um: [f64; 3],
    cell_volume_um3: f64,
    nucleus_volume_um3: f64,
    cell_height_um: f64,
    nucleus_height_um: f64,
    angle_degrees: f64,
    flip: [bool; 2],
    /// The least frame in voxels that holds it.
    extent: [usize; 3],
}

fn image_file(label: u32) -> String {
    format!("cell-{label:04}.ome.tif")
}

fn picture_file(label: u32) -> String {
    format!("cell-{label:04}.png")
}

/// The most voxels of the image of a cell.
const MOST_VOXELS: usize = 1 << 28;

impl StageKind for SegmentAlign {
    type Params = Params;

    const NAME: &'static str = "segment-align";
    const VERSION: u32 = 5;
    const ABOUT: &'static str = "finds the cells of each field and turns each into an aligned image of its own";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("fields", ArtifactType::Fields, "fields with the channels `membrane` and `dna`"),
            Input::optional("labels", ArtifactType::Labels, "nuclei and cells that are known: not looked for again"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![
            Output::data("cells", ArtifactType::Cells, "the aligned cells"),
            Output::data("labels", ArtifactType::Labels, "which voxels of the fields are which nucleus and cell"),
            Output::for_people("table", ArtifactType::Tables, "the cells, and those that were left out and why"),
            Output::for_people("figures", ArtifactType::Figures, "what was found in the fields, and the cells"),
        ]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut problems = Vec::new();
        if params
            .size
            .iter()
            .try_fold(1_usize, |voxels, &side| voxels.checked_mul(side))
            .is_none_or(|n| n > MOST_VOXELS)
        {
            let message = format!("an image of {:?} voxels is too large", params.size);
            problems.push(Problem::with("size", message).help(format!("at most {MOST_VOXELS} voxels")));
        }
        if params.size.contains(&0) {
            problems.push(Problem::with("size", "an image's sides must be at least one voxel"));
        }
        let lengths = [
            ("voxel-size", params.voxel_size),
            ("nucleus-smoothing", params.nucleus_smoothing),
            ("nucleus-reach", params.nucleus_reach),
            ("background-reach", params.background_reach),
            ("membrane-scale", params.membrane_scale),
            ("cell-smoothing", params.cell_smoothing),
        ];
        for (name, length) in lengths {
            if !(length.is_finite() && length > 0.0) {
                problems.push(Problem::with(name, "must be above 0 µm"));
            }
        }
        if !params.membrane_reach.iter().all(|length| length.is_finite() && *length > 0.0) {
            problems.push(Problem::with("membrane-reach", "must be above 0 µm"));
        }
        for (name, length) in [("median-radius", params.median_radius), ("gap", params.gap)] {
            if !(length.is_finite() && length >= 0.0) {
                problems.push(Problem::with(name, "must not be below 0 µm"));
            }
        }
        for (name, [least, most]) in [("nucleus-volume", params.nucleus_volume), ("cell-volume", params.cell_volume)] {
            if least.is_nan() || most.is_nan() || least > most {
                problems.push(Problem::with(name, "the smallest plausible volume is above the largest"));
            }
        }
        let mut channels = None;
        if let Some(facts) = inputs.get("fields").and_then(|facts| facts.first())
            && let Some(known) = &facts.channels
        {
            for name in REFERENCE {
                if !known.iter().any(|channel| channel == name) {
                    problems.push(
                        Problem::with(
                            "fields",
                            format!("the fields have no channel `{name}`, only {}", known.join(", ")),
                        )
                        .help("name the channels in `import-fields`: channels = [\"membrane\", \"dna\"]"),
                    );
                }
            }
            channels = Some(channels_of(known));
        }
        let cells = Facts { size: Some(params.size), dimensions: Some(3), channels, ..Facts::default() };
        Checked { problems, outputs: [("cells".to_owned(), cells)].into() }
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let fields = Fields::open(inputs.one("fields"), blobs)?;
        let known = inputs.optional("labels").map(|artifact| Labels::open(artifact, blobs));
        for name in REFERENCE {
            if !fields.description.channels.iter().any(|channel| channel == name) {
                let message =
                    format!("the fields have no channel `{name}`, only {}", fields.description.channels.join(", "));
                return Err(StageError::bad_input(message)
                    .with_help("name the channels in `import-fields`: channels = [\"membrane\", \"dna\"]"));
            }
        }
        let description = CellsDescription {
            size: params.size,
            dimensions: 3,
            voxel_um: [params.voxel_size; 3],
            channels: channels_of(&fields.description.channels),
            normalised: false,
        };

        let work = |(index, id): (usize, &String)| {
            let labels = known.as_ref().and_then(|known| known.entry(id));
            let labels = labels.map_or(ItemInput::Nothing, |entry| ItemInput::Blob(entry.digest));
            let inputs = vec![ItemInput::Blob(fields.entry(index)?.digest), labels];
            Ok(Work { name: format!("field `{id}`"), item: (), inputs })
        };
        let items = fields.ids().iter().enumerate().map(work).collect::<Result<Vec<_>, ArtifactError>>()?;
        let field = SegmentField { parameters: params.clone(), description: description.clone() };
        let results = context.map(&field, &[], &items)?;
        outputs(&fields, &results, description, context)
    }
}

/// Finds and aligns the cells of one field. Inputs: the field, and its labels where they are known.
#[derive(Serialize, Deserialize)]
struct SegmentField {
    parameters: Params,
    /// What the cells are like.
    description: CellsDescription,
}

impl ItemWork for SegmentField {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "fields";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        // Where there are many fields, each is worked on by one thread; where there is one, by all.
        on_threads(inputs.threads(), || {
            let stack = io::read(&inputs.bytes(0)?)?;
            let known = match inputs.digest(1) {
                Some(_) => Some(LabelImage::decode(&inputs.bytes(1)?)?),
                None => None,
            };
            one_field(&self.parameters, &stack, known, &self.description, inputs)
        })
    }
}

/// The channels of a cell out of those of a field.
fn channels_of(field: &[String]) -> Vec<String> {
    let structure = field.iter().any(|channel| channel == STRUCTURE).then_some(STRUCTURE);
    REFERENCE.into_iter().chain(structure).map(str::to_owned).collect()
}

/// Runs `work` on so many threads of its own. The calling thread sleeps: it does not begin another field meanwhile, so that no more
/// fields are in memory than there are threads.
fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> Result<R, StageError> + Send) -> Result<R, StageError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| StageError::failed(format!("cannot start threads: {error}")))?;
    std::thread::scope(|scope| match scope.spawn(|| pool.install(work)).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Finds, measures and aligns the cells of one field.
fn one_field(
    params: &Params,
    stack: &Stack,
    known: Option<LabelImage>,
    description: &CellsDescription,
    context: &ItemContext,
) -> Result<ItemFiles, StageError> {
    let voxel_um = stack.voxel_um.ok_or_else(|| StageError::bad_input("it has no voxel size"))?;
    let channel = |name: &str| Ok::<_, StageError>(stack.channel_f32(stack.position(name)?));
    let (membrane, dna) = (channel(REFERENCE[0])?, channel(REFERENCE[1])?);
    let found = segment(params, &membrane, &dna, voxel_um, known, context)?;
    context.check()?;

    let frame = Frame { size: params.size, voxel_um: [params.voxel_size; 3] };
    let cells = regions(&found.cell, found.highest);
    let nuclei = regions(&found.nucleus, found.highest);
    let one_cell = |label: u32| {
        let index = label as usize - 1;
        let (cell, nucleus) = (cells[index].as_ref(), nuclei[index].as_ref());
        let Some(any) = cell.or(nucleus) else { return Ok(None) };
        let row = measure(params, &found, label, any, nucleus, voxel_um, &frame, stack.size);
        let mut files = ItemFiles::new();
        if let (true, Some(nucleus)) = (row.reason.is_empty(), nucleus) {
            context.check()?;
            let pose = Pose::of(&found.cell, label, any, nucleus, voxel_um);
            let mut channels = Vec::new();
            for name in &description.channels {
                let volume = match name.as_str() {
                    "membrane" => &membrane,
                    "dna" => &dna,
                    _ => &channel(name)?,
                };
                channels.push(align_linear(volume, voxel_um, pose, &frame)?);
            }
            let image = CellImage {
                channels,
                cell: align_mask(&found.cell, label, voxel_um, pose, &frame),
                nucleus: align_mask(&found.nucleus, label, voxel_um, pose, &frame),
            };
            files.push((image_file(label), image.encode(description)?));
            files.push((picture_file(label), cell_picture(&image, description).to_png()));
        }
        Ok(Some((row, files)))
    };
    let made = (1..=found.highest).into_par_iter().map(one_cell).collect::<Result<Vec<_>, StageError>>()?;
    let (mut rows, mut files) = (Vec::new(), ItemFiles::new());
    for (row, of_cell) in made.into_iter().flatten() {
        rows.push(row);
        files.extend(of_cell);
    }
    files.push((OVERLAY.to_owned(), overlay(&membrane, &dna, &found, &rows, voxel_um).to_png()));
    files.push((ROWS.to_owned(), serde_json::to_vec(&rows).expect("plain data")));
    let labels = LabelImage { nucleus: found.nucleus, cell: found.cell, voxel_um };
    files.push((LABELS.to_owned(), labels.encode()?));
    Ok(files)
}

/// Numbers of nuclei and cells that go together.
struct Found {
    nucleus: Volume<u32>,
    cell: Volume<u32>,
    highest: u32,
}

fn segment(
    params: &Params,
    membrane: &Volume<f32>,
    dna: &Volume<f32>,
    voxel_um: [f64; 3],
    known: Option<LabelImage>,
    context: &ItemContext,
) -> Result<Found, StageError> {
    if let Some(known) = &known
        && known.nucleus.size != dna.size
    {
        return Err(StageError::bad_input(format!(
            "its labels are {:?} voxels large, the field {:?}",
            known.nucleus.size, dna.size
        )));
    }
    let cells = CellsParams {
        median_um: params.median_radius,
        membrane_um: params.membrane_scale,
        reach_um: params.membrane_reach,
        wall: params.wall as f32,
        vesicle_um3: params.vesicle_volume,
        gap_um: params.gap as f32,
        space_um3: params.cell_volume[0] / 10.0,
    };
    let settings = NucleiParams {
        median_um: params.median_radius,
        smoothing_um: params.nucleus_smoothing,
        inside_um: params.nucleus_reach,
        outside_um: params.background_reach,
        contrast: params.nucleus_contrast as f32,
        neck: params.nucleus_neck as f32,
        smallest_um3: params.nucleus_least,
    };
    let find_walls = || walls(membrane, voxel_um, &cells);
    let find_nuclei = || nuclei(dna, voxel_um, &settings);
    let any = |labels: &Volume<u32>| labels.data.iter().any(|&label| label != 0);
    let ((nucleus, count), walls) = match known {
        // Cells whose nuclei nobody has looked for yet.
        Some(known) if any(&known.cell) && !any(&known.nucleus) => {
            return Ok(numbered_alike(LabelImage { nucleus: find_nuclei().0, ..known }));
        }
        Some(known) if any(&known.cell) => return Ok(numbered_alike(known)),
        Some(known) => {
            let count = known.nucleus.data.iter().copied().max().unwrap_or(0);
            ((known.nucleus, count), find_walls())
        }
        None => rayon::join(find_nuclei, find_walls),
    };
    context.check()?;
    let territories = territories(&walls, &nucleus, count, voxel_um, &cells);
    context.check()?;
    let (nucleus, _, territories) = join_mitotic(&nucleus, count, territories, dna, params.mitotic_brightness as f32);
    context.check()?;
    // The medium is no cell; spaces behind it move up by one.
    let medium = territories.medium;
    let labels = territories.labels.map(|&label| match label.cmp(&medium) {
        std::cmp::Ordering::Less => label,
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Greater => label - 1,
    });
    let highest = territories.highest - 1;
    let cell = tidy(&labels, &nucleus, highest, voxel_um, params.cell_smoothing);
    Ok(Found { nucleus, cell, highest })
}

/// Gives each nucleus the number of the cell that holds most of it; what of it lies in other cells is dropped. Of several nuclei in a cell
/// all count.
fn numbered_alike(known: LabelImage) -> Found {
    let mut shares = std::collections::BTreeMap::<(u32, u32), usize>::new();
    for (&nucleus, &cell) in known.nucleus.data.iter().zip(&known.cell.data) {
        if nucleus != 0 && cell != 0 {
            *shares.entry((nucleus, cell)).or_default() += 1;
        }
    }
    let mut home = std::collections::BTreeMap::<u32, (u32, usize)>::new();
    for (&(nucleus, cell), &voxels) in &shares {
        let best = home.entry(nucleus).or_insert((cell, voxels));
        if voxels > best.1 {
            *best = (cell, voxels);
        }
    }
    let nucleus = known.nucleus.data.iter().zip(&known.cell.data).map(|(nucleus, &cell)| match home.get(nucleus) {
        Some(&(home, _)) if home == cell => home,
        _ => 0,
    });
    let nucleus = Volume::new(known.nucleus.size, nucleus.collect());
    let highest = known.cell.data.iter().copied().max().unwrap_or(0);
    Found { nucleus, cell: known.cell, highest }
}

/// Measures one cell and says why it is left out, if it is.
#[expect(clippy::too_many_arguments, reason = "a cell, its field and its frame")]
fn measure(
    params: &Params,
    found: &Found,
    label: u32,
    cell: &Region,
    nucleus: Option<&Region>,
    voxel_um: [f64; 3],
    frame: &Frame,
    field: [usize; 3],
) -> Row {
    let voxel_volume = voxel_um.iter().product::<f64>();
    let height = |region: &Region| (region.high[0] - region.low[0]) as f64 * voxel_um[0];
    let pose = Pose::of(&found.cell, label, cell, nucleus.unwrap_or(cell), voxel_um);
    let mut row = Row {
        label,
        reason: String::new(),
        centre_um: pose.centre_um,
        cell_volume_um3: cell.voxels as f64 * voxel_volume,
        nucleus_volume_um3: nucleus.map_or(0.0, |nucleus| nucleus.voxels as f64 * voxel_volume),
        cell_height_um: height(cell),
        nucleus_height_um: nucleus.map_or(0.0, height),
        angle_degrees: pose.angle.to_degrees(),
        flip: pose.flip,
        extent: [0; 3],
    };
    let size = |volume: f64, [least, most]: [f64; 2]| {
        let what = if volume < least { "small" } else { "large" };
        (volume < least || volume > most).then(|| format!("implausibly {what} ({volume:.0} µm³)"))
    };
    row.reason = if nucleus.is_none() {
        "no nucleus".to_owned()
    } else if cell.touches_side(field) {
        "touches the side of the field".to_owned()
    } else if cell.touches_end(field) {
        "touches the first or last plane".to_owned()
    } else if let Some(reason) = size(row.cell_volume_um3, params.cell_volume) {
        format!("cell {reason}")
    } else if let Some(reason) = size(row.nucleus_volume_um3, params.nucleus_volume) {
        format!("nucleus {reason}")
    } else {
        row.extent = pose.extent(&found.cell, label, cell, voxel_um, frame);
        let [z, y, x] = row.extent;
        let fits = (0..3).all(|axis| row.extent[axis] <= frame.size[axis]);
        if fits { String::new() } else { format!("does not fit: needs {z} × {y} × {x} voxels") }
    };
    row
}

/// The set, the labels, the tables and the figures out of the fields' results.
fn outputs(
    fields: &Fields,
    results: &[Tree],
    description: CellsDescription,
    context: &Context,
) -> Result<Outputs, StageError> {
    let blobs = context.blobs();
    let entry = |result: &Tree, name: &str| {
        result.get(name).cloned().ok_or_else(|| ArtifactError::no_file(ArtifactType::Cells, name))
    };
    let picture = |result: &Tree, name: &str| {
        let bytes = blobs.get(&entry(result, name)?.digest)?;
        Picture::from_png(&bytes).ok_or_else(|| ArtifactError::no_file(ArtifactType::Figures, name))
    };
    let pixel_um = description.voxel_um[2];
    let mut cells = CellsWriter::new(description, blobs);
    let mut labels = LabelsWriter::new(blobs);
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let (mut overlays, mut gallery) = (Gallery::new().wrap(2), Gallery::new().wrap(8));
    let mut shown = 0;
    for (index, (id, result)) in fields.ids().iter().zip(results).enumerate() {
        labels.link(id, &entry(result, LABELS)?);
        let rows: Vec<Row> = serde_json::from_slice(&blobs.get(&entry(result, ROWS)?.digest)?)
            .map_err(|error| StageError::failed(format!("a cached result cannot be read: {error}")))?;
        let found = rows.iter().filter(|row| row.reason.is_empty()).count();
        if index < FIELDS_SHOWN {
            overlays
                .tile(picture(result, OVERLAY)?, format!("{id}: {found} cells kept, {} left out", rows.len() - found));
        }
        for row in rows {
            if !row.reason.is_empty() {
                left_out.push((index, row));
                continue;
            }
            let cell_id = cell_id(id, row.label);
            cells.link(&cell_id, &entry(result, &image_file(row.label))?);
            if shown < CELLS_SHOWN {
                shown += 1;
                let caption =
                    format!("{cell_id}\n{:.0} µm³, nucleus {:.0}", row.cell_volume_um3, row.nucleus_volume_um3);
                gallery.tile(picture(result, &picture_file(row.label))?, caption);
            }
            kept.push((index, row));
        }
    }
    if kept.is_empty() {
        let reasons = reasons(&left_out);
        return Err(StageError::bad_input(format!("no cell is left in {} fields: {reasons}", fields.len()))
            .with_help("look at the channels' names, the voxel size and the plausible volumes"));
    }
    context.note(format!("{} cells kept, {} left out: {}", kept.len(), left_out.len(), reasons(&left_out)));

    let table = cells_table(fields, &kept)?;
    let excluded = excluded_table(fields, &left_out);
    let mut tables = ArtifactWriter::new(ArtifactType::Tables, blobs);
    table.write(&mut tables, "cells")?;
    excluded.write(&mut tables, "excluded")?;
    let draw_fields = || {
        overlays.figure(
            "fields",
            "Segmentation",
            "Fields of view with what was found",
            "Membrane (magenta) and DNA (cyan) in the plane through the middle of the nuclei, and below it a section along x through \
             the middle of the field. White: cells that are kept; grey: those that are left out; yellow: nuclei.",
            Some(excluded),
        )
    };
    let draw_cells = || {
        gallery.scale_bar(pixel_um).legend(REFERENCE).figure(
            "aligned-cells",
            "Cells",
            "Aligned cells",
            "Maximum projections from above and from the side of each cell, its major axis upright, its nucleus in the middle. \
             What lies outside the cell is darkened; outlines are those of cell and nucleus in projection.",
            Some(table.clone()),
        )
    };
    let (of_fields, of_cells) = rayon::join(draw_fields, draw_cells);
    let figures = FigureSet(vec![of_fields, of_cells]);
    Ok([
        ("cells".to_owned(), cells.finish(&table)?),
        ("labels".to_owned(), labels.finish()?),
        ("table".to_owned(), tables.finish()?),
        ("figures".to_owned(), figures.write(blobs)?),
    ]
    .into())
}

fn cell_id(field_id: &str, label: u32) -> String {
    format!("{field_id}-{label:04}")
}

/// How many were left out for which reason; numbers in brackets do not count.
fn reasons(left_out: &[(usize, Row)]) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (_, row) in left_out {
        let reason = row.reason.split([' ', ':']).take(5).collect::<Vec<_>>().join(" ");
        let known = ["no nucleus", "touches the side of the field", "touches the first or last plane", "does not fit"];
        let short = known.into_iter().find(|known| row.reason.starts_with(known));
        let short = short.or_else(|| ["cell", "nucleus"].into_iter().find(|what| reason.starts_with(what)));
        *counts.entry(short.unwrap_or("other")).or_default() += 1;
    }
    let text = |(reason, count): (&str, usize)| match reason {
        "cell" | "nucleus" => format!("{count} with an implausible {reason}"),
        _ => format!("{count} {reason}"),
    };
    if counts.is_empty() { "none".to_owned() } else { counts.into_iter().map(text).collect::<Vec<_>>().join(", ") }
}

/// The measured columns of rows.
fn measured(table: Table, rows: &[(usize, Row)]) -> Table {
    let column = |value: fn(&Row) -> f64| rows.iter().map(|(_, row)| value(row)).collect::<Vec<f64>>();
    table
        .with("label", rows.iter().map(|(_, row)| i64::from(row.label)).collect::<Vec<_>>())
        .with("centre_z_um", column(|row| row.centre_um[0]))
        .with("centre_y_um", column(|row| row.centre_um[1]))
        .with("centre_x_um", column(|row| row.centre_um[2]))
        .with("cell_volume_um3", column(|row| row.cell_volume_um3))
        .with("nucleus_volume_um3", column(|row| row.nucleus_volume_um3))
        .with("cell_height_um", column(|row| row.cell_height_um))
        .with("nucleus_height_um", column(|row| row.nucleus_height_um))
        .with("angle_degrees", column(|row| row.angle_degrees))
}

fn cells_table(fields: &Fields, rows: &[(usize, Row)]) -> Result<Table, StageError> {
    let (datasets, structures) = (fields.table.texts("dataset")?, fields.table.texts("structure")?);
    let text = |value: &dyn Fn(usize, &Row) -> String| {
        rows.iter().map(|(field, row)| value(*field, row)).collect::<Vec<String>>()
    };
    let ids = text(&|field, row| cell_id(&fields.ids()[field], row.label));
    let table = Table::new()
        .with("cell_id", ids.clone())
        .with("source_id", ids)
        .with("dataset", text(&|field, _| datasets[field].clone()))
        .with("field", text(&|field, _| fields.ids()[field].clone()))
        .with("structure", text(&|field, _| structures[field].clone()))
        .with("control", vec![false; rows.len()])
        .with("stage", vec![String::new(); rows.len()]);
    Ok(measured(table, rows)
        .with("flip_y", rows.iter().map(|(_, row)| row.flip[0]).collect::<Vec<_>>())
        .with("flip_x", rows.iter().map(|(_, row)| row.flip[1]).collect::<Vec<_>>()))
}

fn excluded_table(fields: &Fields, rows: &[(usize, Row)]) -> Table {
    let table = Table::new()
        .with("field", rows.iter().map(|(field, _)| fields.ids()[*field].clone()).collect::<Vec<_>>())
        .with("reason", rows.iter().map(|(_, row)| row.reason.clone()).collect::<Vec<_>>());
    measured(table, rows)
}

/// The cell as it is in its frame: what is outside is darkened, cell and nucleus are outlined.
fn cell_picture(image: &CellImage, description: &CellsDescription) -> Picture {
    let mut shown = image.clone();
    for channel in &mut shown.channels {
        let inside = channel.data.iter().zip(&image.cell.data).filter(|(_, inside)| **inside != 0);
        let lowest = inside.map(|(&value, _)| value).fold(f32::INFINITY, f32::min);
        for (value, &inside) in channel.data.iter_mut().zip(&image.cell.data) {
            if inside == 0 {
                *value = lowest + 0.3 * (*value - lowest);
            }
        }
    }
    let outline = |mask: &Volume<u8>| {
        let [depth, height, width] = mask.size;
        let mut plane = vec![0_u32; height * width];
        for z in 0..depth {
            for (top, &inside) in plane.iter_mut().zip(&mask.data[z * height * width..]) {
                *top |= u32::from(inside);
            }
        }
        Volume::new([1, height, width], plane)
    };
    let top = Picture::cell(&shown, description, View::Top)
        .outlined(&outline(&image.cell), [150; 3])
        .outlined(&outline(&image.nucleus), NUCLEUS_COLOR);
    top.above(&Picture::cell(&shown, description, View::Side), 2)
}

const KEPT_COLOR: [u8; 3] = [255; 3];
const LEFT_OUT_COLOR: [u8; 3] = [110; 3];
const NUCLEUS_COLOR: [u8; 3] = [255, 220, 0];

/// The plane through the middle of the nuclei and a section along x, with outlines.
fn overlay(membrane: &Volume<f32>, dna: &Volume<f32>, found: &Found, rows: &[Row], voxel_um: [f64; 3]) -> Picture {
    let [depth, height, width] = membrane.size;
    let mut heights: Vec<f64> =
        rows.iter().filter(|row| row.nucleus_volume_um3 > 0.0).map(|row| row.centre_um[0] / voxel_um[0]).collect();
    heights.sort_by(f64::total_cmp);
    let middle = heights.get(heights.len() / 2).map_or(depth / 2, |z| (z.round() as usize).min(depth - 1));
    let kept: std::collections::BTreeSet<u32> =
        rows.iter().filter(|row| row.reason.is_empty()).map(|row| row.label).collect();

    // Where each pixel of the two pictures lies in the field.
    let plane: Vec<usize> = (0..height * width).map(|at| middle * height * width + at).collect();
    let scale = voxel_um[0] / voxel_um[2];
    let section_height = ((depth as f64 * scale).round() as usize).max(1);
    let section: Vec<usize> = (0..section_height * width)
        .map(|at| {
            let z = (((at / width) as f64 / scale) as usize).min(depth - 1);
            // The first plane is the lowest: it stands at the bottom.
            membrane.index(depth - 1 - z, height / 2, at % width)
        })
        .collect();
    let draw = |places: &[usize]| {
        let size = [1, places.len() / width, width];
        let pick = |volume: &Volume<f32>| Volume::new(size, places.iter().map(|&at| volume.data[at]).collect());
        let labels = |value: &dyn Fn(usize) -> u32| Volume::new(size, places.iter().map(|&at| value(at)).collect());
        let (membrane, dna) = (pick(membrane), pick(dna));
        let contrast = Contrast::Percentiles(1.0, 99.7);
        Picture::composite(
            &[(&membrane, channel_color("membrane"), contrast), (&dna, channel_color("dna"), contrast)],
            [1.0; 3],
            View::Top,
        )
        .outlined(&labels(&|at| found.cell.data[at]), LEFT_OUT_COLOR)
        .outlined(&labels(&|at| if kept.contains(&found.cell.data[at]) { found.cell.data[at] } else { 0 }), KEPT_COLOR)
        .outlined(&labels(&|at| found.nucleus.data[at]), NUCLEUS_COLOR)
    };
    draw(&plane).above(&draw(&section), 2)
}
