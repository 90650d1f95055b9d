//! How an adapter is trained.

use std::time::Duration;

use owlet_adapters::{
    lora::{LoraConfig, LoraMode, Target as LoraTarget},
    method,
    optim::Schedule,
    options::{GroupFilter, TrainerOptions},
    run::CheckpointPace,
};

use crate::{error::Result, session::bytes};

/// How an adapter is trained. Nothing given means the default.
#[derive(Clone, Debug, Default, PartialEq, uniffi::Record)]
pub struct AdaptOptions {
    /// Steps of the run; default 100.
    #[uniffi(default)]
    pub n_steps: Option<u64>,
    /// Questions of a step; default 8.
    #[uniffi(default)]
    pub prompts_per_step: Option<u32>,
    /// Answers to each question, 2 to 256; default 8.
    #[uniffi(default)]
    pub group_size: Option<u32>,
    /// Updates of a step, each over an equal share of its questions; default 1.
    #[uniffi(default)]
    pub updates_per_step: Option<u32>,
    /// Longest answer in tokens; default 512.
    #[uniffi(default)]
    pub max_new_tokens: Option<u32>,
    /// Longest question in tokens, pictures included; default 1024.
    #[uniffi(default)]
    pub max_prompt_tokens: Option<u32>,
    /// Published method; default G2RPO.
    #[uniffi(default)]
    pub method: Option<Method>,
    /// Learning rate after the warm-up; default 1e-4.
    #[uniffi(default)]
    pub learning_rate: Option<f64>,
    /// Steps over which the learning rate rises; default 0.
    #[uniffi(default)]
    pub warmup_steps: u64,
    /// Rank of the adapter, 1 to 256; default 16. Memory grows with it.
    #[uniffi(default)]
    pub rank: Option<u32>,
    /// Strength of the adapter; default 32.
    #[uniffi(default)]
    pub alpha: Option<f32>,
    /// The linear layers that are adapted; default, when empty: all seven.
    #[uniffi(default)]
    pub targets: Vec<Target>,
    /// Train an adapter that acts from the beginning of the answer on (activated LoRA): long questions are computed once.
    #[uniffi(default)]
    pub activated: bool,
    /// Temperature of the sampled answers, above 0; default 1.
    #[uniffi(default)]
    pub temperature: Option<f32>,
    /// What is written behind every question; default: think first, then answer, in tags.
    #[uniffi(default)]
    pub suffix: Option<String>,
    /// Train on questions too whose answers are all right or all wrong; default no.
    #[uniffi(default)]
    pub keep_all_groups: bool,
    /// Answers that a session writes at a time, 1 to 256; default 16. Memory grows with it, and so does the speed.
    #[uniffi(default)]
    pub n_sequences: Option<u32>,
    /// Sessions that sample side by side; default 1. A small model is sampled fastest by one a thread.
    #[uniffi(default)]
    pub n_sessions: Option<u32>,
    /// Most anonymous memory of the run in bytes; default: no limit. Slower where it is short.
    #[uniffi(default)]
    pub memory_budget_bytes: Option<u64>,
    /// Threads; default: one per core. The same number gives the same bits.
    #[uniffi(default)]
    pub n_threads: Option<u32>,
    /// Seed of everything that is random; default 0.
    #[uniffi(default)]
    pub seed: u64,
    /// A checkpoint after as many steps, at least 1; default 10.
    #[uniffi(default)]
    pub checkpoint_steps: Option<u64>,
    /// And after as many seconds, within steps too; default 60.
    #[uniffi(default)]
    pub checkpoint_seconds: Option<u64>,
}

/// A published method of policy optimization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Method {
    /// Gaussian GRPO in two stages (arXiv 2604.08539). The default.
    G2rpo,
    /// Gaussian GRPO in one stage.
    G2rpoGroup,
    /// Group relative policy optimization (arXiv 2402.03300).
    Grpo,
    /// GRPO done right (arXiv 2503.20783).
    DrGrpo,
    /// GRPO with a higher upper clip (arXiv 2503.14476).
    Dapo,
    /// Group sequence policy optimization (arXiv 2507.18071).
    Gspo,
    /// Clipped importance sampling weights (arXiv 2506.13585).
    Cispo,
    /// Soft adaptive policy optimization (arXiv 2511.20347).
    Sapo,
}

/// A linear layer of a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Target {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection.
    O,
    /// Gate of the feed-forward layer.
    Gate,
    /// Up projection of the feed-forward layer.
    Up,
    /// Down projection of the feed-forward layer.
    Down,
}

crate::mirror_enum!(Method => method::Method { G2rpo, G2rpoGroup, Grpo, DrGrpo, Dapo, Gspo, Cispo, Sapo });
crate::mirror_enum!(Target => LoraTarget { Q, K, V, O, Gate, Up, Down });

impl AdaptOptions {
    pub(crate) fn build(&self) -> Result<TrainerOptions> {
        let default = TrainerOptions::default();
        let n = |count: Option<u32>, default: usize| count.map_or(default, |count| count as usize);
        let max_new_tokens = n(self.max_new_tokens, default.max_new_tokens);
        let (estimator, loss) = self.method.map_or_else(method::Method::default, Into::into).parts(max_new_tokens);
        let options = TrainerOptions {
            seed: self.seed,
            n_steps: self.n_steps.unwrap_or(default.n_steps),
            prompts_per_step: n(self.prompts_per_step, default.prompts_per_step),
            group_size: n(self.group_size, default.group_size),
            updates_per_step: n(self.updates_per_step, default.updates_per_step),
            max_new_tokens,
            max_prompt_tokens: n(self.max_prompt_tokens, default.max_prompt_tokens),
            n_sessions: n(self.n_sessions, default.n_sessions),
            n_sequences: n(self.n_sequences, default.n_sequences),
            temperature: self.temperature.unwrap_or(default.temperature),
            suffix: self.suffix.clone().unwrap_or_else(|| default.suffix.clone()),
            estimator,
            loss,
            filter: if self.keep_all_groups { None } else { Some(GroupFilter::default()) },
            lora: self.lora(),
            schedule: Schedule {
                learning_rate: self.learning_rate.unwrap_or(default.schedule.learning_rate),
                warmup_steps: self.warmup_steps,
                ..default.schedule
            },
            memory_budget: self.memory_budget_bytes.map(bytes),
            n_threads: n(self.n_threads, default.n_threads),
            ..default
        };
        options.validate()?;
        Ok(options)
    }

    fn lora(&self) -> LoraConfig {
        let default = LoraConfig::default();
        let targets = self.targets.iter().map(|&target| target.into());
        LoraConfig {
            rank: self.rank.map_or(default.rank, |rank| rank as usize),
            alpha: self.alpha.unwrap_or(default.alpha),
            targets: if self.targets.is_empty() { default.targets.clone() } else { targets.collect() },
            // Its invocation is what the model's chat template opens an answer with.
            mode: if self.activated { LoraMode::Activated { invocation: Vec::new() } } else { LoraMode::Full },
            ..default
        }
    }

    /// When checkpoints are written.
    pub(crate) fn pace(&self) -> CheckpointPace {
        let default = CheckpointPace::default();
        CheckpointPace {
            n_steps: self.checkpoint_steps.unwrap_or(default.n_steps),
            time: self.checkpoint_seconds.map_or(default.time, Duration::from_secs),
        }
    }
}
