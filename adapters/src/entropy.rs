//! The entropy band: a penalty when a task type's policy becomes too sure or too random (arXiv 2604.08539, equation 10).
//!
//! The paper's "entropy" is the mean of `-logprob` over the sampled tokens of a task type; outside `[low, high]` its
//! distance to the band, times a coefficient, is added to the loss. It needs that mean over the whole optimizer batch
//! before the first gradient, so it comes in two steps: [`EntropyBand::plan`] over the batch, then
//! [`BandPlan::coefficient`] for each sequence, to be added to the policy loss's dLoss/dlogprob.
//!
//! The mean is over tokens or over sequences, as the loss's. Where that divides by a fixed length
//! ([`Average::Fixed`]) it is over tokens: nats over a fixed length are no entropy that a band could hold.
//!
//! Deviation: a task type without a sequence contributes nothing. The reference adds a constant 0.2 for it in token
//! mode, and turns the whole loss to NaN in sequence mode.

use std::collections::BTreeMap;

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{
    loss::{Average, BatchSize},
    task::TaskType,
};

/// Where the mean of `-logprob` may be, in nats, and the price of leaving.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyBand {
    /// Lower end, at least 0. Default 0.2.
    pub low: f64,
    /// Upper end, at least `low`. Default 0.6.
    pub high: f64,
    /// Weight in the loss, finite and not negative. Default 0.02.
    pub coefficient: f64,
}

impl Default for EntropyBand {
    fn default() -> Self {
        Self { low: 0.2, high: 0.6, coefficient: 0.02 }
    }
}

/// The state of every task type in a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BandPlan {
    /// What the band adds to the loss.
    pub penalty: f64,
    tasks: BTreeMap<TaskType, TaskState>,
    average: Average,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct TaskState {
    size: BatchSize,
    /// d penalty / d entropy: the coefficient above the band, its negative below, 0 inside.
    slope: f64,
}

impl EntropyBand {
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if a number is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let Self { low, high, coefficient } = *self;
        let valid = 0.0 <= low && low <= high && high.is_finite() && (0.0..f64::INFINITY).contains(&coefficient);
        if valid {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "entropy band out of range")
            .got(format!("low {low}, high {high}, coefficient {coefficient}"))
            .needed("0 <= low <= high and a coefficient of at least 0, all finite"))
    }

    /// Measures a whole batch: `average` is the loss's, `sequences` has the task type and the log-probabilities of every
    /// response.
    pub fn plan(&self, average: Average, sequences: &[(TaskType, &[f64])]) -> BandPlan {
        let average = match average {
            Average::Fixed { .. } => Average::Token,
            Average::Token | Average::Seq => average,
        };
        let mut members: BTreeMap<TaskType, Vec<&[f64]>> = BTreeMap::new();
        for &(task, logprobs) in sequences {
            members.entry(task).or_default().push(logprobs);
        }
        let mut penalty = 0.0;
        let mut tasks = BTreeMap::new();
        for (task, members) in members {
            let size = BatchSize::of(members.iter().map(|logprobs| logprobs.len()));
            let weighted =
                |logprobs: &&[f64]| -logprobs.iter().sum::<f64>() * size.token_weight(average, logprobs.len());
            let entropy: f64 = members.iter().map(weighted).sum();
            let (distance, slope) = match entropy {
                entropy if entropy > self.high => (entropy - self.high, self.coefficient),
                entropy if entropy < self.low => (self.low - entropy, -self.coefficient),
                _ => (0.0, 0.0),
            };
            penalty += self.coefficient * distance;
            tasks.insert(task, TaskState { size, slope });
        }
        BandPlan { penalty, tasks, average }
    }
}

impl BandPlan {
    /// What to add to dLoss/dlogprob of each token of a response of `n_tokens` of this task type.
    pub fn coefficient(&self, task: TaskType, n_tokens: usize) -> f64 {
        self.tasks.get(&task).map_or(0.0, |state| -state.slope * state.size.token_weight(self.average, n_tokens))
    }
}
