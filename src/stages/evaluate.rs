//! `evaluate`: a segmentation and alignment held against the truth.
//!
//! Nuclei and cells are each matched one to one by their overlap. What the field's four sides cut is seen in part only, and
//! `segment-align` leaves it out on purpose, so it is no test: such a true object is neither found nor missed, its partner neither found
//! nor wrong (see [`Comparison::detection`]). Errors of volumes, angles and centres are those of the true objects clear of the sides that
//! were found at an IoU of 0.5.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{Artifact, ArtifactType, ArtifactWriter, Cells, FigureSet, LabelImage, Labels, Table},
    figures::evaluation::{OBJECTS, agreement},
    image::{Comparison, Detection, Pose, Region, Volume, axis_angle, labelled_regions},
    stage::{
        Checked, Context, Input, InputFacts, Inputs, ItemContext, ItemFiles, ItemInput, ItemWork, Output, Outputs,
        Problem, StageError, StageKind, Work,
    },
    stats::{mean, quantile, sorted},
};

/// The stage kind.
pub(super) struct Evaluate;

/// Parameters of `evaluate`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct EvaluateParams {
    /// Names of the sets of labels, in their order: such as the conditions that they were imaged under. Numbers by default.
    #[serde(default)]
    names: Vec<String>,
}

/// The set that stands for all together.
const ALL: &str = "all";
/// The overlap from which an object counts as found when its errors are measured.
const FOUND_IOU: f64 = 0.5;
/// The overlaps that detection is measured at, in hundredths.
const THRESHOLDS: [u32; 10] = [50, 55, 60, 65, 70, 75, 80, 85, 90, 95];

const RESULT: &str = "comparison.json";

/// How a cell lies in its field.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Lie {
    /// The centre of its nucleus in µm: Z, Y, X; none: it has no nucleus.
    centre_um: Option<[f64; 3]>,
    /// Its long axis; none: of nuclei it is not asked.
    angle_degrees: Option<f64>,
    /// Whether the aligned image is mirrored along Y and X.
    flip: [bool; 2],
}

/// One object, with or without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    /// Label and volume in µm³ of the true object.
    truth: Option<(u32, f64)>,
    /// The same of the found one.
    found: Option<(u32, f64)>,
    iou: Option<f64>,
    /// Whether it does not count.
    cut: bool,
    truth_lie: Option<Lie>,
    found_lie: Option<Lie>,
}

/// The nuclei, or the cells, of one field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Compared {
    /// Found, missed and wrong at each threshold.
    detections: Vec<[usize; 3]>,
    rows: Vec<Row>,
}

/// One field of one set.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FieldResult {
    voxel_um: [f64; 3],
    /// In the order of [`OBJECTS`]; none: the truth knows no cells.
    compared: [Option<Compared>; 2],
}

impl StageKind for Evaluate {
    type Params = EvaluateParams;
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 2;
    const ABOUT: &'static str = "holds nuclei and cells that were found against the true ones, and their alignment";
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[("names", "they stand in the tables only")];

    fn inputs(_: Option<&EvaluateParams>) -> Vec<Input> {
        let any =
            |name: &str, kind, about: &str| Input { arity: crate::stage::Arity::Any, ..Input::many(name, kind, about) };
        vec![
            Input::many("labels", ArtifactType::Labels, "the nuclei and cells that were found"),
            Input::many(
                "truth",
                ArtifactType::Labels,
                "the true ones of the same fields, a set for each set of labels",
            ),
            any(
                "cells",
                ArtifactType::Cells,
                "the cells as they were aligned; else angles and centres are those of the labels",
            ),
            any(
                "truth-cells",
                ArtifactType::Tables,
                "the table `truth` of `simulate`; else they are those of the true labels",
            ),
        ]
    }

    fn outputs(_: Option<&EvaluateParams>) -> Vec<Output> {
        vec![
            Output::for_people(
                "table",
                ArtifactType::Tables,
                "`summary`, `fields`, `thresholds`, and a row an object in `objects`",
            ),
            Output::for_people("figures", ArtifactType::Figures, "F1 against overlap, found against true volumes"),
        ]
    }

