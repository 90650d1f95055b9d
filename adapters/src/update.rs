//! The learning half of a step: groups and their advantages to new adapter weights, in slices.
//!
//! The lessons of a step are split into `updates_per_step` batches; each batch is one optimizer update. Log-probabilities
//! of the sampling policy are the engine's own, computed before the first update, never the sampler's: both multiply by
//! the same quantized weights, but kernels and K/V precision differ, and a ratio must not start away from 1.
//!
//! Learning is a sequence of tasks, each a few passes of the engine over one lesson. A task rests between layers; what
//! whole tasks gave is plain data ([`Learned`]), which goes into checkpoints.

use std::sync::Arc;

use owlet_runtime::{Deadline, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{
    engine::Engine,
    entropy::BandPlan,
    lesson::{Lesson, Logprobs, Share, Terms},
    lora::{LoraGrads, LoraWeights},
    loss::{BatchSize, LossStats},
    optim::AdamW,
    options::TrainerOptions,
    pace::{Pace, Task},
};

/// Sums over the updates of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpdateReport {
    /// Sum of the losses of the updates that were applied.
    pub(crate) loss: f64,
    pub(crate) stats: LossStats,
    pub(crate) sum_entropy: f64,
    /// Sum of |engine - sampler| over the tokens, before the first update.
    pub(crate) sum_gap: f64,
    /// Largest global gradient norm of the updates that were applied.
    pub(crate) grad_norm: f64,
    pub(crate) n_updates: usize,
    /// Updates that were not applied, because their gradients were not finite.
    pub(crate) n_skipped: usize,
    /// Skipped updates in a row at the end of the step, those of earlier steps included.
    pub(crate) n_skipped_in_a_row: u64,
    /// By lesson: mean of `-logprob` over its tokens, before the first update; `None` where that is not finite.
    pub(crate) neg_logprobs: Vec<Option<f64>>,
}

/// What the tasks so far gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Learned {
    pub(crate) n_tasks: usize,
    /// Updates that are done.
    update: usize,
    /// Lessons of the next update whose gradients are summed up.
    n_summed: usize,
    /// Their losses together.
    loss: f64,
    /// Whether all of them were finite.
    is_finite: bool,
    /// By lesson, of the sampling policy; only where updates are off-policy.
    #[serde(with = "bits")]
    old: Vec<Logprobs>,
    /// By lesson of the next update, of the current policy; only where there is an entropy band.
    #[serde(with = "bits")]
    band: Vec<Logprobs>,
    pub(crate) report: UpdateReport,
    /// Sum of the gradients of the next update; `None` before the first.
    /// Shared with checkpoints that are being written, as are weights and optimizer.
    #[serde(skip)]
    pub(crate) gradients: Option<Arc<LoraGrads>>,
    /// Weights and optimizer after the updates so far; `None` before the first.
    #[serde(skip)]
    pub(crate) updated: Option<(Arc<LoraWeights>, Arc<AdamW>)>,
}

/// Where learning starts from.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub(crate) weights: &'a Arc<LoraWeights>,
    pub(crate) optimizer: &'a Arc<AdamW>,
    pub(crate) learning_rate: f64,
}

/// Learning under way.
pub(crate) struct Learning {
    lessons: Vec<Arc<Lesson>>,
    options: Arc<TrainerOptions>,
    learned: Learned,
    task: Option<Task<Finished>>,
}

/// A task that ended gives the engine back, which it had for itself.
struct Finished {
    engine: Engine,
    outcome: Result<Outcome>,
}

enum Outcome {
    Old(Logprobs),
    Band(Logprobs),
    Gradient(Option<(LoraGrads, Share)>),
}

/// What is next.
enum Next {
    Lesson(Kind, usize),
    Update,
    Nothing,
}

/// What a task computes of its lesson.
#[derive(Clone, Copy)]
enum Kind {
    Old,
    Band,
    Gradient,
}

impl Learning {
    /// Learning from `lessons`, from its beginning; `n_skipped_in_a_row` as the steps before left it.
    pub(crate) fn new(lessons: Vec<Lesson>, options: &Arc<TrainerOptions>, n_skipped_in_a_row: u64) -> Self {
        let learned = Learned {
            n_tasks: 0,
            update: 0,
            n_summed: 0,
            loss: 0.0,
            is_finite: true,
            old: Vec::new(),
            band: Vec::new(),
            report: UpdateReport { n_skipped_in_a_row, ..UpdateReport::default() },
            gradients: None,
            updated: None,
        };
        let lessons = lessons.into_iter().map(Arc::new).collect();
        Self { lessons, options: Arc::clone(options), learned, task: None }
    }

    /// Goes on from what was learned before.
    pub(crate) fn with_learned(self, learned: Learned) -> Self {
        Self { learned, ..self }
    }

