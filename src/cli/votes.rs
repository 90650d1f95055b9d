//! Several samples of `owlet run` made into one answer.

use clap::{Args, ValueEnum};
use owlet::{
    Generated, Model, ProblemType,
    vote::{Ballot, Candidate, Poll, Verdict, VoteRule, guess_problem},
};
use serde::Serialize;

use super::{
    failure::{Failure, Result},
    model::SamplingArgs,
    run::stop_name,
};

/// Samples that are decoded side by side; others wait.
const MAX_LANES: usize = 8;
/// More samples than an answer is worth.
const MAX_SAMPLES: usize = 256;

/// How many answers are drawn, and how one is made of them.
#[derive(Args, Debug)]
pub(crate) struct VotingArgs {
    /// Draw this many answers to the prompt, which is computed once, and print the one that wins; needs a temperature [default: 1]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// How an answer wins [default: mbr for boxes and texts, majority for the others]
    #[arg(long, value_enum, requires = "samples")]
    vote: Option<VoteArg>,
    /// The kind of answer, which decides what counts as the same [default: what most of the answers look like]
    #[arg(long, value_enum, requires = "samples")]
    expect: Option<ExpectArg>,
    /// What the best answer is the best by, with `--vote best` [default: mean-logprob]
    #[arg(long, value_enum, requires = "vote")]
    best_by: Option<BestBy>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VoteArg {
    /// The answer that most samples give
    Majority,
    /// The sample that agrees most with the others (minimum Bayes risk): boxes by their overlap
    Mbr,
    /// The sample with the best score by itself
    Best,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExpectArg {
    /// One or many boxes as JSON
    Box,
    /// Letters of a choice
    Choice,
    /// A number
    Number,
    /// A formula or number, by equivalence
    Math,
    /// Printed text, word by word
    Transcript,
    /// Free text
    Text,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BestBy {
    /// Log-probability for each token
    MeanLogprob,
    /// Log-probability of the whole answer
    Logprob,
    /// Tags as rewards ask for them: <thinking>..</thinking><answer>..</answer>, then the log-probability
    Format,
}

/// How the samples voted.
#[derive(Debug, Serialize)]
pub(crate) struct VoteReport {
    rule: VoteRule,
    /// How answers were read.
    problem_type: ProblemType,
    /// Index of the sample that won.
    pub(crate) winner: usize,
    /// Majority: the winner's share of all samples; minimum risk: its mean agreement with the others; best: its score.
    support: f64,
    samples: Vec<SampleReport>,
}

#[derive(Debug, Serialize)]
struct SampleReport {
    #[serde(flatten)]
    ballot: Ballot,
    thinking: String,
    logprob: f64,
    mean_logprob: f64,
    n_tokens: usize,
    stop: &'static str,
}

impl VotingArgs {
    /// Refuses numbers that make no sense, also with those of `sampling`.
    pub(crate) fn check(&self, sampling: &SamplingArgs) -> Result<()> {
        if !(1..=MAX_SAMPLES).contains(&self.n_samples()) {
            return Err(Failure::argument("bad number of samples", self.n_samples(), format!("1 to {MAX_SAMPLES}")));
        }
        if self.best_by.is_some() && !matches!(self.vote, Some(VoteArg::Best)) {
            return Err(Failure::argument("nothing is the best of", "`--best-by` with another vote", "`--vote best`"));
        }
        if self.n_samples() > 1 && sampling.options().temperature == 0.0 {
            let failure = Failure::argument("samples would all be the same", "temperature 0", "more than 0");
            return Err(failure.with_hint("`--temperature 1` samples as the model says"));
        }
        Ok(())
    }

    /// Answers to draw.
    pub(crate) fn n_samples(&self) -> usize {
        self.samples.unwrap_or(1)
    }

    /// Sequences that the session needs.
    pub(crate) fn n_lanes(&self) -> usize {
        self.n_samples().min(MAX_LANES)
    }

    /// Makes one of `answers`, which are at least one.
    pub(crate) fn decide(&self, model: &Model, answers: &[Generated]) -> Result<VoteReport> {
        let candidate = |answer: &Generated| Candidate::new(model.detokenize(&answer.tokens), answer);
        let candidates: Vec<_> = answers.iter().map(candidate).collect();
        let guess = || guess_problem(candidates.iter().map(|candidate| &*candidate.answer));
        let problem_type = self.expect.map_or_else(guess, ExpectArg::problem_type);
        let poll = Poll::new(problem_type, &[], &candidates)?;
        let Verdict { winner, rule, support, ballots } = match self.vote {
            None => poll.by(VoteRule::suited_to(problem_type)),
            Some(VoteArg::Majority) => poll.majority(),
            Some(VoteArg::Mbr) => poll.minimum_risk(),
            Some(VoteArg::Best) => {
                let best_by = self.best_by.unwrap_or(BestBy::MeanLogprob);
                poll.best(|candidate| best_by.score(candidate))
            }
        };
        let report = |((ballot, candidate), answer): ((Ballot, &Candidate), &Generated)| SampleReport {
            ballot,
            thinking: answer.thinking.clone(),
            logprob: candidate.logprob,
            mean_logprob: candidate.mean_logprob(),
            n_tokens: candidate.n_tokens,
            stop: stop_name(answer.stop),
        };
        let samples = ballots.into_iter().zip(&candidates).zip(answers).map(report).collect();
        Ok(VoteReport { rule, problem_type, winner, support, samples })
    }
}

impl ExpectArg {
    fn problem_type(self) -> ProblemType {
        match self {
            Self::Box => ProblemType::SpatialGrounding,
            Self::Choice => ProblemType::MultipleChoice,
            Self::Number => ProblemType::Numerical,
            Self::Math => ProblemType::Math,
            Self::Transcript => ProblemType::Ocr,
            Self::Text => ProblemType::OpenEnded,
        }
    }
}

impl BestBy {
    fn score(self, candidate: &Candidate) -> f64 {
        match self {
            Self::MeanLogprob => candidate.mean_logprob(),
            Self::Logprob => candidate.logprob,
            Self::Format => f64::from(u8::from(owlet::reward::parse(&candidate.response).well_formed)),
        }
    }
}

impl std::fmt::Display for VoteReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { winner, support, samples, problem_type, .. } = self;
        let n = samples.len();
        match self.rule {
            VoteRule::Majority => {
                write!(f, "{:.0} of {n} samples give this answer", support * n as f64)?;
            }
            VoteRule::MinimumRisk => write!(f, "sample {winner} of {n} agrees with the others by {support:.2}")?,
            VoteRule::Best => write!(f, "sample {winner} of {n} is the best with {support:.3}")?,
        }
        write!(f, " (answers read as {problem_type})")?;
        match samples.iter().filter(|sample| !sample.ballot.is_well_formed).count() {
            0 => Ok(()),
            n_malformed => write!(f, ", {n_malformed} malformed"),
        }
    }
}
