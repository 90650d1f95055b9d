//! The training engine: exact policy gradients of LoRA adapters over a frozen, quantized base.
//!
//! A call takes one group: a prompt and its G completions.
//!
//! 1. `layout` packs the group: the prompt once, the completions behind it.
//! 2. `layer` runs the decoder one layer at a time, over weights as the file has them; inputs of the layers are kept.
//! 3. `head` turns the last hidden states into log-probabilities, a chunk of the `vocabulary` at a time.
//! 4. The caller turns log-probabilities into coefficients dLoss/dlogprob. A loss of whole distributions (`distill`) is
//!    differentiated by the logits, chunk by chunk.
//! 5. `head` and `layer` go back the same way: a layer is computed again from its input (or read from its `tape`), and
//!    gradients reach the adapter through the frozen weights as `Wᵀ dy`.
//!
//! For an activated adapter ([`crate::lora::LoraMode::Activated`]) the batch begins with the invocation: keys and values of
//! what comes before are the base's (`prefix`), computed once, kept, and without a backward pass. The gradient is exact for
//! that model.
//!
//! Every formula is made of forward operations, so whatever ggml backend runs the model can train it; on the CPU, products and
//! attention are our own.
//! The loss of a group equals the sum over separate sequences; sharing the prompt is exact.
//!
//! Shapes are in ggml's order, row length first: T tokens of the packed batch, hidden states `[n_embd, T]`.

mod adapter;
mod attention;
#[cfg(test)]
mod differences;
mod distill;
mod family;
mod head;
mod layer;
mod layout;
mod linear;
mod measure;
mod norm;
mod parallel;
mod parts;
mod pass;
mod prefix;
mod prefix_file;
mod softmax;
mod tape;
mod vocabulary;
mod weights;
mod workspace;

use std::{fmt, path::Path, sync::Arc};

use owlet_runtime::{EncodedPrompt, Error, ErrorKind, Result, TokenId, ggml::Backend, gguf::GgufFile};

pub use self::{
    distill::{Teacher, TokenDivergences},
    measure::{EngineMemory, GroupShape},
    prefix::{PrefixCacheOptions, PrefixCacheStats},
};
pub(crate) use self::{family::Decoder, prefix_file::PromptFolder};
use self::{
    layout::Layout,
    pass::Pass,
    prefix::{Prefix, PrefixCache, PrefixKey},
    weights::Weights,
    workspace::{Arenas, Keep, Workspace},
};
use crate::{
    lora::{LoraGrads, LoraMode, LoraWeights, Target},
    pace::{Pace, complete},
};

/// What the engine may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Threads, at least 1. Default: one per core. Results are the same bits for the same number of threads.
    pub n_threads: usize,
    /// Memory for intermediate results of layers, in bytes. Default 352 MiB. Where it does not hold all layers, it holds the
    /// last ones; of the others only the inputs are kept, and the backward pass computes them again: about a third more work.
    pub activation_bytes: usize,
    /// Attention scores of one block, in bytes, on devices other than the CPU, where no scores are stored. Default 64 MiB. Longer
    /// prompts and larger groups are cut into blocks; the peak is a small multiple of this.
    pub attention_bytes: usize,
    /// Logits that exist at a time, in bytes. Default 96 MiB. A vocabulary that does not fit is computed in chunks, twice.
    pub logit_bytes: usize,
    /// Keys and values of what comes before the invocation of activated adapters.
    pub prefix_cache: PrefixCacheOptions,
    /// Completions of a group that go through the layers together, at least 1. Default: all. A larger group goes in parts,
    /// whose gradients add up to the same; every part takes the prompt along, and is scored before the first is
    /// differentiated.
    pub max_completions: usize,
    /// Whether inputs of layers are kept in F16 where only they are kept. Default no. It halves them; log-probabilities stay
    /// as they are, the gradient moves by about 1e-3 of its norm, and by infinity where an activation exceeds 65,504.
    pub half_checkpoints: bool,
    /// Tokens that the policy never samples: they have no share in the distribution of [`Engine::score`] and
    /// [`Engine::gradient`], which is then that of the sampler. Default none. Divergences from a teacher are of all tokens.
    pub never_sampled: Vec<TokenId>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            n_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            activation_bytes: 352 << 20,
            attention_bytes: 64 << 20,
            logit_bytes: 96 << 20,
            prefix_cache: PrefixCacheOptions::default(),
            max_completions: usize::MAX,
            half_checkpoints: false,
            never_sampled: Vec::new(),
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