    pub(crate) fn learned(&self) -> &Learned {
        &self.learned
    }

    pub(crate) fn lessons(&self) -> &[Arc<Lesson>] {
        &self.lessons
    }

    /// Lessons whose gradients are computed.
    pub(crate) fn n_done(&self) -> usize {
        self.bounds(self.learned.update).0 + self.learned.n_summed
    }

    /// The end: what was learned, with weights and optimizer if an update was applied.
    pub(crate) fn into_parts(self) -> (Vec<Arc<Lesson>>, Learned) {
        (self.lessons, self.learned)
    }

    /// Ends the task under way; `engine` gets back what it had.
    pub(crate) fn abandon(&mut self, engine: &mut Option<Engine>) {
        if let Some(finished) = self.task.take().and_then(Task::abandon) {
            *engine = Some(finished.engine);
        }
    }

    /// Works until `deadline`, which it may pass by a layer, and returns whether all is learned. `engine` is away while a
    /// task rests.
    ///
    /// # Errors
    /// Those of the engine and the loss, with the task undone; `Diverged` when the gradients of as many updates in a row
    /// as the options allow were not finite.
    pub(crate) fn advance(
        &mut self,
        engine: &mut Option<Engine>,
        before: Before<'_>,
        deadline: &Deadline,
        on_lesson: &mut dyn FnMut(usize),
    ) -> Result<bool> {
        while !deadline.is_cancelled() {
            let mut task = match self.task.take() {
                Some(task) => task,
                None => match self.next() {
                    Next::Nothing => return Ok(true),
                    Next::Update => {
                        self.update(before)?;
                        continue;
                    }
                    Next::Lesson(kind, index) => {
                        let missing = || Error::new(ErrorKind::Internal, "the engine is away");
                        self.start(kind, index, engine.take().ok_or_else(missing)?, before)
                    }
                },
            };
            let Some(finished) = task.advance(deadline) else {
                self.task = Some(task);
                return Ok(false);
            };
            *engine = Some(finished.engine);
            let n_done = self.n_done();
            self.take(finished.outcome?);
            if self.n_done() > n_done {
                on_lesson(self.n_done());
            }
            if deadline.is_over() {
                break;
            }
        }
        Ok(false)
    }

    /// First and end of the lessons of update `update`.
    fn bounds(&self, update: usize) -> (usize, usize) {
        let (n_lessons, n_updates) = (self.lessons.len(), self.options.updates_per_step);
        (update * n_lessons / n_updates, (update + 1) * n_lessons / n_updates)
    }

    fn next(&self) -> Next {
        let Learned { update, n_summed, old, band, .. } = &self.learned;
        let (first, end) = self.bounds(*update);
        if self.options.updates_per_step > 1 && old.len() < self.lessons.len() {
            Next::Lesson(Kind::Old, old.len())
        } else if *update == self.options.updates_per_step {
            Next::Nothing
        } else if self.options.entropy_band.is_some() && first + band.len() < end {
            Next::Lesson(Kind::Band, first + band.len())
        } else if first + n_summed < end {
            Next::Lesson(Kind::Gradient, first + n_summed)
        } else {
            Next::Update
        }
    }

    fn start(&self, kind: Kind, index: usize, mut engine: Engine, before: Before<'_>) -> Task<Finished> {
        let weights = Arc::clone(self.learned.updated.as_ref().map_or(before.weights, |(weights, _)| weights));
        let options = Arc::clone(&self.options);
        let lesson = Arc::clone(&self.lessons[index]);
        let terms = Terms { old: self.learned.old.get(index).cloned(), band: self.plan(), size: self.batch_size() };
        Task::new(move |pace: Pace| async move {
            let outcome = match kind {
                Kind::Old => lesson.score(&mut engine, &weights, &options, &pace).await.map(Outcome::Old),
                Kind::Band => lesson.score(&mut engine, &weights, &options, &pace).await.map(Outcome::Band),
                Kind::Gradient => {
                    lesson.gradient(&mut engine, &weights, &options, &terms, &pace).await.map(Outcome::Gradient)
                }
            };
            Finished { engine, outcome }
        })
    }

    /// The lessons of the next update.
    fn batch(&self) -> &[Arc<Lesson>] {
        let (first, end) = self.bounds(self.learned.update);
        &self.lessons[first..end]
    }

    fn batch_size(&self) -> BatchSize {
        BatchSize::of(self.batch().iter().flat_map(|lesson| lesson.lengths()))
    }

