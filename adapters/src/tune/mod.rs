//! Supervised training of an adapter: on responses that are given, or towards what a teacher thinks of them.
//!
//! `prompts and responses -> log-probabilities or divergences -> loss -> LoRA gradients -> weights`: the trainer's way
//! without rollouts and rewards, over the same engine, optimizer, checkpoints and adapter files. Two uses:
//!
//! - a warm start before reinforcement learning, for a model that never earns the first reward (`owlet tune`);
//! - recovery of what quantization cost, from the model before it (`owlet recover`): the teacher's whole distribution at
//!   every token says more than the token does.

mod example;
mod fit;
mod options;
mod teacher;

use std::{sync::Arc, time::Instant};

use owlet_runtime::{CancelToken, Error, ErrorKind, Model, Result, TokenId};
use serde::{Deserialize, Serialize};

use self::{
    example::{Example, example, given_response, measure},
    teacher::TeacherModel,
};
pub use self::{
    fit::{Fit, FitChange, Quantity, SampleFit, TeacherFit},
    options::{Responses, TuneObjective, TuneOptions},
};
use crate::{
    checkpoint::{CheckpointStore, Resumed, RunIdentity, TrainState},
    cursor::{Cursor, Order},
    data::{Dataset, Sample},
    engine::{Engine, EngineOptions, GroupInput, Teacher, TokenDivergences, TokenScores},
    file::{AdapterFile, Provenance},
    lesson::logprobs,
    lora::{LoraConfig, LoraGrads, LoraWeights},
    loss::{BatchSize, likelihood_loss},
    optim::AdamW,
    options::TrainerOptions,
    pace::{Pace, complete},
};

/// What a running step tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuneEvent {
    /// The teacher answers.
    Answering {
        /// Answers that are there.
        n_done: usize,
        /// Answers wanted.
        n_samples: usize,
    },
    /// Gradients are being computed.
    Learning {
        /// Samples that are done.
        n_done: usize,
        /// Samples of the step.
        n_samples: usize,
    },
}

/// The numbers of one step. All but the last two are the same in a resumed run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TuneMetrics {
    /// From 0.
    pub step: u64,
    /// From 0.
    pub epoch: u64,
    /// Of this step.
    pub learning_rate: f64,
    /// Tokens of the responses.
    pub n_tokens: usize,
    /// What is minimised: mean of `-logprob`, or of the divergence from the teacher; `null` where it was not finite.
    pub loss: Option<f64>,
    /// Share of the tokens where student and teacher find the same token most probable; only with distillation.
    pub agreement: Option<f64>,
    /// Global norm of the gradients before clipping; `null` where it was not finite.
    pub grad_norm: Option<f64>,
    /// Whether the optimizer step was applied: loss and gradients were finite.
    pub applied: bool,
    /// Wall clock of the step.
    pub seconds: f64,
    /// Tokens of the responses a second.
    pub tokens_per_second: f64,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The model without an adapter.
    Base,
    /// The model as it was before the first step: with the adapter of [`Tuner::start_from`], if there is one.
    Start,
    /// The model with the adapter as it is now.
    Adapted,
}

/// Trains one adapter over one model on responses.
pub struct Tuner {
    model: Model,
    engine: Engine,
    teacher: Option<TeacherModel>,
    dataset: Arc<Dataset>,
    options: TuneOptions,
    weights: LoraWeights,
    /// The adapter that the run began with, where it was not a fresh one.
    start: Option<LoraWeights>,
    optimizer: AdamW,
    cursor: Cursor,
    step: u64,
    n_skipped_in_a_row: u64,
}

/// Sums over the samples of a step.
#[derive(Default)]
struct Sums {
    loss: f64,
    n_agreements: usize,
}

