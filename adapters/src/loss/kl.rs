//! KL divergence from the reference policy, estimated from the log-probabilities of sampled tokens.
//!
//! The estimates k1, k2 and k3 are those of John Schulman's note "Approximating KL Divergence" (2020), the clamps those of
//! the reference's `low_var_kl`. The reference policy is the base model without its adapter: no second model is needed,
//! only another scoring pass.

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::MAX_LOG_RATIO;

/// The estimate k3 is clamped to this, and has no gradient beyond.
const MAX_K3: f64 = 10.0;

/// Estimates of KL(policy || reference) from the log-probabilities of a sampled token, `x = reference - policy`.
///
/// The loss differentiates the estimate alone, as GRPO does (arXiv 2402.03300, equation 4). Over responses of the policy
/// itself, the expectation of that gradient is 0 for k1, which is a control variate rather than a penalty; that of
/// KL(policy || reference) for k2; and that of KL(reference || policy) for k3, but for its clamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimate {
    /// `-x`: unbiased, of high variance.
    K1,
    /// `|x|`
    Abs,
    /// `x^2 / 2`: never negative, slightly biased.
    K2,
    /// `exp(x) - x - 1` with x clamped to ±20 and the result to 10: unbiased, never negative. The default.
    #[default]
    K3,
}

impl KlEstimate {
    /// Every estimate.
    pub const ALL: [Self; 4] = [Self::K1, Self::Abs, Self::K2, Self::K3];

    /// The name in options and configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::K1 => "k1",
            Self::Abs => "abs",
            Self::K2 => "k2",
            Self::K3 => "k3",
        }
    }

    /// The estimate and its derivative by `logprob`.
    pub fn at(self, logprob: f64, reference: f64) -> (f64, f64) {
        let x = reference - logprob;
        match self {
            Self::K1 => (-x, 1.0),
            Self::Abs if x == 0.0 => (0.0, 0.0),
            Self::Abs => (x.abs(), -x.signum()),
            Self::K2 => (0.5 * x * x, -x),
            Self::K3 => {
                let clamped = x.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO);
                let estimate = clamped.exp() - clamped - 1.0;
                let slope = if x == clamped && estimate <= MAX_K3 { 1.0 - x.exp() } else { 0.0 };
                (estimate.min(MAX_K3), slope)
            }
        }
    }
}

impl fmt::Display for KlEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KlEstimate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|estimate| estimate.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "unknown KL estimate")
                .got(format!("{text:?}"))
                .needed("one of k1, abs, k2, k3")
        })
    }
}

/// A penalty for leaving the reference policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlPenalty {
    /// How the divergence is estimated. Default k3.
    pub estimate: KlEstimate,
    /// Weight in the loss, finite and not negative. Default 0.01; with 0 the divergence is only measured.
    pub coefficient: f64,
}

impl Default for KlPenalty {
    fn default() -> Self {
        Self { estimate: KlEstimate::K3, coefficient: 0.01 }
    }
}
