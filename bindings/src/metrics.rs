//! The numbers of a training step.

use owlet_adapters::metrics;

/// The numbers of one training step. What only an answer that was learned from can tell is missing where there was none.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct StepMetrics {
    /// From 0.
    pub step: u64,
    /// Times that the data was gone through before, from 0.
    pub epoch: u64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Questions that were learned from.
    pub n_groups: u32,
    /// Questions that were dropped because all answers were equally right or wrong.
    pub n_filtered: u32,
    /// Mean reward of all answers.
    pub reward: f64,
    /// Their mean accuracy, 0 to 1.
    pub accuracy: f64,
    /// Their mean format reward.
    pub format: f64,
    /// Their mean length in tokens.
    pub length: f64,
    /// Share of answers that were cut off.
    pub truncated: f64,
    /// Policy loss.
    pub loss: Option<f64>,
    /// Mean of `-logprob` of the sampled tokens in nats.
    pub neg_logprob: Option<f64>,
    /// Mean entropy of the token distributions in nats.
    pub entropy: Option<f64>,
    /// Mean difference between the training engine's and the sampler's log-probabilities.
    pub logprob_gap: Option<f64>,
    /// Norm of the gradients before clipping.
    pub grad_norm: Option<f64>,
    /// Updates that were skipped because their gradients were not finite.
    pub skipped_updates: u32,
    /// The same by task type.
    pub tasks: Vec<TaskMetrics>,
    /// Wall clock of the step.
    pub seconds: f64,
    /// Sampled tokens a second over the whole step.
    pub tokens_per_second: f64,
}

/// Means over the answers to questions of one task type.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct TaskMetrics {
    /// The task type's name in data sets.
    pub task: String,
    /// Answers.
    pub n_answers: u32,
    /// Mean reward.
    pub reward: f64,
    /// Mean accuracy.
    pub accuracy: f64,
    /// Mean length in tokens.
    pub length: f64,
}

impl From<&metrics::StepMetrics> for StepMetrics {
    fn from(step: &metrics::StepMetrics) -> Self {
        let task = |(task, metrics): (&owlet_adapters::task::TaskType, &metrics::TaskMetrics)| TaskMetrics {
            task: task.name().to_owned(),
            n_answers: metrics.n_rollouts as u32,
            reward: metrics.reward,
            accuracy: metrics.accuracy,
            length: metrics.length,
        };
        Self {
            step: step.step,
            epoch: step.epoch,
            learning_rate: step.learning_rate,
            n_groups: step.n_groups as u32,
            n_filtered: step.n_filtered as u32,
            reward: step.reward,
            accuracy: step.accuracy,
            format: step.format,
            length: step.length,
            truncated: step.truncated,
            loss: step.loss,
            neg_logprob: step.neg_logprob,
            entropy: step.entropy,
            logprob_gap: step.logprob_gap,
            grad_norm: step.grad_norm,
            skipped_updates: step.skipped_updates as u32,
            tasks: step.tasks.iter().map(task).collect(),
            seconds: step.seconds,
            tokens_per_second: step.tokens_per_second,
        }
    }
}