    fn check(params: &EvaluateParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        let mut wrong = |problem| checked.problems.push(problem);
        let count = |port: &str| inputs.get(port).map_or(0, Vec::len);
        let sets = count("labels");
        for (port, optional) in [("truth", false), ("cells", true), ("truth-cells", true)] {
            let own = count(port);
            if sets > 0 && own != sets && !(own == 0 && (optional || !inputs.contains_key(port))) {
                wrong(Problem::with(port, format!("{own} sets for {sets} sets of labels")).help("give one for each"));
            }
        }
        if sets > 0 && !params.names.is_empty() && params.names.len() != sets {
            wrong(Problem::with("names", format!("{} names for {sets} sets of labels", params.names.len())));
        }
        let different: BTreeSet<&String> = params.names.iter().collect();
        if different.len() < params.names.len() || params.names.iter().any(|name| name.is_empty() || name == ALL) {
            wrong(Problem::with("names", "names of sets are different from each other, not empty, and not `all`"));
        }
        checked
    }

    fn run(params: &EvaluateParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let (found, truth) = (inputs.many("labels"), inputs.many("truth"));
        let (cells, truth_cells) = (inputs.many("cells"), inputs.many("truth-cells"));
        let names: Vec<String> = match params.names.as_slice() {
            [] => (1..=found.len()).map(|number| number.to_string()).collect(),
            names => names.to_vec(),
        };
        let fits = |count: usize| count == found.len();
        if !fits(truth.len())
            || !fits(names.len())
            || [cells, truth_cells].iter().any(|o| !o.is_empty() && !fits(o.len()))
        {
            return Err(StageError::bad_input("there must be as many truths, tables and names as sets of labels"));
        }
        let mut scores = Scores::default();
        for (index, name) in names.iter().enumerate() {
            let found_lies = cells.get(index).map(|artifact| aligned(artifact, context)).transpose()?;
            let truth_lies = truth_cells.get(index).map(|artifact| true_lies(artifact, context)).transpose()?;
            let fields = fields(name, &found[index], &truth[index], context)?;
            for (field, mut result) in fields {
                override_lies(&field, &mut result, found_lies.as_ref(), truth_lies.as_ref());
                scores.add(name, &field, &result);
            }
        }
        scores.outputs(&names, context)
    }
}

/// Holds every field of a set against its truth.
fn fields(
    set: &str,
    found: &Artifact,
    truth: &Artifact,
    context: &Context,
) -> Result<Vec<(String, FieldResult)>, StageError> {
    let (found, truth) = (Labels::open(found, context.blobs()), Labels::open(truth, context.blobs()));
    let ids = truth.ids();
    if ids.is_empty() {
        return Err(StageError::bad_input(format!("set {set}: the truth has no field")));
    }
    let without: Vec<&str> = ids.iter().copied().filter(|id| found.entry(id).is_none()).collect();
    if without.len() == ids.len() {
        let message = format!("set {set}: none of the fields of the truth ({}, …) has labels", ids[0]);
        return Err(StageError::bad_input(message).with_help("a field has the same id in both"));
    }
    if !without.is_empty() {
        context.note(format!("set {set}: nothing was found in the fields {}: all is missed there", without.join(", ")));
    }
    let more = found.ids().iter().filter(|id| truth.entry(id).is_none()).count();
    if more > 0 {
        context.note(format!("set {set}: {more} fields without truth do not count"));
    }
    let input =
        |labels: &Labels, id: &str| labels.entry(id).map_or(ItemInput::Nothing, |entry| ItemInput::Blob(entry.digest));
    let work = |id: &&str| Work {
        name: format!("field `{id}`"),
        item: (),
        inputs: vec![input(&truth, id), input(&found, id)],
    };
    let results = context.map(&CompareField {}, &[], &ids.iter().map(work).collect::<Vec<_>>())?;
    ids.iter()
        .zip(&results)
        .map(|(id, result)| {
            let entry = result.get(RESULT).ok_or_else(|| StageError::failed("a cached result has no file"))?;
            let result = serde_json::from_slice(&context.blobs().get(&entry.digest)?)
                .map_err(|error| StageError::failed(format!("a cached result cannot be read: {error}")))?;
            Ok(((*id).to_owned(), result))
        })
        .collect()
}

/// Compares one field with its truth.
#[derive(Serialize, Deserialize)]
struct CompareField {}

