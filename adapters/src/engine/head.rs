//! From hidden states to the log-probabilities of the completion tokens, and back.
//!
//! Only rows that predict something reach the vocabulary: the last token of the prompt, which predicts the first token of
//! every completion, and the tokens of the completions. Logits exist for a chunk of the vocabulary at a time; where that is
//! not all of it, they are computed again on the way back.
//!
//! A loss over log-probabilities and entropies has, with p the distribution of a row, H its entropy, a and e dLoss/dlogprob
//! and dLoss/dentropy: `dLoss/dz_i = a (1[i is the token] - p_i) - e p_i (log p_i + H)`, divided by the temperature.

use std::ops::Range;

use owlet_runtime::{
    Result, TokenId,
    ggml::{Arena, Backend, Stored},
};

use super::{
    TokenScores, TokenSlopes,
    family::Decoder,
    layout::Layout,
    parallel,
    softmax::{RowStatistics, softmax_gradient},
    vocabulary::Vocabulary,
    weights::Weights,
};
use crate::pace::Pace;

/// One completion token: the row that predicts it, and what it is.
#[derive(Clone, Copy)]
struct Prediction {
    row: usize,
    token: TokenId,
}

/// The head over one group.
pub(super) struct Head<'a> {
    pub(super) vocabulary: Vocabulary<'a>,
    /// For every completion, its tokens.
    predictions: Vec<Vec<Prediction>>,
    inverse_temperature: f32,
    statistics: Vec<RowStatistics>,
}

impl<'a> Head<'a> {
    /// Lays out memory in `arena` for at most `max_logits` logits at a time, but at least one vocabulary entry.
    ///
    /// # Errors
    /// [`owlet_runtime::ErrorKind::Limit`] when the memory cannot be had.
    pub(super) fn new(
        backend: &Backend,
        arena: &mut Arena,
        base: (&'a Decoder, &'a Weights),
        layout: &Layout,
        completions: &[&[TokenId]],
        temperature: f32,
        max_logits: usize,
    ) -> Result<Self> {
        let mut next_row = 0;
        let mut predict = |tokens: &&[TokenId]| {
            let first = next_row;
            next_row += tokens.len() - 1;
            let prediction = |(index, &token)| Prediction { row: if index == 0 { 0 } else { first + index }, token };
            tokens.iter().enumerate().map(prediction).collect()
        };
        let predictions = completions.iter().map(&mut predict).collect();
        let vocabulary = Vocabulary::new(backend, arena, base, layout.predicting(), max_logits)?;
        let statistics = vec![RowStatistics::EMPTY; vocabulary.n_rows()];
        Ok(Self { vocabulary, predictions, inverse_temperature: 1.0 / temperature, statistics })
    }

    /// Log-probabilities and entropies of all completion tokens, from the last `hidden` states `[n_embd, T]`.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) async fn scores(
        &mut self,
        backend: &mut Backend,
        hidden: &Stored,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        pace.point().await?;
        self.vocabulary.normalise(backend, hidden)?;
        let n_threads = backend.n_threads();
        let mut chosen: Vec<Vec<f32>> = self.predictions.iter().map(|tokens| vec![0.0; tokens.len()]).collect();
        for chunk in self.vocabulary.chunks() {
            pace.point().await?;
            let Self { statistics, predictions, inverse_temperature, .. } = self;
            self.vocabulary.logits(backend, &chunk, |logits| {
                let rows = statistics.iter_mut().zip(logits.chunks_exact(chunk.len())).collect();
                parallel::for_each(n_threads, rows, |(statistics, logits): (&mut RowStatistics, _)| {
                    statistics.update(logits, *inverse_temperature);
                });
                for (chosen, predictions) in chosen.iter_mut().zip(&*predictions) {
                    for (chosen, prediction) in chosen.iter_mut().zip(predictions) {
                        if let Some(index) = prediction.index_in(&chunk) {
                            *chosen = logits[index];
                        }
                    }
                }
            })?;
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

    /// Computes the gradient of the last `hidden` states into `gradient`, both `[n_embd, T]`, for the `slopes` of every
    /// completion, multiplied by `scale`. Must follow [`Head::scores`].
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub(super) async fn backward(
        &mut self,
        backend: &mut Backend,
        (slopes, scale): (&[TokenSlopes], f32),
        hidden: &Stored,
        gradient: &Stored,
        pace: &Pace,
    ) -> Result<()> {
        let factor = scale * self.inverse_temperature;
        let logprob_slopes = slopes.iter().flat_map(|slopes| &slopes.logprobs);
        let weights: Vec<f32> = logprob_slopes.map(|slope| slope * factor).collect();
        let row_weights = self.row_sums(slopes.iter().map(|slopes| slopes.logprobs.as_slice()), factor);
        let entropy_weights = self.row_sums(slopes.iter().map(|slopes| slopes.entropies.as_slice()), factor);

        let n_threads = backend.n_threads();
        for chunk in self.vocabulary.chunks() {
            pace.point().await?;
            let Self { statistics, predictions, inverse_temperature, .. } = self;
            self.vocabulary.add_gradient(backend, &chunk, |logits| {
                let slopes = row_weights.iter().zip(&entropy_weights).zip(&*statistics);
                let rows = logits.chunks_exact_mut(chunk.len()).zip(slopes).collect();
                parallel::for_each(n_threads, rows, |(logits, ((&weight, &entropy_weight), statistics))| {
                    let sums = (statistics.log_sum(), statistics.entropy());
                    softmax_gradient(logits, *inverse_temperature, sums, weight, entropy_weight);
                });
                for (prediction, weight) in predictions.iter().flatten().zip(&weights) {
                    if let Some(index) = prediction.index_in(&chunk) {
                        logits[index] += weight;
                    }
                }
                Ok(())
            })?;
        }
        self.vocabulary.finish_gradient(backend, hidden, gradient)
    }

    /// For every completion token, `values` of the row that predicts it.
    pub(super) fn by_token<T: Copy>(&self, values: &[T]) -> Vec<Vec<T>> {
        let of = |predictions: &Vec<Prediction>| predictions.iter().map(|prediction| values[prediction.row]).collect();
        self.predictions.iter().map(of).collect()
    }

    /// `factor` times the sums of the tokens' `values` over the tokens that a row predicts; completions without values have
    /// zeros.
    pub(super) fn row_sums<'v>(&self, values: impl Iterator<Item = &'v [f32]>, factor: f32) -> Vec<f32> {
        let mut sums = vec![0.0f32; self.vocabulary.n_rows()];
        for (predictions, values) in self.predictions.iter().zip(values) {
            predictions.iter().zip(values).for_each(|(prediction, value)| sums[prediction.row] += value * factor);
        }
        sums
    }
}

impl Prediction {
    /// Index of the token's logit among those of `chunk`, `[rows, chunk]`.
    fn index_in(self, chunk: &Range<usize>) -> Option<usize> {
        let token = self.token as usize;
        chunk.contains(&token).then(|| self.row * chunk.len() + token - chunk.start)
    }
}
