//! One call of the engine: all layers forwards, all layers back, each one graph.

use owlet_runtime::{
    Result, TokenId,
    ggml::{Arena, Backend, Graph, Stored, Tensor},
};

use super::{
    Engine, GroupInput,
    adapter::Staging,
    family::Decoder,
    head::Head,
    layer::LayerGraph,
    layout::Layout,
    prefix::Prefix,
    tape::Tape,
    weights::Weights,
    workspace::{Keep, Workspace},
};
use crate::{
    lora::{LoraGrads, LoraWeights},
    pace::Pace,
};

/// Tensors in the graph of a layer beside those of its attention blocks, with room to spare.
const LAYER_CAPACITY: usize = 1024;

/// Tensors for each sequence of an attention block, and for the block itself, both directions together.
const SEQUENCE_CAPACITY: usize = 32;
const BLOCK_CAPACITY: usize = 192;

/// One call: the engine's parts with the memory of the group.
pub(super) struct Pass<'a> {
    pub backend: &'a mut Backend,
    decoder: &'a Decoder,
    weights: &'a Weights,
    layout: &'a Layout,
    head_arena: &'a mut Arena,
    /// Logits that exist at a time.
    pub max_logits: usize,
    /// Entries of the vocabulary that the head leaves out.
    pub left_out: &'a [TokenId],
    workspace: Workspace,
    staging: Staging,
    lora: Option<&'a LoraWeights>,
    /// Keys and values of the frozen tokens of the layout.
    frozen: Option<&'a Prefix>,
}

impl<'a> Pass<'a> {
    /// `frozen` must be of as many tokens as the layout leaves out.
    pub(super) fn new(
        engine: &'a mut Engine,
        lora: Option<&'a LoraWeights>,
        group: &GroupInput,
        layout: &'a Layout,
        frozen: Option<&'a Prefix>,
        keep: Keep,
    ) -> Result<Self> {
        debug_assert_eq!(layout.n_frozen, frozen.map_or(0, |prefix| prefix.n_tokens));
        let Engine { backend, decoder, weights, options, arenas, .. } = engine;
        let staging = Staging::new(backend, &mut arenas.adapter, weights, lora)?;
        let workspace = Workspace::new(backend, &mut arenas.group, decoder, layout, group, keep)?;
        let max_logits = options.logit_bytes / size_of::<f32>();
        let head_arena = &mut arenas.head;
        let left_out = &options.never_sampled;
        Ok(Self {
            backend,
            decoder,
            weights,
            layout,
            head_arena,
            max_logits,
            left_out,
            workspace,
            staging,
            lora,
            frozen,
        })
    }

    /// Runs all layers; the last hidden states are then in the workspace.
    pub(super) async fn forward(&mut self, pace: &Pace) -> Result<()> {
        self.embed()?;
        for layer in 0..self.decoder.n_layers {
            pace.point().await?;
            self.upload(layer);
            let graph = self.forward_graph(layer);
            self.backend.run(graph)?;
        }
        Ok(())
    }

    /// Runs all layers of a pass that keeps keys and values, and gives those of every layer.
    pub(super) async fn keys_and_values(&mut self, pace: &Pace) -> Result<Prefix> {
        self.embed()?;
        let n_tokens = self.layout.n_tokens;
        let mut values = vec![0.0; Prefix::n_values(self.decoder, n_tokens)];
        let parts = values.chunks_exact_mut(2 * self.decoder.key_width() * n_tokens);
        for (layer, part) in parts.enumerate() {
            pace.point().await?;
            let graph = self.keys_and_values_graph(layer);
            self.backend.run(graph)?;
            if let Some((stored_k, stored_v)) = self.workspace.prefix() {
                let (k, v) = part.split_at_mut(stored_k.n_elements());
                self.backend.read(stored_k, 0, k);
                self.backend.read(stored_v, 0, v);
            }
        }
        Ok(Prefix::new(self.decoder, n_tokens, values))
    }

    fn embed(&mut self) -> Result<()> {
        let mut graph = self.backend.graph(self.graph_capacity());
        self.workspace.embed(&mut graph, &self.weights.embedding);
        self.backend.run(graph)
    }

