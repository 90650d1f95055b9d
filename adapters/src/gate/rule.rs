//! Whether an adapter may go live: the rule, what it looks at, and the reasons of a refusal. Pure functions of answers.

use std::{collections::BTreeMap, fmt};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{
    evaluate::{Answer, CONFIDENCE, Evaluation},
    statistics::{Interval, paired_difference},
    task::TaskType,
};

/// When a candidate may take the place of the adapter that is live, or of the base where none is.
///
/// Both answer the same held-out samples greedily. The change of the reward is taken sample by sample: what makes a question
/// hard or easy is then the same on both sides, so fewer questions show a difference (paired differences, as arXiv
/// 2411.00640 recommends for comparing two models). The interval is Student's t at 95 % over these differences
/// ([`paired_difference`]); samples count as independent, so ask one question about each picture, or the interval is too
/// narrow.
///
/// A candidate passes if all of these hold:
///
/// 1. the mean change is at least [`GateRule::least_gain`];
/// 2. the interval lies above `-most_loss` ([`GateRule::most_loss`]): at 0 the candidate is better beyond chance, above 0 it
///    may be as good and is not worse by more than this beyond chance (a non-inferiority margin, as in the EMA's guideline
///    CPMP/EWP/2158/99);
/// 3. no task type's mean change is below `-most_task_loss` ([`GateRule::most_task_loss`]) with an interval below 0: what
///    is learned must not cost another ability.
///
/// The third is asked of every task type without a correction for their number: it errs towards refusing. A gate that is
/// asked about candidate after candidate with the same held-out samples lets one through by chance in the end; renew them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateRule {
    /// Fewest held-out samples, at least 2. Default 30: below, the t interval leans on differences being near normal.
    pub min_samples: usize,
    /// Least mean change of the reward, finite. Default 0.
    pub least_gain: f64,
    /// What the reward may be lower by at the lower end of the interval; finite, not negative. Default 0.
    pub most_loss: f64,
    /// The same for every task type by itself, by its mean; finite, not negative. Default 0.1.
    pub most_task_loss: f64,
}

impl Default for GateRule {
    fn default() -> Self {
        Self { min_samples: 30, least_gain: 0.0, most_loss: 0.0, most_task_loss: 0.1 }
    }
}

impl GateRule {
    /// # Errors
    /// `InvalidInput` naming the first number that is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let refused = |name: &str, got: String, needed: &str| {
            let error = Error::new(ErrorKind::InvalidInput, "gate rule out of range").at(name);
            Err(error.got(got).needed(needed))
        };
        if self.min_samples < 2 {
            return refused("min_samples", self.min_samples.to_string(), "at least 2");
        }
        if !self.least_gain.is_finite() {
            return refused("least_gain", self.least_gain.to_string(), "a finite number");
        }
        for (name, loss) in [("most_loss", self.most_loss), ("most_task_loss", self.most_task_loss)] {
            if !(0.0..f64::INFINITY).contains(&loss) {
                return refused(name, loss.to_string(), "finite, not negative");
            }
        }
        Ok(())
    }

    /// # Errors
    /// `InvalidInput` for fewer samples than the rule wants.
    pub fn check_samples(&self, n: usize) -> Result<()> {
        if n >= self.min_samples {
            return Ok(());
        }
        let error = Error::new(ErrorKind::InvalidInput, "too few held-out samples to judge an adapter");
        Err(error.got(n).needed(format!("at least {}", self.min_samples)))
    }

    /// Why `after` may not follow `before`, answers to the same samples; empty if it may.
    pub fn judge(&self, before: &Evaluation, after: &Evaluation) -> (Vec<Reason>, Changes) {
        let changes = Changes::of(before, after);
        let mut reasons = Vec::new();
        let change = changes.reward.change;
        // A number that is none is no gain, and not above anything.
        let (gains, is_above) = (change.mean >= self.least_gain, change.low > -self.most_loss);
        if !gains {
            reasons.push(Reason::SmallGain { change, needed: self.least_gain });
        }
        if !is_above {
            reasons.push(Reason::MayBeWorse { change, allowed: self.most_loss });
        }
        for (task, reward) in &changes.tasks {
            if reward.change.mean < -self.most_task_loss && reward.change.high < 0.0 {
                reasons.push(Reason::TaskLost { task: *task, change: reward.change, allowed: self.most_task_loss });
            }
        }
        (reasons, changes)
    }
}