impl ItemWork for CompareField {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "fields";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let truth = LabelImage::decode(&inputs.bytes(0)?)?;
        let found = if inputs.digest(1).is_some() {
            LabelImage::decode(&inputs.bytes(1)?)?
        } else {
            let nothing = || Volume::filled(truth.cell.size, 0);
            LabelImage { nucleus: nothing(), cell: nothing(), voxel_um: truth.voxel_um }
        };
        inputs.check()?;
        let result = one_field(&truth, &found)?;
        Ok(vec![(RESULT.to_owned(), serde_json::to_vec(&result).expect("plain data"))])
    }
}

fn one_field(truth: &LabelImage, found: &LabelImage) -> Result<FieldResult, StageError> {
    if (0..3).any(|axis| (truth.voxel_um[axis] / found.voxel_um[axis] - 1.0).abs() > 1e-3) {
        let message = format!("voxels of {:?} µm are held against a truth of {:?} µm", found.voxel_um, truth.voxel_um);
        return Err(StageError::bad_input(message));
    }
    let nuclei = compare(&truth.nucleus, &found.nucleus, truth.voxel_um, lies_of_nuclei)?;
    // Truth without a single cell does not say where cells are.
    let cells = if truth.cell.data.iter().all(|&label| label == 0) {
        None
    } else {
        let mut compared = compare(&truth.cell, &found.cell, truth.voxel_um, |_, _| BTreeMap::new())?;
        let (truth_lies, found_lies) = (lies_of_cells(truth), lies_of_cells(found));
        for row in &mut compared.rows {
            row.truth_lie = row.truth.and_then(|(label, _)| truth_lies.get(&label).copied());
            row.found_lie = row.found.and_then(|(label, _)| found_lies.get(&label).copied());
        }
        Some(compared)
    };
    Ok(FieldResult { voxel_um: truth.voxel_um, compared: [Some(nuclei), cells] })
}

fn compare(
    truth: &Volume<u32>,
    found: &Volume<u32>,
    voxel_um: [f64; 3],
    lies: impl Fn(&[(u32, Region)], [f64; 3]) -> BTreeMap<u32, Lie>,
) -> Result<Compared, crate::image::ImageError> {
    let comparison = Comparison::of(truth, found)?;
    let detections = THRESHOLDS.map(|least| {
        let detection = comparison.detection(f64::from(least) / 100.0);
        [detection.found, detection.missed, detection.wrong]
    });
    let voxel = voxel_um.iter().product::<f64>();
    let regions = |objects: &[crate::image::Object]| {
        objects.iter().map(|object| (object.label, object.region)).collect::<Vec<_>>()
    };
    let truth_lies = lies(&regions(&comparison.truth), voxel_um);
    let found_lies = lies(&regions(&comparison.found), voxel_um);
    let row = |truth: Option<usize>, found: Option<usize>, iou: Option<f64>| {
        let (truth, found) = (truth.map(|at| comparison.truth[at]), found.map(|at| comparison.found[at]));
        let measured = |object: crate::image::Object| (object.label, object.region.voxels as f64 * voxel);
        Row {
            truth: truth.map(measured),
            found: found.map(measured),
            iou,
            cut: truth.or(found).is_some_and(|object| object.cut),
            truth_lie: truth.and_then(|object| truth_lies.get(&object.label).copied()),
            found_lie: found.and_then(|object| found_lies.get(&object.label).copied()),
        }
    };
    // Pairs that hardly overlap are none.
    let pairs: Vec<_> = comparison.matches.iter().filter(|pair| pair.iou >= FOUND_IOU).collect();
    let by_truth: BTreeMap<usize, _> = pairs.iter().map(|pair| (pair.truth, (pair.found, pair.iou))).collect();
    let partners: BTreeSet<usize> = pairs.iter().map(|pair| pair.found).collect();
    let mut rows: Vec<Row> = (0..comparison.truth.len())
        .map(|at| {
            let partner = by_truth.get(&at);
            row(Some(at), partner.map(|(found, _)| *found), partner.map(|(_, iou)| *iou))
        })
        .collect();
    rows.extend((0..comparison.found.len()).filter(|at| !partners.contains(at)).map(|at| row(None, Some(at), None)));
    Ok(Compared { detections: detections.to_vec(), rows })
}

