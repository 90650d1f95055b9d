//! Rewards of a batch of rollouts to advantages: G2RPO and its relatives.
//!
//! Comes after the rewards and before `loss.rs`. Every token of a response carries the advantage of its response.
//!
//! G2RPO (Gaussian GRPO, arXiv 2604.08539, section 2.2 and algorithm 1) maps rewards to the quantiles of the standard
//! normal distribution by their rank, which is the optimal transport in one dimension. As in the authors' code there
//! are two stages: inside every prompt group, then over all values of one task. Two deliberate differences from that
//! code: everything is in f64, and in the second stage values closer than [`TIE_TOLERANCE`] count as equal, because
//! means of quantiles that are equal in mathematics differ in their last bits and would be ranked apart.

use std::{collections::BTreeMap, fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::normal::inverse_normal_cdf;

/// In the second stage of G2RPO, neighbours in sorted order that are at most this far apart share one rank.
/// Rewards themselves need no tolerance: equal answers get rewards that are equal to the bit.
pub const TIE_TOLERANCE: f64 = 1e-9;

/// GRPO divides by the standard deviation plus this, as the reference does.
const STD_EPSILON: f64 = 1e-6;

/// How rewards become advantages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Ranks to normal quantiles inside each prompt group, then again over each task. The default.
    #[default]
    G2rpo,
    /// The first stage of G2RPO alone, as the paper's equation 13 has it.
    G2rpoGroup,
    /// `(r - mean) / (sample std + 1e-6)` inside each prompt group (arXiv 2402.03300).
    Grpo,
    /// `r - mean` inside each prompt group (arXiv 2503.20783).
    DrGrpo,
    /// `r - mean of the others` inside each prompt group (arXiv 2402.14740).
    Rloo,
}

impl Estimator {
    /// Every estimator, the default first.
    pub const ALL: [Estimator; 5] = [Self::G2rpo, Self::G2rpoGroup, Self::Grpo, Self::DrGrpo, Self::Rloo];

    /// The name in options and configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::G2rpo => "g2rpo",
            Self::G2rpoGroup => "g2rpo_group",
            Self::Grpo => "grpo",
            Self::DrGrpo => "dr_grpo",
            Self::Rloo => "rloo",
        }
    }
}

impl fmt::Display for Estimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Estimator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|estimator| estimator.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "unknown advantage estimator")
                .got(format!("{text:?}"))
                .needed("one of g2rpo, g2rpo_group, grpo, dr_grpo, rloo")
        })
    }
}

/// The reward of one rollout and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// Finite.
    pub reward: f64,
    /// Rollouts of one prompt have the same number.
    pub group: usize,
    /// The set of the second stage: `Sample::advantage_task`.
    pub task: &'a str,
}

/// One advantage for every rollout, in the order of `rollouts`.
///
/// A group or task of one rollout gets 0, and so does every rollout of a group whose rewards are all equal: exactly, for
/// each estimator.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if a reward is not finite.
pub fn advantages(estimator: Estimator, rollouts: &[Scored<'_>]) -> Result<Vec<f64>> {
    if let Some((index, bad)) = rollouts.iter().enumerate().find(|(_, rollout)| !rollout.reward.is_finite()) {
        let error = Error::new(ErrorKind::InvalidInput, "a reward is not a number").at(format!("rollout {index}"));
        return Err(error.got(bad.reward).needed("a finite reward"));
    }
    let mut values: Vec<f64> = rollouts.iter().map(|rollout| rollout.reward).collect();
    match estimator {
        Estimator::G2rpo => {
            map_sets(
                &mut values,
                |index| (rollouts[index].task, rollouts[index].group),
                |set| gaussian_ranks(set, 0.0),
            );
            map_sets(&mut values, |index| rollouts[index].task, |set| gaussian_ranks(set, TIE_TOLERANCE));
        }
        Estimator::G2rpoGroup => {
            map_sets(
                &mut values,
                |index| (rollouts[index].task, rollouts[index].group),
                |set| gaussian_ranks(set, 0.0),
            );
        }
        Estimator::Grpo => map_sets(&mut values, |index| rollouts[index].group, standardize),
        Estimator::DrGrpo => map_sets(&mut values, |index| rollouts[index].group, center),
        Estimator::Rloo => map_sets(&mut values, |index| rollouts[index].group, leave_one_out),
    }
    Ok(values)
}

/// Applies `map` to each set of values that share a key.
fn map_sets<K: Ord>(values: &mut [f64], key: impl Fn(usize) -> K, map: impl Fn(&[f64]) -> Vec<f64>) {
    let mut sets: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for index in 0..values.len() {
        sets.entry(key(index)).or_default().push(index);
    }
    for members in sets.values() {
        let set: Vec<f64> = members.iter().map(|&index| values[index]).collect();
        for (&index, value) in members.iter().zip(map(&set)) {
            values[index] = value;
        }
    }
}

/// Maps N values to N(0, 1) by rank: the k-th smallest (from 1) becomes the quantile of `(k - 1/2) / N`.
///
/// Values that are equal, or whose neighbours in sorted order are at most `tolerance` apart, share the mean of their
/// quantiles. So N equal values give N zeros, and N = 1 gives 0.
pub fn gaussian_ranks(values: &[f64], tolerance: f64) -> Vec<f64> {
    let n = values.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&left, &right| values[left].total_cmp(&values[right]));
    let mut mapped = vec![0.0; n];
    for (first, tied) in runs(values, tolerance, &order) {
        let shared = if tied.len() == n {
            0.0
        } else {
            (first..first + tied.len()).map(|rank| rank_quantile(rank, n)).sum::<f64>() / tied.len() as f64
        };
        tied.iter().for_each(|&index| mapped[index] = shared);
    }
    mapped
}

