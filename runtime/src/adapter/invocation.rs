//! What invokes an activated adapter (aLoRA, arXiv 2504.12397): tokens of the prompt from whose last occurrence on, its own
//! first token included, the adapter acts. What comes before is computed by the base, so its keys and values serve every
//! adapter.
//!
//! The key is that of llama.cpp. The definition is that of the paper and of PEFT; llama.cpp's server looks for the same
//! tokens, but begins one token before them.

use crate::{
    Error, ErrorKind, Result,
    gguf::{Array, GgufFile, Value},
    model::TokenId,
};

/// Key of the tokens in an adapter file: an array of u32.
pub const INVOCATION_KEY: &str = "adapter.alora.invocation_tokens";

/// The most tokens that an invocation has.
pub const MAX_INVOCATION_TOKENS: usize = 256;

/// The invocation that an adapter file names; `None` for plain adapters, which act on every token.
///
/// # Errors
/// `InvalidFile` for a value of another type than an array of u32, for no tokens or more than [`MAX_INVOCATION_TOKENS`],
/// and for numbers that are no tokens of any vocabulary.
pub fn read_invocation(file: &GgufFile) -> Result<Option<Vec<TokenId>>> {
    let Some(value) = file.get(INVOCATION_KEY) else { return Ok(None) };
    let wrong = |got: String, needed: &str| {
        let error = Error::new(ErrorKind::InvalidFile, "wrong metadata").at(INVOCATION_KEY);
        Err(error.got(got).needed(needed))
    };
    let Value::Array(Array::U32(numbers)) = value else {
        // llama.cpp refuses all other types too.
        return wrong(value.type_name().to_owned(), "array of u32");
    };
    if !(1..=MAX_INVOCATION_TOKENS).contains(&numbers.len()) {
        return wrong(format!("{} tokens", numbers.len()), &format!("1 to {MAX_INVOCATION_TOKENS}"));
    }
    match numbers.iter().map(|&number| TokenId::try_from(number)).collect() {
        Ok(tokens) => Ok(Some(tokens)),
        Err(_) => wrong(format!("{numbers:?}"), "numbers of tokens"),
    }
}
