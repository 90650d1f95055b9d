//! Several answers to one question made into one: majority, minimum Bayes risk, best of n.
//!
//! `Generated answers -> Candidate -> Poll (what each answers, which are malformed) -> Verdict`. Pure functions of the texts
//! and their log-probabilities; `generate` with n above 1 draws the samples over one computed prompt. What is thinking and
//! what is the answer was told by the runtime, which knows templates, constraints and stop strings.
//!
//! - [`Poll::majority`]: the answer that most samples give (self-consistency, arXiv 2203.11171, section 2). Answers are the
//!   same by their task: choices by letter, numbers by value, mathematics by equivalence, boxes by their coordinates, text
//!   without regard to case, spacing and the punctuation around it (transcriptions: spacing alone).
//! - [`Poll::minimum_risk`]: the sample that agrees most with all others, as if each of these were the truth (minimum Bayes
//!   risk decoding, arXiv 2202.07808, section 3). The measure is the accuracy that rewards train on, for boxes the overlap
//!   of [`boxes_overlap`].
//! - [`Poll::best`]: the sample with the highest score that a caller gives, such as a reward or [`Candidate::mean_logprob`].
//!
//! Malformed samples (cut off, without an answer, or one that its task cannot read) win only where all are. Ties go to the
//! higher log-probability, then to the earlier sample.

mod answer;
mod boxes;

use owlet_runtime::{Error, ErrorKind, Generated, Result, StopReason};
use serde::Serialize;

use self::answer::Reading;
pub use self::{
    answer::guess_problem,
    boxes::{LabelledBox, boxes_overlap, parse_boxes},
};
use crate::task::ProblemType;

/// One of several answers to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it answers: [`Generated::text`].
    pub answer: String,
    /// The whole response with thinking and tags, special tokens left out, for scores that rate its format.
    pub response: String,
    /// Natural log-probability of the response: the sum over the tokens that the model picked.
    pub logprob: f64,
    /// Tokens that the model picked, the end token included: all but [`Generated::forced`].
    pub n_tokens: usize,
    /// Whether it was not cut off: the model ended it itself, or whoever looked for a stop, or it is what its constraint asks for.
    pub is_complete: bool,
}

impl Candidate {
    /// `generated`, the tokens of which say `response`.
    pub fn new(response: String, generated: &Generated) -> Self {
        let logprobs = generated.logprobs.iter().enumerate().filter(|(index, _)| !generated.forced.contains(index));
        let ends_itself =
            matches!(generated.stop, StopReason::EndOfAnswer | StopReason::StopString(_) | StopReason::Caller);
        Self {
            answer: generated.text.clone(),
            response,
            n_tokens: logprobs.clone().count(),
            logprob: logprobs.map(|(_, &logprob)| f64::from(logprob)).sum(),
            is_complete: ends_itself || generated.meets_constraint == Some(true),
        }
    }

    /// Log-probability for each token, which does not prefer short answers.
    pub fn mean_logprob(&self) -> f64 {
        self.logprob / self.n_tokens.max(1) as f64
    }
}

/// How a winner is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VoteRule {
    /// [`Poll::majority`].
    Majority,
    /// [`Poll::minimum_risk`].
    MinimumRisk,
    /// [`Poll::best`].
    Best,
}

impl VoteRule {
    /// The rule that suits `problem`: majority where answers are either the same or not, minimum risk where they may be
    /// close to each other.
    pub fn suited_to(problem: ProblemType) -> Self {
        match problem {
            ProblemType::MultipleChoice | ProblemType::Numerical | ProblemType::Math => Self::Majority,
            ProblemType::Regression | ProblemType::Ocr | ProblemType::OpenEnded | ProblemType::SpatialGrounding => {
                Self::MinimumRisk
            }
        }
    }
}

/// Who won, and how the samples stood.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Index of the winning sample.
    pub winner: usize,
    /// How it was found.
    pub rule: VoteRule,
    /// The winner's weight.
    pub support: f64,
    /// In the order of the samples.
    pub ballots: Vec<Ballot>,
}

/// What one sample counted for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ballot {
    /// Its final answer.
    pub answer: String,
    /// Whether its task can read it.
    pub is_well_formed: bool,
    /// Majority: the share of all samples that give its answer, 0..=1. Minimum risk: its mean agreement with the other
    /// samples, 0..=1, where malformed ones agree with nothing; 1 without others. Best of n: its score. Malformed samples
    /// have 0 but for best of n.
    pub weight: f64,
}

/// Samples of one question, read.
#[derive(Debug)]
pub struct Poll<'a> {
    problem: ProblemType,
    options: &'a [String],
    candidates: &'a [Candidate],
    answers: Vec<&'a str>,
    /// What is meant; `None` for malformed samples.
    readings: Vec<Option<Reading>>,
}

