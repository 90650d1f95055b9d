//! The length envelope: a reward for answers that are neither too short nor too long (arXiv 2604.08539, equation 9).
//!
//! Lengths are in tokens, as in the paper (its code counts characters). Neither gives thresholds, so there is no default:
//! shaping is off until a user sets an envelope for a task type.

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// A trapezoid over the response length in tokens, `min_start <= peak_start <= peak_end <= max_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthEnvelope {
    /// Shorter responses score 0.
    pub min_start: usize,
    /// First length that scores 1.
    pub peak_start: usize,
    /// Last length that scores 1.
    pub peak_end: usize,
    /// Longer responses score 0.
    pub max_end: usize,
}

impl LengthEnvelope {
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the four lengths are not in ascending order.
    pub fn validate(&self) -> Result<()> {
        let Self { min_start, peak_start, peak_end, max_end } = *self;
        if [min_start, peak_start, peak_end, max_end].is_sorted() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "the length envelope is not a trapezoid")
            .got(format!("{min_start}, {peak_start}, {peak_end}, {max_end}"))
            .needed("min_start <= peak_start <= peak_end <= max_end"))
    }

    /// 0 outside, 1 on the plateau, linear on the ramps. `n_tokens` is the length of the response.
    pub fn score(&self, n_tokens: usize) -> f64 {
        let Self { min_start, peak_start, peak_end, max_end } = *self;
        let ramp = |part: usize, whole: usize| part as f64 / whole as f64;
        match n_tokens {
            n if n < min_start || n > max_end => 0.0,
            n if n < peak_start => ramp(n - min_start, peak_start - min_start),
            n if n <= peak_end => 1.0,
            n => 1.0 - ramp(n - peak_end, max_end - peak_end),
        }
    }
}