/// dLoss by the scores of every token of one completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenSlopes {
    /// dLoss/dlogprob.
    pub logprobs: Vec<f32>,
    /// dLoss/dentropy; empty in a loss that does not know entropies.
    pub entropies: Vec<f32>,
}

impl From<Vec<f32>> for TokenSlopes {
    fn from(logprobs: Vec<f32>) -> Self {
        Self { logprobs, entropies: Vec::new() }
    }
}

/// A frozen base with everything that is needed to differentiate adapters over it.
pub struct Engine {
    backend: Backend,
    decoder: Decoder,
    weights: Weights,
    options: EngineOptions,
    arenas: Arenas,
    prefixes: PrefixCache,
    file: Arc<GgufFile>,
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
        Self::with_backend(Backend::cpu(options.n_threads)?, file, options)
    }

    fn with_backend(mut backend: Backend, file: &Arc<GgufFile>, options: EngineOptions) -> Result<Self> {
        let decoder = Decoder::read(file)?;
        let weights = Weights::map(&mut backend, file, &decoder)?;
        let prefixes = PrefixCache::new(options.prefix_cache.clone());
        let arenas = Arenas::default();
        Ok(Self { backend, decoder, weights, options, arenas, prefixes, file: Arc::clone(file) })
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
    /// [`ErrorKind::InvalidInput`] for an empty prompt, completion or group, a token outside the vocabulary or one in a
    /// completion that is never sampled, a temperature that is not finite and positive or a prompt that lacks the invocation of an activated adapter;
    /// [`ErrorKind::Mismatch`] for an adapter or an image embedding of another model; [`ErrorKind::Limit`] when memory is
    /// out.
    pub fn score(
        &mut self,
        lora: Option<&LoraWeights>,
        group: &GroupInput,
        temperature: f32,
    ) -> Result<Vec<TokenScores>> {
        complete(self.score_paced(lora, group, temperature, &Pace::default()))
    }

    /// As [`Engine::score`], resting at the points of `pace`.
    pub(crate) async fn score_paced(
        &mut self,
        lora: Option<&LoraWeights>,
        group: &GroupInput<'_>,
        temperature: f32,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        let mode = lora.map_or(&LoraMode::Full, |lora| &lora.config.mode);
        self.score_in(lora, mode, group, temperature, pace).await
    }

    /// As [`Engine::score`] for the base alone, with the keys and values that adapters in `mode` leave to the base taken
    /// from where those adapters have them.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn score_base(&mut self, mode: &LoraMode, group: &GroupInput, temperature: f32) -> Result<Vec<TokenScores>> {
        complete(self.score_base_paced(mode, group, temperature, &Pace::default()))
    }

    /// As [`Engine::score_base`], resting at the points of `pace`.
    pub(crate) async fn score_base_paced(
        &mut self,
        mode: &LoraMode,
        group: &GroupInput<'_>,
        temperature: f32,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        self.score_in(None, mode, group, temperature, pace).await
    }

    async fn score_in(
        &mut self,
        lora: Option<&LoraWeights>,
        mode: &LoraMode,
        group: &GroupInput<'_>,
        temperature: f32,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        check_group(group, temperature)?;
        self.check_sampled(group)?;
        let mut scores = Vec::with_capacity(group.completions.len());
        for completions in group.completions.chunks(self.max_part()) {
            let part = GroupInput { completions, ..*group };
            scores.extend(self.score_part(lora, mode, &part, temperature, pace).await?);
        }
        Ok(scores)
    }

    /// As [`Engine::score_in`], all completions at once.
    async fn score_part(
        &mut self,
        lora: Option<&LoraWeights>,
        mode: &LoraMode,
        group: &GroupInput<'_>,
        temperature: f32,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        let frozen = self.frozen(mode, group, pace).await?;
        let layout = self.layout(group, n_tokens(&frozen));
        let mut pass = Pass::new(self, lora, group, &layout, frozen.as_deref(), Keep::Nothing)?;
        pass.forward(pace).await?;
        let hidden = pass.last_hidden();
        pass.head(group, temperature)?.scores(pass.backend, &hidden, pace).await
    }

    /// Adds the gradient of a loss over the completion tokens to `gradients`.
    ///
    /// `slopes` gets the scores of every completion, as [`Engine::score`] returns them, and answers with dLoss/dlogprob of
    /// every token in the same shape, or with [`TokenSlopes`]. Returns the scores.
    ///
    /// # Errors
    /// As [`Engine::score`]; [`ErrorKind::InvalidInput`] too if the slopes have another shape or are not finite, and
    /// [`ErrorKind::Mismatch`] if `gradients` has another shape than `lora`. `gradients` is then unchanged.
    pub fn gradient<S: Into<TokenSlopes>>(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput,
        temperature: f32,
        slopes: &mut dyn FnMut(&[TokenScores]) -> Vec<S>,
        gradients: &mut LoraGrads,
    ) -> Result<Vec<TokenScores>> {
        complete(self.gradient_paced(lora, group, temperature, slopes, gradients, &Pace::default()))
    }

    /// As [`Engine::gradient`], resting at the points of `pace`. Work that is abandoned leaves part of the sum in
    /// `gradients`.
    pub(crate) async fn gradient_paced<S: Into<TokenSlopes>>(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput<'_>,
        temperature: f32,
        slopes: impl FnMut(&[TokenScores]) -> Vec<S>,
        gradients: &mut LoraGrads,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        check_gradients(lora, gradients)?;
        check_group(group, temperature)?;
        self.check_sampled(group)?;
        if group.completions.len() > self.max_part() {
            return self.gradient_in_parts(lora, group, temperature, slopes, gradients, pace).await;
        }
        self.gradient_part(lora, group, temperature, slopes, gradients, pace).await
    }

    /// As [`Engine::gradient_paced`], all completions at once.
    async fn gradient_part<S: Into<TokenSlopes>>(
        &mut self,
        lora: &LoraWeights,
        group: &GroupInput<'_>,
        temperature: f32,
        mut slopes: impl FnMut(&[TokenScores]) -> Vec<S>,
        gradients: &mut LoraGrads,
        pace: &Pace,
    ) -> Result<Vec<TokenScores>> {
        let frozen = self.frozen(&lora.config.mode, group, pace).await?;
        let layout = self.layout(group, n_tokens(&frozen));
        let mut pass = self.gradient_pass(lora, group, &layout, frozen.as_deref())?;
        pass.forward(pace).await?;

        let mut head = pass.head(group, temperature)?;
        let hidden = pass.last_hidden();
        let scores = head.scores(pass.backend, &hidden, pace).await?;
        let slopes: Vec<TokenSlopes> = slopes(&scores).into_iter().map(Into::into).collect();
        check_slopes(&scores, &slopes)?;
        let values = || slopes.iter().flat_map(|slopes| slopes.logprobs.iter().chain(&slopes.entropies));
        if values().any(|&slope| slope != 0.0) {
            let gradient = pass.last_gradient();
            let scale = gradient_scale(values());
            head.backward(pass.backend, (&slopes, scale), &hidden, &gradient, pace).await?;
            pass.backward(gradients, 1.0 / scale, pace).await?;
        }
        Ok(scores)
    }

    /// A pass that keeps what its way back needs; `frozen` is of as many tokens as the layout leaves out.
    fn gradient_pass<'a>(
        &'a mut self,
        lora: &'a LoraWeights,
        group: &GroupInput<'_>,
        layout: &'a Layout,
        frozen: Option<&'a Prefix>,
    ) -> Result<Pass<'a>> {
        let keep = self.keep(layout);
        Pass::new(self, Some(lora), group, layout, frozen, keep)
    }

    /// Bytes of memory that the engine holds beside the mapped weights: workspace, scratch and prefixes.
    pub fn memory_bytes(&self) -> usize {
        let Arenas { group, adapter, head } = &self.arenas;
        let arenas = group.n_bytes() + adapter.n_bytes() + head.n_bytes();
        arenas + self.backend.scratch_bytes() + self.prefixes.n_bytes()
    }

    /// What the way back finds. Where inputs are rounded, products are kept of all layers or none.
    fn keep(&self, layout: &Layout) -> Keep {
        match self.n_kept(layout) {
            n if n == self.decoder.n_layers => Keep::Products(n),
            _ if self.options.half_checkpoints => Keep::RoundedInputs,
            0 => Keep::Inputs,
            n => Keep::Products(n),
        }
    }

    /// How many layers have their products kept within `activation_bytes`.
    fn n_kept(&self, layout: &Layout) -> usize {
        let layer_bytes = Workspace::product_bytes(&self.decoder, layout);
        (self.options.activation_bytes / layer_bytes).min(self.decoder.n_layers)
    }

    /// How often what comes before an invocation was at hand.
    pub fn prefix_stats(&self) -> PrefixCacheStats {
        self.prefixes.stats()
    }

    /// Keys and values of what comes before the invocation of adapters in `mode`; `None` where nothing does.
    async fn frozen(&mut self, mode: &LoraMode, group: &GroupInput<'_>, pace: &Pace) -> Result<Option<Arc<Prefix>>> {
        let Some(invocation) = mode.invocation() else { return Ok(None) };
        let n_tokens = group.prompt.activation(invocation)?;
        if n_tokens == 0 {
            return Ok(None);
        }
        let (prompt, _) = group.prompt.split_at(n_tokens);
        let key = PrefixKey::of(&prefix_context(&self.file, &self.options)?, &prompt);
        if let Some(prefix) = self.prefixes.get(key, &self.decoder, n_tokens) {
            return Ok(Some(prefix));
        }
        let group = GroupInput { prompt: &prompt, completions: &[] };
        let layout = self.layout(&group, 0);
        let prefix = Pass::new(self, None, &group, &layout, None, Keep::KeysAndValues)?.keys_and_values(pace).await?;
        let prefix = Arc::new(prefix);
        self.prefixes.insert(key, &prefix);
        Ok(Some(prefix))
    }

    /// That the policy can have said the completions.
    fn check_sampled(&self, group: &GroupInput) -> Result<()> {
        let mut tokens = group.completions.iter().flat_map(|tokens| tokens.iter());
        match tokens.find(|token| self.options.never_sampled.contains(token)) {
            None => Ok(()),
            Some(token) => {
                Err(Error::new(ErrorKind::InvalidInput, "a token that is never sampled").at("completion").got(token))
            }
        }
    }

    fn layout(&self, group: &GroupInput, n_frozen: usize) -> Layout {
        let lengths: Vec<_> = group.completions.iter().map(|tokens| tokens.len()).collect();
        let layout = Layout::new(n_frozen, group.prompt.n_tokens() - n_frozen, &lengths);
        let max_scores = self.options.attention_bytes / size_of::<f32>();
        if self.backend.has_attention() { layout } else { layout.with_blocks(&self.decoder, max_scores) }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("decoder", &self.decoder).field("options", &self.options).finish_non_exhaustive()
    }
}

