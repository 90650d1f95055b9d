//! A step in numbers: rollouts and the report of learning to [`StepMetrics`].

use std::collections::BTreeMap;

use crate::{
    data::Dataset,
    metrics::{StepMetrics, TaskMetrics},
    rollout::{Rollout, RolloutGroup},
    task::TaskType,
    update::{Lesson, UpdateReport},
};

/// All numbers but the step's place in the run and its time. Means of rewards and lengths are over all rollouts, dropped
/// groups included: they say how the policy does, not how the selection does.
pub(crate) fn summarize(
    dataset: &Dataset,
    lessons: &[Lesson<'_>],
    dropped: &[RolloutGroup],
    report: &UpdateReport,
) -> StepMetrics {
    let groups = || lessons.iter().map(|lesson| lesson.group).chain(dropped);
    let all: Vec<&Rollout> = groups().flat_map(|group| &group.rollouts).collect();
    let stats = &report.stats;
    let share = |n: usize| stats.mean(n as f64);
    StepMetrics {
        n_groups: lessons.len(),
        n_filtered: dropped.len(),
        reward: mean(&all, |rollout| rollout.reward),
        accuracy: mean(&all, |rollout| rollout.parts.accuracy),
        format: mean(&all, |rollout| rollout.parts.format),
        length: mean(&all, |rollout| rollout.tokens.len() as f64),
        truncated: mean(&all, |rollout| f64::from(u8::from(rollout.truncated))),
        advantage: mean(&lessons.iter().flat_map(|lesson| lesson.advantages).collect::<Vec<_>>(), |value| value.abs()),
        loss: report.loss / report.n_updates.max(1) as f64,
        neg_logprob: stats.mean(stats.sum_neg_logprob),
        entropy: stats.mean(report.sum_entropy),
        clip_high: share(stats.n_clipped_high),
        clip_low: share(stats.n_clipped_low),
        old_kl: stats.mean(stats.sum_old_kl),
        reference_kl: stats.mean(stats.sum_reference_kl),
        logprob_gap: stats.mean(report.sum_gap),
        grad_norm: report.grad_norm.is_finite().then_some(report.grad_norm),
        applied: report.applied && report.n_updates > 0,
        tasks: tasks(dataset, lessons, dropped, report),
        ..StepMetrics::default()
    }
}

fn tasks(
    dataset: &Dataset,
    lessons: &[Lesson<'_>],
    dropped: &[RolloutGroup],
    report: &UpdateReport,
) -> BTreeMap<TaskType, TaskMetrics> {
    let task = |group: &RolloutGroup| dataset.samples()[group.sample].task_type;
    let mut members: BTreeMap<_, (Vec<&Rollout>, Vec<f64>)> = BTreeMap::new();
    for (lesson, neg_logprob) in lessons.iter().zip(&report.neg_logprobs) {
        let (rollouts, neg_logprobs) = members.entry(lesson.task).or_default();
        rollouts.extend(&lesson.group.rollouts);
        neg_logprobs.push(*neg_logprob);
    }
    for group in dropped {
        members.entry(task(group)).or_default().0.extend(&group.rollouts);
    }
    members
        .into_iter()
        .map(|(task, (rollouts, neg_logprobs))| {
            let metrics = TaskMetrics {
                n_rollouts: rollouts.len(),
                reward: mean(&rollouts, |rollout| rollout.reward),
                accuracy: mean(&rollouts, |rollout| rollout.parts.accuracy),
                length: mean(&rollouts, |rollout| rollout.tokens.len() as f64),
                neg_logprob: mean(&neg_logprobs, |value| *value),
            };
            (task, metrics)
        })
        .collect()
}

fn mean<T>(items: &[T], value: impl Fn(&T) -> f64) -> f64 {
    // An empty sum is -0.
    (0.0 + items.iter().map(value).sum::<f64>()) / items.len().max(1) as f64
}