fn lies_of_nuclei(regions: &[(u32, Region)], voxel_um: [f64; 3]) -> BTreeMap<u32, Lie> {
    let centre = |region: &Region| [0, 1, 2].map(|axis| region.centre[axis] * voxel_um[axis]);
    let lie = |region: &Region| Lie { centre_um: Some(centre(region)), angle_degrees: None, flip: [false; 2] };
    regions.iter().map(|(label, region)| (*label, lie(region))).collect()
}

/// How the cells of a label image lie. What of nuclei is in a cell is the cell's, whatever number it has.
fn lies_of_cells(labels: &LabelImage) -> BTreeMap<u32, Lie> {
    let inside = labels.nucleus.data.iter().zip(&labels.cell.data);
    let inside = inside.map(|(&nucleus, &cell)| if nucleus == 0 { 0 } else { cell });
    let nuclei = Volume::new(labels.cell.size, inside.collect());
    let nuclei: BTreeMap<u32, Region> = labelled_regions(&nuclei).into_iter().collect();
    let lie = |(label, cell): (u32, Region)| {
        let nucleus = nuclei.get(&label);
        let pose = Pose::of(&labels.cell, label, &cell, nucleus.unwrap_or(&cell), labels.voxel_um);
        let lie = Lie {
            centre_um: nucleus.map(|_| pose.centre_um),
            angle_degrees: Some(pose.angle.to_degrees()),
            flip: pose.flip,
        };
        (label, lie)
    };
    labelled_regions(&labels.cell).into_iter().map(lie).collect()
}

type Lies = BTreeMap<(String, i64), Lie>;

/// How cells lie by their table.
fn lies(table: &Table) -> Result<Lies, StageError> {
    let numbers = |name: &str| table.floats(name);
    let (fields, labels, angles) = (table.texts("field")?, numbers("label")?, numbers("angle_degrees")?);
    let centres = [numbers("centre_z_um")?, numbers("centre_y_um")?, numbers("centre_x_um")?];
    let flips = [table.flags("flip_y")?, table.flags("flip_x")?];
    let lie = |row: usize| Lie {
        centre_um: Some([0, 1, 2].map(|axis| centres[axis][row])),
        angle_degrees: Some(angles[row]),
        flip: flips.map(|flip| flip[row]),
    };
    Ok((0..table.rows()).map(|row| ((fields[row].clone(), labels[row] as i64), lie(row))).collect())
}

fn aligned(artifact: &Artifact, context: &Context) -> Result<Lies, StageError> {
    lies(&Cells::open(artifact, context.blobs())?.table).map_err(|error| {
        StageError::bad_input(format!("`cells`: {error}")).with_help("give the cells of `segment-align`")
    })
}

fn true_lies(artifact: &Artifact, context: &Context) -> Result<Lies, StageError> {
    let table = Table::read(artifact, context.blobs(), "truth").map_err(StageError::from);
    table.and_then(|table| lies(&table)).map_err(|error| {
        StageError::bad_input(format!("`truth-cells`: {error}")).with_help("give the output `truth` of `simulate`")
    })
}

/// Where tables say how cells lie, they count. A cell that is not in the table of the aligned ones was not aligned.
fn override_lies(field: &str, result: &mut FieldResult, found: Option<&Lies>, truth: Option<&Lies>) {
    let [_, Some(cells)] = &mut result.compared else { return };
    let of = |lies: &Lies, object: Option<(u32, f64)>| {
        object.and_then(|(label, _)| lies.get(&(field.to_owned(), i64::from(label))).copied())
    };
    for row in &mut cells.rows {
        if let Some(lies) = found {
            row.found_lie = of(lies, row.found);
        }
        if let Some(lies) = truth {
            row.truth_lie = of(lies, row.truth);
        }
    }
}

/// Errors of one object that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Errors {
    /// Found over true volume, less 1.
    volume: f64,
    /// Degrees, 0 to 90.
    angle: f64,
    /// Voxels of the field.
    centre: f64,
    /// 1 when the aligned images lie the same way round, else 0.
    same_way: f64,
}

