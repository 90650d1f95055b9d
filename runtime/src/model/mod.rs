//! A loaded language model, with its image projector where it has one.
//!
//! `GGUF file -> checks in Rust (hyper.rs, check.rs, projector.rs) -> llama.cpp -> Model`. The checks come first because
//! llama.cpp ends the process on some contradictions and answers NULL to the others.

pub(crate) mod check;
pub(crate) mod hyper;
mod load;
pub(crate) mod projector;
mod vocab;

#[cfg(feature = "grammar")]
use std::sync::OnceLock;
use std::{
    ffi::CString,
    path::Path,
    ptr::NonNull,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use llama_cpp_sys_2 as sys;

use self::{hyper::Hyperparameters, load::Weights, projector::TowerShape, vocab::Vocabulary};
pub use self::{load::ModelOptions, vocab::TokenId};
#[cfg(feature = "grammar")]
use crate::answer::GrammarTokens;
use crate::{
    Error, ErrorKind, Result,
    cancel::CancelToken,
    device::Placement,
    gguf::GgufFile,
    image::{BoxCoordinates, BoxMap, Image, ImageBudget, ImageOptions, ImagePlan},
    prompt::{EncodedPrompt, ImageEmbedding, Prompt},
    queue::Queue,
    template::ChatTemplate,
    tools::ToolCalls,
    vision::Projector,
};

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// llama.cpp's name of the architecture: `qwen3vl`.
    pub architecture: String,
    /// `general.name`, empty where the file has none.
    pub name: String,
    /// llama.cpp's name of the file's quantization: `Q4_K - Medium`.
    pub quantization: String,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Transformer layers.
    pub n_layer: usize,
    /// Context length that the model was trained with.
    pub n_ctx_train: usize,
    /// Weights of the language model.
    pub n_params: u64,
    /// Size of the model file.
    pub n_bytes: u64,
    /// Size of the image projector file; `None` for a text model.
    pub mmproj_bytes: Option<u64>,
}

/// A loaded model. Clones share it; sessions may use it from several threads at once.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    // Fields are dropped in this order: the projector refers to the weights.
    projector: Option<Queue<Projector>>,
    vocab: Vocabulary,
    weights: Weights,
    /// llama.cpp keeps the adapters of a model in a list without a lock, which loading and dropping change and contexts
    /// count through.
    adapter_list: RwLock<()>,
    file: GgufFile,
    mmproj: Option<GgufFile>,
    hyper: Hyperparameters,
    budget: Option<ImageBudget>,
    /// With the bytes of its file.
    tower: Option<(TowerShape, usize)>,
    has_absolute_boxes: bool,
    template: ChatTemplate,
    info: ModelInfo,
    /// Repacked weights, layers on a GPU.
    kernels: (bool, i32),
    placement: Placement,
    load_ms: f64,
    /// Made for the first constrained answer.
    #[cfg(feature = "grammar")]
    grammar_tokens: OnceLock<GrammarTokens>,
}

impl Model {
    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// The mapped model file: metadata and weights.
    pub fn gguf(&self) -> &GgufFile {
        &self.0.file
    }

    /// The hash of the whole model file, by which saved states and caches on disk know it; see [`GgufFile::content_hash`] for
    /// what the first call costs.
    ///
    /// # Errors
    /// `Io`.
    pub fn content_hash(&self) -> Result<&str> {
        self.0.file.content_hash()
    }

    /// The same of the image projector file; `None` for a text model.
    ///
    /// # Errors
    /// `Io`.
    pub fn projector_hash(&self) -> Result<Option<&str>> {
        self.projector_hash_until(&CancelToken::new())
    }

    /// As [`Model::projector_hash`], which reads a file of gigabytes, until `cancel` is cancelled.
    pub(crate) fn projector_hash_until(&self, cancel: &CancelToken) -> Result<Option<&str>> {
        self.0.mmproj.as_ref().map(|file| file.content_hash_until(cancel)).transpose()
    }

    /// Milliseconds that loading took, checks and projector included.
    pub fn load_ms(&self) -> f64 {
        self.0.load_ms
    }

    /// Where its layers are, and why not on a GPU.
    pub fn placement(&self) -> &Placement {
        &self.0.placement
    }

    /// Whether pictures can be encoded.
    pub fn has_vision(&self) -> bool {
        self.0.projector.is_some()
    }

    /// The pixels that a picture keeps when a prompt does not say otherwise; `None` for a text model.
    pub fn image_budget(&self) -> Option<ImageBudget> {
        self.0.budget
    }

