//! The trainer: what the design's sentence says, one step at a time.
//!
//! `prompts -> rollouts -> rewards -> filter -> advantages -> policy loss -> LoRA gradients -> weights -> sampler`.
//!
//! A step that is cancelled or fails leaves the trainer as it was after the step before: what it drew is drawn again, with
//! the same random numbers, so a run that was stopped anywhere and resumed ends with the same bits.

use std::{path::Path, sync::Arc, time::Instant};

use owlet_runtime::{
    Adapter, CancelToken, EncodedPrompt, Error, ErrorKind, FlashAttention, KvType, Model, Result, RngKey,
    SamplerOptions, Session, SessionOptions,
};

use crate::{
    advantage::{Scored, advantages},
    checkpoint::{CheckpointStore, RunIdentity, TrainState},
    cursor::Cursor,
    data::Dataset,
    engine::{Engine, EngineOptions},
    evaluate::{EvaluateOptions, Evaluation, evaluate},
    file::{AdapterFile, Precision, Provenance},
    lora::{LoraConfig, LoraWeights},
    metrics::StepMetrics,
    optim::AdamW,
    options::TrainerOptions,
    reward::Reward,
    rollout::{RolloutGroup, RolloutProgress, RolloutRules, roll_out},
    summary::summarize,
    update::{Learner, Lesson},
};

/// What a running step tells.
#[derive(Clone, Copy, Debug)]
pub enum StepEvent {
    /// Tokens are being sampled.
    Sampling(RolloutProgress),
    /// Gradients are being computed.
    Learning {
        /// Groups that are done.
        n_done: usize,
        /// Groups of the step.
        n_groups: usize,
    },
}

/// Trains one adapter over one model.
pub struct Trainer {
    model: Model,
    sessions: Vec<Session>,
    engine: Engine,
    dataset: Dataset,
    reward: Arc<dyn Reward>,
    options: TrainerOptions,
    weights: LoraWeights,
    /// Hash of the adapter that the run began with, where it was not a fresh one.
    start: Option<String>,
    optimizer: AdamW,
    cursor: Cursor,
    step: u64,
}

/// The groups of a step.
struct Collected {
    kept: Vec<RolloutGroup>,
    dropped: Vec<RolloutGroup>,
}

