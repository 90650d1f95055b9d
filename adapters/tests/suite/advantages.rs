//! Advantages against the golden cases, against the figures of the paper, and against their symmetries.
//!
//! `tests/golden/advantages.jsonl` holds inputs written for this project, the numbers of the reference implementation,
//! and `g2rpo_exact`, an independent f64 computation of the same definition.

use crate::golden::{golden, numbers, report};
use owlet_adapters::advantage::{Estimator, Scored, advantages, gaussian_ranks};
use proptest::prelude::*;
use serde_json::Value;

fn ranks(rewards: &[f64]) -> Vec<f64> {
    gaussian_ranks(rewards, 0.0)
}

/// Task keys as the reference forms them: the problem type, segmentation split by image and video.
fn tasks(case: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let types = case["task_ids"].as_array().expect("an array").iter().map(text);
    let with_data_type = |(index, task): (usize, String)| match case["data_types"].get(index) {
        Some(data_type) if task == "segmentation" && ["image", "video"].contains(&text(data_type).as_str()) => {
            format!("{task} {}", text(data_type))
        }
        _ => task,
    };
    types.enumerate().map(with_data_type).collect()
}

fn groups(case: &Value) -> Vec<usize> {
    let ids: Vec<&Value> = case["group_ids"].as_array().expect("an array").iter().collect();
    ids.iter().map(|id| ids.iter().position(|other| other == id).expect("it is in the list")).collect()
}

fn check(estimator: Estimator, field: &str, tolerance: f64, skip: impl Fn(&Value) -> bool) {
    let cases = golden("advantages.jsonl");
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| !skip(case)) {
        if case["expected"][field].is_null() {
            continue;
        }
        let (tasks, groups) = (tasks(case), groups(case));
        let scored: Vec<_> = numbers(&case["rewards"])
            .into_iter()
            .zip(&groups)
            .zip(&tasks)
            .map(|((reward, &group), task)| Scored { reward, group, task })
            .collect();
        let got = advantages(estimator, &scored).expect("golden rewards are finite");
        for (index, (got, expected)) in got.iter().zip(numbers(&case["expected"][field])).enumerate() {
            if (got - expected).abs() > tolerance * (1.0 + expected.abs()) {
                failures.push(format!("{} [{index}]: {got} instead of {expected}", case["id"]));
            }
        }
    }
    report(&failures, cases.len());
}

#[test]
fn g2rpo_matches_the_exact_computation() {
    check(Estimator::G2rpo, "g2rpo_exact", 1e-9, |_| false);
}

/// The reference computes in f32, and where its ties depend on rounding (`fp_sensitive`) it is not to be matched.
#[test]
fn g2rpo_matches_the_reference_where_it_does_not_depend_on_rounding() {
    check(Estimator::G2rpo, "g2rpo", 1e-6, |case| case["fp_sensitive"] == true);
    check(Estimator::G2rpoGroup, "group_ot", 1e-6, |case| case["fp_sensitive"] == true);
}

/// Where rewards are equal or differ by 1e-7, the reference's f32 mean is off by as much, and GRPO divides that by little.
#[test]
fn the_relatives_match_the_reference() {
    let rounding_noise = |case: &Value| case["id"] == "ties-all-equal-6" || case["id"] == "tiny-differences";
    check(Estimator::Grpo, "grpo", 1e-5, rounding_noise);
    check(Estimator::DrGrpo, "dr_grpo", 1e-6, |_| false);
    check(Estimator::Rloo, "rloo", 1e-6, |_| false);
}

/// Figure 2 of arXiv 2604.08539, with all digits.
#[test]
fn g2rpo_gives_the_figures_of_the_paper() {
    for (rewards, expected) in [
        ([0.0, 0.0, 0.0, 0.0, 1.0], [-0.320388, -0.320388, -0.320388, -0.320388, 1.281552]),
        ([0.1, 0.1, 0.1, 0.2, 1.0], [-0.601984, -0.601984, -0.601984, 0.524401, 1.281552]),
        ([0.0, 0.0, 1.0, 1.0, 1.0], [-0.902976, -0.902976, 0.601984, 0.601984, 0.601984]),
        ([0.81, 0.81, 0.82, 0.82, 0.83], [-0.902976, -0.902976, 0.262200, 0.262200, 1.281552]),
    ] {
        for (got, expected) in ranks(&rewards).iter().zip(expected) {
            assert!((got - expected).abs() < 5e-7, "{rewards:?}: {got} instead of {expected}");
        }
    }
}

/// Groups with 1, 4 and 7 right answers of 8, one task: the second stage acts.
#[test]
fn the_second_stage_ranks_over_the_task() {
    let rewards = [1, 4, 7].map(|right| (0..8).map(move |i| if i < right { 1.0 } else { 0.0 }));
    let scored: Vec<_> = rewards
        .into_iter()
        .enumerate()
        .flat_map(|(group, rewards)| rewards.map(move |reward| Scored { reward, group, task: "math" }))
        .collect();
    let got = advantages(Estimator::G2rpo, &scored).expect("finite");
    for (index, expected) in
        [(0, 2.036834), (7, -0.384066), (8, 1.183475), (15, -1.183475), (16, 0.384066), (23, -2.036834)]
    {
        assert!((got[index] - expected).abs() < 5e-7, "[{index}]: {} instead of {expected}", got[index]);
    }
}

/// Rewards on a coarse grid, so that ties are common.
fn rewards() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((0..12i32).prop_map(|step| f64::from(step) / 8.0), 0..40)
}

proptest! {
    #[test]
    fn permuting_the_rewards_permutes_the_result(rewards in rewards(), seed in any::<u64>()) {
        let mut order: Vec<usize> = (0..rewards.len()).collect();
        owlet_runtime::rng::Rng::keyed(&[seed]).shuffle(&mut order);
        let straight = ranks(&rewards);
        let permuted = ranks(&order.iter().map(|&index| rewards[index]).collect::<Vec<_>>());
        prop_assert_eq!(permuted, order.iter().map(|&index| straight[index]).collect::<Vec<_>>());
    }

    #[test]
    fn negating_the_rewards_negates_the_result(rewards in rewards()) {
        let straight = ranks(&rewards);
        let negated = ranks(&rewards.iter().map(|reward| -reward).collect::<Vec<_>>());
        for (left, right) in straight.iter().zip(negated) {
            // The quantiles of a tie are summed in opposite order.
            prop_assert!((left + right).abs() < 1e-14);
        }
    }

    #[test]
    fn equal_rewards_get_equal_values_and_greater_ones_greater(rewards in rewards()) {
        let mapped = ranks(&rewards);
        for (i, left) in rewards.iter().enumerate() {
            for (j, right) in rewards.iter().enumerate() {
                prop_assert_eq!(left.partial_cmp(right), mapped[i].partial_cmp(&mapped[j]));
            }
        }
    }

    #[test]
    fn growing_maps_of_the_rewards_change_nothing(rewards in rewards()) {
        let mapped = rewards.iter().map(|reward| 3.0 * reward.exp() - 7.0).collect::<Vec<_>>();
        prop_assert_eq!(ranks(&rewards), ranks(&mapped));
    }

    #[test]
    fn the_values_of_a_group_sum_to_zero(rewards in rewards()) {
        prop_assert!(ranks(&rewards).iter().sum::<f64>().abs() < 1e-12);
    }
}