/// A mean before and after, and its change by pairs with a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Mean of what is live now, or of the base.
    pub before: f64,
    /// Mean of the candidate.
    pub after: f64,
    /// The mean of the differences.
    pub change: Interval,
}

impl Change {
    fn of<'a>(pairs: &[(&'a Answer, &'a Answer)], value: fn(&Answer) -> f64) -> Self {
        let before: Vec<_> = pairs.iter().map(|(before, _)| value(before)).collect();
        let after: Vec<_> = pairs.iter().map(|(_, after)| value(after)).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self { before: mean(&before), after: mean(&after), change: paired_difference(&before, &after, CONFIDENCE) }
    }
}

/// What a candidate changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changes {
    /// The reward over all samples.
    pub reward: Change,
    /// The accuracy over all samples, for people; the rule looks at rewards.
    pub accuracy: Change,
    /// The reward by task type.
    pub tasks: BTreeMap<TaskType, Change>,
}

impl Changes {
    fn of(before: &Evaluation, after: &Evaluation) -> Self {
        let pairs: Vec<_> = before.answers.iter().zip(&after.answers).collect();
        let mut tasks: BTreeMap<TaskType, Vec<_>> = BTreeMap::new();
        for pair in &pairs {
            tasks.entry(pair.0.task).or_default().push(*pair);
        }
        let reward = |answer: &Answer| answer.reward;
        Self {
            reward: Change::of(&pairs, reward),
            accuracy: Change::of(&pairs, |answer| answer.parts.accuracy),
            tasks: tasks.into_iter().map(|(task, pairs)| (task, Change::of(&pairs, reward))).collect(),
        }
    }
}

/// Why a candidate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    /// The mean reward does not rise by as much as the rule wants.
    SmallGain {
        /// Change of the reward.
        change: Interval,
        /// [`GateRule::least_gain`].
        needed: f64,
    },
    /// The reward may have fallen by more than the rule allows, as far as so many samples can tell.
    MayBeWorse {
        /// Change of the reward.
        change: Interval,
        /// [`GateRule::most_loss`].
        allowed: f64,
    },
    /// The reward of a task type fell by more than the rule allows.
    TaskLost {
        /// Which.
        task: TaskType,
        /// Change of its reward.
        change: Interval,
        /// [`GateRule::most_task_loss`].
        allowed: f64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = |change: &Interval| format!("{:+.3} [{:+.3}, {:+.3}]", change.mean, change.low, change.high);
        match self {
            Self::SmallGain { change, needed } => {
                write!(f, "the mean reward changes by {:+.3}, needed at least {needed:+.3}", change.mean)
            }
            Self::MayBeWorse { change, allowed } => {
                write!(f, "the reward changes by {}, needed an interval above {:+.3}", numbers(change), 0.0 - allowed)
            }
            Self::TaskLost { task, change, allowed } => {
                write!(f, "the reward of {task} changes by {}, needed at least {:+.3}", numbers(change), 0.0 - allowed)
            }
        }
    }
}

