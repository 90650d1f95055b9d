//! The training engine: exact policy gradients of LoRA adapters over a frozen, quantized base.
//!
//! A call takes one group: a prompt and its G completions.
//!
//! 1. `layout` packs the group: the prompt once, the completions behind it.
//! 2. `layer` runs the decoder one layer at a time, over weights as the file has them; inputs of the layers are kept.
//! 3. `head` turns the last hidden states into log-probabilities, a chunk of the vocabulary at a time.
//! 4. The caller turns log-probabilities into coefficients dLoss/dlogprob.
//! 5. `head` and `layer` go back the same way: a layer is computed again from its input (or read from its `tape`), and
//!    gradients reach the adapter through the frozen weights as `Wᵀ dy`.
//!
//! Every formula is made of forward operations, so whatever ggml backend runs the model can train it.
//! The loss of a group equals the sum over separate sequences; sharing the prompt is exact.
//!
//! Shapes are in ggml's order, row length first: T tokens of the packed batch, hidden states `[n_embd, T]`.

mod adapter;
mod attention;
mod family;
mod head;
mod layer;
mod layout;
mod linear;
mod norm;
mod pass;
mod softmax;
mod tape;
mod weights;
mod workspace;

use std::{fmt, path::Path, sync::Arc};

use owlet_runtime::{EncodedPrompt, Error, ErrorKind, Result, TokenId, ggml::Backend, gguf::GgufFile};

use self::{
    family::Decoder,
    layout::Layout,
    pass::Pass,
    weights::Weights,
    workspace::{Arenas, Keep, Workspace},
};
use crate::lora::{LoraGrads, LoraWeights, Target};

/// What the engine may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Threads, at least 1. Default: one per core. Results are the same bits for the same number of threads.
    pub n_threads: usize,
    /// Memory for transposed F32 copies of weights, in bytes. Default 256 MiB. Gradients flow through a weight's
    /// transpose; without a copy it is made again for every call, which costs little beside many tokens and much beside few.
    /// Small models fit as a whole; layers near the output come first.
    pub weight_cache_bytes: usize,
    /// Memory for the part of a weight that is transposed at a time where there is no copy, in bytes of F32. Default 16 MiB.
    pub transpose_bytes: usize,
    /// Memory for intermediate results of all layers, in bytes. Default 512 MiB. A group that needs more has only the
    /// inputs of its layers kept, and the backward pass computes every layer again: about a third more work.
    pub activation_bytes: usize,
    /// Attention scores of one block, in bytes. Default 64 MiB. Longer prompts and larger groups are cut into blocks;
    /// the peak is a small multiple of this.
    pub attention_bytes: usize,
    /// Logits that exist at a time, in bytes. Default 32 MiB. A vocabulary that does not fit is computed in chunks, twice.
    pub logit_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            n_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            weight_cache_bytes: 256 << 20,
            transpose_bytes: 16 << 20,
            activation_bytes: 512 << 20,
            attention_bytes: 64 << 20,
            logit_bytes: 32 << 20,
        }
    }
}

/// A prompt and completions of it.
#[derive(Clone, Copy, Debug)]
pub struct GroupInput<'a> {
    /// The prompt, at least one token.
    pub prompt: &'a EncodedPrompt,
    /// At least one completion, each with at least one token; the last token usually ends the generation.
    pub completions: &'a [&'a [TokenId]],
}

/// Scores of one completion under the model at a temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// Natural log-probability of every token, given everything before it.
    pub logprobs: Vec<f32>,
    /// Entropy in nats of the distribution that every token was drawn from.
    pub entropies: Vec<f32>,
}

/// A frozen base with everything that is needed to differentiate adapters over it.
pub struct Engine {
    backend: Backend,
    decoder: Decoder,
    weights: Weights,
    options: EngineOptions,
    arenas: Arenas,
    /// Whether `weight_cache_bytes` has been spent; the first gradient does it.
    is_cached: bool,
}

