//! Everything that a training run can be told, with defaults of the reference (arXiv 2604.08539 and its released code)
//! where it has them.

use owlet_runtime::{Error, ErrorKind, FlashAttention, KvType, Result, SessionOptions};
use serde::{Deserialize, Serialize};

use crate::{
    advantage::Estimator,
    data::DEFAULT_SUFFIX,
    engine::PrefixCacheOptions,
    entropy::EntropyBand,
    lora::LoraConfig,
    loss::LossOptions,
    optim::{AdamWOptions, Decay, Schedule},
    reward::Composition,
};

/// Most tokens of a prompt, and of a response: more than any model is trained for, and few enough to compute with.
pub(crate) const MAX_TOKENS: usize = 1 << 24;

/// Which groups teach something: those whose mean accuracy lies strictly inside the bounds. A group that is all right or
/// all wrong has no advantages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupFilter {
    /// Mean accuracy must be above this. Default 0.01.
    pub low: f64,
    /// Mean accuracy must be below this. Default 0.99.
    pub high: f64,
    /// Rounds of drawing new prompts in place of dropped ones before a step makes do with fewer; at least 1. Default 3;
    /// the reference tries 20 times, which on one device may cost more than a smaller step.
    pub max_rounds: usize,
}

impl Default for GroupFilter {
    fn default() -> Self {
        Self { low: 0.01, high: 0.99, max_rounds: 3 }
    }
}

impl GroupFilter {
    /// Whether a group of this mean accuracy is trained on.
    pub fn keeps(&self, mean_accuracy: f64) -> bool {
        self.low < mean_accuracy && mean_accuracy < self.high
    }
}

/// How a model is trained. Part of every checkpoint: a run goes on only with the options that it began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainerOptions {
    /// Seed of the adapter's initialisation, the order of the data and all sampling. Default 0.
    pub seed: u64,
    /// Steps of the run; the learning rate schedule ends there. Default 100.
    pub n_steps: u64,
    /// Groups of a step, at least 1. Default 8.
    pub prompts_per_step: usize,
    /// Rollouts of a group, 2..=256. Default 8, as in the reference.
    pub group_size: usize,
    /// Optimizer updates of a step, each over an equal share of its groups; at least 1. Default 1. With more than one,
    /// later updates are off-policy and the clips act; the reference has 4, for 512 groups.
    pub updates_per_step: usize,
    /// Longest response in tokens, 1..=2^24. Default 512.
    pub max_new_tokens: usize,
    /// Longest prompt in tokens, images included, 1..=2^24; a longer one is refused before the first step. Default 1024. Together with `max_new_tokens` the size of a sequence.
    pub max_prompt_tokens: usize,
    /// Whether the sample with the longest prompt comes first in the run: what takes too much memory then fails in the first
    /// step. Default yes; the other samples stay in their order.
    pub largest_first: bool,
    /// Sessions that sample side by side, 1..=`n_threads`, sharing the threads evenly. Default 1. A small model is sampled
    /// fastest by one session a thread: its operations are too short to be shared. A large one by a single session, which
    /// reads the weights once for all sequences.
    pub n_sessions: usize,
    /// Sequences that each session decodes at a time, 1..=256. Default 16. K/V memory grows with it; so does the speed.
    pub n_sequences: usize,
    /// Whether the sampler keeps keys and values in F32 and does without fused attention. Default no. It takes twice the
    /// K/V memory; the log-prob gap shrinks, and on CPUs small models are faster.
    pub precise_kv: bool,
    /// Temperature of the rollouts and of the loss, finite and above 0. Default 1.
    pub temperature: f32,
    /// Nucleus of the rollouts, above 0, at most 1. Default 1. Below 1 the loss still sees the whole distribution.
    pub top_p: f32,
    /// What is written behind every question. Default: think first, then answer, in tags.
    pub suffix: String,
    /// Rewards to advantages. Default G2RPO.
    pub estimator: Estimator,
    /// Advantages to the loss.
    pub loss: LossOptions,
    /// Entropy shaping. Default none, as released. Costs one more forward pass.
    pub entropy_band: Option<EntropyBand>,
    /// Reward for the entropy of the token distributions in nats, averaged as the loss is; finite and not negative. Default 0.
    /// Unlike the band, which acts through the sampled tokens, it is differentiated exactly, through all of the vocabulary.
    pub entropy_bonus: f64,
    /// Parts of the reward to one number; length shaping.
    pub reward: Composition,
    /// Online filtering. `None` trains on all groups.
    pub filter: Option<GroupFilter>,
    /// The adapter's shape.
    pub lora: LoraConfig,
    /// The optimizer.
    pub optimizer: AdamWOptions,
    /// The learning rate.
    pub schedule: Schedule,
    /// Updates in a row that may be skipped because their gradients are not finite, before the run ends as diverged; at
    /// least 1. Default 10.
    pub max_skipped_updates: u64,
    /// Most anonymous memory of the run in bytes, at least 1; the engine's options are chosen to fit it. Default none: those
    /// of [`crate::engine::EngineOptions`]. Weights are mapped and not counted.
    pub memory_budget: Option<usize>,
    /// Threads of sampling and learning; 0: one per core. The same number gives the same bits.
    pub n_threads: usize,
    /// How the engine keeps what activated adapters leave to the base. Changes no bits, so it is not part of a checkpoint.
    #[serde(skip)]
    pub prefix_cache: PrefixCacheOptions,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            n_steps: 100,
            prompts_per_step: 8,
            group_size: 8,
            updates_per_step: 1,
            max_new_tokens: 512,
            max_prompt_tokens: 1024,
            largest_first: true,
            n_sessions: 1,
            n_sequences: 16,
            precise_kv: false,
            temperature: 1.0,
            top_p: 1.0,
            suffix: DEFAULT_SUFFIX.to_owned(),
            estimator: Estimator::default(),
            loss: LossOptions::default(),
            entropy_band: None,
            entropy_bonus: 0.0,
            reward: Composition::default(),
            filter: Some(GroupFilter::default()),
            lora: LoraConfig::default(),
            optimizer: AdamWOptions::default(),
            schedule: Schedule::default(),
            max_skipped_updates: 10,
            memory_budget: None,
            n_threads: 0,
            prefix_cache: PrefixCacheOptions::default(),
        }
    }
}

