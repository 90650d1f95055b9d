//! A loaded language model, with its image projector where it has one.
//!
//! `GGUF file -> checks in Rust (hyper.rs, check.rs, projector.rs) -> llama.cpp -> Model`. The checks come first because
//! llama.cpp ends the process on some contradictions and answers NULL to the others.

mod check;
pub(crate) mod hyper;
pub(crate) mod projector;
mod vocab;

#[cfg(feature = "grammar")]
use std::sync::OnceLock;
use std::{
    ffi::CString,
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use llama_cpp_sys_2 as sys;

pub use self::vocab::TokenId;
use self::{hyper::Hyperparameters, projector::ProjectorInfo, vocab::Vocabulary};
#[cfg(feature = "grammar")]
use crate::answer::GrammarTokens;
use crate::{
    Error, ErrorKind, Result, backend,
    gguf::GgufFile,
    image::{BoxCoordinates, BoxMap, Image, ImageBudget, ImageOptions, ImagePlan},
    prompt::{EncodedPrompt, ImageEmbedding, Prompt},
    template::ChatTemplate,
    vision::{MAX_IMAGE_TOKENS, Projector},
};

/// Pixels that the published Qwen3-VL processors keep, for projector files that name none.
const PUBLISHED_PIXELS: (u64, u64) = (65_536, 16_777_216);

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The image projector; default `None`: the one beside the model (`mmproj*.gguf`), or none when there is none.
    pub mmproj: Option<PathBuf>,
    /// Leave pictures alone even when a projector is there; default false. Saves the projector's memory.
    pub text_only: bool,
    /// Layers kept on a GPU, of those that have one; default -1: all.
    pub gpu_layers: i32,
    /// Let llama.cpp copy weights into layouts that suit the processor; default false. Makes long prompts faster with
    /// some quantized types, costs a second copy of the weights, and moves the log-probs of the sampler away from those
    /// of the training engine, which reads the file's own layout.
    pub repack: bool,
    /// Threads of the image encoder; default 0: one per core.
    pub n_threads: usize,
    /// Smallest number of pixels of a picture as the model sees it; default `None`: the projector file's number, else
    /// 65,536 as the published models.
    pub min_pixels: Option<u64>,
    /// Largest number of pixels; default `None`: the projector file's number, else as the published
    /// models: 16,777,216 for Qwen3-VL, 4096 tokens before it.
    /// One token is a square of 32 pixels for Qwen3-VL; encoding time and memory grow faster than the pixels.
    pub max_pixels: Option<u64>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            mmproj: None,
            text_only: false,
            gpu_layers: -1,
            repack: false,
            n_threads: 0,
            min_pixels: None,
            max_pixels: None,
        }
    }
}

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
    projector: Option<Mutex<Projector>>,
    vocab: Vocabulary,
    weights: Weights,
    /// llama.cpp keeps the adapters of a model in a list without a lock, which loading and dropping change and contexts
    /// count through.
    adapter_list: RwLock<()>,
    file: GgufFile,
    mmproj: Option<GgufFile>,
    hyper: Hyperparameters,
    budget: Option<ImageBudget>,
    has_absolute_boxes: bool,
    template: ChatTemplate,
    info: ModelInfo,
    /// Repacked weights, layers on a GPU.
    kernels: (bool, i32),
    load_ms: f64,
    /// Made for the first constrained answer.
    #[cfg(feature = "grammar")]
    grammar_tokens: OnceLock<GrammarTokens>,
}

/// Owner of a `llama_model`.
struct Weights(NonNull<sys::llama_model>);

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: the pointer came from llama_model_load_from_file and is freed once; everything that refers to the
        // model (contexts, adapters, projector) holds an `Arc` of its owner or is dropped before it.
        unsafe { sys::llama_model_free(self.0.as_ptr()) }
    }
}

// SAFETY: after loading, llama.cpp reads a model from any thread; the one exception, its list of adapters, is guarded by
// `Inner::adapter_list`.
unsafe impl Send for Weights {}
// SAFETY: as above.
unsafe impl Sync for Weights {}

impl Model {
    /// Loads the model at `path` and its image projector.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` for damaged or contradicting files; `Unsupported` for other kinds of GGUF and
    /// other architectures; `Mismatch` when the projector belongs to another model; `InvalidInput` when several
    /// projectors lie beside the model; `Backend` with llama.cpp's own words for anything else.
    pub fn load(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        let path = path.as_ref();
        let start = Instant::now();
        let n_threads = backend::resolve_threads(options.n_threads)?;
        backend::init()?;
        let failed = |error: Error| error.at(path.display());
        let file = GgufFile::open(path)?;
        let hyper = Hyperparameters::read(&file).map_err(failed)?;
        let n_vocab = check::check_vocabulary(&file).map_err(failed)?;
        check::check_tensors(&file, &hyper, n_vocab).map_err(failed)?;
        let mmproj = Self::find_projector(path, &hyper, options)?;
        let template = file.opt_str("tokenizer.chat_template").map_err(failed)?;

        let budget = mmproj
            .as_ref()
            .map(|(file, info)| image_budget(info, options).map_err(|error| error.at(file.path().display())));
        let budget = budget.transpose()?;
        let has_absolute_boxes = mmproj.as_ref().is_some_and(|(_, info)| info.has_absolute_boxes);

        let weights = Weights::load(path, options)?;
        // SAFETY: the model is alive and owns the vocabulary; both end up in the same `Inner`.
        let vocab = unsafe { Vocabulary::new(sys::llama_model_get_vocab(weights.0.as_ptr()), &file) }?;
        let template = ChatTemplate::new(template, vocab.bos(), vocab.eos()).map_err(failed)?;
        let projector = match &mmproj {
            // SAFETY: the weights outlive the projector in `Inner`, and `check` accepted the file for this model.
            Some((file, info)) => Some(Mutex::new(unsafe {
                let width = hyper.n_embd as usize * (1 + hyper.n_deepstack as usize);
                Projector::load(file.path(), weights.0, width, info.factor, n_threads, options.gpu_layers != 0)
            }?)),
            None => None,
        };
        let info = model_info(&file, &hyper, &weights, &vocab, mmproj.as_ref().map(|(file, _)| file));
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let adapter_list = RwLock::new(());
        let kernels = (options.repack, options.gpu_layers);
        let inner = Inner {
            projector,
            vocab,
            weights,
            adapter_list,
            file,
            mmproj: mmproj.map(|(file, _)| file),
            hyper,
            budget,
            has_absolute_boxes,
            template,
            info,
            kernels,
            load_ms,
            #[cfg(feature = "grammar")]
            grammar_tokens: OnceLock::new(),
        };
        Ok(Self(Arc::new(inner)))
    }