    /// Runs all layers backwards, from the gradient of the last hidden states in the workspace down to the lowest layer that
    /// is adapted. What is added to `gradients` is multiplied by `factor`.
    pub(super) async fn backward(&mut self, gradients: &mut LoraGrads, factor: f32, pace: &Pace) -> Result<()> {
        let Some(lowest) = self.staging.lowest_layer() else { return Ok(()) };
        for layer in (lowest..self.decoder.n_layers).rev() {
            pace.point().await?;
            self.upload(layer);
            let graph = self.backward_graph(layer, layer > lowest);
            self.backend.run(graph)?;
            self.staging.collect(self.backend, gradients, factor, layer);
        }
        Ok(())
    }

    /// The hidden states that leave the last layer.
    pub(super) fn last_hidden(&self) -> Stored {
        self.workspace.hidden(self.decoder.n_layers).clone()
    }

    /// Their gradient.
    pub(super) fn last_gradient(&self) -> Stored {
        self.workspace.gradient(self.decoder.n_layers).clone()
    }

    fn forward_graph(&self, layer: usize) -> Graph {
        let mut graph = self.backend.graph(self.graph_capacity());
        let mut tape = match self.workspace.tape(layer) {
            Some(slots) => Tape::Record(slots),
            None => Tape::Compute,
        };
        self.with_layer(&mut graph, layer, |graph, layer_graph, x| {
            self.workspace.keep_input(layer, graph, x);
            let activations = layer_graph.activations(graph, x, &mut tape);
            let output = layer_graph.output(graph, &activations);
            graph.place(output, self.workspace.hidden(layer + 1));
            self.workspace.add_image_features(layer, graph, output);
        });
        graph
    }

    /// Of the last layer, nothing but keys and values is computed.
    fn keys_and_values_graph(&self, layer: usize) -> Graph {
        let mut graph = self.backend.graph(self.graph_capacity());
        self.with_layer(&mut graph, layer, |graph, layer_graph, x| {
            let (k, v) = if layer + 1 == self.decoder.n_layers {
                layer_graph.keys_and_values(graph, x)
            } else {
                let activations = layer_graph.activations(graph, x, &mut Tape::Compute);
                let output = layer_graph.output(graph, &activations);
                graph.place(output, self.workspace.hidden(layer + 1));
                self.workspace.add_image_features(layer, graph, output);
                activations.keys_and_values()
            };
            if let Some((stored_k, stored_v)) = self.workspace.prefix() {
                for (result, stored) in [(k, stored_k), (v, stored_v)] {
                    let place = graph.leaf(stored);
                    graph.copy(result, place);
                }
            }
        });
        graph
    }

    fn backward_graph(&self, layer: usize, needs_dx: bool) -> Graph {
        let mut graph = self.backend.graph(self.graph_capacity());
        let mut tape = match self.workspace.tape(layer) {
            Some(slots) => Tape::Replay(slots),
            None => Tape::Compute,
        };
        self.with_layer(&mut graph, layer, |graph, layer_graph, x| {
            let x = self.workspace.kept_input(layer, graph).unwrap_or(x);
            let activations = layer_graph.activations(graph, x, &mut tape);
            let dy = graph.leaf(self.workspace.gradient(layer + 1));
            if let Some(dx) = layer_graph.backward(graph, &activations, dy, needs_dx) {
                graph.place(dx, self.workspace.gradient(layer));
            }
        });
        graph
    }

    /// Calls `build` with layer `layer` and its input brought into `graph`.
    fn with_layer(&self, graph: &mut Graph, layer: usize, build: impl FnOnce(&mut Graph, &LayerGraph, Tensor)) {
        let adapters = self.staging.leaves(graph, layer);
        let attention = self.workspace.attention(graph, self.decoder, self.layout);
        let (positions, negated_positions) = self.workspace.positions(graph);
        let frequency_factors = self.weights.frequency_factors.as_ref().map(|factors| graph.leaf(factors));
        let x = graph.leaf(self.workspace.hidden(layer));
        let layer_graph = LayerGraph {
            layer: &self.weights.layers[layer],
            adapters: &adapters,
            attention: &attention,
            positions,
            negated_positions,
            frequency_factors,
        };
        build(graph, &layer_graph, x);
    }

    fn upload(&mut self, layer: usize) {
        if let (Some(frozen), Some((stored_k, stored_v))) = (self.frozen, self.workspace.prefix()) {
            let (k, v) = frozen.layer(layer);
            self.backend.write(stored_k, k);
            self.backend.write(stored_v, v);
        }
        if let Some(lora) = self.lora {
            self.staging.upload(self.backend, lora, layer);
        }
    }