impl Tuner {
    /// A run from its beginning: the adapter starts as the identity. Distillation and answers of a teacher need `teacher`.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range, an empty data set, a missing teacher or a prompt that does not invoke an
    /// activated adapter; `ContextOverflow` for a prompt and
    /// `Limit` for a given response that is too long, with its place; `Unsupported` for models that the engine cannot train;
    /// `Mismatch` for a teacher with other tokens or another chat template; those of
    /// [`LoraMode::for_model`](crate::lora::LoraMode::for_model).
    pub fn new(model: &Model, teacher: Option<&Model>, dataset: Dataset, options: TuneOptions) -> Result<Self> {
        options.validate()?;
        let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
        if dataset.is_empty() {
            return Err(invalid("no samples to train on"));
        }
        if teacher.is_none()
            && (options.objective != TuneObjective::Likelihood || options.responses == Responses::Teacher)
        {
            return Err(invalid("no teacher to learn from"));
        }
        let n_threads = TrainerOptions::resolved_threads(options.n_threads);
        let lora = LoraConfig { mode: options.lora.mode.for_model(model)?, ..options.lora };
        let options = TuneOptions { n_threads, lora, ..options };
        let prefix_cache = options.prefix_cache.clone();
        let engine_options = EngineOptions { n_threads, prefix_cache, ..EngineOptions::default() };
        let engine = Engine::new(model.path(), engine_options)?;
        measure(model, &dataset, &options)?;
        let teacher = teacher.map(|teacher| TeacherModel::new(teacher, model, n_threads)).transpose()?;
        let weights = LoraWeights::init(&options.lora, &engine.lora_targets(), options.seed)?;
        let optimizer = AdamW::new(options.optimizer, &weights);
        let cursor = Cursor::new(Order { dataset: &dataset, seed: options.seed, first: None }, 0, 0);
        let (model, dataset) = (model.clone(), Arc::new(dataset));
        let (start, step, n_skipped_in_a_row) = (None, 0, 0);
        Ok(Self {
            model,
            engine,
            teacher,
            dataset,
            options,
            weights,
            start,
            optimizer,
            cursor,
            step,
            n_skipped_in_a_row,
        })
    }

    /// Begins with `weights` instead of a fresh adapter; to be called before the first step and before
    /// [`Tuner::resume`]. Rank, strength and place are theirs, whatever the options say.
    ///
    /// # Errors
    /// `Mismatch` if they are of another model; `InvalidInput` for a prompt that does not invoke them.
    pub fn start_from(&mut self, weights: LoraWeights) -> Result<()> {
        weights.check_fits(&self.engine.lora_targets())?;
        measure(&self.model, &self.dataset, &TuneOptions { lora: weights.config.clone(), ..self.options.clone() })?;
        self.optimizer = AdamW::new(self.options.optimizer, &weights);
        self.options.lora = weights.config.clone();
        self.start = Some(weights.clone());
        self.weights = weights;
        Ok(())
    }

    /// Goes on from the newest checkpoint in `store`, if there is one.
    ///
    /// # Errors
    /// `Mismatch` if the checkpoint is of another model, teacher, data set or configuration; `Unsupported` for a newer
    /// version; `Io`.
    pub fn resume(&mut self, store: &CheckpointStore) -> Result<Resumed> {
        let (checkpoint, damaged) = store.load_newest(&self.identity()?, self.options.optimizer)?;
        let Some(checkpoint) = checkpoint else { return Ok(Resumed { metrics_bytes: None, damaged }) };
        let TrainState { step, epoch, position, metrics_bytes, n_skipped_in_a_row, .. } = checkpoint.state;
        self.weights = checkpoint.weights;
        self.optimizer = checkpoint.optimizer;
        self.cursor = Cursor::new(self.order(), epoch, position);
        (self.step, self.n_skipped_in_a_row) = (step, n_skipped_in_a_row);
        Ok(Resumed { metrics_bytes: Some(metrics_bytes), damaged })
    }

    /// Writes a checkpoint of the steps so far. `metrics_bytes`: length of `metrics.jsonl`.
    ///
    /// # Errors
    /// `Io`.
    pub fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> Result<()> {
        let state = TrainState {
            run: self.identity()?,
            step: self.step,
            epoch: self.cursor.epoch,
            position: self.cursor.position,
            n_updates: self.optimizer.n_updates,
            n_skipped_in_a_row: self.n_skipped_in_a_row,
            metrics_bytes,
        };
        store.save(&state, &self.weights, &self.optimizer, None).map(drop)
    }

