//! The folder that a run can be resumed from: its checkpoints, its metrics, and when both are written.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use owlet_runtime::{Deadline, Error, ErrorKind, Result};
use serde::Serialize;

use crate::{
    checkpoint::{CheckpointStore, Resumed},
    metrics::MetricsFile,
    trainer::Trainer,
    tune::Tuner,
};

/// Checkpoints that are kept; the one before the newest serves where the newest is damaged.
const KEPT_CHECKPOINTS: usize = 2;
const METRICS: &str = "metrics.jsonl";

/// Training that a checkpoint can carry over to another process.
pub trait Resumable {
    /// As [`Trainer::resume`].
    ///
    /// # Errors
    /// As [`Trainer::resume`].
    fn resume(&mut self, store: &CheckpointStore) -> Result<Resumed>;

    /// As [`Trainer::checkpoint`].
    ///
    /// # Errors
    /// As [`Trainer::checkpoint`].
    fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> Result<()>;

    /// Steps done.
    fn n_steps_done(&self) -> u64;

    /// Finished parts of the step under way.
    fn n_parts_done(&self) -> usize;
}

impl Resumable for Trainer {
    fn resume(&mut self, store: &CheckpointStore) -> Result<Resumed> {
        Self::resume(self, store)
    }

    fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> Result<()> {
        Self::checkpoint(self, store, metrics_bytes)
    }

    fn n_steps_done(&self) -> u64 {
        Self::n_steps_done(self)
    }

    fn n_parts_done(&self) -> usize {
        Self::n_parts_done(self)
    }
}

impl Resumable for Tuner {
    fn resume(&mut self, store: &CheckpointStore) -> Result<Resumed> {
        Self::resume(self, store)
    }

    fn checkpoint(&self, store: &CheckpointStore, metrics_bytes: u64) -> Result<()> {
        Self::checkpoint(self, store, metrics_bytes)
    }

    fn n_steps_done(&self) -> u64 {
        Self::n_steps_done(self)
    }

    /// Steps are worked on in one piece.
    fn n_parts_done(&self) -> usize {
        0
    }
}

/// Whether a run goes on from the checkpoints of its folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// From the beginning; checkpoints of an earlier run are an error, never overwritten. The default.
    #[default]
    Anew,
    /// From the newest whole checkpoint; without one it is an error.
    Resume,
    /// From the newest whole checkpoint, or from the beginning where there is none: for apps, which are killed at any time.
    ResumeIfAny,
}

/// When checkpoints are written, beside the one after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPace {
    /// After as many steps, at least 1. Default 10.
    pub n_steps: u64,
    /// And after as long, within steps too. Default one minute.
    pub time: Duration,
}

impl Default for CheckpointPace {
    fn default() -> Self {
        Self { n_steps: 10, time: Duration::from_secs(60) }
    }
}

/// Makes `directory` for a run, or takes over that of an earlier one as `begin` says. It is this process's own from then on.
///
/// # Errors
/// `NotFound` without a checkpoint to resume; `InvalidInput` for checkpoints of an earlier run where it begins anew; `Busy`
/// if another run is at work there; `Io`.
pub fn open_store(directory: &Path, begin: Begin) -> Result<CheckpointStore> {
    if begin == Begin::Resume && !directory.is_dir() {
        return Err(nothing_to_resume(directory));
    }
    let store = CheckpointStore::open(directory, KEPT_CHECKPOINTS)?;
    match (begin, store.list()?.is_empty()) {
        (Begin::Resume, true) => Err(nothing_to_resume(directory)),
        (Begin::Anew, false) => {
            let error = Error::new(ErrorKind::InvalidInput, "the folder holds checkpoints of an earlier run");
            Err(error.at(directory.display()))
        }
        _ => Ok(store),
    }
}

fn nothing_to_resume(directory: &Path) -> Error {
    Error::new(ErrorKind::NotFound, "no checkpoint to go on from").at(directory.display())
}

