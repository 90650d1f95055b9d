//! Rollouts: samples of a data set to groups of scored responses.
//!
//! After `data`, before `advantage`. Each prompt is encoded and computed once, with its images, and forked G ways.

use std::{ops::ControlFlow, sync::Mutex};

use owlet_runtime::{
    CancelToken, EncodedPrompt, Error, ErrorKind, GenerateRequest, Generated, Image, Model, Prompt, Result, RngKey,
    SamplerOptions, Session, StopReason, TokenId, generate_parallel,
};

use crate::{
    data::Sample,
    reward::{Composition, Reward, RewardParts},
};

/// A response and what it earned. Token slices have one entry for each sampled token, the end token included.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The sampled tokens.
    pub tokens: Vec<TokenId>,
    /// Natural log-probabilities that the sampler saw. The loss takes the engine's own instead; the difference is reported.
    pub sampler_logprobs: Vec<f32>,
    /// The text that was scored: without the end token.
    pub text: String,
    /// Whether it was cut off before its end.
    pub truncated: bool,
    /// Parts of its reward.
    pub parts: RewardParts,
    /// Its reward.
    pub reward: f64,
}

/// All responses to one prompt.
#[derive(Clone, Debug)]
pub struct RolloutGroup {
    /// Index of the sample in its data set.
    pub sample: usize,
    /// The prompt as the decoder takes it.
    pub prompt: EncodedPrompt,
    /// The responses.
    pub rollouts: Vec<Rollout>,
}

impl RolloutGroup {
    /// Mean accuracy of the responses, 0..=1.
    pub fn mean_accuracy(&self) -> f64 {
        self.rollouts.iter().map(|rollout| rollout.parts.accuracy).sum::<f64>() / self.rollouts.len().max(1) as f64
    }
}

/// How responses are drawn and scored.
pub(crate) struct RolloutRules<'a> {
    pub(crate) sampler: &'a SamplerOptions,
    pub(crate) max_new_tokens: usize,
    pub(crate) suffix: &'a str,
    pub(crate) reward: &'a dyn Reward,
    pub(crate) composition: &'a Composition,
}

/// One prompt to be answered: the sample's index, the sample, the key of its random numbers.
pub(crate) type Question<'a> = (usize, &'a Sample, RngKey);

/// Asks every question `n` times and scores the responses. `on_token` gets the number of tokens of each response so far
/// finished and of all together.
pub(crate) fn roll_out(
    sessions: &mut [Session],
    questions: &[Question<'_>],
    n: usize,
    rules: &RolloutRules<'_>,
    cancel: &CancelToken,
    on_token: &mut (dyn FnMut(RolloutProgress) + Send),
) -> Result<Vec<RolloutGroup>> {
    let Some(session) = sessions.first() else {
        return Err(Error::new(ErrorKind::Internal, "no session to sample with"));
    };
    let model = session.model().clone();
    let prompts = questions
        .iter()
        .map(|(_, sample, _)| {
            cancel.check()?;
            encode(&model, sample, rules.suffix)
                .map_err(|error| error.at(if sample.place.is_empty() { &sample.id } else { &sample.place }))
        })
        .collect::<Result<Vec<_>>>()?;
    let requests: Vec<_> = prompts
        .iter()
        .zip(questions)
        .map(|(prompt, &(_, _, rng_key))| GenerateRequest { prompt, n, rng_key })
        .collect();
    let progress = RolloutProgress { n_done: 0, n_responses: questions.len() * n, n_tokens: 0 };
    let listener = Mutex::new((progress, on_token));
    let answers = generate_parallel(sessions, &requests, rules.sampler, rules.max_new_tokens, cancel, &|event| {
        if let Ok((progress, on_token)) = listener.lock().as_deref_mut() {
            progress.n_tokens += 1;
            progress.n_done += usize::from(event.stop.is_some());
            on_token(*progress);
        }
        ControlFlow::Continue(())
    })?;
    let score = |answer: Generated, sample: &Sample| score(&model, rules, answer, sample);
    Ok(questions
        .iter()
        .zip(prompts)
        .zip(answers)
        .map(|((&(index, sample, _), prompt), answers)| {
            let rollouts = answers.into_iter().map(|answer| score(answer, sample)).collect();
            RolloutGroup { sample: index, prompt, rollouts }
        })
        .collect())
}

/// How far a set of rollouts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutProgress {
    /// Responses that have ended.
    pub n_done: usize,
    /// Responses in all.
    pub n_responses: usize,
    /// Tokens sampled so far.
    pub n_tokens: usize,
}

/// A sample as the decoder takes it: images read and encoded, chat template applied.
pub(crate) fn encode(model: &Model, sample: &Sample, suffix: &str) -> Result<EncodedPrompt> {
    let images = sample.images.iter().map(Image::open).collect::<Result<Vec<_>>>()?;
    model.encode(&Prompt::user(&sample.prompt_text(suffix), images)?)
}

fn score(model: &Model, rules: &RolloutRules<'_>, answer: Generated, sample: &Sample) -> Rollout {
    let ended = answer.stop == StopReason::EndOfAnswer;
    let n_text = answer.tokens.len() - usize::from(ended);
    let text = model.detokenize(&answer.tokens[..n_text]);
    let parts = rules.reward.score(&text, sample);
    let reward = rules.composition.overall(&parts, sample.task_type, answer.tokens.len());
    Rollout { tokens: answer.tokens, sampler_logprobs: answer.logprobs, text, truncated: !ended, parts, reward }
}
