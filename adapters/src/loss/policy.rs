//! The policy loss: advantages and log-probabilities to a loss and to dLoss/dlogprob of every sampled token.
//!
//! With `d = clamp(logprob - old_logprob, -20, 20)`, `r = exp(d)` and `r_c = r` clamped to `[1 - clip_low, 1 + clip_high]`,
//! the clipped loss of a token with advantage A (arXiv 2604.08539, section 3.1; clip-higher of arXiv 2503.14476; dual
//! clip of arXiv 1912.09729) is `max(-A r, -A r_c)`, for A < 0 at most `-A clip_dual`.

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{Average, BatchSize, COUNT_EPSILON, KlPenalty, MAX_LOG_RATIO};

/// How the importance ratio limits the update of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Clipped ratio with dual clip, per token. The default.
    #[default]
    Clipped,
    /// GSPO (arXiv 2507.18071, equations 5 and 7): as clipped, with the geometric mean of the ratios of a sequence for each of
    /// its tokens.
    Gspo,
    /// CISPO (arXiv 2506.13585, equations 4 and 5): `-A r_c logprob` with `r_c` held constant.
    Cispo,
    /// SAPO (arXiv 2511.20347): a soft gate `4 / tau * sigmoid(tau (r - 1))` instead of a clip.
    Sapo {
        /// Temperature where A >= 0; the authors take 1.0.
        tau_positive: f64,
        /// Temperature where A < 0; the authors take 1.05.
        tau_negative: f64,
    },
}

impl Objective {
    /// With the temperatures of its authors.
    pub const SAPO: Self = Self::Sapo { tau_positive: 1.0, tau_negative: 1.05 };
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "clipped" => Ok(Self::Clipped),
            "gspo" => Ok(Self::Gspo),
            "cispo" => Ok(Self::Cispo),
            "sapo" => Ok(Self::SAPO),
            _ => Err(Error::new(ErrorKind::InvalidInput, "unknown objective")
                .got(format!("{text:?}"))
                .needed("one of clipped, gspo, cispo, sapo")),
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clipped => "clipped",
            Self::Gspo => "gspo",
            Self::Cispo => "cispo",
            Self::Sapo { .. } => "sapo",
        })
    }
}

/// The policy loss and its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossOptions {
    /// How the ratio limits an update. Default clipped.
    pub objective: Objective,
    /// The ratio is clipped below `1 - clip_low`; in [0, 1], where 1 is no clip. Default 0.2.
    pub clip_low: f64,
    /// The ratio is clipped above `1 + clip_high`; not negative. Default 0.3.
    pub clip_high: f64,
    /// The loss of a token with negative advantage is at most `-A clip_dual`; above 1, or `None`. Default 3.
    pub clip_dual: Option<f64>,
    /// Mean over tokens or over sequences. Default tokens.
    pub average: Average,
    /// Penalty against the reference policy. Default none; it costs one more forward pass.
    pub kl: Option<KlPenalty>,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self {
            objective: Objective::Clipped,
            clip_low: 0.2,
            clip_high: 0.3,
            clip_dual: Some(3.0),
            average: Average::Token,
            kl: None,
        }
    }
}

impl LossOptions {
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if a number is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let (tau_positive, tau_negative) = match self.objective {
            Objective::Sapo { tau_positive, tau_negative } => (tau_positive, tau_negative),
            _ => (1.0, 1.0),
        };
        let coefficient = self.kl.map_or(0.0, |kl| kl.coefficient);
        let clip_dual = self.clip_dual.unwrap_or(2.0);
        for (name, value, valid, needed) in [
            ("clip_low", self.clip_low, (0.0..=1.0).contains(&self.clip_low), "in [0, 1]"),
            ("clip_high", self.clip_high, (0.0..f64::INFINITY).contains(&self.clip_high), "finite, not negative"),
            ("clip_dual", clip_dual, clip_dual.is_finite() && clip_dual > 1.0, "finite, above 1"),
            ("kl.coefficient", coefficient, (0.0..f64::INFINITY).contains(&coefficient), "finite, not negative"),
            ("tau_positive", tau_positive, tau_positive.is_finite() && tau_positive > 0.0, "finite, above 0"),
            ("tau_negative", tau_negative, tau_negative.is_finite() && tau_negative > 0.0, "finite, above 0"),
        ] {
            if !valid {
                let error = Error::new(ErrorKind::InvalidInput, "loss option out of range").at(name);
                return Err(error.got(value).needed(needed));
            }
        }
        if self.average == (Average::Fixed { n_tokens: 0 }) {
            let error = Error::new(ErrorKind::InvalidInput, "loss option out of range").at("average.n_tokens");
            return Err(error.got(0).needed("at least 1"));
        }
        Ok(())
    }
}