/// The folder of a run: checkpoints, and `metrics.jsonl` beside them.
pub struct RunFolder {
    store: CheckpointStore,
    metrics: MetricsFile,
    pace: CheckpointPace,
    damaged: Vec<PathBuf>,
    /// Of the last checkpoint, or the beginning.
    saved_at: Instant,
    /// Finished parts of the running step that the last checkpoint has.
    n_parts_saved: usize,
    /// Whether a step was the turn of a checkpoint that is not there yet.
    is_owed: bool,
}

impl RunFolder {
    /// Takes over the folder of `store`; to resume, puts `trainer` where the newest whole checkpoint in it stands.
    ///
    /// # Errors
    /// `Mismatch` for checkpoints of another run; `NotFound` where none of them is whole and `begin` demands one; those of
    /// [`Resumable::resume`] and [`MetricsFile::open`].
    pub fn open(
        store: CheckpointStore,
        trainer: &mut impl Resumable,
        begin: Begin,
        pace: CheckpointPace,
    ) -> Result<Self> {
        let resumed = if begin == Begin::Anew { Resumed::default() } else { trainer.resume(&store)? };
        if begin == Begin::Resume && resumed.metrics_bytes.is_none() {
            return Err(nothing_to_resume(store.directory()));
        }
        let metrics = MetricsFile::open(&store.directory().join(METRICS), resumed.metrics_bytes.unwrap_or(0))?;
        let (saved_at, n_parts_saved) = (Instant::now(), trainer.n_parts_done());
        Ok(Self { store, metrics, pace, damaged: resumed.damaged, saved_at, n_parts_saved, is_owed: false })
    }

    /// Checkpoints that were passed over because they are damaged.
    pub fn damaged(&self) -> &[PathBuf] {
        &self.damaged
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        self.store.directory()
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// `Io`.
    pub fn checkpoint(&mut self, trainer: &impl Resumable) -> Result<()> {
        self.metrics.sync()?;
        trainer.checkpoint(&self.store, self.metrics.n_bytes())?;
        (self.saved_at, self.n_parts_saved, self.is_owed) = (Instant::now(), trainer.n_parts_done(), false);
        Ok(())
    }

    /// When the next checkpoint is due by the clock; `None` for never.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.saved_at.checked_add(self.pace.time)
    }

    fn is_due(&self) -> bool {
        self.due_at().is_some_and(|at| Deadline::at(at).is_over())
    }

    /// Appends the numbers of a step that is done; from time to time, and after the last of `n_steps`, writes a checkpoint.
    ///
    /// # Errors
    /// `Io`.
    pub fn after_step(&mut self, trainer: &impl Resumable, metrics: &impl Serialize, n_steps: u64) -> Result<()> {
        self.append(trainer, metrics, n_steps)?;
        self.pay(trainer).map(drop)
    }

    /// Appends the numbers of a step that is done, and owes a checkpoint where it is its turn.
    pub(super) fn append(&mut self, trainer: &impl Resumable, metrics: &impl Serialize, n_steps: u64) -> Result<()> {
        self.metrics.append(metrics)?;
        self.n_parts_saved = 0;
        let n_done = trainer.n_steps_done();
        self.is_owed |= n_done.is_multiple_of(self.pace.n_steps.max(1)) || n_done == n_steps || self.is_due();
        Ok(())
    }

    /// Whether a checkpoint is owed.
    pub(super) fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// Writes the checkpoint that is owed; returns whether there was one.
    pub(super) fn pay(&mut self, trainer: &impl Resumable) -> Result<bool> {
        if self.is_owed { self.checkpoint(trainer).map(|()| true) } else { Ok(false) }
    }

    /// A checkpoint within a step, where it is time and parts were finished since the last one; returns whether there is one.
    pub(super) fn within_step(&mut self, trainer: &impl Resumable) -> Result<bool> {
        if !self.is_due() {
            return Ok(false);
        }
        if trainer.n_parts_done() > self.n_parts_saved {
            return self.checkpoint(trainer).map(|()| true);
        }
        self.saved_at = Instant::now();
        Ok(false)
    }
}
