//! RMS norm with a gain, and back. Works on rows, whatever the further dimensions are.

use owlet_runtime::ggml::{Graph, Stored, Tensor};

/// `x / sqrt(mean(x²) + eps) * gain`.
pub(super) fn forward(graph: &mut Graph, x: Tensor, gain: &Stored, eps: f32) -> Tensor {
    let gain = graph.leaf(gain);
    let normalised = graph.rms_norm(x, eps);
    graph.mul(normalised, gain)
}

/// dx for the gradient `dy` of the result: with n = x / rms and d = dy * gain, `dx = (d - n mean(d n)) / rms`.
pub(super) fn backward(graph: &mut Graph, x: Tensor, gain: &Stored, dy: Tensor, eps: f32) -> Tensor {
    let width = graph.shape(x)[0] as f32;
    let gain = graph.leaf(gain);
    let normalised = graph.rms_norm(x, eps);
    let d = graph.mul(dy, gain);
    let projection = graph.dot_rows(d, normalised);
    let projection = graph.scale(projection, -1.0 / width, 0.0);
    let along = graph.mul(normalised, projection);
    let across = graph.add(d, along);
    let square = graph.dot_rows(x, x);
    let mean_square = graph.scale(square, 1.0 / width, eps);
    let rms = graph.sqrt(mean_square);
    graph.div(across, rms)
}
