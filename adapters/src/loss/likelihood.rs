//! Supervised fine-tuning: the mean negative log-likelihood of responses that were given.

use super::{Average, BatchSize};

/// What [`likelihood_loss`] gives for its part of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct LikelihoodLoss {
    /// This part's share of the loss.
    pub loss: f64,
    /// dLoss/dlogprob of every token of every sequence.
    pub coefficients: Vec<Vec<f64>>,
}

/// `-logprob`, averaged, and its slopes, for the log-probabilities of `sequences`, which are all or a part of a batch of the
/// size `batch`.
pub fn likelihood_loss(average: Average, batch: BatchSize, sequences: &[&[f64]]) -> LikelihoodLoss {
    let weights = || sequences.iter().map(|logprobs| batch.token_weight(average, logprobs.len()));
    LikelihoodLoss {
        loss: sequences.iter().zip(weights()).map(|(logprobs, weight)| -weight * logprobs.iter().sum::<f64>()).sum(),
        coefficients: sequences.iter().zip(weights()).map(|(logprobs, weight)| vec![-weight; logprobs.len()]).collect(),
    }
}
