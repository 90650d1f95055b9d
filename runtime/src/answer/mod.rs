//! An answer under way: how its tokens are picked, what they say, and when it is over.
//!
//! `logits -> sampler -> token -> text -> thinking or answer -> stop?`. Between a session, which computes the logits, and
//! those who drive one: generate.rs for many answers at once, conversation/ask.rs for a turn. Both go through [`Writer`], so
//! every option works in both.

mod budget;
mod constraint;
#[cfg(feature = "grammar")]
mod gate;
#[cfg(not(feature = "grammar"))]
#[path = "gate/without.rs"]
mod gate;
#[cfg(feature = "grammar")]
mod grammar;
mod speech;
mod stop;
mod writer;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use self::constraint::Constraint;
#[cfg(feature = "grammar")]
pub(crate) use self::grammar::GrammarTokens;
pub(crate) use self::writer::{Draft, Writer, Written};
use crate::{
    Error, ErrorKind, Result,
    model::TokenId,
    sampler::{Sampled, SamplerOptions},
};

/// Most log-probabilities told for a token.
const MAX_TOP_LOGPROBS: usize = 1000;

/// How answers are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerOptions {
    /// How tokens are picked.
    pub sampler: SamplerOptions,
    /// Most tokens of an answer, thinking included, at least 1; default 1024.
    pub max_new_tokens: usize,
    /// Most tokens of thinking; default none. When they are used up the thinking is closed by force and the answer follows, for
    /// which 256 tokens are kept (half of `max_new_tokens`, or of what the context leaves, where that is less): they bound the
    /// thinking as well, so an answer always comes. 0 closes thinking as soon as it is opened, by the model or by its template.
    /// Changes nothing for answers without thinking. Where the model's template or vocabulary knows tags of thinking, a budget
    /// needs room for them and an answer: fewer tokens are refused. Models that were only asked to think in tags are not known
    /// to, and too few tokens may end their answers before one comes.
    pub thinking_budget: Option<usize>,
    /// What the answer has to look like; default anything. The model picks among the tokens that can still lead there, and ends
    /// the answer exactly where it is complete. Needs the cargo feature `grammar`.
    pub constraint: Option<Constraint>,
    /// Log-probabilities of this many of the most probable tokens are told for every token; default 0, at most 1000.
    pub top_logprobs: usize,
    /// Texts that end an answer: it stops where the first of them that is complete begins. Looked for in the answer, not in
    /// the thinking, also across tokens. At most 64 of at most 1024 bytes; default none.
    pub stop: Vec<String>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            sampler: SamplerOptions::default(),
            max_new_tokens: 1024,
            thinking_budget: None,
            constraint: None,
            top_logprobs: 0,
            stop: Vec::new(),
        }
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
        if self.top_logprobs > MAX_TOP_LOGPROBS {
            let error = Error::new(ErrorKind::Limit, "too many log-probabilities").at("top_logprobs");
            return Err(error.got(self.top_logprobs).needed(format!("at most {MAX_TOP_LOGPROBS}")));
        }
        self.constraint.as_ref().map_or(Ok(()), Constraint::check)?;
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
    /// Per token, the most probable ones in its place, the first of them first; nothing unless
    /// [`AnswerOptions::top_logprobs`] asks for them.
    pub top_logprobs: Vec<Vec<Sampled>>,
    /// Places in `tokens` of those that the model did not pick: the tag that closed its thinking at the end of the budget.
    /// Their log-probabilities are the model's all the same, of a banned token among those that may be picked and itself; they
    /// are nothing to learn from.
    pub forced: Range<usize>,
    /// What the model thought: the text between its thinking tags.
    pub thinking: String,
    /// What it answered: all other text, without tags.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
    /// Whether `text` is what [`AnswerOptions::constraint`] asks for; `None` without one. `false` for an answer that was cut off
    /// before it was complete.
    pub meets_constraint: Option<bool>,
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
    /// The constraint leaves no token that the model may say: what has to follow cannot be spelled, is banned, or has become
    /// too complex to find out, which is logged.
    DeadEnd,
    /// The caller said so.
    Caller,
}
