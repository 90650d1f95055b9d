//! The trainer: what the design's sentence says, one step at a time.
//!
//! `prompts -> rollouts -> rewards -> filter -> advantages -> policy loss -> LoRA gradients -> weights -> sampler`.
//!
//! A step is worked on in slices of any length ([`Trainer::step_slice`]) and may rest between any two; `step` and `round`
//! are the machine behind it. The trainer's adapter changes at the end of a step, all at once. A checkpoint may be taken
//! between any two slices. Whatever is not in it is computed again from the same random numbers, so a run that was stopped
//! anywhere and resumed ends with the same bits.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use owlet_runtime::{
    Adapter, CancelToken, Deadline, Error, ErrorKind, Model, PromptCache, PromptCacheStats, Result, Session,
    gguf::GgufFile,
};

use crate::{
    checkpoint::{CheckpointStore, Resumed, RunIdentity, TrainState},
    cursor::{Cursor, Order},
    data::Dataset,
    engine::{Engine, EngineOptions, PrefixCacheOptions, PrefixCacheStats, PromptFolder},
    evaluate::{EvaluateOptions, Evaluation, evaluate},
    file::{self, AdapterFile, Precision, Provenance},
    lora::{LoraConfig, LoraWeights},
    measure::prompt_lengths,
    metrics::StepMetrics,
    optim::AdamW,
    options::TrainerOptions,
    plan::{MemoryPlan, PlanRequest},
    reward::Reward,
    rollout::RolloutProgress,
    step::{Bench, RunningStep},
    summary::summarize,
    update::Before,
};

/// Time between two questions of [`Trainer::step_while`].
const SLICE: Duration = Duration::from_millis(100);

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

/// What a slice of a step came to.
#[derive(Clone, Debug)]
pub enum Slice {
    /// The step is not complete; this is where it rests.
    Pending(StepEvent),
    /// The step is complete.
    StepDone(Box<StepMetrics>),
}

/// Trains one adapter over one model.
pub struct Trainer {
    model: Model,
    sessions: Vec<Session>,
    /// Shared by the sessions.
    prompts: Option<Arc<PromptCache>>,
    /// Away while a gradient rests.
    engine: Option<Engine>,
    dataset: Dataset,
    reward: Arc<dyn Reward>,
    options: Arc<TrainerOptions>,
    weights: Arc<LoraWeights>,
    /// Hash of the adapter that the run began with, where it was not a fresh one.
    start: Option<String>,
    optimizer: Arc<AdamW>,
    cursor: Cursor,
    step: u64,
    running: Option<RunningStep>,
    n_skipped_in_a_row: u64,
    /// The sample with the longest prompt, where it comes first.
    first: Option<usize>,
}

