//! Rewards that can be verified: how right a response is, and whether it has the form that was asked for.
//!
//! Comes after the rollouts and before `advantage.rs`. A [`Reward`] gives the parts of a response's reward, each in
//! 0..=1, and [`Composition`] weighs them. [`VerifiableReward`] has the rules of OpenVLThinkerV2
//! (arXiv 2604.08539, section 2.3, and its released code) for the image problem types:
//!
//! | `problem_type` | accuracy |
//! |---|---|
//! | multiple choice | 1 if the letter of the option is named |
//! | numerical | 1 if equal after rounding to two decimals |
//! | regression | share of ten tolerances from 50 % to 5 % that the relative error is below |
//! | OCR | 1 - word error rate, at least 0 |
//! | open-ended | mean of ROUGE-1, ROUGE-2, ROUGE-L |
//! | math | 1 if equivalent |
//! | spatial grounding | intersection over union of the boxes |
//!
//! Format is 1 for `<thinking>..</thinking><answer>..</answer>` and nothing else. Structure is 0.5 where the format
//! is right and, for boxes, the answer is the JSON that was asked for. Accuracy does not depend on the format: a
//! response without tags is its own answer.
//!
//! Where the released code is wrong by its own intent we do not follow it. The deviations, each with golden cases
//! in `tests/suite/rewards.rs`:
//!
//! | rule | released code | here |
//! |---|---|---|
//! | tags | white space around every `<`, `>` and `/` of the response is removed, so `a < b` can never be read right | white space is ignored inside the two tags only |
//! | two answers | well formed; the first counts, even inside the thinking | not well formed; the first after the thinking counts |
//! | choice | `A.`, `A)`, `**A**`, `A. text`, `Option A` are wrong, a list in another order too | right; a text that contradicts the letter makes it wrong |
//! | numerical | `$5`, `50%`, `1/2`, `\boxed{3}` are no numbers; `1_000`, `inf` and `1,2,3,4` are; binary halves | the reverse; decimal halves may be rounded either way |
//! | open-ended | import commented out: always 0; ROUGE-2 of one word is 0; ASCII letters only | works; ROUGE-2 is left out where neither side has two words; letters of all scripts |
//! | math | letters, words, bare tuples, bare roots and `1.5e2` never match; units are ignored | they match; two different units do not |
//! | boxes | `NaN` and `true` are numbers | they are not, and the structure is wrong |

mod choice;
mod grounding;
mod math;
mod number;
mod ocr;
mod parse;
mod stem;
mod text;

use std::collections::BTreeMap;

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

pub(crate) use choice::canonical as canonical_choice;
pub use grounding::parse_box;
pub(crate) use grounding::{coordinates, intersection_over_union};
pub(crate) use number::parse_number;
pub use parse::{Parsed, parse};

use crate::{
    data::Sample,
    length::LengthEnvelope,
    task::{ProblemType, TaskType},
};

/// The parts of a response's reward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RewardParts {
    /// How right the answer is, 0..=1. Online filtering looks at this part.
    pub accuracy: f64,
    /// Whether the tags are as asked for, 0 or 1.
    pub format: f64,
    /// Whether the answer has the structure of its problem type, 0..=0.5.
    pub structure: f64,
}

/// Scores responses. Implementations are called from several threads at once, for as long as they take, and must be
/// deterministic: resumed runs are bit-identical only then.
pub trait Reward: Send + Sync {
    /// Identifies the rule in checkpoints: a run goes on only with the reward that it began with.
    fn name(&self) -> &str;

    /// The parts of the reward for `response`, the text that was generated for `sample`, special tokens left out.
    ///
    /// # Errors
    /// Whatever kept the rule from a judgement, such as a program that it asks. It ends the step, or the evaluation, at
    /// the sample's place; the answers of a step are kept, and the next call asks for their rewards again.
    fn score(&self, response: &str, sample: &Sample) -> Result<RewardParts>;
}

/// The built-in rules; see the module's description.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifiableReward;

impl Reward for VerifiableReward {
    fn name(&self) -> &str {
        "verifiable"
    }

