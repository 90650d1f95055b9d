//! The memory of inference by part, told from headers before any work, and what fits a budget.
//!
//! Weights are mapped from the file and cost nothing here: the system takes their pages back when it needs them, and a
//! phone does not count them. All other parts are anonymous memory. Parts are counted as if all were there at the same
//! time, which they are after the first picture: llama.cpp keeps the buffers of its graphs.
//!
//! The sizes of graphs are formulas that were read off llama.cpp's own reserve for the processor; other devices keep other
//! graphs, which nobody measured. `tests/memory.rs` holds the whole against the memory of processes.

mod fit;

use crate::{
    Error, Result,
    gguf::GgufFile,
    model::{
        Model, check,
        hyper::Hyperparameters,
        projector::{self, TowerShape},
    },
    session::{FlashAttention, KvType, SessionOptions},
};

/// Bytes of the program itself without a model: code that was relocated, threads, the allocator's reserve.
const PROGRAM_BYTES: usize = 5 << 20;
/// Bytes for each token of the vocabulary and for each merge: their texts in our reading of the file and in llama.cpp's
/// tables.
const BYTES_PER_TOKEN: usize = 230;
const BYTES_PER_MERGE: usize = 250;
/// K/V caches have cells in multiples of this.
const CELL_BLOCK: usize = 256;

/// What memory is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct InferenceRequest {
    /// The session. Its `memory_budget` is not looked at.
    pub session: SessionOptions,
    /// Tokens of the largest picture; 0 when none is shown, by default as many as the projector's limit or the context
    /// allow, which nothing exceeds.
    pub max_image_tokens: usize,
    /// Pictures whose embeddings are kept at the same time: those of a conversation and its cache; default 1.
    pub n_pictures: usize,
    /// Room of a [`crate::PromptCache`]; default 0.
    pub prompt_cache_bytes: usize,
    /// Bytes of adapters in use, all together; default 0.
    pub adapter_bytes: usize,
    /// [`crate::ModelOptions::repack`].
    pub repack: bool,
    /// The shortest context that will do when memory is short; default 512, or the session's where that is less.
    pub least_ctx: usize,
}

impl Default for InferenceRequest {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            max_image_tokens: usize::MAX,
            n_pictures: 1,
            prompt_cache_bytes: 0,
            adapter_bytes: 0,
            repack: false,
            least_ctx: 512,
        }
    }
}

/// What takes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum InferencePart {
    /// The program and the vocabulary.
    Program,
    /// Copies of weights in layouts that suit the processor.
    RepackedWeights,
    /// Keys and values.
    KeysAndValues,
    /// llama.cpp's graphs and logits.
    Graphs,
    /// Weights of the image projector, which are read, not mapped.
    ImageWeights,
    /// The image encoder at work on the largest picture.
    ImageGraph,
    /// Embeddings of pictures.
    Pictures,
    /// Kept prompts.
    PromptCache,
    /// Adapters.
    Adapters,
}

impl InferencePart {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "program and vocabulary",
            Self::RepackedWeights => "repacked weights",
            Self::KeysAndValues => "keys and values",
            Self::Graphs => "graphs and logits",
            Self::ImageWeights => "image encoder: weights",
            Self::ImageGraph => "image encoder: graph",
            Self::Pictures => "pictures",
            Self::PromptCache => "kept prompts",
            Self::Adapters => "adapters",
        }
    }
}

/// The memory of inference.
#[derive(Clone, Debug, PartialEq)]
pub struct InferencePlan {
    /// The session that it is for.
    pub session: SessionOptions,
    /// Tokens of the largest picture that it is for; 0 without pictures.
    pub image_tokens: usize,
    /// Pixels of such a picture: what [`crate::ImageBudget::max_pixels`] may be.
    pub max_pixels: u64,
    /// Bytes of every part that takes any.
    pub parts: Vec<(InferencePart, usize)>,
    /// Bytes of weights that are mapped and not counted.
    pub mapped_bytes: usize,
}

impl InferencePlan {
    /// The plan of `request` for the model of `file` with the image projector of `mmproj`, from their headers.
    ///
    /// # Errors
    /// Those of [`Model::load`] that do not need llama.cpp; `InvalidInput` for a session out of range.
    pub fn new(file: &GgufFile, mmproj: Option<&GgufFile>, request: &InferenceRequest) -> Result<Self> {
        Shape::read(file, mmproj)?.plan(request)
    }

