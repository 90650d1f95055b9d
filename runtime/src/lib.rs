//! Safe runtime over llama.cpp and ggml.

mod atomic;
mod error;
pub mod gguf;
mod mapped;
pub mod rng;

pub use atomic::AtomicFile;
pub use error::{Error, ErrorKind, Result};
pub use mapped::MappedFile;
