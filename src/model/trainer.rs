//! Training, as a state that is taken from step to step. It knows no files and no threads: whoever drives it hands in the images.
//!
//! Everything that the next step depends on is in the state, and the state can be written down between any two steps: an
//! interrupted training that is taken up again gives the bits of an uninterrupted one.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use candle_core::{Tensor, backprop::GradStore};
use candle_nn::Optimizer;

use super::{Architecture, Condition, Evaluation, Losses, ModelError, Vae};
use crate::nn::{Adam, AdamParameters, Rng, cpu::Cpu};

/// How a model is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSettings {
    /// Cells of a batch.
    pub batch: usize,
    /// Step size of Adam.
    pub learning_rate: f64,
    /// Seed of weights, noise and order.
    pub seed: u64,
    /// Samples of z for each cell at validation.
    pub validation_samples: usize,
    /// Validation happens after every epoch whose number this divides.
    pub validate_every: u64,
    /// Training ends after this many validations in a row without a gain; `None`: never.
    pub patience: Option<u64>,
    /// What the validation ELBO has to rise by to count as a gain for `patience`.
    pub min_delta: f64,
}

/// What one epoch gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: u64,
    /// What was minimised, mean over the training cells.
    pub loss: f64,
    /// Squared error a cell, mean over the training cells.
    pub reconstruction: f64,
    /// KL divergence a cell, mean over the training cells.
    pub kl: f64,
    /// Mean squared error and KL divergence of the validation cells, if the epoch was validated.
    pub validation: Option<[f64; 2]>,
}

impl EpochMetrics {
    /// The validation ELBO, unweighted.
    #[must_use]
    pub fn validation_elbo(&self) -> Option<f64> {
        self.validation.map(|[reconstruction, kl]| -(reconstruction + kl))
    }
}

/// What a driver has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Train on a batch: these cells of the training set, by number.
    Step(Vec<usize>),
    /// Evaluate the validation set with [`Trainer::model`] and hand in the mean.
    Validate,
    /// Nothing: the last epoch is done, or patience is at its end.
    Done,
}

/// Training does not go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainingError {
    /// The model does not take the batch.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A loss or a weight is not a finite number any more.
    #[error("training diverged in epoch {epoch}: {what} is not a finite number")]
    Diverged {
        /// The epoch, from 1.
        epoch: u64,
        /// What is not finite.
        what: &'static str,
    },
    /// The bytes are no checkpoint of this training.
    #[error("the checkpoint cannot be used: {0}")]
    Checkpoint(String),
}

/// The best model so far.
#[derive(Clone, Debug, PartialEq)]
struct Best {
    epoch: u64,
    elbo: f64,
    parameters: Vec<f32>,
    buffers: Vec<f32>,
}

/// The small part of the state, as it stands in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Steps taken.
    steps: u64,
    /// Whole epochs done, validation included.
    epochs: u64,
    /// Batches done of the current epoch.
    cursor: usize,
    /// Σ over the cells of the current epoch: loss, reconstruction, KL.
    sums: [f64; 3],
    metrics: Vec<EpochMetrics>,
    /// Validations since the last gain, and the ELBO of that gain.
    without_gain: u64,
    gained: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    cells: usize,
    trained: usize,
    statistics: usize,
    adam_steps: u64,
    progress: Progress,
    best: Option<(u64, f64)>,
}

const VERSION: u32 = 1;

/// A training between two steps.
#[derive(Debug)]
pub struct Trainer {
    settings: TrainingSettings,
    epochs: u64,
    batches: Vec<Range<usize>>,
    cells: usize,
    vae: Vae,
    adam: Adam,
    progress: Progress,
    best: Option<Best>,
    /// The order of the cells in the current epoch.
    order: Vec<usize>,
    gradients: Tensor,
    cpu: Cpu,
}

