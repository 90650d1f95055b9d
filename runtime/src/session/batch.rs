//! The arrays of a `llama_batch`, reused from call to call.

use std::ptr;

use llama_cpp_sys_2 as sys;

use crate::model::TokenId;

/// A batch under construction. Every token belongs to one sequence.
pub(super) struct Batch {
    /// Ask for the logits of every token, whatever the caller wants.
    all_logits: bool,
    tokens: Vec<TokenId>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    n_sequences: Vec<i32>,
    sequence_pointers: Vec<*mut i32>,
    wants_logits: Vec<i8>,
}

// SAFETY: the pointers are rewritten before every use and never followed by this type.
unsafe impl Send for Batch {}

impl Batch {
    pub(super) fn new(all_logits: bool) -> Self {
        Self {
            all_logits,
            tokens: Vec::new(),
            positions: Vec::new(),
            sequences: Vec::new(),
            n_sequences: Vec::new(),
            sequence_pointers: Vec::new(),
            wants_logits: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.wants_logits.clear();
    }

    /// Appends a token.
    pub(super) fn push_token(&mut self, token: TokenId, position: i32, sequence: usize, wants_logits: bool) {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence as i32);
        self.wants_logits.push((wants_logits || self.all_logits).into());
    }

    /// Replaces the content by `n_tokens` image tokens at `positions`; the last one may want logits.
    pub(super) fn set_image(&mut self, positions: &[[i32; 4]], sequence: usize, wants_logits: bool) {
        self.clear();
        // llama.cpp wants the positions of embeddings axis by axis.
        for axis in 0..4 {
            self.positions.extend(positions.iter().map(|position| position[axis]));
        }
        self.sequences.resize(positions.len(), sequence as i32);
        self.wants_logits.resize(positions.len(), self.all_logits.into());
        if let Some(last) = self.wants_logits.last_mut() {
            *last = (wants_logits || self.all_logits).into();
        }
    }

    /// The batch of the pushed tokens. Its pointers are valid until the next call that takes `&mut self`.
    pub(super) fn of_tokens(&mut self) -> sys::llama_batch {
        let token = self.tokens.as_mut_ptr();
        self.raw(token, ptr::null_mut())
    }

    /// The batch of the image tokens set before; `embeddings` are their rows, which llama.cpp only reads.
    pub(super) fn of_image(&mut self, embeddings: &[f32]) -> sys::llama_batch {
        self.raw(ptr::null_mut(), embeddings.as_ptr().cast_mut())
    }

    fn raw(&mut self, token: *mut TokenId, embd: *mut f32) -> sys::llama_batch {
        let n_tokens = self.sequences.len();
        self.n_sequences.resize(n_tokens, 1);
        self.sequence_pointers.clear();
        self.sequence_pointers.extend(self.sequences.iter_mut().map(ptr::from_mut));
        sys::llama_batch {
            n_tokens: n_tokens as i32,
            token,
            embd,
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.n_sequences.as_mut_ptr(),
            seq_id: self.sequence_pointers.as_mut_ptr(),
            logits: self.wants_logits.as_mut_ptr(),
        }
    }
}
