//! Models: loading them, and what they compute outside of a conversation.

use std::{ops::ControlFlow, sync::Arc};

use owlet_host::background;
use owlet_runtime as runtime;

use crate::{
    adapter::{ActiveAdapter, in_use},
    answer::{AnswerOptions, Generated},
    device::DeviceChoice,
    error::{CancelToken, OwletError, Result, callback, token},
    image::{BoundingBox, Image},
    message::{Prompt, ToolCalls},
    session::SessionOptions,
};

/// A model with its image projector, shared by any number of sessions.
#[derive(Debug, uniffi::Object)]
pub struct Model(pub(crate) runtime::Model);

/// How a model is loaded. Nothing given means the default.
#[derive(Clone, Debug, Default, PartialEq, uniffi::Record)]
pub struct ModelOptions {
    /// The image projector; default: the one beside the model (`mmproj*.gguf`), if there is one.
    #[uniffi(default)]
    pub mmproj: Option<String>,
    /// Leave pictures alone even when a projector is there. Saves its memory.
    #[uniffi(default)]
    pub text_only: bool,
    /// Where layers are computed; default `Auto`.
    #[uniffi(default)]
    pub device: Option<DeviceChoice>,
    /// Layers kept on a GPU, from the first on; default all.
    #[uniffi(default)]
    pub gpu_layers: Option<u32>,
    /// Let llama.cpp copy weights into layouts that suit the processor: faster prompts, a second copy of the weights.
    #[uniffi(default)]
    pub repack: bool,
    /// Threads of the image encoder; default: one per core.
    #[uniffi(default)]
    pub n_threads: Option<u32>,
    /// Smallest number of pixels of a picture as the model sees it; default: as the model was trained.
    #[uniffi(default)]
    pub min_pixels: Option<u64>,
    /// Largest number of pixels; default: as the model was trained. Time and memory grow with it.
    #[uniffi(default)]
    pub max_pixels: Option<u64>,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct ModelInfo {
    /// llama.cpp's name of the architecture: `qwen3vl`.
    pub architecture: String,
    /// Its name, empty where the file has none.
    pub name: String,
    /// llama.cpp's name of the file's quantization: `Q4_K - Medium`.
    pub quantization: String,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Width of the hidden state.
    pub n_embd: u32,
    /// Transformer layers.
    pub n_layer: u32,
    /// Context length that it was trained with: the most that a session may have.
    pub n_ctx_train: u32,
    /// Weights of the language model.
    pub n_params: u64,
    /// Size of the model file.
    pub n_bytes: u64,
    /// Size of the image projector file; nothing for a text model.
    pub mmproj_bytes: Option<u64>,
    /// Whether it sees pictures.
    pub has_vision: bool,
    /// Milliseconds that loading took.
    pub load_ms: f64,
}

/// Where a model went.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Placement {
    /// GPUs that compute layers.
    pub gpus: Vec<String>,
    /// Why there is no GPU in the list.
    pub why_no_gpu: Option<String>,
}

/// Hears how far a model is loaded.
#[uniffi::export(with_foreign)]
pub trait LoadWatcher: Send + Sync {
    /// So much is loaded, 0 to 1. `false` stops loading, which then throws `Cancelled`.
    fn on_progress(&self, done: f32) -> Result<bool>;
}

/// Hears several answers while they are written.
#[uniffi::export(with_foreign)]
pub trait TokenSink: Send + Sync {
    /// The next piece of answer number `sample`, thinking and answer alike. `false` ends that answer; what is thrown fails the call.
    fn on_text(&self, sample: u32, text: String) -> Result<bool>;
}

/// How completions are scored. Nothing given means the default.
#[derive(Clone, Debug, Default, uniffi::Record)]
pub struct ScoreOptions {
    /// The session that it is done in; its `conversation` is not looked at.
    #[uniffi(default)]
    pub session: SessionOptions,
    /// Adapters in use; default none.
    #[uniffi(default)]
    pub adapters: Vec<ActiveAdapter>,
    /// Divides the logits, 0 to 100; default 1.
    #[uniffi(default)]
    pub temperature: Option<f32>,
    /// Whether a completion is a whole answer, whose end is scored as well; default no.
    #[uniffi(default)]
    pub is_whole: bool,
    /// Whether control tokens share in the probability, as in Hugging Face's numbers; default no.
    #[uniffi(default)]
    pub whole_vocabulary: bool,
}

/// How a prompt is answered several times. Nothing given means the default.
#[derive(Clone, Debug, uniffi::Record)]
pub struct GenerateOptions {
    /// Answers wanted; default 1.
    #[uniffi(default = 1)]
    pub n: u32,
    /// Answers written at a time, 1 to 256; default 8. Memory grows with it.
    #[uniffi(default = 8)]
    pub n_parallel: u32,
    /// How they are written.
    #[uniffi(default)]
    pub answer: AnswerOptions,
    /// Seed of the random numbers; default 0. The same prompt, seed and parallel answers give the same answers.
    #[uniffi(default)]
    pub seed: u64,
    /// The session that it is done in; its `conversation` is not looked at.
    #[uniffi(default)]
    pub session: SessionOptions,
    /// Adapters in use; default none.
    #[uniffi(default)]
    pub adapters: Vec<ActiveAdapter>,
}