/// Batches of an epoch: as many whole ones as there are, and the rest. A rest of one cell joins the batch before it, because batch
/// normalisation learns nothing from one value.
fn batches(cells: usize, batch: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> =
        (0..cells).step_by(batch.max(1)).map(|start| start..cells.min(start + batch)).collect();
    if batch > 1 && cells > 1 && cells % batch == 1 {
        batches.pop();
        if let Some(last) = batches.last_mut() {
            last.end = cells;
        }
    }
    batches
}

impl Trainer {
    /// A training of `epochs` epochs on `cells` cells, before its first step.
    ///
    /// # Errors
    /// When the architecture is impossible, or there is no cell.
    pub fn new(
        architecture: &Architecture,
        settings: TrainingSettings,
        cells: usize,
        epochs: u64,
    ) -> Result<Self, ModelError> {
        if cells == 0 {
            return Err(ModelError::Input("the training set is empty".to_owned()));
        }
        if settings.batch == 0 || settings.validate_every == 0 || settings.validation_samples == 0 {
            return Err(ModelError::Input(
                "batch, validation samples and epochs between validations start at 1".to_owned(),
            ));
        }
        let vae = Vae::new(architecture, settings.seed)?;
        let parameters = AdamParameters::new(settings.learning_rate);
        let adam = Adam::new(vec![vae.numbers().parameters().clone()], parameters).map_err(ModelError::from)?;
        let gradients = vae.zero_gradients()?;
        let mut trainer = Self {
            batches: batches(cells, settings.batch),
            settings,
            epochs,
            cells,
            vae,
            adam,
            progress: Progress::default(),
            best: None,
            order: Vec::new(),
            gradients,
            cpu: Cpu::default(),
        };
        trainer.shuffle();
        Ok(trainer)
    }

    fn shuffle(&mut self) {
        self.order = Rng::new(self.settings.seed, "shuffle", self.progress.epochs).permutation(self.cells);
    }

    /// The model as it is now.
    #[must_use]
    pub fn model(&self) -> &Vae {
        &self.vae
    }

    /// The model with the highest validation ELBO, and its epoch.
    #[must_use]
    pub fn best(&self) -> Option<(Vae, u64)> {
        let best = self.best.as_ref()?;
        let vae = self.vae.clone();
        vae.numbers().set_values([&best.parameters, &best.buffers]).expect("as many numbers");
        Some((vae, best.epoch))
    }

    /// What every finished epoch gave.
    #[must_use]
    pub fn metrics(&self) -> &[EpochMetrics] {
        &self.progress.metrics
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &TrainingSettings {
        &self.settings
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.progress.steps
    }

    /// Steps of the whole training, if patience does not end it.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        self.epochs * self.batches.len() as u64
    }

