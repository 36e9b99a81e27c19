//! Trains the two models: MR on cell and nuclear shape, MT on the place of a structure in a given cell.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    quality::{TrainedOn, assess},
    training_set::{Batch, STRUCTURE, TrainingSet},
};
use crate::{
    artifact::{ArtifactType, ArtifactWriter, Cells, FigureSet, Table},
    figures::{learning::learning_curve, quality::explained},
    model::{
        Architecture, EpochMetrics, Evaluation, ModelKind, Parameters, Task, Trainer, TrainingError, TrainingSettings,
        Vae, artifact, check_sizes,
    },
    nn::Rng,
    stage::{Checked, Context, Facts, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// Trains the reference model MR.
pub(super) struct TrainReference;
/// Trains the target model MT.
pub(super) struct TrainTarget;

/// How a model is trained.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct TrainParams {
    /// Channels of the levels of the network, from the image inwards. Every level halves the image, so its sides have to be
    /// divisible by 2 to the number of levels.
    #[serde(default = "paper_channels")]
    #[schemars(inner(range(max = 65_536)))]
    pub(super) channels: Vec<usize>,
    /// Latent dimensions.
    #[serde(default = "paper_latent")]
    #[schemars(range(max = 65_536))]
    pub(super) latent: usize,
    /// How often every training cell is learned from. A higher number goes on from a cached training of fewer epochs.
    #[schemars(range(max = 1_000_000))]
    pub(super) epochs: u64,
    /// Cells of a batch. A last batch of one cell joins the batch before it.
    #[serde(default = "paper_batch")]
    #[schemars(range(max = 65_536))]
    pub(super) batch: usize,
    /// Step size of Adam.
    #[serde(default = "paper_learning_rate")]
    #[schemars(range(max = 1000.0))]
    pub(super) learning_rate: f64,
    /// The balance of the loss 2((1 − β)·reconstruction + β·KL), from 0 to 1 (paper, Eq 3). Without it the loss is reconstruction + KL.
    #[serde(default)]
    #[schemars(range(max = 1e9))]
    pub(super) beta: Option<f64>,
    /// Samples of z for each cell at validation.
    #[serde(default = "paper_samples")]
    #[schemars(range(max = 10_000))]
    pub(super) validation_samples: usize,
    /// The model is validated behind every epoch whose number this divides; the best validated one is kept.
    #[serde(default = "every")]
    #[schemars(range(max = 1_000_000))]
    pub(super) validate_every: u64,
    /// Training ends when the validation ELBO has not risen in more than this many validations in a row. Without it, it does not.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub(super) patience: Option<u64>,
    /// By how much the validation ELBO has to rise to count as a rise for `patience`.
    #[serde(default)]
    #[schemars(range(max = 1e9))]
    pub(super) minimum_gain: f64,
    /// How often the state is kept, in seconds: what an interruption loses at most. Less often where keeping takes long, so that it
    /// costs no more than a fiftieth of the time.
    #[serde(default = "a_minute")]
    #[schemars(range(max = 1e9))]
    pub(super) checkpoint_seconds: f64,
    /// Whether control cells (with a replaced structure) take part. By default they do in a target model and do not in a
    /// reference model, where they would be copies of cells in the set.
    #[serde(default)]
    pub(super) with_controls: Option<bool>,
    /// Seed of the weights, the noise and the order of the cells. The pipeline's by default.
    #[serde(default)]
    pub(super) seed: u64,
}

fn paper_channels() -> Vec<usize> {
    vec![32, 64, 128, 256, 512]
}

fn paper_latent() -> usize {
    512
}

fn paper_batch() -> usize {
    32
}

fn paper_learning_rate() -> f64 {
    2e-4
}

fn paper_samples() -> usize {
    10
}

fn every() -> u64 {
    1
}

fn a_minute() -> f64 {
    60.0
}

/// What an interrupted training may lose, and how far it goes, is not what it is.
const EXTENT: &[&str] = &["epochs", "checkpoint-seconds"];

/// Keeping the state takes at most this part of the time.
const CHECKPOINT_SHARE: f64 = 0.02;

impl StageKind for TrainReference {
    type Params = TrainParams;
    const NAME: &'static str = "train-reference";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "learns cell and nuclear shape: the reference model (MR)";
    const EXTENT: &'static [&'static str] = EXTENT;

    fn inputs(_: Option<&TrainParams>) -> Vec<Input> {
        inputs()
    }

    fn outputs(_: Option<&TrainParams>) -> Vec<Output> {
        outputs()
    }

    fn check(params: &TrainParams, inputs: &InputFacts) -> Checked {
        check(params, inputs, ModelKind::Reference)
    }

    fn run(params: &TrainParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        run(params, inputs, context, ModelKind::Reference)
    }
}

