//! A gate for adapters behind a worker: candidates are asked on its thread.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use owlet_adapters::{
    data::Dataset,
    gate::{AdapterGate, GateRule, Trial, Verdict},
    options::TrainerOptions,
    reward::Reward,
    rollout::RolloutProgress,
};
use owlet_runtime::{CancelToken, Model, Result};

use crate::{pending::Pending, worker::Worker};

/// Name of a gate's thread, for profilers.
const THREAD: &str = "owlet-gate";

/// Hears how many answers are done, on the gate's thread. An error ends the call with that error.
pub type AnswerCounter = Box<dyn FnMut(RolloutProgress) -> Result<()> + Send>;

/// A gate with a thread of its own.
pub struct Gate {
    worker: Worker<AdapterGate>,
    damaged: Vec<PathBuf>,
}

impl Gate {
    /// As [`AdapterGate::open`], on this thread.
    ///
    /// # Errors
    /// Those of [`AdapterGate::open`]; `Io` when the system gives no thread.
    pub fn open(folder: &Path, rule: GateRule) -> Result<Self> {
        let gate = AdapterGate::open(folder, rule)?;
        let damaged = gate.damaged().to_vec();
        Ok(Self { worker: Worker::start(THREAD, gate)?, damaged })
    }

    /// As [`AdapterGate::damaged`].
    pub fn damaged(&self) -> &[PathBuf] {
        &self.damaged
    }

    /// As [`AdapterGate::consider`], whose errors are those of the result, with those of `on_progress`.
    #[expect(clippy::too_many_arguments, reason = "what `Trial` holds, but owned")]
    pub fn consider(
        &self,
        candidate: PathBuf,
        model: &Model,
        held_out: Dataset,
        reward: Arc<dyn Reward>,
        options: TrainerOptions,
        cancel: &CancelToken,
        mut on_progress: AnswerCounter,
    ) -> Pending<Verdict> {
        let model = model.clone();
        self.worker.submit(cancel, move |gate, cancel| {
            let trial = Trial { model: &model, held_out: &held_out, reward: &*reward, options: &options };
            let mut failure = None;
            let verdict = gate.consider(&candidate, &trial, cancel, &mut |progress| {
                if failure.is_none()
                    && let Err(error) = on_progress(progress)
                {
                    failure = Some(error);
                    cancel.cancel();
                }
            });
            failure.map_or(verdict, Err)
        })
    }

    /// As [`AdapterGate::activate`].
    pub fn activate(&self) -> Pending<PathBuf> {
        self.worker.submit(&CancelToken::new(), |gate, _| gate.activate())
    }

    /// As [`AdapterGate::rollback`].
    pub fn rollback(&self) -> Pending<Option<PathBuf>> {
        self.worker.submit(&CancelToken::new(), |gate, _| gate.rollback())
    }

    /// As [`AdapterGate::active`].
    pub fn active(&self) -> Pending<Option<PathBuf>> {
        self.worker.submit(&CancelToken::new(), |gate, _| Ok(gate.active()))
    }

    /// As [`AdapterGate::has_candidate`].
    pub fn has_candidate(&self) -> Pending<bool> {
        self.worker.submit(&CancelToken::new(), |gate, _| Ok(gate.has_candidate()))
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}
