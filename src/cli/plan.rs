//! `owlet plan`: the memory of a training run, before any work.

use std::{fs, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use owlet::{
    Error, FlashAttention, InferenceRequest, KvType, LayerRange, LoraConfig, MemoryPart, MemoryPlan, PlanRequest,
    SessionOptions, Target, TrainerOptions, gguf::GgufFile,
};
use owlet_adapters::engine::EngineOptions;
use serde::Serialize;

use super::{
    adapter::Mode,
    failure::Result,
    memory,
    output::{Output, memory_table},
};

/// Tell what memory a run will take, part by part, and how it would fit a budget
///
/// Without more it plans training; `--for run` plans asking, in a session of the longest question and answer together, and
/// goes by --sequences, --precise-kv and --image-tokens of what follows.
///
/// Weights are mapped from the file and cost nothing: the system takes their pages back when it needs them. Reads headers
/// only, so the answer comes at once.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// What is planned
    #[arg(long = "for", value_enum, default_value_t = Purpose::Adapt, value_name = "COMMAND")]
    purpose: Purpose,
    /// The model: a GGUF file
    #[arg(long, short, value_name = "GGUF")]
    model: PathBuf,
    /// Its image projector; without it no pictures are asked about
    #[arg(long, value_name = "GGUF")]
    mmproj: Option<PathBuf>,
    /// Tokens of pictures in a question [default: all of it with --mmproj, else none]
    #[arg(long, value_name = "N")]
    image_tokens: Option<usize>,
    /// Questions a step
    #[arg(long, default_value_t = TrainerOptions::default().prompts_per_step, value_name = "N")]
    prompts_per_step: usize,
    /// Answers to each question
    #[arg(long, default_value_t = TrainerOptions::default().group_size, value_name = "G")]
    group_size: usize,
    /// Longest question, in tokens, pictures included
    #[arg(long, default_value_t = TrainerOptions::default().max_prompt_tokens, value_name = "N")]
    max_prompt_tokens: usize,
    /// Longest answer, in tokens
    #[arg(long, default_value_t = TrainerOptions::default().max_new_tokens, value_name = "N")]
    max_tokens: usize,
    /// Answers sampled at a time in each session [default: 16, of `--for run` 1]
    #[arg(long, value_name = "N")]
    sequences: Option<usize>,
    /// Sessions that sample side by side
    #[arg(long, default_value_t = 1, value_name = "N")]
    sessions: usize,
    /// Keep keys and values of the sampler in F32, without fused attention
    #[arg(long)]
    precise_kv: bool,
    /// Rank of the update of every layer
    #[arg(long, default_value_t = LoraConfig::default().rank, value_name = "R")]
    rank: usize,
    /// Layers to adapt: any of q, k, v, o, gate, up, down [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    targets: Vec<Target>,
    /// Blocks to adapt, 0 at the input [default: all]
    #[arg(long, value_name = "FIRST-LAST")]
    blocks: Option<LayerRange>,
    /// The tokens that the adapter acts on; of activated ones, what is kept of questions counts as full
    #[arg(long = "lora-mode", value_enum, default_value_t = Mode::Full)]
    mode: Mode,
    /// Choose what fits this much memory, such as 1GiB, or refuse [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_budget: Option<usize>,
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A command whose memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Purpose {
    /// Training.
    Adapt,
    /// Asking.
    Run,
}

/// What `--json` prints; all sizes in bytes.
#[derive(Debug, Serialize)]
struct Report {
    peak: usize,
    mapped: usize,
    parts: Vec<Entry>,
    engine: Choices,
}

#[derive(Debug, Serialize)]
struct Entry {
    part: &'static str,
    bytes: usize,
}

/// What the plan chose for the engine.
#[derive(Debug, Serialize)]
struct Choices {
    /// Completions of a group that are differentiated together.
    completions_at_a_time: usize,
    layers_computed_again: bool,
    half_checkpoints: bool,
    attention_bytes: usize,
    logit_bytes: usize,
}

pub(crate) fn run(args: &PlanArgs, output: Output) -> Result<()> {
    if args.purpose == Purpose::Run {
        let mmproj = args.mmproj.as_deref();
        return memory::print_plan(&args.model, mmproj, &args.session(), args.memory_budget, args.json, output);
    }
    let file = Arc::new(GgufFile::open(&args.model)?);
    let mmproj_bytes = match &args.mmproj {
        Some(path) => fs::metadata(path).map_err(|source| Error::io("cannot read file", path, source))?.len() as usize,
        None => 0,
    };
    let n_image = args.image_tokens.unwrap_or(if mmproj_bytes > 0 { args.max_prompt_tokens } else { 0 });
    let options = args.options();
    let request = PlanRequest { file: &file, mmproj_bytes, n_image, options: &options };
    let plan = match args.memory_budget {
        Some(budget) => MemoryPlan::fit(&request, budget)?,
        None => {
            let n_threads = TrainerOptions::resolved_threads(args.threads);
            MemoryPlan::new(&request, &EngineOptions { n_threads, ..EngineOptions::default() })?
        }
    };
    let engine = Choices {
        completions_at_a_time: plan.engine.max_completions.min(args.group_size),
        layers_computed_again: plan.bytes(MemoryPart::Activations) == 0,
        half_checkpoints: plan.engine.half_checkpoints,
        attention_bytes: plan.engine.attention_bytes,
        logit_bytes: plan.engine.logit_bytes,
    };
    if args.json {
        let entry = |&(part, bytes): &(MemoryPart, usize)| Entry { part: part.name(), bytes };
        let parts = plan.parts.iter().map(entry).collect();
        return output.json(&Report { peak: plan.peak_bytes(), mapped: plan.mapped_bytes, parts, engine });
    }
    let parts = plan.parts.iter().map(|&(part, bytes)| (part.name(), bytes));
    output.data(memory_table(parts, plan.peak_bytes(), plan.mapped_bytes))?;
    output.say(format_args!(
        "{} of {} answers differentiated at a time; layers {}{}",
        engine.completions_at_a_time,
        args.group_size,
        if engine.layers_computed_again { "computed again on the way back" } else { "kept for the way back" },
        if engine.layers_computed_again && engine.half_checkpoints { ", from inputs in F16" } else { "" },
    ));
    Ok(())
}

impl PlanArgs {
    /// A session of the longest question and answer.
    fn session(&self) -> InferenceRequest {
        let session = SessionOptions {
            n_ctx: self.max_prompt_tokens.saturating_add(self.max_tokens),
            n_seq: self.sequences.unwrap_or(1),
            n_threads: self.threads,
            ..SessionOptions::default()
        };
        let session = match self.precise_kv {
            true => SessionOptions { kv_type: KvType::F32, flash_attention: FlashAttention::Off, ..session },
            false => session,
        };
        let max_image_tokens = self.image_tokens.unwrap_or(usize::MAX);
        InferenceRequest { session, max_image_tokens, ..InferenceRequest::default() }
    }

    fn options(&self) -> TrainerOptions {
        let defaults = TrainerOptions::default();
        let targets = if self.targets.is_empty() { Target::ALL.into() } else { self.targets.iter().copied().collect() };
        TrainerOptions {
            prompts_per_step: self.prompts_per_step,
            group_size: self.group_size,
            max_prompt_tokens: self.max_prompt_tokens,
            max_new_tokens: self.max_tokens,
            n_sequences: self.sequences.unwrap_or(defaults.n_sequences),
            n_sessions: self.sessions,
            precise_kv: self.precise_kv,
            lora: LoraConfig {
                rank: self.rank,
                targets,
                layers: self.blocks,
                mode: self.mode.of_adapter(),
                ..defaults.lora
            },
            n_threads: self.threads,
            ..defaults
        }
    }
}

/// A number of bytes with a unit: `1GiB`, `900MB`, `1.5G`; units without `i` are powers of 1000.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no number of bytes"))?;
    let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "ki" | "kib" => f64::from(1 << 10),
        "mi" | "mib" => f64::from(1 << 20),
        "gi" | "gib" => f64::from(1 << 30),
        _ => return Err(format!("`{unit}` is no unit of bytes: kB, MB, GB, KiB, MiB or GiB")),
    };
    let bytes = number * scale;
    if bytes >= 1.0 && bytes < (1u64 << 53) as f64 {
        Ok(bytes as usize)
    } else {
        Err("must be at least 1 byte".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_both_kinds() {
        for (text, bytes) in [
            ("1GiB", 1 << 30),
            ("1.5gib", 3 << 29),
            ("900MB", 900_000_000),
            ("2k", 2000),
            ("77", 77),
            ("1 MiB", 1 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1 parsec", "0", "1.2.3G", "-4G", "1e300GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