impl StageKind for TrainTarget {
    type Params = TrainParams;
    const NAME: &'static str = "train-target";
    const VERSION: u32 = 4;
    const ABOUT: &'static str = "learns where structures lie in a given cell: the target model (MT)";
    const EXTENT: &'static [&'static str] = EXTENT;

    fn inputs(_: Option<&TrainParams>) -> Vec<Input> {
        inputs()
    }

    fn outputs(_: Option<&TrainParams>) -> Vec<Output> {
        outputs()
    }

    fn check(params: &TrainParams, inputs: &InputFacts) -> Checked {
        check(params, inputs, ModelKind::Target)
    }

    fn run(params: &TrainParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        run(params, inputs, context, ModelKind::Target)
    }
}

fn inputs() -> Vec<Input> {
    vec![
        Input::one("train", ArtifactType::Cells, "the cells to learn from, normalised"),
        Input::one("validation", ArtifactType::Cells, "the cells that choose the best epoch"),
    ]
}

fn outputs() -> Vec<Output> {
    vec![
        Output::data("model", ArtifactType::Model, "the model of the best epoch"),
        Output::for_people(
            "metrics",
            ArtifactType::Tables,
            "what every epoch gave (`metrics`), and what the model explains of the validation cells (`quality`)",
        ),
        Output::for_people("figures", ArtifactType::Figures, "the learning curve, and what the model explains"),
    ]
}

fn check(params: &TrainParams, inputs: &InputFacts, kind: ModelKind) -> Checked {
    let mut checked = Checked::default();
    let mut problem = |problem: Problem| checked.problems.push(problem);
    for (field, value) in [
        ("epochs", params.epochs),
        ("batch", params.batch as u64),
        ("latent", params.latent as u64),
        ("validation-samples", params.validation_samples as u64),
        ("validate-every", params.validate_every),
    ] {
        if value == 0 {
            problem(Problem::with(field, "0 is too few").help("give 1 or more"));
        }
    }
    if params.validate_every > params.epochs && params.epochs > 0 {
        let message = format!("no model would be kept: {} epochs hold no validation", params.epochs);
        problem(Problem::with("validate-every", message).help("give at most the number of epochs"));
    }
    if !(params.learning_rate > 0.0 && params.learning_rate.is_finite()) {
        problem(
            Problem::with("learning-rate", format!("{} is no step size", params.learning_rate)).help("give 2e-4, say"),
        );
    }
    if params.beta.is_some_and(|beta| !(0.0..=1.0).contains(&beta)) {
        problem(
            Problem::with("beta", "β lies between 0 and 1")
                .help("0 weighs only the reconstruction, 1 only the KL divergence"),
        );
    }
    if params.minimum_gain < 0.0 || params.minimum_gain.is_nan() {
        problem(Problem::with("minimum-gain", "a gain is not below 0"));
    }
    if params.checkpoint_seconds < 0.0 || params.checkpoint_seconds.is_nan() {
        problem(Problem::with("checkpoint-seconds", "a time is not below 0"));
    }
    let facts = |port: &str| inputs.get(port).and_then(|facts| facts.first()).cloned().unwrap_or_default();
    let (train, validation) = (facts("train"), facts("validation"));
    if params.channels.is_empty() || params.channels.contains(&0) {
        problem(Problem::with("channels", "every level needs a channel").help("give [32, 64, 128, 256, 512], say"));
    } else if let (Some(size), Some(dimensions)) = (train.size, train.dimensions) {
        if let Err(message) = check_sizes(dimensions, size, &params.channels) {
            let help = "give fewer levels, or cut the cells to another size in `segment-align`";
            problem(Problem::with("channels", message).help(help));
        }
    }
    if train.size.is_some() && validation.size.is_some() && train.size != validation.size {
        problem(Problem::with("validation", "the validation cells have another size than the training cells"));
    }
    for (port, facts) in [("train", &train), ("validation", &validation)] {
        let Some(channels) = &facts.channels else { continue };
        if let Err(message) = roles(channels, kind) {
            problem(Problem::with(port, message));
        }
    }
    let facts = Facts {
        size: train.size,
        dimensions: train.dimensions,
        model: Some(kind.name().to_owned()),
        ..Facts::default()
    };
    checked.outputs.insert("model".to_owned(), facts);
    checked
}

