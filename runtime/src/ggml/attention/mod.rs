//! Attention of our own on the CPU: exact and causal, over sequences that share their beginning, and its gradient.
//!
//! As in FlashAttention-2 (arXiv 2307.08691, section 3.1), scores exist a few at a time in the cache of a thread: the
//! forward pass keeps of every row of the softmax only the logarithm of its sum, from which the backward pass computes the
//! probabilities again. Three operations, each result of which belongs to one task of one thread, so that sums run in the same
//! order whatever the number of threads:
//!
//! - [`forward`]: for a panel of queries, batches of the keys that they see: `S = K q`, softmax so far, `o += V^T P`.
//! - [`backward::queries`]: for a panel of queries again, `dS = P (V do - o do)`, `dq += K^T dS`.
//! - [`backward::keys`]: for a panel of keys, batches of the queries that see them: `dv += do^T P`, `dk += q^T dS`. It computes
//!   P and dS once more, transposed: seven products on the way back where five would do, and no sums over threads.
//!
//! A panel is the left operand of [`super::product`]'s innermost loop, and lanes of vectors in between; what it meets comes
//! packed as the right one, by vectors for scores, by elements for sums of vectors. Heads that share keys are more
//! queries of one panel. A thread needs some dozen KiB of its own, whatever the length of the sequences.

mod backward;
mod forward;
mod panel;
mod tasks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{
    graph::{Graph, Tensor},
    ops::Callback,
    product::COLUMNS,
    stored::Shape,
    turns::Turns,
};
use crate::gguf::GgmlType;

/// Keys or queries that a panel meets at a time: their scores stay in the nearest cache.
const BATCH: usize = 8 * COLUMNS;

/// Panels that a thread takes at a time.
const MAX_PANELS: usize = 8;

/// How the T tokens of a batch form sequences: a common beginning and branches that go on from it. Every token sees the
/// beginning up to itself, and tokens of a branch see all of it and their own branch up to themselves.
///
/// Keys are numbered with the frozen ones first, which come before the batch and are seen by all, then the batch's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branches {
    /// Keys before the batch.
    pub n_frozen: usize,
    /// Tokens of the common beginning that are in the batch; they come first.
    pub n_common: usize,
    /// Tokens of each branch, which may be 0; one after the other.
    pub lengths: Vec<usize>,
}

impl Branches {
    /// Tokens of the batch.
    pub fn n_tokens(&self) -> usize {
        self.n_common + self.lengths.iter().sum::<usize>()
    }
}

/// What the operations know beside their operands.
#[derive(Debug)]
pub(super) struct Work {
    branches: Arc<Branches>,
    turns: Turns,
}

impl Work {
    /// The next of `panels`, for one thread of several.
    fn take<'a, T>(&'a self, panels: &'a [T], n_threads: usize) -> impl Iterator<Item = &'a T> {
        std::iter::from_fn(move || self.turns.take(panels.len(), n_threads, 1..MAX_PANELS))
            .flat_map(|taken| &panels[taken])
    }
}

/// Gradients of [`Graph::attention`]'s operands, of their shapes; keys and values without the frozen ones.
#[derive(Clone, Copy, Debug)]
pub struct AttentionGradients {
    /// `[head_dim, n_head, T]`.
    pub q: Tensor,
    /// `[head_dim, n_head_kv, T]`.
    pub k: Tensor,
    /// `[head_dim, n_head_kv, T]`.
    pub v: Tensor,
}

impl Graph {
    /// For every query and head, the mean of the values that it sees, weighted by the softmax of its products with their keys.
    /// Heads share keys in groups of neighbours. CPU only ([`super::Backend::has_attention`]).
    ///
    /// `q[head_dim, n_head, T]`, `k` and `v` `[head_dim, n_head_kv, n_frozen + T]`, contiguous. The result is one row of
    /// `(head_dim + 1) * n_head * T`: the means, then what [`Graph::attention_back`] needs; [`Graph::attention_output`] is a
    /// view of the means.
    pub fn attention(&mut self, q: Tensor, k: Tensor, v: Tensor, branches: &Arc<Branches>) -> Tensor {
        let [head_dim, n_head, n_tokens, _] = self.check_attention(q, k, v, branches);
        let (keys, values) = (self.pack_vectors(k), self.pack_elements(v));
        let shape = [(head_dim + 1) * n_head * n_tokens, 1, 1, 1];
        self.custom_over(shape, &[q, keys, values], forward::attend, branches)
    }