/// What the gate says of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Hash of the candidate's file.
    pub candidate: String,
    /// Hash of the adapter that it was compared with; `None` for the base.
    pub against: Option<String>,
    /// [`crate::data::Dataset::hash`] of the held-out samples.
    pub held_out: String,
    /// Number of held-out samples.
    pub n_samples: usize,
    /// Name of the reward.
    pub reward_name: String,
    /// The rule that was applied.
    pub rule: GateRule,
    /// The numbers.
    pub changes: Changes,
    /// Why it is refused; empty where it is accepted.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Whether the candidate may go live.
    pub fn is_accepted(&self) -> bool {
        self.reasons.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::RewardParts;

    /// `n` answers of each task with the rewards that `reward` gives.
    fn answers(tasks: &[TaskType], n: usize, reward: impl Fn(TaskType, usize) -> f64) -> Evaluation {
        let answer = |task: TaskType, index: usize| Answer {
            id: format!("{task} {index}"),
            task,
            text: String::new(),
            n_tokens: 1,
            truncated: false,
            parts: RewardParts { accuracy: reward(task, index), ..RewardParts::default() },
            reward: reward(task, index),
        };
        Evaluation {
            answers: tasks
                .iter()
                .flat_map(|&task| (0..n).map(move |index| (task, index)))
                .map(|(task, index)| answer(task, index))
                .collect(),
        }
    }

    /// Of the task and the number of a sample.
    type Reward = fn(TaskType, usize) -> f64;
    /// Name, rule, tasks of the samples, their rewards, and what the verdict says.
    type Case<'a> = (&'a str, GateRule, &'a [TaskType], Reward, &'a [&'a str]);

    #[test]
    fn candidates_pass_by_the_change_of_the_reward_and_of_every_task() {
        let (one, two) = ([TaskType::Ocr].as_slice(), [TaskType::Ocr, TaskType::ChartQa].as_slice());
        let strict = GateRule::default();
        let lenient = GateRule { most_loss: 0.05, ..strict };
        let demanding = GateRule { least_gain: 0.2, ..strict };
        let base: Reward = |_, index| (index % 5) as f64 / 5.0;
        let cases: [Case; 9] = [
            ("the same", strict, one, |_, index| (index % 5) as f64 / 5.0, &["above +0.000"]),
            ("the same, which is allowed", lenient, one, |_, index| (index % 5) as f64 / 5.0, &[]),
            ("better on every question", strict, one, |_, index| (index % 5) as f64 / 5.0 + 0.1, &[]),
            ("better by too little", demanding, one, |_, index| (index % 5) as f64 / 5.0 + 0.1, &["at least +0.200"]),
            (
                "better by chance: a few rise a lot, many fall a little",
                strict,
                one,
                |_, index| (index % 5) as f64 / 5.0 + if index % 10 == 0 { 1.0 } else { -0.05 },
                &["above +0.000"],
            ),
            ("worse", lenient, one, |_, index| (index % 5) as f64 / 5.0 - 0.06, &["at least +0.000", "above -0.050"]),
            (
                "one task up, the other lost",
                strict,
                two,
                |task, index| (index % 5) as f64 / 5.0 + if task == TaskType::Ocr { 0.9 } else { -0.3 },
                &["chart_figure_qa"],
            ),
            (
                "one task up, the other down within the limit",
                strict,
                two,
                |task, index| (index % 5) as f64 / 5.0 + if task == TaskType::Ocr { 0.9 } else { -0.09 },
                &[],
            ),
            ("no number", strict, one, |_, _| f64::NAN, &["at least", "above"]),
        ];
        for (name, rule, tasks, reward, expected) in cases {
            rule.validate().expect("a good rule");
            let (reasons, changes) = rule.judge(&answers(tasks, 30, base), &answers(tasks, 30, reward));
            let told: Vec<_> = reasons.iter().map(Reason::to_string).collect();
            assert_eq!(told.len(), expected.len(), "{name}: {told:?}");
            assert!(told.iter().zip(expected).all(|(told, expected)| told.contains(expected)), "{name}: {told:?}");
            assert_eq!((changes.reward.change.n, changes.tasks.len()), (30 * tasks.len(), tasks.len()), "{name}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let rule = GateRule::default();
        for (bad, name) in [
            (GateRule { min_samples: 1, ..rule }, "min_samples"),
            (GateRule { least_gain: f64::NAN, ..rule }, "least_gain"),
            (GateRule { most_loss: -0.1, ..rule }, "most_loss"),
            (GateRule { most_task_loss: f64::INFINITY, ..rule }, "most_task_loss"),
        ] {
            let error = bad.validate().expect_err("refused");
            assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(name), "{error}");
        }
        assert!(rule.check_samples(29).is_err() && rule.check_samples(30).is_ok());
    }
}