    /// The current epoch, from 1.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        (self.progress.epochs + 1).min(self.epochs)
    }

    /// What is to be done next.
    #[must_use]
    pub fn task(&self) -> Task {
        let patience_ended = self.settings.patience.is_some_and(|patience| self.progress.without_gain > patience);
        if self.progress.epochs >= self.epochs || patience_ended {
            Task::Done
        } else {
            self.batch(self.progress.cursor).map_or(Task::Validate, Task::Step)
        }
    }

    fn batch(&self, cursor: usize) -> Option<Vec<usize>> {
        self.batches.get(cursor).map(|range| self.order[range.clone()].to_vec())
    }

    /// The batch after the next one, if it is of the same epoch: what a driver may fetch ahead.
    #[must_use]
    pub fn peek_next(&self) -> Option<Vec<usize>> {
        self.batch(self.progress.cursor + 1)
    }

    /// Takes a step on the images of the batch that [`Trainer::task`] named (N × C × Z × Y × X).
    ///
    /// # Errors
    /// When the model does not take them, or the loss is not finite.
    pub fn step(&mut self, images: &[f32], condition: Option<&Condition>) -> Result<Losses, TrainingError> {
        let count = self.batches[self.progress.cursor].len();
        let mut rng = Rng::new(self.settings.seed, "noise", self.progress.steps);
        let noise: Vec<f32> = (0..count * self.vae.architecture().latent).map(|_| rng.normal() as f32).collect();
        let step = self.vae.gradients(images, condition, &noise, &self.gradients, &mut self.cpu)?;
        let losses = step.losses[0];
        if !losses.total.is_finite() {
            return Err(self.diverged("the loss"));
        }
        let mut gradients = GradStore::default();
        gradients.insert(self.vae.numbers().parameters().as_tensor(), self.gradients.clone());
        self.adam.step(&gradients).map_err(ModelError::from)?;
        let n = count as f64;
        for (sum, value) in self.progress.sums.iter_mut().zip([losses.total, losses.reconstruction, losses.kl]) {
            *sum += value * n;
        }
        self.progress.steps += 1;
        self.progress.cursor += 1;
        if self.progress.cursor == self.batches.len() && !self.validates() {
            self.end_epoch(None);
        }
        Ok(losses)
    }

    fn validates(&self) -> bool {
        (self.progress.epochs + 1).is_multiple_of(self.settings.validate_every)
    }

    /// The stream of noise of a validation cell, the same at every validation.
    #[must_use]
    pub fn validation_noise(&self, cell: usize) -> Rng {
        Rng::new(self.settings.seed, "validation noise", cell as u64)
    }

    /// Hands in what [`Task::Validate`] asked for; ends the epoch.
    ///
    /// # Errors
    /// When the mean is not finite, or there is no evaluation.
    pub fn record_validation(&mut self, evaluations: &[Evaluation]) -> Result<(), TrainingError> {
        if evaluations.is_empty() {
            return Err(ModelError::Input("the validation set is empty".to_owned()).into());
        }
        let count = evaluations.len() as f64;
        let reconstruction = evaluations.iter().map(|e| e.reconstruction).sum::<f64>() / count;
        let kl = evaluations.iter().map(Evaluation::kl).sum::<f64>() / count;
        let elbo = -(reconstruction + kl);
        if !elbo.is_finite() {
            return Err(self.diverged("the validation ELBO"));
        }
        if self.best.as_ref().is_none_or(|best| elbo > best.elbo) {
            let [parameters, buffers] = self.vae.values();
            self.best = Some(Best { epoch: self.progress.epochs + 1, elbo, parameters, buffers });
        }
        if self.progress.gained.is_none_or(|gained| elbo > gained + self.settings.min_delta) {
            (self.progress.gained, self.progress.without_gain) = (Some(elbo), 0);
        } else {
            self.progress.without_gain += 1;
        }
        self.end_epoch(Some([reconstruction, kl]));
        Ok(())
    }

    fn end_epoch(&mut self, validation: Option<[f64; 2]>) {
        let [loss, reconstruction, kl] = self.progress.sums.map(|sum| sum / self.cells as f64);
        self.progress.epochs += 1;
        let epoch = self.progress.epochs;
        self.progress.metrics.push(EpochMetrics { epoch, loss, reconstruction, kl, validation });
        (self.progress.cursor, self.progress.sums) = (0, [0.0; 3]);
        self.shuffle();
    }

    fn diverged(&self, what: &'static str) -> TrainingError {
        TrainingError::Diverged { epoch: self.epoch(), what }
    }

    /// The whole state as one byte string.
    ///
    /// # Errors
    /// When a number is not finite: such a state is not worth keeping.
    ///
    /// # Panics
    /// Never.
    pub fn checkpoint(&self) -> Result<Vec<u8>, TrainingError> {
        let [parameters, buffers] = self.vae.values();
        let [first, second] = self.adam.moments().map_err(ModelError::from)?;
        if !parameters.iter().chain(&buffers).all(|value| value.is_finite()) {
            return Err(self.diverged("a weight"));
        }
        let header = Header {
            version: VERSION,
            cells: self.cells,
            trained: parameters.len(),
            statistics: buffers.len(),
            adam_steps: self.adam.steps(),
            progress: self.progress.clone(),
            best: self.best.as_ref().map(|best| (best.epoch, best.elbo)),
        };
        let best = self.best.iter().flat_map(|best| [&best.parameters[..], &best.buffers]);
        let all: Vec<&[f32]> = [&parameters[..], &buffers, &first, &second].into_iter().chain(best).collect();
        let header = serde_json::to_vec(&header).expect("plain data");
        let floats: usize = all.iter().map(|values| values.len()).sum();
        let mut bytes = Vec::with_capacity(8 + header.len() + 4 * floats);
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        for values in all {
            let start = bytes.len();
            bytes.resize(start + 4 * values.len(), 0);
            for (bytes, value) in bytes[start..].chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// Takes up the state that [`Trainer::checkpoint`] wrote for the same architecture, settings and cells.
    ///
    /// # Errors
    /// When the bytes are no such state; this trainer is then as it was.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), TrainingError> {
        let fail = |reason: &str| TrainingError::Checkpoint(reason.to_owned());
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| fail("it is too short"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| fail("it is too short"))?;
        if rest.len() < length {
            return Err(fail("it is too short"));
        }
        let (header, mut rest) = rest.split_at(length);
        let header: Header = serde_json::from_slice(header).map_err(|error| fail(&error.to_string()))?;
        let [trained, statistics] = self.vae.values().map(|values| values.len());
        let mine = (VERSION, self.cells, trained, statistics);
        if (header.version, header.cells, header.trained, header.statistics) != mine {
            return Err(fail("it is of another training"));
        }
        let floats = 3 * trained + statistics + if header.best.is_some() { trained + statistics } else { 0 };
        if rest.len() != 4 * floats || header.progress.cursor > self.batches.len() {
            return Err(fail("its length is wrong"));
        }
        let mut take = |count: usize| -> Vec<f32> {
            let (mine, others) = rest.split_at(4 * count);
            rest = others;
            mine.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
        };
        let (parameters, buffers) = (take(trained), take(statistics));
        let (first, second) = (take(trained), take(trained));
        self.best =
            header.best.map(|(epoch, elbo)| Best { epoch, elbo, parameters: take(trained), buffers: take(statistics) });
        self.vae.numbers().set_values([&parameters, &buffers]).map_err(ModelError::from)?;
        self.adam.restore(header.adam_steps, [&first, &second]).map_err(ModelError::from)?;
        self.progress = header.progress;
        self.shuffle();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelKind;

    fn architecture() -> Architecture {
        Architecture {
            kind: ModelKind::Reference,
            dimensions: 2,
            size: [1, 8, 4],
            image_channels: vec!["membrane".to_owned(), "dna".to_owned()],
            reference_channels: Vec::new(),
            labels: Vec::new(),
            channels: vec![3, 5],
            latent: 4,
            beta: None,
            voxel_um: [1.0; 3],
        }
    }

    fn settings() -> TrainingSettings {
        TrainingSettings {
            batch: 4,
            learning_rate: 2e-3,
            seed: 7,
            validation_samples: 2,
            validate_every: 1,
            patience: None,
            min_delta: 0.0,
        }
    }

    const CELLS: usize = 11;

    fn image(cell: usize) -> Vec<f32> {
        let mut rng = Rng::new(9, "cell", cell as u64);
        (0..64).map(|_| rng.uniform() as f32).collect()
    }

    /// Does the next thing; false when there is none.
    fn drive(trainer: &mut Trainer) -> bool {
        match trainer.task() {
            Task::Step(cells) => {
                let images: Vec<f32> = cells.into_iter().flat_map(image).collect();
                trainer.step(&images, None).unwrap();
            }
            Task::Validate => {
                let images: Vec<f32> = (100..103).flat_map(image).collect();
                let mut noise: Vec<Rng> = (0..3).map(|cell| trainer.validation_noise(cell)).collect();
                let evaluations = trainer.model().evaluate(&images, None, 2, &mut noise).unwrap();
                trainer.record_validation(&evaluations).unwrap();
            }
            Task::Done => return false,
        }
        true
    }

    fn trained(epochs: u64) -> Trainer {
        let mut trainer = Trainer::new(&architecture(), settings(), CELLS, epochs).unwrap();
        while drive(&mut trainer) {}
        trainer
    }

    #[test]
    fn batches_cover_every_cell_once_and_none_is_of_one_cell() {
        assert_eq!(batches(9, 4), [0..4, 4..9]);
        assert_eq!(batches(10, 4), [0..4, 4..8, 8..10]);
        assert_eq!(batches(3, 4), [0..3]);
        assert_eq!(batches(1, 4), [0..1]);
        assert_eq!(batches(2, 1), [0..1, 1..2]);
    }

    #[test]
    fn training_lowers_the_loss_and_keeps_the_best() {
        let trainer = trained(30);
        let metrics = trainer.metrics();
        assert_eq!(metrics.len(), 30);
        assert!(metrics[29].loss < 0.6 * metrics[0].loss, "{} {}", metrics[0].loss, metrics[29].loss);
        let best = metrics.iter().filter_map(EpochMetrics::validation_elbo).fold(f64::NEG_INFINITY, f64::max);
        let (_, epoch) = trainer.best().unwrap();
        assert_eq!(metrics[epoch as usize - 1].validation_elbo(), Some(best));
    }

    #[test]
    fn killed_at_random_points_and_taken_up_again_it_ends_with_the_same_bits() {
        let whole = trained(6).checkpoint().unwrap();
        let mut rng = Rng::new(1, "kills", 0);
        for _ in 0..20 {
            let mut trainer = Trainer::new(&architecture(), settings(), CELLS, 6).unwrap();
            let mut kept: Option<Vec<u8>> = None;
            loop {
                match rng.below(8) {
                    // Killed: what was not kept is lost.
                    0 => {
                        trainer = Trainer::new(&architecture(), settings(), CELLS, 6).unwrap();
                        if let Some(bytes) = &kept {
                            trainer.restore(bytes).unwrap();
                        }
                    }
                    1 | 2 => kept = Some(trainer.checkpoint().unwrap()),
                    _ if !drive(&mut trainer) => break,
                    _ => {}
                }
            }
            assert!(trainer.checkpoint().unwrap() == whole, "another end");
        }
    }

    #[test]
    fn more_epochs_go_on_from_fewer() {
        let few = trained(2).checkpoint().unwrap();
        let mut more = Trainer::new(&architecture(), settings(), CELLS, 5).unwrap();
        more.restore(&few).unwrap();
        assert_eq!(more.steps(), 6);
        while drive(&mut more) {}
        assert!(more.checkpoint().unwrap() == trained(5).checkpoint().unwrap());
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| trained(2).checkpoint().unwrap())
        };
        assert!(with(1) == with(2) && with(1) == with(5));
    }

    #[test]
    fn patience_ends_training() {
        let patient = TrainingSettings { patience: Some(1), min_delta: 1e9, ..settings() };
        let mut trainer = Trainer::new(&architecture(), patient, CELLS, 50).unwrap();
        while drive(&mut trainer) {}
        assert_eq!(trainer.metrics().len(), 3);
    }

    #[test]
    fn bad_input_and_divergence_are_told() {
        assert!(Trainer::new(&architecture(), settings(), 0, 1).is_err());
        let mut trainer = Trainer::new(&architecture(), settings(), CELLS, 1).unwrap();
        assert!(trainer.restore(b"nothing").is_err());
        let mut other = Trainer::new(&architecture(), settings(), CELLS + 1, 1).unwrap();
        assert!(other.restore(&trainer.checkpoint().unwrap()).is_err());
        let nan = vec![f32::NAN; 4 * 64];
        assert!(matches!(trainer.step(&nan, None), Err(TrainingError::Model(_))));
        let wild = TrainingSettings { learning_rate: 1e30, ..settings() };
        let mut trainer = Trainer::new(&architecture(), wild, CELLS, 40).unwrap();
        let error = loop {
            let Task::Step(cells) = trainer.task() else { panic!("it did not diverge") };
            let images: Vec<f32> = cells.into_iter().flat_map(image).collect();
            if let Err(error) = trainer.step(&images, None) {
                break error;
            }
        };
        assert!(matches!(error, TrainingError::Diverged { epoch: 1, .. }), "{error}");
        assert!(trainer.checkpoint().is_err());
    }
}
