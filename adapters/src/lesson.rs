//! One group's share of an update: its log-probabilities and its gradient, as work that can rest.
//!
//! After `advantage`, using `loss`, `entropy` and the engine; `update` puts the shares together.

use owlet_runtime::{Error, ErrorKind, Result, TokenId};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Engine, GroupInput, TokenScores, TokenSlopes},
    entropy::BandPlan,
    lora::{LoraGrads, LoraWeights},
    loss::{BatchSize, LossStats, PolicyLoss, Sequence, policy_loss},
    options::TrainerOptions,
    pace::Pace,
    rollout::RolloutGroup,
    task::TaskType,
};

/// A group ready for learning.
#[derive(Clone, Debug)]
pub(crate) struct Lesson {
    pub(crate) group: RolloutGroup,
    pub(crate) task: TaskType,
    /// One for each rollout.
    pub(crate) advantages: Vec<f64>,
}

/// Log-probabilities of a group in f64, one vector for each rollout.
pub(crate) type Logprobs = Vec<Vec<f64>>;

/// What a lesson's share of the loss depends on beside the lesson.
pub(crate) struct Terms {
    /// Of the sampling policy; `None` where that is the current one.
    pub(crate) old: Option<Logprobs>,
    pub(crate) band: Option<BandPlan>,
    pub(crate) size: BatchSize,
}

/// What a lesson adds to the report of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) loss: f64,
    pub(crate) stats: LossStats,
    pub(crate) sum_entropy: f64,
    /// Sum of |engine - sampler| over the tokens, before the first update.
    pub(crate) sum_gap: f64,
    /// Mean of `-logprob` over the tokens, before the first update.
    pub(crate) neg_logprob: f64,
}

impl Share {
    fn is_finite(&self) -> bool {
        let LossStats { sum_old_kl, sum_neg_logprob, sum_reference_kl, .. } = self.stats;
        let sums = [sum_old_kl, sum_neg_logprob, sum_reference_kl, self.sum_entropy, self.sum_gap, self.neg_logprob];
        self.loss.is_finite() && sums.iter().all(|sum| sum.is_finite())
    }
}

impl Lesson {
    /// Current log-probabilities.
    pub(crate) async fn score(
        &self,
        engine: &mut Engine,
        weights: &LoraWeights,
        options: &TrainerOptions,
        pace: &Pace,
    ) -> Result<Logprobs> {
        let completions = self.completions();
        let input = GroupInput { prompt: &self.group.prompt, completions: &completions };
        Ok(logprobs(&engine.score_paced(Some(weights), &input, options.temperature, pace).await?))
    }

    /// The gradient and what it adds to the report; `None` for a loss that is not finite.
    pub(crate) async fn gradient(
        &self,
        engine: &mut Engine,
        weights: &LoraWeights,
        options: &TrainerOptions,
        terms: &Terms,
        pace: &Pace,
    ) -> Result<Option<(LoraGrads, Share)>> {
        let completions = self.completions();
        let input = GroupInput { prompt: &self.group.prompt, completions: &completions };
        let temperature = options.temperature;
        let reference = match options.loss.kl {
            Some(_) => Some(logprobs(&engine.score_base_paced(&weights.config.mode, &input, temperature, pace).await?)),
            None => None,
        };
        let mut gradients = LoraGrads::zeros(weights);
        let mut loss: Option<Result<PolicyLoss>> = None;
        let mut is_finite = true;
        let slopes = |scores: &[TokenScores]| {
            let current = logprobs(scores);
            let old = terms.old.as_ref().unwrap_or(&current);
            let result = self.loss(options, &current, old, reference.as_ref(), terms.size);
            let slopes = result.as_ref().map(|loss| self.slopes(options, loss, terms.band.as_ref(), terms.size)).ok();
            loss = Some(result);
            let are_finite =
                |slopes: &TokenSlopes| slopes.logprobs.iter().chain(&slopes.entropies).all(|slope| slope.is_finite());
            let slopes = slopes.filter(|slopes| slopes.iter().all(are_finite));
            is_finite = slopes.is_some();
            // Without a gradient there is nothing to go back for.
            slopes.unwrap_or_else(|| scores.iter().map(|scores| vec![0.0; scores.logprobs.len()].into()).collect())
        };
        let scores = engine.gradient_paced(weights, &input, temperature, slopes, &mut gradients, pace).await?;
        let loss = loss.ok_or_else(|| Error::new(ErrorKind::Internal, "the engine asked for no coefficients"))??;
        let before = terms.old.clone().unwrap_or_else(|| logprobs(&scores));
        let n_tokens = self.lengths().sum::<usize>().max(1);
        let share = Share {
            loss: loss.loss + self.bonus(options, &scores, terms.size),
            stats: loss.stats,
            sum_entropy: scores.iter().flat_map(|scores| &scores.entropies).map(|&nats| f64::from(nats)).sum(),
            sum_gap: self.gap(&before),
            neg_logprob: -before.iter().flatten().sum::<f64>() / n_tokens as f64,
        };
        Ok((is_finite && share.is_finite()).then_some((gradients, share)))
    }