impl Errors {
    fn of(row: &Row, voxel_um: [f64; 3]) -> Self {
        let mut errors = Self { volume: f64::NAN, angle: f64::NAN, centre: f64::NAN, same_way: f64::NAN };
        if row.cut {
            return errors;
        }
        if let (Some((_, truth)), Some((_, found))) = (row.truth, row.found) {
            errors.volume = found / truth - 1.0;
        }
        if let (Some(truth), Some(found)) = (row.truth_lie, row.found_lie) {
            if let (Some(truth), Some(found)) = (truth.centre_um, found.centre_um) {
                let away = (0..3).map(|axis| ((found[axis] - truth[axis]) / voxel_um[axis]).powi(2));
                errors.centre = away.sum::<f64>().sqrt();
            }
            if let (Some(a), Some(b)) = (truth.angle_degrees, found.angle_degrees) {
                errors.angle = axis_angle(a, b);
                // Two axes that are nearly the same can be told as angles about 180° apart: then both flips are the other way.
                let turned = (a - b).abs() > 90.0;
                let same = truth.flip.map(|flip| flip != turned) == found.flip;
                errors.same_way = f64::from(u8::from(same));
            }
        }
        errors
    }
}

/// Everything that the tables are made of.
#[derive(Default)]
struct Scores {
    /// Detections at each threshold by set, object (a place in [`OBJECTS`]) and field.
    detections: Vec<(String, usize, String, Vec<Detection>)>,
    /// Set, field, object, row, errors.
    rows: Vec<(String, String, usize, Row, Errors)>,
}

impl Scores {
    fn add(&mut self, set: &str, field: &str, result: &FieldResult) {
        for (object, compared) in result.compared.iter().enumerate() {
            let Some(compared) = compared else { continue };
            let detections =
                compared.detections.iter().map(|&[found, missed, wrong]| Detection { found, missed, wrong }).collect();
            self.detections.push((set.to_owned(), object, field.to_owned(), detections));
            for row in &compared.rows {
                let errors = Errors::of(row, result.voxel_um);
                self.rows.push((set.to_owned(), field.to_owned(), object, *row, errors));
            }
        }
    }

    /// Detections of a set, or of all.
    fn detection(&self, set: Option<&str>, object: usize, threshold: usize) -> Detection {
        let own =
            self.detections.iter().filter(|(name, what, ..)| *what == object && set.is_none_or(|set| set == name));
        own.map(|(.., detections)| detections[threshold]).fold(Detection::default(), |sum, one| sum + one)
    }

    /// The table of objects.
    fn objects(&self) -> Table {
        let texts =
            |f: &dyn Fn(&(String, String, usize, Row, Errors)) -> String| self.rows.iter().map(f).collect::<Vec<_>>();
        let numbers = |f: &dyn Fn(&Row, &Errors) -> f64| {
            self.rows.iter().map(|(.., row, errors)| f(row, errors)).collect::<Vec<f64>>()
        };
        let label = |object: Option<(u32, f64)>| object.map_or(0, |(label, _)| i64::from(label));
        let volume = |object: Option<(u32, f64)>| object.map_or(f64::NAN, |(_, volume)| volume);
        let outcome = |row: &Row| match (row.cut, row.truth, row.found) {
            (true, ..) => "cut by a side",
            (_, Some(_), Some(_)) => "found",
            (_, Some(_), None) => "missed",
            _ => "wrong",
        };
        Table::new()
            .with("set", texts(&|(set, ..)| set.clone()))
            .with("field", texts(&|(_, field, ..)| field.clone()))
            .with("object", texts(&|(_, _, object, ..)| OBJECTS[*object].0.to_owned()))
            .with("outcome", texts(&|(.., row, _)| outcome(row).to_owned()))
            .with("truth_label", self.rows.iter().map(|(.., row, _)| label(row.truth)).collect::<Vec<_>>())
            .with("found_label", self.rows.iter().map(|(.., row, _)| label(row.found)).collect::<Vec<_>>())
            .with("iou", numbers(&|row, _| row.iou.unwrap_or(f64::NAN)))
            .with("truth_volume_um3", numbers(&|row, _| volume(row.truth)))
            .with("found_volume_um3", numbers(&|row, _| volume(row.found)))
            .with("volume_error", numbers(&|_, errors| errors.volume))
            .with("angle_error_degrees", numbers(&|_, errors| errors.angle))
            .with("centre_error_voxels", numbers(&|_, errors| errors.centre))
            .with("same_way_round", numbers(&|_, errors| errors.same_way))
    }

