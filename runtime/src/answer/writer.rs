//! Writes answers, a token at a time.

use super::{AnswerOptions, Generated, StopReason, speech::Speech};
use crate::{
    Result,
    generate::RngKey,
    model::{Model, TokenId},
    prompt::EncodedPrompt,
    sampler::{Sampled, Sampler},
    think::ThinkEvent,
};

/// Writes answers by one set of options. What belongs to a single answer is in its [`Draft`]; the writer has the sampler,
/// whose scratch is as large as the vocabulary.
pub(crate) struct Writer {
    model: Model,
    sampler: Sampler,
    options: AnswerOptions,
    n_ctx: usize,
}

/// An answer under way.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    rng_key: RngKey,
    sample: usize,
    n_prompt: usize,
    speech: Speech,
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
}

/// A token that was just written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) token: TokenId,
    pub(crate) logprob: f32,
    /// What can be told since the last one.
    pub(crate) said: Vec<ThinkEvent>,
    /// Set when the answer is over.
    pub(crate) stop: Option<StopReason>,
}

impl Writer {
    /// A writer of answers by `model` in sequences of `n_ctx` places.
    ///
    /// # Errors
    /// `InvalidInput` and `Limit` for options out of range.
    pub(crate) fn new(model: &Model, n_ctx: usize, options: &AnswerOptions) -> Result<Self> {
        options.check()?;
        let sampler = Sampler::new(&options.sampler, model.info().n_vocab, model.never_sampled())?;
        Ok(Self { model: model.clone(), sampler, options: options.clone(), n_ctx })
    }

    /// The beginning of answer number `sample` to `prompt`.
    pub(crate) fn begin(&self, prompt: &EncodedPrompt, rng_key: RngKey, sample: usize) -> Draft {
        Draft {
            rng_key,
            sample,
            n_prompt: prompt.n_tokens(),
            speech: Speech::new(&self.model, prompt, &self.options.stop),
            tokens: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// Picks the next token of `draft` by `logits`, which follow all that was written before. The token depends on them and on
    /// the key (seed, step, prompt, sample, position) alone.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub(crate) fn write(&mut self, draft: &mut Draft, logits: &[f32]) -> Result<Written> {
        let mut rng = draft.rng_key.rng(draft.sample, draft.tokens.len());
        let Sampled { token, logprob } = self.sampler.sample(logits, &draft.tokens, &mut rng)?;
        draft.tokens.push(token);
        draft.logprobs.push(logprob);
        let mut said = draft.speech.push(&self.model.token_bytes(token));
        let limit = self.stop_reason(draft, token);
        if limit.is_some() && draft.speech.found.is_none() {
            said.extend(draft.speech.finish());
        }
        let stop = draft.speech.found.map(StopReason::StopString).or(limit);
        Ok(Written { token, logprob, said, stop })
    }

    /// Why `draft` ends with `token` whatever it says, if it does.
    fn stop_reason(&self, draft: &Draft, token: TokenId) -> Option<StopReason> {
        if self.model.is_eog(token) {
            Some(StopReason::EndOfAnswer)
        } else if draft.tokens.len() == self.options.max_new_tokens {
            Some(StopReason::MaxTokens)
        } else if draft.n_prompt + draft.tokens.len() > self.n_ctx {
            // There is no place to decode this token in, so none can follow.
            Some(StopReason::ContextFull)
        } else {
            None
        }
    }
}

impl Draft {
    /// Index of the answer in its request.
    pub(crate) fn sample(&self) -> usize {
        self.sample
    }

    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// All text so far with its tags, what the template opened included, without a stop string.
    pub(crate) fn raw_text(&self) -> &str {
        &self.speech.raw
    }

    /// The answer, which ends here because of `stop`.
    pub(crate) fn finish(self, stop: StopReason) -> Generated {
        let Self { tokens, logprobs, speech: Speech { thinking, answer, .. }, .. } = self;
        Generated { tokens, logprobs, thinking, text: answer, stop }
    }
}
