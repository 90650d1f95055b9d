//! What the forward pass of a layer leaves for its backward pass.
//!
//! The same code records a layer in three ways: computing everything, computing and keeping the results of matrix
//! products, or reading those back. Which one is a matter of memory and time, never of numbers.

use owlet_runtime::ggml::{Graph, Shape, Stored, Tensor};

use super::{attention, family::Decoder, layout::Layout};

/// Where the intermediate results of one layer come from and go to.
pub(super) enum Tape<'a> {
    /// Computed and forgotten.
    Compute,
    /// Computed into the slots that remain.
    Record(std::slice::Iter<'a, Stored>),
    /// Read from the slots that remain.
    Replay(std::slice::Iter<'a, Stored>),
}

const ORDER: &str = "a tape is replayed in the order of `slots`, which has a slot for every result";

impl Tape<'_> {
    /// The next result: computed by `compute`, or read.
    pub(super) fn keep(&mut self, graph: &mut Graph, compute: impl FnOnce(&mut Graph) -> Tensor) -> Tensor {
        match self {
            Self::Compute => compute(graph),
            Self::Record(slots) => {
                let result = compute(graph);
                graph.place(result, slots.next().expect(ORDER));
                result
            }
            Self::Replay(slots) => graph.leaf(slots.next().expect(ORDER)),
        }
    }

    /// As [`Tape::keep`], where the way back refers to the result only if `is_used`.
    pub(super) fn keep_if(
        &mut self,
        is_used: bool,
        graph: &mut Graph,
        compute: impl FnOnce(&mut Graph) -> Tensor,
    ) -> Option<Tensor> {
        match is_used {
            true => Some(self.keep(graph, compute)),
            false => (!self.is_replay()).then(|| compute(graph)),
        }
    }

    /// Whether results are read, so that what only leads to them need not be computed.
    pub(super) fn is_replay(&self) -> bool {
        matches!(self, Self::Replay(_))
    }
}

/// Shapes of what a layer keeps, in the order in which `layer.rs` and `attention.rs` keep it.
pub(super) fn slots(decoder: &Decoder, layout: &Layout) -> Vec<Shape> {
    let n_tokens = layout.n_tokens;
    let (query, key) = (decoder.query_width(), decoder.key_width());
    let mut slots: Vec<Shape> = Vec::new();
    if decoder.normalised_heads {
        slots.extend([query, key].map(|width| [width, n_tokens, 1, 1]));
    }
    slots.push([key, n_tokens, 1, 1]);
    slots.push([decoder.head_dim, decoder.n_head, n_tokens, 1]);
    slots.push([decoder.head_dim, decoder.n_head_kv, n_tokens, 1]);
    slots.push(attention::result_shape(decoder, layout));
    slots.extend([decoder.n_embd, decoder.n_ff, decoder.n_ff].map(|width| [width, n_tokens, 1, 1]));
    slots
}