/// How probable a completion is.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Scored {
    /// The natural log-probability of the completion.
    pub sum: f64,
    /// The mean over its tokens, which does not prefer short completions.
    pub mean: f64,
    /// That of each token.
    pub logprobs: Vec<f32>,
}

#[uniffi::export]
impl Model {
    /// Loads a GGUF file and its image projector on a thread of its own.
    ///
    /// Throws `NotFound`, `Io`; `InvalidFile`, `Unsupported` and `Mismatch` for what is no model of ours; `Limit` and
    /// `Unsupported` for a GPU that is asked for in vain; `Cancelled`; `Backend`.
    #[uniffi::constructor(default(options), default(watcher = None, cancel = None))]
    pub async fn load(
        path: String,
        options: ModelOptions,
        watcher: Option<Arc<dyn LoadWatcher>>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Arc<Self>> {
        let options = options.build()?;
        let load = move |cancel: &runtime::CancelToken| {
            let mut failure = None;
            let loaded = runtime::Model::load_watched(&path, &options, cancel, &mut |done| match watcher
                .as_ref()
                .map_or(Ok(true), |watcher| watcher.on_progress(done))
            {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(error) => {
                    failure = Some(callback("LoadWatcher", error));
                    ControlFlow::Break(())
                }
            });
            failure.map_or(loaded, Err)
        };
        Ok(Arc::new(Self(background("owlet-load", &token(cancel), load).await?)))
    }

    /// What the model is.
    pub fn info(&self) -> ModelInfo {
        let info = self.0.info().clone();
        ModelInfo {
            architecture: info.architecture,
            name: info.name,
            quantization: info.quantization,
            n_vocab: info.n_vocab as u32,
            n_embd: info.n_embd as u32,
            n_layer: info.n_layer as u32,
            n_ctx_train: info.n_ctx_train as u32,
            n_params: info.n_params,
            n_bytes: info.n_bytes,
            mmproj_bytes: info.mmproj_bytes,
            has_vision: self.0.has_vision(),
            load_ms: self.0.load_ms(),
        }
    }

    /// Where its layers are, and why not on a GPU.
    pub fn placement(&self) -> Placement {
        let placement = self.0.placement();
        Placement {
            gpus: placement.gpus.clone(),
            why_no_gpu: placement.no_gpu.as_ref().map(|reason| reason.to_string()),
        }
    }

    /// The calls of tools in `answer`, as the model's chat template teaches it to write them. Turns of a session that was given
    /// tools have them already.
    pub fn tool_calls(&self, answer: String) -> ToolCalls {
        self.0.tool_calls(&answer).into()
    }

    /// Tokens that a message of `text` and pictures takes in a context, the template's own included.
    pub fn count_tokens(&self, text: String, images: Vec<Arc<Image>>) -> Result<u32> {
        let sizes: Vec<_> = images.iter().map(|image| (image.0.width(), image.0.height())).collect();
        Ok(self.0.count_tokens(&text, &sizes)? as u32)
    }

    /// A box that the model wrote about `image`, in pixels of the upright picture. `max_image_tokens` is that of the
    /// conversation, if it has one.
    ///
    /// Throws `Unsupported` for a model without pictures.
    #[uniffi::method(default(max_image_tokens))]
    pub fn box_to_pixels(
        &self,
        image: &Image,
        model_box: BoundingBox,
        max_image_tokens: Option<u32>,
    ) -> Result<BoundingBox> {
        let BoundingBox { x1, y1, x2, y2 } = model_box;
        let [x1, y1, x2, y2] = self.box_map(image, max_image_tokens)?.to_pixels([x1, y1, x2, y2]);
        Ok(BoundingBox { x1, y1, x2, y2 })
    }

    /// The reverse: a box in pixels as the model would write it, to be rounded and put into a question.
    #[uniffi::method(default(max_image_tokens))]
    pub fn box_to_model(
        &self,
        image: &Image,
        pixel_box: BoundingBox,
        max_image_tokens: Option<u32>,
    ) -> Result<BoundingBox> {
        let BoundingBox { x1, y1, x2, y2 } = pixel_box;
        let [x1, y1, x2, y2] = self.box_map(image, max_image_tokens)?.to_model([x1, y1, x2, y2]);
        Ok(BoundingBox { x1, y1, x2, y2 })
    }

    /// How probable each of `completions` is as the beginning of an answer. The prompt is computed once, pictures included.
    ///
    /// Throws `ContextOverflow`, `InvalidInput`, `Unsupported`, `Cancelled`, `Backend`.
    #[uniffi::method(default(options), default(cancel = None))]
    pub async fn score(
        &self,
        prompt: Prompt,
        completions: Vec<String>,
        options: ScoreOptions,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Vec<Scored>> {
        let model = self.0.clone();
        let (prompt, built) = (prompt.build()?, options.session.build()?);
        let ScoreOptions { adapters, temperature, is_whole, whole_vocabulary, .. } = options;
        let adapters = in_use(adapters);
        let score = move |cancel: &runtime::CancelToken| {
            let prompt = model.encode_until(&prompt, None, cancel)?;
            let completions = completions.iter().map(|text| model.completion(text, is_whole));
            let completions = completions.collect::<runtime::Result<Vec<_>>>()?;
            let mut session = runtime::Session::new(&model, &built.session)?;
            session.set_adapters(&adapters)?;
            let default = runtime::ScoreOptions::default();
            let temperature = temperature.unwrap_or(default.temperature);
            let options = runtime::ScoreOptions { temperature, whole_vocabulary };
            let completions: Vec<&[runtime::TokenId]> = completions.iter().map(Vec::as_slice).collect();
            runtime::score_many(&mut session, &prompt, &completions, &options, cancel)
        };
        let scored = background("owlet-score", &token(cancel), score).await?;
        let own =
            |scored: runtime::Scored| Scored { sum: scored.sum(), mean: scored.mean(), logprobs: scored.logprobs };
        Ok(scored.into_iter().map(own).collect())
    }

    /// Answers `prompt` several times over. The prompt is computed once, pictures included.
    ///
    /// Throws `ContextOverflow`, `InvalidInput`, `Unsupported`, `Cancelled`, `Backend`; `Callback` when the sink throws.
    #[uniffi::method(default(options), default(sink = None, cancel = None))]
    pub async fn generate(
        &self,
        prompt: Prompt,
        options: GenerateOptions,
        sink: Option<Arc<dyn TokenSink>>,
        cancel: Option<Arc<CancelToken>>,
    ) -> Result<Vec<Generated>> {
        let model = self.0.clone();
        let GenerateOptions { n, n_parallel, answer, seed, session, adapters } = options;
        let (prompt, answer, adapters) = (prompt.build()?, answer.build()?, in_use(adapters));
        let session = runtime::SessionOptions { n_seq: n.min(n_parallel).max(1) as usize, ..session.build()?.session };
        let generate = move |cancel: &runtime::CancelToken| {
            let prompt = model.encode_until(&prompt, None, cancel)?;
            let mut session = runtime::Session::new(&model, &session)?;
            session.set_adapters(&adapters)?;
            let rng_key = runtime::RngKey { seed, ..Default::default() };
            let request = runtime::GenerateRequest { prompt: &prompt, n: n as usize, rng_key };
            let mut failure = None;
            let answers = runtime::generate(&mut session, &[request], &answer, cancel, &mut |event| {
                tell(sink.as_deref(), &event).unwrap_or_else(|error| {
                    failure = Some(callback("TokenSink", error));
                    cancel.cancel();
                    ControlFlow::Break(())
                })
            });
            let answers = failure.map_or(answers, Err)?;
            Ok(answers.into_iter().flatten().collect::<Vec<_>>())
        };
        let answers = background("owlet-generate", &token(cancel), generate).await?;
        Ok(answers.into_iter().map(Into::into).collect())
    }
}

impl Model {
    fn box_map(&self, image: &Image, max_image_tokens: Option<u32>) -> Result<runtime::BoxMap> {
        let max_tokens = max_image_tokens.map(|max| max as usize);
        let options = runtime::ImageOptions { max_tokens, ..Default::default() };
        let budget = self.0.plan_images(&[], &options)?.budget;
        Ok(self.0.box_map(&image.0, budget)?)
    }
}

/// Hands what an answer says to the sink.
fn tell(sink: Option<&dyn TokenSink>, event: &runtime::TokenEvent) -> Result<ControlFlow<()>, OwletError> {
    let Some(sink) = sink else { return Ok(ControlFlow::Continue(())) };
    for said in event.said {
        let (runtime::ThinkEvent::Thinking(text) | runtime::ThinkEvent::Answer(text)) = said;
        if !sink.on_text(event.sample as u32, text.clone())? {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl ModelOptions {
    fn build(self) -> Result<runtime::ModelOptions> {
        let default = runtime::ModelOptions::default();
        let gpu_layers = self.gpu_layers.map(i32::try_from).transpose().map_err(|_| {
            runtime::Error::new(runtime::ErrorKind::InvalidInput, "too many layers")
                .at("gpu_layers")
                .needed("fewer than 2^31")
        })?;
        Ok(runtime::ModelOptions {
            mmproj: self.mmproj.map(Into::into),
            text_only: self.text_only,
            device: self.device.map_or(default.device, Into::into),
            gpu_layers: gpu_layers.unwrap_or(default.gpu_layers),
            repack: self.repack,
            n_threads: self.n_threads.map_or(default.n_threads, |n| n as usize),
            min_pixels: self.min_pixels,
            max_pixels: self.max_pixels,
        })
    }
}
