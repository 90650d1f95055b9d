//! Arguments that the commands which train share: the adapter's shape and the learning rate.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use owlet::{AdapterFile, Decay, LayerRange, LoraConfig, LoraMode, LoraWeights, PrefixCacheOptions, Schedule, Target};

use super::failure::{Failure, Result};

/// The learning rate of each step, and how often it may come to nothing.
#[derive(Args, Debug)]
pub(crate) struct ScheduleArgs {
    /// Learning rate of AdamW after its warm-up
    #[arg(long, default_value_t = 1e-4, value_name = "RATE")]
    lr: f64,
    /// What follows the warm-up: constant, or linear or cosine to 0 after the last step
    #[arg(long, default_value_t = Decay::default(), value_name = "NAME")]
    lr_schedule: Decay,
    /// Steps over which the learning rate rises from 0
    #[arg(long, default_value_t = 5, value_name = "N")]
    warmup_steps: u64,
    /// Updates whose gradients are not finite are skipped; so many of them in a row end the run
    #[arg(long, default_value_t = 10, value_name = "N")]
    max_skipped_updates: u64,
}

impl ScheduleArgs {
    pub(crate) fn schedule(&self) -> Schedule {
        Schedule { learning_rate: self.lr, warmup_steps: self.warmup_steps, decay: self.lr_schedule }
    }

    pub(crate) fn max_skipped_updates(&self) -> u64 {
        self.max_skipped_updates
    }
}

/// On which tokens an adapter acts.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// On all of them
    Full,
    /// From the opening of the answer on: what comes before is the base's (activated LoRA), computed once and kept
    Activated,
}

impl Mode {
    /// The mode of an adapter that is invoked by what the model's chat template opens answers with.
    pub(crate) fn of_adapter(self) -> LoraMode {
        match self {
            Self::Full => LoraMode::Full,
            Self::Activated => LoraMode::Activated { invocation: Vec::new() },
        }
    }
}

/// The adapter's size and place.
#[derive(Args, Debug)]
#[command(next_help_heading = "Adapter")]
pub(crate) struct LoraArgs {
    /// Go on from this adapter, such as one of `owlet tune`, instead of a fresh one; its rank, strength and place are kept
    #[arg(long, value_name = "GGUF", conflicts_with_all = ["rank", "alpha", "rslora", "targets", "blocks", "mode"])]
    from: Option<PathBuf>,
    /// Rank of the update of every layer, 1 to 256
    #[arg(long, default_value_t = LoraConfig::default().rank, value_name = "R")]
    rank: usize,
    /// Strength: the update counts alpha / rank
    #[arg(long, default_value_t = LoraConfig::default().alpha, value_name = "A")]
    alpha: f32,
    /// The update counts alpha / sqrt(rank): the learning rate then suits any rank (arXiv 2312.03732)
    #[arg(long)]
    rslora: bool,
    /// Layers to adapt: any of q, k, v, o, gate, up, down [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    targets: Vec<Target>,
    /// Blocks to adapt, 0 at the input; the upper ones alone are faster to train [default: all]
    #[arg(long, value_name = "FIRST-LAST")]
    blocks: Option<LayerRange>,
    /// The tokens that the adapter acts on
    #[arg(long = "lora-mode", value_enum, default_value_t = Mode::Full)]
    mode: Mode,
    /// Folder that keeps keys and values of questions for later epochs and runs; for activated adapters
    #[arg(long, value_name = "DIR")]
    prefix_cache: Option<PathBuf>,
}

impl LoraArgs {
    pub(crate) fn config(&self) -> LoraConfig {
        let targets = if self.targets.is_empty() { Target::ALL.into() } else { self.targets.iter().copied().collect() };
        let mode = self.mode.of_adapter();
        let (rank, alpha) = (self.rank, self.alpha);
        LoraConfig { rank, alpha, targets, layers: self.blocks, rank_stabilized: self.rslora, mode }
    }

    /// The adapter to go on from.
    ///
    /// # Errors
    /// Those of the file; `InvalidInput` for a prefix cache where the adapter that is trained has no use for it.
    pub(crate) fn start(&self) -> Result<Option<LoraWeights>> {
        let start = self.from.as_deref().map(AdapterFile::open).transpose()?.map(|file| file.weights);
        let mode = start.as_ref().map_or_else(|| self.config().mode, |start| start.config.mode.clone());
        match &self.prefix_cache {
            Some(directory) if mode == LoraMode::Full => {
                let got = format!("--prefix-cache {}", directory.display());
                Err(Failure::argument("option without effect", got, "an activated adapter: `--lora-mode activated`"))
            }
            _ => Ok(start),
        }
    }

    /// The file of that adapter.
    pub(crate) fn from(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    pub(crate) fn prefix_cache(&self) -> PrefixCacheOptions {
        PrefixCacheOptions { directory: self.prefix_cache.clone(), ..PrefixCacheOptions::default() }
    }
}
