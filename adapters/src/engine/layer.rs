//! One decoder layer, and back.
//!
//! `x2 = x + O(attention(Q(n), K(n), V(n)))` with `n = norm(x)`, then `x2 + Down(silu(Gate(m)) * Up(m))` with `m = norm(x2)`.
//! All hidden states are `[n_embd, T]`.

use owlet_runtime::ggml::{Graph, Stored, SwigluGradients, Tensor};

use super::{
    adapter::{AdapterLeaves, LayerAdapters},
    attention::{Attended, Attention, Packed},
    linear::{self, Back, Input},
    norm,
    tape::Tape,
    weights::Layer,
};
use crate::lora::Target;

/// A layer in a graph, with what it needs of the group.
pub(super) struct LayerGraph<'a> {
    pub layer: &'a Layer,
    pub adapters: &'a LayerAdapters,
    pub attention: &'a Attention<'a>,
    /// Positions, as the rope mode wants them.
    pub positions: Tensor,
    /// The same negated.
    pub negated_positions: Tensor,
    /// Divisors of the rotations' frequencies, where the file has them.
    pub frequency_factors: Option<Tensor>,
}

/// Everything of the forward pass that the backward pass refers to.
pub(super) struct Activations {
    x: Tensor,
    attention_input: Tensor,
    /// Queries and keys as the linear layers give them; `None` where the way back does not need them.
    raw_q: Option<Tensor>,
    raw_k: Option<Tensor>,
    packed: Packed,
    attended: Attended,
    residual: Tensor,
    feed_forward_input: Tensor,
    gate: Tensor,
    up: Tensor,
}

const COMPUTED: &str = "what is not read from a tape is computed from its inputs";

impl Activations {
    /// Keys, rotated, and values, `[head_dim * n_head_kv, T]`.
    pub(super) fn keys_and_values(&self) -> (Tensor, Tensor) {
        (self.packed.k, self.packed.v)
    }
}

