//! Guesses from what was said before.

use crate::{
    model::TokenId,
    prompt::{EncodedPrompt, Segment},
};

/// Longer matches say nothing more.
const MAX_MATCH: usize = 64;
/// Stands for a picture: no token.
const PICTURE: TokenId = -1;

/// At most `n` tokens that followed the longest earlier occurrence of the end of `prompt` and `answer`, the latest of equals;
/// none where it has fewer than `n_match` tokens.
pub(super) fn guess(prompt: &EncodedPrompt, answer: &[TokenId], n: usize, n_match: usize) -> Vec<TokenId> {
    let tokens = |segment: &Segment| match segment {
        Segment::Tokens(tokens) => tokens.clone(),
        Segment::Image(_) => vec![PICTURE],
    };
    let mut text: Vec<_> = prompt.segments.iter().flat_map(tokens).chain(answer.iter().copied()).collect();
    let n_text = text.len();
    let n_common = |end: usize| {
        let pairs = text[..end].iter().rev().zip(text.iter().rev());
        pairs.take_while(|(a, b)| a == b && **a != PICTURE).take(MAX_MATCH).count()
    };
    let longest = (1..n_text).map(|end| (n_common(end), end)).max();
    let Some((_, end)) = longest.filter(|&(n_common, _)| n_common >= n_match) else { return Vec::new() };
    // What is guessed may itself be what follows: a text that repeats goes on repeating.
    for index in end..end + n {
        if text[index] == PICTURE {
            break;
        }
        text.push(text[index]);
    }
    text.split_off(n_text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::prompt::ImageEmbedding;

    #[test]
    fn guesses_follow_the_longest_earlier_occurrence() {
        for (text, n_match, expected) in [
            (&[1, 2, 3, 4, 5, 1, 2][..], 2, &[3, 4, 5, 1][..]),
            // The longer match, not the later one.
            (&[9, 1, 2, 3, 0, 1, 2, 4, 9, 1, 2], 2, &[3, 0, 1, 2]),
            // The later of equals.
            (&[1, 2, 3, 1, 2, 4, 1, 2], 2, &[4, 1, 2, 4]),
            (&[7, 5, 6, 5, 6, 5, 6], 3, &[5, 6, 5, 6]),
            (&[1, 2, 3, 4, 1, 2], 3, &[]),
            (&[1, 2, 3], 1, &[]),
            (&[4, 4], 1, &[4, 4, 4, 4]),
            (&[4], 1, &[]),
            (&[], 1, &[]),
        ] {
            for n_prompt in 0..=text.len() {
                let (prompt, answer) = text.split_at(n_prompt);
                let prompt = EncodedPrompt::from_tokens(prompt.to_vec());
                assert_eq!(guess(&prompt, answer, 4, n_match), expected, "{text:?}, {n_match}");
            }
        }
        assert!(guess(&EncodedPrompt::from_tokens(vec![1, 2, 1]), &[], 0, 1).is_empty());
    }

    #[test]
    fn pictures_are_neither_matched_nor_guessed() {
        let image = ImageEmbedding { n_tokens: 1, grid_w: 1, grid_h: 1, width_embd: 0, data: vec![], encode_ms: 0.0 };
        let image = Segment::Image(Arc::new(image));
        let tokens = |tokens: &[TokenId]| Segment::Tokens(tokens.to_vec());
        let prompt = EncodedPrompt { segments: vec![tokens(&[1, 2, 3]), image.clone(), tokens(&[4, 1, 2])] };
        assert_eq!(guess(&prompt, &[], 4, 2), [3]);
        let twice = EncodedPrompt { segments: vec![image.clone(), tokens(&[5]), image, tokens(&[5])] };
        assert!(guess(&twice, &[], 4, 2).is_empty());
    }
}
