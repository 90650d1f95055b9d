//! What tells prompts apart.

use sha2::{Digest, Sha256};

use super::{EncodedPrompt, Segment};

impl EncodedPrompt {
    /// SHA-256 over all that decides the keys and values of the prompt: its tokens, the embeddings of its pictures and their
    /// grids, and where one segment ends and the next begins.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for segment in &self.segments {
            match segment {
                Segment::Tokens(tokens) => {
                    hasher.update([0]);
                    hasher.update((tokens.len() as u64).to_le_bytes());
                    hasher.update(bytemuck::cast_slice::<_, u8>(tokens));
                }
                Segment::Image(image) => {
                    hasher.update([1]);
                    for n in [u64::from(image.grid_w), u64::from(image.grid_h), image.width_embd as u64] {
                        hasher.update(n.to_le_bytes());
                    }
                    hasher.update(bytemuck::cast_slice::<_, u8>(&image.data));
                }
            }
        }
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::*;
    use crate::prompt::ImageEmbedding;

    #[test]
    fn every_part_of_a_prompt_counts() {
        let picture = |data: Vec<f32>, grid_w| {
            let image = ImageEmbedding { n_tokens: 2, grid_w, grid_h: 1, width_embd: 1, data, encode_ms: 3.0 };
            Segment::Image(Arc::new(image))
        };
        let tokens = |tokens: &[i32]| Segment::Tokens(tokens.to_vec());
        let prompts = [
            vec![tokens(&[1, 2])],
            vec![tokens(&[2, 1])],
            vec![tokens(&[1]), tokens(&[2])],
            vec![tokens(&[1]), picture(vec![0.5, 1.0], 2), tokens(&[2])],
            vec![tokens(&[1]), picture(vec![0.5, 1.5], 2), tokens(&[2])],
            vec![tokens(&[1]), picture(vec![0.5, 1.0], 1), tokens(&[2])],
        ];
        let digest = |segments: &Vec<Segment>| EncodedPrompt { segments: segments.clone() }.digest();
        assert_eq!(prompts.iter().map(digest).collect::<HashSet<_>>().len(), prompts.len());
        assert_eq!(digest(&prompts[3]), digest(&prompts[3]));
    }
}
