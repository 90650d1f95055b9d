//! Losses: log-probabilities to a number and to dLoss/dlogprob of every token, which the engine carries to the adapter.
//!
//! Comes after `advantage.rs` and before the engine. Everything is f64. A batch is a set of sequences (one response each)
//! of T tokens; prompt and image tokens are not part of them.
//!
//! - [`policy_loss`]: sampled responses with advantages, and a penalty for leaving the reference policy ([`KlPenalty`]);
//! - [`likelihood_loss`]: responses that were given;
//! - losses of whole distributions (distillation, entropy) need dLoss/dlogits, which only the engine has: see
//!   [`crate::engine::Engine::distill`] and [`crate::engine::TokenSlopes`].

mod kl;
mod likelihood;
mod policy;

use serde::{Deserialize, Serialize};

pub use self::{
    kl::{KlEstimate, KlPenalty},
    likelihood::{LikelihoodLoss, likelihood_loss},
    policy::{LossOptions, LossStats, Objective, PolicyLoss, Sequence, policy_loss},
};

/// Log ratios beyond this are clamped, and have no gradient.
const MAX_LOG_RATIO: f64 = 20.0;
/// The reference adds this to every token count; so do we, and an empty batch has loss 0.
const COUNT_EPSILON: f64 = 1e-8;

/// What one loss value is the mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// All tokens of the optimizer batch alike (DAPO, arXiv 2503.14476, section 3.3). The default.
    #[default]
    Token,
    /// The tokens of each sequence, then the sequences (GRPO, arXiv 2402.03300, equation 3).
    Seq,
    /// The sum over each sequence divided by a number that is the same for all, then the sequences: a long wrong answer
    /// is not forgiven its length (Dr. GRPO, arXiv 2503.20783, section 3.1 and listing 1).
    Fixed {
        /// The divisor, at least 1; the authors take the longest response that is allowed.
        n_tokens: usize,
    },
}

/// Size of the whole optimizer batch, the denominator of every mean: a batch that is computed in parts adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// Responses, empty ones included.
    pub n_sequences: usize,
    /// Tokens of all responses.
    pub n_tokens: usize,
}

impl BatchSize {
    /// The size of a batch of responses of these lengths in tokens.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        lengths.into_iter().fold(Self::default(), |size, length| Self {
            n_sequences: size.n_sequences + 1,
            n_tokens: size.n_tokens + length,
        })
    }

    /// The weight of each token of a sequence of `n` tokens in the mean over the batch.
    pub(crate) fn token_weight(&self, average: Average, n: usize) -> f64 {
        match average {
            Average::Token => 1.0 / (self.n_tokens as f64 + COUNT_EPSILON),
            Average::Seq => 1.0 / (self.n_sequences as f64 * (n as f64 + COUNT_EPSILON)),
            Average::Fixed { n_tokens } => 1.0 / (self.n_sequences as f64 * n_tokens as f64),
        }
    }
}
