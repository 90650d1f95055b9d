//! A linear layer with its adapter: `y = W x + bias + s B (A x)`, and back.
//!
//! Shapes in ggml's order, T tokens, r rank: x `[n_in, T]`, y `[n_out, T]`, W `[n_in, n_out]`, A `[n_in, r]`, B `[r, n_out]`.
//! With u = s Bᵀ dy: dx = Wᵀ dy + Aᵀ u, dA = u xᵀ, dB = s dy (A x)ᵀ.

use owlet_runtime::ggml::{Graph, Tensor};

use super::{adapter::AdapterLeaves, weights::Linear};

/// Tensors that each part of a chunked product takes in a graph.
pub(super) const CHUNK_CAPACITY: usize = 8;

/// The input of one or several linear layers, and its transpose once somebody needed it.
pub(super) struct Input {
    pub x: Tensor,
    transposed: Option<Tensor>,
}

impl Input {
    pub(super) fn new(x: Tensor) -> Self {
        Self { x, transposed: None }
    }

    fn transposed(&mut self, graph: &mut Graph) -> Tensor {
        *self.transposed.get_or_insert_with(|| graph.transposed(self.x))
    }
}

/// y for the input `x`.
pub(super) fn forward(graph: &mut Graph, linear: &Linear, adapter: Option<&AdapterLeaves>, x: Tensor) -> Tensor {
    let weight = graph.leaf(&linear.weight);
    let mut y = graph.mul_mat(weight, x);
    if let Some(bias) = &linear.bias {
        let bias = graph.leaf(bias);
        y = graph.add(y, bias);
    }
    if let Some(adapter) = adapter {
        let low = low_rank(graph, adapter, x);
        let update = graph.mul_mat(adapter.b, low);
        y = graph.add(y, update);
    }
    y
}

/// `s A x`, `[r, T]`.
fn low_rank(graph: &mut Graph, adapter: &AdapterLeaves, x: Tensor) -> Tensor {
    let low = graph.mul_mat(adapter.a, x);
    graph.scale(low, adapter.scaling, 0.0)
}

/// Computes the gradients of the adapter into its staging memory, and returns dx if it is needed.
pub(super) fn backward(
    graph: &mut Graph,
    linear: &Linear,
    adapter: Option<&AdapterLeaves>,
    input: &mut Input,
    dy: Tensor,
    needs_dx: bool,
) -> Option<Tensor> {
    let through_adapter = adapter.map(|adapter| {
        let b_transposed = graph.transposed(adapter.b);
        let u = graph.mul_mat(b_transposed, dy);
        let u = graph.scale(u, adapter.scaling, 0.0);

        let x_transposed = input.transposed(graph);
        let u_transposed = graph.transposed(u);
        let da = graph.mul_mat(x_transposed, u_transposed);
        graph.place(da, &adapter.gradients.a);

        let low = low_rank(graph, adapter, input.x);
        let low_transposed = graph.transposed(low);
        let dy_transposed = graph.transposed(dy);
        let db = graph.mul_mat(low_transposed, dy_transposed);
        graph.place(db, &adapter.gradients.b);
        (adapter.a, u)
    });
    if !needs_dx {
        return None;
    }
    let mut dx = through_weight(graph, linear, dy);
    if let Some((a, u)) = through_adapter {
        let a_transposed = graph.transposed(a);
        let update = graph.mul_mat(a_transposed, u);
        dx = graph.add(dx, update);
    }
    Some(dx)
}

/// `Wᵀ dy`, `[n_in, T]`.
pub(super) fn through_weight(graph: &mut Graph, linear: &Linear, dy: Tensor) -> Tensor {
    if let Some(transposed) = &linear.transposed {
        let transposed = graph.leaf(transposed);
        return graph.mul_mat(transposed, dy);
    }
    let weight = graph.leaf(&linear.weight);
    let n_out = linear.n_out();
    let n_chunk = linear.n_chunk;
    if n_chunk >= n_out {
        return transposed_product(graph, weight, dy);
    }
    let sum = graph.scratch(&[linear.n_in(), graph.shape(dy)[1]]);
    for start in (0..n_out).step_by(n_chunk) {
        let n = n_chunk.min(n_out - start);
        let rows = graph.slice(weight, 1, start, n);
        let outputs = graph.slice(dy, 0, start, n);
        let outputs = graph.contiguous(outputs);
        let part = transposed_product(graph, rows, outputs);
        if start == 0 { graph.copy(part, sum) } else { graph.add_into(sum, part) }
    }
    sum
}

/// `wᵀ dy` for the rows `w [n_in, n]` of a weight of any type.
pub(super) fn transposed_product(graph: &mut Graph, w: Tensor, dy: Tensor) -> Tensor {
    let values = graph.dequantize(w);
    let transposed = graph.transposed(values);
    graph.mul_mat(transposed, dy)
}