fn n_tokens(prefix: &Option<Arc<Prefix>>) -> usize {
    prefix.as_ref().map_or(0, |prefix| prefix.n_tokens)
}

/// The same prompt has other last bits under other numbers of threads and other cuts of attention, and under kernels of
/// another version or processor.
/// What tells prefixes of this engine from those of others.
fn prefix_context(file: &GgufFile, options: &EngineOptions) -> Result<String> {
    let EngineOptions { n_threads, attention_bytes, .. } = options;
    let (version, processor) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    Ok(format!("{version} {processor} {} {n_threads} {attention_bytes}", file.content_hash()?))
}

fn check_group(group: &GroupInput, temperature: f32) -> Result<()> {
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
    Ok(())
}

fn check_gradients(lora: &LoraWeights, gradients: &LoraGrads) -> Result<()> {
    let lengths = |tensors: &mut dyn Iterator<Item = &[f32]>| tensors.map(<[f32]>::len).collect::<Vec<_>>();
    if lengths(&mut lora.tensors()) == lengths(&mut gradients.tensors()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Mismatch, "gradients of another adapter"))
}

fn check_slopes(scores: &[TokenScores], slopes: &[TokenSlopes]) -> Result<()> {
    let lengths: Vec<_> = scores.iter().map(|scores| scores.logprobs.len()).collect();
    let logprobs: Vec<_> = slopes.iter().map(|slopes| slopes.logprobs.as_slice()).collect();
    check_values(&lengths, &logprobs)?;
    let entropies: Vec<_> = slopes.iter().map(|slopes| slopes.entropies.as_slice()).collect();
    if entropies.iter().all(|slopes| slopes.is_empty()) { Ok(()) } else { check_values(&lengths, &entropies) }
}

/// That there are finite values for every token of completions of these lengths.
fn check_values(lengths: &[usize], values: &[&[f32]]) -> Result<()> {
    let got: Vec<_> = values.iter().map(|values| values.len()).collect();
    let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what);
    if got != lengths {
        return Err(invalid("loss coefficients").got(format!("{got:?} tokens")).needed(format!("{lengths:?}")));
    }
    if values.iter().flat_map(|values| values.iter()).any(|value| !value.is_finite()) {
        return Err(invalid("loss coefficients").got("a number that is not finite"));
    }
    Ok(())
}

/// The power of two that brings the largest coefficient to 1..2. Averages over many tokens have tiny coefficients; their
/// gradients would reach the subnormal numbers, on which processors are slow, and leave the range of half-precision devices.
/// Multiplying by a power of two, and dividing in the end, changes no bits otherwise.
fn gradient_scale<'a>(slopes: impl Iterator<Item = &'a f32>) -> f32 {
    let largest = slopes.fold(0.0f32, |largest, slope| largest.max(slope.abs()));
    (-largest.log2().floor()).clamp(-100.0, 100.0).exp2()
}
