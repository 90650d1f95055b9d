//! Samples as supervised training takes them: prompts with responses, in tokens.

use owlet_runtime::{CancelToken, EncodedPrompt, Error, ErrorKind, Model, Result, TokenId};

use super::TuneOptions;
use crate::{data::Sample, rollout::encode};

/// A prompt with the response to learn.
pub(super) struct Example {
    pub(super) prompt: EncodedPrompt,
    /// At least one token; the last usually ends the answer.
    pub(super) response: Vec<TokenId>,
}

/// `sample` with `response`, images encoded.
pub(super) fn example(
    model: &Model,
    sample: &Sample,
    response: Vec<TokenId>,
    options: &TuneOptions,
    cancel: &CancelToken,
) -> Result<Example> {
    cancel.check()?;
    let prompt = encode(model, sample, &options.suffix).map_err(|error| error.at(place(sample)))?;
    let (n_tokens, limit) = (prompt.n_tokens(), options.max_prompt_tokens);
    if n_tokens > limit {
        let error = Error::new(ErrorKind::ContextOverflow, "prompt too long").at(place(sample));
        return Err(error.got(format!("{n_tokens} tokens")).needed(format!("at most {limit}")));
    }
    Ok(Example { prompt, response })
}

/// The tokens of the response that `sample` gives, its end included.
///
/// # Errors
/// `ContextOverflow` if it is too long; `Unsupported` for a model without a token that ends an answer.
pub(super) fn given_response(model: &Model, sample: &Sample, options: &TuneOptions) -> Result<Vec<TokenId>> {
    // Spellings of control tokens stay text: a data set is from outside.
    let mut tokens = model.tokenize(&sample.target(), false)?;
    tokens.push(end_token(model)?);
    if tokens.len() > options.max_response_tokens {
        let error = Error::new(ErrorKind::ContextOverflow, "response too long").at(place(sample));
        return Err(error.got(format!("{} tokens", tokens.len())).needed(options.max_response_tokens));
    }
    Ok(tokens)
}

/// What the model says when an answer is over: the end of a turn, or else of a text.
fn end_token(model: &Model) -> Result<TokenId> {
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eos_token_id"] {
        let id = model.gguf().opt_u32(key)?.and_then(|id| TokenId::try_from(id).ok());
        if let Some(id) = id.filter(|&id| model.is_eog(id)) {
            return Ok(id);
        }
    }
    Err(Error::new(ErrorKind::Unsupported, "the model has no token that ends an answer")
        .at(model.path().display())
        .needed("tokenizer.ggml.eos_token_id"))
}

pub(super) fn place(sample: &Sample) -> &str {
    if sample.place.is_empty() { &sample.id } else { &sample.place }
}
