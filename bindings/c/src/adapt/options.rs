//! How an adapter is trained.

use std::{ffi::c_char, time::Duration};

use owlet_adapters::{
    file::AdapterFile,
    lora::{LoraConfig, LoraMode, Target},
    method::Method,
    optim::Schedule,
    options::{GroupFilter, TrainerOptions},
    run::{Begin, CheckpointPace, RunOptions},
};
use owlet_runtime::Result;

use crate::input::{self, or, pick, versioned};

/// Whether a job goes on from its folder.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_begin {
    /// From the newest checkpoint, or from the beginning where there is none: for apps, which are ended at any time.
    ResumeIfAny = 0,
    /// From the beginning; checkpoints of an earlier run are OWLET_STATUS_INVALID_INPUT, never overwritten.
    Anew = 1,
    /// From the newest checkpoint; without one it is OWLET_STATUS_NOT_FOUND.
    Resume = 2,
}

/// How an adapter is trained. 0 and NULL stand for the default of every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_adapt_options {
    /// sizeof(owlet_adapt_options), set by the caller.
    pub struct_size: usize,
    /// Folder of the checkpoints and of metrics.jsonl, which is created; default NULL: nothing is kept.
    pub folder: *const c_char,
    /// An adapter file to begin with; default NULL: a fresh adapter.
    pub start: *const c_char,
    /// Published method: "g2rpo", "g2rpo_group", "grpo", "dr_grpo", "dapo", "gspo", "cispo" or "sapo"; default "g2rpo".
    pub method: *const c_char,
    /// Layers that are adapted, of q, k, v, o, gate, up and down, with commas between; default all.
    pub targets: *const c_char,
    /// What is written behind every question; default: think first, then answer, in tags. "" for nothing.
    pub suffix: *const c_char,
    /// Steps of the run; default 100.
    pub n_steps: u64,
    /// Steps over which the learning rate rises; default 0.
    pub warmup_steps: u64,
    /// A checkpoint after as many steps; default 10.
    pub checkpoint_steps: u64,
    /// And after as many seconds, within steps too; default 60.
    pub checkpoint_seconds: u64,
    /// Most anonymous memory of the run in bytes; slower where it is short, or OWLET_STATUS_LIMIT. Default no limit.
    pub memory_budget: u64,
    /// Seed of everything that is random; default 0.
    pub seed: u64,
    /// Learning rate after the warm-up; default 1e-4.
    pub learning_rate: f64,
    /// Questions of a step; default 8.
    pub prompts_per_step: usize,
    /// Answers to each question, 2 to 256; default 8.
    pub group_size: usize,
    /// Updates of a step, each over an equal share of its questions; default 1.
    pub updates_per_step: usize,
    /// Longest answer in tokens; default 512.
    pub max_new_tokens: usize,
    /// Longest question in tokens, pictures included; default 1024.
    pub max_prompt_tokens: usize,
    /// Rank of the adapter, 1 to 256; default 16.
    pub rank: usize,
    /// Answers that a session writes at a time, 1 to 256; default 16. Memory grows with it, and so does the speed.
    pub n_sequences: usize,
    /// Sessions that sample side by side, at most `n_threads`; default 1. A small model is fastest with one a thread.
    pub n_sessions: usize,
    /// Threads, at most 512; default 0: one per core. The same number gives the same bits.
    pub n_threads: usize,
    /// Strength of the adapter; default 32.
    pub alpha: f32,
    /// Temperature of the sampled answers, above 0; default 1.
    pub temperature: f32,
    /// Not 0: the adapter acts from the beginning of the answer on (activated LoRA): long questions are computed once.
    pub is_activated: u32,
    /// Not 0: train on questions too whose answers are all right or all wrong.
    pub keep_all_groups: u32,
    /// An owlet_begin.
    pub begin: u32,
}

versioned!(owlet_adapt_options);

impl owlet_adapt_options {
    /// What the trainer takes.
    ///
    /// # Safety
    /// Pointers are as the header says.
    pub(crate) unsafe fn trainer(&self) -> Result<TrainerOptions> {
        let default = TrainerOptions::default();
        // SAFETY: by the contract above.
        let (method, suffix) =
            unsafe { (input::optional_text(self.method, "method")?, input::optional_text(self.suffix, "suffix")?) };
        let max_new_tokens = or(self.max_new_tokens, default.max_new_tokens);
        let (estimator, loss) = method.map_or(Ok(Method::default()), str::parse)?.parts(max_new_tokens);
        let memory_budget = input::size(self.memory_budget, "memory_budget")?;
        let options = TrainerOptions {
            seed: self.seed,
            n_steps: or(self.n_steps, default.n_steps),
            prompts_per_step: or(self.prompts_per_step, default.prompts_per_step),
            group_size: or(self.group_size, default.group_size),
            updates_per_step: or(self.updates_per_step, default.updates_per_step),
            max_new_tokens,
            max_prompt_tokens: or(self.max_prompt_tokens, default.max_prompt_tokens),
            n_sessions: or(self.n_sessions, default.n_sessions),
            n_sequences: or(self.n_sequences, default.n_sequences),
            temperature: or(self.temperature, default.temperature),
            suffix: suffix.map_or(default.suffix.clone(), str::to_owned),
            estimator,
            loss,
            filter: if self.keep_all_groups != 0 { None } else { Some(GroupFilter::default()) },
            // SAFETY: by the contract above.
            lora: unsafe { self.lora() }?,
            schedule: Schedule {
                learning_rate: or(self.learning_rate, default.schedule.learning_rate),
                warmup_steps: self.warmup_steps,
                ..default.schedule
            },
            memory_budget: (memory_budget > 0).then_some(memory_budget),
            n_threads: self.n_threads,
            ..default
        };
        options.validate()?;
        Ok(options)
    }

    unsafe fn lora(&self) -> Result<LoraConfig> {
        let default = LoraConfig::default();
        // SAFETY: by the contract above.
        let targets = match unsafe { input::optional_text(self.targets, "targets") }? {
            Some(targets) => targets.split(',').map(|target| target.trim().parse::<Target>()).collect::<Result<_>>()?,
            None => default.targets.clone(),
        };
        // Its invocation is what the model's chat template opens an answer with.
        let activated = LoraMode::Activated { invocation: Vec::new() };
        Ok(LoraConfig {
            rank: or(self.rank, default.rank),
            alpha: or(self.alpha, default.alpha),
            targets,
            mode: if self.is_activated != 0 { activated } else { LoraMode::Full },
            ..default
        })
    }

    /// Where and how the run is kept.
    ///
    /// # Safety
    /// Pointers are as the header says.
    pub(super) unsafe fn run(&self) -> Result<RunOptions> {
        let begins = [
            (owlet_begin::ResumeIfAny as u32, Begin::ResumeIfAny),
            (owlet_begin::Anew as u32, Begin::Anew),
            (owlet_begin::Resume as u32, Begin::Resume),
        ];
        let default = CheckpointPace::default();
        // SAFETY: by the contract above.
        let (folder, start) =
            unsafe { (input::optional_path(self.folder, "folder")?, input::optional_path(self.start, "start")?) };
        Ok(RunOptions {
            folder,
            begin: pick("begin", self.begin, &begins)?,
            pace: CheckpointPace {
                n_steps: or(self.checkpoint_steps, default.n_steps),
                time: if self.checkpoint_seconds == 0 {
                    default.time
                } else {
                    Duration::from_secs(self.checkpoint_seconds)
                },
            },
            start: start.map(|path| AdapterFile::open(&path)).transpose()?.map(|file| file.weights),
        })
    }
}
