//! A step under way: rollouts, filter, advantages and learning, in slices.
//!
//! What is finished (groups of whole portions, gradients of whole lessons) is plain data, a [`StepRecord`], and survives
//! the process in a checkpoint; what runs (answers in sessions, a gradient between two layers) is kept from slice to
//! slice, and computed again by a run that was killed, from the same random numbers to the same bits.

use std::sync::Arc;

use owlet_runtime::{Deadline, EncodedPrompt, Result, RngKey, SamplerOptions, Session};
use serde::{Deserialize, Serialize};

use crate::{
    advantage::{Scored, advantages},
    cursor::{Cursor, Order},
    engine::Engine,
    lesson::Lesson,
    lora::LoraWeights,
    optim::AdamW,
    options::TrainerOptions,
    reward::Reward,
    rollout::{RolloutGroup, RolloutRules, encode},
    round::{Question, Round},
    trainer::StepEvent,
    update::{Before, Learned, Learning},
};

/// What a step works with.
pub(crate) struct Bench<'a> {
    pub(crate) sessions: &'a mut [Session],
    pub(crate) engine: &'a mut Option<Engine>,
    pub(crate) order: Order<'a>,
    pub(crate) reward: &'a dyn Reward,
    pub(crate) options: &'a Arc<TrainerOptions>,
    pub(crate) before: Before<'a>,
    pub(crate) n_skipped_in_a_row: u64,
    pub(crate) step: u64,
}

/// A step under way.
pub(crate) struct RunningStep {
    pub(crate) cursor: Cursor,
    /// Rounds of rollouts that were begun.
    n_rounds: usize,
    kept: Vec<RolloutGroup>,
    dropped: Vec<RolloutGroup>,
    round: Option<Round>,
    learning: Option<Learning>,
    /// Learned before the lessons were put together again.
    learned_before: Option<Learned>,
    /// Time worked on it.
    pub(crate) seconds: f64,
}

/// What a step has finished, for checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    epoch: u64,
    position: usize,
    n_rounds: usize,
    kept: Vec<RolloutGroup>,
    dropped: Vec<RolloutGroup>,
    round: Option<RoundRecord>,
    pub(crate) learned: Option<Learned>,
    seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RoundRecord {
    /// Sample and number of the draw of every question.
    questions: Vec<(usize, u64)>,
    done: Vec<Option<Vec<RolloutGroup>>>,
}

impl StepRecord {
    /// Finished parts: groups that were sampled and tasks of learning. Grows with every part.
    pub fn n_parts(&self) -> usize {
        let in_round = self.round.iter().flat_map(|round| round.done.iter().flatten().flatten()).count();
        let learned = self.learned.as_ref().map_or(0, |learned| learned.n_tasks);
        self.kept.len() + self.dropped.len() + in_round + learned
    }
}