    /// As [`InferencePlan::new`] of a model that is loaded, whose weights are repacked or not whatever the request says.
    ///
    /// # Errors
    /// `InvalidInput` for a session out of range.
    pub fn of_model(model: &Model, request: &InferenceRequest) -> Result<Self> {
        Shape::of(model).plan(&of_loaded(model, request))
    }

    /// The plan nearest to `request` that takes at most `budget` bytes. Given up, in this order: the batch of prompts, down
    /// to a quarter; the precision of keys and values, as far as flash attention and the width of heads allow; the pixels
    /// of pictures by halves, down to 256 tokens; the context, down to `least_ctx`.
    ///
    /// # Errors
    /// As [`InferencePlan::new`]; `Limit` with the least that it takes, and what would fit.
    pub fn fit(file: &GgufFile, mmproj: Option<&GgufFile>, request: &InferenceRequest, budget: usize) -> Result<Self> {
        fit::fit(&Shape::read(file, mmproj)?, request, budget)
    }

    /// As [`InferencePlan::fit`] of a model that is loaded.
    ///
    /// # Errors
    /// As [`InferencePlan::fit`].
    pub fn fit_model(model: &Model, request: &InferenceRequest, budget: usize) -> Result<Self> {
        fit::fit(&Shape::of(model), &of_loaded(model, request), budget)
    }

    /// The most anonymous memory at a time, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.parts.iter().fold(0, |sum: usize, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Bytes of one part.
    pub fn bytes(&self, part: InferencePart) -> usize {
        self.parts.iter().find(|(known, _)| *known == part).map_or(0, |&(_, bytes)| bytes)
    }
}

/// `request` as `model` was loaded.
fn of_loaded(model: &Model, request: &InferenceRequest) -> InferenceRequest {
    InferenceRequest { repack: model.kernels().0, ..request.clone() }
}

/// What of a model decides about memory.
struct Shape {
    hyper: Hyperparameters,
    n_vocab: usize,
    n_merges: usize,
    mapped_bytes: usize,
    /// With the bytes of its file and the most pixels that it takes.
    tower: Option<(TowerShape, usize, u64)>,
}

impl Shape {
    fn read(file: &GgufFile, mmproj: Option<&GgufFile>) -> Result<Self> {
        let failed = |error: Error| error.at(file.path().display());
        let hyper = Hyperparameters::read(file).map_err(failed)?;
        let n_vocab = check::check_vocabulary(file).map_err(failed)?;
        check::check_tensors(file, &hyper, n_vocab).map_err(failed)?;
        let tower = mmproj.map(|mmproj| {
            let info = projector::check(mmproj, &hyper).map_err(|error| error.at(mmproj.path().display()))?;
            Ok((info.tower, tensor_bytes(mmproj), info.default_budget().max_pixels))
        });
        let tower = tower.transpose()?;
        Ok(Self { hyper, n_vocab: n_vocab as usize, n_merges: n_merges(file), mapped_bytes: tensor_bytes(file), tower })
    }

    fn of(model: &Model) -> Self {
        let tower = model.tower().zip(model.image_budget());
        Self {
            hyper: model.hyper().clone(),
            n_vocab: model.info().n_vocab,
            n_merges: n_merges(model.gguf()),
            mapped_bytes: tensor_bytes(model.gguf()),
            tower: tower.map(|((shape, bytes), budget)| (shape, bytes, budget.max_pixels)),
        }
    }

