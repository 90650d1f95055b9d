//! Evaluation: greedy answers to held-out samples, scored and summed up with confidence intervals.

use std::collections::BTreeMap;

use owlet_runtime::{CancelToken, Deadline, Error, ErrorKind, Result, RngKey, SamplerOptions, Session};
use serde::{Deserialize, Serialize};

use crate::{
    data::Dataset,
    measure::prompt_lengths,
    reward::{Composition, Reward, RewardParts},
    rollout::{RolloutProgress, RolloutRules},
    round::{Question, Round},
    statistics::{Interval, mean_interval, paired_difference, wilson},
    task::TaskType,
};

/// Confidence of all intervals.
pub const CONFIDENCE: f64 = 0.95;

/// How held-out samples are asked.
pub struct EvaluateOptions<'a> {
    /// Longest response in tokens.
    pub max_new_tokens: usize,
    /// What is written behind every question; that of the training.
    pub suffix: &'a str,
    /// Scores the responses.
    pub reward: &'a dyn Reward,
    /// Parts to one number.
    pub composition: &'a Composition,
}

/// One answer and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Id of the sample.
    pub id: String,
    /// Its task type.
    pub task: TaskType,
    /// The response's text.
    pub text: String,
    /// Tokens, the end token included.
    pub n_tokens: usize,
    /// Whether it was cut off.
    pub truncated: bool,
    /// Parts of its reward.
    pub parts: RewardParts,
    /// Its reward.
    pub reward: f64,
}

/// Answers to all samples of a data set, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The answers.
    pub answers: Vec<Answer>,
}

/// Means over the answers to some samples, with 95 % intervals: Wilson's for accuracies that are all 0 or 1, Student's t
/// for the others and for rewards.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Mean accuracy, 0..=1.
    pub accuracy: Interval,
    /// Mean reward.
    pub reward: Interval,
    /// Mean length in tokens.
    pub length: f64,
}

impl Evaluation {
    /// Over all answers.
    pub fn overall(&self) -> Score {
        Score::of(self.answers.iter())
    }

    /// By task type.
    pub fn by_task(&self) -> BTreeMap<TaskType, Score> {
        let mut tasks: BTreeMap<TaskType, Vec<&Answer>> = BTreeMap::new();
        for answer in &self.answers {
            tasks.entry(answer.task).or_default().push(answer);
        }
        tasks.into_iter().map(|(task, answers)| (task, Score::of(answers.into_iter()))).collect()
    }

    /// The mean change of the reward from `before` to this evaluation of the same samples, by pairs.
    pub fn reward_gain(&self, before: &Evaluation) -> Interval {
        let rewards =
            |evaluation: &Evaluation| evaluation.answers.iter().map(|answer| answer.reward).collect::<Vec<_>>();
        paired_difference(&rewards(before), &rewards(self), CONFIDENCE)
    }
}

impl Score {
    fn of<'a>(answers: impl Iterator<Item = &'a Answer> + Clone) -> Self {
        let mean =
            |value: fn(&Answer) -> f64| mean_interval(&answers.clone().map(value).collect::<Vec<_>>(), CONFIDENCE);
        Self {
            accuracy: accuracy_interval(&answers.clone().map(|answer| answer.parts.accuracy).collect::<Vec<_>>()),
            reward: mean(|answer| answer.reward),
            length: mean(|answer| answer.n_tokens as f64).mean,
        }
    }
}

/// Student's t would be sure of 0 or 1 where all of a few answers are wrong or right.
fn accuracy_interval(accuracies: &[f64]) -> Interval {
    if accuracies.iter().all(|accuracy| [0.0, 1.0].contains(accuracy)) {
        let n_right = accuracies.iter().filter(|accuracy| **accuracy == 1.0).count();
        return wilson(n_right, accuracies.len(), CONFIDENCE);
    }
    mean_interval(accuracies, CONFIDENCE)
}

