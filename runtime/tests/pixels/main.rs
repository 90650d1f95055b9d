//! Pictures: from files of every format, good and bad, to the pixels that a model sees, and from its boxes back.

mod boxes;
#[path = "../common/mod.rs"]
mod common;
mod damaged;
mod formats;
mod plan;
mod resize;
