//! The output matrix over some rows of hidden states, a chunk of the vocabulary at a time, and back.
//!
//! Logits exist for a chunk only, and turn into their gradients in the same memory. Whoever needs sums over the vocabulary
//! goes through the chunks; whoever needs logits again has them computed again, unless the vocabulary is one chunk.

use std::ops::Range;

use owlet_runtime::{
    Result, TokenId,
    ggml::{Arena, Backend, Graph, Stored, Tensor},
    gguf::GgmlType,
};

use super::{family::Decoder, linear, norm, softmax::LEFT_OUT, weights::Weights};

/// Tensors in the largest graph here.
const GRAPH_CAPACITY: usize = 64;

/// R rows of hidden states before the output matrix.
pub(super) struct Vocabulary<'a> {
    decoder: &'a Decoder,
    weights: &'a Weights,
    /// Where the rows lie in the hidden states.
    rows: Range<usize>,
    /// Vocabulary entries of a chunk; the last may be shorter.
    n_chunk: usize,
    /// Entries that have no share in the distribution.
    left_out: &'a [TokenId],
    /// `[n_embd, R]`: normalised hidden states, then their gradient.
    normalised: Stored,
    gradient: Stored,
    /// Logits of a chunk `[chunk, R]`, then their gradients.
    chunk: Stored,
    /// The chunk whose logits are there.
    computed: Option<Range<usize>>,
}

impl<'a> Vocabulary<'a> {
    /// Lays out memory in `arena` for at most `max_logits` logits at a time, but at least one vocabulary entry.
    ///
    /// # Errors
    /// [`owlet_runtime::ErrorKind::Limit`] when the memory cannot be had.
    pub(super) fn new(
        backend: &Backend,
        arena: &mut Arena,
        (decoder, weights): (&'a Decoder, &'a Weights),
        rows: Range<usize>,
        max_logits: usize,
    ) -> Result<Self> {
        let n_chunk = (max_logits / rows.len()).clamp(1, decoder.n_vocab);
        let hidden: &[usize] = &[decoder.n_embd, rows.len()];
        let chunk: &[usize] = &[n_chunk * rows.len()];
        let mut stored =
            backend.carve(arena, &[(GgmlType::F32, hidden), (GgmlType::F32, hidden), (GgmlType::F32, chunk)])?;
        let (chunk, gradient, normalised) = (stored.remove(2), stored.remove(1), stored.remove(0));
        let left_out: &[TokenId] = &[];
        Ok(Self { decoder, weights, rows, n_chunk, left_out, normalised, gradient, chunk, computed: None })
    }

    /// From now on the logits of `tokens` are [`LEFT_OUT`]; those outside the vocabulary are none.
    pub(super) fn leave_out(&mut self, tokens: &'a [TokenId]) {
        self.left_out = tokens;
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// The chunks, in order.
    pub(super) fn chunks(&self) -> Vec<Range<usize>> {
        let (n_vocab, n_chunk) = (self.decoder.n_vocab, self.n_chunk);
        (0..n_vocab).step_by(n_chunk).map(|start| start..(start + n_chunk).min(n_vocab)).collect()
    }

    /// Takes the rows from the last `hidden` states `[n_embd, T]`.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) fn normalise(&mut self, backend: &mut Backend, hidden: &Stored) -> Result<()> {
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let x = self.rows_of(&mut graph, hidden);
        let normalised = norm::forward(&mut graph, x, &self.weights.output_norm, self.decoder.eps);
        graph.place(normalised, &self.normalised);
        backend.run(graph)
    }

    /// Shows the logits of a chunk, R rows of `chunk`, to `see`. They are computed unless they are there.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) fn logits<T>(
        &mut self,
        backend: &mut Backend,
        chunk: &Range<usize>,
        see: impl FnOnce(&[f32]) -> T,
    ) -> Result<T> {
        if self.computed.as_ref() != Some(chunk) {
            self.compute_logits(backend, chunk)?;
            self.computed = Some(chunk.clone());
        }
        Ok(backend.change(&self.chunk, chunk.len() * self.rows.len(), |logits| see(logits)))
    }

    /// Has `differentiate` turn the logits of a chunk, as [`Vocabulary::logits`] shows them, into dLoss/dlogits in the same
    /// places, and adds (for the first chunk: sets) what these give for the normalised rows.
    ///
    /// # Errors
    /// As [`Backend::run`], and those of `differentiate`.
    pub(super) fn add_gradient(
        &mut self,
        backend: &mut Backend,
        chunk: &Range<usize>,
        differentiate: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        self.logits(backend, chunk, |_| ())?;
        self.computed = None;
        backend.change(&self.chunk, chunk.len() * self.rows.len(), differentiate)?;
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let d_logits = graph.leaf(&self.chunk_view(backend, chunk));
        let rows = self.head_rows(&mut graph, chunk);
        let part = linear::transposed_product(&mut graph, rows, d_logits);
        if chunk.start == 0 {
            graph.place(part, &self.gradient);
        } else {
            let sum = graph.leaf(&self.gradient);
            graph.add_into(sum, part);
        }
        backend.run(graph)
    }

    /// Computes the gradient of the last `hidden` states into `gradient`, both `[n_embd, T]`, once the gradients of all chunks
    /// were added.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) fn finish_gradient(&mut self, backend: &mut Backend, hidden: &Stored, gradient: &Stored) -> Result<()> {
        backend.zero(gradient);
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let x = self.rows_of(&mut graph, hidden);
        let d_normalised = graph.leaf(&self.gradient);
        let dx = norm::backward(&mut graph, x, &self.weights.output_norm, d_normalised, self.decoder.eps, None);
        let target = self.rows_of(&mut graph, gradient);
        graph.copy(dx, target);
        backend.run(graph)
    }

    /// `[n_embd, R]` of `stored [n_embd, T]`.
    fn rows_of(&self, graph: &mut Graph, stored: &Stored) -> Tensor {
        let x = graph.leaf(stored);
        graph.slice(x, 1, self.rows.start, self.rows.len())
    }

    /// Rows `chunk` of the head's weight.
    fn head_rows(&self, graph: &mut Graph, chunk: &Range<usize>) -> Tensor {
        let weight = graph.leaf(&self.weights.head.weight);
        graph.slice(weight, 1, chunk.start, chunk.len())
    }

    /// The memory of `chunk` as `[chunk, R]`.
    fn chunk_view(&self, backend: &Backend, chunk: &Range<usize>) -> Stored {
        backend.view(&self.chunk, &[chunk.len(), self.rows.len()])
    }

    fn compute_logits(&mut self, backend: &mut Backend, chunk: &Range<usize>) -> Result<()> {
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let rows = self.head_rows(&mut graph, chunk);
        let normalised = graph.leaf(&self.normalised);
        let normalised = graph.pack(normalised);
        let mut logits = graph.product(rows, normalised);
        if let Some(bias) = &self.weights.head.bias {
            let bias = graph.leaf(bias);
            let bias = graph.slice(bias, 0, chunk.start, chunk.len());
            logits = graph.add(logits, bias);
        }
        graph.place(logits, &self.chunk_view(backend, chunk));
        backend.run(graph)?;
        let entries = self.left_out.iter().filter_map(|&token| usize::try_from(token).ok());
        let entries: Vec<_> = entries.filter(|entry| chunk.contains(entry)).map(|entry| entry - chunk.start).collect();
        backend.change(&self.chunk, chunk.len() * self.rows.len(), |logits| {
            for row in logits.chunks_exact_mut(chunk.len()) {
                entries.iter().for_each(|&entry| row[entry] = LEFT_OUT);
            }
        });
        Ok(())
    }
}
