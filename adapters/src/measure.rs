//! Sizes of prompts, before any work: a prompt that does not fit is found at once, and not after hours.

use owlet_runtime::{Error, ErrorKind, Model, Result, TokenId};

use crate::{
    data::{Dataset, Sample},
    picture::Picture,
};

/// Tokens of every sample's prompt, pictures included; of the pictures only the headers are read.
///
/// # Errors
/// At the place of the first such sample: `ContextOverflow` for more than `max_tokens`, `InvalidInput` for a prompt without
/// the `invocation` of the activated adapter in use; those of prompts and headers.
pub(crate) fn prompt_lengths(
    model: &Model,
    dataset: &Dataset,
    suffix: &str,
    max_tokens: usize,
    invocation: Option<&[TokenId]>,
) -> Result<Vec<usize>> {
    let length = |sample: &Sample| {
        let sizes = sample.images.iter().map(Picture::probe).collect::<Result<Vec<_>>>()?;
        let outline = model.outline(&sample.prompt_text(suffix), &sizes)?;
        let n_tokens = outline.n_tokens();
        if n_tokens > max_tokens {
            let error = Error::new(ErrorKind::ContextOverflow, "prompt too long").got(format!("{n_tokens} tokens"));
            return Err(error.needed(format!("at most {max_tokens}")));
        }
        invocation.map(|invocation| outline.activation(invocation)).transpose()?;
        Ok(n_tokens)
    };
    let place = |sample: &Sample| length(sample).map_err(|error| error.at(sample.named_place()));
    dataset.samples().iter().map(place).collect()
}