    /// A row a set and sort of objects.
    fn summary(&self, sets: &[(&str, Option<&str>)]) -> Table {
        let mut rows = Vec::new();
        for &(name, set) in sets {
            for object in 0..OBJECTS.len() {
                if self.detections.iter().any(|(own, what, ..)| *what == object && set.is_none_or(|set| set == own)) {
                    rows.push((name, set, object));
                }
            }
        }
        let counted = |set: Option<&str>, object: usize| -> Vec<(&Row, &Errors)> {
            let own = self.rows.iter().filter(|(name, _, what, row, _)| {
                !row.cut && row.iou.is_some() && *what == object && set.is_none_or(|set| set == name)
            });
            own.map(|(.., row, errors)| (row, errors)).collect()
        };
        let column = |f: &dyn Fn(Option<&str>, usize) -> f64| {
            rows.iter().map(|&(_, set, object)| f(set, object)).collect::<Vec<f64>>()
        };
        let count = |f: &dyn Fn(Detection) -> usize| {
            rows.iter().map(|&(_, set, object)| f(self.detection(set, object, 0)) as i64).collect::<Vec<i64>>()
        };
        let at = |hundredths: u32| THRESHOLDS.iter().position(|&threshold| threshold == hundredths).unwrap_or(0);
        let median = |f: fn(&Errors) -> f64| {
            column(&|set, object| {
                let values: Vec<f64> = counted(set, object).iter().map(|(_, errors)| f(errors)).collect();
                quantile(&sorted(&values), 0.5)
            })
        };
        let share = column(&|set, object| {
            let values: Vec<f64> = counted(set, object).iter().map(|(_, errors)| errors.same_way).collect();
            mean(&sorted(&values))
        });
        Table::new()
            .with("set", rows.iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>())
            .with("object", rows.iter().map(|(.., object)| OBJECTS[*object].0.to_owned()).collect::<Vec<_>>())
            .with("true_objects", count(&|detection| detection.found + detection.missed))
            .with("found", count(&|detection| detection.found))
            .with("wrong", count(&|detection| detection.wrong))
            .with("f1_at_50", column(&|set, object| self.detection(set, object, at(50)).f1()))
            .with(
                "average_precision_at_50",
                column(&|set, object| self.detection(set, object, at(50)).average_precision()),
            )
            .with("f1_at_75", column(&|set, object| self.detection(set, object, at(75)).f1()))
            .with(
                "average_precision_at_75",
                column(&|set, object| self.detection(set, object, at(75)).average_precision()),
            )
            .with(
                "mean_iou",
                column(&|set, object| {
                    mean(&counted(set, object).iter().filter_map(|(row, _)| row.iou).collect::<Vec<_>>())
                }),
            )
            .with("median_volume_error", median(|errors| errors.volume))
            .with("median_absolute_volume_error", median(|errors| errors.volume.abs()))
            .with("median_angle_error_degrees", median(|errors| errors.angle))
            .with("median_centre_error_voxels", median(|errors| errors.centre))
            .with("same_way_round", share)
    }