impl<'a> Poll<'a> {
    /// Reads `candidates` as answers to a question of type `problem`; `options` are those of a multiple choice, such as
    /// `A. cat`, where known: letters and texts are then the same answer, and others are malformed.
    ///
    /// # Errors
    /// `InvalidInput` without candidates.
    pub fn new(problem: ProblemType, options: &'a [String], candidates: &'a [Candidate]) -> Result<Self> {
        if candidates.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "nothing to vote on").needed("at least one sample"));
        }
        let answers: Vec<_> = candidates.iter().map(|candidate| candidate.answer.trim()).collect();
        let read = |(candidate, answer): (&Candidate, &&str)| {
            Reading::of(answer, problem, options).filter(|_| candidate.is_complete)
        };
        let readings = candidates.iter().zip(&answers).map(read).collect();
        Ok(Self { problem, options, candidates, answers, readings })
    }

    /// The verdict by `rule`; best of n by [`Candidate::mean_logprob`].
    pub fn by(&self, rule: VoteRule) -> Verdict {
        match rule {
            VoteRule::Majority => self.majority(),
            VoteRule::MinimumRisk => self.minimum_risk(),
            VoteRule::Best => self.best(Candidate::mean_logprob),
        }
    }

    /// The answer of most samples. Of answers with as many samples, the one whose samples have the highest sum of
    /// log-probabilities; of its samples, the most probable.
    pub fn majority(&self) -> Verdict {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in self.well_formed() {
            match groups.iter_mut().find(|group| self.is_same(group[0], index)) {
                Some(group) => group.push(index),
                None => groups.push(vec![index]),
            }
        }
        let mut weights = vec![0.0; self.candidates.len()];
        for group in &groups {
            group.iter().for_each(|&index| weights[index] = group.len() as f64 / self.candidates.len() as f64);
        }
        let logprob = |group: &[usize]| group.iter().map(|&index| self.candidates[index].logprob).sum::<f64>();
        let best = groups.iter().rev().max_by(|a, b| a.len().cmp(&b.len()).then(logprob(a).total_cmp(&logprob(b))));
        let everyone: Vec<_> = (0..self.candidates.len()).collect();
        let winner = self.most_probable(best.unwrap_or(&everyone));
        self.verdict(VoteRule::Majority, winner, weights)
    }

    /// The sample with the highest mean agreement with the others.
    pub fn minimum_risk(&self) -> Verdict {
        let n_others = self.candidates.len() - 1;
        let agreement = |index: usize| -> f64 {
            let others = self.well_formed().filter(|&other| other != index);
            let total: f64 = others.map(|other| self.agreement(index, other)).sum();
            if n_others == 0 { 1.0 } else { total / n_others as f64 }
        };
        let weight = |index: usize| if self.readings[index].is_some() { agreement(index) } else { 0.0 };
        let weights: Vec<f64> = (0..self.candidates.len()).map(weight).collect();
        let winner = self.highest(&weights);
        self.verdict(VoteRule::MinimumRisk, winner, weights)
    }

    /// The sample with the highest `score`; one that is no number counts as the lowest.
    pub fn best(&self, score: impl Fn(&Candidate) -> f64) -> Verdict {
        let number = |score: f64| if score.is_nan() { f64::NEG_INFINITY } else { score };
        let weights: Vec<_> = self.candidates.iter().map(|candidate| number(score(candidate))).collect();
        let winner = self.highest(&weights);
        self.verdict(VoteRule::Best, winner, weights)
    }

    fn verdict(&self, rule: VoteRule, winner: usize, weights: Vec<f64>) -> Verdict {
        let support = weights[winner];
        let rows = self.answers.iter().zip(&self.readings).zip(weights);
        let ballot = |((answer, reading), weight): ((&&str, &Option<Reading>), f64)| Ballot {
            answer: (*answer).to_owned(),
            is_well_formed: reading.is_some(),
            weight,
        };
        Verdict { winner, rule, support, ballots: rows.map(ballot).collect() }
    }

    fn well_formed(&self) -> impl Iterator<Item = usize> {
        (0..self.candidates.len()).filter(|&index| self.readings[index].is_some())
    }

    fn is_same(&self, left: usize, right: usize) -> bool {
        matches!((&self.readings[left], &self.readings[right]), (Some(left), Some(right)) if left.is_same(right))
    }

    /// How right sample `index` would be if `truth` were.
    fn agreement(&self, index: usize, truth: usize) -> f64 {
        match (&self.readings[index], &self.readings[truth]) {
            (Some(reading), Some(truth)) => reading.agreement(truth, self.problem, self.options),
            _ => 0.0,
        }
    }

    /// The well-formed sample of the highest weight, of any where none is well-formed.
    fn highest(&self, weights: &[f64]) -> usize {
        let mut eligible: Vec<_> = self.well_formed().collect();
        if eligible.is_empty() {
            eligible.extend(0..self.candidates.len());
        }
        let highest = eligible.iter().map(|&index| weights[index]).fold(f64::NEG_INFINITY, f64::max);
        // Sums of the same numbers in another order differ by their rounding.
        eligible.retain(|&index| weights[index] >= highest - 1e-12);
        self.most_probable(&eligible)
    }

    /// The first of the most probable; `indices` are not empty.
    fn most_probable(&self, indices: &[usize]) -> usize {
        let logprob = |index: usize| self.candidates[index].logprob;
        indices
            .iter()
            .copied()
            .reduce(|best, next| if logprob(next) > logprob(best) { next } else { best })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