impl RunningStep {
    /// A step from its beginning.
    pub(crate) fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            n_rounds: 0,
            kept: Vec::new(),
            dropped: Vec::new(),
            round: None,
            learning: None,
            learned_before: None,
            seconds: 0.0,
        }
    }

    /// The step that `record` is of, which is step `step` of a run of `options`.
    pub(crate) fn restore(record: StepRecord, order: Order<'_>, step: u64, options: &TrainerOptions) -> Self {
        let round = record.round.map(|RoundRecord { questions, done }| {
            let question = |(sample, prompt)| question(options, step, sample, prompt);
            round(questions.into_iter().map(question).collect(), options).with_done(done)
        });
        Self {
            cursor: Cursor::new(order, record.epoch, record.position),
            n_rounds: record.n_rounds,
            kept: record.kept,
            dropped: record.dropped,
            round,
            learning: None,
            learned_before: record.learned,
            seconds: record.seconds,
        }
    }

    /// What is finished.
    pub(crate) fn record(&self) -> StepRecord {
        let without_prompts = |group: &RolloutGroup| RolloutGroup {
            sample: group.sample,
            prompt: EncodedPrompt::default(),
            rollouts: group.rollouts.clone(),
        };
        let lessons = self.learning.iter().flat_map(Learning::lessons).map(|lesson| &lesson.group);
        let record_round = |round: &Round| RoundRecord {
            questions: round.questions().iter().map(|question| (question.sample, question.rng_key.prompt)).collect(),
            done: round
                .done()
                .iter()
                .map(|groups| groups.as_ref().map(|groups| groups.iter().map(without_prompts).collect()))
                .collect(),
        };
        StepRecord {
            epoch: self.cursor.epoch,
            position: self.cursor.position,
            n_rounds: self.n_rounds,
            kept: self.kept.iter().chain(lessons).map(without_prompts).collect(),
            dropped: self.dropped.clone(),
            round: self.round.as_ref().map(record_round),
            learned: self.learning.as_ref().map(|learning| learning.learned().clone()).or(self.learned_before.clone()),
            seconds: self.seconds,
        }
    }

    /// Where the step stands.
    pub(crate) fn event(&self) -> StepEvent {
        match (&self.learning, &self.round) {
            (Some(learning), _) => {
                StepEvent::Learning { n_done: learning.n_done(), n_groups: learning.lessons().len() }
            }
            (None, Some(round)) => StepEvent::Sampling(round.progress()),
            (None, None) => StepEvent::Sampling(crate::rollout::RolloutProgress::default()),
        }
    }

    /// Forgets answers under way, because the sessions were used for something else.
    pub(crate) fn restart_answers(&mut self) {
        self.round.iter_mut().for_each(Round::restart_running);
    }

    /// Gives back the engine, which may be away for a gradient.
    pub(crate) fn abandon(&mut self, engine: &mut Option<Engine>) {
        self.learning.iter_mut().for_each(|learning| learning.abandon(engine));
    }

    /// Works until `deadline` and returns whether the step is complete.
    ///
    /// # Errors
    /// Those of images, prompts, generation, rewards and learning; what was finished stands.
    pub(crate) fn advance(
        &mut self,
        bench: &mut Bench<'_>,
        deadline: &Deadline,
        observer: &mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<bool> {
        loop {
            if deadline.is_cancelled() {
                return Ok(false);
            }
            if let Some(learning) = &mut self.learning {
                let n_groups = learning.lessons().len();
                return learning.advance(bench.engine, bench.before, deadline, &mut |n_done| {
                    observer(StepEvent::Learning { n_done, n_groups });
                });
            }
            if self.round.is_some() {
                if !self.sample(bench, deadline, observer)? {
                    return Ok(false);
                }
            } else if !self.draw(bench) && self.encode_next(bench)? {
                self.learn(bench)?;
            }
            if deadline.is_over() {
                return Ok(false);
            }
        }
    }

    /// [`StepRecord::n_parts`] of what is finished.
    pub(crate) fn n_parts(&self) -> usize {
        let in_round = self.round.iter().flat_map(|round| round.done().iter().flatten().flatten()).count();
        let learned = self.learning.as_ref().map(Learning::learned).or(self.learned_before.as_ref());
        let lessons = self.learning.as_ref().map_or(0, |learning| learning.lessons().len());
        self.kept.len() + self.dropped.len() + in_round + lessons + learned.map_or(0, |learned| learned.n_tasks)
    }

    /// Weights and optimizer that were updated, if any were.
    pub(crate) fn updated(&self) -> Option<&(Arc<LoraWeights>, Arc<AdamW>)> {
        self.learning.as_ref()?.learned().updated.as_ref()
    }

    /// The end of a complete step: lessons, dropped groups and what was learned.
    pub(crate) fn into_parts(self) -> Option<(Vec<Arc<Lesson>>, Vec<RolloutGroup>, Learned)> {
        let (lessons, learned) = self.learning?.into_parts();
        Some((lessons, self.dropped, learned))
    }

    /// Begins another round of rollouts in place of dropped groups; `false` if there is none to come.
    fn draw(&mut self, bench: &Bench<'_>) -> bool {
        let options = bench.options;
        let n_missing = options.prompts_per_step - self.kept.len();
        if n_missing == 0 || self.n_rounds == options.filter.map_or(1, |filter| filter.max_rounds) {
            return false;
        }
        let questions = (0..n_missing).map(|_| {
            let (sample, prompt) = self.cursor.draw(bench.order);
            question(options, bench.step, sample, prompt)
        });
        self.round = Some(round(questions.collect(), options));
        self.n_rounds += 1;
        true
    }

    /// Rollouts of the round; when they are complete, sorts out the groups that teach nothing.
    fn sample(
        &mut self,
        bench: &mut Bench<'_>,
        deadline: &Deadline,
        observer: &mut (dyn FnMut(StepEvent) + Send),
    ) -> Result<bool> {
        let options = &**bench.options;
        let sampler =
            SamplerOptions { temperature: options.temperature, top_p: options.top_p, ..SamplerOptions::default() };
        let rules = RolloutRules {
            sampler: &sampler,
            max_new_tokens: options.max_new_tokens,
            suffix: &options.suffix,
            reward: bench.reward,
            composition: &options.reward,
        };
        let Some(round) = &mut self.round else { return Ok(true) };
        let samples = bench.order.dataset.samples();
        let is_done = round.advance(bench.sessions, samples, &rules, deadline, &mut |progress| {
            observer(StepEvent::Sampling(progress));
        })?;
        if !is_done {
            return Ok(false);
        }
        for group in self.round.take().into_iter().flat_map(Round::into_groups) {
            if options.filter.is_none_or(|filter| filter.keeps(group.mean_accuracy())) {
                self.kept.push(group);
            } else {
                // Only its numbers are wanted; image embeddings are large.
                self.dropped.push(RolloutGroup { prompt: EncodedPrompt::default(), ..group });
            }
        }
        Ok(true)
    }

    /// Encodes one prompt that a checkpoint left out, and returns whether none is left.
    fn encode_next(&mut self, bench: &Bench<'_>) -> Result<bool> {
        let Some(group) = self.kept.iter_mut().find(|group| group.prompt.segments.is_empty()) else { return Ok(true) };
        let Some(session) = bench.sessions.first() else { return Ok(true) };
        let sample = &bench.order.dataset.samples()[group.sample];
        group.prompt = encode(session.model(), sample, &bench.options.suffix)?;
        Ok(false)
    }

    /// Turns the groups into lessons.
    fn learn(&mut self, bench: &Bench<'_>) -> Result<()> {
        let samples = bench.order.dataset.samples();
        let scored: Vec<_> = self
            .kept
            .iter()
            .enumerate()
            .flat_map(|(index, group)| {
                let task = samples[group.sample].advantage_task();
                group.rollouts.iter().map(move |rollout| Scored { reward: rollout.reward, group: index, task })
            })
            .collect();
        let advantages = advantages(bench.options.estimator, &scored)?;
        let advantages = advantages.chunks(bench.options.group_size);
        let lessons = self.kept.drain(..).zip(advantages).map(|(group, advantages)| {
            let task = samples[group.sample].task_type;
            Lesson { group, task, advantages: advantages.to_vec() }
        });
        let learning = Learning::new(lessons.collect(), bench.options, bench.n_skipped_in_a_row);
        self.learning = Some(match self.learned_before.take() {
            Some(learned) => learning.with_learned(learned),
            None => learning,
        });
        Ok(())
    }
}

fn question(options: &TrainerOptions, step: u64, sample: usize, prompt: u64) -> Question {
    Question { sample, rng_key: RngKey { seed: options.seed, step, prompt } }
}

/// Portions as large as the sequences of a session allow, but one for each session at least.
fn round(questions: Vec<Question>, options: &TrainerOptions) -> Round {
    let fitting = options.n_sequences / options.group_size;
    let n_portion = fitting.min(questions.len().div_ceil(options.n_sessions)).max(1);
    Round::new(questions, options.group_size, n_portion)
}
