//! What a gradient will take, before any work: the engine itself, over a backend that only measures.
//!
//! The same code that computes lays everything out, so the numbers are those of the real call and cannot drift from it.

use std::sync::Arc;

use owlet_runtime::{EncodedPrompt, ImageEmbedding, Result, Segment, TokenId, ggml::Backend, gguf::GgufFile};

use super::{
    Engine, EngineOptions, GroupInput, PrefixCacheOptions, TokenScores,
    family::Decoder,
    n_tokens,
    workspace::{Keep, Workspace},
};
use crate::{
    lora::{LoraConfig, LoraGrads, LoraModule, LoraWeights, Target},
    pace::{Pace, complete},
};

/// The size of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Tokens of the prompt, those of pictures included; at least 1.
    pub n_prompt: usize,
    /// Tokens of pictures among them; at most `n_prompt`.
    pub n_image: usize,
    /// Completions, at least 1.
    pub n_completions: usize,
    /// Tokens of each, at least 1.
    pub n_completion: usize,
}

/// What the engine holds while it differentiates a group, in bytes, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineMemory {
    /// Inputs of layers, their gradients, masks and features of pictures.
    pub checkpoints: usize,
    /// Results of the products of the layers that are kept; 0 where all are computed again.
    pub activations: usize,
    /// The largest graph: operands laid out for products and attention, results of one layer.
    pub scratch: usize,
    /// Operands rounded for the kernels of quantized weights.
    pub work: usize,
    /// Logits, then their gradients.
    pub head: usize,
    /// The adapter of one layer and its gradients.
    pub adapter: usize,
    /// Keys and values of what comes before an activated adapter's invocation: one prompt's, or the full cache of them.
    pub prefixes: usize,
}

impl EngineMemory {
    /// All parts together; they exist at the same time.
    pub fn total(&self) -> usize {
        let Self { checkpoints, activations, scratch, work, head, adapter, prefixes } = self;
        checkpoints + activations + scratch + work + head + adapter + prefixes
    }
}

impl Engine {
    /// What [`Engine::gradient`] takes for a group of `shape` and an adapter of `config` over the model in `file`. Takes
    /// milliseconds and the memory of one chunk of logits.
    ///
    /// # Errors
    /// As [`Engine::from_file`] and [`Engine::gradient`].
    pub fn measure(
        file: &Arc<GgufFile>,
        options: &EngineOptions,
        config: &LoraConfig,
        shape: &GroupShape,
    ) -> Result<EngineMemory> {
        let backend = Backend::measuring(options.n_threads)?;
        let prefix_cache = PrefixCacheOptions { directory: None, ..options.prefix_cache.clone() };
        // Of no consequence for memory; the blank completions below are of any token.
        let options = &EngineOptions { prefix_cache, never_sampled: Vec::new(), ..options.clone() };
        let mut engine = Self::with_backend(backend, file, options.clone())?;
        let lora = blank_adapter(config, &engine.lora_targets());
        let invocation = config.mode.invocation().unwrap_or_default();
        let prompt = blank_prompt(&engine.decoder, shape, invocation);
        let completion = vec![0; shape.n_completion];
        let completions: Vec<&[TokenId]> = vec![&completion; shape.n_completions.min(engine.max_part())];
        let group = GroupInput { prompt: &prompt, completions: &completions };
        // A part is what exists at a time, so a group in parts is measured by its first.
        let frozen = complete(engine.frozen(&config.mode, &group, &Pace::default()))?;
        let layout = engine.layout(&group, n_tokens(&frozen));
        let ones = &mut |scores: &[TokenScores]| -> Vec<Vec<f32>> {
            scores.iter().map(|part| vec![1.0; part.logprobs.len()]).collect()
        };
        engine.gradient(&lora, &group, 1.0, ones, &mut LoraGrads::zeros(&lora))?;

        let activations = match engine.keep(&layout) {
            Keep::Products(n_layers) => n_layers * Workspace::product_bytes(&engine.decoder, &layout),
            _ => 0,
        };
        Ok(EngineMemory {
            checkpoints: engine.arenas.group.n_bytes() - activations,
            activations,
            scratch: engine.backend.scratch_bytes(),
            work: engine.backend.work_bytes(),
            head: engine.arenas.head.n_bytes(),
            adapter: engine.arenas.adapter.n_bytes(),
            prefixes: frozen.map_or(0, |prefix| prefix.n_bytes().max(options.prefix_cache.memory_bytes)),
        })
    }
}

/// An adapter of zeros: memory that nobody writes to is never touched.
fn blank_adapter(config: &LoraConfig, tensors: &[(String, usize, usize)]) -> LoraWeights {
    let is_adapted = |name: &str| Target::of_tensor(name).is_some_and(|target| config.targets.contains(&target));
    let module = |(name, n_in, n_out): &(String, usize, usize)| LoraModule {
        name: name.clone(),
        n_in: *n_in,
        n_out: *n_out,
        a: vec![0.0; config.rank * n_in],
        b: vec![0.0; config.rank * n_out],
    };
    let modules = tensors.iter().filter(|(name, ..)| is_adapted(name)).map(module).collect();
    LoraWeights { config: config.clone(), modules }
}

/// A prompt of zeros with one picture that ends in the tokens `invocation`.
fn blank_prompt(decoder: &Decoder, shape: &GroupShape, invocation: &[TokenId]) -> EncodedPrompt {
    let n_text = shape.n_prompt.saturating_sub(invocation.len());
    let n_image = shape.n_image.min(n_text);
    let width_embd = decoder.n_embd * (1 + decoder.n_deepstack);
    let data = vec![0.0; n_image * width_embd];
    let picture =
        ImageEmbedding { n_tokens: n_image, grid_w: n_image as u32, grid_h: 1, width_embd, data, encode_ms: 0.0 };
    let mut text = vec![0; n_text - n_image];
    text.extend(invocation);
    let mut segments = vec![Segment::Image(Arc::new(picture)), Segment::Tokens(text)];
    segments.retain(|segment| segment.n_tokens() > 0);
    EncodedPrompt { segments }
}
