//! An embeddable runtime for vision-language models that run, and learn, on the device.
#![forbid(unsafe_code)]

pub use owlet_runtime::{Error, ErrorKind, Result};
