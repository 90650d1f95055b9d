//! How tokens are picked.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, model::TokenId};

/// How tokens are picked. What is on acts in the order of the fields: the temperature, what moves single logits, then the
/// filters, each of which sees the probabilities of what the one before left, made to sum up to 1 again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerOptions {
    /// Divides the logits; default 1. 0 picks the most probable token (the first of equals), and log-probabilities are
    /// then those of temperature 1.
    pub temperature: f32,
    /// Added to the logits of tokens, before the temperature divides them; default none. Of a token that is named twice the
    /// sum counts. To forbid a token there is `banned`.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Divides positive, multiplies negative logits of tokens that occurred in the last `repeat_window`; default 1: off.
    /// (CTRL, arXiv 1909.05858, section 4.1, as llama.cpp applies it to negative logits.)
    pub repeat_penalty: f32,
    /// Tokens of the answer that the three penalties look at; default 64.
    pub repeat_window: usize,
    /// Taken once from the logits of tokens that occurred, as in OpenAI's interface; default 0: off.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens as often as they occurred; default 0: off.
    pub frequency_penalty: f32,
    /// Only the `top_k` most probable tokens; default 0: all.
    pub top_k: usize,
    /// Only tokens whose surprise is nearest to the entropy, of together this probability; default 1: all. Locally typical
    /// sampling, arXiv 2202.00666, section 3.
    pub typical_p: f32,
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
            logit_bias: Vec::new(),
            repeat_penalty: 1.0,
            repeat_window: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            top_k: 0,
            typical_p: 1.0,
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

    /// Whether the distribution is picked from as it is.
    pub(super) fn is_plain(&self) -> bool {
        !self.moves_logits() && self.top_k == 0 && self.typical_p == 1.0 && self.top_p == 1.0 && self.min_p == 0.0
    }

    /// Whether logits of single tokens change.
    pub(super) fn moves_logits(&self) -> bool {
        self.has_penalties() || !self.logit_bias.is_empty()
    }

    pub(super) fn has_penalties(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    pub(super) fn check(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("typical_p", self.typical_p, f32::MIN_POSITIVE, 1.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
        ];
        let biases = self.logit_bias.iter().map(|&(_, bias)| ("logit_bias", bias, -1000.0, 1000.0));
        for (option, value, min, max) in ranges.into_iter().chain(biases) {
            if !(min..=max).contains(&value) {
                let error = Error::new(ErrorKind::InvalidInput, "bad sampler option").at(option).got(value);
                return Err(error.needed(format!("{min} to {max}")));
            }
        }
        Ok(())
    }
}