/// The channels of the image and of the reference image.
fn roles(channels: &[String], kind: ModelKind) -> Result<(Vec<String>, Vec<String>), String> {
    let reference: Vec<String> = channels.iter().filter(|name| *name != STRUCTURE).cloned().collect();
    if reference.is_empty() {
        return Err("the cells have no reference channel: membrane and dna".to_owned());
    }
    match kind {
        ModelKind::Reference => Ok((reference, Vec::new())),
        ModelKind::Target if reference.len() == channels.len() => {
            Err(format!("the cells have no channel `{STRUCTURE}` to learn from; they have {}", channels.join(", ")))
        }
        ModelKind::Target => Ok((vec![STRUCTURE.to_owned()], reference)),
    }
}

/// The rows that take part.
fn rows(cells: &Cells, with_controls: bool) -> Result<Vec<usize>, StageError> {
    let controls = cells.table.flags("control")?;
    Ok((0..cells.len()).filter(|&row| with_controls || !controls[row]).collect())
}

fn describe(params: &TrainParams, cells: &Cells, rows: &[usize], kind: ModelKind) -> Result<Architecture, StageError> {
    let description = &cells.description;
    if !description.normalised {
        return Err(StageError::bad_input("the intensities of the cells are as measured")
            .with_help("put a `normalize` stage before the split"));
    }
    let (image_channels, reference_channels) = roles(&description.channels, kind).map_err(StageError::bad_input)?;
    let labels = if kind == ModelKind::Target { labels(cells, rows)? } else { Vec::new() };
    let architecture = Architecture {
        kind,
        dimensions: description.dimensions,
        size: description.size,
        image_channels,
        reference_channels,
        labels,
        channels: params.channels.clone(),
        latent: params.latent,
        beta: params.beta,
        voxel_um: description.voxel_um,
    };
    architecture.check().map_err(|error| StageError::bad_input(error.to_string()))?;
    Ok(architecture)
}

/// The structures of these rows, sorted.
fn labels(cells: &Cells, rows: &[usize]) -> Result<Vec<String>, StageError> {
    let structures = cells.table.texts("structure")?;
    let mut labels: Vec<String> = rows.iter().map(|&row| structures[row].clone()).collect();
    if let Some(&row) = rows.iter().find(|&&row| structures[row].is_empty()) {
        return Err(StageError::bad_input(format!("cell `{}` has no structure", cells.ids()[row])).with_help(
            "a target model learns from cells with a tagged structure: give `structure` when importing the fields",
        ));
    }
    labels.sort();
    labels.dedup();
    Ok(labels)
}

