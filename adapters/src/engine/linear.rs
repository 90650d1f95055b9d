//! A linear layer with its adapter: `y = W x + bias + s B (A x)`, and back.
//!
//! Shapes in ggml's order, T tokens, r rank: x `[n_in, T]`, y `[n_out, T]`, W `[n_in, n_out]`, A `[n_in, r]`, B `[r, n_out]`.
//! With u = s Bᵀ dy: dx = Wᵀ dy + Aᵀ u, dA = u xᵀ, dB = s dy (A x)ᵀ. Graphs are given s B in place of B, and leave the factor s
//! of dB to whoever collects it.

use owlet_runtime::ggml::{Graph, MAX_PRODUCTS, Packed, Tensor};

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

/// y for the input `input`, plus `addend`. Products are in F32 of the weights as the file has them.
pub(super) fn forward(
    graph: &mut Graph,
    linear: &Linear,
    adapter: Option<&AdapterLeaves>,
    input: &mut Input,
    addend: Option<Tensor>,
) -> Tensor {
    let weight = graph.leaf(&linear.weight);
    let x = input.packed(graph);
    let mut products = vec![(weight, x)];
    if let Some(adapter) = adapter {
        let low = graph.product(adapter.a, x);
        products.push((adapter.b, graph.pack(low)));
    }
    let y = graph.add_products(addend, &products);
    match &linear.bias {
        None => y,
        Some(bias) => {
            let bias = graph.leaf(bias);
            graph.add(y, bias)
        }
    }
}

/// The way back through a linear layer for the gradient dy of its result.
pub(super) struct Back<'a> {
    linear: &'a Linear,
    adapter: Option<&'a AdapterLeaves>,
    dy: Tensor,
    packed_dy: Packed,
    /// `s Bᵀ dy`, `[r, T]`, where there is an adapter.
    u: Option<Tensor>,
}

impl<'a> Back<'a> {
    pub(super) fn new(graph: &mut Graph, linear: &'a Linear, adapter: Option<&'a AdapterLeaves>, dy: Tensor) -> Self {
        let packed_dy = graph.pack(dy);
        let u = adapter.map(|adapter| {
            let b = graph.transpose(adapter.b);
            graph.product(b, packed_dy)
        });
        Self { linear, adapter, dy, packed_dy, u }
    }

    /// Computes the gradients of the adapter, if there is one, into its staging memory, for the input of the layer.
    pub(super) fn adapter_gradients(&self, graph: &mut Graph, input: &mut Input) {
        let (Some(adapter), Some(u)) = (self.adapter, self.u) else { return };
        let da = outer_product(graph, input.x, u);
        graph.place(da, &adapter.gradients.a);
        let x = input.packed(graph);
        let low = graph.product(adapter.a, x);
        let db = outer_product(graph, self.dy, low);
        graph.place(db, &adapter.gradients.b);
    }

    /// dx.
    pub(super) fn dx(&self, graph: &mut Graph) -> Tensor {
        common_dx(graph, std::slice::from_ref(self))
    }
}

/// dx of one or several layers with the same input.
pub(super) fn common_dx(graph: &mut Graph, layers: &[Back]) -> Tensor {
    let mut products = Vec::new();
    for Back { linear, adapter, packed_dy, u, .. } in layers {
        let weight = graph.leaf(&linear.weight);
        products.push((graph.transpose(weight), *packed_dy));
        if let Some((adapter, u)) = adapter.zip(*u) {
            products.push((graph.transpose(adapter.a), graph.pack(u)));
        }
    }
    let add = |sum, products: &[_]| Some(graph.add_products(sum, products));
    products.chunks(MAX_PRODUCTS).fold(None, add).expect("at least one layer")
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
