//! RMS norm with a gain, and back. Works on rows, whatever the further dimensions are.

use owlet_runtime::ggml::{Graph, Stored, Tensor};

/// `x / sqrt(mean(x²) + eps) * gain`.
pub(super) fn forward(graph: &mut Graph, x: Tensor, gain: &Stored, eps: f32) -> Tensor {
    let gain = graph.leaf(gain);
    let normalised = graph.rms_norm(x, eps);
    graph.mul(normalised, gain)
}

/// dx for the gradient `dy` of the result, plus `addend`.
pub(super) fn backward(
    graph: &mut Graph,
    x: Tensor,
    gain: &Stored,
    dy: Tensor,
    eps: f32,
    addend: Option<Tensor>,
) -> Tensor {
    let gain = graph.leaf(gain);
    graph.rms_norm_back(x, gain, dy, eps, addend)
}