impl LayerGraph<'_> {
    /// All but the last product of the layer, for the input `x`.
    pub(super) fn activations(&self, graph: &mut Graph, x: Tensor, tape: &mut Tape) -> Activations {
        let decoder = self.attention.decoder;
        let attention_input = norm::forward(graph, x, &self.layer.attention_norm, decoder.eps);
        let mut input = Input::new(attention_input);
        // Rotation and scale have gradients that do not depend on their input.
        let are_used = self.layer.head_norms.is_some();
        let raw_q = tape.keep_if(are_used, graph, |graph| self.linear(graph, Target::Q, &mut input));
        let raw_k = tape.keep_if(are_used, graph, |graph| self.linear(graph, Target::K, &mut input));
        let v = tape.keep(graph, |graph| self.linear(graph, Target::V, &mut input));
        let scale = self.query_scale();
        let q = tape.keep(graph, |graph| {
            let heads = self.by_head(graph, raw_q.expect(COMPUTED), decoder.n_head);
            let gain = self.layer.head_norms.as_ref().map(|(gain, _)| gain);
            let heads = gain.map_or(heads, |gain| norm::forward(graph, heads, gain, decoder.eps));
            let rotated = self.rotate(graph, heads, self.positions);
            graph.scale(rotated, scale, 0.0)
        });
        let k = tape.keep(graph, |graph| self.rotated_keys(graph, raw_k.expect(COMPUTED)));
        let packed = Packed { q: self.flat(graph, q), k: self.flat(graph, k), v };
        let attended = self.attention.forward(graph, packed, tape);
        let residual =
            tape.keep(graph, |graph| self.linear_onto(graph, Target::O, &mut Input::new(attended.output), Some(x)));
        let feed_forward_input = norm::forward(graph, residual, &self.layer.feed_forward_norm, decoder.eps);
        let mut input = Input::new(feed_forward_input);
        let gate = tape.keep(graph, |graph| self.linear(graph, Target::Gate, &mut input));
        let up = tape.keep(graph, |graph| self.linear(graph, Target::Up, &mut input));
        Activations { x, attention_input, raw_q, raw_k, packed, attended, residual, feed_forward_input, gate, up }
    }

    /// Keys, rotated, and values of the layer for the input `x`, `[head_dim * n_head_kv, T]`; the rest of the layer is
    /// left out.
    pub(super) fn keys_and_values(&self, graph: &mut Graph, x: Tensor) -> (Tensor, Tensor) {
        let input = norm::forward(graph, x, &self.layer.attention_norm, self.attention.decoder.eps);
        let mut input = Input::new(input);
        let raw_k = self.linear(graph, Target::K, &mut input);
        let k = self.rotated_keys(graph, raw_k);
        (self.flat(graph, k), self.linear(graph, Target::V, &mut input))
    }

    /// Norm, where the family has one, and rotation of keys as the linear layer gives them; by head.
    fn rotated_keys(&self, graph: &mut Graph, raw: Tensor) -> Tensor {
        let decoder = self.attention.decoder;
        let heads = self.by_head(graph, raw, decoder.n_head_kv);
        let gain = self.layer.head_norms.as_ref().map(|(_, gain)| gain);
        let heads = gain.map_or(heads, |gain| norm::forward(graph, heads, gain, decoder.eps));
        self.rotate(graph, heads, self.positions)
    }

    fn rotate(&self, graph: &mut Graph, heads: Tensor, positions: Tensor) -> Tensor {
        graph.rope(heads, positions, self.frequency_factors, &self.attention.decoder.rope)
    }

    /// The output of the layer.
    pub(super) fn output(&self, graph: &mut Graph, activations: &Activations) -> Tensor {
        let hidden = graph.swiglu(activations.gate, activations.up);
        self.linear_onto(graph, Target::Down, &mut Input::new(hidden), Some(activations.residual))
    }

    /// For the gradient `dy` of the output: computes the gradients of the adapters, and returns that of the input if
    /// `needs_dx`.
    pub(super) fn backward(
        &self,
        graph: &mut Graph,
        forward: &Activations,
        dy: Tensor,
        needs_dx: bool,
    ) -> Option<Tensor> {
        let eps = self.attention.decoder.eps;
        let heads_matter = needs_dx || self.adapts(&[Target::Q, Target::K, Target::V]);
        let attention_matters = heads_matter || self.adapts(&[Target::O]);
        let gated_matters = attention_matters || self.adapts(&[Target::Gate, Target::Up]);

        let down = self.back(graph, Target::Down, dy);
        if !gated_matters {
            let hidden = graph.swiglu(forward.gate, forward.up);
            down.adapter_gradients(graph, &mut Input::new(hidden));
            return None;
        }
        let d_hidden = down.dx(graph);
        let SwigluGradients { hidden, d_gate, d_up } = graph.swiglu_back(d_hidden, forward.gate, forward.up);
        down.adapter_gradients(graph, &mut Input::new(hidden));

        let input = &mut Input::new(forward.feed_forward_input);
        let branches = self.branches(graph, [(Target::Gate, d_gate), (Target::Up, d_up)], input);
        if !attention_matters {
            return None;
        }
        let d_input = linear::common_dx(graph, &branches);
        let norm = &self.layer.feed_forward_norm;
        let d_residual = norm::backward(graph, forward.residual, norm, d_input, eps, Some(dy));

        let [output] = self.branches(graph, [(Target::O, d_residual)], &mut Input::new(forward.attended.output));
        if !heads_matter {
            return None;
        }
        let d_attended = output.dx(graph);
        let d_packed = self.attention.backward(graph, forward.packed, &forward.attended, d_attended);
        let d_raw = self.heads_back(graph, forward, d_packed);
        let input = &mut Input::new(forward.attention_input);
        let branches = [(Target::Q, d_raw.q), (Target::K, d_raw.k), (Target::V, d_raw.v)];
        let branches = self.branches(graph, branches, input);
        if !needs_dx {
            return None;
        }
        let d_input = linear::common_dx(graph, &branches);
        Some(norm::backward(graph, forward.x, &self.layer.attention_norm, d_input, eps, Some(d_residual)))
    }

    /// Back through scale, rotation and norm of queries and keys.
    fn heads_back(&self, graph: &mut Graph, forward: &Activations, gradients: Packed) -> Packed {
        let decoder = self.attention.decoder;
        let d_q = graph.scale(gradients.q, self.query_scale(), 0.0);
        let gains = self.layer.head_norms.as_ref();
        let back = |graph: &mut Graph, gradient, raw: Option<Tensor>, n_heads, gain: Option<&Stored>| {
            let gradient = self.by_head(graph, gradient, n_heads);
            let mut gradient = self.rotate(graph, gradient, self.negated_positions);
            if let Some((gain, raw)) = gain.zip(raw) {
                let raw = self.by_head(graph, raw, n_heads);
                gradient = norm::backward(graph, raw, gain, gradient, decoder.eps, None);
            }
            self.flat(graph, gradient)
        };
        Packed {
            q: back(graph, d_q, forward.raw_q, decoder.n_head, gains.map(|(gain, _)| gain)),
            k: back(graph, gradients.k, forward.raw_k, decoder.n_head_kv, gains.map(|(_, gain)| gain)),
            v: gradients.v,
        }
    }

    fn linear(&self, graph: &mut Graph, target: Target, input: &mut Input) -> Tensor {
        self.linear_onto(graph, target, input, None)
    }

    fn linear_onto(&self, graph: &mut Graph, target: Target, input: &mut Input, addend: Option<Tensor>) -> Tensor {
        linear::forward(graph, self.layer.linear(target), self.adapter(target), input, addend)
    }

    fn back(&self, graph: &mut Graph, target: Target, dy: Tensor) -> Back<'_> {
        Back::new(graph, self.layer.linear(target), self.adapter(target), dy)
    }

    /// The ways back through layers with the same `input` for the gradients of their results. Computes the gradients of
    /// their adapters.
    fn branches<const N: usize>(
        &self,
        graph: &mut Graph,
        gradients: [(Target, Tensor); N],
        input: &mut Input,
    ) -> [Back<'_>; N] {
        gradients.map(|(target, dy)| {
            let back = self.back(graph, target, dy);
            back.adapter_gradients(graph, input);
            back
        })
    }

    fn adapter(&self, target: Target) -> Option<&AdapterLeaves> {
        self.adapters[target as usize].as_ref()
    }

    fn adapts(&self, targets: &[Target]) -> bool {
        targets.iter().any(|&target| self.adapter(target).is_some())
    }

    /// Scaling the queries scales all their scores.
    fn query_scale(&self) -> f32 {
        1.0 / (self.attention.decoder.head_dim as f32).sqrt()
    }

    fn by_head(&self, graph: &mut Graph, x: Tensor, n_heads: usize) -> Tensor {
        let n_tokens = self.attention.layout.n_tokens;
        graph.reshape(x, &[self.attention.decoder.head_dim, n_heads, n_tokens])
    }

    fn flat(&self, graph: &mut Graph, heads: Tensor) -> Tensor {
        let [head_dim, n_heads, n_tokens, _] = graph.shape(heads);
        graph.reshape(heads, &[head_dim * n_heads, n_tokens])
    }
}
