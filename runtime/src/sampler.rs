//! Picks the next token: pure, deterministic, and exact about probabilities.
//!
//! Reinforcement learning needs the log-probability of the picked token under the policy that is trained:
//! `softmax(logits / temperature)` over all tokens that are not banned. That is what is returned, whatever else (penalties,
//! top-k, top-p, min-p) narrowed the choice.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, model::TokenId, rng::Rng};

/// How tokens are picked. The filters apply in the order of the fields, after the temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerOptions {
    /// Divides the logits; default 1. 0 picks the most probable token (the first of equals), and log-probabilities are
    /// then those of temperature 1.
    pub temperature: f32,
    /// Divides positive, multiplies negative logits of tokens that occurred in the last `repeat_window`; default 1: off.
    pub repeat_penalty: f32,
    /// Tokens of the answer that the penalty looks at; default 64.
    pub repeat_window: usize,
    /// Only the `top_k` most probable tokens; default 0: all.
    pub top_k: usize,
    /// Only the most probable tokens that together have this probability; default 1: all.
    pub top_p: f32,
    /// Only tokens at least this probable relative to the most probable one; default 0: all.
    pub min_p: f32,
    /// Tokens never picked, beside [`crate::Model::never_sampled`]; default none.
    pub banned: Vec<TokenId>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            repeat_penalty: 1.0,
            repeat_window: 64,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            banned: Vec::new(),
        }
    }
}

impl SamplerOptions {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
        ];
        for (option, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                let error = Error::new(ErrorKind::InvalidInput, "bad sampler option").at(option).got(value);
                return Err(error.needed(format!("{min} to {max}")));
            }
        }
        Ok(())
    }
}

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
    weights: Vec<f64>,
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
        Ok(Self { options: options.clone(), is_banned, weights, candidates, candidate_weights })
    }

    /// Picks a token by `logits`, one for each token of the vocabulary. `answer` is what was picked before; `rng` is
    /// drawn from once, or not at all when greedy.
    ///
    /// # Errors
    /// `Backend` when the logits are not numbers, `InvalidInput` when their number is wrong.
    pub fn sample(&mut self, logits: &[f32], answer: &[TokenId], rng: &mut Rng) -> Result<Sampled> {
        self.check(logits)?;
        let temperature = self.divisor();
        let normalizer = self.weigh(logits, temperature)?;
        let SamplerOptions { repeat_penalty, top_k, top_p, min_p, .. } = self.options;
        let token = if self.options.temperature == 0.0 {
            self.collect(logits, answer);
            self.most_probable()
        } else if repeat_penalty == 1.0 && top_k == 0 && top_p == 1.0 && min_p == 0.0 {
            // The most probable token has the weight 1.
            draw(&self.weights, rng).unwrap_or(0) as TokenId
        } else {
            self.collect(logits, answer);
            self.draw_from_candidates(temperature, rng)
        };
        let logprob = f64::from(logits[token as usize]) / temperature - normalizer;
        Ok(Sampled { token, logprob: logprob as f32 })
    }

    /// The natural log-probability of `token` by `logits`, as [`Sampler::sample`] tells it of the token that it picks.
    ///
    /// # Errors
    /// As [`Sampler::sample`]; `InvalidInput` for a token that is banned or not in the vocabulary.
    pub fn logprob(&mut self, logits: &[f32], token: TokenId) -> Result<f32> {
        self.check(logits)?;
        self.check_allowed(token)?;
        let temperature = self.divisor();
        let normalizer = self.weigh(logits, temperature)?;
        Ok((f64::from(logits[token as usize]) / temperature - normalizer) as f32)
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

    fn check(&self, logits: &[f32]) -> Result<()> {
        if logits.len() == self.is_banned.len() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::InvalidInput, "wrong number of logits").got(logits.len());
        Err(error.needed(self.is_banned.len()))
    }

    /// What logits are divided by.
    fn divisor(&self) -> f64 {
        if self.options.temperature == 0.0 { 1.0 } else { f64::from(self.options.temperature) }
    }

    /// Fills `weights` and returns ln of the sum of exp(logit / temperature) over the tokens that are not banned.
    fn weigh(&mut self, logits: &[f32], temperature: f64) -> Result<f64> {
        let tokens = || logits.iter().zip(&self.is_banned);
        let max = tokens().filter(|(_, banned)| !**banned).map(|(&logit, _)| logit).fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit - max) / temperature).exp();
        self.weights.clear();
        self.weights.extend(tokens().map(|(&logit, &banned)| if banned { 0.0 } else { weight(logit) }));
        let normalizer = f64::from(max) / temperature + self.weights.iter().sum::<f64>().ln();
        // One NaN makes the sum NaN; an infinite maximum makes the differences NaN.
        if normalizer.is_finite() {
            return Ok(normalizer);
        }
        Err(Error::new(ErrorKind::Backend, "model gives no probabilities").got("logits that are not finite"))
    }

    /// Fills `candidates` with the tokens that may be picked and their logits after the penalty.
    fn collect(&mut self, logits: &[f32], answer: &[TokenId]) {
        self.candidates.clear();
        let tokens = logits.iter().zip(&self.is_banned).enumerate();
        self.candidates.extend(tokens.filter(|(_, (_, banned))| !**banned).map(|(id, (&logit, _))| (id as i32, logit)));
        let penalty = self.options.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let recent = &answer[answer.len().saturating_sub(self.options.repeat_window)..];
        for (token, logit) in &mut self.candidates {
            if recent.contains(token) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn most_probable(&self) -> TokenId {
        let first = self.candidates[0];
        self.candidates.iter().fold(first, |best, &next| if next.1 > best.1 { next } else { best }).0
    }

    fn draw_from_candidates(&mut self, temperature: f64, rng: &mut Rng) -> TokenId {
        let SamplerOptions { top_k, top_p, min_p, .. } = self.options;
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

        let mut n = self.candidate_weights.len();
        if top_p < 1.0 {
            let enough = self.candidate_weights.iter().sum::<f64>() * f64::from(top_p);
            let mut sum = 0.0;
            let reaches = |weight: &f64| {
                sum += weight;
                sum >= enough
            };
            n = self.candidate_weights.iter().position(reaches).map_or(n, |last| last + 1);
        }
        if min_p > 0.0 {
            // The largest weight is 1.
            n = n.min(self.candidate_weights.partition_point(|&weight| weight >= f64::from(min_p)));
        }
        let index = draw(&self.candidate_weights[..n.max(1)], rng).unwrap_or(0);
        self.candidates[index].0
    }
}

/// An index drawn in proportion to `weights`; `None` when all are 0.
fn draw(weights: &[f64], rng: &mut Rng) -> Option<usize> {
    let mut left = rng.uniform() * weights.iter().sum::<f64>();
    for (index, &weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return Some(index);
        }
    }
    // Rounding ate the last sliver: it belongs to the last one that has any weight.
    weights.iter().rposition(|&weight| weight > 0.0)
}

#[cfg(test)]
mod tests;