impl Engine {
    /// Opens the model at `path`, mapping its weights.
    ///
    /// # Errors
    /// As [`GgufFile::open`] and [`Engine::from_file`].
    pub fn new(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self> {
        Self::from_file(&Arc::new(GgufFile::open(path)?), options)
    }

    /// Uses the model in `file`, which may be shared with others.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an architecture, a variant of one or a tensor type that the engine does not compute
    /// exactly, [`ErrorKind::InvalidFile`] and [`ErrorKind::Mismatch`] for metadata and tensors that are missing or
    /// contradict each other, [`ErrorKind::InvalidInput`] for options out of range.
    pub fn from_file(file: &Arc<GgufFile>, options: EngineOptions) -> Result<Self> {
        let decoder = Decoder::read(file)?;
        let mut backend = Backend::cpu(options.n_threads)?;
        let weights = Weights::map(&mut backend, file, &decoder, options.transpose_bytes)?;
        Ok(Self { backend, decoder, weights, options, arenas: Arenas::default(), is_cached: false })
    }

    /// The tensors that an adapter may act on: name, width of the input, width of the output; from the first layer up.
    pub fn lora_targets(&self) -> Vec<(String, usize, usize)> {
        let linears = self.weights.layers.iter().flat_map(|layer| Target::ALL.map(|target| layer.linear(target)));
        linears.map(|linear| (linear.name.clone(), linear.n_in(), linear.n_out())).collect()
    }

    /// Number of entries of the vocabulary; token ids are below it.
    pub fn n_vocab(&self) -> usize {
        self.decoder.n_vocab
    }

    /// Log-probabilities and entropies of every completion token at `temperature`, with the adapter or, for `None`, of the
    /// base alone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty prompt, completion or group, a token outside the vocabulary or a
    /// temperature that is not finite and positive; [`ErrorKind::Mismatch`] for an adapter or an image embedding of another
    /// model; [`ErrorKind::Limit`] when memory is out.
    pub fn score(
        &mut self,
        lora: Option<&LoraWeights>,
        group: &GroupInput,
        temperature: f32,
    ) -> Result<Vec<TokenScores>> {
        let layout = self.layout(group, temperature)?;
        let mut pass = Pass::new(self, lora, group, &layout, Keep::Nothing)?;
        pass.forward()?;
        let hidden = pass.last_hidden();
        pass.head(group, temperature)?.scores(pass.backend, &hidden)
    }

    /// Adds the gradient of a loss over the completion tokens to `gradients`.
    ///
    /// `coefficients` gets the scores of every completion, as [`Engine::score`] returns them, and answers with dLoss/dlogprob
    /// of every token in the same shape. Returns the scores.
    ///
    /// # Errors
    /// As [`Engine::score`]; [`ErrorKind::InvalidInput`] too if the coefficients have another shape or are not finite, and
    /// [`ErrorKind::Mismatch`] if `gradients` has another shape than `lora`. `gradients` is then unchanged.
    pub fn gradient(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput,
        temperature: f32,
        coefficients: &mut dyn FnMut(&[TokenScores]) -> Vec<Vec<f32>>,
        gradients: &mut LoraGrads,
    ) -> Result<Vec<TokenScores>> {
        check_gradients(lora, gradients)?;
        if !self.is_cached {
            self.weights.cache_transposed(&mut self.backend, self.options.weight_cache_bytes)?;
            self.is_cached = true;
        }
        let layout = self.layout(group, temperature)?;
        let keeps_products = Workspace::product_bytes(&self.decoder, &layout) <= self.options.activation_bytes;
        let keep = if keeps_products { Keep::Products } else { Keep::Inputs };
        let mut pass = Pass::new(self, Some(lora), group, &layout, keep)?;
        pass.forward()?;

        let mut head = pass.head(group, temperature)?;
        let hidden = pass.last_hidden();
        let scores = head.scores(pass.backend, &hidden)?;
        let coefficients = coefficients(&scores);
        check_coefficients(&scores, &coefficients)?;
        if coefficients.iter().flatten().any(|&coefficient| coefficient != 0.0) {
            let gradient = pass.last_gradient();
            let scale = gradient_scale(&coefficients);
            head.backward(pass.backend, (&coefficients, scale), &hidden, &gradient)?;
            pass.backward(gradients, 1.0 / scale)?;
        }
        Ok(scores)
    }

    /// Bytes of memory that the engine holds beside the mapped weights: transposed copies, workspace and scratch.
    pub fn memory_bytes(&self) -> usize {
        let Arenas { group, adapter, head } = &self.arenas;
        let arenas = group.n_bytes() + adapter.n_bytes() + head.n_bytes();
        arenas + self.weights.cached_bytes() + self.backend.scratch_bytes()
    }

    fn layout(&self, group: &GroupInput, temperature: f32) -> Result<Layout> {
        let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(invalid("temperature").got(temperature).needed("a finite number above 0"));
        }
        let lengths: Vec<_> = group.completions.iter().map(|tokens| tokens.len()).collect();
        let n_prompt = group.prompt.n_tokens();
        if n_prompt == 0 || lengths.is_empty() || lengths.contains(&0) {
            return Err(invalid("empty group")
                .got(format!("a prompt of {n_prompt} tokens, completions of {lengths:?}"))
                .needed("at least one token each"));
        }
        let max_scores = self.options.attention_bytes / size_of::<f32>();
        Ok(Layout::new(&self.decoder, n_prompt, &lengths, max_scores))
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("decoder", &self.decoder).field("options", &self.options).finish_non_exhaustive()
    }
}

fn check_gradients(lora: &LoraWeights, gradients: &LoraGrads) -> Result<()> {
    let lengths = |tensors: &mut dyn Iterator<Item = &[f32]>| tensors.map(<[f32]>::len).collect::<Vec<_>>();
    if lengths(&mut lora.tensors()) == lengths(&mut gradients.tensors()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Mismatch, "gradients of another adapter"))
}

fn check_coefficients(scores: &[TokenScores], coefficients: &[Vec<f32>]) -> Result<()> {
    let needed: Vec<_> = scores.iter().map(|scores| scores.logprobs.len()).collect();
    let got: Vec<_> = coefficients.iter().map(Vec::len).collect();
    let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
    if got != needed {
        return Err(invalid("loss coefficients").got(format!("{got:?} tokens")).needed(format!("{needed:?}")));
    }
    if coefficients.iter().flatten().any(|coefficient| !coefficient.is_finite()) {
        return Err(invalid("loss coefficients").got("a number that is not finite"));
    }
    Ok(())
}

/// The power of two that brings the largest coefficient to 1..2. Averages over many tokens have tiny coefficients; their
/// gradients would reach the subnormal numbers, on which processors are slow, and leave the range of half-precision devices.
/// Multiplying by a power of two, and dividing in the end, changes no bits otherwise.
fn gradient_scale(coefficients: &[Vec<f32>]) -> f32 {
    let largest = coefficients.iter().flatten().fold(0.0f32, |largest, coefficient| largest.max(coefficient.abs()));
    (-largest.log2().floor()).clamp(-100.0, 100.0).exp2()
}
