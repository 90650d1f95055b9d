//! `owlet synth`: a model of any supported shape with random weights.

use std::path::PathBuf;

use clap::Args;
use owlet::{
    QuantType,
    quant::{
        Progress,
        synth::{Family, SynthModel, SynthOptions, SynthTower, synthesize, synthesize_tower},
    },
};

use super::{
    failure::Result,
    interrupt,
    output::{self, Output, ensure_distinct, ensure_writable},
};

/// Write a model with random weights: any supported family, shape and mixture, to measure time and memory without a download
///
/// It loads like a published model and answers nonsense. Its first 256 tokens are bytes, six more are those of ChatML;
/// the rest fills the vocabulary.
#[derive(Args, Debug)]
pub(crate) struct SynthArgs {
    /// A published shape: smollm2-135m, llama-3.2-1b, qwen2.5-vl-3b, qwen3-0.6b or qwen3-vl-2b (of vision models the text decoder)
    #[arg(long, value_name = "NAME", required_unless_present = "family")]
    preset: Option<String>,
    /// Family: llama, qwen2, qwen2vl, qwen3 or qwen3vl; alone, a tiny model of it
    #[arg(long, value_name = "NAME", conflicts_with = "preset")]
    family: Option<Family>,
    /// Type or mixture: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, ...
    #[arg(long = "type", short = 't', default_value_t = QuantType::Q4KM, value_name = "TYPE")]
    dtype: QuantType,
    /// The file to write
    #[arg(long, short, value_name = "GGUF")]
    out: PathBuf,
    /// Write an image projector (mmproj) of the Qwen3-VL family beside it: the tower of Qwen3-VL-2B for the preset, else
    /// a tiny one
    #[arg(long, value_name = "GGUF")]
    mmproj_out: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Another seed gives other weights
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// What differs from the preset, or from the tiny model.
#[derive(Args, Debug)]
#[command(next_help_heading = "Shape [default: that of the preset or of a tiny model]")]
struct ShapeArgs {
    /// Transformer layers
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// Width of the hidden states
    #[arg(long, value_name = "N")]
    embd: Option<u32>,
    /// Width of the feed-forward layer
    #[arg(long, value_name = "N")]
    ff: Option<u32>,
    /// Query heads
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Key and value heads, a divisor of the query heads
    #[arg(long, value_name = "N")]
    kv_heads: Option<u32>,
    /// Width of a head
    #[arg(long, value_name = "N")]
    head_dim: Option<u32>,
    /// Tokens, at least 262
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,
    /// Whether the output matrix is the embedding
    #[arg(long, value_name = "BOOL")]
    tied: Option<bool>,
    /// Whether queries, keys and values have biases
    #[arg(long, value_name = "BOOL")]
    biased: Option<bool>,
    /// Base of the rotations' frequencies
    #[arg(long, value_name = "BASE")]
    rope_base: Option<f32>,
    /// Whether a tensor divides these frequencies, as in Llama 3
    #[arg(long, value_name = "BOOL")]
    rope_factors: Option<bool>,
    /// Context length that the file states
    #[arg(long, value_name = "N")]
    context: Option<u32>,
}

pub(crate) fn run(args: &SynthArgs, output: Output) -> Result<()> {
    let cancel = interrupt::cancel_on_signal()?;
    ensure_writable(&args.out)?;
    if let Some(path) = &args.mmproj_out {
        ensure_distinct(path, [&*args.out])?;
        ensure_writable(path)?;
    }
    let model = args.model()?;
    let options = SynthOptions { dtype: args.dtype, seed: args.seed, threads: args.threads, cancel };
    let bar = output.byte_progress(0).with_message("drawing weights");
    let mut show = |progress: Progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    };
    let written = synthesize(&model, &args.out, &options, &mut show).and_then(|report| {
        if let Some(path) = &args.mmproj_out {
            let tower = if args.preset.is_some() { SynthTower::qwen3_vl() } else { SynthTower::tiny() };
            synthesize_tower(&tower, &model, path, &options, &mut show)?;
        }
        Ok(report)
    });
    bar.finish_and_clear();
    let report = written?;
    let (bytes, bits) = (output::bytes(report.bytes_after), report.bits_per_weight());
    output.say(format_args!(
        "{} {}: {} weights, {bytes}, {bits:.2} bits each",
        model.family, report.dtype, report.n_weights
    ));
    output.line(args.out.display())?;
    args.mmproj_out.as_ref().map_or(Ok(()), |path| output.line(path.display()))
}

impl SynthArgs {
    fn model(&self) -> owlet::Result<SynthModel> {
        let base = match (&self.preset, self.family) {
            (Some(name), _) => SynthModel::preset(name)?,
            (None, family) => SynthModel::tiny(family.unwrap_or(Family::Llama)),
        };
        let shape = &self.shape;
        Ok(SynthModel {
            family: base.family,
            n_layers: shape.layers.unwrap_or(base.n_layers),
            n_embd: shape.embd.unwrap_or(base.n_embd),
            n_ff: shape.ff.unwrap_or(base.n_ff),
            n_heads: shape.heads.unwrap_or(base.n_heads),
            n_kv_heads: shape.kv_heads.unwrap_or(base.n_kv_heads),
            head_dim: shape.head_dim.unwrap_or(base.head_dim),
            n_vocab: shape.vocab.unwrap_or(base.n_vocab),
            tied: shape.tied.unwrap_or(base.tied),
            biased: shape.biased.unwrap_or(base.biased),
            rope_base: shape.rope_base.unwrap_or(base.rope_base),
            rope_factors: shape.rope_factors.unwrap_or(base.rope_factors),
            n_context: shape.context.unwrap_or(base.n_context),
        })
    }
}