impl Trainer {
    /// A run from its beginning: the adapter starts as the identity.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range or an empty data set; `ContextOverflow` for a prompt that is too long, with
    /// its place; `Unsupported` for models that the engine cannot train; `Limit` for a memory
    /// budget that the run does not fit, before anything is allocated; those of [`Session::new`],
    /// [`LoraMode::for_model`](crate::lora::LoraMode::for_model) and adapters that llama.cpp cannot load.
    pub fn new(model: &Model, dataset: Dataset, reward: Arc<dyn Reward>, options: TrainerOptions) -> Result<Self> {
        options.validate()?;
        if dataset.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no samples to train on"));
        }
        let lora = LoraConfig { mode: options.lora.mode.for_model(model)?, ..options.lora };
        let n_threads = TrainerOptions::resolved_threads(options.n_threads);
        let options = TrainerOptions { n_threads, lora, ..options };
        let session_options = options.session_options();
        let gguf = Arc::new(GgufFile::open(model.path())?);
        let engine_options = engine_options(model, &gguf, &options)?;
        let prompts = prompt_cache(&engine_options.prefix_cache);
        let engine = Engine::from_file(&gguf, engine_options)?;
        let mut sessions =
            (0..options.n_sessions).map(|_| Session::new(model, &session_options)).collect::<Result<Vec<_>>>()?;
        sessions.iter_mut().for_each(|session| session.set_prompt_cache(prompts.clone()));
        let weights = LoraWeights::init(&options.lora, &engine.lora_targets(), options.seed)?;
        // An identity, but not without effect: an activated adapter has prompts computed in two calls, and a run that is
        // resumed within its first step must compute them in the same ones.
        sample_with(model, &mut sessions, &weights)?;
        let optimizer = Arc::new(AdamW::new(options.optimizer, &weights));
        let invocation = options.lora.mode.invocation();
        let lengths = prompt_lengths(model, &dataset, &options.suffix, options.max_prompt_tokens, invocation)?;
        // The first of equals.
        let longest = (0..lengths.len()).rev().max_by_key(|&sample| lengths[sample]);
        let first = longest.filter(|_| options.largest_first);
        let cursor = Cursor::new(Order { dataset: &dataset, seed: options.seed, first }, 0, 0);
        Ok(Self {
            model: model.clone(),
            sessions,
            prompts,
            engine: Some(engine),
            dataset,
            reward,
            options: Arc::new(options),
            weights: Arc::new(weights),
            start: None,
            optimizer,
            cursor,
            step: 0,
            running: None,
            n_skipped_in_a_row: 0,
            first,
        })
    }

    /// Begins with `weights`, such as a warm start, instead of a fresh adapter; to be called before the first step and before
    /// [`Trainer::resume`]. Rank, strength and place are theirs and replace [`TrainerOptions::lora`]; for a memory budget that
    /// counts them, make the trainer with these options too. The reference policy of a KL penalty is the base without them.
    ///
    /// # Errors
    /// `Mismatch` if they are of another model; `InvalidInput` for a sample whose prompt does not invoke them; those of
    /// adapters that llama.cpp cannot load.
    pub fn start_from(&mut self, weights: LoraWeights) -> Result<()> {
        let (options, invocation) = (&self.options, weights.config.mode.invocation());
        prompt_lengths(&self.model, &self.dataset, &options.suffix, options.max_prompt_tokens, invocation)?;
        if let Some(mut running) = self.running.take() {
            running.abandon(&mut self.engine);
        }
        let missing = || Error::new(ErrorKind::Internal, "the engine is away");
        weights.check_fits(&self.engine.as_ref().ok_or_else(missing)?.lora_targets())?;
        sample_with(&self.model, &mut self.sessions, &weights)?;
        self.optimizer = Arc::new(AdamW::new(self.options.optimizer, &weights));
        self.start = Some(weights.hash());
        Arc::make_mut(&mut self.options).lora = weights.config.clone();
        self.weights = Arc::new(weights);
        Ok(())
    }

    /// Goes on from the newest checkpoint in `store` that is whole, if there is one. What this trainer did so far is
    /// forgotten.
    ///
    /// # Errors
    /// `Mismatch` if the checkpoint is of another model, data set or configuration; `Unsupported` for another version of
    /// the format; `Io`. The trainer is then as before.
    pub fn resume(&mut self, store: &CheckpointStore) -> Result<Resumed> {
        let (checkpoint, damaged) = store.load_newest(&self.identity()?, self.options.optimizer)?;
        let Some(checkpoint) = checkpoint else { return Ok(Resumed { metrics_bytes: None, damaged }) };
        let TrainState { step, epoch, position, metrics_bytes, n_skipped_in_a_row, .. } = checkpoint.state;
        sample_with(&self.model, &mut self.sessions, &checkpoint.weights)?;
        if let Some(mut running) = self.running.take() {
            running.abandon(&mut self.engine);
        }
        self.weights = Arc::new(checkpoint.weights);
        self.optimizer = Arc::new(checkpoint.optimizer);
        self.cursor = Cursor::new(self.order(), epoch, position);
        (self.step, self.n_skipped_in_a_row) = (step, n_skipped_in_a_row);
        self.running = checkpoint.running.map(|record| RunningStep::restore(record, self.order(), step, &self.options));
        Ok(Resumed { metrics_bytes: Some(metrics_bytes), damaged })
    }

    /// Writes a checkpoint of the steps so far and of the finished parts of the one under way. `metrics_bytes`: length of
    /// `metrics.jsonl`.
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
        let record = self.running.as_ref().map(RunningStep::record).filter(|record| record.n_parts() > 0);
        store.save(&state, &self.weights, &self.optimizer, record.as_ref()).map(drop)
    }

    /// Finished parts of the step under way: groups that were sampled, passes over lessons. A checkpoint is worth its
    /// bytes when the number has grown.
    pub fn n_parts_done(&self) -> usize {
        self.running.as_ref().map_or(0, RunningStep::n_parts)
    }

    /// One step of the run, or the rest of the one under way.
    ///
    /// # Errors
    /// `Cancelled`, with the step resting where it was: another call goes on, and a checkpoint keeps its finished parts.
    /// `Diverged` when gradients were not finite in too many updates in a row. Those of images, prompts and generation,
    /// which name the sample, or the first and the last of those that a session answers together, and those of the reward;
    /// what was finished before stands. Another call goes on, with the same bits.
    pub fn step(&mut self, cancel: &CancelToken, observer: &mut (dyn FnMut(StepEvent) + Send)) -> Result<StepMetrics> {
        loop {
            cancel.check()?;
            if let Slice::StepDone(metrics) = self.step_slice(&Deadline::never().or_cancelled(cancel), observer)? {
                return Ok(*metrics);
            }
        }
    }

    /// As [`Trainer::step`] for as long as `should_continue` says yes; it is asked at the beginning and about ten times a
    /// second, between slices. For hosts that look at the battery, the heat or whether they are in sight.
    ///
    /// # Errors
    /// As [`Trainer::step`], but for `Cancelled`.
    pub fn step_while(
        &mut self,
        should_continue: &mut dyn FnMut() -> bool,
        observer: &mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<Slice> {
        while should_continue() {
            if let done @ Slice::StepDone(_) = self.step_slice(&Deadline::after(SLICE), observer)? {
                return Ok(done);
            }
        }
        Ok(Slice::Pending(self.event()))
    }

    /// Works on the step under way, or on a new one, until `deadline` or the end of the step.
    ///
    /// A slice ends within one unit of its deadline: the encoding of a picture (which llama.cpp does not interrupt), the
    /// computation of a prompt, a token of all running answers, a layer of the engine forwards or backwards, a chunk of
    /// the vocabulary, the write of a prompt to the prefix cache, the update of the weights, the loading of the new adapter
    /// into the sessions. It does one unit at least, so a run of short slices gets to its end too,
    /// with the same bits. A cancelled deadline does none, and stops sampling inside a unit on the CPU.
    ///
    /// # Errors
    /// As [`Trainer::step`], but for `Cancelled`.
    pub fn step_slice(&mut self, deadline: &Deadline, observer: &mut (dyn FnMut(StepEvent) + Send)) -> Result<Slice> {
        let started = Instant::now();
        let mut running = self.running.take().unwrap_or_else(|| RunningStep::new(self.cursor.clone()));
        let mut bench = Bench {
            sessions: &mut self.sessions,
            engine: &mut self.engine,
            order: Order { dataset: &self.dataset, seed: self.options.seed, first: self.first },
            reward: &*self.reward,
            options: &self.options,
            before: Before {
                weights: &self.weights,
                optimizer: &self.optimizer,
                learning_rate: self.options.schedule.rate(self.step, self.options.n_steps),
            },
            n_skipped_in_a_row: self.n_skipped_in_a_row,
            step: self.step,
        };
        let result = running.advance(&mut bench, deadline, observer);
        running.seconds += started.elapsed().as_secs_f64();
        let running = self.running.insert(running);
        if !result? {
            return Ok(Slice::Pending(running.event()));
        }
        // Sessions first: a step that cannot be taken over whole stays as it is.
        if let Some((weights, _)) = running.updated() {
            sample_with(&self.model, &mut self.sessions, weights)?;
        }
        self.finish()
    }

    /// Takes over what the step under way, which is complete, learned.
    fn finish(&mut self) -> Result<Slice> {
        let learning_rate = self.options.schedule.rate(self.step, self.options.n_steps);
        let running = self.running.take();
        let seconds = running.as_ref().map_or(0.0, |running| running.seconds);
        let (cursor, parts) = running.map(|running| (running.cursor.clone(), running.into_parts())).unzip();
        let (Some(cursor), Some(Some((lessons, dropped, learned)))) = (cursor, parts) else {
            return Err(Error::new(ErrorKind::Internal, "a step ended that did not learn"));
        };
        let metrics = summarize(&self.dataset, &lessons, &dropped, &learned.report);
        let n_tokens = metrics.length * ((lessons.len() + dropped.len()) * self.options.group_size) as f64;
        let metrics = StepMetrics {
            step: self.step,
            epoch: cursor.epoch,
            learning_rate,
            seconds,
            tokens_per_second: n_tokens / seconds,
            ..metrics
        };
        if let Some((weights, optimizer)) = learned.updated {
            (self.weights, self.optimizer) = (weights, optimizer);
        }
        self.n_skipped_in_a_row = learned.report.n_skipped_in_a_row;
        self.cursor = cursor;
        self.step += 1;
        Ok(Slice::StepDone(Box::new(metrics)))
    }

    fn event(&self) -> StepEvent {
        self.running.as_ref().map_or(StepEvent::Sampling(RolloutProgress::default()), RunningStep::event)
    }

    fn order(&self) -> Order<'_> {
        Order { dataset: &self.dataset, seed: self.options.seed, first: self.first }
    }

    /// Greedy answers to `dataset` with the adapter as it is after the last complete step. Answers of a step under way that
    /// have not ended begin again, with the same random numbers.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(
        &mut self,
        dataset: &Dataset,
        cancel: &CancelToken,
        on_progress: &mut (dyn FnMut(RolloutProgress) + Send),
    ) -> Result<Evaluation> {
        self.running.iter_mut().for_each(RunningStep::restart_answers);
        let options = EvaluateOptions {
            max_new_tokens: self.options.max_new_tokens,
            suffix: &self.options.suffix,
            reward: &*self.reward,
            composition: &self.options.reward,
        };
        evaluate(&mut self.sessions, dataset, &options, cancel, on_progress)
    }

    /// How often the sampler's sessions found the beginning of an activated adapter's prompt at hand, since this trainer
    /// was made.
    pub fn prompt_stats(&self) -> PromptCacheStats {
        self.prompts.as_ref().map(|prompts| prompts.stats()).unwrap_or_default()
    }

    /// The same of the engine; `None` while a gradient is under way.
    pub fn prefix_stats(&self) -> Option<PrefixCacheStats> {
        self.engine.as_ref().map(Engine::prefix_stats)
    }

    /// Steps done.
    pub fn n_steps_done(&self) -> u64 {
        self.step
    }

    /// The options, threads and invocation filled in.
    pub fn options(&self) -> &TrainerOptions {
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
            weights: (*self.weights).clone(),
            provenance: Some(Provenance { base_model, config: config.to_string(), step: self.step, seed }),
        })
    }

    /// Writes the adapter as a GGUF that llama.cpp loads, beside `path` and renamed.
    ///
    /// # Errors
    /// As [`AdapterFile::write`].
    pub fn write_adapter(&self, path: &Path, precision: Precision) -> Result<()> {
        self.adapter()?.write(path, precision)
    }

    fn identity(&self) -> Result<RunIdentity> {
        Ok(RunIdentity {
            base_model: self.model.content_hash()?.to_owned(),
            architecture: self.model.info().architecture.clone(),
            dataset: self.dataset.hash().to_owned(),
            config: serde_json::json!({
                "options": self.options.identity(),
                "mmproj": self.model.projector_hash()?,
                "pixels": self.model.image_budget().map(|budget| [budget.min_pixels, budget.max_pixels]),
                "reward": self.reward.name(),
                "start": self.start,
                "version": env!("CARGO_PKG_VERSION"),
            }),
            seed: self.options.seed,
        })
    }
}

