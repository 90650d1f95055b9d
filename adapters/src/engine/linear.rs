//! A linear layer with its adapter: `y = W x + bias + s B (A x)`, and back.
//!
//! Shapes in ggml's order, T tokens, r rank: x `[n_in, T]`, y `[n_out, T]`, W `[n_in, n_out]`, A `[n_in, r]`, B `[r, n_out]`.
//! With u = s Bᵀ dy: dx = Wᵀ dy + Aᵀ u, dA = u xᵀ, dB = s dy (A x)ᵀ.

use owlet_runtime::ggml::{Graph, Packed, Tensor};

use super::{adapter::AdapterLeaves, weights::Linear};

/// The input of one or several linear layers, laid out for products once somebody needs it.
pub(super) struct Input {
    pub x: Tensor,
    packed: Option<Packed>,
}

impl Input {
    pub(super) fn new(x: Tensor) -> Self {
        Self { x, packed: None }
    }

    fn packed(&mut self, graph: &mut Graph) -> Packed {
        *self.packed.get_or_insert_with(|| graph.pack(self.x))
    }
}

/// y for the input `input`. Products are in F32 of the weights as the file has them.
pub(super) fn forward(
    graph: &mut Graph,
    linear: &Linear,
    adapter: Option<&AdapterLeaves>,
    input: &mut Input,
) -> Tensor {
    let weight = graph.leaf(&linear.weight);
    let mut products = vec![(weight, input.packed(graph))];
    if let Some(adapter) = adapter {
        let low = low_rank(graph, adapter, input.x);
        products.push((adapter.b, graph.pack(low)));
    }
    let y = graph.sum_of_products(&products);
    match &linear.bias {
        None => y,
        Some(bias) => {
            let bias = graph.leaf(bias);
            graph.add(y, bias)
        }
    }
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
    x: Tensor,
    dy: Tensor,
    needs_dx: bool,
) -> Option<Tensor> {
    let through_adapter = adapter.map(|adapter| {
        let b_transposed = graph.transposed(adapter.b);
        let u = graph.mul_mat(b_transposed, dy);
        let u = graph.scale(u, adapter.scaling, 0.0);
        let da = outer_product(graph, x, u);
        graph.place(da, &adapter.gradients.a);

        let low = low_rank(graph, adapter, x);
        let db = outer_product(graph, dy, low);
        let db = graph.transposed(db);
        graph.place(db, &adapter.gradients.b);
        (adapter.a, u)
    });
    if !needs_dx {
        return None;
    }
    let weight = graph.leaf(&linear.weight);
    let mut products = vec![(graph.transpose(weight), graph.pack(dy))];
    if let Some((a, u)) = through_adapter {
        products.push((graph.transpose(a), graph.pack(u)));
    }
    Some(graph.sum_of_products(&products))
}

/// The sum over tokens of the products of `wide [n, T]` with `narrow [r, T]`: `[n, r]`.
fn outer_product(graph: &mut Graph, wide: Tensor, narrow: Tensor) -> Tensor {
    let wide = graph.transpose(wide);
    let narrow = graph.transpose(narrow);
    let narrow = graph.pack(narrow);
    graph.product(wide, narrow)
}

/// `wᵀ dy` for the rows `w [n_in, n]` of a weight of any type.
pub(super) fn transposed_product(graph: &mut Graph, w: Tensor, dy: Tensor) -> Tensor {
    let w = graph.transpose(w);
    let dy = graph.pack(dy);
    graph.product(w, dy)
}
