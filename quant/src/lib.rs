//! Hugging Face checkpoints to GGUF, and GGUF to smaller GGUF.
//!
//! 1. `checkpoint` maps the safetensors files of a directory, `config` reads and checks its sizes.
//! 2. `text`, `vision` and `tokenizer` say which keys and tensors the GGUF files get; `plan` is the common form of a
//!    tensor: its source, new shape, order of rows, and how its type follows from the one asked for.
//! 3. [`convert`] streams the weights, a few megabytes at a time, into files that appear when they are complete.
//! 4. [`quantize`] is the one door: a directory or a GGUF file in, any mixture out, through llama.cpp's quantizer
//!    (`owlet_runtime::quantize`) where the mixture has more than plain types.
//! 5. [`synth`] writes models with random weights, of any family, shape and mixture.
//!
//! No model is loaded anywhere: memory stays bounded whatever the size of the weights. Families: Qwen3-VL, Qwen3, Qwen2
//! and Llama; another is refused by name.
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod convert;
mod json;
mod plan;
mod report;
mod request;
pub mod synth;
mod text;
mod tokenizer;
mod vision;
mod write;

pub use convert::{ConvertOptions, convert};
pub use report::{ConvertReport, FileReport, Progress, Stage};
pub use request::{QuantizeReport, QuantizeRequest, quantize};

/// Version of the layout of ggml's packed types.
const QUANTIZATION_VERSION: u32 = 2;
