//! Picks the next token: pure, deterministic, and right about probabilities to a few parts in ten million.
//!
//! Reinforcement learning needs the log-probability of the picked token under the policy that is trained:
//! `softmax(logits / temperature)` over all tokens that are not banned. That is what is returned, whatever else (bias,
//! penalties, filters, a grammar) moved or narrowed the choice.

mod options;

pub use self::options::SamplerOptions;
use crate::{Error, ErrorKind, Result, exponential::exp, model::TokenId, rng::Rng};

/// A picked token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// Its natural log-probability under `softmax(logits / temperature)` over all tokens that are not banned.
    pub logprob: f32,
}

/// Picks tokens for one vocabulary; keeps its scratch, so that a step allocates nothing.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    /// Per token of the vocabulary, whether it may not be picked.
    is_banned: Vec<bool>,
    /// exp((logit - max) / temperature) of the whole vocabulary, 0 for banned tokens.
    weights: Vec<f32>,
    /// Their sum.
    total: f64,
    /// ln of the sum of exp(logit / temperature) over the tokens that are not banned, for `weights`.
    normalizer: f64,
    /// Tokens in question with their logits, most probable first. Only used with filters.
    candidates: Vec<(TokenId, f32)>,
    /// Weights of `candidates`.
    candidate_weights: Vec<f64>,
}

