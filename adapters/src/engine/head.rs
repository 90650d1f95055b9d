//! From hidden states to the log-probabilities of the completion tokens, and back.
//!
//! Only rows that predict something reach the vocabulary: the last token of the prompt, which predicts the first token of
//! every completion, and the tokens of the completions. Logits exist for a chunk of the vocabulary at a time; where that is
//! not all of it, they are computed again on the way back.

use std::ops::Range;

use owlet_runtime::{
    Result, TokenId,
    ggml::{Arena, Backend, Graph, Stored, Tensor},
    gguf::GgmlType,
};

use super::{
    TokenScores,
    family::Decoder,
    layout::Layout,
    linear, norm,
    softmax::{RowStatistics, softmax_gradient},
    weights::Weights,
};

/// Tensors in the largest graph here, but for the parts of a chunked product.
const GRAPH_CAPACITY: usize = 64;

/// One completion token: the row that predicts it, and what it is.
#[derive(Clone, Copy)]
struct Prediction {
    row: usize,
    token: TokenId,
}

/// The head over one group.
pub(super) struct Head<'a> {
    decoder: &'a Decoder,
    weights: &'a Weights,
    /// Rows of the hidden states that predict.
    rows: Range<usize>,
    /// For every completion, its tokens.
    predictions: Vec<Vec<Prediction>>,
    inverse_temperature: f32,
    /// Vocabulary entries of a chunk; the last may be shorter.
    n_chunk: usize,
    /// Logits of the last chunk, `[rows, chunk]` on the host.
    logits: Vec<f32>,
    statistics: Vec<RowStatistics>,
    /// `[n_embd, rows]`: normalised hidden states, then their gradient.
    normalised: Stored,
    gradient: Stored,
    /// `[chunk, rows]`.
    chunk: Stored,
}

impl<'a> Head<'a> {
    /// Lays out memory in `arena` for at most `max_logits` logits at a time, but at least one vocabulary entry.
    ///
    /// # Errors
    /// [`owlet_runtime::ErrorKind::Limit`] when the memory cannot be had.
    pub(super) fn new(
        backend: &Backend,
        arena: &mut Arena,
        (decoder, weights): (&'a Decoder, &'a Weights),
        layout: &Layout,
        completions: &[&[TokenId]],
        temperature: f32,
        max_logits: usize,
    ) -> Result<Self> {
        let rows = layout.predicting();
        let mut next_row = 0;
        let mut predict = |tokens: &&[TokenId]| {
            let first = next_row;
            next_row += tokens.len() - 1;
            let prediction = |(index, &token)| Prediction { row: if index == 0 { 0 } else { first + index }, token };
            tokens.iter().enumerate().map(prediction).collect()
        };
        let predictions = completions.iter().map(&mut predict).collect();
        let n_chunk = (max_logits / rows.len()).clamp(1, decoder.n_vocab);
        let hidden: &[usize] = &[decoder.n_embd, rows.len()];
        let chunk: &[usize] = &[n_chunk * rows.len()];
        let mut stored =
            backend.carve(arena, &[(GgmlType::F32, hidden), (GgmlType::F32, hidden), (GgmlType::F32, chunk)])?;
        let (chunk, gradient, normalised) = (stored.remove(2), stored.remove(1), stored.remove(0));
        Ok(Self {
            decoder,
            weights,
            predictions,
            inverse_temperature: 1.0 / temperature,
            n_chunk,
            logits: Vec::new(),
            statistics: vec![RowStatistics::EMPTY; rows.len()],
            rows,
            normalised,
            gradient,
            chunk,
        })
    }

    /// Log-probabilities and entropies of all completion tokens, from the last `hidden` states `[n_embd, T]`.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) fn scores(&mut self, backend: &mut Backend, hidden: &Stored) -> Result<Vec<TokenScores>> {
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let x = self.predicting_rows(&mut graph, hidden);
        let normalised = norm::forward(&mut graph, x, &self.weights.output_norm, self.decoder.eps);
        graph.place(normalised, &self.normalised);
        backend.run(graph)?;

