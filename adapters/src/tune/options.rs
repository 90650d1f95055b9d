//! What supervised training can be told.

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{
    data::DEFAULT_SUFFIX,
    engine::PrefixCacheOptions,
    lora::LoraConfig,
    loss::Average,
    optim::{AdamWOptions, Decay, Schedule},
    options::MAX_TOKENS,
};

/// What the adapter learns of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TuneObjective {
    /// Its tokens: the mean negative log-likelihood (supervised fine-tuning). The default.
    #[default]
    Likelihood,
    /// What a teacher thinks at each of its tokens: the mean of KL(teacher || student).
    Distillation {
        /// Divides the logits of both; finite and above 0. 1 compares what the models really say.
        temperature: f32,
    },
}

/// Where responses come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Responses {
    /// The data set: [`crate::data::Sample::target`]. The default.
    #[default]
    Given,
    /// The teacher answers greedily. Only with a teacher.
    Teacher,
}

/// How a model is tuned on responses. Part of every checkpoint: a run goes on only with the options that it began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuneOptions {
    /// Seed of the adapter's initialisation and of the order of the data. Default 0.
    pub seed: u64,
    /// Steps of the run; the learning rate schedule ends there. Default 100.
    pub n_steps: u64,
    /// Samples of a step, at least 1. Default 8. Their gradients are added up before the update; memory holds one sample.
    pub batch_size: usize,
    /// Longest response in tokens, 1..=2^24. Default 512. Given ones that are longer are refused before the
    /// first step, a teacher's are cut.
    pub max_response_tokens: usize,
    /// Longest prompt in tokens, images included, 1..=2^24. Default 1024. Longer ones are refused before the first step.
    pub max_prompt_tokens: usize,
    /// What is written behind every question. Default: that of [`crate::options::TrainerOptions`].
    pub suffix: String,
    /// What is learned.
    pub objective: TuneObjective,
    /// From what.
    pub responses: Responses,
    /// What the loss is the mean of. Default tokens.
    pub average: Average,
    /// The adapter's shape.
    pub lora: LoraConfig,
    /// The optimizer.
    pub optimizer: AdamWOptions,
    /// The learning rate.
    pub schedule: Schedule,
    /// Updates in a row that may be skipped because loss or gradients are not finite, before the run ends as diverged; at
    /// least 1. Default 10.
    pub max_skipped_updates: u64,
    /// Threads; 0: one per core. The same number gives the same bits.
    pub n_threads: usize,
    /// How the engine keeps what activated adapters leave to the base. Changes no bits, so it is not part of a checkpoint.
    #[serde(skip)]
    pub prefix_cache: PrefixCacheOptions,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            n_steps: 100,
            batch_size: 8,
            max_response_tokens: 512,
            max_prompt_tokens: 1024,
            suffix: DEFAULT_SUFFIX.to_owned(),
            objective: TuneObjective::default(),
            responses: Responses::default(),
            average: Average::default(),
            lora: LoraConfig::default(),
            optimizer: AdamWOptions::default(),
            schedule: Schedule::default(),
            max_skipped_updates: 10,
            n_threads: 0,
            prefix_cache: PrefixCacheOptions::default(),
        }
    }
}

impl TuneOptions {
    /// The options that change the bits of the result. A resumed run may have others of the rest: limits that nothing is
    /// cut to, another `max_skipped_updates`, and another `n_steps` where the learning rate does not depend on it.
    pub(super) fn identity(&self) -> serde_json::Value {
        let mut options = serde_json::to_value(self).expect("numbers and names are always JSON");
        let free = [
            ("max_prompt_tokens", true),
            ("max_response_tokens", self.responses == Responses::Given),
            ("max_skipped_updates", true),
            ("n_steps", self.schedule.decay == Decay::Constant),
        ];
        if let Some(options) = options.as_object_mut() {
            free.iter().filter(|(_, is_free)| *is_free).for_each(|(name, _)| drop(options.shift_remove(*name)));
        }
        options
    }

    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the first option that is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let out_of_range = |name: &str| Error::new(ErrorKind::InvalidInput, "training option out of range").at(name);
        for (name, got, high) in [
            ("batch_size", self.batch_size, usize::MAX),
            ("max_response_tokens", self.max_response_tokens, MAX_TOKENS),
            ("max_prompt_tokens", self.max_prompt_tokens, MAX_TOKENS),
            ("max_skipped_updates", usize::from(self.max_skipped_updates > 0), usize::MAX),
        ] {
            if !(1..=high).contains(&got) {
                let needed = if high == usize::MAX { "at least 1".to_owned() } else { format!("1..={high}") };
                return Err(out_of_range(name).got(got).needed(needed));
            }
        }
        if let TuneObjective::Distillation { temperature } = self.objective
            && !(temperature.is_finite() && temperature > 0.0)
        {
            return Err(out_of_range("temperature").got(temperature).needed("finite, above 0"));
        }
        if self.average == (Average::Fixed { n_tokens: 0 }) {
            return Err(out_of_range("average.n_tokens").got(0).needed("at least 1"));
        }
        self.lora.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()
    }
}
