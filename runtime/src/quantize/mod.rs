//! Quantization by llama.cpp: a GGUF file into a smaller one, or single rows of a tensor.
//!
//! [`quantize_file`] takes llama.cpp's mixtures as they are (`Q4_K_M` keeps some tensors at 6 bits); which type each
//! tensor gets is told beforehand by [`plan_quantization`]. [`quantize_rows`] is for writers that choose themselves.

mod file;
mod log;
mod rows;
mod types;

pub use file::{QuantizeOptions, TensorChange, plan_quantization, quantize_file};
pub use rows::{dequantize_rows, quantize_rows};
pub use types::QuantType;
