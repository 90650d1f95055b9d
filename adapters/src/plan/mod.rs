//! The memory of a training run by part, told before any work, and the engine's options that fit a budget.
//!
//! Weights are mapped from the file and cost nothing here: the system takes their pages back when it needs them. All other
//! parts are anonymous memory, which a phone counts. The engine's parts come from [`Engine::measure`] and are exact; those of
//! the sampler, the adapter and the vocabulary follow from shapes; the image encoder is an estimate.
//!
//! All parts exist at the same time: sessions keep their K/V while the engine learns, and the engine keeps its arenas while
//! the next step samples.

mod fit;

use std::sync::Arc;

use owlet_runtime::{Error, ErrorKind, Result, gguf::GgufFile};

use crate::{
    engine::{Decoder, Engine, EngineOptions, GroupShape},
    lora::{LoraConfig, LoraMode},
    options::TrainerOptions,
};

/// Copies of the adapter's numbers at the moment that holds most of them, the end of a step: weights and two moments; new
/// weights and moments, since a step works on copies; the new adapter file and the reader's copy of it; llama.cpp's adapter,
/// old and new. Checkpoints are written in a stream and take none.
const ADAPTER_COPIES: usize = 10;

/// Tokens that stand for what a chat template opens an answer with, which takes more than headers to know: those of ChatML.
const OPENING_TOKENS: usize = 3;

/// Bytes of the program itself without a model: code that was relocated, threads, the allocator's reserve.
const PROGRAM_BYTES: usize = 10 << 20;

/// Bytes for each token of the vocabulary: its text in our two readings of the file and in llama.cpp's tables.
const BYTES_PER_TOKEN: usize = 420;

/// Tokens that a session computes at a time; as [`owlet_runtime::SessionOptions`] has it by default.
const SAMPLER_BATCH: usize = 512;

/// K/V caches have cells in multiples of this.
const CELL_BLOCK: usize = 256;

/// A run whose memory is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PlanRequest<'a> {
    /// The model.
    pub file: &'a Arc<GgufFile>,
    /// Bytes of its image projector, whose weights llama.cpp copies; 0 without one.
    pub mmproj_bytes: usize,
    /// Tokens of pictures in a prompt, no more than it may have.
    pub n_image: usize,
    /// The run; its longest prompt and answers count.
    pub options: &'a TrainerOptions,
}

/// What takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// The program and the vocabulary.
    Program,
    /// Keys and values of all sessions.
    KeysAndValues,
    /// llama.cpp's graphs and logits.
    SamplerGraphs,
    /// The projector's weights and graph, and the embeddings of a step's pictures.
    ImageEncoder,
    /// Factors, gradients and moments.
    Adapter,
    /// Inputs of layers and their gradients.
    Checkpoints,
    /// What layers computed, kept for the way back.
    Activations,
    /// The largest graph of the engine: operands laid out for products and attention, one layer's results.
    EngineGraphs,
    /// Logits and their gradients.
    Logits,
    /// Keys and values of prompts before an activated adapter's invocation.
    Prefixes,
    /// The same in the sampler's layout, shared by its sessions.
    SamplerPrefixes,
}

impl Part {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "program and vocabulary",
            Self::KeysAndValues => "sampler: keys and values",
            Self::SamplerGraphs => "sampler: graphs and logits",
            Self::ImageEncoder => "image encoder (estimate)",
            Self::Adapter => "adapter, gradients, optimizer",
            Self::Checkpoints => "engine: inputs of layers",
            Self::Activations => "engine: kept activations",
            Self::EngineGraphs => "engine: graphs and attention",
            Self::Logits => "engine: logits",
            Self::Prefixes => "engine: keys and values of prompts",
            Self::SamplerPrefixes => "sampler: keys and values of prompts",
        }
    }
}

/// The memory of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// The engine's options that it is for.
    pub engine: EngineOptions,
    /// Bytes of every part.
    pub parts: Vec<(Part, usize)>,
    /// Bytes of the model file, which is mapped and not counted.
    pub mapped_bytes: usize,
}