impl TrainerOptions {
    /// `wanted` threads, or one per core for 0.
    pub fn resolved_threads(wanted: usize) -> usize {
        if wanted > 0 { wanted } else { std::thread::available_parallelism().map_or(1, |n| n.get()) }
    }

    /// Those of each session that samples or is asked.
    pub(crate) fn session_options(&self) -> SessionOptions {
        let plain = SessionOptions {
            n_ctx: self.max_prompt_tokens + self.max_new_tokens,
            n_seq: self.n_sequences,
            n_threads: Self::resolved_threads(self.n_threads) / self.n_sessions,
            ..SessionOptions::default()
        };
        if self.precise_kv {
            SessionOptions { kv_type: KvType::F32, flash_attention: FlashAttention::Off, ..plain }
        } else {
            plain
        }
    }

    /// The options that change the bits of the result. A resumed run may have others of the rest: a larger
    /// `max_prompt_tokens` (prompts are never cut), another `max_skipped_updates`, and another `n_steps` where the learning
    /// rate does not depend on it.
    pub(crate) fn identity(&self) -> serde_json::Value {
        let mut options = serde_json::to_value(self).expect("numbers and names are always JSON");
        if let Some(options) = options.as_object_mut() {
            let free: &[&str] = match self.schedule.decay {
                Decay::Constant => &["max_prompt_tokens", "max_skipped_updates", "n_steps"],
                Decay::Linear | Decay::Cosine => &["max_prompt_tokens", "max_skipped_updates"],
            };
            free.iter().for_each(|name| drop(options.shift_remove(*name)));
        }
        options
    }

    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the first option that is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("prompts_per_step", self.prompts_per_step, 1, usize::MAX),
            ("group_size", self.group_size, 2, 256),
            ("updates_per_step", self.updates_per_step, 1, self.prompts_per_step),
            ("max_new_tokens", self.max_new_tokens, 1, MAX_TOKENS),
            ("max_prompt_tokens", self.max_prompt_tokens, 1, MAX_TOKENS),
            ("n_sessions", self.n_sessions, 1, Self::resolved_threads(self.n_threads)),
            ("n_sequences", self.n_sequences, 1, 256),
            ("max_skipped_updates", usize::from(self.max_skipped_updates > 0), 1, usize::MAX),
            ("filter.max_rounds", self.filter.map_or(1, |filter| filter.max_rounds), 1, usize::MAX),
        ];
        for (name, got, low, high) in counts {
            if !(low..=high).contains(&got) {
                let needed = if high == usize::MAX { format!("at least {low}") } else { format!("{low}..={high}") };
                return Err(out_of_range(name).got(got).needed(needed));
            }
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(out_of_range("temperature").got(self.temperature).needed("finite, above 0"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(out_of_range("top_p").got(self.top_p).needed("above 0, at most 1"));
        }
        if !(0.0..f64::INFINITY).contains(&self.entropy_bonus) {
            return Err(out_of_range("entropy_bonus").got(self.entropy_bonus).needed("finite, not negative"));
        }
        self.loss.validate()?;
        self.entropy_band.as_ref().map_or(Ok(()), EntropyBand::validate)?;
        self.reward.validate()?;
        self.lora.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()
    }
}

fn out_of_range(name: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "training option out of range").at(name)
}
