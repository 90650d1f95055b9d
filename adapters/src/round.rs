//! A round of rollouts: questions in portions, each of which fills one session, in slices.
//!
//! A portion is answered from empty sequences to its last token, and nothing else runs in its session meanwhile. Which
//! session it was, what ran before it, and where it rested are of no consequence for its bits; so a run that is killed
//! loses unfinished portions only, and draws them again with the same random numbers.

use std::{
    ops::ControlFlow,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use owlet_runtime::{
    AnswerOptions, CancelToken, Deadline, EncodedPrompt, Error, ErrorKind, GenerateRequest, Generated, Generation,
    Result, RngKey, Session,
};

use crate::{
    data::Sample,
    rollout::{Rollout, RolloutGroup, RolloutProgress, RolloutRules, encode, score},
};

/// One sample to be asked, with the key of its random numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) sample: usize,
    pub(crate) rng_key: RngKey,
}

/// Questions that are being answered.
pub(crate) struct Round {
    questions: Vec<Question>,
    /// Answers to each question.
    n: usize,
    /// Questions of a portion; the last may have fewer.
    n_portion: usize,
    /// By portion, its groups once all of them are scored.
    done: Vec<Option<Vec<RolloutGroup>>>,
    /// By session, the portion that it is at.
    running: Vec<Option<Portion>>,
}

/// A portion under way.
struct Portion {
    index: usize,
    /// Of its first questions.
    prompts: Vec<EncodedPrompt>,
    /// Once all prompts are encoded.
    generation: Option<Generation>,
    /// By question, once all have ended, until all are scored.
    answers: Option<Vec<Vec<Generated>>>,
    /// Answers that have ended.
    n_done: usize,
    n_tokens: usize,
}

/// What the threads of a slice share.
struct Shared<'a> {
    /// Portions that nobody has begun.
    waiting: std::vec::IntoIter<usize>,
    done: &'a mut [Option<Vec<RolloutGroup>>],
    progress: RolloutProgress,
    observer: &'a mut (dyn FnMut(RolloutProgress) + Send),
}

/// What the threads of a slice read.
struct Work<'a> {
    questions: &'a [Question],
    n: usize,
    n_portion: usize,
    samples: &'a [Sample],
    rules: &'a RolloutRules<'a>,
    deadline: &'a Deadline,
}

impl Round {
    /// `n` answers to each of `questions`, `n_portion` (at least 1) of them at a time in each session.
    pub(crate) fn new(questions: Vec<Question>, n: usize, n_portion: usize) -> Self {
        let n_portions = questions.len().div_ceil(n_portion);
        Self { questions, n, n_portion, done: vec![None; n_portions], running: Vec::new() }
    }

    /// Puts back what [`Round::done`] gave.
    pub(crate) fn with_done(mut self, done: Vec<Option<Vec<RolloutGroup>>>) -> Self {
        self.done = done;
        self
    }

    /// The groups of every portion that is complete.
    pub(crate) fn done(&self) -> &[Option<Vec<RolloutGroup>>] {
        &self.done
    }

    pub(crate) fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// All groups in the order of the questions; of use once the round is complete.
    pub(crate) fn into_groups(self) -> impl Iterator<Item = RolloutGroup> {
        self.done.into_iter().flatten().flatten()
    }

    /// Forgets unfinished portions, because their sessions were used for something else.
    pub(crate) fn restart_running(&mut self) {
        self.running.clear();
    }

    pub(crate) fn progress(&self) -> RolloutProgress {
        let rollouts = || self.done.iter().flatten().flatten().flat_map(|group| &group.rollouts);
        let running = || self.running.iter().flatten();
        RolloutProgress {
            n_done: rollouts().count() + running().map(|portion| portion.n_done).sum::<usize>(),
            n_responses: self.questions.len() * self.n,
            n_tokens: rollouts().map(|rollout| rollout.tokens.len()).sum::<usize>()
                + running().map(|portion| portion.n_tokens).sum::<usize>(),
        }
    }

