//! Owlet for Swift, Kotlin and Python: the objects that UniFFI hands over, thin over `owlet-host`, `owlet-runtime` and
//! `owlet-adapters`.
//!
//! 1. [`Model`] is loaded once; [`Image`] decodes what it shall see.
//! 2. [`Session`] answers questions in turn and streams [`Event`]s; [`Adapter`]s change how.
//! 3. [`AdaptJob`] trains an adapter over a [`Dataset`] with a [`Reward`] of the app, and can be paused at any time.
//! 4. [`AdapterGate`] lets an adapter go live only when held-out samples say that it is better.
//! 5. [`plan_inference`] and [`plan_adaptation`] tell the memory of all that beforehand.
//!
//! Conventions, for all languages:
//!
//! - Whatever computes or waits is `async` and ends when its task is cancelled, or by a [`CancelToken`]. What is not `async`
//!   returns at once, but for constructors of [`Image`], [`Adapter`] and [`Dataset`], which decode or read on the caller's thread.
//! - Fields of options that are not given mean Owlet's own defaults, which their documentation tells; so the numbers stand in
//!   one place.
//! - Functions of the app (the traits) are called on threads of Owlet, with no lock held. They return, or throw, and what they
//!   throw becomes the error of the call, of kind `Callback`. They must not wait for the object that calls them.
//! - Counts are `u32`, bytes `u64`; a number that is out of range is an error and never cut.
// No `forbid(unsafe_code)`: what UniFFI's macros write has some. `tests/layering.rs` keeps it out of these files.
#![expect(clippy::result_large_err, reason = "UniFFI's records hold no boxes, and calls that fail are few")]

mod adapter;
mod answer;
mod data;
mod device;
mod error;
mod evaluation;
mod gate;
mod image;
mod job;
mod log;
mod message;
mod metrics;
mod mirror;
mod model;
mod plan;
mod reward;
mod session;
mod training;

pub use self::{
    adapter::{ActiveAdapter, Adapter, AdapterInfo},
    answer::{AnswerOptions, Constraint, Generated, LogitBias, StopReason, TopToken},
    data::{Dataset, ProblemType, Sample, SampleImage, TaskType},
    device::{DeviceChoice, DeviceInfo, DeviceKind, devices, version, why_no_gpu},
    error::{CancelToken, ErrorInfo, ErrorKind, ErrorKindInfo, OwletError, error_kinds},
    evaluation::{EvaluatedAnswer, EvaluationReport, Interval, TaskScore},
    gate::{AdapterGate, Change, GateRule, TaskChange, Verdict, active_adapter},
    image::{Alpha, BoundingBox, Image, Orientation, PixelFormat, RawPixels},
    job::{AdaptJob, AdaptReport, Begin, JobState, Progress, ProgressSink},
    log::{LogLevel, LogSink, clear_log_sink, set_log_sink},
    message::{ChatMessage, MalformedCall, Message, Prompt, Role, ToolCall, ToolCalls},
    metrics::{StepMetrics, TaskMetrics},
    model::{GenerateOptions, LoadWatcher, Model, ModelInfo, ModelOptions, Placement, ScoreOptions, Scored, TokenSink},
    plan::{AdaptationPlan, InferencePlan, InferenceRequest, PlanPart, plan_adaptation, plan_inference},
    reward::{Reward, RewardParts, SampleView},
    session::{ConversationOptions, Event, EventSink, KvType, Overflow, Session, SessionOptions, Turn, TurnReport},
    training::{AdaptOptions, Method, Target},
};

uniffi::setup_scaffolding!("owlet");