/// One response: what the loss needs of it. All slices have one entry for each sampled token.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Of the response, for each of its tokens.
    pub advantage: f64,
    /// Under the weights that are being trained.
    pub logprobs: &'a [f64],
    /// Under the weights that the response was sampled with.
    pub old_logprobs: &'a [f64],
    /// Under the reference policy; needed where [`LossOptions::kl`] is set.
    pub reference_logprobs: Option<&'a [f64]>,
}

/// Sums over tokens, from which the metrics of a step are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossStats {
    /// Tokens that were counted.
    pub n_tokens: usize,
    /// Tokens whose ratio was clipped against their advantage, at either bound; the reference's `pg_clipfrac_higher`. With
    /// CISPO, which keeps their gradient, those whose ratio was beyond a bound. SAPO clips none.
    pub n_clipped: usize,
    /// Tokens of negative advantage that the dual clip stopped; the reference's `pg_clipfrac_lower`.
    pub n_dual_clipped: usize,
    /// Sum of `old_logprob - logprob`, clamped to ±20.
    pub sum_old_kl: f64,
    /// Sum of `-logprob`.
    pub sum_neg_logprob: f64,
    /// Sum of the estimates against the reference policy.
    pub sum_reference_kl: f64,
}

impl LossStats {
    /// Adds the sums of another part of the batch.
    pub fn add(&mut self, other: &LossStats) {
        self.n_tokens += other.n_tokens;
        self.n_clipped += other.n_clipped;
        self.n_dual_clipped += other.n_dual_clipped;
        self.sum_old_kl += other.sum_old_kl;
        self.sum_neg_logprob += other.sum_neg_logprob;
        self.sum_reference_kl += other.sum_reference_kl;
    }

    /// `sum` as a mean over the tokens.
    pub fn mean(&self, sum: f64) -> f64 {
        sum / (self.n_tokens as f64 + COUNT_EPSILON)
    }
}

/// What [`policy_loss`] gives for its part of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyLoss {
    /// This part's share of the loss, KL penalty included.
    pub loss: f64,
    /// dLoss/dlogprob of every token of every sequence.
    pub coefficients: Vec<Vec<f64>>,
    /// Sums over the tokens of this part.
    pub stats: LossStats,
}

