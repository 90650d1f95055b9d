//! A run from its first step to its last: the loop around the trainer, with checkpoints and metrics in a folder.
//!
//! [`AdaptRun`] is what an app or a command drives: [`AdaptRun::advance`] works for a while, tells what happens as data
//! ([`RunEvent`]) and returns. To pause is not to call it, and [`AdaptRun::checkpoint_now`] makes the pause outlast the
//! process. Nothing here prints, sleeps or starts a thread that outlives a call.

mod folder;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use owlet_runtime::{CancelToken, Deadline, Model, Result};

pub use self::folder::{Begin, CheckpointPace, Resumable, RunFolder, open_store};
use crate::{
    checkpoint::CheckpointStore,
    data::Dataset,
    evaluate::Evaluation,
    file::{AdapterFile, Precision},
    lora::LoraWeights,
    metrics::StepMetrics,
    options::TrainerOptions,
    reward::Reward,
    rollout::RolloutProgress,
    trainer::{Slice, StepEvent, Trainer},
};

/// Steps in a row without a group to learn from after which advice is given.
const IDLE_STEPS: usize = 5;

/// What a run tells.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// Where the step under way stands.
    Working(StepEvent),
    /// A step is complete.
    StepDone(Box<StepMetrics>),
    /// A checkpoint is on the disk.
    Checkpoint {
        /// Steps in it.
        n_steps: u64,
        /// Finished parts of the next step in it.
        n_parts: usize,
    },
    /// Something that whoever looks after the run should know.
    Advice(Advice),
}

/// What a run finds wrong with itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advice {
    /// Nothing was learned for so long because all answers to each question were equally right or wrong: easier or harder
    /// questions, a higher temperature or larger groups may help.
    Idle {
        /// Steps in a row; told once, when it comes to so many.
        n_steps: usize,
        /// Mean accuracy of the last one's answers: below one half, the questions are too hard.
        accuracy: f64,
    },
    /// Gradients of this step were not finite; the adapter stays as it was.
    Skipped {
        /// Steps done.
        n_steps: u64,
    },
}

/// Where and how a run is kept.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Folder of the checkpoints and of `metrics.jsonl`, which is created; `None` keeps nothing.
    pub folder: Option<PathBuf>,
    /// Whether it goes on from that folder.
    pub begin: Begin,
    /// When checkpoints are written.
    pub pace: CheckpointPace,
    /// Begins with this adapter instead of a fresh one.
    pub start: Option<LoraWeights>,
}

/// A run.
pub struct AdaptRun {
    trainer: Trainer,
    folder: Option<RunFolder>,
    /// Of a step that is done, where the folder does not have them yet.
    unrecorded: Option<Box<StepMetrics>>,
    n_idle: usize,
}

impl AdaptRun {
    /// A run over `dataset`, from its beginning or from where its folder stands.
    ///
    /// # Errors
    /// Those of [`Trainer::new`], [`Trainer::start_from`], [`open_store`] and [`RunFolder::open`].
    pub fn open(
        model: &Model,
        dataset: Dataset,
        reward: Arc<dyn Reward>,
        options: TrainerOptions,
        run: RunOptions,
    ) -> Result<Self> {
        let mut trainer = Trainer::new(model, dataset, reward, options)?;
        if let Some(start) = run.start {
            trainer.start_from(start)?;
        }
        let store = run.folder.as_deref().map(|folder| open_store(folder, run.begin)).transpose()?;
        let mut this = Self::new(trainer);
        if let Some(store) = store {
            this.keep_in(store, run.begin, run.pace)?;
        }
        Ok(this)
    }

    /// A run of `trainer` that nothing is kept of.
    pub fn new(trainer: Trainer) -> Self {
        Self { trainer, folder: None, unrecorded: None, n_idle: 0 }
    }

    /// Keeps the run in the folder of `store` from now on, or goes on from there.
    ///
    /// # Errors
    /// As [`RunFolder::open`].
    pub fn keep_in(&mut self, store: CheckpointStore, begin: Begin, pace: CheckpointPace) -> Result<()> {
        self.folder = Some(RunFolder::open(store, &mut self.trainer, begin, pace)?);
        Ok(())
    }