    fn completions(&self) -> Vec<&[TokenId]> {
        self.group.rollouts.iter().map(|rollout| rollout.tokens.as_slice()).collect()
    }

    /// Tokens of each rollout.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.group.rollouts.iter().map(|rollout| rollout.tokens.len())
    }

    fn loss(
        &self,
        options: &TrainerOptions,
        current: &Logprobs,
        old: &Logprobs,
        reference: Option<&Logprobs>,
        size: BatchSize,
    ) -> Result<PolicyLoss> {
        let sequences: Vec<_> = (0..self.advantages.len())
            .map(|rollout| Sequence {
                advantage: self.advantages[rollout],
                logprobs: &current[rollout],
                old_logprobs: &old[rollout],
                reference_logprobs: reference.map(|reference| reference[rollout].as_slice()),
            })
            .collect();
        policy_loss(&options.loss, size, &sequences)
    }

    fn slopes(
        &self,
        options: &TrainerOptions,
        loss: &PolicyLoss,
        plan: Option<&BandPlan>,
        size: BatchSize,
    ) -> Vec<TokenSlopes> {
        let slopes = |coefficients: &Vec<f64>| {
            let n = coefficients.len();
            let band = plan.map_or(0.0, |plan| plan.coefficient(self.task, n));
            let bonus = -options.entropy_bonus * size.token_weight(options.loss.average, n);
            TokenSlopes {
                logprobs: coefficients.iter().map(|coefficient| (coefficient + band) as f32).collect(),
                entropies: if bonus == 0.0 { Vec::new() } else { vec![bonus as f32; n] },
            }
        };
        loss.coefficients.iter().map(slopes).collect()
    }

    /// The loss of the entropy bonus.
    fn bonus(&self, options: &TrainerOptions, scores: &[TokenScores], size: BatchSize) -> f64 {
        let entropies = scores.iter().map(|scores| &scores.entropies);
        let weighted = |entropies: &Vec<f32>| {
            let sum = entropies.iter().map(|&nats| f64::from(nats)).sum::<f64>();
            sum * size.token_weight(options.loss.average, entropies.len())
        };
        -options.entropy_bonus * entropies.map(weighted).sum::<f64>()
    }

    /// Sum over the tokens of |engine - sampler|.
    fn gap(&self, engine: &Logprobs) -> f64 {
        let rollouts = self.group.rollouts.iter().zip(engine);
        let tokens = rollouts.flat_map(|(rollout, engine)| rollout.sampler_logprobs.iter().zip(engine));
        tokens.map(|(&sampler, engine)| (f64::from(sampler) - engine).abs()).sum()
    }
}

/// Of every completion, in f64.
pub(crate) fn logprobs(scores: &[TokenScores]) -> Logprobs {
    scores.iter().map(|scores| scores.logprobs.iter().map(|&logprob| f64::from(logprob)).collect()).collect()
}
