//! A small library with big eyes: runs quantized vision-language models on the device, and lets the device teach them.
//!
//! The data flow, which is also the order in which to read the crates:
//!
//! 1. [`quant`] makes a GGUF file from a Hugging Face checkpoint, or a smaller one from a larger.
//! 2. [`Model::load`] reads a GGUF file and its image projector; [`gguf`] is the format itself.
//! 3. [`Prompt`] holds text and [`Image`]s; [`Model::encode`] turns it into tokens and image embeddings.
//! 4. A [`Session`] computes a prompt once and forks it; [`generate()`] samples answers, many at once, each token with its
//!    log-probability. [`ThinkSplitter`] tells thinking from answer while they stream. A [`conversation`] is questions in
//!    turn, which can be forked, saved and restored.
//!    [`score_many`] tells how probable given answers are, [`vote`] makes one answer of several.
//! 5. [`reward`] says how right an answer is, [`advantage`] how much better than its group, [`loss`] what that means for
//!    the log-probability of every token.
//! 6. [`lora`] holds what is learned, as the adapter that a session applies from then on. [`Trainer::step`] is all of 4
//!    to 6 once around, over the questions of a [`Dataset`], and a [`run`] all of its steps, with checkpoints;
//!    [`Tuner::step`] learns from responses or from a teacher.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use owlet::{AnswerOptions, CancelToken, GenerateRequest, Image, Model, Prompt, RngKey, Session, generate};
//!
//! # fn main() -> owlet::Result<()> {
//! let model = Model::load("owl.gguf", &Default::default())?;
//! let prompt = model.encode(&Prompt::user("How many owls?", vec![Image::open("tree.jpg")?])?)?;
//! let mut session = Session::new(&model, &Default::default())?;
//! let request = GenerateRequest { prompt: &prompt, n: 1, rng_key: RngKey::default() };
//! let (greedy, cancel) = (AnswerOptions::greedy(256), CancelToken::new());
//! let answers = generate(&mut session, &[request], &greedy, &cancel, &mut |_| ControlFlow::Continue(()))?;
//! let (thinking, answer) = (&answers[0][0].thinking, &answers[0][0].text);
//! # Ok(())
//! # }
//! ```
//!
//! Every failure is an [`Error`] with an [`ErrorKind`]: bad files and arguments are refused before llama.cpp sees them.
#![forbid(unsafe_code)]

#[cfg(feature = "pull")]
pub mod pull;

pub use owlet_adapters::{
    advantage::{self, Estimator},
    checkpoint::{CheckpointStore, Resumed},
    data::{Dataset, Sample},
    engine::PrefixCacheOptions,
    entropy::EntropyBand,
    evaluate::{Answer, Evaluation, Score},
    file::{AdapterFile, Precision},
    gate,
    length::LengthEnvelope,
    lora::{self, LayerRange, LoraConfig, LoraMode, LoraWeights, Target},
    loss::{self, KlPenalty, LossOptions, Objective},
    method::Method,
    metrics::{MetricsFile, StepMetrics},
    optim::{Decay, Schedule},
    options::{GroupFilter, TrainerOptions},
    picture::Picture,
    plan::{MemoryPlan, Part as MemoryPart, PlanRequest},
    reward::{self, Reward, VerifiableReward},
    run,
    statistics::Interval,
    task::{ProblemType, TaskType},
    trainer::{Slice, StepEvent, Trainer},
    tune::{self, Fit, Responses, TuneEvent, TuneMetrics, TuneObjective, TuneOptions, Tuner, Who},
    vote,
};
pub use owlet_quant as quant;
pub use owlet_runtime::{
    Adapter, Alpha, AnswerOptions, AtomicFile, BareLoop, BoxCoordinates, BoxMap, CancelToken, Constraint, Deadline,
    DecodeOptions, Device, DeviceChoice, DeviceKind, EncodedPrompt, Error, ErrorKind, FlashAttention, GenerateRequest,
    Generated, IMAGE_MARK, Image, ImageBudget, ImageCache, ImageLimits, ImageOptions, ImagePlan, ImageWarning,
    InferencePart, InferencePlan, InferenceRequest, KvType, Message, Model, ModelInfo, ModelOptions, NoGpu,
    Orientation, Part, PixelFormat, Placement, Prompt, RawImage, Result, RngKey, Role, SamplerOptions, ScoreOptions,
    Scored, Session, SessionOptions, Speculation, StopReason, TextDecoder, ThinkEvent, ThinkSplitter, Timings,
    TokenEvent, TokenId, ToolCall, ToolCalls, Tools, conversation, devices, generate, gguf, gpu_backends,
    peak_memory_bytes,
    quantize::{QuantType, TensorChange},
    score, score_many, why_no_gpu,
};
