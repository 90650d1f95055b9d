//! Where a prompt is cut in two: activated adapters (aLoRA, arXiv 2504.12397) leave what comes before their invocation to
//! the base.

use super::{EncodedPrompt, Segment};
use crate::{Error, ErrorKind, Result, model::TokenId};

impl EncodedPrompt {
    /// Place in the context of the first token of the last occurrence of `tokens`, counting the places of pictures. `None`
    /// when they do not occur, and for no tokens.
    pub fn last_occurrence(&self, tokens: &[TokenId]) -> Option<usize> {
        if tokens.is_empty() {
            return None;
        }
        // A picture has no tokens: nothing matches its places.
        let mut places = Vec::with_capacity(self.n_tokens());
        for segment in &self.segments {
            match segment {
                Segment::Tokens(tokens) => places.extend(tokens.iter().copied().map(Some)),
                Segment::Image(image) => places.resize(places.len() + image.n_tokens, None),
            }
        }
        places.windows(tokens.len()).rposition(|window| window.iter().zip(tokens).all(|(a, b)| *a == Some(*b)))
    }

    /// Place from which on an adapter that is activated by the tokens `invocation` acts: that of their last occurrence.
    ///
    /// # Errors
    /// `InvalidInput` when they do not occur. (llama.cpp's server and PEFT would go on without the adapter.)
    pub fn activation(&self, invocation: &[TokenId]) -> Result<usize> {
        self.last_occurrence(invocation).ok_or_else(|| {
            let error = Error::new(ErrorKind::InvalidInput, "the prompt does not invoke the activated adapter");
            error.needed(format!("the tokens {invocation:?}"))
        })
    }

    /// The first `n` places as a prompt of their own, and the rest. Pictures are shared and never cut: one that begins
    /// before place `n` is in the first part as a whole.
    pub fn split_at(&self, n: usize) -> (EncodedPrompt, EncodedPrompt) {
        let (mut head, mut tail) = (EncodedPrompt::default(), EncodedPrompt::default());
        let mut start = 0;
        for segment in &self.segments {
            let n_before = n.saturating_sub(start);
            start += segment.n_tokens();
            match segment {
                Segment::Tokens(tokens) if (1..tokens.len()).contains(&n_before) => {
                    let (before, behind) = tokens.split_at(n_before);
                    head.segments.push(Segment::Tokens(before.to_vec()));
                    tail.segments.push(Segment::Tokens(behind.to_vec()));
                }
                segment if n_before > 0 => head.segments.push(segment.clone()),
                segment => tail.segments.push(segment.clone()),
            }
        }
        (head, tail)
    }
}
