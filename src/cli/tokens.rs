//! Tokens with their log-probabilities, as `--json` prints them.

use owlet::{Generated, Model, TokenId};
use serde::Serialize;

/// A token.
#[derive(Debug, Serialize)]
pub(crate) struct TokenRow {
    id: TokenId,
    text: String,
    logprob: f32,
    /// The most probable ones in its place, the first of them first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<TokenRow>,
}

impl TokenRow {
    pub(crate) fn new(model: &Model, id: TokenId, logprob: f32) -> Self {
        Self { id, text: model.detokenize(&[id]), logprob, top: Vec::new() }
    }

    /// Every token of `answer`, with those that were told in its place.
    pub(crate) fn of(model: &Model, answer: &Generated) -> Vec<Self> {
        let rows = answer.tokens.iter().zip(&answer.logprobs).map(|(&id, &logprob)| Self::new(model, id, logprob));
        let mut rows: Vec<_> = rows.collect();
        for (row, top) in rows.iter_mut().zip(&answer.top_logprobs) {
            row.top = top.iter().map(|other| Self::new(model, other.token, other.logprob)).collect();
        }
        rows
    }
}