    /// One step of the run: gradients of `batch_size` samples, one update, which is skipped where loss or gradients are not
    /// finite.
    ///
    /// # Errors
    /// With the tuner as before the step: `Cancelled`, within a layer of the engine, a token of the teacher's answers or the
    /// encoding of a picture; `Diverged` when too many updates in a row would be skipped; `Mismatch`
    /// where the teacher's prompt is another one; those of images and prompts, which name the sample.
    pub fn step(&mut self, cancel: &CancelToken, observer: &mut dyn FnMut(TuneEvent)) -> Result<TuneMetrics> {
        let started = Instant::now();
        let mut cursor = self.cursor.clone();
        let n_samples = self.options.batch_size;
        let drawn: Vec<usize> = (0..n_samples).map(|_| cursor.draw(self.order()).0).collect();
        let dataset = Arc::clone(&self.dataset);
        let responses = self.responses(&dataset, &drawn, cancel, &mut |n_done| {
            observer(TuneEvent::Answering { n_done, n_samples });
        })?;
        let size = BatchSize::of(responses.iter().map(Vec::len));
        let mut gradients = LoraGrads::zeros(&self.weights);
        let mut sums = Sums::default();
        let pace = Pace::until_cancelled(cancel);
        for (index, (&sample, response)) in drawn.iter().zip(responses).enumerate() {
            let sample = &dataset.samples()[sample];
            let example = example(&self.model, sample, response, &self.options, cancel)?;
            complete(self.add_gradient(sample, &example, size, (&mut gradients, &mut sums), &pace))?;
            observer(TuneEvent::Learning { n_done: index + 1, n_samples });
        }
        let learning_rate = self.options.schedule.rate(self.step, self.options.n_steps);
        let grad_norm = Some(gradients.global_norm()).filter(|norm| norm.is_finite());
        let loss = Some(sums.loss).filter(|loss| loss.is_finite());
        let applied = loss.and(grad_norm).is_some();
        let n_skipped_in_a_row = if applied { 0 } else { self.n_skipped_in_a_row + 1 };
        if n_skipped_in_a_row >= self.options.max_skipped_updates {
            return Err(Error::new(ErrorKind::Diverged, "training cannot go on")
                .got(format!("{n_skipped_in_a_row} updates in a row with a loss or gradients that are not finite")));
        }
        if applied {
            self.optimizer.step(&mut self.weights, &gradients, learning_rate);
        }
        let seconds = started.elapsed().as_secs_f64();
        let n_tokens = size.n_tokens;
        let metrics = TuneMetrics {
            step: self.step,
            epoch: cursor.epoch,
            learning_rate,
            n_tokens,
            loss,
            agreement: matches!(self.options.objective, TuneObjective::Distillation { .. })
                .then(|| sums.n_agreements as f64 / n_tokens.max(1) as f64),
            grad_norm,
            applied,
            seconds,
            tokens_per_second: n_tokens as f64 / seconds,
        };
        self.cursor = cursor;
        self.step += 1;
        self.n_skipped_in_a_row = n_skipped_in_a_row;
        Ok(metrics)
    }

    /// How well `who` predicts the responses to `dataset`, and how close that is to the teacher, if there is one. `on_sample`
    /// gets the number of samples done.
    ///
    /// # Errors
    /// As [`Tuner::step`], but for `Diverged`; `ContextOverflow` and `Limit` as [`Tuner::new`], before any work.
    pub fn fit(
        &mut self,
        dataset: &Dataset,
        who: Who,
        cancel: &CancelToken,
        on_sample: &mut dyn FnMut(usize),
    ) -> Result<Fit> {
        measure(&self.model, dataset, &self.options)?;
        let weights = match who {
            Who::Base => None,
            Who::Start => self.start.clone(),
            Who::Adapted => Some(self.weights.clone()),
        };
        let weights = weights.as_ref();
        let all: Vec<usize> = (0..dataset.len()).collect();
        let responses = self.responses(dataset, &all, cancel, &mut |_| {})?;
        let mut fit = Fit::default();
        let pace = Pace::until_cancelled(cancel);
        for (sample, response) in dataset.samples().iter().zip(responses) {
            let n_tokens = response.len();
            let example = example(&self.model, sample, response, &self.options, cancel)?;
            let group = GroupInput { prompt: &example.prompt, completions: &[&example.response] };
            let scores = complete(self.engine.score_paced(weights, &group, 1.0, &pace))?;
            let sum: f64 = scores.iter().flat_map(|scores| &scores.logprobs).map(|&logprob| f64::from(logprob)).sum();
            let teacher = match &mut self.teacher {
                None => None,
                Some(teacher) => {
                    let prompt = teacher.encode_beside(sample, &self.options.suffix, &example.prompt)?;
                    let teacher = Teacher { engine: &mut teacher.engine, prompt: &prompt };
                    let divergences = complete(self.engine.divergence_paced(weights, &group, 1.0, teacher, &pace))?;
                    let (kl, n_agreements) = totals(&divergences);
                    Some(TeacherFit { kl: kl / n_tokens as f64, agreement: n_agreements as f64 / n_tokens as f64 })
                }
            };
            fit.samples.push(SampleFit {
                id: sample.id.clone(),
                n_tokens,
                neg_logprob: -sum / n_tokens as f64,
                teacher,
            });
            on_sample(fit.samples.len());
        }
        Ok(fit)
    }

