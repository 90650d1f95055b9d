//! One decoder layer, and back.
//!
//! `x2 = x + O(attention(Q(n), K(n), V(n)))` with `n = norm(x)`, then `x2 + Down(silu(Gate(m)) * Up(m))` with `m = norm(x2)`.
//! All hidden states are `[n_embd, T]`.

use owlet_runtime::ggml::{Graph, Stored, Tensor};

use super::{
    adapter::{AdapterLeaves, LayerAdapters},
    attention::{Attended, Attention, Packed},
    linear::{self, Input},
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
    activated_gate: Tensor,
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
            let rotated = graph.rope(heads, self.positions, &decoder.rope);
            graph.scale(rotated, scale, 0.0)
        });
        let k = tape.keep(graph, |graph| self.rotated_keys(graph, raw_k.expect(COMPUTED)));
        let packed = Packed { q: self.flat(graph, q), k: self.flat(graph, k), v };
        let attended = self.attention.forward(graph, packed, tape);
        let residual = tape.keep(graph, |graph| {
            let update = self.linear(graph, Target::O, &mut Input::new(attended.output));
            graph.add(x, update)
        });
        let feed_forward_input = norm::forward(graph, residual, &self.layer.feed_forward_norm, decoder.eps);
        let mut input = Input::new(feed_forward_input);
        let gate = tape.keep(graph, |graph| self.linear(graph, Target::Gate, &mut input));
        let up = tape.keep(graph, |graph| self.linear(graph, Target::Up, &mut input));
        let activated_gate = graph.silu(gate);
        Activations {
            x,
            attention_input,
            raw_q,
            raw_k,
            packed,
            attended,
            residual,
            feed_forward_input,
            gate,
            up,
            activated_gate,
        }
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
        graph.rope(heads, self.positions, &decoder.rope)
    }

    /// The output of the layer.
    pub(super) fn output(&self, graph: &mut Graph, activations: &Activations) -> Tensor {
        let hidden = graph.mul(activations.activated_gate, activations.up);
        let update = self.linear(graph, Target::Down, &mut Input::new(hidden));
        graph.add(activations.residual, update)
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
        let attention_matters = needs_dx || self.adapts(&[Target::Q, Target::K, Target::V, Target::O]);

        let hidden = graph.mul(forward.activated_gate, forward.up);
        let gated_matters = attention_matters || self.adapts(&[Target::Gate, Target::Up]);
        let d_hidden = self.linear_back(graph, Target::Down, hidden, dy, gated_matters)?;
        let d_up = graph.mul(d_hidden, forward.activated_gate);
        let d_activated = graph.mul(d_hidden, forward.up);
        let d_gate = graph.silu_back(d_activated, forward.gate);
        let input = forward.feed_forward_input;
        let through_gate = self.linear_back(graph, Target::Gate, input, d_gate, attention_matters);
        let through_up = self.linear_back(graph, Target::Up, input, d_up, attention_matters);
        let d_input = graph.add(through_gate?, through_up?);
        let through_norm = norm::backward(graph, forward.residual, &self.layer.feed_forward_norm, d_input, eps);
        let d_residual = graph.add(dy, through_norm);

        let heads_matter = needs_dx || self.adapts(&[Target::Q, Target::K, Target::V]);
        let input = forward.attended.output;
        let d_attended = self.linear_back(graph, Target::O, input, d_residual, heads_matter)?;
        let d_packed = self.attention.backward(graph, forward.packed, &forward.attended, d_attended);
        let d_raw = self.heads_back(graph, forward, d_packed);
        let input = forward.attention_input;
        let through_q = self.linear_back(graph, Target::Q, input, d_raw.q, needs_dx);
        let through_k = self.linear_back(graph, Target::K, input, d_raw.k, needs_dx);
        let through_v = self.linear_back(graph, Target::V, input, d_raw.v, needs_dx);
        let d_input = graph.add(through_q?, through_k?);
        let d_input = graph.add(d_input, through_v?);
        let through_norm = norm::backward(graph, forward.x, &self.layer.attention_norm, d_input, eps);
        Some(graph.add(d_residual, through_norm))
    }

    /// Back through scale, rotation and norm of queries and keys.
    fn heads_back(&self, graph: &mut Graph, forward: &Activations, gradients: Packed) -> Packed {
        let decoder = self.attention.decoder;
        let d_q = graph.scale(gradients.q, self.query_scale(), 0.0);
        let gains = self.layer.head_norms.as_ref();
        let back = |graph: &mut Graph, gradient, raw: Option<Tensor>, n_heads, gain: Option<&Stored>| {
            let gradient = self.by_head(graph, gradient, n_heads);
            let mut gradient = graph.rope(gradient, self.negated_positions, &decoder.rope);
            if let Some((gain, raw)) = gain.zip(raw) {
                let raw = self.by_head(graph, raw, n_heads);
                gradient = norm::backward(graph, raw, gain, gradient, decoder.eps);
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
        linear::forward(graph, self.layer.linear(target), self.adapter(target), input)
    }

    fn linear_back(&self, graph: &mut Graph, target: Target, x: Tensor, dy: Tensor, needs_dx: bool) -> Option<Tensor> {
        linear::backward(graph, self.layer.linear(target), self.adapter(target), x, dy, needs_dx)
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
