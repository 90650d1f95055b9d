//! GGUF files: safe reader and writer.
//!
//! Everything that llama.cpp would abort on, or trust, is checked here first: [`GgufFile::open`] accepts a file only
//! when its header is consistent with itself and with the length of the file, so what comes after (models, adapters,
//! the training engine's tensors over the same mapping) can take offsets and shapes at their word.
//!
//! Shapes are in ggml order everywhere: `shape[0]` is the row length, the contiguous dimension.

mod hash;
mod read;
mod types;
mod value;
mod write;

pub use read::GgufFile;
pub use types::{GgmlType, TensorInfo};
pub use value::{Array, Value};
pub use write::{GgufStream, GgufWriter};

/// First four bytes of every file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The version we write; version 2 has the same layout and is read too.
const VERSION: u32 = 3;
/// Metadata key of the alignment of tensor data in bytes.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment of files that do not name one.
const DEFAULT_ALIGNMENT: u64 = 32;
/// llama.cpp keeps tensor names in arrays of 64 bytes, the last one 0.
const MAX_NAME_BYTES: usize = 63;
/// ggml tensors have at most this many dimensions.
const MAX_DIMS: usize = 4;

#[cfg(test)]
mod tests;