    fn plan(&self, request: &InferenceRequest) -> Result<InferencePlan> {
        request.session.check_for(&self.hyper)?;
        let session = request.session;
        let pixels_of_token = self.tower.map_or(1, |(tower, ..)| u64::from(tower.factor()).pow(2));
        let most = self.tower.map_or(0, |(_, _, max_pixels)| max_pixels);
        let image_tokens = request.max_image_tokens.min((most / pixels_of_token) as usize).min(session.n_ctx);
        let max_pixels = image_tokens as u64 * pixels_of_token;
        let mut parts = vec![
            (InferencePart::Program, PROGRAM_BYTES + BYTES_PER_TOKEN * self.n_vocab + BYTES_PER_MERGE * self.n_merges),
            (InferencePart::RepackedWeights, if request.repack { self.mapped_bytes } else { 0 }),
            (InferencePart::KeysAndValues, self.keys_and_values(&session)),
            (InferencePart::Graphs, self.graphs(&session)),
            (InferencePart::PromptCache, request.prompt_cache_bytes),
            (InferencePart::Adapters, request.adapter_bytes),
        ];
        if let Some((tower, bytes, _)) = self.tower {
            let n_embd = self.hyper.n_embd as usize * (1 + self.hyper.n_deepstack as usize);
            let embedding = image_tokens * n_embd * size_of::<f32>();
            parts.push((InferencePart::ImageWeights, bytes));
            parts.push((InferencePart::ImageGraph, image_graph(&tower, max_pixels as usize, embedding)));
            parts.push((InferencePart::Pictures, request.n_pictures.saturating_mul(embedding)));
        }
        parts.retain(|&(_, bytes)| bytes > 0);
        Ok(InferencePlan { session, image_tokens, max_pixels, parts, mapped_bytes: self.mapped_bytes })
    }

    fn keys_and_values(&self, session: &SessionOptions) -> usize {
        let width = self.hyper.n_head_kv as usize * self.hyper.head_dim as usize;
        let n_cells = session.n_ctx.next_multiple_of(CELL_BLOCK) * session.n_seq;
        let numbers = (2 * self.hyper.n_layer as usize * n_cells).saturating_mul(width);
        match session.kv_type {
            KvType::F32 => numbers.saturating_mul(4),
            KvType::F16 => numbers.saturating_mul(2),
            // A scale of 16 bits for every 32 numbers.
            KvType::Q8_0 => (numbers / 32).saturating_mul(34),
        }
    }

    /// The batch of a long prompt: both sides of the feed-forward layer, or queries, keys and values and, without fused
    /// attention, the scores of all heads; the mask of the context; embeddings of pictures with their shares for further
    /// layers; what threads convert activations into. The logits of all sequences exist once more on the host.
    fn graphs(&self, session: &SessionOptions) -> usize {
        let Hyperparameters { n_embd, n_ff, n_head, n_head_kv, head_dim, n_deepstack, .. } = self.hyper;
        let [n_embd, n_ff, query, key] = [(n_embd, 1), (n_ff, 1), (n_head, head_dim), (n_head_kv, head_dim)]
            .map(|(n, width)| n as usize * width as usize);
        let n_cells = session.n_ctx.next_multiple_of(CELL_BLOCK);
        let n_batch = session.n_ubatch.next_multiple_of(session.n_seq).min(n_cells * session.n_seq);
        // Fused attention has a mask in F16.
        let (scores, mask) = match session.flash_attention {
            FlashAttention::Off => (n_head as usize * n_cells, n_cells),
            FlashAttention::Auto | FlashAttention::On => (0, n_cells / 2),
        };
        let layer = (5 * n_embd + 3 * n_ff).max(3 * query + 2 * key + 2 * n_embd + scores);
        let pictures = if n_deepstack > 0 { 3 * n_embd * (1 + n_deepstack as usize) } else { 0 };
        let converted = n_ff.max(query) / 2;
        let batch = n_batch * (layer + mask + pictures + converted);
        let logits = session.n_seq.max(session.n_logits) * self.n_vocab;
        (batch.max(logits) + logits) * size_of::<f32>()
    }
}

/// The pixels as bytes, twice, and as numbers, twice; of a layer, states and both sides of the feed-forward layer, or
/// queries, keys and values; the embedding on its way to us.
fn image_graph(tower: &TowerShape, max_pixels: usize, embedding: usize) -> usize {
    let n_patches = max_pixels / (tower.patch as usize).pow(2);
    let (n_embd, n_ff) = (tower.n_embd as usize, tower.n_ff as usize);
    let pixels = 3 * max_pixels * 2 * (1 + size_of::<f32>());
    pixels + n_patches * (n_embd + 2 * n_ff).max(4 * n_embd) * size_of::<f32>() + embedding
}

fn n_merges(file: &GgufFile) -> usize {
    file.get("tokenizer.ggml.merges").and_then(|value| value.as_strings()).map_or(0, |merges| merges.len())
}

fn tensor_bytes(file: &GgufFile) -> usize {
    file.tensors().iter().map(|tensor| tensor.n_bytes as usize).sum()
}
