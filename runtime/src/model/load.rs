//! How a model comes into being: options, checks, llama.cpp's loader.

#[cfg(feature = "grammar")]
use std::sync::OnceLock;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    sync::{Arc, RwLock},
    time::Instant,
};

use llama_cpp_sys_2 as sys;

use super::{
    Inner, Model, ModelInfo, c_path, check,
    hyper::Hyperparameters,
    projector::{self, ProjectorInfo},
    vocab::Vocabulary,
};
use crate::{
    Error, ErrorKind, Result, backend,
    cancel::CancelToken,
    device::{self, DeviceChoice, Placement},
    gguf::GgufFile,
    image::ImageBudget,
    queue::Queue,
    template::ChatTemplate,
    vision::{MAX_IMAGE_TOKENS, Projector},
    watch::{LoadWatch, on_load_progress},
};

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// The image projector; default `None`: the one beside the model (`mmproj*.gguf`), or none when there is none.
    pub mmproj: Option<PathBuf>,
    /// Leave pictures alone even when a projector is there; default false. Saves the projector's memory.
    pub text_only: bool,
    /// Where layers are computed; default [`DeviceChoice::Auto`]. [`Model::placement`] tells what came of it.
    pub device: DeviceChoice,
    /// Layers kept on a GPU, from the last on, where there is one; the output matrix counts as the last of all, so
    /// a model of 28 layers is there whole with 29. Default -1: all.
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
            device: DeviceChoice::Auto,
            gpu_layers: -1,
            repack: false,
            n_threads: 0,
            min_pixels: None,
            max_pixels: None,
        }
    }
}

/// Owner of a `llama_model`.
pub(super) struct Weights(pub(super) NonNull<sys::llama_model>);

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
    /// other architectures, and where a GPU is demanded that there is not; `Limit` when its memory is too small; `Mismatch` when the projector belongs to another model; `InvalidInput` when several
    /// projectors lie beside the model; `Backend` with llama.cpp's own words for anything else.
    pub fn load(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        Self::load_watched(path, options, &CancelToken::new(), &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Model::load`], told to `on_progress` after every tensor as a number from 0 to 1, until `cancel` is cancelled or
    /// `on_progress` breaks.
    ///
    /// The numbers are parts of the bytes of both files. Weights are mapped, so those of the model pass quickly and come
    /// from the disk when the first prompt needs them; those of the projector are read. Between two looks are at most the
    /// largest tensor of the projector or, before the first tensor, the vocabulary (docs/cancellation.md).
    ///
    /// # Errors
    /// As [`Model::load`]; `Cancelled`.
    pub fn load_watched(
        path: impl AsRef<Path>,
        options: &ModelOptions,
        cancel: &CancelToken,
        on_progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let mut progress = LoadWatch::new(cancel, on_progress);
        progress.tell(0.0)?;
        let start = Instant::now();
        let n_threads = backend::resolve_threads(options.n_threads)?;
        backend::init()?;
        let failed = |error: Error| error.at(path.display());
        let file = GgufFile::open(path)?;
        cancel.check()?;
        let hyper = Hyperparameters::read(&file).map_err(failed)?;
        let n_vocab = check::check_vocabulary(&file).map_err(failed)?;
        check::check_tensors(&file, &hyper, n_vocab).map_err(failed)?;
        let mmproj = Self::find_projector(path, &hyper, options)?;
        let template = file.opt_str("tokenizer.chat_template").map_err(failed)?;
        cancel.check()?;

        let mmproj_bytes = mmproj.as_ref().map_or(0, |(file, _)| file.n_bytes());
        let budget = mmproj
            .as_ref()
            .map(|(file, info)| image_budget(info, options).map_err(|error| error.at(file.path().display())));
        let budget = budget.transpose()?;
        let tower = mmproj.as_ref().map(|(_, info)| (info.tower, mmproj_bytes as usize));
        let has_absolute_boxes = mmproj.as_ref().is_some_and(|(_, info)| info.has_absolute_boxes);

        let placement =
            device::place_model(&options.device, options.gpu_layers, hyper.n_layer, &file).map_err(failed)?;
        let share = file.n_bytes() as f32 / (file.n_bytes() + mmproj_bytes) as f32;
        progress.set_part(0.0, share);
        let weights = Weights::load(path, options, &placement, &mut progress)?;
        // SAFETY: the model is alive and owns the vocabulary; both end up in the same `Inner`.
        let vocab = unsafe { Vocabulary::new(sys::llama_model_get_vocab(weights.0.as_ptr()), &file) }?;
        let template = ChatTemplate::new(template, vocab.bos(), vocab.eos()).map_err(failed)?;
        progress.set_part(share, 1.0 - share);
        let projector = match &mmproj {
            // SAFETY: the weights outlive the projector in `Inner`, and `check` accepted the file for this model.
            Some((file, info)) => Some(Queue::new(unsafe {
                let width = hyper.n_embd as usize * (1 + hyper.n_deepstack as usize);
                let gpu = placement.gpus.first().map(String::as_str);
                Projector::load(file.path(), weights.0, width, info.factor, n_threads, gpu, &mut progress)
            }?)),
            None => None,
        };
        let info = model_info(&file, &hyper, &weights, &vocab, mmproj.as_ref().map(|(file, _)| file));
        progress.tell(1.0)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let adapter_list = RwLock::new(());
        let kernels = (options.repack, placement.gpu_layers);
        let inner = Inner {
            projector,
            vocab,
            weights,
            adapter_list,
            file,
            mmproj: mmproj.map(|(file, _)| file),
            hyper,
            budget,
            tower,
            has_absolute_boxes,
            template,
            info,
            kernels,
            placement,
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
}

impl Weights {
    fn load(path: &Path, options: &ModelOptions, placement: &Placement, progress: &mut LoadWatch<'_>) -> Result<Self> {
        let c_path = c_path(path)?;
        // SAFETY: plain data.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = placement.gpu_layers;
        let mut devices = device::handles(&options.device, placement);
        params.devices = devices.as_mut().map_or(ptr::null_mut(), Vec::as_mut_ptr);
        params.use_extra_bufts = options.repack;
        params.progress_callback = Some(on_load_progress);
        params.progress_callback_user_data = progress.as_callback_data();
        let loaded = backend::explain("cannot load model", || {
            // SAFETY: the path is NUL-terminated, the parameters are the library's own defaults with plain values, a list of
            // devices, if any, that ends in NULL and is copied, and a callback whose data is borrowed until the call is over and
            // not used otherwise.
            NonNull::new(unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) })
        });
        let loaded = loaded.map(Self);
        progress.check()?;
        loaded.map_err(|error| error.at(path.display()))
    }
}

/// The pixels of a picture by default: what the caller says, else the projector file, else the published models.
///
/// # Errors
/// `InvalidInput` for limits that contradict each other or allow more tokens than the encoder takes.
fn image_budget(info: &ProjectorInfo, options: &ModelOptions) -> Result<ImageBudget> {
    let default = info.default_budget();
    let budget = ImageBudget {
        min_pixels: options.min_pixels.unwrap_or(default.min_pixels),
        max_pixels: options.max_pixels.unwrap_or(default.max_pixels),
        ..default
    };
    budget.check()?;
    let most = MAX_IMAGE_TOKENS as u64 * budget.token_pixels();
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
