//! Grouped-query attention over the sequences of a [`Layout`], and back.
//!
//! Inputs are packed: queries `[head_dim * n_head, T]`, rotated and scaled by `1 / sqrt(head_dim)`; keys and values
//! `[head_dim * n_head_kv, T]`. Frozen keys and values are put in front of those of the batch; no gradient is computed for
//! them. On the CPU the runtime's own attention does the rest ([`Graph::attention`]).
//!
//! On other devices it is composed of operations that all have, block by block. A block gathers its rows, padded, into
//! queries `[head_dim, n_queries * n_sharing, n_head_kv, n]` and keys `[head_dim, n_keys, n_head_kv, n]`: the heads that share
//! keys become more queries of the same keys, and the sum over them in the gradients comes for free.

use owlet_runtime::ggml::{Graph, Shape, Tensor};

use super::{
    family::Decoder,
    layout::{Block, KEY_MULTIPLE, Layout},
    tape::Tape,
};

/// The index and mask tensors of one block.
pub(super) struct BlockLeaves {
    /// I32 `[n_queries * n]`.
    pub query_rows: Tensor,
    /// I32 `[n_keys * n]`.
    pub key_rows: Tensor,
    /// `[n_keys, n_queries]`.
    pub mask: Tensor,
    /// `[1, n_queries * n]`, where there is padding.
    pub existing: Option<Tensor>,
}

/// Queries, keys and values, packed.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
}

/// What attention gives.
pub(super) struct Attended {
    /// `[head_dim * n_head, T]`.
    pub output: Tensor,
    /// The same with what the backward pass needs beside it.
    result: Tensor,
}

/// Attention of one group: shapes and places.
pub(super) struct Attention<'a> {
    pub decoder: &'a Decoder,
    pub layout: &'a Layout,
    pub blocks: Vec<BlockLeaves>,
    /// Keys and values of the frozen tokens of this layer, `[head_dim * n_head_kv, n_frozen]`, where there are any.
    pub frozen: Option<(Tensor, Tensor)>,
}

/// The shape of what attention leaves for the backward pass.
pub(super) fn result_shape(decoder: &Decoder, layout: &Layout) -> Shape {
    match layout.blocks.is_empty() {
        true => [(decoder.head_dim + 1) * decoder.n_head * layout.n_tokens, 1, 1, 1],
        false => [decoder.query_width(), layout.n_tokens, 1, 1],
    }
}