    /// The means `[head_dim * n_head, T]` in the result of [`Graph::attention`].
    pub fn attention_output(&mut self, attended: Tensor, head_dim: usize, n_head: usize) -> Tensor {
        let length = self.shape(attended)[0];
        let n_tokens = length / ((head_dim + 1) * n_head);
        let means = self.slice(attended, 0, 0, head_dim * n_head * n_tokens);
        self.reshape(means, &[head_dim * n_head, n_tokens])
    }

    /// Gradients for the gradient `d_output[head_dim, n_head, T]` of the means, with `attended` and its operands as in
    /// [`Graph::attention`].
    pub fn attention_back(
        &mut self,
        [q, k, v]: [Tensor; 3],
        attended: Tensor,
        d_output: Tensor,
        branches: &Arc<Branches>,
    ) -> AttentionGradients {
        let [head_dim, n_head, n_tokens, _] = self.check_attention(q, k, v, branches);
        let n_head_kv = self.shape(k)[1];
        let length = (head_dim + 1) * n_head * n_tokens;
        assert_eq!(self.shape(attended), [length, 1, 1, 1], "attention_back: result of attention");
        assert_eq!(self.shape(d_output), self.shape(q), "attention_back: gradient");
        self.check_contiguous("attention_back", attended);
        self.check_contiguous("attention_back", d_output);

        let (by_key, values, by_element) = (self.pack_vectors(k), self.pack_vectors(v), self.pack_elements(k));
        let operands = [q, d_output, attended, by_key, values, by_element];
        let d_q = self.custom_over([length, 1, 1, 1], &operands, backward::queries, branches);

        let packed = [q, d_output].map(|x| [self.pack_vectors(x), self.pack_elements(x)]);
        let [[q_vectors, q_elements], [d_vectors, d_elements]] = packed;
        let operands = [k, v, attended, d_q, q_vectors, d_vectors, q_elements, d_elements];
        let d_kv = self.custom_over([head_dim, n_head_kv, n_tokens, 2], &operands, backward::keys, branches);
        let q = self.slice(d_q, 0, 0, head_dim * n_head * n_tokens);
        let q = self.reshape(q, &[head_dim, n_head, n_tokens]);
        AttentionGradients { q, k: self.slice(d_kv, 3, 0, 1), v: self.slice(d_kv, 3, 1, 1) }
    }

    fn custom_over(
        &mut self,
        shape: Shape,
        operands: &[Tensor],
        callback: Callback,
        branches: &Arc<Branches>,
    ) -> Tensor {
        let user_data = self.keep(Work { branches: Arc::clone(branches), turns: Turns::default() }).cast_mut().cast();
        self.custom_with(shape, operands, callback, user_data)
    }

    /// Vectors `x[head_dim, n_heads, n]`, head by head and a strip at a time: scores are products with them.
    fn pack_vectors(&mut self, x: Tensor) -> Tensor {
        let by_head = self.permute(x, [0, 2, 1, 3]);
        self.pack(by_head).tensor
    }

    /// The same, strips of elements of all vectors: sums of vectors are products with them.
    fn pack_elements(&mut self, x: Tensor) -> Tensor {
        let by_head = self.permute(x, [1, 2, 0, 3]);
        self.pack(by_head).tensor
    }

    /// The shape of the queries.
    fn check_attention(&self, q: Tensor, k: Tensor, v: Tensor, branches: &Branches) -> [usize; 4] {
        assert!(self.has_custom_operations(), "attention: device");
        let (shape, keys) = (self.shape(q), self.shape(k));
        let [head_dim, n_head, n_tokens, _] = shape;
        assert_eq!(n_tokens, branches.n_tokens(), "attention: tokens of the branches");
        assert_eq!(keys, [head_dim, keys[1], branches.n_frozen + n_tokens, 1], "attention: keys of queries {shape:?}");
        assert!(shape[3] == 1 && n_head.is_multiple_of(keys[1]), "attention: {} heads for {n_head}", keys[1]);
        assert_eq!(self.shape(v), keys, "attention: values");
        for operand in [q, k, v] {
            assert_eq!(self.dtype(operand), GgmlType::F32);
            self.check_contiguous("attention", operand);
        }
        shape
    }
}
