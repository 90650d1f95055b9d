//! How probable given answers are: the log-probability of every token of completions of one prompt.
//!
//! The prompt, pictures included, is computed once. A completion of n tokens takes the logits after the prompt and after its
//! first n - 1 tokens, which are decoded [`crate::SessionOptions::n_logits`] at a time: logits exist for that many tokens.
//! Completions of one token therefore cost nothing beside the prompt.

use crate::{
    Error, ErrorKind, Result,
    cancel::CancelToken,
    model::{Model, TokenId},
    prompt::EncodedPrompt,
    sampler::{Sampler, SamplerOptions},
    session::{Mark, Session},
};

/// Which probabilities are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreOptions {
    /// Divides the logits, 0 to 100; default 1. 0 counts as 1, as in [`SamplerOptions::temperature`].
    pub temperature: f32,
    /// Whether control tokens and marks of pictures share in the probability; default false: the log-probabilities are
    /// those that [`crate::generate()`] reports, over the tokens that may be sampled. Hugging Face's are over all tokens.
    pub whole_vocabulary: bool,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self { temperature: 1.0, whole_vocabulary: false }
    }
}

/// How probable a completion is.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Natural log-probability of each token after the prompt and the tokens before.
    pub logprobs: Vec<f32>,
}

impl Scored {
    /// Natural log-probability of the completion.
    pub fn sum(&self) -> f64 {
        self.logprobs.iter().copied().map(f64::from).sum()
    }

    /// The mean over its tokens, which does not prefer short completions.
    pub fn mean(&self) -> f64 {
        self.sum() / self.logprobs.len() as f64
    }
}

impl Model {
    /// `text` as an answer of this model, to be scored or taught; with the token that ends an answer when `is_whole`.
    ///
    /// Spellings of control tokens stay text.
    ///
    /// # Errors
    /// `Limit` for 2 GiB of text; `Unsupported` for a model without a token that ends an answer.
    pub fn completion(&self, text: &str, is_whole: bool) -> Result<Vec<TokenId>> {
        let mut tokens = self.tokenize(text, false)?;
        if is_whole {
            tokens.push(self.end_token()?);
        }
        Ok(tokens)
    }

    /// What the model says when an answer is over: the end of a turn, or else of a text.
    fn end_token(&self) -> Result<TokenId> {
        for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eos_token_id"] {
            let id = self.gguf().opt_u32(key)?.and_then(|id| TokenId::try_from(id).ok());
            if let Some(id) = id.filter(|&id| self.is_eog(id)) {
                return Ok(id);
            }
        }
        Err(Error::new(ErrorKind::Unsupported, "the model has no token that ends an answer")
            .at(self.path().display())
            .needed("tokenizer.ggml.eos_token_id"))
    }
}

/// The log-probability of `completion` after `prompt`: [`score_many`] of one.
///
/// # Errors
/// As [`score_many`].
pub fn score(
    session: &mut Session,
    prompt: &EncodedPrompt,
    completion: &[TokenId],
    options: &ScoreOptions,
    cancel: &CancelToken,
) -> Result<Scored> {
    let scored = score_many(session, prompt, &[completion], options, cancel)?;
    scored.into_iter().next().ok_or_else(|| Error::new(ErrorKind::Internal, "no score of a completion"))
}

/// The log-probabilities of `completions` after `prompt`, each for itself, with the session's adapters.
///
/// Texts become completions by [`crate::Model::completion`]. The session's sequences are used from empty and left empty.
///
/// # Errors
/// `ContextOverflow` when the prompt and a completion without its last token do not fit, `InvalidInput` for an empty completion, a
/// token outside of the vocabulary, one that is never sampled (unless `whole_vocabulary`), or options out of range, all before
/// anything is computed; those of [`Session::prefill`]; `Cancelled` when `cancel` was set, with the session empty and usable.
pub fn score_many(
    session: &mut Session,
    prompt: &EncodedPrompt,
    completions: &[&[TokenId]],
    options: &ScoreOptions,
    cancel: &CancelToken,
) -> Result<Vec<Scored>> {
    let model = session.model();
    let banned = if options.whole_vocabulary { &[] } else { model.never_sampled() };
    let sampler = SamplerOptions { temperature: options.temperature, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(&sampler, model.info().n_vocab, banned)?;
    let n_ctx = session.options().n_ctx;
    for (index, completion) in completions.iter().enumerate() {
        check(completion, prompt, &sampler, n_ctx).map_err(|error| error.at(format!("completion {index}")))?;
    }
    session.clear_all();
    session.set_cancel(cancel.clone());
    let result = cancel.check().and_then(|()| run(session, prompt, completions, &mut sampler, cancel));
    session.clear_all();
    // A token that is cancelled later must not stop the session's next call.
    session.set_cancel(CancelToken::new());
    result
}

fn check(completion: &[TokenId], prompt: &EncodedPrompt, sampler: &Sampler, n_ctx: usize) -> Result<()> {
    if completion.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "empty completion").needed("at least one token"));
    }
    completion.iter().try_for_each(|&token| sampler.check_allowed(token))?;
    let n_tokens = prompt.n_tokens() + completion.len() - 1;
    if n_tokens > n_ctx {
        let error = Error::new(ErrorKind::ContextOverflow, "prompt and completion do not fit the context");
        return Err(error.got(format!("{n_tokens} tokens")).needed(format!("at most {n_ctx}")));
    }
    Ok(())
}

/// The sequence that is used.
const SEQ: usize = 0;

fn run(
    session: &mut Session,
    prompt: &EncodedPrompt,
    completions: &[&[TokenId]],
    sampler: &mut Sampler,
    cancel: &CancelToken,
) -> Result<Vec<Scored>> {
    session.prefill(SEQ, prompt)?;
    let end = session.mark(SEQ);
    // The logits after the prompt are gone with the next call.
    let first = |completion: &&[TokenId]| sampler.logprob(session.logits(SEQ)?, completion[0]);
    let firsts = completions.iter().map(first).collect::<Result<Vec<_>>>()?;
    let scored = |(&completion, first)| rest(session, completion, first, end, sampler, cancel);
    completions.iter().zip(firsts).map(scored).collect()
}

/// Scores what follows the first token of `completion`, and cuts the sequence back to the `end` of the prompt.
fn rest(
    session: &mut Session,
    completion: &[TokenId],
    first: f32,
    end: Mark,
    sampler: &mut Sampler,
    cancel: &CancelToken,
) -> Result<Scored> {
    let mut logprobs = Vec::with_capacity(completion.len());
    logprobs.push(first);
    for piece in completion[..completion.len() - 1].chunks(session.options().n_logits) {
        cancel.check()?;
        session.decode_run(SEQ, piece)?;
        for index in 0..piece.len() {
            let next = completion[logprobs.len()];
            logprobs.push(sampler.logprob(session.run_logits(SEQ, index)?, next)?);
        }
    }
    session.rewind(SEQ, end);
    Ok(Scored { logprobs })
}