/// Loss and dLoss/dlogprob of `sequences`, which are all or a part of a batch of the size `batch`.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] where the slices of a sequence differ in length or a reference is missing, and for options out
/// of range.
pub fn policy_loss(options: &LossOptions, batch: BatchSize, sequences: &[Sequence<'_>]) -> Result<PolicyLoss> {
    options.validate()?;
    let mut output =
        PolicyLoss { loss: 0.0, coefficients: Vec::with_capacity(sequences.len()), stats: LossStats::default() };
    for (index, sequence) in sequences.iter().enumerate() {
        let reference = check_lengths(options, sequence).map_err(|error| error.at(format!("sequence {index}")))?;
        let n = sequence.logprobs.len();
        let weight = batch.token_weight(options.average, n);
        let drifts = sequence.logprobs.iter().zip(sequence.old_logprobs).map(|(new, old)| new - old);
        let mean_drift = drifts.clone().map(clamp_log_ratio).sum::<f64>() / (n as f64 + COUNT_EPSILON);
        let mut coefficients = Vec::with_capacity(n);
        for (token, drift) in drifts.enumerate() {
            let logprob = sequence.logprobs[token];
            let clamped = clamp_log_ratio(drift);
            let log_ratio = if options.objective == Objective::Gspo { mean_drift } else { clamped };
            // A clamped log ratio does not move with its token.
            let moves = clamped == drift;
            let term = token_term(options, sequence.advantage, logprob, (log_ratio, moves));
            output.loss += weight * term.loss;
            let mut coefficient = weight * term.slope;
            if let Some((penalty, reference)) = reference {
                let (estimate, slope) = penalty.estimate.at(logprob, reference[token]);
                output.loss += weight * penalty.coefficient * estimate;
                coefficient += weight * penalty.coefficient * slope;
                output.stats.sum_reference_kl += estimate;
            }
            coefficients.push(coefficient);
            output.stats.n_clipped += usize::from(term.clipped);
            output.stats.n_dual_clipped += usize::from(term.dual_clipped);
            output.stats.sum_old_kl -= clamped;
            output.stats.sum_neg_logprob -= logprob;
        }
        output.stats.n_tokens += n;
        output.coefficients.push(coefficients);
    }
    Ok(output)
}

/// The penalty and the reference log-probabilities, where there is a penalty.
fn check_lengths<'a>(options: &LossOptions, sequence: &Sequence<'a>) -> Result<Option<(KlPenalty, &'a [f64])>> {
    let n = sequence.logprobs.len();
    let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
    if sequence.old_logprobs.len() != n {
        return Err(invalid("old log-probabilities do not fit").got(sequence.old_logprobs.len()).needed(n));
    }
    let Some(penalty) = options.kl else { return Ok(None) };
    let reference =
        sequence.reference_logprobs.ok_or_else(|| invalid("the KL penalty needs reference log-probabilities"))?;
    if reference.len() != n {
        return Err(invalid("reference log-probabilities do not fit").got(reference.len()).needed(n));
    }
    Ok(Some((penalty, reference)))
}

fn clamp_log_ratio(drift: f64) -> f64 {
    drift.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
}

/// Loss of one token, its derivative by the log-probability, and which clip was active.
struct Term {
    loss: f64,
    slope: f64,
    clipped: bool,
    dual_clipped: bool,
}

/// `log_ratio` is clamped; whether it `moves` with the token's log-probability stands beside it.
fn token_term(options: &LossOptions, advantage: f64, logprob: f64, (log_ratio, moves): (f64, bool)) -> Term {
    let ratio = log_ratio.exp();
    let bounded = ratio.clamp(1.0 - options.clip_low, 1.0 + options.clip_high);
    let ratio_slope = if moves { ratio } else { 0.0 };
    match options.objective {
        Objective::Cispo => {
            let weight = -advantage * bounded;
            Term { loss: weight * logprob, slope: weight, clipped: bounded != ratio, dual_clipped: false }
        }
        Objective::Sapo { tau_positive, tau_negative } => {
            let tau = if advantage < 0.0 { tau_negative } else { tau_positive };
            let gate = 1.0 / (1.0 + (-tau * (ratio - 1.0)).exp());
            let slope = -advantage * 4.0 * gate * (1.0 - gate) * ratio_slope;
            Term { loss: -advantage * 4.0 / tau * gate, slope, clipped: false, dual_clipped: false }
        }
        Objective::Clipped | Objective::Gspo => {
            let (free, bound) = (-advantage * ratio, -advantage * bounded);
            let clipped = free < bound;
            let loss = free.max(bound);
            let most = options.clip_dual.map_or(f64::INFINITY, |dual| -advantage * dual);
            if advantage < 0.0 && loss > most {
                return Term { loss: most, slope: 0.0, clipped, dual_clipped: true };
            }
            let slope = if clipped { 0.0 } else { -advantage * ratio_slope };
            Term { loss, slope, clipped, dual_clipped: false }
        }
    }
}
