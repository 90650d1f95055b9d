//! A step in numbers: rollouts and the report of learning to [`StepMetrics`].

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    data::Dataset,
    lesson::Lesson,
    metrics::{StepMetrics, TaskMetrics},
    rollout::{Rollout, RolloutGroup},
    task::TaskType,
    update::UpdateReport,
};

/// All numbers but the step's place in the run and its time. Means of rewards and lengths are over all rollouts, dropped
/// groups included: they say how the policy does, not how the selection does.
pub(crate) fn summarize(
    dataset: &Dataset,
    lessons: &[Arc<Lesson>],
    dropped: &[RolloutGroup],
    report: &UpdateReport,
) -> StepMetrics {
    let groups = || lessons.iter().map(|lesson| &lesson.group).chain(dropped);
    let all: Vec<&Rollout> = groups().flat_map(|group| &group.rollouts).collect();
    let stats = &report.stats;
    let share = |n: usize| stats.mean(n as f64);
    let known = |sum: f64| (stats.n_tokens > 0).then(|| stats.mean(sum));
    StepMetrics {
        n_groups: lessons.len(),
        n_filtered: dropped.len(),
        reward: mean(&all, |rollout| rollout.reward),
        accuracy: mean(&all, |rollout| rollout.parts.accuracy),
        format: mean(&all, |rollout| rollout.parts.format),
        length: mean(&all, |rollout| rollout.tokens.len() as f64),
        truncated: mean(&all, |rollout| f64::from(u8::from(rollout.truncated))),
        advantage: mean(&lessons.iter().flat_map(|lesson| &lesson.advantages).collect::<Vec<_>>(), |value| value.abs()),
        loss: (report.n_updates > 0).then(|| report.loss / report.n_updates as f64),
        neg_logprob: known(stats.sum_neg_logprob),
        entropy: known(report.sum_entropy),
        clipped: share(stats.n_clipped),
        dual_clipped: share(stats.n_dual_clipped),
        old_kl: stats.mean(stats.sum_old_kl),
        reference_kl: stats.mean(stats.sum_reference_kl),
        logprob_gap: known(report.sum_gap),
        grad_norm: (report.n_updates > 0).then_some(report.grad_norm),
        applied: report.n_updates > 0 && report.n_skipped == 0,
        skipped_updates: report.n_skipped,
        tasks: tasks(dataset, lessons, dropped, report),
        ..StepMetrics::default()
    }
}

fn tasks(
    dataset: &Dataset,
    lessons: &[Arc<Lesson>],
    dropped: &[RolloutGroup],
    report: &UpdateReport,
) -> BTreeMap<TaskType, TaskMetrics> {
    let task = |group: &RolloutGroup| dataset.samples()[group.sample].task_type;
    let mut members: BTreeMap<_, (Vec<&Rollout>, Vec<f64>)> = BTreeMap::new();
    for (lesson, neg_logprob) in lessons.iter().zip(&report.neg_logprobs) {
        let (rollouts, neg_logprobs) = members.entry(lesson.task).or_default();
        rollouts.extend(&lesson.group.rollouts);
        neg_logprobs.extend(neg_logprob);
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
                neg_logprob: (!neg_logprobs.is_empty()).then(|| mean(&neg_logprobs, |value| *value)),
            };
            (task, metrics)
        })
        .collect()
}

fn mean<T>(items: &[T], value: impl Fn(&T) -> f64) -> f64 {
    // An empty sum is -0.
    (0.0 + items.iter().map(value).sum::<f64>()) / items.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use owlet_runtime::EncodedPrompt;

    use super::*;
    use crate::{data::Sample, loss::LossStats, reward::RewardParts, task::ProblemType};

    #[test]
    fn a_step_without_lessons_knows_nothing_of_its_tokens() {
        let sample = Sample {
            id: String::new(),
            place: String::new(),
            problem: String::new(),
            images: Vec::new(),
            answer: "1".to_owned(),
            problem_type: ProblemType::Numerical,
            task_type: TaskType::Ocr,
            options: Vec::new(),
            response: None,
        };
        let dataset = Dataset::from_samples(vec![sample]).expect("no images");
        let rollout = Rollout {
            tokens: vec![1, 2],
            sampler_logprobs: vec![-0.5; 2],
            text: String::new(),
            truncated: false,
            parts: RewardParts { accuracy: 1.0, ..RewardParts::default() },
            reward: 0.9,
        };
        let group = RolloutGroup { sample: 0, prompt: EncodedPrompt::from_tokens(vec![1]), rollouts: vec![rollout; 2] };

        let nothing = UpdateReport::default();
        let metrics = summarize(&dataset, &[], std::slice::from_ref(&group), &nothing);
        assert_eq!((metrics.n_filtered, metrics.reward, metrics.applied), (1, 0.9, false));
        assert_eq!((metrics.loss, metrics.entropy, metrics.neg_logprob, metrics.logprob_gap), (None, None, None, None));
        assert_eq!(metrics.tasks[&TaskType::Ocr].neg_logprob, None);
        let json = serde_json::to_string(&metrics).expect("JSON");
        assert!(json.contains("\"entropy\":null"), "{json}");
        assert_eq!(serde_json::from_str::<StepMetrics>(&json).expect("its own JSON"), metrics);

        let lesson = Lesson { group, task: TaskType::Ocr, advantages: vec![1.0, -1.0] };
        let stats = LossStats { n_tokens: 4, sum_neg_logprob: 2.0, ..LossStats::default() };
        let learned = UpdateReport {
            loss: 3.0,
            stats,
            sum_entropy: 4.0,
            sum_gap: 0.0,
            n_updates: 2,
            neg_logprobs: vec![Some(0.5)],
            ..nothing
        };
        let metrics = summarize(&dataset, &[Arc::new(lesson)], &[], &learned);
        let near = |value: Option<f64>, expected: f64| value.is_some_and(|value| (value - expected).abs() < 1e-6);
        assert!(near(metrics.loss, 1.5) && near(metrics.entropy, 1.0) && near(metrics.neg_logprob, 0.5));
        assert_eq!((metrics.logprob_gap, metrics.tasks[&TaskType::Ocr].neg_logprob), (Some(0.0), Some(0.5)));
    }
}
