//! The learning half of a step: groups and their advantages to new adapter weights.
//!
//! After `advantage`, using `loss`, `entropy`, the engine and `optim`. The groups of a step are split into
//! `updates_per_step` batches; each batch is one optimizer update. Log-probabilities of the sampling policy are the
//! engine's own, computed before the first update, never the sampler's: both multiply by the same quantized weights,
//! but kernels and K/V precision differ, and a ratio must not start away from 1.

use owlet_runtime::{CancelToken, Error, ErrorKind, Result, TokenId};

use crate::{
    engine::{Engine, GroupInput, TokenScores, TokenSlopes},
    entropy::BandPlan,
    lora::{LoraGrads, LoraWeights},
    loss::{BatchSize, LossStats, PolicyLoss, Sequence, policy_loss},
    optim::AdamW,
    options::TrainerOptions,
    rollout::RolloutGroup,
    task::TaskType,
};

/// A group ready for learning; all parts have one entry for each rollout.
pub(crate) struct Lesson<'a> {
    pub(crate) group: &'a RolloutGroup,
    pub(crate) task: TaskType,
    pub(crate) advantages: &'a [f64],
}

/// Sums over the updates of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpdateReport {
    /// Sum of the losses of the updates.
    pub(crate) loss: f64,
    pub(crate) stats: LossStats,
    pub(crate) sum_entropy: f64,
    /// Sum of |engine - sampler| over the tokens, before the first update.
    pub(crate) sum_gap: f64,
    /// Largest global gradient norm; not finite where one was not.
    pub(crate) grad_norm: f64,
    /// Whether every update was applied.
    pub(crate) applied: bool,
    pub(crate) n_updates: usize,
    /// By group: mean of `-logprob` over its tokens, before the first update.
    pub(crate) neg_logprobs: Vec<f64>,
}

/// What learning works on.
pub(crate) struct Learner<'a> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) weights: &'a mut LoraWeights,
    pub(crate) optimizer: &'a mut AdamW,
    pub(crate) options: &'a TrainerOptions,
}

/// Log-probabilities of a group in f64, one vector for each rollout.
type Logprobs = Vec<Vec<f64>>;

impl Learner<'_> {
    /// Learns from all lessons; `on_group` gets the number of groups that have gone through the backward pass.
    pub(crate) fn learn(
        &mut self,
        lessons: &[Lesson<'_>],
        learning_rate: f64,
        cancel: &CancelToken,
        on_group: &mut dyn FnMut(usize),
    ) -> Result<UpdateReport> {
        let mut report = UpdateReport { applied: true, ..UpdateReport::default() };
        let off_policy = self.options.updates_per_step > 1;
        let old: Option<Vec<Logprobs>> =
            off_policy.then(|| lessons.iter().map(|lesson| self.score(lesson, cancel)).collect()).transpose()?;
        let mut gradients = LoraGrads::zeros(self.weights);
        let n_updates = self.options.updates_per_step;
        let bound = |update: usize| update * lessons.len() / n_updates;
        for (first, end) in (0..n_updates).map(|update| (bound(update), bound(update + 1))) {
            let batch = &lessons[first..end];
            if batch.is_empty() {
                continue;
            }
            gradients.zero();
            let plan = self.plan(batch, cancel)?;
            report.loss += plan.as_ref().map_or(0.0, |plan| plan.penalty);
            let size = BatchSize::of(batch.iter().flat_map(Lesson::lengths));
            for (offset, lesson) in batch.iter().enumerate() {
                cancel.check()?;
                let old = old.as_ref().map(|old| &old[first + offset]);
                self.add_gradient(lesson, old, plan.as_ref(), size, &mut gradients, &mut report)?;
                on_group(first + offset + 1);
            }
            let outcome = self.optimizer.step(self.weights, &gradients, learning_rate);
            report.n_updates += 1;
            report.applied &= outcome.applied;
            // `max` would pass over NaN.
            let grad_norm = if outcome.grad_norm.is_finite() { outcome.grad_norm } else { f64::INFINITY };
            report.grad_norm = report.grad_norm.max(grad_norm);
        }
        Ok(report)
    }

    /// Current log-probabilities of a lesson.
    fn score(&mut self, lesson: &Lesson<'_>, cancel: &CancelToken) -> Result<Logprobs> {
        cancel.check()?;
        let completions = lesson.completions();
        let input = GroupInput { prompt: &lesson.group.prompt, completions: &completions };
        let scores = self.engine.score(Some(self.weights), &input, self.options.temperature)?;
        Ok(logprobs(&scores))
    }

    /// The entropy band over a whole batch, where there is one. Its penalty is not linear in the tokens, so all tokens of
    /// the batch are scored before the first gradient.
    fn plan(&mut self, batch: &[Lesson<'_>], cancel: &CancelToken) -> Result<Option<BandPlan>> {
        let Some(band) = self.options.entropy_band else { return Ok(None) };
        let scores = batch.iter().map(|lesson| self.score(lesson, cancel)).collect::<Result<Vec<_>>>()?;
        let sequences: Vec<(TaskType, &[f64])> = batch
            .iter()
            .zip(&scores)
            .flat_map(|(lesson, logprobs)| logprobs.iter().map(|logprobs| (lesson.task, logprobs.as_slice())))
            .collect();
        Ok(Some(band.plan(self.options.loss.average, &sequences)))
    }

    fn add_gradient(
        &mut self,
        lesson: &Lesson<'_>,
        old: Option<&Logprobs>,
        plan: Option<&BandPlan>,
        size: BatchSize,
        gradients: &mut LoraGrads,
        report: &mut UpdateReport,
    ) -> Result<()> {
        let completions = lesson.completions();
        let input = GroupInput { prompt: &lesson.group.prompt, completions: &completions };
        let temperature = self.options.temperature;
        let reference = match self.options.loss.kl {
            Some(_) => Some(logprobs(&self.engine.score_base(&self.weights.config.mode, &input, temperature)?)),
            None => None,
        };
        let options = self.options;
        let mut loss: Option<Result<PolicyLoss>> = None;
        let scores = self.engine.gradient(
            self.weights,
            &input,
            temperature,
            &mut |scores| {
                let current = logprobs(scores);
                let result = lesson.loss(options, &current, old.unwrap_or(&current), reference.as_ref(), size);
                let slopes = match &result {
                    Ok(loss) => lesson.slopes(options, loss, plan, size),
                    Err(_) => scores.iter().map(|scores| vec![0.0; scores.logprobs.len()].into()).collect(),
                };
                loss = Some(result);
                slopes
            },
            gradients,
        )?;
        let loss = loss.ok_or_else(|| Error::new(ErrorKind::Internal, "the engine asked for no coefficients"))??;
        report.loss += loss.loss + lesson.bonus(options, &scores, size);
        report.stats.add(&loss.stats);
        report.sum_entropy +=
            scores.iter().flat_map(|scores| &scores.entropies).map(|&nats| f64::from(nats)).sum::<f64>();
        let before = old.cloned().unwrap_or_else(|| logprobs(&scores));
        report.sum_gap += lesson.gap(&before);
        let n_tokens = lesson.lengths().sum::<usize>().max(1);
        report.neg_logprobs.push(-before.iter().flatten().sum::<f64>() / n_tokens as f64);
        Ok(())
    }
}

impl Lesson<'_> {
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

fn logprobs(scores: &[TokenScores]) -> Logprobs {
    scores.iter().map(|scores| scores.logprobs.iter().map(|&logprob| f64::from(logprob)).collect()).collect()
}
