//! Which adapter is live: only one that answered held-out samples better goes there, and the one before can come back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use owlet_adapters::{gate, task::TaskType};
use owlet_host as host;

use crate::{
    data::Dataset,
    error::{CancelToken, Result, token},
    evaluation::Interval,
    model::Model,
    reward::{self, Reward},
    training::AdaptOptions,
};

/// The adapters of one purpose of the app, in a folder: one that is live, two before it, a candidate. The folder is this
/// object's own as long as it is there.
#[derive(Debug, uniffi::Object)]
pub struct AdapterGate(host::Gate);

/// When a candidate may go live: the rewards of both on the same held-out samples are compared by pairs, with a 95 % interval.
/// Nothing given means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, uniffi::Record)]
pub struct GateRule {
    /// Fewest held-out samples, at least 2; default 30.
    #[uniffi(default)]
    pub min_samples: Option<u32>,
    /// Least mean gain of the reward; default 0.
    #[uniffi(default)]
    pub least_gain: Option<f64>,
    /// How far the interval may reach below 0; default 0: better beyond chance.
    #[uniffi(default)]
    pub most_loss: Option<f64>,
    /// How much the mean reward of a task type may fall; default 0.1.
    #[uniffi(default)]
    pub most_task_loss: Option<f64>,
}

/// A mean before and after, and its change by pairs.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct Change {
    /// Mean of what is live now, or of the model alone.
    pub before: f64,
    /// Mean of the candidate.
    pub after: f64,
    /// The mean of the differences with its 95 % interval.
    pub change: Interval,
}

/// The change of one task type's reward.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct TaskChange {
    /// Its name in data sets.
    pub task: String,
    /// The change.
    pub reward: Change,
}

/// What the gate says of a candidate.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Verdict {
    /// Whether it may go live: `activate` does that.
    pub is_accepted: bool,
    /// Why not, for people; empty where it may.
    pub reasons: Vec<String>,
    /// The change of the reward.
    pub reward: Change,
    /// The change of the accuracy.
    pub accuracy: Change,
    /// The change of the reward by task type.
    pub tasks: Vec<TaskChange>,
    /// Number of held-out samples.
    pub n_samples: u32,
    /// Hash of the candidate's file.
    pub candidate: String,
    /// Hash of the adapter that it was compared with; nothing for the model alone.
    pub against: Option<String>,
}

/// The file of the adapter that is live in the gate's `folder`, for parts of an app that only use it. Nothing where the model
/// alone is live or there is no gate. No lock is taken.
///
/// Throws `InvalidFile`, `Unsupported`, `Io`.
#[uniffi::export]
pub fn active_adapter(folder: String) -> Result<Option<String>> {
    Ok(gate::active_adapter(Path::new(&folder))?.map(text))
}

#[uniffi::export]
impl AdapterGate {
    /// The gate in `folder`, which is created. A live adapter whose file is damaged gives way to the one before.
    ///
    /// Throws `InvalidInput` for a rule out of range; `Busy` when another object or process has the folder; `InvalidFile` and
    /// `Unsupported` for a folder of something else; `Io`.
    #[uniffi::constructor(default(rule))]
    pub fn open(folder: String, rule: GateRule) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(host::Gate::open(Path::new(&folder), rule.build())?)))
    }

    /// Files of live adapters that were found damaged when the gate was opened.
    pub fn damaged(&self) -> Vec<String> {
        self.0.damaged().iter().cloned().map(text).collect()
    }

    /// Asks the adapter in the file `candidate`, and what is live now, the held-out samples, by the lengths, suffix, threads and
    /// sessions of `options`. One that passes waits for `activate`.
    ///
    /// Throws `InvalidInput` for fewer samples than the rule wants; `Mismatch` for an adapter of another model;
    /// `InvalidFile` for a damaged one; `Callback` when the reward throws; `Cancelled`.
    #[uniffi::method(default(options), default(reward = None, cancel = None))]
    pub async fn consider(
        &self,
        candidate: String,
        model: Arc<Model>,
        held_out: Arc<Dataset>,
        options: AdaptOptions,
        reward: Option<Arc<dyn Reward>>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Verdict> {
        let (reward, options) = (reward::build(reward)?, options.build()?);
        let silent = Box::new(|_| Ok(()));
        let (candidate, held_out) = (candidate.into(), held_out.0.clone());
        let verdict = self.0.consider(candidate, &model.0, held_out, reward, options, &token(cancel), silent);
        Ok(verdict.await?.into())
    }

    /// The accepted candidate goes live, all at once; what was live before is kept. Gives its file.
    ///
    /// Throws `NotFound` where no candidate waits.
    pub async fn activate(&self) -> Result<String> {
        Ok(text(self.0.activate().await?))
    }

    /// The adapter before goes live again, or the model alone where there is none; gives its file.
    ///
    /// Throws `NotFound` where the model alone is live.
    pub async fn rollback(&self) -> Result<Option<String>> {
        Ok(self.0.rollback().await?.map(text))
    }

    /// The file of the live adapter; nothing where the model alone is live.
    pub async fn active(&self) -> Result<Option<String>> {
        Ok(self.0.active().await?.map(text))
    }

    /// Whether a candidate was accepted and waits.
    pub async fn has_candidate(&self) -> Result<bool> {
        Ok(self.0.has_candidate().await?)
    }
}

/// A path of the gate's, below a folder whose path was text.
fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

impl GateRule {
    fn build(self) -> gate::GateRule {
        let default = gate::GateRule::default();
        gate::GateRule {
            min_samples: self.min_samples.map_or(default.min_samples, |n| n as usize),
            least_gain: self.least_gain.unwrap_or(default.least_gain),
            most_loss: self.most_loss.unwrap_or(default.most_loss),
            most_task_loss: self.most_task_loss.unwrap_or(default.most_task_loss),
        }
    }
}

impl From<gate::Change> for Change {
    fn from(change: gate::Change) -> Self {
        Self { before: change.before, after: change.after, change: change.change.into() }
    }
}

impl From<gate::Verdict> for Verdict {
    fn from(verdict: gate::Verdict) -> Self {
        let is_accepted = verdict.is_accepted();
        let gate::Verdict { candidate, against, n_samples, changes, reasons, .. } = verdict;
        let task = |(task, change): (TaskType, gate::Change)| TaskChange {
            task: task.name().to_owned(),
            reward: change.into(),
        };
        Self {
            is_accepted,
            reasons: reasons.iter().map(ToString::to_string).collect(),
            reward: changes.reward.into(),
            accuracy: changes.accuracy.into(),
            tasks: changes.tasks.into_iter().map(task).collect(),
            n_samples: n_samples as u32,
            candidate,
            against,
        }
    }
}
