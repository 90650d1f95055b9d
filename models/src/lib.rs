//! The embedded tiny model's world: the synthetic tasks that it was trained on.
//!
//! 1. [`rng`]: counter-based random numbers, the same on every platform;
//! 2. [`scene`]: what a picture shows (shapes, text, a bar chart), drawn with integers only;
//! 3. [`tasks`]: questions of the six task types, each with its answer and two ways to reply;
//! 4. [`dataset`]: JSONL + PNG in the reference's format.
//!
//! The replies come in two styles. *Careful* ones list what they see and read the answer off the
//! list; *hasty* ones glance and are wrong by a fixed rule about half of the time. The model was
//! trained on more hasty replies than careful ones, so it is half-good on purpose: reinforcement
//! learning can find out that looking first pays.
#![forbid(unsafe_code)]

pub mod canvas;
mod compose;
pub mod dataset;
pub mod font;
mod questions;
pub mod rng;
pub mod scene;
pub mod tasks;

/// The embedded model: a Qwen3-VL of 7 million weights in F16, made by `owlet quantize` from the recipe's checkpoint.
pub const MODEL_GGUF: &[u8] = include_bytes!("../owlet-tiny-F16.gguf");

/// Its vision tower in F16.
pub const MMPROJ_GGUF: &[u8] = include_bytes!("../mmproj-owlet-tiny-F16.gguf");

pub use compose::WORDS;
pub use dataset::{DatasetError, DatasetOptions, write_dataset};
pub use scene::{Mark, Scene};
pub use tasks::{
    DESCRIBE_PROBLEM, IMAGE_SIZE, PROMPT_SUFFIX, Sample, Split, TaskKind, compose_prompt, sample, sample_sized,
};
