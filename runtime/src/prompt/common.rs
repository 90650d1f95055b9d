//! What two prompts have in common: as far as a sequence that holds one serves the other.

use std::sync::Arc;

use super::{EncodedPrompt, ImageEmbedding, Segment};
use crate::model::TokenId;

impl EncodedPrompt {
    /// Places of the longest common beginning with `other`. A picture is in it as a whole or not at all; two are the same when
    /// their embeddings are, bit for bit.
    pub fn common_beginning(&self, other: &Self) -> usize {
        let mut n_common = 0;
        for (ours, theirs) in self.segments.iter().zip(&other.segments) {
            match (ours, theirs) {
                (Segment::Image(ours), Segment::Image(theirs)) if is_same(ours, theirs) => n_common += ours.n_tokens,
                (Segment::Tokens(ours), Segment::Tokens(theirs)) => {
                    let n_same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
                    n_common += n_same;
                    if n_same < ours.len().max(theirs.len()) {
                        break;
                    }
                }
                _ => break,
            }
        }
        n_common
    }

    /// Appends a token.
    pub(crate) fn push_token(&mut self, token: TokenId) {
        match self.segments.last_mut() {
            Some(Segment::Tokens(tokens)) => tokens.push(token),
            _ => self.segments.push(Segment::Tokens(vec![token])),
        }
    }
}

fn is_same(a: &Arc<ImageEmbedding>, b: &Arc<ImageEmbedding>) -> bool {
    let bits = |image: &ImageEmbedding| (image.grid_w, image.grid_h, image.width_embd);
    Arc::ptr_eq(a, b) || (bits(a) == bits(b) && a.data == b.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_beginning_ends_at_the_first_difference() {
        let picture = |value: f32| {
            let (n_tokens, grid_w, data) = (3, 3, vec![value; 3]);
            let image = ImageEmbedding { n_tokens, grid_w, grid_h: 1, width_embd: 1, data, encode_ms: 0.0 };
            Segment::Image(Arc::new(image))
        };
        let tokens = |tokens: &[i32]| Segment::Tokens(tokens.to_vec());
        let whole = vec![tokens(&[1, 2]), picture(0.5), tokens(&[3, 4])];
        let cases = [
            (whole.clone(), 7),
            (vec![], 0),
            (vec![tokens(&[1, 2]), picture(0.5), tokens(&[3])], 6),
            (vec![tokens(&[1, 2]), picture(0.5), tokens(&[3, 4, 5])], 7),
            (vec![tokens(&[1, 2]), picture(0.5), tokens(&[4])], 5),
            (vec![tokens(&[1, 2]), picture(0.25), tokens(&[3, 4])], 2),
            (vec![tokens(&[1]), picture(0.5), tokens(&[3, 4])], 1),
            (vec![tokens(&[1, 2, 3, 4])], 2),
            (vec![picture(0.5)], 0),
        ];
        let whole = EncodedPrompt { segments: whole };
        for (segments, expected) in cases {
            let other = EncodedPrompt { segments };
            assert_eq!(whole.common_beginning(&other), expected, "{other:?}");
            assert_eq!(other.common_beginning(&whole), expected, "{other:?}");
        }
    }

    #[test]
    fn tokens_join_the_last_run() {
        let mut prompt = EncodedPrompt::default();
        prompt.push_token(1);
        prompt.push_token(2);
        assert_eq!(prompt, EncodedPrompt::from_tokens(vec![1, 2]));
    }
}