impl Trainer {
    /// A run from its beginning: the adapter starts as the identity.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range or an empty data set; `Unsupported` for models that the engine cannot
    /// train; those of [`Session::new`] and [`LoraMode::for_model`](crate::lora::LoraMode::for_model).
    pub fn new(model: &Model, dataset: Dataset, reward: Arc<dyn Reward>, options: TrainerOptions) -> Result<Self> {
        options.validate()?;
        if dataset.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no samples to train on"));
        }
        let lora = LoraConfig { mode: options.lora.mode.for_model(model)?, ..options.lora };
        let n_threads = TrainerOptions::resolved_threads(options.n_threads);
        let options = TrainerOptions { n_threads, lora, ..options };
        let session_options = session_options(&options);
        let sessions = (0..options.n_sessions).map(|_| Session::new(model, &session_options)).collect::<Result<_>>()?;
        let prefix_cache = options.prefix_cache.clone();
        let engine_options = EngineOptions { n_threads, prefix_cache, ..EngineOptions::default() };
        let engine = Engine::new(model.path(), engine_options)?;
        let weights = LoraWeights::init(&options.lora, &engine.lora_targets(), options.seed)?;
        let optimizer = AdamW::new(options.optimizer, &weights);
        let cursor = Cursor::new(&dataset, options.seed, 0, 0);
        let model = model.clone();
        let start = None;
        Ok(Self { model, sessions, engine, dataset, reward, options, weights, start, optimizer, cursor, step: 0 })
    }

    /// Begins with `weights`, such as a warm start, instead of a fresh adapter; to be called before the first step and before
    /// [`Trainer::resume`]. Rank, strength and place are theirs, whatever the options say. The reference policy of a KL
    /// penalty is the base without them.
    ///
    /// # Errors
    /// `Mismatch` if they are of another model; those of adapters that llama.cpp cannot load.
    pub fn start_from(&mut self, weights: LoraWeights) -> Result<()> {
        weights.check_fits(&self.engine.lora_targets())?;
        self.sample_with(&weights)?;
        self.optimizer = AdamW::new(self.options.optimizer, &weights);
        self.start = Some(weights.hash());
        self.weights = weights;
        Ok(())
    }

    /// Goes on from the newest checkpoint in `store`, if there is one; returns the length of `metrics.jsonl` at that time.
    ///
    /// # Errors
    /// `Mismatch` if the checkpoint is of another model, data set or configuration; `Unsupported` for a newer version;
    /// `Io`.
    pub fn resume(&mut self, store: &CheckpointStore) -> Result<Option<u64>> {
        let Some(checkpoint) = store.load_newest(&self.identity(), self.options.optimizer)? else { return Ok(None) };
        let TrainState { step, epoch, position, metrics_bytes, .. } = checkpoint.state;
        self.sample_with(&checkpoint.weights)?;
        self.weights = checkpoint.weights;
        self.optimizer = checkpoint.optimizer;
        self.cursor = Cursor::new(&self.dataset, self.options.seed, epoch, position);
        self.step = step;
        Ok(Some(metrics_bytes))
    }

    /// Writes a checkpoint of the steps so far. `metrics_bytes`: length of `metrics.jsonl`.
    ///
    /// # Errors
    /// `Io`.
    pub fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> Result<()> {
        let state = TrainState {
            run: self.identity(),
            step: self.step,
            epoch: self.cursor.epoch,
            position: self.cursor.position,
            n_updates: self.optimizer.n_updates,
            metrics_bytes,
        };
        store.save(&state, &self.weights, &self.optimizer).map(drop)
    }

    /// One step of the run.
    ///
    /// # Errors
    /// `Cancelled`, with the trainer as before the step; those of images, prompts and generation, which name the sample.
    pub fn step(&mut self, cancel: &CancelToken, observer: &mut (dyn FnMut(StepEvent) + Send)) -> Result<StepMetrics> {
        let started = Instant::now();
        let mut cursor = self.cursor.clone();
        let Collected { kept, dropped } = self.collect(&mut cursor, cancel, observer)?;
        let advantages = self.advantages(&kept)?;
        let lessons: Vec<_> = kept
            .iter()
            .zip(advantages.chunks(self.options.group_size))
            .map(|(group, advantages)| Lesson {
                group,
                task: self.dataset.samples()[group.sample].task_type,
                advantages,
            })
            .collect();

        let learning_rate = self.options.schedule.rate(self.step, self.options.n_steps);
        let n_groups = lessons.len();
        // The learner works on copies, so that a cancelled step leaves no trace.
        let (mut weights, mut optimizer) = (self.weights.clone(), self.optimizer.clone());
        let mut learner = Learner {
            engine: &mut self.engine,
            weights: &mut weights,
            optimizer: &mut optimizer,
            options: &self.options,
        };
        let report = learner.learn(&lessons, learning_rate, cancel, &mut |n_done| {
            observer(StepEvent::Learning { n_done, n_groups });
        })?;

        let metrics = summarize(&self.dataset, &lessons, &dropped, &report);
        let seconds = started.elapsed().as_secs_f64();
        let n_tokens = metrics.length * ((n_groups + dropped.len()) * self.options.group_size) as f64;
        let metrics = StepMetrics {
            step: self.step,
            epoch: cursor.epoch,
            learning_rate,
            seconds,
            tokens_per_second: n_tokens / seconds,
            ..metrics
        };
        self.sample_with(&weights)?;
        (self.weights, self.optimizer, self.cursor) = (weights, optimizer, cursor);
        self.step += 1;
        Ok(metrics)
    }

    /// Greedy answers to `dataset` with the adapter as it is now.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(
        &mut self,
        dataset: &Dataset,
        cancel: &CancelToken,
        on_progress: &mut (dyn FnMut(RolloutProgress) + Send),
    ) -> Result<Evaluation> {
        let options = EvaluateOptions {
            max_new_tokens: self.options.max_new_tokens,
            suffix: &self.options.suffix,
            reward: &*self.reward,
            composition: &self.options.reward,
        };
        evaluate(&mut self.sessions, dataset, &options, cancel, on_progress)
    }

    /// Steps done.
    pub fn n_steps_done(&self) -> u64 {
        self.step
    }

    /// The options, threads and invocation filled in.
    pub fn options(&self) -> &TrainerOptions {
        &self.options
    }

    /// The adapter as it is now.
    pub fn adapter(&self) -> AdapterFile {
        let RunIdentity { base_model, architecture, config, seed, .. } = self.identity();
        AdapterFile {
            architecture,
            weights: self.weights.clone(),
            provenance: Some(Provenance { base_model, config: config.to_string(), step: self.step, seed }),
        }
    }

    /// Writes the adapter as a GGUF that llama.cpp loads, beside `path` and renamed.
    ///
    /// # Errors
    /// As [`AdapterFile::write`].
    pub fn write_adapter(&self, path: &Path, precision: Precision) -> Result<()> {
        self.adapter().write(path, precision)
    }

    /// Rollouts of this step's prompts: drops groups that teach nothing and draws others in their place.
    fn collect(
        &mut self,
        cursor: &mut Cursor,
        cancel: &CancelToken,
        observer: &mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<Collected> {
        let sampler = SamplerOptions {
            temperature: self.options.temperature,
            top_p: self.options.top_p,
            ..SamplerOptions::default()
        };
        let rules = RolloutRules {
            sampler: &sampler,
            max_new_tokens: self.options.max_new_tokens,
            suffix: &self.options.suffix,
            reward: &*self.reward,
            composition: &self.options.reward,
        };
        let mut collected = Collected { kept: Vec::new(), dropped: Vec::new() };
        let max_rounds = self.options.filter.map_or(1, |filter| filter.max_rounds);
        for _ in 0..max_rounds {
            let n_missing = self.options.prompts_per_step - collected.kept.len();
            if n_missing == 0 {
                break;
            }
            let draws: Vec<_> = (0..n_missing).map(|_| cursor.draw(&self.dataset, self.options.seed)).collect();
            let questions: Vec<_> = draws
                .iter()
                .map(|&(sample, prompt)| {
                    let key = RngKey { seed: self.options.seed, step: self.step, prompt };
                    (sample, &self.dataset.samples()[sample], key)
                })
                .collect();
            let groups =
                roll_out(&mut self.sessions, &questions, self.options.group_size, &rules, cancel, &mut |progress| {
                    observer(StepEvent::Sampling(progress));
                })?;
            for group in groups {
                let teaches = self.options.filter.is_none_or(|filter| filter.keeps(group.mean_accuracy()));
                if teaches {
                    collected.kept.push(group);
                } else {
                    // Only its numbers are wanted; image embeddings are large.
                    collected.dropped.push(RolloutGroup { prompt: EncodedPrompt::default(), ..group });
                }
            }
        }
        Ok(collected)
    }

    /// One advantage for each rollout, group by group.
    fn advantages(&self, groups: &[RolloutGroup]) -> Result<Vec<f64>> {
        let scored: Vec<_> = groups
            .iter()
            .enumerate()
            .flat_map(|(index, group)| {
                let task = self.dataset.samples()[group.sample].advantage_task();
                group.rollouts.iter().map(move |rollout| Scored { reward: rollout.reward, group: index, task })
            })
            .collect();
        advantages(self.options.estimator, &scored)
    }

    /// Gives the sessions an adapter of `weights`.
    fn sample_with(&mut self, weights: &LoraWeights) -> Result<()> {
        let architecture = self.model.info().architecture.clone();
        let bytes =
            AdapterFile { architecture, weights: weights.clone(), provenance: None }.to_bytes(Precision::F32)?;
        let adapter = Arc::new(Adapter::from_bytes(&self.model, &bytes)?);
        self.sessions.iter_mut().try_for_each(|session| session.set_adapters(&[(Arc::clone(&adapter), 1.0)]))
    }

    fn identity(&self) -> RunIdentity {
        let info = self.model.info();
        RunIdentity {
            base_model: info.hash.clone(),
            architecture: info.architecture.clone(),
            dataset: self.dataset.hash().to_owned(),
            config: serde_json::json!({
                "options": self.options,
                "mmproj": info.mmproj_hash,
                "pixels": self.model.image_budget().map(|budget| [budget.min_pixels, budget.max_pixels]),
                "reward": self.reward.name(),
                "start": self.start,
                "version": env!("CARGO_PKG_VERSION"),
            }),
            seed: self.options.seed,
        }
    }
}

fn session_options(options: &TrainerOptions) -> SessionOptions {
    let plain = SessionOptions {
        n_ctx: options.max_prompt_tokens + options.max_new_tokens,
        n_seq: options.n_sequences,
        n_threads: options.n_threads / options.n_sessions,
        ..SessionOptions::default()
    };
    if options.precise_kv {
        SessionOptions { kv_type: KvType::F32, flash_attention: FlashAttention::Off, ..plain }
    } else {
        plain
    }
}