    fn find_projector(
        path: &Path,
        hyper: &Hyperparameters,
        options: &ModelOptions,
    ) -> Result<Option<(GgufFile, ProjectorInfo)>> {
        let found = match &options.mmproj {
            _ if options.text_only => None,
            Some(given) if !hyper.architecture.is_vision() => {
                let error = Error::new(ErrorKind::Mismatch, "model takes no image projector").at(given.display());
                return Err(error.got(hyper.architecture.name()).needed("a vision model"));
            }
            Some(given) => Some(given.clone()),
            None if hyper.architecture.is_vision() => projector::find_beside(path)?,
            None => None,
        };
        let Some(mmproj) = found else { return Ok(None) };
        let file = GgufFile::open(&mmproj)?;
        let info = projector::check(&file, hyper).map_err(|error| error.at(mmproj.display()))?;
        Ok(Some((file, info)))
    }

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
        self.0.mmproj.as_ref().map(GgufFile::content_hash).transpose()
    }

    /// Milliseconds that loading took, checks and projector included.
    pub fn load_ms(&self) -> f64 {
        self.0.load_ms
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
    /// answer nor spell a thinking tag, and rows of the vocabulary that stand for nothing.
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
        crate::prompt::encode(self, prompt, self.0.budget)
    }

    /// As [`Model::encode`], with a budget for the prompt's pictures.
    ///
    /// # Errors
    /// As [`Model::encode`].
    pub fn encode_with(&self, prompt: &Prompt, budget: ImageBudget) -> Result<EncodedPrompt> {
        crate::prompt::encode(self, prompt, Some(budget))
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
    pub(crate) fn encode_image(&self, image: &Image) -> Result<ImageEmbedding> {
        let projector = self.0.projector.as_ref().ok_or_else(no_projector)?;
        projector.lock().unwrap_or_else(PoisonError::into_inner).encode(image)
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

impl Weights {
    fn load(path: &Path, options: &ModelOptions) -> Result<Self> {
        let c_path = c_path(path)?;
        // SAFETY: plain data.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = options.gpu_layers;
        params.use_extra_bufts = options.repack;
        let loaded = backend::explain("cannot load model", || {
            // SAFETY: the path is NUL-terminated, the parameters are the library's own defaults with plain values.
            NonNull::new(unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) })
        });
        Ok(Self(loaded.map_err(|error| error.at(path.display()))?))
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

/// The pixels of a picture by default: what the caller says, else the projector file, else the published models.
///
/// # Errors
/// `InvalidInput` for limits that contradict each other or allow more tokens than the encoder takes.
fn image_budget(info: &ProjectorInfo, options: &ModelOptions) -> Result<ImageBudget> {
    let token_pixels = u64::from(info.factor).pow(2);
    let (published_min, published_max) = PUBLISHED_PIXELS;
    let published_max = info.published_tokens.map_or(published_max, |n_tokens| n_tokens * token_pixels);
    let budget = ImageBudget {
        factor: info.factor,
        min_pixels: options.min_pixels.or(info.min_pixels).unwrap_or(published_min),
        max_pixels: options.max_pixels.or(info.max_pixels).unwrap_or(published_max),
    };
    budget.check()?;
    let most = MAX_IMAGE_TOKENS as u64 * token_pixels;
    if budget.max_pixels > most {
        let error = Error::new(ErrorKind::InvalidInput, "pictures too large").at("max_pixels").got(budget.max_pixels);
        return Err(error.needed(format!("at most {most}, {MAX_IMAGE_TOKENS} tokens")));
    }
    Ok(budget)
}

fn model_info(
    file: &GgufFile,
    hyper: &Hyperparameters,
    weights: &Weights,
    vocab: &Vocabulary,
    mmproj: Option<&GgufFile>,
) -> ModelInfo {
    let model = weights.0.as_ptr();
    // SAFETY: the model is alive; the name is a NUL-terminated string of static lifetime.
    let (n_params, quantization) = unsafe {
        let name = sys::llama_ftype_name(sys::llama_model_ftype(model));
        let name = if name.is_null() { "".into() } else { std::ffi::CStr::from_ptr(name).to_string_lossy() };
        (sys::llama_model_n_params(model), name.into_owned())
    };
    ModelInfo {
        architecture: hyper.architecture.name().to_owned(),
        name: file.get("general.name").and_then(|value| value.as_str()).unwrap_or_default().to_owned(),
        quantization,
        n_vocab: vocab.n_tokens(),
        n_embd: hyper.n_embd as usize,
        n_layer: hyper.n_layer as usize,
        n_ctx_train: hyper.n_ctx_train as usize,
        n_params,
        n_bytes: file.n_bytes(),
        mmproj_bytes: mmproj.map(GgufFile::n_bytes),
    }
}
