//! An answer under way: how its tokens are picked, what they say, and when it is over.
//!
//! `logits -> sampler -> token -> text -> thinking or answer -> stop?`. Between a session, which computes the logits, and
//! those who drive one: generate.rs for many answers at once, conversation/ask.rs for a turn. Both go through [`Writer`], so
//! every option works in both.

mod speech;
mod stop;
mod writer;

use serde::{Deserialize, Serialize};

pub(crate) use self::writer::{Draft, Writer, Written};
use crate::{Error, ErrorKind, Result, model::TokenId, sampler::SamplerOptions};

/// How answers are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerOptions {
    /// How tokens are picked.
    pub sampler: SamplerOptions,
    /// Most tokens of an answer, thinking included, at least 1; default 1024.
    pub max_new_tokens: usize,
    /// Texts that end an answer: it stops where the first of them that is complete begins. Looked for in the answer, not in
    /// the thinking, also across tokens. At most 64 of at most 1024 bytes; default none.
    pub stop: Vec<String>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { sampler: SamplerOptions::default(), max_new_tokens: 1024, stop: Vec::new() }
    }
}

impl AnswerOptions {
    /// The most probable tokens, at most `max_new_tokens` of them.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { sampler: SamplerOptions::greedy(), max_new_tokens, ..Self::default() }
    }

    /// # Errors
    /// `InvalidInput` and `Limit` for options out of range; those of the sampler are checked where it is made.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_new_tokens == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "no tokens to generate").at("max_new_tokens").got(0));
        }
        stop::check(&self.stop)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Its tokens; the last one is the end token when `stop` says so. Those of a stop string are among them.
    pub tokens: Vec<TokenId>,
    /// Natural log-probability of each token, as in [`crate::Sampled`].
    pub logprobs: Vec<f32>,
    /// What the model thought: the text between its thinking tags.
    pub thinking: String,
    /// What it answered: all other text, without tags.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The model ended it.
    EndOfAnswer,
    /// It came to the stop string of this number in [`AnswerOptions::stop`].
    StopString(usize),
    /// It reached the number of tokens asked for.
    MaxTokens,
    /// The sequence is full.
    ContextFull,
    /// The caller said so.
    Caller,
}