fn run(params: &TrainParams, inputs: &Inputs, context: &Context, kind: ModelKind) -> Result<Outputs, StageError> {
    let blobs = context.blobs();
    let (train, validation) = (Cells::open(inputs.one("train"), blobs)?, Cells::open(inputs.one("validation"), blobs)?);
    let with_controls = params.with_controls.unwrap_or(kind == ModelKind::Target);
    let train_rows = rows(&train, with_controls)?;
    if train_rows.is_empty() {
        return Err(StageError::bad_input("there is no training cell"));
    }
    let architecture = describe(params, &train, &train_rows, kind)?;
    if validation.description != train.description {
        return Err(StageError::bad_input(
            "the validation cells differ from the training cells in size, voxels or channels",
        ));
    }
    let mut validation_rows = rows(&validation, with_controls)?;
    if kind == ModelKind::Target {
        let structures = validation.table.texts("structure")?;
        let before = validation_rows.len();
        validation_rows.retain(|&row| architecture.labels.contains(&structures[row]));
        if validation_rows.len() < before {
            let count = before - validation_rows.len();
            context.note(format!("{count} validation cells are left out: no training cell has their structure"));
        }
    }
    if validation_rows.is_empty() {
        return Err(StageError::bad_input("there is no validation cell to choose the best epoch with")
            .with_help("give more cells, or a larger share `validation` in `split`"));
    }
    let trained_on = TrainedOn::new(&train, &train_rows)?;
    let train = TrainingSet::new(&train, train_rows, &architecture)?;
    let structures = validation.table.texts("structure")?;
    let structures: Vec<String> = validation_rows.iter().map(|&row| structures[row].clone()).collect();
    let validation = TrainingSet::new(&validation, validation_rows, &architecture)?;
    let settings = TrainingSettings {
        batch: params.batch,
        learning_rate: params.learning_rate,
        seed: params.seed,
        validation_samples: params.validation_samples,
        validate_every: params.validate_every,
        patience: params.patience,
        min_delta: params.minimum_gain,
    };
    if params.batch > train.len() {
        context.note(format!(
            "a batch of {} is more than the {} training cells: all are one batch",
            params.batch,
            train.len()
        ));
    }
    let trainer = Trainer::new(&architecture, settings, train.len(), params.epochs)
        .map_err(|error| StageError::bad_input(error.to_string()))?;
    let mut run = Run::new(trainer, params, context, &train, &validation);
    run.resume()?;
    run.train()?;
    let best = finish(&run.trainer)?;
    let vae = Vae::from_parameters(&architecture, &best.parameters)?;
    let (quality, mean_kl) = assess(&vae, &validation, &structures, params.batch, context)?;
    let mut findings = quality.findings(&mean_kl);
    let last = run.trainer.metrics().last().map_or(0, |metrics| metrics.epoch);
    if best.epoch == last {
        findings
            .push(format!("the best epoch is the last one, {last}: the model was still learning; give more `epochs`"));
    }
    context.note(quality.summary(&mean_kl));
    findings.iter().for_each(|finding| context.note(finding));

    let blobs = context.blobs();
    let (table, quality) = (metrics(run.trainer.metrics(), best.epoch), quality.table());
    let mut out = ArtifactWriter::new(ArtifactType::Tables, blobs);
    table.write(&mut out, "metrics")?;
    quality.write(&mut out, "quality")?;
    Table::new().with("finding", findings.clone()).write(&mut out, "findings")?;
    let beta = architecture.beta.map_or(String::new(), |beta| format!(" (β = {beta})"));
    let (name, title) = match kind {
        ModelKind::Reference => ("reference", format!("Learning cell and nuclear shape{beta}")),
        ModelKind::Target => ("target", format!("Learning the places of structures{beta}")),
    };
    let figures = FigureSet(vec![
        learning_curve(&table, best.epoch, &format!("learning-{name}"), &title)?,
        explained(&quality, &findings, kind.name(), "validation cells")?,
    ]);
    let model = artifact::write(&architecture, &best.parameters, blobs)?;
    Ok(Outputs::from([
        ("model".to_owned(), trained_on.add_to(&model, blobs)?),
        ("metrics".to_owned(), out.finish()?),
        ("figures".to_owned(), figures.write(blobs)?),
    ]))
}