    /// Works until `deadline`, in all sessions side by side, and returns whether the round is complete. A slice ends within
    /// a picture's encoding, a prompt's computation or one decode call.
    ///
    /// # Errors
    /// Those of images, prompts, generation and rewards; the portion that failed then starts again, or is scored again
    /// where its answers had ended, and others keep what they have.
    pub(crate) fn advance(
        &mut self,
        sessions: &mut [Session],
        samples: &[Sample],
        rules: &RolloutRules<'_>,
        deadline: &Deadline,
        observer: &mut (dyn FnMut(RolloutProgress) + Send),
    ) -> Result<bool> {
        self.running.resize_with(sessions.len(), || None);
        let progress = self.progress();
        let is_running = |index: &usize| self.running.iter().flatten().any(|portion| portion.index == *index);
        let waiting: Vec<_> =
            (0..self.done.len()).filter(|index| self.done[*index].is_none() && !is_running(index)).collect();
        let shared = Mutex::new(Shared { waiting: waiting.into_iter(), done: &mut self.done, progress, observer });
        let Self { n, n_portion, .. } = *self;
        let work = Work { questions: &self.questions, n, n_portion, samples, rules, deadline };
        let results: Vec<_> = thread::scope(|scope| {
            let places = sessions.iter_mut().zip(&mut self.running);
            let threads: Vec<_> =
                places.map(|(session, place)| scope.spawn(|| work.in_session(session, place, &shared))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for result in results {
            result.map_err(|_| Error::new(ErrorKind::Internal, "a sampling thread panicked"))??;
        }
        Ok(self.done.iter().all(Option::is_some))
    }
}

impl Work<'_> {
    /// Works in one session until the deadline or the last portion. `place` keeps the portion from slice to slice: its keys
    /// and values are in this very session.
    fn in_session(&self, session: &mut Session, place: &mut Option<Portion>, shared: &Mutex<Shared<'_>>) -> Result<()> {
        session.set_cancel(self.deadline.cancel().clone());
        let result = self.until_deadline(session, place, shared);
        // A token that is cancelled later must not stop the session's next call.
        session.set_cancel(CancelToken::new());
        result
    }

    fn until_deadline(
        &self,
        session: &mut Session,
        place: &mut Option<Portion>,
        shared: &Mutex<Shared<'_>>,
    ) -> Result<()> {
        while !self.deadline.is_cancelled() {
            let mut portion = match place.take() {
                Some(portion) => portion,
                None => match lock(shared).waiting.next() {
                    Some(index) => Portion::new(index),
                    None => return Ok(()),
                },
            };
            match self.advance(&mut portion, session, shared) {
                Ok(Some(groups)) => lock(shared).done[portion.index] = Some(groups),
                Ok(None) => *place = Some(portion),
                Err(error) => {
                    // A reward may give this kind too, and would be asked for ever.
                    let is_cancelled = error.kind() == ErrorKind::Cancelled && self.deadline.is_cancelled();
                    // The unit is undone, the rest stands.
                    if is_cancelled || portion.answers.is_some() {
                        *place = Some(portion);
                    }
                    if !is_cancelled {
                        return Err(error);
                    }
                }
            }
            if self.deadline.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// One unit: a prompt is encoded, a prompt is computed, all running answers get a token, or all are scored.
    fn advance(
        &self,
        portion: &mut Portion,
        session: &mut Session,
        shared: &Mutex<Shared<'_>>,
    ) -> Result<Option<Vec<RolloutGroup>>> {
        let first = portion.index * self.n_portion;
        let questions = &self.questions[first..(first + self.n_portion).min(self.questions.len())];
        let sample = |question: &Question| &self.samples[question.sample];
        // Generation knows requests, not samples.
        let placed = |error: Error| match questions {
            [] => error,
            [only] => error.at(sample(only).named_place()),
            [first, .., last] => error.at(format!("{} to {}", sample(first).named_place(), sample(last).named_place())),
        };
        if let Some(question) = questions.get(portion.prompts.len()) {
            portion.prompts.push(encode(session.model(), sample(question), self.rules.suffix)?);
            return Ok(None);
        }
        if portion.answers.is_some() {
            return self.score(portion, session, questions).map(Some);
        }
        let Portion { prompts, generation, n_done, n_tokens, .. } = portion;
        let generation = match generation {
            Some(generation) => generation,
            None => {
                let requests: Vec<_> = prompts
                    .iter()
                    .zip(questions)
                    .map(|(prompt, question)| GenerateRequest { prompt, n: self.n, rng_key: question.rng_key })
                    .collect();
                let RolloutRules { sampler, max_new_tokens, .. } = *self.rules;
                let options = AnswerOptions { sampler: sampler.clone(), max_new_tokens, ..AnswerOptions::default() };
                generation.insert(Generation::new(session, &requests, &options).map_err(placed)?)
            }
        };
        let is_done = generation.advance(session, &mut |event| {
            let ended = usize::from(event.stop.is_some());
            (*n_tokens, *n_done) = (*n_tokens + 1, *n_done + ended);
            let Shared { progress, observer, .. } = &mut *lock(shared);
            (progress.n_tokens, progress.n_done) = (progress.n_tokens + 1, progress.n_done + ended);
            observer(*progress);
            ControlFlow::Continue(())
        });
        let is_done = is_done.map_err(placed)?;
        if !is_done {
            return Ok(None);
        }
        portion.answers = portion.generation.take().map(Generation::into_answers);
        self.score(portion, session, questions).map(Some)
    }

    /// The groups of a portion whose answers have ended. Where a reward fails, the portion stays as it is.
    fn score(&self, portion: &mut Portion, session: &Session, questions: &[Question]) -> Result<Vec<RolloutGroup>> {
        let answers = portion.answers.as_deref().unwrap_or_default();
        let scored = questions.iter().zip(answers).map(|(question, answers)| {
            let sample = &self.samples[question.sample];
            answers.iter().map(|answer| score(session.model(), self.rules, answer, sample)).collect()
        });
        let scored = scored.collect::<Result<Vec<Vec<Rollout>>>>()?;
        let groups = questions.iter().zip(portion.prompts.drain(..)).zip(scored);
        let group = |((question, prompt), rollouts): ((&Question, _), _)| RolloutGroup {
            sample: question.sample,
            prompt,
            rollouts,
        };
        Ok(groups.map(group).collect())
    }
}

impl Portion {
    fn new(index: usize) -> Self {
        Self { index, prompts: Vec::new(), generation: None, answers: None, n_done: 0, n_tokens: 0 }
    }
}

fn lock<'a, 'b>(shared: &'a Mutex<Shared<'b>>) -> MutexGuard<'a, Shared<'b>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