    /// Steps done.
    pub fn n_steps_done(&self) -> u64 {
        self.step
    }

    /// The options, threads and invocation filled in.
    pub fn options(&self) -> &TuneOptions {
        &self.options
    }

    /// The adapter as it is now. The first call reads the whole model file for its hash.
    ///
    /// # Errors
    /// `Io`.
    pub fn adapter(&self) -> Result<AdapterFile> {
        let RunIdentity { base_model, architecture, config, seed, .. } = self.identity()?;
        Ok(AdapterFile {
            architecture,
            weights: self.weights.clone(),
            provenance: Some(Provenance { base_model, config: config.to_string(), step: self.step, seed }),
        })
    }

    /// Responses to some samples of `dataset`, in their order.
    fn responses(
        &mut self,
        dataset: &Dataset,
        samples: &[usize],
        cancel: &CancelToken,
        on_answer: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<TokenId>>> {
        match (&mut self.teacher, self.options.responses) {
            (Some(teacher), Responses::Teacher) => teacher.answers(dataset, samples, &self.options, cancel, on_answer),
            _ => {
                let response = |&sample: &usize| given_response(&self.model, &dataset.samples()[sample], &self.options);
                samples.iter().map(response).collect()
            }
        }
    }

    /// Adds the share of one sample.
    async fn add_gradient(
        &mut self,
        sample: &Sample,
        example: &Example,
        size: BatchSize,
        (gradients, sums): (&mut LoraGrads, &mut Sums),
        pace: &Pace,
    ) -> Result<()> {
        let group = GroupInput { prompt: &example.prompt, completions: &[&example.response] };
        let weight = size.token_weight(self.options.average, example.response.len());
        match (self.options.objective, &mut self.teacher) {
            (TuneObjective::Distillation { temperature }, Some(teacher)) => {
                let prompt = teacher.encode_beside(sample, &self.options.suffix, &example.prompt)?;
                let teacher = Teacher { engine: &mut teacher.engine, prompt: &prompt };
                let mut slopes = |divergences: &[TokenDivergences]| {
                    divergences.iter().map(|tokens| vec![weight as f32; tokens.kl.len()]).collect()
                };
                let divergences = self
                    .engine
                    .distill_paced(&self.weights, &group, temperature, teacher, &mut slopes, gradients, pace)
                    .await?;
                let (kl, n_agreements) = totals(&divergences);
                sums.loss += weight * kl;
                sums.n_agreements += n_agreements;
            }
            _ => {
                let average = self.options.average;
                let slopes = |scores: &[TokenScores]| {
                    let logprobs = logprobs(scores);
                    let sequences: Vec<&[f64]> = logprobs.iter().map(Vec::as_slice).collect();
                    let loss = likelihood_loss(average, size, &sequences);
                    sums.loss += loss.loss;
                    let row = |row: &Vec<f64>| row.iter().map(|&slope| slope as f32).collect::<Vec<f32>>();
                    loss.coefficients.iter().map(row).collect()
                };
                self.engine.gradient_paced(&self.weights, &group, 1.0, slopes, gradients, pace).await?;
            }
        }
        Ok(())
    }

    fn order(&self) -> Order<'_> {
        Order { dataset: &self.dataset, seed: self.options.seed, first: None }
    }

    fn identity(&self) -> Result<RunIdentity> {
        let teacher = match &self.teacher {
            Some(teacher) => Some((teacher.model.content_hash()?, teacher.model.projector_hash()?)),
            None => None,
        };
        Ok(RunIdentity {
            base_model: self.model.content_hash()?.to_owned(),
            architecture: self.model.info().architecture.clone(),
            dataset: self.dataset.hash().to_owned(),
            config: serde_json::json!({
                "tune": self.options.identity(),
                "teacher": teacher,
                "start": self.start.as_ref().map(LoraWeights::hash),
                "mmproj": self.model.projector_hash()?,
                "pixels": self.model.image_budget().map(|budget| [budget.min_pixels, budget.max_pixels]),
                "version": env!("CARGO_PKG_VERSION"),
            }),
            seed: self.options.seed,
        })
    }
}

/// Sum of the divergences, and number of tokens that student and teacher agree on.
fn totals(divergences: &[TokenDivergences]) -> (f64, usize) {
    let kl = divergences.iter().flat_map(|tokens| &tokens.kl).map(|&kl| f64::from(kl)).sum();
    let n_agreements = divergences.iter().flat_map(|tokens| &tokens.agrees).filter(|agrees| **agrees).count();
    (kl, n_agreements)
}