impl Sampler {
    /// A sampler over `n_vocab` tokens that never picks `banned` or those of the options; numbers outside the vocabulary
    /// are no tokens to ban.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range, or when nothing is left to pick.
    pub fn new(options: &SamplerOptions, n_vocab: usize, banned: &[TokenId]) -> Result<Self> {
        options.check()?;
        let mut is_banned = vec![false; n_vocab];
        for &token in banned.iter().chain(&options.banned) {
            if let Some(flag) = usize::try_from(token).ok().and_then(|index| is_banned.get_mut(index)) {
                *flag = true;
            }
        }
        if is_banned.iter().all(|&banned| banned) {
            return Err(Error::new(ErrorKind::InvalidInput, "every token is banned"));
        }
        let (weights, candidates, candidate_weights) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            options: options.clone(),
            is_banned,
            weights,
            total: 0.0,
            normalizer: 0.0,
            candidates,
            candidate_weights,
        })
    }

    /// Picks a token by `logits`, one for each token of the vocabulary. `answer` is what was picked before; `rng` is
    /// drawn from once, or not at all when greedy.
    ///
    /// # Errors
    /// `Backend` when the logits are not numbers, `InvalidInput` when their number is wrong.
    pub fn sample(&mut self, logits: &[f32], answer: &[TokenId], rng: &mut Rng) -> Result<Sampled> {
        let max = self.weigh(logits)?;
        let token = match (self.options.is_plain(), self.options.temperature == 0.0) {
            // The first of equals, as `most_probable` picks.
            (true, true) => logits.iter().zip(&self.is_banned).position(|(&logit, &banned)| !banned && logit == max),
            (true, false) => draw(&self.weights, self.total, rng),
            (false, _) => None,
        };
        let token = token.map(|index| index as TokenId).unwrap_or_else(|| {
            self.collect(logits, answer, &|_| true);
            self.pick(rng)
        });
        Ok(Sampled { token, logprob: self.logprob_of(logits[token as usize]) })
    }

    /// The natural log-probability of `token` by `logits`, as [`Sampler::sample`] tells it of the token that it picks.
    ///
    /// # Errors
    /// As [`Sampler::sample`]; `InvalidInput` for a token that is banned or not in the vocabulary.
    pub fn logprob(&mut self, logits: &[f32], token: TokenId) -> Result<f32> {
        self.check_allowed(token)?;
        Ok(self.score(logits, token)?.logprob)
    }

    /// Refuses a token that is never picked.
    pub(crate) fn check_allowed(&self, token: TokenId) -> Result<()> {
        match usize::try_from(token).ok().and_then(|index| self.is_banned.get(index)) {
            Some(false) => Ok(()),
            Some(true) => Err(Error::new(ErrorKind::InvalidInput, "token is never sampled").got(token)),
            None => {
                let error = Error::new(ErrorKind::InvalidInput, "token is not in the vocabulary").got(token);
                Err(error.needed(format!("0 to {}", self.is_banned.len() - 1)))
            }
        }
    }

    /// As [`Sampler::sample`], among the tokens that are `allowed`; `None` when all of them are banned. The log-probability is
    /// the one that the token has among all.
    pub(crate) fn sample_among(
        &mut self,
        logits: &[f32],
        answer: &[TokenId],
        allowed: &dyn Fn(TokenId) -> bool,
        rng: &mut Rng,
    ) -> Result<Option<Sampled>> {
        self.weigh(logits)?;
        self.collect(logits, answer, allowed);
        if self.candidates.is_empty() {
            return Ok(None);
        }
        let token = self.pick(rng);
        Ok(Some(Sampled { token, logprob: self.logprob_of(logits[token as usize]) }))
    }

    /// `token`, which others chose and which may be banned, with its log-probability by `logits`: of a banned one among those
    /// that may be picked and itself.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn score(&mut self, logits: &[f32], token: TokenId) -> Result<Sampled> {
        self.weigh(logits)?;
        let logit = usize::try_from(token).ok().and_then(|index| logits.get(index));
        let unknown = || Error::new(ErrorKind::InvalidInput, "no token of the vocabulary").got(token);
        let logprob = self.logprob_of(*logit.ok_or_else(unknown)?);
        if self.may_pick(token) {
            return Ok(Sampled { token, logprob });
        }
        // With odds p to 1 for the token against all that may be picked: ln(p / (p + 1)), without an exp that overflows.
        let odds = f64::from(logprob);
        let logprob = (odds.min(0.0) - (-odds.abs()).exp().ln_1p()) as f32;
        Ok(Sampled { token, logprob })
    }

    /// The `n` most probable tokens of `logits`, which were sampled from or scored last, with their log-probabilities; the most
    /// probable first.
    pub(crate) fn most_probable_of(&self, logits: &[f32], n: usize) -> Vec<Sampled> {
        // By logits: the weights of improbable tokens are all 0.
        let order = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
        let mut tokens: Vec<_> = (0..logits.len()).filter(|&token| !self.is_banned[token]).collect();
        if n < tokens.len() {
            tokens.select_nth_unstable_by(n, order);
            tokens.truncate(n);
        }
        tokens.sort_unstable_by(order);
        let sampled = |token: usize| Sampled { token: token as TokenId, logprob: self.logprob_of(logits[token]) };
        tokens.into_iter().map(sampled).collect()
    }

    /// Whether `token` may be picked at all.
    pub(crate) fn may_pick(&self, token: TokenId) -> bool {
        usize::try_from(token).ok().and_then(|index| self.is_banned.get(index)).is_some_and(|banned| !banned)
    }

    /// Picks one of `candidates`, of which there is at least one.
    fn pick(&mut self, rng: &mut Rng) -> TokenId {
        if self.options.temperature == 0.0 { self.most_probable() } else { self.draw_from_candidates(rng) }
    }

    fn temperature(&self) -> f64 {
        if self.options.temperature == 0.0 { 1.0 } else { f64::from(self.options.temperature) }
    }

    /// Of a token with `logit` in the logits that were weighed last.
    fn logprob_of(&self, logit: f32) -> f32 {
        (f64::from(logit) / self.temperature() - self.normalizer) as f32
    }

    /// Fills `weights`, sets `normalizer`, and returns the largest logit of a token that is not banned.
    fn weigh(&mut self, logits: &[f32]) -> Result<f32> {
        if logits.len() != self.is_banned.len() {
            let error = Error::new(ErrorKind::InvalidInput, "wrong number of logits").got(logits.len());
            return Err(error.needed(self.is_banned.len()));
        }
        let temperature = self.temperature();
        let tokens = || logits.iter().zip(&self.is_banned);
        let max = tokens().filter(|(_, banned)| !**banned).map(|(&logit, _)| logit).fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| exp((logit - max) / temperature as f32);
        self.weights.clear();
        self.weights.extend(tokens().map(|(&logit, &banned)| if banned { 0.0 } else { weight(logit) }));
        self.total = sum(&self.weights);
        self.normalizer = f64::from(max) / temperature + self.total.ln();
        // One NaN makes the sum NaN; an infinite maximum makes the differences NaN.
        if self.normalizer.is_finite() {
            return Ok(max);
        }
        Err(Error::new(ErrorKind::Backend, "model gives no probabilities").got("logits that are not finite"))
    }

    /// Fills `candidates` with the tokens that may be picked and are `allowed`, and their logits after bias and penalties.
    fn collect(&mut self, logits: &[f32], answer: &[TokenId], allowed: &dyn Fn(TokenId) -> bool) {
        self.candidates.clear();
        let tokens = logits.iter().zip(&self.is_banned).enumerate();
        let free = tokens.filter(|(_, (_, banned))| !**banned).map(|(id, (&logit, _))| (id as TokenId, logit));
        self.candidates.extend(free.filter(|&(token, _)| allowed(token)));
        if !self.options.moves_logits() {
            return;
        }
        for &(token, bias) in &self.options.logit_bias {
            // In the order of their numbers.
            if let Ok(index) = self.candidates.binary_search_by_key(&token, |&(token, _)| token) {
                self.candidates[index].1 += bias;
            }
        }
        if !self.options.has_penalties() {
            return;
        }
        let SamplerOptions { repeat_penalty, repeat_window, presence_penalty, frequency_penalty, .. } = self.options;
        let mut recent = answer[answer.len().saturating_sub(repeat_window)..].to_vec();
        recent.sort_unstable();
        for repeats in recent.chunk_by(|a, b| a == b) {
            let Ok(index) = self.candidates.binary_search_by_key(&repeats[0], |&(token, _)| token) else { continue };
            let logit = &mut self.candidates[index].1;
            *logit = if *logit > 0.0 { *logit / repeat_penalty } else { *logit * repeat_penalty };
            *logit -= presence_penalty + frequency_penalty * repeats.len() as f32;
        }
    }

    fn most_probable(&self) -> TokenId {
        let first = self.candidates[0];
        self.candidates.iter().fold(first, |best, &next| if next.1 > best.1 { next } else { best }).0
    }

    fn draw_from_candidates(&mut self, rng: &mut Rng) -> TokenId {
        let SamplerOptions { top_k, typical_p, top_p, min_p, .. } = self.options;
        let temperature = self.temperature();
        // Equal logits keep the order of their numbers, so that the choice does not depend on the sort.
        let order = |a: &(TokenId, f32), b: &(TokenId, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k - 1, order);
            self.candidates.truncate(top_k);
        }
        self.candidates.sort_unstable_by(order);
        let max = self.candidates[0].1;
        let weight = |&(_, logit): &(TokenId, f32)| (f64::from(logit - max) / temperature).exp();
        self.candidate_weights.clear();
        self.candidate_weights.extend(self.candidates.iter().map(weight));
        if typical_p < 1.0 {
            self.keep_typical(f64::from(typical_p));
        }

        let mut n = self.candidate_weights.len();
        if top_p < 1.0 {
            let enough = self.candidate_weights.iter().sum::<f64>() * f64::from(top_p);
            n = n_reaching(self.candidate_weights.iter().copied(), enough);
        }
        if min_p > 0.0 {
            let least = self.candidate_weights[0] * f64::from(min_p);
            n = n.min(self.candidate_weights.partition_point(|&weight| weight >= least));
        }
        let weights = &self.candidate_weights[..n.max(1)];
        let index = draw(weights, weights.iter().sum(), rng).unwrap_or(0);
        self.candidates[index].0
    }

    /// Leaves the candidates whose surprise is nearest to the entropy, of together `typical_p`, in their order.
    fn keep_typical(&mut self, typical_p: f64) {
        let total: f64 = self.candidate_weights.iter().sum();
        let surprise = |weight: f64| -(weight / total).ln();
        // What is too improbable for a number adds nothing: p ln p goes to 0.
        let positive = self.candidate_weights.iter().filter(|&&weight| weight > 0.0);
        let entropy: f64 = positive.map(|&weight| weight / total * surprise(weight)).sum();
        let weights = &self.candidate_weights;
        let distance = |index: &usize| (surprise(weights[*index]) - entropy).abs();
        let mut order: Vec<_> = (0..weights.len()).collect();
        // Of equals the more probable, which comes first.
        order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        let n = n_reaching(order.iter().map(|&index| weights[index]), total * typical_p);
        let mut kept = order[..n].to_vec();
        kept.sort_unstable();
        self.candidates = kept.iter().map(|&index| self.candidates[index]).collect();
        self.candidate_weights = kept.iter().map(|&index| self.candidate_weights[index]).collect();
    }
}

/// The smallest beginning of `weights` that sums up to `enough`; all of them where rounding keeps the sum below.
fn n_reaching(weights: impl Iterator<Item = f64>, enough: f64) -> usize {
    let (mut sum, mut n) = (0.0, 0);
    for weight in weights {
        (sum, n) = (sum + weight, n + 1);
        if sum >= enough {
            break;
        }
    }
    n
}

/// The sum of many weights, in several at a time: one after the other would wait for each.
fn sum(weights: &[f32]) -> f64 {
    let (whole, rest) = weights.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in whole {
        for (sum, &weight) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(weight);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&weight| f64::from(weight)).sum::<f64>()
}

/// An index drawn in proportion to `weights`, whose sum is `total`; `None` when all are 0.
fn draw<W: Copy + Into<f64>>(weights: &[W], total: f64, rng: &mut Rng) -> Option<usize> {
    let mut left = rng.uniform() * total;
    for (index, &weight) in weights.iter().enumerate() {
        left -= weight.into();
        if left < 0.0 {
            return Some(index);
        }
    }
    // Rounding ate the last sliver: it belongs to the last one that has any weight.
    weights.iter().rposition(|&weight| weight.into() > 0.0)
}

#[cfg(test)]
mod tests;