    fn score(&self, response: &str, sample: &Sample) -> Result<RewardParts> {
        let parsed = parse(response);
        let is_structured = parsed.well_formed
            && (sample.problem_type != ProblemType::SpatialGrounding || parse_box(parsed.answer).is_some());
        Ok(RewardParts {
            accuracy: accuracy(sample.problem_type, parsed.answer, &sample.answer, &sample.options),
            format: f64::from(u8::from(parsed.well_formed)),
            structure: if is_structured { 0.5 } else { 0.0 },
        })
    }
}

/// How right `answer` is, 0..=1. `options` are those of a multiple choice, as `A. text`; empty where unknown.
pub fn accuracy(problem: ProblemType, answer: &str, truth: &str, options: &[String]) -> f64 {
    match problem {
        ProblemType::MultipleChoice => choice::score(answer, truth, options),
        ProblemType::Numerical => number::score_equal(answer, truth),
        ProblemType::Regression => number::score_close(answer, truth),
        ProblemType::Ocr => ocr::score(answer, truth),
        ProblemType::OpenEnded => text::score(answer, truth),
        ProblemType::Math => math::score(answer, truth),
        ProblemType::SpatialGrounding => grounding::score(answer, truth),
    }
}

/// `(1 - format_weight - w) accuracy + format_weight format + structure + w length`, where `w` is `length_weight` for task
/// types with an envelope and 0 for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Composition {
    /// Weight of the format, 0..=1. Default 0.1.
    pub format_weight: f64,
    /// Weight of the length, not negative, at most 1 together with the format. Default 0.
    pub length_weight: f64,
    /// Length envelopes in tokens. Default none: no thresholds are published.
    pub envelopes: BTreeMap<TaskType, LengthEnvelope>,
}

impl Default for Composition {
    fn default() -> Self {
        Self { format_weight: 0.1, length_weight: 0.0, envelopes: BTreeMap::new() }
    }
}

impl Composition {
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if a weight is out of its documented range or an envelope is no trapezoid.
    pub fn validate(&self) -> Result<()> {
        let Self { format_weight, length_weight, envelopes } = self;
        if !(*format_weight >= 0.0 && *length_weight >= 0.0 && format_weight + length_weight <= 1.0) {
            return Err(Error::new(ErrorKind::InvalidInput, "reward weights out of range")
                .got(format!("format {format_weight}, length {length_weight}"))
                .needed("both at least 0, together at most 1"));
        }
        envelopes.iter().try_for_each(|(task, envelope)| envelope.validate().map_err(|error| error.at(task)))
    }

    /// The reward of a response of `n_tokens` to a sample of `task`; at most 1.5.
    pub fn overall(&self, parts: &RewardParts, task: TaskType, n_tokens: usize) -> f64 {
        let (length_weight, length) = match self.envelopes.get(&task) {
            Some(envelope) => (self.length_weight, envelope.score(n_tokens)),
            None => (0.0, 0.0),
        };
        (1.0 - self.format_weight - length_weight) * parts.accuracy
            + self.format_weight * parts.format
            + parts.structure
            + length_weight * length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_weighed_as_in_the_reference() {
        let right = RewardParts { accuracy: 1.0, format: 1.0, structure: 0.5 };
        let untagged = RewardParts { accuracy: 1.0, ..RewardParts::default() };
        let plain = Composition::default();
        assert_eq!(plain.overall(&right, TaskType::Ocr, 7), 1.5);
        assert_eq!(plain.overall(&untagged, TaskType::Ocr, 7), 0.9);
        let envelope = LengthEnvelope { min_start: 0, peak_start: 10, peak_end: 20, max_end: 30 };
        let shaped = Composition { length_weight: 0.1, envelopes: [(TaskType::Ocr, envelope)].into(), ..plain };
        assert!((shaped.overall(&right, TaskType::Ocr, 5) - 1.45).abs() < 1e-12);
        assert_eq!(shaped.overall(&right, TaskType::ChartQa, 5), 1.5, "a task without an envelope is not shaped");
        assert!(shaped.validate().is_ok());
        assert!(Composition { length_weight: 1.0, ..shaped }.validate().is_err());
    }
}
