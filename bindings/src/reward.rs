//! Rewards that the app computes.

use std::sync::Arc;

use owlet_adapters::{data, reward};
use owlet_runtime as runtime;

use crate::{
    data::{ProblemType, TaskType},
    error::{Result, callback},
};

/// The parts of an answer's reward, each 0 to 1; weighed, they make up what is learned from.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct RewardParts {
    /// How right the answer is, 0 to 1. Questions whose answers are all equally right teach nothing.
    pub accuracy: f64,
    /// Whether the tags are as asked for, 0 or 1.
    #[uniffi(default)]
    pub format: f64,
    /// Whether the answer has the structure of its problem type, 0 to 0.5.
    #[uniffi(default)]
    pub structure: f64,
}

/// What a reward sees of the sample that was asked.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct SampleView {
    /// Its name.
    pub id: String,
    /// The question.
    pub problem: String,
    /// The truth.
    pub answer: String,
    /// How it would be scored by Owlet's own rules.
    pub problem_type: ProblemType,
    /// Which ability it trains.
    pub task_type: TaskType,
    /// Options of a multiple choice.
    pub options: Vec<String>,
}

/// Scores answers. It is called from several threads at once and must be deterministic: a run that was stopped and resumed ends
/// in the same adapter only then.
#[uniffi::export(with_foreign)]
pub trait Reward: Send + Sync {
    /// The rule's name and version: a run goes on only with the rule that it began with. Asked once.
    fn name(&self) -> Result<String>;

    /// The parts of the reward for `response`, the whole text that the model wrote. What is thrown ends the run, which can go on.
    fn score(&self, response: String, sample: SampleView) -> Result<RewardParts>;
}

/// A reward of the app as the trainer takes it.
struct Foreign {
    name: String,
    reward: Arc<dyn Reward>,
}

/// The app's reward, or Owlet's own rules for the problem types.
pub(crate) fn build(reward: Option<Arc<dyn Reward>>) -> Result<Arc<dyn reward::Reward>> {
    let Some(reward) = reward else { return Ok(Arc::new(reward::VerifiableReward)) };
    let name = reward.name().map_err(|error| callback("Reward.name", error))?;
    Ok(Arc::new(Foreign { name, reward }))
}

impl reward::Reward for Foreign {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&self, response: &str, sample: &data::Sample) -> runtime::Result<reward::RewardParts> {
        let view = SampleView {
            id: sample.id.clone(),
            problem: sample.problem.clone(),
            answer: sample.answer.clone(),
            problem_type: sample.problem_type.into(),
            task_type: sample.task_type.into(),
            options: sample.options.clone(),
        };
        let parts = self.reward.score(response.to_owned(), view).map_err(|error| callback("Reward.score", error))?;
        let RewardParts { accuracy, format, structure } = parts;
        Ok(reward::RewardParts { accuracy, format, structure })
    }
}
