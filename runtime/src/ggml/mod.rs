//! Safe ggml: tensors that live on a backend, and graphs of forward operations over them.
//!
//! 1. [`Backend`] owns the device, its thread pool and the scratch memory of graphs.
//! 2. [`Stored`] is a tensor with memory of its own: [`Backend::allocate`] makes blank ones, [`Backend::weight`] maps one
//!    straight from a GGUF file.
//! 3. [`Graph`] records operations **in the order in which they will run**; a [`Tensor`] names one result inside it.
//!    A result is scratch unless [`Graph::place`] or [`Graph::copy`] puts it into a [`Stored`].
//! 4. [`Backend::run`] computes a graph; [`Backend::read`] and [`Backend::write`] move numbers.
//!
//! Shapes are in ggml's order: `shape[0]` is the length of a row. [`Graph::mul_mat`] contracts over `shape[0]` of both
//! operands, so a weight `[n_in, n_out]` times tokens `[n_in, n_tokens]` gives `[n_out, n_tokens]`.
//!
//! ggml aborts the process when an operation does not fit its operands. Here every operation checks them first and
//! panics instead; who builds graphs from untrusted shapes checks those shapes when the file is opened. All memory of a
//! backend is reached through `&mut Backend`, which is what makes the raw pointers sound.

mod attention;
mod backend;
mod fused;
mod graph;
mod ops;
mod product;
mod rope;
mod stored;
#[cfg(test)]
mod tests;
mod transpose;
mod turns;

pub use attention::{AttentionGradients, Branches};
pub use backend::Backend;
pub use fused::SwigluGradients;
pub use graph::{Graph, Tensor};
pub use ops::{MAX_PRODUCTS, Packed};
pub use rope::{Rope, RopeMode};
pub use stored::{Arena, Shape, Stored};