/// What the sessions share; `None` where nothing may be kept.
fn prompt_cache(options: &PrefixCacheOptions) -> Option<Arc<PromptCache>> {
    let cache = PromptCache::new(options.sampler_bytes);
    let (max_bytes, folder) = (options.directory_bytes, options.directory.clone());
    match folder.map(|directory| Box::new(PromptFolder { directory, max_bytes })) {
        Some(folder) => Some(Arc::new(cache.with_store(folder))),
        None => (options.sampler_bytes > 0).then(|| Arc::new(cache)),
    }
}

/// Gives the sessions an adapter of `weights`.
fn sample_with(model: &Model, sessions: &mut [Session], weights: &LoraWeights) -> Result<()> {
    let bytes = file::stream(&model.info().architecture, weights, None, Precision::F32, Vec::new())?;
    let adapter = Arc::new(Adapter::from_bytes(model, &bytes)?);
    sessions.iter_mut().try_for_each(|session| session.set_adapters(&[(Arc::clone(&adapter), 1.0)]))
}

/// The engine's options: the default ones, or those that keep the whole run within its budget.
fn engine_options(model: &Model, file: &Arc<GgufFile>, options: &TrainerOptions) -> Result<EngineOptions> {
    // The policy that samples is the one that learns.
    let never_sampled = model.never_sampled().to_vec();
    let Some(budget) = options.memory_budget else {
        let prefix_cache = options.prefix_cache.clone();
        let n_threads = options.n_threads;
        return Ok(EngineOptions { n_threads, prefix_cache, never_sampled, ..EngineOptions::default() });
    };
    let mmproj_bytes = model.info().mmproj_bytes.unwrap_or(0) as usize;
    // A question is seldom without words: a picture of all its tokens is the most that may come.
    let n_image = if mmproj_bytes > 0 { options.max_prompt_tokens } else { 0 };
    let plan = MemoryPlan::fit(&PlanRequest { file, mmproj_bytes, n_image, options }, budget)?;
    Ok(EngineOptions { never_sampled, ..plan.engine })
}