    fn thresholds(&self, sets: &[(&str, Option<&str>)]) -> Table {
        let (mut texts, mut numbers) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new(), Vec::new()]);
        for &(name, set) in sets {
            for (object, (what, _)) in OBJECTS.iter().enumerate() {
                for (at, &threshold) in THRESHOLDS.iter().enumerate() {
                    let detection = self.detection(set, object, at);
                    texts[0].push(name.to_owned());
                    texts[1].push((*what).to_owned());
                    numbers[0].push(f64::from(threshold) / 100.0);
                    numbers[1].push(detection.f1());
                    numbers[2].push(detection.average_precision());
                }
            }
        }
        let ([set, object], [iou, f1, precision]) = (texts, numbers);
        Table::new()
            .with("set", set)
            .with("object", object)
            .with("iou", iou)
            .with("f1", f1)
            .with("average_precision", precision)
    }

    /// Found, missed and wrong at the least threshold, a row a field and sort of objects.
    fn fields(&self) -> Table {
        let texts = |f: &dyn Fn(&(String, usize, String, Vec<Detection>)) -> String| {
            self.detections.iter().map(f).collect::<Vec<_>>()
        };
        let count = |f: fn(&Detection) -> usize| {
            self.detections.iter().map(|(.., detections)| f(&detections[0]) as i64).collect::<Vec<i64>>()
        };
        Table::new()
            .with("set", texts(&|(set, ..)| set.clone()))
            .with("field", texts(&|(_, _, field, _)| field.clone()))
            .with("object", texts(&|(_, object, ..)| OBJECTS[*object].0.to_owned()))
            .with("found", count(|detection| detection.found))
            .with("missed", count(|detection| detection.missed))
            .with("wrong", count(|detection| detection.wrong))
    }

    fn outputs(&self, names: &[String], context: &Context) -> Result<Outputs, StageError> {
        let mut sets: Vec<(&str, Option<&str>)> = vec![(ALL, None)];
        sets.extend(names.iter().filter(|_| names.len() > 1).map(|name| (name.as_str(), Some(name.as_str()))));
        let (summary, thresholds, objects) = (self.summary(&sets), self.thresholds(&sets), self.objects());
        for (object, (_, plural)) in OBJECTS.iter().enumerate() {
            let detection = self.detection(None, object, 0);
            let all = detection.found + detection.missed;
            if all + detection.wrong > 0 {
                let (found, wrong, f1) = (detection.found, detection.wrong, detection.f1());
                context.note(format!("{found} of {all} {plural} found, {wrong} wrong: F1 {f1:.3} at IoU 0.5"));
            }
        }
        let figure = agreement(&thresholds, &objects, &summary, names, ALL)?;
        let mut tables = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
        summary.write(&mut tables, "summary")?;
        thresholds.write(&mut tables, "thresholds")?;
        self.fields().write(&mut tables, "fields")?;
        objects.write(&mut tables, "objects")?;
        Ok(Outputs::from([
            ("table".to_owned(), tables.finish()?),
            ("figures".to_owned(), FigureSet(vec![figure]).write(context.blobs())?),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::artifact::LabelsWriter;

    /// A field of 3 × 12 × 24 voxels of 1 × 0.5 × 0.5 µm with boxes (label, y, x, height, width), planes 1 and 2; a nucleus of 2 × 2
    /// voxels a plane at the box's second row and column.
    fn labels(boxes: &[(u32, usize, usize, usize, usize)]) -> LabelImage {
        let mut cell = Volume::filled([3, 12, 24], 0);
        let mut nucleus = cell.clone();
        for &(label, top, left, height, width) in boxes {
            for z in 1..3 {
                for y in 0..height {
                    for x in 0..width {
                        let at = cell.index(z, top + y, left + x);
                        cell.data[at] = label;
                        if (1..3).contains(&y) && (1..3).contains(&x) {
                            nucleus.data[at] = label;
                        }
                    }
                }
            }
        }
        LabelImage { nucleus, cell, voxel_um: [1.0, 0.5, 0.5] }
    }

    fn artifact(host: &MemoryHost, ids: &[&str], image: &LabelImage) -> Artifact {
        let mut writer = LabelsWriter::new(&host.blobs);
        for id in ids {
            writer.image(id, &image.encode().unwrap()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn truth() -> LabelImage {
        labels(&[(1, 1, 1, 4, 8), (2, 6, 12, 5, 3), (3, 3, 20, 4, 4)])
    }

    #[test]
    fn scores_by_hand() {
        let host = MemoryHost::default();
        // Cell 1: 8 columns, found as 6 of them: IoU 0.75, volume error -1/4. Cell 2 is moved by one row: 12 of 18. Cell 3 touches the
        // side and is missed. Number 9 is nothing.
        let found = labels(&[(5, 1, 1, 4, 6), (6, 5, 12, 5, 3), (9, 1, 14, 3, 3)]);
        let outputs = host
            .run::<Evaluate>(
                &params::<Evaluate>(json!({})),
                &[("labels", &artifact(&host, &["a"], &found)), ("truth", &artifact(&host, &["a"], &truth()))],
            )
            .unwrap();
        let read = |name: &str| Table::read(&outputs["table"], &host.blobs, name).unwrap();
        let summary = read("summary");
        assert_eq!(summary.texts("object").unwrap(), ["nucleus", "cell"]);
        let close = |column: &str, row: usize, expected: f64| {
            let value = summary.floats(column).unwrap()[row];
            assert!((value - expected).abs() < 1e-9, "{column}: {value}, not {expected}");
        };
        // Nuclei: the first exactly; the second half of it (4 of 12); the third touches no side itself, and is missed.
        close("true_objects", 0, 3.0);
        close("f1_at_50", 0, 2.0 / (2.0 + 2.0 + 2.0));
        close("true_objects", 1, 2.0);
        close("found", 1, 2.0);
        close("wrong", 1, 1.0);
        close("f1_at_50", 1, 0.8);
        close("average_precision_at_50", 1, 2.0 / 3.0);
        close("f1_at_75", 1, 0.4);
        close("average_precision_at_75", 1, 0.25);
        close("mean_iou", 1, f64::midpoint(0.75, 12.0 / 18.0));
        close("median_volume_error", 1, -0.125);
        close("median_absolute_volume_error", 1, 0.125);
        close("median_angle_error_degrees", 1, 0.0);
        close("median_centre_error_voxels", 1, 0.5);
        assert_eq!(read("objects").texts("outcome").unwrap().iter().filter(|text| *text == "cut by a side").count(), 1);
        let thresholds = read("thresholds");
        assert_eq!((thresholds.rows(), thresholds.floats("f1").unwrap()[19]), (20, 0.0));
        assert_eq!(FigureSet::read(&outputs["figures"], &host.blobs).unwrap().0.len(), 1);
    }

    #[test]
    fn sets_stand_beside_each_other_and_missing_fields_are_missed() {
        let host = MemoryHost::default();
        let (all, one) = (artifact(&host, &["a", "b"], &truth()), artifact(&host, &["a"], &truth()));
        let inputs = Inputs {
            artifacts: [("labels".to_owned(), vec![all.clone(), one]), ("truth".to_owned(), vec![all.clone(), all])]
                .into(),
            ..Inputs::default()
        };
        let run = |json| Evaluate::run(&params::<Evaluate>(json), &inputs, &Context::new(&host));
        let outputs = run(json!({ "names": ["bright", "dim"] })).unwrap();
        let summary = Table::read(&outputs["table"], &host.blobs, "summary").unwrap();
        assert_eq!(summary.texts("set").unwrap(), ["all", "all", "bright", "bright", "dim", "dim"]);
        // Of four cells in two fields two are missed: recall 1/2, precision 1.
        assert_eq!(summary.floats("f1_at_50").unwrap()[3], 1.0);
        assert!((summary.floats("f1_at_50").unwrap()[5] - 2.0 / 3.0).abs() < 1e-12);
        assert!(host.notes().iter().any(|note| note.contains("fields b")), "{:?}", host.notes());
        assert!(run(json!({ "names": ["one"] })).is_err());
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let host = MemoryHost::default();
        let run = |found: &Artifact, truth: &Artifact| {
            host.run::<Evaluate>(&params::<Evaluate>(json!({})), &[("labels", found), ("truth", truth)])
        };
        let good = artifact(&host, &["a"], &truth());
        let coarse = artifact(&host, &["a"], &LabelImage { voxel_um: [1.0; 3], ..truth() });
        assert!(run(&coarse, &good).unwrap_err().to_string().contains("`a`"));
        assert!(run(&artifact(&host, &["b"], &truth()), &good).is_err());
        assert!(run(&good, &artifact(&host, &[], &truth())).is_err());
        let small = LabelImage {
            nucleus: Volume::filled([1, 2, 2], 0),
            cell: Volume::filled([1, 2, 2], 0),
            voxel_um: [1.0, 0.5, 0.5],
        };
        assert!(run(&artifact(&host, &["a"], &small), &good).is_err());
        let facts = |count| vec![crate::stage::Facts::default(); count];
        let inputs = InputFacts::from([("labels".to_owned(), facts(2)), ("truth".to_owned(), facts(1))]);
        let problems = Evaluate::check(&params::<Evaluate>(json!({ "names": ["x", "x", "all"] })), &inputs).problems;
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn turned_axes_keep_their_way_round() {
        let lie = |angle: f64, flip| Some(Lie { centre_um: Some([0.0; 3]), angle_degrees: Some(angle), flip });
        let row = |a, b| Row {
            truth: Some((1, 2.0)),
            found: Some((1, 3.0)),
            iou: Some(0.6),
            cut: false,
            truth_lie: a,
            found_lie: b,
        };
        let errors = Errors::of(&row(lie(89.0, [false, true]), lie(-89.0, [true, false])), [1.0; 3]);
        assert_eq!(errors, Errors { volume: 0.5, angle: 2.0, centre: 0.0, same_way: 1.0 });
        assert_eq!(Errors::of(&row(lie(10.0, [false; 2]), lie(12.0, [true, false])), [1.0; 3]).same_way, 0.0);
    }
}