/// Asks every sample of `dataset` once, greedily, with the adapters that the sessions have.
///
/// # Errors
/// `ContextOverflow` for a prompt that does not fit the sessions' context and `InvalidInput` for one that does not invoke
/// their activated adapters, before the first answer; those of images,
/// prompts, generation and rewards; `Cancelled`.
pub fn evaluate(
    sessions: &mut [Session],
    dataset: &Dataset,
    options: &EvaluateOptions<'_>,
    cancel: &CancelToken,
    on_progress: &mut (dyn FnMut(RolloutProgress) + Send),
) -> Result<Evaluation> {
    if let Some(session) = sessions.first() {
        let max_tokens = session.options().n_ctx - 1;
        prompt_lengths(session.model(), dataset, options.suffix, max_tokens, session.invocation())?;
    }
    let sampler = SamplerOptions::greedy();
    let rules = RolloutRules {
        sampler: &sampler,
        max_new_tokens: options.max_new_tokens,
        suffix: options.suffix,
        reward: options.reward,
        composition: options.composition,
    };
    let n_responses = dataset.len();
    let mut answers = Vec::with_capacity(n_responses);
    let mut n_tokens = 0;
    // In parts: prompts with their image embeddings are held only as long as they are asked about.
    let n_portion = 4 * sessions.iter().map(|session| session.options().n_seq).max().unwrap_or(1);
    let n_part = n_portion * sessions.len().max(1);
    let deadline = Deadline::never().or_cancelled(cancel);
    for first in (0..n_responses).step_by(n_part) {
        let part = first..(first + n_part).min(n_responses);
        let questions = part.clone().map(|sample| Question { sample, rng_key: RngKey::default() }).collect();
        let mut round = Round::new(questions, 1, n_portion.min(part.len().div_ceil(sessions.len().max(1))));
        let is_done = round.advance(sessions, dataset.samples(), &rules, &deadline, &mut |progress| {
            on_progress(RolloutProgress {
                n_done: first + progress.n_done,
                n_responses,
                n_tokens: n_tokens + progress.n_tokens,
            });
        })?;
        cancel.check()?;
        if !is_done {
            return Err(Error::new(ErrorKind::InvalidInput, "no session to ask in"));
        }
        for group in round.into_groups() {
            let sample = &dataset.samples()[group.sample];
            for rollout in group.rollouts {
                n_tokens += rollout.tokens.len();
                answers.push(Answer {
                    id: sample.id.clone(),
                    task: sample.task_type,
                    text: rollout.text,
                    n_tokens: rollout.tokens.len(),
                    truncated: rollout.truncated,
                    parts: rollout.parts,
                    reward: rollout.reward,
                });
            }
        }
    }
    Ok(Evaluation { answers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(accuracies: &[f64]) -> Score {
        let answer = |&accuracy: &f64| Answer {
            id: String::new(),
            task: TaskType::Ocr,
            text: String::new(),
            n_tokens: 3,
            truncated: false,
            parts: RewardParts { accuracy, ..RewardParts::default() },
            reward: accuracy,
        };
        Evaluation { answers: accuracies.iter().map(answer).collect() }.overall()
    }

    #[test]
    fn a_few_answers_are_never_certain() {
        let (none, all) = (score(&[0.0; 40]).accuracy, score(&[1.0; 40]).accuracy);
        assert!(none.low == 0.0 && (0.08..0.1).contains(&none.high), "{none:?}");
        assert!(all.high == 1.0 && (0.9..0.92).contains(&all.low), "{all:?}");
        let shares = [0.25, 0.5, 1.0, 0.0];
        assert_eq!(score(&shares).accuracy, mean_interval(&shares, CONFIDENCE));
        assert_eq!(score(&[0.0, 1.0]).accuracy, wilson(1, 2, CONFIDENCE));
        assert!(score(&[]).accuracy.mean == 0.0 && score(&[]).length == 0.0);
    }
}