/// Splits sorted indices into runs of equal values; with each run the rank (from 0) of its first member.
fn runs<'a>(values: &[f64], tolerance: f64, order: &'a [usize]) -> Vec<(usize, &'a [usize])> {
    let equal = |left: &usize, right: &usize| values[*right] - values[*left] <= tolerance;
    let mut first = 0;
    let with_rank = |run: &'a [usize]| {
        let rank = first;
        first += run.len();
        (rank, run)
    };
    order.chunk_by(equal).map(with_rank).collect()
}

/// Normal quantile of the middle of rank `rank` (from 0) of `n`, exactly antisymmetric in the rank.
fn rank_quantile(rank: usize, n: usize) -> f64 {
    let mirrored = n - 1 - rank;
    match rank.cmp(&mirrored) {
        std::cmp::Ordering::Less => inverse_normal_cdf((rank as f64 + 0.5) / n as f64),
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Greater => -rank_quantile(mirrored, n),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn center(rewards: &[f64]) -> Vec<f64> {
    // The mean of equal numbers can differ from them in the last bit.
    if rewards.iter().all(|reward| *reward == rewards[0]) {
        return vec![0.0; rewards.len()];
    }
    let mean = mean(rewards);
    rewards.iter().map(|reward| reward - mean).collect()
}

fn standardize(rewards: &[f64]) -> Vec<f64> {
    let centered = center(rewards);
    let degrees = rewards.len().saturating_sub(1).max(1) as f64;
    let std = (centered.iter().map(|value| value * value).sum::<f64>() / degrees).sqrt();
    centered.iter().map(|value| value / (std + STD_EPSILON)).collect()
}

fn leave_one_out(rewards: &[f64]) -> Vec<f64> {
    // r - (sum - r) / (n - 1) = (r - mean) * n / (n - 1)
    let n = rewards.len() as f64;
    center(rewards).iter().map(|value| value * n / (n - 1.0).max(1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimator_names_go_both_ways() {
        for estimator in Estimator::ALL {
            assert_eq!(estimator.name().parse::<Estimator>().expect("own name"), estimator);
        }
        assert_eq!("ppo".parse::<Estimator>().expect_err("unknown").kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn rewards_that_are_no_numbers_are_refused() {
        for reward in [f64::NAN, f64::INFINITY] {
            let error = advantages(Estimator::Grpo, &[Scored { reward, group: 0, task: "math" }]).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert!(advantages(Estimator::G2rpo, &[]).expect("empty is fine").is_empty());
    }

    #[test]
    fn a_flat_group_gives_exact_zeros() {
        let rollouts = [0.1; 3].map(|reward| Scored { reward, group: 0, task: "math" });
        for estimator in Estimator::ALL {
            assert_eq!(advantages(estimator, &rollouts).expect("finite"), [0.0; 3], "{estimator}");
        }
    }
}
