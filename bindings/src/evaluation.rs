//! How good answers to held-out samples are.

use owlet_adapters::{evaluate, statistics};

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Number of values.
    pub n: u32,
}

/// Greedy answers to held-out samples, and what they are worth.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct EvaluationReport {
    /// Mean accuracy, 0 to 1.
    pub accuracy: Interval,
    /// Mean reward.
    pub reward: Interval,
    /// Mean length in tokens.
    pub length: f64,
    /// The same by task type.
    pub tasks: Vec<TaskScore>,
    /// The answers, in the order of the samples.
    pub answers: Vec<EvaluatedAnswer>,
}

/// Scores of one task type.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct TaskScore {
    /// Its name in data sets.
    pub task: String,
    /// Mean accuracy, 0 to 1.
    pub accuracy: Interval,
    /// Mean reward.
    pub reward: Interval,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct EvaluatedAnswer {
    /// Id of the sample.
    pub id: String,
    /// The whole text that the model wrote.
    pub text: String,
    /// How right it is, 0 to 1.
    pub accuracy: f64,
    /// Its reward.
    pub reward: f64,
    /// Whether it was cut off.
    pub truncated: bool,
}

impl From<statistics::Interval> for Interval {
    fn from(interval: statistics::Interval) -> Self {
        let statistics::Interval { mean, low, high, n } = interval;
        Self { mean, low, high, n: n as u32 }
    }
}

impl From<evaluate::Evaluation> for EvaluationReport {
    fn from(evaluation: evaluate::Evaluation) -> Self {
        let overall = evaluation.overall();
        let task = |(task, score): (owlet_adapters::task::TaskType, evaluate::Score)| TaskScore {
            task: task.name().to_owned(),
            accuracy: score.accuracy.into(),
            reward: score.reward.into(),
        };
        let tasks = evaluation.by_task().into_iter().map(task).collect();
        let answer = |answer: evaluate::Answer| EvaluatedAnswer {
            id: answer.id,
            text: answer.text,
            accuracy: answer.parts.accuracy,
            reward: answer.reward,
            truncated: answer.truncated,
        };
        Self {
            accuracy: overall.accuracy.into(),
            reward: overall.reward.into(),
            length: overall.length,
            tasks,
            answers: evaluation.answers.into_iter().map(answer).collect(),
        }
    }
}