    /// The entropy band over a whole batch, where there is one. Its penalty is not linear in the tokens, so all tokens of
    /// the batch are scored before the first gradient.
    fn plan(&self) -> Option<BandPlan> {
        let band = self.options.entropy_band?;
        let lessons = self.batch().iter().zip(&self.learned.band);
        let sequences: Vec<_> = lessons
            .flat_map(|(lesson, logprobs)| logprobs.iter().map(|logprobs| (lesson.task, logprobs.as_slice())))
            .collect();
        Some(band.plan(self.options.loss.average, &sequences))
    }

    /// Takes over what a task gave.
    fn take(&mut self, outcome: Outcome) {
        let Learned { n_tasks, n_summed, loss, is_finite, old, band, report, gradients, .. } = &mut self.learned;
        *n_tasks += 1;
        match outcome {
            Outcome::Old(logprobs) => old.push(logprobs),
            Outcome::Band(logprobs) => band.push(logprobs),
            Outcome::Gradient(gradient) => {
                *n_summed += 1;
                *is_finite &= gradient.is_some();
                report.neg_logprobs.push(gradient.as_ref().map(|(_, share)| share.neg_logprob));
                let Some((gradient, share)) = gradient else { return };
                *loss += share.loss;
                report.stats.add(&share.stats);
                report.sum_entropy += share.sum_entropy;
                report.sum_gap += share.sum_gap;
                match gradients {
                    Some(sum) => Arc::make_mut(sum).add_scaled(&gradient, 1.0),
                    None => *gradients = Some(Arc::new(gradient)),
                }
            }
        }
    }

    /// One step of the optimizer.
    fn update(&mut self, before: Before<'_>) -> Result<()> {
        let penalty = self.plan().map_or(0.0, |plan| plan.penalty);
        let is_empty = self.batch().is_empty();
        let learned = &mut self.learned;
        let report = &mut learned.report;
        let gradients =
            learned.gradients.as_ref().filter(|gradients| learned.is_finite && gradients.global_norm().is_finite());
        let loss = learned.loss + penalty;
        if let Some(gradients) = gradients {
            let (weights, optimizer) =
                learned.updated.get_or_insert_with(|| (Arc::clone(before.weights), Arc::clone(before.optimizer)));
            let outcome = Arc::make_mut(optimizer).step(Arc::make_mut(weights), gradients, before.learning_rate);
            report.grad_norm = report.grad_norm.max(outcome.grad_norm);
            report.loss += loss;
            report.n_updates += 1;
            report.n_skipped_in_a_row = 0;
        } else if !is_empty {
            let n_in_a_row = report.n_skipped_in_a_row + 1;
            if n_in_a_row >= self.options.max_skipped_updates {
                return Err(Error::new(ErrorKind::Diverged, "training cannot go on")
                    .got(format!("{n_in_a_row} updates in a row with gradients that are not finite")));
            }
            report.n_skipped += 1;
            report.n_skipped_in_a_row = n_in_a_row;
        }
        learned.update += 1;
        (learned.n_summed, learned.loss, learned.is_finite) = (0, 0.0, true);
        learned.band.clear();
        learned.gradients = None;
        Ok(())
    }
}

/// Log-probabilities as their bits: JSON has no numbers that are not finite, and those of a run that diverged are not.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::lesson::Logprobs;

    pub(super) fn serialize<S: Serializer>(lessons: &[Logprobs], serializer: S) -> Result<S::Ok, S::Error> {
        let bits = |values: &Vec<f64>| values.iter().map(|value| value.to_bits()).collect();
        let lessons: Vec<Vec<Vec<u64>>> = lessons.iter().map(|rollouts| rollouts.iter().map(bits).collect()).collect();
        lessons.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Logprobs>, D::Error> {
        let lessons = Vec::<Vec<Vec<u64>>>::deserialize(deserializer)?;
        let values = |bits: Vec<u64>| bits.into_iter().map(f64::from_bits).collect();
        Ok(lessons.into_iter().map(|rollouts| rollouts.into_iter().map(values).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_survives_json_with_numbers_that_are_not_finite() {
        let options = Arc::new(TrainerOptions::default());
        let mut learned = Learning::new(Vec::new(), &options, 1).learned;
        let odd = vec![-0.1, f64::NAN, f64::NEG_INFINITY, -0.0, -f64::MIN_POSITIVE];
        learned.old = vec![vec![odd.clone(), Vec::new()], Vec::new()];
        learned.band = vec![vec![odd]];
        let json = serde_json::to_vec(&learned).expect("JSON");
        let read: Learned = serde_json::from_slice(&json).expect("its own JSON");
        let bits = |learned: &Learned| -> Vec<u64> {
            [&learned.old, &learned.band]
                .into_iter()
                .flatten()
                .flatten()
                .flatten()
                .map(|value| value.to_bits())
                .collect()
        };
        assert_eq!(bits(&read), bits(&learned));
        assert_eq!((read.old[0].len(), read.old.len(), read.band.len()), (2, 2, 1));
    }
}