    /// Plans the pictures of a request, of `sizes` (width, height, upright): what [`Model::encode_with`] shall give them,
    /// how many tokens they will take, and what the person should be warned of.
    ///
    /// # Errors
    /// `Unsupported` without an image projector; those of [`ImagePlan::new`].
    pub fn plan_images(&self, sizes: &[(u32, u32)], options: &ImageOptions) -> Result<ImagePlan> {
        ImagePlan::new(self.0.budget.ok_or_else(no_projector)?, sizes, options)
    }

    /// The map between the boxes that the model writes and the pixels of `image`, which it sees within `budget`: Qwen2-VL
    /// and Qwen3-VL write thousandths of the sides, Qwen2.5-VL pixels of the resized picture.
    ///
    /// # Errors
    /// As [`ImageBudget::size_for`].
    pub fn box_map(&self, image: &Image, budget: ImageBudget) -> Result<BoxMap> {
        let coordinates = if self.0.has_absolute_boxes {
            let (width, height) = budget.size_for(image.width(), image.height())?;
            BoxCoordinates::Resized { width, height }
        } else {
            BoxCoordinates::Relative
        };
        Ok(BoxMap::of(image, coordinates))
    }

    /// The chat template in use.
    pub fn template(&self) -> &ChatTemplate {
        &self.0.template
    }

    /// The calls of tools in `answer`, as the chat template teaches the model to write them; all of it is text for a template
    /// that knows no tools. Ask only where [`Prompt::tools`] were given: of some models a call is no more than JSON.
    pub fn tool_calls(&self, answer: &str) -> ToolCalls {
        let plain = || ToolCalls { text: answer.to_owned(), ..ToolCalls::default() };
        self.template().tool_format().map_or_else(plain, |format| format.parse(answer))
    }

    /// Splits `text` into tokens, without adding any. With `parse_special`, spellings of control tokens (`<|im_end|>`)
    /// become those tokens: never do that with text from outside.
    ///
    /// # Errors
    /// `Limit` for 2 GiB of text.
    pub fn tokenize(&self, text: &str, parse_special: bool) -> Result<Vec<TokenId>> {
        self.0.vocab.tokenize(text, parse_special)
    }

