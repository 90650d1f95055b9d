//! Rollouts: samples of a data set to groups of scored responses.
//!
//! After `data`, before `advantage`. Each prompt is encoded and computed once, with its images, and forked G ways; `round`
//! drives the sessions.

use owlet_runtime::{
    EncodedPrompt, Error, ErrorKind, Generated, Model, Prompt, Result, SamplerOptions, StopReason, TokenId,
};
use serde::{Deserialize, Serialize};

use crate::{
    data::Sample,
    picture::Picture,
    reward::{Composition, Reward, RewardParts},
};

/// A response and what it earned. Token slices have one entry for each sampled token, the end token included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutGroup {
    /// Index of the sample in its data set.
    pub sample: usize,
    /// The prompt as the decoder takes it; empty once it is no longer needed.
    #[serde(skip)]
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

/// How far a set of rollouts is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutProgress {
    /// Responses that have ended.
    pub n_done: usize,
    /// Responses in all.
    pub n_responses: usize,
    /// Tokens sampled so far.
    pub n_tokens: usize,
}

/// A sample as the decoder takes it: images read and encoded, chat template applied.
///
/// # Errors
/// Those of images and prompts, at the sample's place.
pub(crate) fn encode(model: &Model, sample: &Sample, suffix: &str) -> Result<EncodedPrompt> {
    let encode = || {
        let images = sample.images.iter().map(Picture::open).collect::<Result<Vec<_>>>()?;
        model.encode(&Prompt::user(&sample.prompt_text(suffix), images)?)
    };
    encode().map_err(|error| error.at(sample.named_place()))
}

/// A response with its reward.
///
/// # Errors
/// At the sample's place: those of the reward; `InvalidInput` if it is not finite.
pub(crate) fn score(model: &Model, rules: &RolloutRules<'_>, answer: &Generated, sample: &Sample) -> Result<Rollout> {
    let ended = answer.stop == StopReason::EndOfAnswer;
    let n_text = answer.tokens.len() - usize::from(ended);
    let text = model.detokenize(&answer.tokens[..n_text]);
    let parts = rules.reward.score(&text, sample).map_err(|error| error.at(sample.named_place()))?;
    let reward = rules.composition.overall(&parts, sample.task_type, answer.tokens.len());
    if ![parts.accuracy, parts.format, parts.structure, reward].iter().all(|part| part.is_finite()) {
        let error = Error::new(ErrorKind::InvalidInput, "bad reward").at(sample.named_place());
        return Err(error.got(format!("{parts:?}, {reward} together")).needed("finite numbers"));
    }
    let (tokens, sampler_logprobs) = (answer.tokens.clone(), answer.logprobs.clone());
    Ok(Rollout { tokens, sampler_logprobs, text, truncated: !ended, parts, reward })
}