impl MemoryPlan {
    /// The plan of `request` with the engine's `options`.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range; as [`Engine::measure`].
    pub fn new(request: &PlanRequest, options: &EngineOptions) -> Result<Self> {
        request.options.validate()?;
        let run = request.options;
        if request.n_image > run.max_prompt_tokens {
            let error = Error::new(ErrorKind::InvalidInput, "more tokens of pictures than a prompt may have");
            return Err(error.got(request.n_image).needed(format!("at most {}", run.max_prompt_tokens)));
        }
        let decoder = Decoder::read(request.file)?;
        let shape = GroupShape {
            n_prompt: run.max_prompt_tokens,
            n_image: request.n_image,
            n_completions: run.group_size,
            n_completion: run.max_new_tokens,
        };
        let mode = match &run.lora.mode {
            LoraMode::Activated { invocation } if invocation.is_empty() => {
                LoraMode::Activated { invocation: vec![0; OPENING_TOKENS] }
            }
            mode => mode.clone(),
        };
        let engine = Engine::measure(request.file, options, &LoraConfig { mode, ..run.lora.clone() }, &shape)?;
        let mut parts = vec![
            (Part::Program, PROGRAM_BYTES + BYTES_PER_TOKEN * decoder.n_vocab),
            (Part::KeysAndValues, run.n_sessions * keys_and_values(&decoder, run)),
            (Part::SamplerGraphs, run.n_sessions * sampler_graphs(&decoder, run)),
            (Part::ImageEncoder, image_encoder(&decoder, request)),
            (Part::Adapter, ADAPTER_COPIES * size_of::<f32>() * adapter_numbers(&decoder, run)),
            (Part::Checkpoints, engine.checkpoints),
            (Part::Activations, engine.activations),
            (Part::EngineGraphs, engine.scratch + engine.work + engine.adapter),
            (Part::Logits, engine.head),
            (Part::Prefixes, engine.prefixes),
            (Part::SamplerPrefixes, sampler_prefixes(&decoder, run, options)),
        ];
        parts.retain(|&(_, bytes)| bytes > 0);
        let mapped_bytes = request.file.tensors().iter().map(|tensor| tensor.n_bytes as usize).sum();
        Ok(Self { engine: options.clone(), parts, mapped_bytes })
    }

    /// The most anonymous memory that the run holds at a time, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of one part.
    pub fn bytes(&self, part: Part) -> usize {
        self.parts.iter().find(|(known, _)| *known == part).map_or(0, |&(_, bytes)| bytes)
    }
}

/// Of one session.
fn keys_and_values(decoder: &Decoder, run: &TrainerOptions) -> usize {
    let n_cells = (run.max_prompt_tokens + run.max_new_tokens).next_multiple_of(CELL_BLOCK) * run.n_sequences;
    n_cells * bytes_per_cell(decoder, run)
}

/// The full cache, and for each session one prompt on its way: what llama.cpp gave or shall get, and the state kept of it, and
/// its file.
fn sampler_prefixes(decoder: &Decoder, run: &TrainerOptions, options: &EngineOptions) -> usize {
    let (n_bytes, has_folder) = (options.prefix_cache.sampler_bytes, options.prefix_cache.directory.is_some());
    if run.lora.mode == LoraMode::Full || (n_bytes == 0 && !has_folder) {
        return 0;
    }
    n_bytes + (2 + usize::from(has_folder)) * run.n_sessions * run.max_prompt_tokens * bytes_per_cell(decoder, run)
}

fn bytes_per_cell(decoder: &Decoder, run: &TrainerOptions) -> usize {
    2 * decoder.n_layers * decoder.key_width() * if run.precise_kv { 4 } else { 2 }
}

/// Of one session: the batch of a long prompt, or one token for all sequences with its logits; logits once more on the host.
fn sampler_graphs(decoder: &Decoder, run: &TrainerOptions) -> usize {
    let n_batch = SAMPLER_BATCH.min(run.max_prompt_tokens);
    let n_context = (run.max_prompt_tokens + run.max_new_tokens).next_multiple_of(CELL_BLOCK);
    // Without fused attention, scores of all heads exist as a whole.
    let scores = if run.precise_kv { decoder.n_head * n_context } else { n_context };
    let layer = n_batch * (3 * decoder.n_embd + 2 * decoder.n_ff + scores);
    let logits = run.n_sequences * decoder.n_vocab;
    (layer.max(logits) + logits) * size_of::<f32>()
}

/// Weights of the projector; the four matrices of attention and twice the feed-forward layer's (four times as wide) for all
/// patches, at the width of the language model, of which published towers have half; the embeddings that a step keeps. A
/// token is four patches.
fn image_encoder(decoder: &Decoder, request: &PlanRequest) -> usize {
    let block = 4 * request.n_image * 12 * decoder.n_embd / 2;
    let embeddings = request.options.prompts_per_step * request.n_image * decoder.n_embd * (1 + decoder.n_deepstack);
    if request.mmproj_bytes == 0 { 0 } else { request.mmproj_bytes + (block + embeddings) * size_of::<f32>() }
}

/// Numbers in the factors of the adapter.
fn adapter_numbers(decoder: &Decoder, run: &TrainerOptions) -> usize {
    let widths = |&target| {
        let (n_in, n_out) = decoder.widths(target);
        n_in + n_out
    };
    let n_layers = run.lora.layers.map_or(decoder.n_layers, |range| (range.last + 1).saturating_sub(range.first));
    run.lora.rank * n_layers.min(decoder.n_layers) * run.lora.targets.iter().map(widths).sum::<usize>()
}
