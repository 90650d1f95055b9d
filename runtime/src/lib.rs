//! Safe runtime over llama.cpp and ggml.

mod error;

pub use error::{Error, ErrorKind, Result};