    /// The bytes of one token: often not a whole character. Control tokens and numbers outside the vocabulary have none.
    pub fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_token_bytes(token, &mut bytes);
        bytes
    }

    /// Appends the bytes of one token to `bytes`; see [`Model::token_bytes`].
    pub fn append_token_bytes(&self, token: TokenId, bytes: &mut Vec<u8>) {
        self.0.vocab.append_bytes(token, bytes);
    }

    /// The text of `tokens`; bytes that are no UTF-8 become U+FFFD.
    pub fn detokenize(&self, tokens: &[TokenId]) -> String {
        let mut bytes = Vec::new();
        for &token in tokens {
            self.append_token_bytes(token, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether `token` ends an answer.
    pub fn is_eog(&self, token: TokenId) -> bool {
        self.0.vocab.is_end(token)
    }

    /// Tokens that generation never picks, ascending: marks of pictures and videos, control tokens that neither end an
    /// answer nor spell a tag of thinking or of a call, and rows of the vocabulary that stand for nothing.
    pub fn never_sampled(&self) -> &[TokenId] {
        self.0.vocab.never_sampled()
    }

    /// Applies the chat template to `prompt`, asks for an answer, and encodes text and pictures. Pictures get
    /// [`Model::image_budget`].
    ///
    /// Text from the prompt cannot become control tokens, whatever it spells.
    ///
    /// # Errors
    /// `InvalidInput` for an empty prompt or a picture that cannot be resized, `Unsupported` for pictures without a
    /// projector or a template without pictures, `Backend` when the encoder fails.
    pub fn encode(&self, prompt: &Prompt) -> Result<EncodedPrompt> {
        crate::prompt::encode(self, prompt, self.0.budget, &CancelToken::new())
    }

    /// As [`Model::encode`], with a budget for the prompt's pictures.
    ///
    /// # Errors
    /// As [`Model::encode`].
    pub fn encode_with(&self, prompt: &Prompt, budget: ImageBudget) -> Result<EncodedPrompt> {
        crate::prompt::encode(self, prompt, Some(budget), &CancelToken::new())
    }

    /// As [`Model::encode`], with a budget for the prompt's pictures where one is given, until `cancel` is cancelled: looked
    /// at while pictures are resized, wait for the encoder, and inside of the encoder (docs/cancellation.md).
    ///
    /// # Errors
    /// As [`Model::encode`]; `Cancelled`. The encoder then serves the next picture as if nothing had been.
    pub fn encode_until(
        &self,
        prompt: &Prompt,
        budget: Option<ImageBudget>,
        cancel: &CancelToken,
    ) -> Result<EncodedPrompt> {
        crate::prompt::encode(self, prompt, budget.or(self.0.budget), cancel)
    }

    /// The tokens by which the chat template opens an answer, such as those of `<|im_start|>assistant` and a line break:
    /// every prompt of [`Model::encode`] ends with them. Activated adapters are invoked by them unless told otherwise.
    ///
    /// # Errors
    /// `Unsupported` when the template refuses a plain question, or its prompts do not end with tokens that are always the
    /// same.
    pub fn generation_prompt(&self) -> Result<Vec<TokenId>> {
        crate::prompt::generation_prompt(self)
    }

    /// Places in the context that a user's turn of `text` takes, with pictures of `image_sizes` (width, height) at its marks:
    /// [`EncodedPrompt::n_tokens`] of what [`Model::encode`] gives, without a picture being read or encoded.
    ///
    /// # Errors
    /// As [`Model::encode`], before the pictures.
    pub fn count_tokens(&self, text: &str, image_sizes: &[(u32, u32)]) -> Result<usize> {
        self.outline(text, image_sizes).map(|outline| outline.n_tokens())
    }

    /// As [`Model::encode`] of a user's turn, with places for the pictures and nothing in them: tells how long a prompt is
    /// and which tokens are where, and cannot be computed.
    ///
    /// # Errors
    /// As [`Model::count_tokens`].
    pub fn outline(&self, text: &str, image_sizes: &[(u32, u32)]) -> Result<EncodedPrompt> {
        crate::prompt::outline(self, text, image_sizes)
    }

    /// Encodes a picture that has the size of its budget.
    pub(crate) fn encode_image(&self, image: &Image, cancel: &CancelToken) -> Result<ImageEmbedding> {
        let projector = self.0.projector.as_ref().ok_or_else(no_projector)?;
        projector.enter(cancel)?.encode(image, cancel)
    }

    pub(crate) fn control_tokens(&self) -> &[String] {
        self.0.vocab.control()
    }

    pub(crate) fn image_pad(&self) -> Option<TokenId> {
        self.0.vocab.image_pad()
    }

    pub(crate) fn has_token(&self, token: TokenId) -> bool {
        self.0.vocab.contains(token)
    }

    /// Its tokens as grammars need them.
    #[cfg(feature = "grammar")]
    pub(crate) fn grammar_tokens(&self) -> &GrammarTokens {
        self.0.grammar_tokens.get_or_init(|| GrammarTokens::new(self))
    }

    pub(crate) fn hyper(&self) -> &Hyperparameters {
        &self.0.hyper
    }

    /// The image encoder's shape, with the bytes of its file.
    pub(crate) fn tower(&self) -> Option<(TowerShape, usize)> {
        self.0.tower
    }

    /// Width of one token's input: the hidden state and its deepstack shares.
    pub(crate) fn input_width(&self) -> usize {
        self.0.hyper.n_embd as usize * (1 + self.0.hyper.n_deepstack as usize)
    }

    /// What decides by which kernels llama.cpp computes: whether weights were repacked, and layers on a GPU.
    pub(crate) fn kernels(&self) -> (bool, i32) {
        self.0.kernels
    }

    pub(crate) fn raw(&self) -> NonNull<sys::llama_model> {
        self.0.weights.0
    }

    /// Held while an adapter is added to the model's list or taken from it.
    pub(crate) fn change_adapters(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.adapter_list.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a context may look at the model's list of adapters: when it is made, set up or computes.
    pub(crate) fn keep_adapters(&self) -> RwLockReadGuard<'_, ()> {
        self.0.adapter_list.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `other` is this very model, not an equal one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}, {})", self.path().display(), self.info().architecture)
    }
}

/// `path` as llama.cpp takes it.
pub(crate) fn c_path(path: &Path) -> Result<CString> {
    let error = || Error::new(ErrorKind::InvalidInput, "path cannot be passed to llama.cpp").at(path.display());
    CString::new(path.to_str().ok_or_else(error)?).map_err(|_| error())
}

fn no_projector() -> Error {
    let error = Error::new(ErrorKind::Unsupported, "model sees no pictures").got("no image projector");
    error.needed("an mmproj file beside the model or named")
}