/// A training under way.
struct Run<'a> {
    trainer: Trainer,
    epochs: u64,
    context: &'a Context<'a>,
    train: &'a TrainingSet<'a>,
    validation: &'a TrainingSet<'a>,
    checkpoint_seconds: f64,
    /// When the state was kept last, how long that took, and at which step it was.
    kept: Instant,
    keeping_took: f64,
    kept_at: Option<(u64, usize)>,
    /// Images a second, of late.
    speed: f64,
}

fn fails(error: TrainingError) -> StageError {
    match &error {
        TrainingError::Diverged { .. } => StageError::failed(error.to_string()).with_help(
            "give a lower `learning-rate` or a larger `batch`, and look at the images for outliers; the last good state is kept",
        ),
        TrainingError::Model(_) => StageError::bad_input(error.to_string()),
        TrainingError::Checkpoint(_) => StageError::failed(error.to_string()),
    }
}

impl<'a> Run<'a> {
    fn new(
        trainer: Trainer,
        params: &TrainParams,
        context: &'a Context<'a>,
        train: &'a TrainingSet<'a>,
        validation: &'a TrainingSet<'a>,
    ) -> Self {
        Self {
            trainer,
            epochs: params.epochs,
            context,
            train,
            validation,
            checkpoint_seconds: params.checkpoint_seconds,
            kept: Instant::now(),
            keeping_took: 0.0,
            kept_at: None,
            speed: 0.0,
        }
    }

    /// Takes up the last state that was kept, if there is one.
    fn resume(&mut self) -> Result<(), StageError> {
        let Some((_, bytes)) = self.context.load_checkpoint(self.trainer.total_steps())? else { return Ok(()) };
        match self.trainer.restore(&bytes) {
            Ok(()) if self.trainer.metrics().len() as u64 > self.epochs => {
                Err(StageError::failed("the checkpoint is of a longer training"))
            }
            Ok(()) => {
                self.kept_at = Some(self.mark());
                let (step, epoch) = (self.trainer.steps(), self.trainer.epoch());
                self.context.note(format!("goes on from step {step}, in epoch {epoch}"));
                Ok(())
            }
            Err(error) => {
                self.context.note(format!("{error}; training starts anew"));
                Ok(())
            }
        }
    }

    /// Names the state: steps and finished epochs.
    fn mark(&self) -> (u64, usize) {
        (self.trainer.steps(), self.trainer.metrics().len())
    }

