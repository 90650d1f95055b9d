//! The adapter as graphs see it: the factors of one layer at a time, copied to the backend and their gradients back.

use owlet_runtime::{
    Error, ErrorKind, Result,
    ggml::{Arena, Backend, Graph, Stored, Tensor},
    gguf::GgmlType,
};

use super::weights::Weights;
use crate::lora::{LoraGrads, LoraWeights, Target};

/// Kernels for packed operands take whole groups of so many rows; ranks are padded with zeros.
const RANK_MULTIPLE: usize = 4;

/// Memory for the adapter of one layer.
pub(super) struct Staging {
    targets: [Option<Staged>; Target::ALL.len()],
    /// For every layer and target, the module of the adapter that acts there.
    modules: Vec<[Option<usize>; Target::ALL.len()]>,
    rank: usize,
    scaling: f32,
}

/// The two factors of one linear layer, or their gradients.
#[derive(Clone)]
pub(super) struct Factors {
    /// `[n_in, padded rank]`.
    pub a: Stored,
    /// `[padded rank, n_out]`, multiplied by the scaling; its gradient is `[n_out, padded rank]`, not multiplied yet.
    pub b: Stored,
}

struct Staged {
    factors: Factors,
    gradients: Factors,
}

/// The adapter of one linear layer in a graph.
pub(super) struct AdapterLeaves {
    pub a: Tensor,
    pub b: Tensor,
    /// Where the gradients go.
    pub gradients: Factors,
}

/// The adapters of one layer in a graph, by target.
pub(super) type LayerAdapters = [Option<AdapterLeaves>; Target::ALL.len()];

impl Staging {
    /// Memory for `lora` in `arena`. Without `lora`, nothing is adapted.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if a module does not belong to the base or its factors have other lengths,
    /// [`ErrorKind::Limit`] when the memory cannot be had.
    pub(super) fn new(
        backend: &Backend,
        arena: &mut Arena,
        weights: &Weights,
        lora: Option<&LoraWeights>,
    ) -> Result<Self> {
        let mut modules = vec![[None; Target::ALL.len()]; weights.layers.len()];
        let mut targets = [const { None }; Target::ALL.len()];
        let Some(lora) = lora else { return Ok(Self { targets, modules, rank: 0, scaling: 0.0 }) };
        lora.config.validate()?;
        let rank = lora.config.rank;
        for (index, module) in lora.modules.iter().enumerate() {
            let mismatch = |what: &str| Error::new(ErrorKind::Mismatch, what).at(&module.name);
            let place = weights.layers.iter().enumerate().find_map(|(layer, tensors)| {
                let target = Target::ALL.into_iter().find(|&target| tensors.linear(target).name == module.name)?;
                Some((layer, target))
            });
            let (layer, target) = place.ok_or_else(|| mismatch("the adapted tensor is not a layer of the model"))?;
            let linear = weights.layers[layer].linear(target);
            let needed = (linear.n_in(), linear.n_out(), rank * linear.n_in(), rank * linear.n_out());
            let got = (module.n_in, module.n_out, module.a.len(), module.b.len());
            if got != needed {
                let error = mismatch("the adapter has other sizes than the model (widths, lengths of A and B)");
                return Err(error.got(format!("{got:?}")).needed(format!("{needed:?}")));
            }
            if modules[layer][target as usize].replace(index).is_some() {
                return Err(mismatch("a tensor is adapted twice"));
            }
        }
        let padded = rank.next_multiple_of(RANK_MULTIPLE);
        let used: Vec<_> = Target::ALL
            .into_iter()
            .filter(|&target| modules.iter().any(|layer| layer[target as usize].is_some()))
            .collect();
        let shapes: Vec<_> = used
            .iter()
            .flat_map(|&target| {
                let linear = weights.layers[0].linear(target);
                let (a, [rows, columns]) = ([linear.n_in(), padded], [padded, linear.n_out()]);
                [a, [rows, columns], a, [columns, rows]]
            })
            .collect();
        let tensors: Vec<_> = shapes.iter().map(|shape| (GgmlType::F32, shape.as_slice())).collect();
        let mut stored = backend.carve(arena, &tensors)?.into_iter();
        let mut factors = || Some(Factors { a: stored.next()?, b: stored.next()? });
        for target in used {
            targets[target as usize] =
                factors().zip(factors()).map(|(factors, gradients)| Staged { factors, gradients });
        }
        Ok(Self { targets, modules, rank, scaling: lora.scaling() })
    }

    /// The lowest layer that is adapted.
    pub(super) fn lowest_layer(&self) -> Option<usize> {
        self.modules.iter().position(|layer| layer.iter().any(Option::is_some))
    }

    /// Copies the factors of layer `layer` to the backend.
    pub(super) fn upload(&self, backend: &mut Backend, lora: &LoraWeights, layer: usize) {
        let mut padded = Vec::new();
        for (module, staged) in self.layer(layer) {
            let (module, Factors { a, b }) = (&lora.modules[module], &staged.factors);
            padded.clear();
            padded.extend_from_slice(&module.a);
            padded.resize(a.n_elements(), 0.0);
            backend.write(a, &padded);
            padded.clear();
            for row in module.b.chunks(self.rank) {
                padded.extend(row.iter().map(|value| value * self.scaling));
                padded.extend(std::iter::repeat_n(0.0, b.shape()[0] - self.rank));
            }
            backend.write(b, &padded);
        }
    }

    /// Adds `factor` times the gradients of layer `layer`, which the last graph has computed, to `gradients`.
    pub(super) fn collect(&self, backend: &mut Backend, gradients: &mut LoraGrads, factor: f32, layer: usize) {
        for (module, staged) in self.layer(layer) {
            let sums = &mut gradients.modules[module];
            let values = backend.read_all(&staged.gradients.a);
            sums.a.iter_mut().zip(&values).for_each(|(sum, value)| *sum += factor * value);
            let values = backend.read_all(&staged.gradients.b);
            let n_out = staged.gradients.b.shape()[0];
            for (row, sums) in sums.b.chunks_mut(self.rank).enumerate() {
                let column = values[row..].iter().step_by(n_out);
                sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += factor * self.scaling * value);
            }
        }
    }

    /// The adapters of layer `layer` in `graph`.
    pub(super) fn leaves(&self, graph: &mut Graph, layer: usize) -> LayerAdapters {
        let mut leaves = [const { None }; Target::ALL.len()];
        for (index, slot) in leaves.iter_mut().enumerate() {
            if let (Some(_), Some(Staged { factors, gradients })) = (self.modules[layer][index], &self.targets[index]) {
                let (a, b) = (graph.leaf(&factors.a), graph.leaf(&factors.b));
                *slot = Some(AdapterLeaves { a, b, gradients: gradients.clone() });
            }
        }
        leaves
    }

    fn layer(&self, layer: usize) -> impl Iterator<Item = (usize, &Staged)> {
        self.modules[layer].iter().zip(&self.targets).filter_map(|(&module, staged)| module.zip(staged.as_ref()))
    }
}
