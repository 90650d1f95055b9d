//! Samples as supervised training takes them: prompts with responses, in tokens.

use owlet_runtime::{CancelToken, EncodedPrompt, Error, ErrorKind, Model, Result, TokenId};

use super::{Responses, TuneOptions};
use crate::{
    data::{Dataset, Sample},
    measure::prompt_lengths,
    rollout::encode,
};

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
    Ok(Example { prompt: encode(model, sample, &options.suffix)?, response })
}

/// Finds what is too long in `dataset` before any work: its prompts, and the responses that it gives.
///
/// # Errors
/// Those of [`prompt_lengths`] and [`given_response`], at the place of the first sample that does not fit.
pub(super) fn measure(model: &Model, dataset: &Dataset, options: &TuneOptions) -> Result<()> {
    let invocation = options.lora.mode.invocation();
    prompt_lengths(model, dataset, &options.suffix, options.max_prompt_tokens, invocation)?;
    match options.responses {
        Responses::Given => {
            dataset.samples().iter().try_for_each(|sample| given_response(model, sample, options).map(drop))
        }
        // Cut at the limit.
        Responses::Teacher => Ok(()),
    }
}

/// The tokens of the response that `sample` gives, its end included.
///
/// # Errors
/// `Limit` if it is too long; `Unsupported` for a model without a token that ends an answer.
pub(super) fn given_response(model: &Model, sample: &Sample, options: &TuneOptions) -> Result<Vec<TokenId>> {
    let tokens = model.completion(&sample.target(), true)?;
    if tokens.len() > options.max_response_tokens {
        let error = Error::new(ErrorKind::Limit, "response too long").at(sample.named_place());
        let needed = format!("at most {}", options.max_response_tokens);
        return Err(error.got(format!("{} tokens", tokens.len())).needed(needed));
    }
    Ok(tokens)
}
