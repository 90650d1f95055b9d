//! Safe runtime over llama.cpp and ggml: the only crate of Owlet that calls them.
//!
//! 1. [`Model::load`] checks a GGUF file and its image projector in Rust, then hands them to llama.cpp.
//! 2. [`Model::encode`] turns a [`Prompt`] of text and pictures into an [`EncodedPrompt`]: chat template, tokens, and
//!    image embeddings from pictures resized exactly as Hugging Face does.
//! 3. A [`Session`] holds many sequences: it computes a prompt once, forks it, and decodes all sequences together, with
//!    any number of LoRA [`Adapter`]s.
//! 4. [`generate()`] drives a session: groups of sampled answers with the log-probability of every token, guessed ahead where
//!    [`Speculation`] is set. [`score_many`] tells the log-probabilities of given answers.
//! 5. A [`conversation`] is questions in turn over a session: what was computed is kept, forked, saved and restored.
//! 6. [`gguf`], [`quantize`] and [`ggml`] are what the quantizer and the training engine build on.
//!
//! ggml ends the process on wrong shapes and NULL is llama.cpp's only other answer, so whatever a file or a caller can
//! get wrong is checked before they are called, and every failure is a typed [`Error`].
//!
//! Threads: a [`Model`] is shared by clones and may serve several sessions at once; a [`Session`] can move between
//! threads but works for one at a time; a [`CancelToken`] stops it from any other.

mod adapter;
mod answer;
mod atomic;
mod backend;
mod cancel;
pub mod conversation;
mod device;
mod error;
pub mod exponential;
pub mod generate;
pub mod ggml;
pub mod gguf;
mod image;
mod image_cache;
mod lru;
mod mapped;
mod model;
mod plan;
mod prompt;
pub mod quantize;
mod queue;
pub mod rng;
mod sampler;
mod score;
mod session;
mod speculate;
mod template;
mod text;
mod think;
mod timings;
mod tools;
mod vision;
mod watch;

pub use adapter::{Adapter, AdapterInfo, INVOCATION_KEY, MAX_INVOCATION_TOKENS, read_invocation};
pub use answer::{AnswerOptions, Constraint, Generated, StopReason};
pub use atomic::AtomicFile;
pub use cancel::{CancelToken, Deadline};
pub use device::{Device, DeviceChoice, DeviceKind, NoGpu, Placement, devices, gpu_backends, why_no_gpu};
pub use error::{Error, ErrorKind, Result};
pub use generate::{GenerateRequest, Generation, RngKey, TokenEvent, generate};
pub use image::{
    Alpha, BoxCoordinates, BoxMap, DecodeOptions, GROUNDING_TOKENS, Image, ImageBudget, ImageLimits, ImageOptions,
    ImagePlan, ImageWarning, Orientation, PixelFormat, RawImage,
};
pub use image_cache::{ImageCache, ImageCacheStats};
pub use lru::Lru;
pub use mapped::MappedFile;
pub use model::{Model, ModelInfo, ModelOptions, TokenId};
pub use plan::{InferencePart, InferencePlan, InferenceRequest};
pub use prompt::{EncodedPrompt, IMAGE_MARK, ImageEmbedding, Message, Part, Prompt, Role, Segment};
pub use sampler::{Sampled, Sampler, SamplerOptions};
pub use score::{ScoreOptions, Scored, score, score_many};
pub use session::{
    AdapterUse, BareLoop, FlashAttention, KvType, PromptCache, PromptCacheStats, PromptStore, SequenceState, Session,
    SessionOptions,
};
pub use speculate::Speculation;
pub use template::ChatTemplate;
pub use text::TextDecoder;
pub use think::{ThinkEvent, ThinkSplitter};
pub use timings::{Timings, peak_memory_bytes};
pub use tools::{MalformedCall, ToolCall, ToolCalls, Tools};