    pub(super) fn head(&mut self, group: &GroupInput, temperature: f32) -> Result<Head<'a>> {
        let base = (self.decoder, self.weights);
        let (arena, completions) = (&mut *self.head_arena, group.completions);
        let mut head = Head::new(self.backend, arena, base, self.layout, completions, temperature, self.max_logits)?;
        head.vocabulary.leave_out(self.left_out);
        Ok(head)
    }

    fn graph_capacity(&self) -> usize {
        let blocks = &self.layout.blocks;
        let n_sequences: usize = blocks.iter().map(|block| block.sequences.len()).sum();
        LAYER_CAPACITY + blocks.len() * BLOCK_CAPACITY + n_sequences * SEQUENCE_CAPACITY
    }
}

#[cfg(test)]
mod differences;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use owlet_runtime::{
        EncodedPrompt,
        gguf::{GgmlType, GgufFile, GgufWriter},
    };

    use super::*;
    use crate::{engine::EngineOptions, lora::LoraConfig};

    /// A qwen2 model of one layer whose weights are all zero.
    fn model() -> Arc<GgufFile> {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "qwen2");
        for (key, value) in [
            ("block_count", 1u32),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            writer.set(format!("qwen2.{key}"), value);
        }
        writer.set("qwen2.attention.layer_norm_rms_epsilon", 1e-6f32);
        for (name, shape) in [
            ("token_embd", &[32u64, 50][..]),
            ("output_norm", &[32]),
            ("blk.0.attn_norm", &[32]),
            ("blk.0.ffn_norm", &[32]),
            ("blk.0.attn_q", &[32, 32]),
            ("blk.0.attn_k", &[32, 16]),
            ("blk.0.attn_v", &[32, 16]),
            ("blk.0.attn_output", &[32, 32]),
            ("blk.0.ffn_gate", &[32, 64]),
            ("blk.0.ffn_up", &[32, 64]),
            ("blk.0.ffn_down", &[64, 32]),
        ] {
            let dtype = if shape.len() == 2 { GgmlType::Q8_0 } else { GgmlType::F32 };
            writer.declare(&format!("{name}.weight"), shape, dtype).expect("a valid shape");
        }
        let declared = writer.tensors().to_vec();
        let mut stream = writer.start(Vec::new()).expect("memory");
        for tensor in &declared {
            stream.write_tensor(&tensor.name, &vec![0; tensor.n_bytes as usize]).expect("memory");
        }
        Arc::new(GgufFile::from_bytes(stream.finish().expect("complete")).expect("valid"))
    }

    /// Operations that CPU, CUDA, Metal and Vulkan all have. Others would confine training to one of them.
    #[test]
    fn layers_use_operations_that_every_device_has() {
        const COMMON: [&str; 14] = [
            "MUL_MAT", "ADD", "MUL", "DIV", "SCALE", "SQRT", "RMS_NORM", "SOFT_MAX", "ROPE", "GET_ROWS", "CPY", "CONT",
            "SILU", "SWIGLU",
        ];
        // In CUDA, Metal and Vulkan; and the CPU's form of CONT of a transposed view.
        const ALLOWED: [&str; 2] = ["SILU_BACK", "CUSTOM"];
        let frugal = EngineOptions { n_threads: 1, activation_bytes: 0, ..EngineOptions::default() };
        let mut engine = Engine::from_file(&model(), frugal).expect("a valid model");
        let config = LoraConfig { rank: 2, alpha: 2.0, ..LoraConfig::default() };
        let lora = LoraWeights::init(&config, &engine.lora_targets(), 0).expect("targets");
        let prompt = EncodedPrompt::from_tokens(vec![1, 2, 3]);
        let group = GroupInput { prompt: &prompt, completions: &[&[4, 5], &[6, 7, 8]] };
        let layout = engine.layout(&group, 1).with_blocks(&engine.decoder, 100);
        let frozen = Prefix::new(&engine.decoder, 1, vec![0.0; Prefix::n_values(&engine.decoder, 1)]);
        let pass = Pass::new(&mut engine, Some(&lora), &group, &layout, Some(&frozen), Keep::Inputs).expect("memory");
        for graph in [pass.forward_graph(0), pass.backward_graph(0, true)] {
            let used: BTreeSet<_> = graph.operations().into_iter().collect();
            let unknown: Vec<_> = used
                .iter()
                .filter(|name| !COMMON.contains(&name.as_str()) && !ALLOWED.contains(&name.as_str()))
                .collect();
            assert!(unknown.is_empty() && used.len() > 8, "{unknown:?} of {used:?}");
        }
    }
}
