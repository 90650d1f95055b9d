//! How answers are written, and what one is.

use owlet_runtime::{self as runtime, ErrorKind};

use crate::error::Result;

/// How answers are written. Nothing given means the default.
#[derive(Clone, Debug, Default, PartialEq, uniffi::Record)]
pub struct AnswerOptions {
    /// Most tokens of an answer, thinking included, at least 1; default 1024.
    #[uniffi(default)]
    pub max_new_tokens: Option<u32>,
    /// Most tokens of thinking, which is then closed by force; default none. 0 keeps the model from thinking.
    #[uniffi(default)]
    pub thinking_budget: Option<u32>,
    /// Divides the logits, 0 to 100; default 1. 0 picks the most probable token.
    #[uniffi(default)]
    pub temperature: Option<f32>,
    /// Only the most probable tokens, so many; default 0: all.
    #[uniffi(default)]
    pub top_k: Option<u32>,
    /// Only the most probable tokens that together have this probability; default 1: all.
    #[uniffi(default)]
    pub top_p: Option<f32>,
    /// Only tokens at least this probable relative to the most probable one; default 0: all.
    #[uniffi(default)]
    pub min_p: Option<f32>,
    /// Locally typical sampling (arXiv 2202.00666); default 1: off.
    #[uniffi(default)]
    pub typical_p: Option<f32>,
    /// Divides positive, multiplies negative logits of tokens that occurred lately; default 1: off.
    #[uniffi(default)]
    pub repeat_penalty: Option<f32>,
    /// Tokens of the answer that the three penalties look at; default 64.
    #[uniffi(default)]
    pub repeat_window: Option<u32>,
    /// Taken once from the logits of tokens that occurred; default 0: off.
    #[uniffi(default)]
    pub presence_penalty: Option<f32>,
    /// Taken from the logits of tokens as often as they occurred; default 0: off.
    #[uniffi(default)]
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of single tokens.
    #[uniffi(default)]
    pub logit_bias: Vec<LogitBias>,
    /// Tokens never picked.
    #[uniffi(default)]
    pub banned_tokens: Vec<u32>,
    /// Texts that end an answer, at most 64.
    #[uniffi(default)]
    pub stop: Vec<String>,
    /// What the answer has to look like; default anything.
    #[uniffi(default)]
    pub constraint: Option<Constraint>,
    /// Log-probabilities of so many of the most probable tokens are told for every token, at most 1000; default 0.
    #[uniffi(default)]
    pub top_logprobs: Option<u32>,
}

/// Added to the logit of a token before the temperature divides it.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct LogitBias {
    /// The token.
    pub token: u32,
    /// -1000 to 1000.
    pub bias: f32,
}

/// What an answer has to look like.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Constraint {
    /// JSON that is valid under a JSON Schema.
    JsonSchema {
        /// The schema, as JSON.
        schema: String,
    },
    /// A text of a context-free grammar in the Lark dialect: `start: "yes" | "no"`.
    Lark {
        /// The grammar.
        grammar: String,
    },
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum StopReason {
    /// The model ended it.
    EndOfAnswer,
    /// It came to a stop string.
    StopString {
        /// Its place in `AnswerOptions.stop`.
        index: u32,
    },
    /// It reached the number of tokens asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The constraint leaves no token that the model may say.
    DeadEnd,
    /// The app said so.
    Caller,
}

/// A token with its probability.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct TopToken {
    /// The token.
    pub token: u32,
    /// Its natural log-probability.
    pub logprob: f32,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Generated {
    /// What the model thought.
    pub thinking: String,
    /// What it answered, without tags.
    pub answer: String,
    /// Why it ended.
    pub stop: StopReason,
    /// Its tokens; the last one is the end token when the model ended it.
    pub tokens: Vec<u32>,
    /// The natural log-probability of each token.
    pub logprobs: Vec<f32>,
    /// Per token, the most probable ones in its place, if asked for.
    pub top_logprobs: Vec<Vec<TopToken>>,
    /// Whether it is what the constraint asks for; nothing without one.
    pub meets_constraint: Option<bool>,
}