        let mut chosen: Vec<Vec<f32>> = self.predictions.iter().map(|tokens| vec![0.0; tokens.len()]).collect();
        for chunk in self.chunks() {
            self.compute_logits(backend, &chunk)?;
            let rows = self.logits.chunks_exact(chunk.len());
            for (statistics, logits) in self.statistics.iter_mut().zip(rows) {
                statistics.update(logits, self.inverse_temperature);
            }
            for (chosen, predictions) in chosen.iter_mut().zip(&self.predictions) {
                for (chosen, prediction) in chosen.iter_mut().zip(predictions) {
                    if let Some(index) = prediction.index_in(&chunk) {
                        *chosen = self.logits[index];
                    }
                }
            }
        }
        let score = |(chosen, predictions): (Vec<f32>, &Vec<Prediction>)| {
            let logprob = |(logit, prediction): (f32, &Prediction)| {
                (f64::from(logit * self.inverse_temperature) - self.statistics[prediction.row].log_sum()) as f32
            };
            TokenScores {
                logprobs: chosen.into_iter().zip(predictions).map(logprob).collect(),
                entropies: predictions.iter().map(|prediction| self.statistics[prediction.row].entropy()).collect(),
            }
        };
        Ok(chosen.into_iter().zip(&self.predictions).map(score).collect())
    }

    /// Computes the gradient of the last `hidden` states into `gradient`, both `[n_embd, T]`, for `coefficients`
    /// dLoss/dlogprob of every completion token, multiplied by `scale`. Must follow [`Head::scores`].
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) fn backward(
        &mut self,
        backend: &mut Backend,
        (coefficients, scale): (&[Vec<f32>], f32),
        hidden: &Stored,
        gradient: &Stored,
    ) -> Result<()> {
        // d logprob / d logit_i = (1[i is the token] - p_i) / temperature; a row that predicts several tokens adds them up.
        let mut row_weights = vec![0.0f32; self.rows.len()];
        let predictions: Vec<(Prediction, f32)> = self
            .predictions
            .iter()
            .flatten()
            .zip(coefficients.iter().flatten())
            .map(|(&prediction, coefficient)| (prediction, coefficient * scale * self.inverse_temperature))
            .collect();
        predictions.iter().for_each(|(prediction, weight)| row_weights[prediction.row] += weight);

        let chunks: Vec<_> = self.chunks().collect();
        let mut gradients = Vec::new();
        for chunk in &chunks {
            if chunks.len() > 1 {
                self.compute_logits(backend, chunk)?;
            }
            gradients.resize(self.logits.len(), 0.0);
            let rows = gradients.chunks_exact_mut(chunk.len()).zip(self.logits.chunks_exact(chunk.len()));
            for ((gradients, logits), (weight, statistics)) in rows.zip(row_weights.iter().zip(&self.statistics)) {
                softmax_gradient(gradients, logits, self.inverse_temperature, statistics.log_sum(), *weight);
            }
            for (prediction, weight) in &predictions {
                if let Some(index) = prediction.index_in(chunk) {
                    gradients[index] += weight;
                }
            }
            self.add_through_head(backend, chunk, &gradients)?;
        }

        backend.zero(gradient);
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let x = self.predicting_rows(&mut graph, hidden);
        let d_normalised = graph.leaf(&self.gradient);
        let dx = norm::backward(&mut graph, x, &self.weights.output_norm, d_normalised, self.decoder.eps);
        let target = self.predicting_rows(&mut graph, gradient);
        graph.copy(dx, target);
        backend.run(graph)
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n_vocab, n_chunk) = (self.decoder.n_vocab, self.n_chunk);
        (0..n_vocab).step_by(n_chunk).map(move |start| start..(start + n_chunk).min(n_vocab))
    }

    /// `[n_embd, rows]` of `stored [n_embd, T]`.
    fn predicting_rows(&self, graph: &mut Graph, stored: &Stored) -> Tensor {
        let x = graph.leaf(stored);
        graph.slice(x, 1, self.rows.start, self.rows.len())
    }

    /// Rows `chunk` of the head's weight.
    fn head_rows(&self, graph: &mut Graph, chunk: &Range<usize>) -> Tensor {
        let weight = graph.leaf(&self.weights.head.weight);
        graph.slice(weight, 1, chunk.start, chunk.len())
    }

    /// The memory of `chunk` as `[chunk, rows]`.
    fn chunk_view(&self, graph: &mut Graph, chunk: &Range<usize>) -> Tensor {
        let n_rows = self.rows.len();
        let all = graph.leaf(&self.chunk);
        let part = graph.slice(all, 0, 0, chunk.len() * n_rows);
        graph.reshape(part, &[chunk.len(), n_rows])
    }

    fn compute_logits(&mut self, backend: &mut Backend, chunk: &Range<usize>) -> Result<()> {
        let mut graph = backend.graph(GRAPH_CAPACITY);
        let rows = self.head_rows(&mut graph, chunk);
        let normalised = graph.leaf(&self.normalised);
        let mut logits = graph.mul_mat(rows, normalised);
        if let Some(bias) = &self.weights.head.bias {
            let bias = graph.leaf(bias);
            let bias = graph.slice(bias, 0, chunk.start, chunk.len());
            logits = graph.add(logits, bias);
        }
        let target = self.chunk_view(&mut graph, chunk);
        graph.copy(logits, target);
        backend.run(graph)?;
        self.logits.resize(chunk.len() * self.rows.len(), 0.0);
        backend.read(&self.chunk, 0, &mut self.logits);
        Ok(())
    }

    /// Adds (for the first chunk: sets) what the gradients of a chunk of logits give for the normalised hidden states.
    fn add_through_head(&mut self, backend: &mut Backend, chunk: &Range<usize>, gradients: &[f32]) -> Result<()> {
        backend.write_part(&self.chunk, 0, gradients);
        let n_chunks = self.weights.head.n_chunks();
        let mut graph = backend.graph(GRAPH_CAPACITY + n_chunks * linear::CHUNK_CAPACITY);
        let d_logits = self.chunk_view(&mut graph, chunk);
        let part = if chunk.len() == self.decoder.n_vocab {
            linear::through_weight(&mut graph, &self.weights.head, d_logits)
        } else {
            let rows = self.head_rows(&mut graph, chunk);
            linear::transposed_product(&mut graph, rows, d_logits)
        };
        let sum = graph.leaf(&self.gradient);
        if chunk.start == 0 {
            graph.copy(part, sum)
        } else {
            graph.add_into(sum, part)
        }
        backend.run(graph)
    }
}

impl Prediction {
    /// Index of the token's logit among those of `chunk`, `[rows, chunk]`.
    fn index_in(self, chunk: &Range<usize>) -> Option<usize> {
        let token = self.token as usize;
        chunk.contains(&token).then(|| self.row * chunk.len() + token - chunk.start)
    }
}