    /// Works until `deadline`, the end of a step or the next checkpoint, whichever comes first, and returns whether the run
    /// is done. Its bound is that of [`Trainer::step_slice`], and the time of a checkpoint; a cancelled deadline does nothing.
    ///
    /// # Errors
    /// Those of [`Trainer::step_slice`] and of the disk. What was done stands: another call goes on, and writes what a full
    /// disk did not take.
    pub fn advance(&mut self, deadline: &Deadline, observer: &mut (dyn FnMut(RunEvent) + Send)) -> Result<bool> {
        self.record(observer)?;
        if self.is_done() || deadline.is_cancelled() {
            return Ok(self.is_done());
        }
        let due_at = self.folder.as_ref().and_then(RunFolder::due_at);
        let deadline = due_at.map_or_else(|| deadline.clone(), |at| deadline.clone().or_at(at));
        match self.trainer.step_slice(&deadline, &mut |event| observer(RunEvent::Working(event)))? {
            // Told even if the run is to stop: the trainer is past this step and does not tell its numbers again.
            Slice::StepDone(metrics) => {
                observer(RunEvent::StepDone(metrics.clone()));
                self.advise(&metrics, observer);
                self.unrecorded = self.folder.is_some().then_some(metrics);
                self.record(observer)?;
            }
            Slice::Pending(_) if deadline.is_cancelled() => {}
            Slice::Pending(_) => {
                if let Some(folder) = &mut self.folder
                    && folder.within_step(&self.trainer)?
                {
                    observer(self.saved());
                }
            }
        }
        Ok(self.is_done())
    }

    /// Writes a checkpoint of everything that is finished; nothing without a folder.
    ///
    /// # Errors
    /// `Io`.
    pub fn checkpoint_now(&mut self, observer: &mut (dyn FnMut(RunEvent) + Send)) -> Result<()> {
        self.record(observer)?;
        if let Some(folder) = &mut self.folder {
            folder.checkpoint(&self.trainer)?;
            observer(self.saved());
        }
        Ok(())
    }

    /// Whether the last step is done and kept.
    pub fn is_done(&self) -> bool {
        let is_recorded = self.unrecorded.is_none() && !self.folder.as_ref().is_some_and(RunFolder::is_owed);
        is_recorded && self.trainer.n_steps_done() >= self.trainer.options().n_steps
    }

    /// Steps done, of `trainer().options().n_steps`.
    pub fn n_steps_done(&self) -> u64 {
        self.trainer.n_steps_done()
    }

    /// Its trainer, for its options, numbers and adapter.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Its folder.
    pub fn folder(&self) -> Option<&RunFolder> {
        self.folder.as_ref()
    }

    /// As [`Trainer::evaluate`].
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate(
        &mut self,
        dataset: &Dataset,
        cancel: &CancelToken,
        on_progress: &mut (dyn FnMut(RolloutProgress) + Send),
    ) -> Result<Evaluation> {
        self.trainer.evaluate(dataset, cancel, on_progress)
    }

    /// As [`Trainer::adapter`].
    ///
    /// # Errors
    /// As [`Trainer::adapter`].
    pub fn adapter(&self) -> Result<AdapterFile> {
        self.trainer.adapter()
    }

    /// As [`Trainer::write_adapter`].
    ///
    /// # Errors
    /// As [`Trainer::write_adapter`].
    pub fn write_adapter(&self, path: &Path, precision: Precision) -> Result<()> {
        self.trainer.write_adapter(path, precision)
    }

    /// Gives the folder what it does not have yet: the numbers of the last step, a checkpoint that is owed.
    fn record(&mut self, observer: &mut (dyn FnMut(RunEvent) + Send)) -> Result<()> {
        if let Some(folder) = &mut self.folder {
            if let Some(metrics) = &self.unrecorded {
                folder.append(&self.trainer, &**metrics, self.trainer.options().n_steps)?;
                self.unrecorded = None;
            }
            if folder.pay(&self.trainer)? {
                observer(self.saved());
            }
        }
        Ok(())
    }

    fn saved(&self) -> RunEvent {
        RunEvent::Checkpoint { n_steps: self.trainer.n_steps_done(), n_parts: self.trainer.n_parts_done() }
    }

    fn advise(&mut self, metrics: &StepMetrics, observer: &mut (dyn FnMut(RunEvent) + Send)) {
        self.n_idle = if metrics.n_groups == 0 { self.n_idle + 1 } else { 0 };
        if self.n_idle == IDLE_STEPS {
            observer(RunEvent::Advice(Advice::Idle { n_steps: IDLE_STEPS, accuracy: metrics.accuracy }));
        }
        if metrics.skipped_updates > 0 {
            observer(RunEvent::Advice(Advice::Skipped { n_steps: self.trainer.n_steps_done() }));
        }
    }
}