impl Attention<'_> {
    /// Every query's mean of the values that it sees, weighted by the softmax of its products with their keys.
    pub(super) fn forward(&self, graph: &mut Graph, packed: Packed, tape: &mut Tape) -> Attended {
        let Decoder { head_dim, n_head, .. } = *self.decoder;
        if !self.is_own() {
            let result = tape.keep(graph, |graph| self.by_blocks(graph, packed));
            return Attended { output: result, result };
        }
        let result = tape.keep(graph, |graph| {
            let [q, k, v] = self.with_frozen_by_head(graph, packed);
            graph.attention(q, k, v, &self.layout.branches)
        });
        Attended { output: graph.attention_output(result, head_dim, n_head), result }
    }

    /// Gradients of queries, keys and values, packed, for the gradient `d_output` of the output.
    pub(super) fn backward(&self, graph: &mut Graph, packed: Packed, attended: &Attended, d_output: Tensor) -> Packed {
        if !self.is_own() {
            return self.back_by_blocks(graph, packed, attended.output, d_output);
        }
        let operands = self.with_frozen_by_head(graph, packed);
        let d_output = self.by_head(graph, d_output, self.decoder.n_head);
        let gradients = graph.attention_back(operands, attended.result, d_output, &self.layout.branches);
        let mut flat = |heads: Tensor, width: usize| graph.reshape(heads, &[width, self.layout.n_tokens]);
        let (query, key) = (self.decoder.query_width(), self.decoder.key_width());
        Packed { q: flat(gradients.q, query), k: flat(gradients.k, key), v: flat(gradients.v, key) }
    }

    /// Whether the runtime's own attention is used.
    fn is_own(&self) -> bool {
        self.layout.blocks.is_empty()
    }

    /// Queries, keys and values as the runtime's own attention takes them.
    fn with_frozen_by_head(&self, graph: &mut Graph, packed: Packed) -> [Tensor; 3] {
        let Decoder { n_head, n_head_kv, .. } = *self.decoder;
        let Packed { q, k, v } = self.with_frozen(graph, packed);
        [(q, n_head), (k, n_head_kv), (v, n_head_kv)].map(|(x, n_heads)| self.by_head(graph, x, n_heads))
    }

    /// `[head_dim * n_heads, n]` as `[head_dim, n_heads, n]`.
    fn by_head(&self, graph: &mut Graph, x: Tensor, n_heads: usize) -> Tensor {
        let n = graph.shape(x)[1];
        graph.reshape(x, &[self.decoder.head_dim, n_heads, n])
    }

    fn by_blocks(&self, graph: &mut Graph, packed: Packed) -> Tensor {
        let output = graph.scratch(&[self.decoder.query_width(), self.layout.n_tokens]);
        let packed = self.with_frozen(graph, packed);
        for (block, leaves) in self.layout.blocks.iter().zip(&self.blocks) {
            let p = self.probabilities(graph, block, leaves, packed);
            let v = self.gather_keys(graph, block, leaves, packed.v);
            // [head_dim, n_head_kv, n_keys, n] -> [n_keys, head_dim, n_head_kv, n]
            let by_key = graph.permute(v, [1, 2, 0, 3]);
            let by_key = graph.contiguous(by_key);
            let mean = graph.mul_mat(by_key, p);
            self.scatter_queries(graph, block, mean, output);
        }
        output
    }

    fn back_by_blocks(&self, graph: &mut Graph, packed: Packed, output: Tensor, d_output: Tensor) -> Packed {
        let (query, key, n_tokens) = (self.decoder.query_width(), self.decoder.key_width(), self.layout.n_tokens);
        let gradients = Packed {
            q: graph.scratch(&[query, n_tokens]),
            k: graph.scratch(&[key, n_tokens]),
            v: graph.scratch(&[key, n_tokens]),
        };
        // The softmax's own term: sum over keys of p * dp, which equals the output times its gradient.
        let [o, d_o] = [output, d_output].map(|x| self.by_head(graph, x, self.decoder.n_head));
        let own = graph.dot_rows(o, d_o);
        let own = graph.scale(own, -1.0, 0.0);
        let own = graph.reshape(own, &[self.decoder.n_head, n_tokens]);
        let packed = self.with_frozen(graph, packed);

        for (block, leaves) in self.layout.blocks.iter().zip(&self.blocks) {
            let p = self.probabilities(graph, block, leaves, packed);
            let d_o = self.gather_queries(graph, block, leaves, d_output, leaves.existing);
            let own = self.gather_queries(graph, block, leaves, own, leaves.existing);
            let v = self.gather_keys(graph, block, leaves, packed.v);
            let v = graph.permute(v, [0, 2, 1, 3]);
            let packed_d_o = graph.pack(d_o);
            let dp = graph.product(v, packed_d_o);
            let centred = graph.add(dp, own);
            let ds = graph.mul(p, centred);

            let k = self.gather_keys(graph, block, leaves, packed.k);
            let by_key = graph.permute(k, [1, 2, 0, 3]);
            let by_key = graph.contiguous(by_key);
            let dq = graph.mul_mat(by_key, ds);
            self.scatter_queries(graph, block, dq, gradients.q);

            let q = self.gather_queries(graph, block, leaves, packed.q, None);
            self.add_keys(graph, block, q, ds, gradients.k);
            self.add_keys(graph, block, d_o, p, gradients.v);
        }
        gradients
    }

    /// The same queries, with the frozen keys and values in front of the others: `[head_dim * n_head_kv, n_frozen + T]`.
    fn with_frozen(&self, graph: &mut Graph, packed: Packed) -> Packed {
        let Some((k, v)) = self.frozen else { return packed };
        let Layout { n_frozen, n_tokens, .. } = *self.layout;
        let mut join = |frozen: Tensor, own: Tensor| {
            let all = graph.scratch(&[self.decoder.key_width(), n_frozen + n_tokens]);
            for (part, start, n) in [(frozen, 0, n_frozen), (own, n_frozen, n_tokens)] {
                let place = graph.slice(all, 1, start, n);
                graph.copy(part, place);
            }
            all
        };
        Packed { k: join(k, packed.k), v: join(v, packed.v), ..packed }
    }

    /// Softmax of the scores of one block, `[n_keys, n_queries * n_sharing, n_head_kv, n]`.
    fn probabilities(&self, graph: &mut Graph, block: &Block, leaves: &BlockLeaves, packed: Packed) -> Tensor {
        let q = self.gather_queries(graph, block, leaves, packed.q, None);
        let k = self.gather_keys(graph, block, leaves, packed.k);
        let k = graph.permute(k, [0, 2, 1, 3]);
        let q = graph.pack(q);
        let scores = graph.product(k, q);
        let n = block.sequences.len();
        // The mask is of one head's queries.
        let scores = graph.reshape(scores, &[block.n_keys, block.n_queries, self.decoder.n_head, n]);
        let p = graph.soft_max(scores, leaves.mask);
        graph.reshape(p, &[block.n_keys, block.n_queries * self.decoder.n_sharing(), self.decoder.n_head_kv, n])
    }

    /// Rows of `x [width * n_head, T]` as `[width, n_queries * n_sharing, n_head_kv, n]`, multiplied by `factor` per row.
    fn gather_queries(
        &self,
        graph: &mut Graph,
        block: &Block,
        leaves: &BlockLeaves,
        x: Tensor,
        factor: Option<Tensor>,
    ) -> Tensor {
        let width = graph.shape(x)[0] / self.decoder.n_head;
        let mut rows = graph.get_rows(x, leaves.query_rows);
        if let Some(factor) = factor {
            rows = graph.mul(rows, factor);
        }
        let n = block.sequences.len();
        let rows = graph.reshape(rows, &[width, self.decoder.n_head, block.n_queries, n]);
        let by_head = graph.permute(rows, [0, 2, 1, 3]);
        let by_head = graph.contiguous(by_head);
        graph.reshape(by_head, &[width, block.n_queries * self.decoder.n_sharing(), self.decoder.n_head_kv, n])
    }

    /// The reverse of `gather_queries`: writes the rows that exist into `packed [head_dim * n_head, T]`.
    fn scatter_queries(&self, graph: &mut Graph, block: &Block, rows: Tensor, packed: Tensor) {
        let Decoder { head_dim, n_head, .. } = *self.decoder;
        let n = block.sequences.len();
        let by_head = graph.reshape(rows, &[head_dim, block.n_queries, n_head, n]);
        let by_query = graph.permute(by_head, [0, 2, 1, 3]);
        let by_query = graph.contiguous(by_query);
        let rows = graph.reshape(by_query, &[head_dim * n_head, block.n_queries * n]);
        for (index, sequence) in block.sequences.iter().enumerate() {
            let from = graph.slice(rows, 1, index * block.n_queries, sequence.queries.len());
            let to = graph.slice(packed, 1, sequence.queries.start, sequence.queries.len());
            graph.copy(from, to);
        }
    }

    /// Rows of `x [head_dim * n_head_kv, n_frozen + T]` as `[head_dim, n_head_kv, n_keys, n]`.
    fn gather_keys(&self, graph: &mut Graph, block: &Block, leaves: &BlockLeaves, x: Tensor) -> Tensor {
        let rows = graph.get_rows(x, leaves.key_rows);
        graph.reshape(rows, &[self.decoder.head_dim, self.decoder.n_head_kv, block.n_keys, block.sequences.len()])
    }

    /// Adds the sum over queries of `queries * weights` to the rows of `sums [head_dim * n_head_kv, T]`, those of the shared
    /// prompt from every sequence; frozen keys have no rows.
    fn add_keys(&self, graph: &mut Graph, block: &Block, queries: Tensor, weights: Tensor, sums: Tensor) {
        // Whole groups of frozen keys are left out of the product.
        let n_skipped = block.n_frozen - block.n_frozen % KEY_MULTIPLE;
        let n_keys = block.n_keys - n_skipped;
        let weights = graph.slice(weights, 0, n_skipped, n_keys);
        let weights = graph.transpose(weights);
        let queries = graph.transpose(queries);
        let queries = graph.pack(queries);
        let sums_by_head = graph.product(weights, queries);
        let by_head = graph.transposed(sums_by_head);
        let by_key = graph.permute(by_head, [0, 2, 1, 3]);
        let by_key = graph.contiguous(by_key);
        let rows = graph.reshape(by_key, &[self.decoder.key_width(), n_keys * block.sequences.len()]);
        let n_shared = block.n_prefix - block.n_frozen;
        for (index, sequence) in block.sequences.iter().enumerate() {
            let start = index * n_keys + block.n_frozen - n_skipped;
            if n_shared > 0 {
                let from = graph.slice(rows, 1, start, n_shared);
                let to = graph.slice(sums, 1, 0, n_shared);
                graph.add_into(to, from);
            }
            let from = graph.slice(rows, 1, start + n_shared, sequence.keys.len());
            let to = graph.slice(sums, 1, sequence.keys.start, sequence.keys.len());
            if sequence.sees_all { graph.copy(from, to) } else { graph.add_into(to, from) }
        }
    }
}
