//! Means with confidence intervals, for reports of accuracies before and after training.

use serde::Serialize;

use crate::normal::inverse_normal_cdf;

/// An estimate and the interval that holds the true value with the confidence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The estimate.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Number of values.
    pub n: usize,
}

impl Interval {
    /// Whether the whole interval is above 0: a rise beyond chance, for a difference.
    pub fn is_above_zero(&self) -> bool {
        self.low > 0.0
    }
}

/// Wilson's score interval (1927) for `n_right` right answers of `n`. `confidence` is in (0, 1), such as 0.95.
/// Without answers it is everything from 0 to 1.
pub fn wilson(n_right: usize, n: usize, confidence: f64) -> Interval {
    if n == 0 {
        return Interval { mean: 0.0, low: 0.0, high: 1.0, n };
    }
    let (count, share) = (n as f64, n_right as f64 / n as f64);
    let z2 = inverse_normal_cdf(0.5 + confidence / 2.0).powi(2);
    let centre = (share + z2 / (2.0 * count)) / (1.0 + z2 / count);
    let half = (z2 * (share * (1.0 - share) / count + z2 / (4.0 * count * count))).sqrt() / (1.0 + z2 / count);
    // The ends at no or all right answers are 0 and 1 but for rounding.
    let low = if n_right == 0 { 0.0 } else { centre - half };
    let high = if n_right == n { 1.0 } else { centre + half };
    Interval { mean: share, low, high, n }
}

/// Student's t interval for the mean of `values`. With fewer than two values it is infinite.
pub fn mean_interval(values: &[f64], confidence: f64) -> Interval {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n.max(1) as f64;
    if n < 2 {
        return Interval { mean, low: f64::NEG_INFINITY, high: f64::INFINITY, n };
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let half = student_quantile(0.5 + confidence / 2.0, n - 1) * (variance / n as f64).sqrt();
    Interval { mean, low: mean - half, high: mean + half, n }
}

/// The t interval of `after - before`, value by value on the same samples; extra values of the longer list are ignored.
pub fn paired_difference(before: &[f64], after: &[f64], confidence: f64) -> Interval {
    let differences: Vec<f64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    mean_interval(&differences, confidence)
}

/// Quantile of Student's t distribution, `p` in [0.5, 1): exact for one and two degrees of freedom, for more by the
/// expansion around the normal quantile (Abramowitz and Stegun, 26.7.5), good to 1 % at p = 0.975.
fn student_quantile(p: f64, degrees: usize) -> f64 {
    let tail = 2.0 * p - 1.0;
    match degrees {
        1 => (std::f64::consts::FRAC_PI_2 * tail).tan(),
        2 => tail * (2.0 / (1.0 - tail * tail)).sqrt(),
        _ => {
            let (z, v) = (inverse_normal_cdf(p), degrees as f64);
            let z2 = z * z;
            let terms = [
                (z2 + 1.0) / 4.0,
                ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0,
                (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0,
                ((((79.0 * z2 + 776.0) * z2 + 1482.0) * z2 - 1920.0) * z2 - 945.0) / 92160.0,
            ];
            z * (1.0 + terms.iter().rev().fold(0.0, |sum, term| (sum + term) / v))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_quantiles_agree_with_tables() {
        for (degrees, expected) in
            [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)]
        {
            let got = student_quantile(0.975, degrees);
            assert!((got / expected - 1.0).abs() < 0.01, "{degrees}: {got} instead of {expected}");
        }
    }

    #[test]
    fn wilson_intervals_agree_with_published_ones() {
        // 81 of 263: Newcombe (1998), table I.
        let interval = wilson(81, 263, 0.95);
        assert!((interval.low - 0.2553).abs() < 5e-5 && (interval.high - 0.3662).abs() < 5e-5, "{interval:?}");
        for n in [1, 20, 40, 333] {
            assert_eq!((wilson(0, n, 0.95).low, wilson(n, n, 0.95).high), (0.0, 1.0));
        }
        assert_eq!(wilson(0, 0, 0.95).high, 1.0);
    }

    #[test]
    fn paired_differences_ignore_what_both_share() {
        let before = [0.1, 0.9, 0.4, 0.6];
        let after = before.map(|value| value + 0.05);
        let interval = paired_difference(&before, &after, 0.95);
        assert!((interval.mean - 0.05).abs() < 1e-12 && interval.is_above_zero());
        assert!(!mean_interval(&[1.0], 0.95).is_above_zero());
        assert!(!mean_interval(&[], 0.95).is_above_zero());
    }
}