impl AnswerOptions {
    pub(crate) fn build(self) -> Result<runtime::AnswerOptions> {
        let (answer, sampler) = (runtime::AnswerOptions::default(), runtime::SamplerOptions::default());
        let n = |count: Option<u32>, default: usize| count.map_or(default, |count| count as usize);
        let bias = |bias: LogitBias| Ok((token_id(bias.token)?, bias.bias));
        Ok(runtime::AnswerOptions {
            sampler: runtime::SamplerOptions {
                temperature: self.temperature.unwrap_or(sampler.temperature),
                logit_bias: self.logit_bias.into_iter().map(bias).collect::<Result<_>>()?,
                repeat_penalty: self.repeat_penalty.unwrap_or(sampler.repeat_penalty),
                repeat_window: n(self.repeat_window, sampler.repeat_window),
                presence_penalty: self.presence_penalty.unwrap_or(sampler.presence_penalty),
                frequency_penalty: self.frequency_penalty.unwrap_or(sampler.frequency_penalty),
                top_k: n(self.top_k, sampler.top_k),
                typical_p: self.typical_p.unwrap_or(sampler.typical_p),
                top_p: self.top_p.unwrap_or(sampler.top_p),
                min_p: self.min_p.unwrap_or(sampler.min_p),
                banned: self.banned_tokens.into_iter().map(token_id).collect::<Result<_>>()?,
            },
            max_new_tokens: n(self.max_new_tokens, answer.max_new_tokens),
            thinking_budget: self.thinking_budget.map(|count| count as usize),
            constraint: self.constraint.map(Constraint::build).transpose()?,
            top_logprobs: n(self.top_logprobs, answer.top_logprobs),
            stop: self.stop,
        })
    }
}

/// A token as the runtime numbers it.
fn token_id(token: u32) -> Result<runtime::TokenId> {
    Ok(runtime::TokenId::try_from(token).map_err(|_| {
        runtime::Error::new(ErrorKind::InvalidInput, "no token has this number").got(token).needed("less than 2^31")
    })?)
}

impl Constraint {
    fn build(self) -> Result<runtime::Constraint> {
        Ok(match self {
            Self::JsonSchema { schema } => {
                runtime::Constraint::JsonSchema(serde_json::from_str(&schema).map_err(|error| {
                    runtime::Error::new(ErrorKind::InvalidInput, "a schema is no JSON").got(error.to_string())
                })?)
            }
            Self::Lark { grammar } => runtime::Constraint::Lark(grammar),
        })
    }
}

impl From<runtime::StopReason> for StopReason {
    fn from(stop: runtime::StopReason) -> Self {
        match stop {
            runtime::StopReason::EndOfAnswer => Self::EndOfAnswer,
            runtime::StopReason::StopString(index) => Self::StopString { index: index as u32 },
            runtime::StopReason::MaxTokens => Self::MaxTokens,
            runtime::StopReason::ContextFull => Self::ContextFull,
            runtime::StopReason::DeadEnd => Self::DeadEnd,
            runtime::StopReason::Caller => Self::Caller,
        }
    }
}

impl From<runtime::Generated> for Generated {
    fn from(generated: runtime::Generated) -> Self {
        // Tokens that were generated are in the vocabulary, so they are not negative.
        let token = |token: runtime::TokenId| token as u32;
        let top = |sampled: runtime::Sampled| TopToken { token: token(sampled.token), logprob: sampled.logprob };
        Self {
            thinking: generated.thinking,
            answer: generated.text,
            stop: generated.stop.into(),
            tokens: generated.tokens.into_iter().map(token).collect(),
            logprobs: generated.logprobs,
            top_logprobs: generated.top_logprobs.into_iter().map(|tops| tops.into_iter().map(top).collect()).collect(),
            meets_constraint: generated.meets_constraint,
        }
    }
}
