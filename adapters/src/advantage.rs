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

/// Inverse of the standard normal distribution function, `p` in (0, 1), to about 1e-15 relative.
///
/// Algorithm AS 241, routine PPND16 (Wichura, Applied Statistics 37, 1988).
pub fn inverse_normal_cdf(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * ratio(&CENTRE, r);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let tail = if r <= 5.0 { ratio(&TAIL, r - 1.6) } else { ratio(&FAR_TAIL, r - 5.0) };
    tail.copysign(q)
}

/// Numerator and denominator of a rational function, highest power first.
type Rational = ([f64; 8], [f64; 8]);

fn ratio((numerator, denominator): &Rational, x: f64) -> f64 {
    let horner = |terms: &[f64; 8]| terms.iter().fold(0.0, |sum, term| sum * x + term);
    horner(numerator) / horner(denominator)
}

const CENTRE: Rational = (
    [
        2.509_080_928_730_122_672_7e3,
        3.343_057_558_358_812_810_5e4,
        6.726_577_092_700_870_085_3e4,
        4.592_195_393_154_987_145_7e4,
        1.373_169_376_550_946_112_5e4,
        1.971_590_950_306_551_442_7e3,
        1.331_416_678_917_843_774_5e2,
        3.387_132_872_796_366_608,
    ],
    [
        5.226_495_278_852_854_561e3,
        2.872_908_573_572_194_267_4e4,
        3.930_789_580_009_271_061e4,
        2.121_379_430_158_659_586_7e4,
        5.394_196_021_424_751_107_7e3,
        6.871_870_074_920_579_083e2,
        4.231_333_070_160_091_125_2e1,
        1.0,
    ],
);

const TAIL: Rational = (
    [
        7.745_450_142_783_414_076_4e-4,
        2.272_384_498_926_918_458_33e-2,
        2.417_807_251_774_506_117_7e-1,
        1.270_458_252_452_368_382_58,
        3.647_848_324_763_204_605_04,
        5.769_497_221_460_691_405_5,
        4.630_337_846_156_545_295_9,
        1.423_437_110_749_683_577_34,
    ],
    [
        1.050_750_071_644_416_843_24e-9,
        5.475_938_084_995_344_946e-4,
        1.519_866_656_361_645_719_66e-2,
        1.481_039_764_274_800_745_9e-1,
        6.897_673_349_851_000_045_5e-1,
        1.676_384_830_183_803_849_4,
        2.053_191_626_637_758_821_87,
        1.0,
    ],
);

const FAR_TAIL: Rational = (
    [
        2.010_334_399_292_288_132_65e-7,
        2.711_555_568_743_487_578_15e-5,
        1.242_660_947_388_078_438_6e-3,
        2.653_218_952_657_612_309_3e-2,
        2.965_605_718_285_048_912_3e-1,
        1.784_826_539_917_291_335_8,
        5.463_784_911_164_114_369_9,
        6.657_904_643_501_103_777_2,
    ],
    [
        2.044_263_103_389_939_785_64e-15,
        1.421_511_758_316_445_888_7e-7,
        1.846_318_317_510_054_681_8e-5,
        7.868_691_311_456_132_591e-4,
        1.487_536_129_085_061_485_25e-2,
        1.369_298_809_227_358_053_1e-1,
        5.998_322_065_558_879_376_9e-1,
        1.0,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_known_values() {
        // From mpmath with 40 digits; the last one from Python's statistics.NormalDist.
        for (p, expected) in [
            (0.5, 0.0),
            (0.1, -1.281_551_565_544_600_4),
            (0.975, 1.959_963_984_540_054_2),
            (0.0625, -1.534_120_544_352_546_3),
            (0.3, -0.524_400_512_708_040_7),
            (1e-5, -4.264_890_793_922_825),
            (1e-12, -7.034_483_825_301_132),
            (1e-300, -37.047_096_299_361_2),
        ] {
            let got = inverse_normal_cdf(p);
            assert!((got - expected).abs() <= 1e-12 * (1.0 + expected.abs()), "p = {p}: {got} instead of {expected}");
        }
    }

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