    fn keep(&mut self, milestone: bool) -> Result<(), StageError> {
        if !milestone && self.kept_at == Some(self.mark()) {
            return Ok(());
        }
        let start = Instant::now();
        let bytes = self.trainer.checkpoint().map_err(fails)?;
        self.context.save_checkpoint(self.trainer.steps(), &bytes, milestone)?;
        self.kept_at = Some(self.mark());
        (self.kept, self.keeping_took) = (Instant::now(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Keeps the state when it is time to, and stops when the user asked to.
    fn between(&mut self) -> Result<(), StageError> {
        if let Err(stop) = self.context.check() {
            self.keep(false)?;
            return Err(stop);
        }
        let wait = self.checkpoint_seconds.max(self.keeping_took / CHECKPOINT_SHARE);
        if self.kept.elapsed().as_secs_f64() >= wait { self.keep(false) } else { Ok(()) }
    }

    fn tell(&self, doing: &str) {
        let last = self.trainer.metrics().iter().rev().find_map(EpochMetrics::validation_elbo);
        let elbo = last.map_or(String::new(), |elbo| format!(" ELBO {elbo:.1}"));
        let speed = if self.speed > 0.0 { format!(" · {:.0} images/s", self.speed) } else { String::new() };
        let message = format!("epoch {}/{}{elbo}{speed}{doing}", self.trainer.epoch(), self.epochs);
        self.context.progress(self.trainer.steps(), self.trainer.total_steps(), "steps", message);
    }

    fn train(&mut self) -> Result<(), StageError> {
        loop {
            self.between()?;
            match self.trainer.task() {
                Task::Step(_) => self.rest_of_epoch()?,
                Task::Validate => self.validate()?,
                Task::Done => return self.keep(true),
            }
        }
    }

    /// The steps up to the end of the epoch, each batch read while the one before is learned from.
    fn rest_of_epoch(&mut self) -> Result<(), StageError> {
        let Task::Step(first) = self.trainer.task() else { return Ok(()) };
        let epoch = self.trainer.epoch();
        let train = self.train;
        std::thread::scope(|scope| {
            let (order, orders) = std::sync::mpsc::sync_channel::<Vec<usize>>(1);
            let (done, batches) = std::sync::mpsc::sync_channel::<Result<Batch, StageError>>(1);
            scope.spawn(move || {
                for cells in orders {
                    if done.send(train.batch(&cells)).is_err() {
                        break;
                    }
                }
            });
            // Both ends live until the scope's end; if the reader panicked, that panic is reported by the scope.
            let gone = |_| StageError::failed("the thread that reads images is gone");
            order.send(first).map_err(|_| gone(()))?;
            loop {
                let batch = batches.recv().map_err(|_| gone(()))??;
                let ahead = self.trainer.peek_next();
                let more = ahead.is_some();
                if let Some(cells) = ahead {
                    order.send(cells).map_err(|_| gone(()))?;
                }
                self.step(&batch)?;
                if !more || self.trainer.epoch() != epoch {
                    return Ok(());
                }
                self.between()?;
            }
        })
    }

    fn step(&mut self, batch: &Batch) -> Result<(), StageError> {
        let start = Instant::now();
        let before = self.trainer.steps();
        self.trainer.step(&batch.images, batch.condition().as_ref()).map_err(fails)?;
        debug_assert_eq!(self.trainer.steps(), before + 1);
        let architecture = self.trainer.model().architecture();
        let images = batch.images.len() / (architecture.voxels() * architecture.image_channels.len());
        let speed = images as f64 / start.elapsed().as_secs_f64().max(1e-9);
        self.speed = if self.speed > 0.0 { 0.9 * self.speed + 0.1 * speed } else { speed };
        self.tell("");
        Ok(())
    }

    fn validate(&mut self) -> Result<(), StageError> {
        let (batch, samples) = (self.trainer.settings().batch, self.trainer.settings().validation_samples);
        let mut evaluations: Vec<Evaluation> = Vec::with_capacity(self.validation.len());
        while evaluations.len() < self.validation.len() {
            let first = evaluations.len();
            self.tell(&format!(" · validation {first}/{}", self.validation.len()));
            let cells: Vec<usize> = (first..self.validation.len().min(first + batch)).collect();
            let images = self.validation.batch(&cells)?;
            let mut noise: Vec<Rng> = cells.iter().map(|&cell| self.trainer.validation_noise(cell)).collect();
            let model = self.trainer.model();
            let some = model.evaluate(&images.images, images.condition().as_ref(), samples, &mut noise);
            evaluations.extend(some.map_err(|error| fails(error.into()))?);
            self.between()?;
        }
        self.trainer.record_validation(&evaluations).map_err(fails)?;
        self.tell("");
        Ok(())
    }
}

/// The model that is kept.
struct Best {
    parameters: Parameters,
    epoch: u64,
}

fn finish(trainer: &Trainer) -> Result<Best, StageError> {
    let (best, epoch) = trainer.best().ok_or_else(|| StageError::failed("no epoch was validated"))?;
    Ok(Best { parameters: best.parameters(), epoch })
}

fn metrics(epochs: &[EpochMetrics], kept: u64) -> Table {
    let column = |value: &dyn Fn(&EpochMetrics) -> f64| epochs.iter().map(value).collect::<Vec<f64>>();
    let missing = f64::NAN;
    Table::new()
        .with("epoch", epochs.iter().map(|m| i64::try_from(m.epoch).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .with("loss", column(&|m| m.loss))
        .with("reconstruction", column(&|m| m.reconstruction))
        .with("kl", column(&|m| m.kl))
        .with("validation_reconstruction", column(&|m| m.validation.map_or(missing, |v| v[0])))
        .with("validation_kl", column(&|m| m.validation.map_or(missing, |v| v[1])))
        .with("validation_elbo", column(&|m| m.validation_elbo().unwrap_or(missing)))
        .with("kept", epochs.iter().map(|m| m.epoch == kept).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use serde_json::json;

    use super::*;
    use crate::{
        stage::{Host, Item, Numerics, Progress},
        stages::testing::{MemoryHost, noisy_cells, params},
        store::{Blobs, Tree},
    };

    /// Keeps checkpoints, and asks to stop after a number of questions.
    struct Stopping<'a> {
        memory: &'a MemoryHost,
        checkpoints: Mutex<Vec<(u64, Vec<u8>)>>,
        questions: AtomicU64,
        stop_at: AtomicU64,
    }

    impl Host for Stopping<'_> {
        fn blobs(&self) -> &dyn Blobs {
            &self.memory.blobs
        }

        fn numerics(&self) -> Numerics {
            Numerics::CPU
        }

        fn progress(&self, progress: Progress) {
            assert!(progress.done <= progress.total, "{progress:?}");
        }

        fn note(&self, message: &str) {
            self.memory.note(message);
        }

        fn cancelled(&self) -> bool {
            self.questions.fetch_add(1, Ordering::Relaxed) + 1 == self.stop_at.load(Ordering::Relaxed)
        }

        fn recall(&self, _: &Item) -> Option<Tree> {
            None
        }

        fn remember(&self, _: &Item, _: &Tree) -> Result<(), StageError> {
            Ok(())
        }

        fn load_checkpoint(&self, at_most: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
            let kept = self.checkpoints.lock().unwrap();
            Ok(kept.iter().filter(|(at, _)| *at <= at_most).max_by_key(|(at, _)| *at).cloned())
        }

        fn save_checkpoint(&self, position: u64, bytes: &[u8], _: bool) -> Result<(), StageError> {
            let mut kept = self.checkpoints.lock().unwrap();
            kept.retain(|(at, _)| *at != position);
            kept.push((position, bytes.to_vec()));
            Ok(())
        }

        fn scratch(&self) -> Result<PathBuf, StageError> {
            Err(StageError::failed("no folder in this test"))
        }
    }

    fn small(epochs: u64) -> TrainParams {
        params::<TrainReference>(json!({
            "channels": [3, 4], "latent": 3, "epochs": epochs, "batch": 4, "seed": 3, "validation-samples": 2,
        }))
    }

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("c{index}")).collect()
    }

    fn set(host: &MemoryHost, count: usize, structures: &[&str]) -> crate::artifact::Artifact {
        let ids = ids(count);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let structures: Vec<&str> = structures.iter().copied().cycle().take(count).collect();
        noisy_cells(host, &ids, &structures)
    }

    #[test]
    fn interrupted_anywhere_it_ends_with_the_same_artifacts() {
        let memory = MemoryHost::default();
        let (train, validation) = (set(&memory, 9, &["golgi"]), set(&memory, 2, &["golgi"]));
        let ports = [("train", &train), ("validation", &validation)];
        let whole = memory.run::<TrainReference>(&small(3), &ports).unwrap();
        assert_eq!(Table::read(&whole["metrics"], &memory.blobs, "metrics").unwrap().rows(), 3);
        let (architecture, _) = artifact::read(&whole["model"], &memory.blobs).unwrap();
        assert_eq!(architecture.image_channels, ["membrane", "dna"]);

        let host = Stopping {
            memory: &memory,
            checkpoints: Mutex::default(),
            questions: AtomicU64::new(0),
            stop_at: AtomicU64::new(0),
        };
        let artifacts = ports.map(|(port, artifact)| (port.to_owned(), vec![artifact.clone()]));
        let inputs = Inputs { artifacts: artifacts.into(), ..Inputs::default() };
        let mut stops = 0;
        let outputs = loop {
            host.questions.store(0, Ordering::Relaxed);
            // Resumed, it asks twice before it has done anything new.
            host.stop_at.store(3 + stops % 2, Ordering::Relaxed);
            match TrainReference::run(&small(3), &inputs, &Context::new(&host)) {
                Ok(outputs) => break outputs,
                Err(StageError::Cancelled) => stops += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(stops < 100);
        };
        assert!(stops > 3, "{stops}");
        assert_eq!(outputs, whole);
    }

    #[test]
    fn a_target_model_takes_its_labels_from_the_training_set() {
        let memory = MemoryHost::default();
        let train = set(&memory, 6, &["nucleoli", "golgi", "Blank"]);
        let validation = set(&memory, 3, &["golgi", "unknown", "golgi"]);
        let outputs = memory.run::<TrainTarget>(&small(1), &[("train", &train), ("validation", &validation)]).unwrap();
        let (architecture, _) = artifact::read(&outputs["model"], &memory.blobs).unwrap();
        assert_eq!(architecture.labels, ["Blank", "golgi", "nucleoli"]);
        assert_eq!(
            (architecture.image_channels, architecture.reference_channels.len()),
            (vec!["structure".to_owned()], 2)
        );
        assert!(memory.notes().iter().any(|note| note.contains("1 validation cells are left out")));
    }

    #[test]
    fn bad_sets_are_refused() {
        let memory = MemoryHost::default();
        let (none, some, unlabelled) =
            (set(&memory, 0, &["golgi"]), set(&memory, 3, &["golgi"]), set(&memory, 3, &[""]));
        let error = |train, validation| {
            memory
                .run::<TrainTarget>(&small(1), &[("train", train), ("validation", validation)])
                .unwrap_err()
                .to_string()
        };
        assert!(error(&none, &some).contains("no training cell"));
        assert!(error(&some, &none).contains("no validation cell"));
        assert!(error(&unlabelled, &some).contains("has no structure"));
        let one = set(&memory, 1, &["golgi"]);
        assert!(error(&one, &some).contains("one value a channel"));
    }

    #[test]
    fn impossible_parameters_are_found_before_anything_runs() {
        let facts = |size, channels: &[&str]| Facts {
            size: Some(size),
            dimensions: Some(2),
            channels: Some(channels.iter().map(|&name| name.to_owned()).collect()),
            model: None,
        };
        let inputs = |size, channels: &[&str]| {
            InputFacts::from([
                ("train".to_owned(), vec![facts(size, channels)]),
                ("validation".to_owned(), vec![facts(size, channels)]),
            ])
        };
        let fields = |checked: Checked| checked.problems.into_iter().filter_map(|p| p.field).collect::<Vec<_>>();
        let all = ["membrane", "dna", "structure"];
        let checked = TrainReference::check(&small(1), &inputs([1, 80, 48], &all));
        assert_eq!(checked.problems, []);
        assert_eq!(checked.outputs["model"].model.as_deref(), Some("reference"));
        assert_eq!(fields(TrainReference::check(&small(1), &inputs([1, 82, 48], &all))), ["channels"]);
        assert_eq!(fields(TrainTarget::check(&small(1), &inputs([1, 80, 48], &all[..2]))), ["train", "validation"]);
        let bad = TrainParams { beta: Some(1.5), batch: 0, validate_every: 9, ..small(2) };
        assert_eq!(fields(TrainReference::check(&bad, &InputFacts::default())), ["batch", "validate-every", "beta"]);
    }
}
