//! llama.cpp's decode call in a loop and nothing else: what [`crate::generate()`] is measured against.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{SessionOptions, batch::Batch, context::Context, wants_all_logits};
use crate::{
    Error, ErrorKind, Result,
    model::{Model, TokenId},
};

/// A context of its own over the weights of a model, set up as a [`super::Session`] with the same options is.
///
/// It looks for the largest logit of every sequence, as the plainest program would, and goes on with tokens that are given,
/// so that it decodes what another loop had picked. No adapters, no pictures, no log-probabilities, no cancelling.
pub struct BareLoop {
    context: Context,
    batch: Batch,
    options: SessionOptions,
    model: Model,
}

impl BareLoop {
    /// A loop over as many sequences as `options` says.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range, `Backend`.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Self> {
        options.check_for(model.hyper())?;
        let mut context = Context::new(model, options)?;
        context.ignore_cancel();
        let batch = Batch::new(wants_all_logits(model));
        Ok(Self { context, batch, options: *options, model: model.clone() })
    }

    /// Computes `prompt`, copies it to as many sequences as there are `answers`, and decodes these side by side, a token of
    /// each a call. The time is that from the end of the prompt to the last picked token; as in any loop, the last token of an
    /// answer is picked and not decoded.
    ///
    /// # Errors
    /// `InvalidInput` for an empty prompt, tokens outside of the vocabulary, answers of different lengths or more of them than
    /// sequences; `ContextOverflow`, `Backend`.
    pub fn run(&mut self, prompt: &[TokenId], answers: &[Vec<TokenId>]) -> Result<Duration> {
        let n_steps = self.check(prompt, answers)?;
        (0..self.options.n_seq).for_each(|sequence| self.context.truncate(sequence, 0));
        let n_batch = self.options.n_ubatch;
        let mut position = 0;
        for piece in prompt.chunks(n_batch) {
            let is_last = position as usize + piece.len() == prompt.len();
            let end = piece.len();
            let entries = piece.iter().zip(position..).map(|(&token, position)| (token, position, 0));
            self.decode(entries, &if is_last { end - 1..end } else { end..end })?;
            position += piece.len() as i32;
        }
        let start = Instant::now();
        for sequence in 1..answers.len() {
            self.context.copy(0, sequence);
        }
        for step in 0..n_steps {
            let at = position + step as i32;
            let entries = answers.iter().enumerate().map(|(sequence, answer)| (answer[step], at, sequence));
            self.decode(entries, &(0..answers.len()))?;
        }
        Ok(start.elapsed())
    }

    /// Tokens of each answer that are decoded.
    fn check(&self, prompt: &[TokenId], answers: &[Vec<TokenId>]) -> Result<usize> {
        let refused = |what: &str| Error::new(ErrorKind::InvalidInput, what);
        let n_tokens = answers.first().map_or(0, Vec::len);
        if prompt.is_empty() || n_tokens == 0 || answers.iter().any(|answer| answer.len() != n_tokens) {
            return Err(refused("a bare loop needs a prompt and answers of equal length"));
        }
        if answers.len() > self.options.n_seq {
            return Err(refused("more answers than sequences").got(answers.len()).needed(self.options.n_seq));
        }
        let n_vocab = self.model.info().n_vocab as TokenId;
        if !prompt.iter().chain(answers.iter().flatten()).all(|token| (0..n_vocab).contains(token)) {
            return Err(refused("token outside of the vocabulary"));
        }
        let n_needed = prompt.len() + n_tokens;
        if n_needed > self.options.n_ctx {
            let error = Error::new(ErrorKind::ContextOverflow, "prompt and answer do not fit the context");
            return Err(error.got(n_needed).needed(format!("at most {}", self.options.n_ctx)));
        }
        Ok(n_tokens - 1)
    }

    /// Runs `entries` of token, position and sequence, and looks for the largest logit of those whose places are in `looks_at`.
    fn decode(&mut self, entries: impl Iterator<Item = (TokenId, i32, usize)>, looks_at: &Range<usize>) -> Result<()> {
        self.batch.clear();
        for (index, (token, position, sequence)) in entries.enumerate() {
            self.batch.push_token(token, position, sequence, looks_at.contains(&index));
        }
        // SAFETY: the arrays are the batch's own; tokens, sequences and the room of the context were checked, and a batch is no
        // longer than the context takes.
        if unsafe { self.context.decode(self.batch.of_tokens()) }.is_err() {
            return Err(Error::new(ErrorKind::Backend, "llama.cpp cannot decode"));
        }
        for index in looks_at.clone() {
            let logits = self.context.logits(index);
            let logits = logits.ok_or_else(|| Error::new(ErrorKind::Backend, "llama.cpp gave no logits"))?;
            std::hint::black_box(logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)));
        }
        Ok(())
    }
}
