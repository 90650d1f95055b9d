//! Safe runtime over llama.cpp and ggml.

mod error;
pub mod rng;

pub use error::{Error, ErrorKind, Result};
