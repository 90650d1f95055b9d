//! Models of any family and shape with random weights, written as a GGUF file in memory.

use std::sync::Arc;

use owlet_adapters::lora::{LoraConfig, LoraWeights, Target};
use owlet_runtime::{
    EncodedPrompt, ImageEmbedding, Segment, TokenId,
    gguf::{GgmlType, GgufFile, GgufWriter},
    quantize::{dequantize_rows, quantize_rows},
    rng::Rng,
};

/// What to write.
#[derive(Clone, Debug)]
pub(crate) struct RandomModel {
    pub(crate) architecture: &'static str,
    pub(crate) n_layers: usize,
    pub(crate) n_embd: usize,
    pub(crate) n_ff: usize,
    pub(crate) n_vocab: usize,
    pub(crate) n_head: usize,
    pub(crate) n_head_kv: usize,
    pub(crate) head_dim: usize,
    pub(crate) n_deepstack: usize,
    /// Whether the head is the embedding.
    pub(crate) tied: bool,
    /// Type of the matrices.
    pub(crate) dtype: GgmlType,
    /// Whether the matrices are stored as F32 after having been `dtype`.
    pub(crate) unpacked: bool,
}

impl RandomModel {
    /// A small model of `architecture`.
    pub(crate) fn small(architecture: &'static str) -> Self {
        Self {
            architecture,
            n_layers: 3,
            n_embd: 48,
            n_ff: 80,
            n_vocab: 90,
            n_head: 6,
            n_head_kv: 2,
            head_dim: 16,
            n_deepstack: if architecture == "qwen3vl" { 2 } else { 0 },
            tied: architecture != "qwen2",
            dtype: GgmlType::F32,
            unpacked: false,
        }
    }

    /// The file; the same for the same description.
    pub(crate) fn write(&self) -> Arc<GgufFile> {
        let mut writer = GgufWriter::new();
        let arch = self.architecture;
        writer.set("general.architecture", arch);
        for (key, value) in [
            ("block_count", self.n_layers),
            ("embedding_length", self.n_embd),
            ("feed_forward_length", self.n_ff),
            ("attention.head_count", self.n_head),
            ("attention.head_count_kv", self.n_head_kv),
            ("attention.key_length", self.head_dim),
            ("n_deepstack_layers", self.n_deepstack),
        ] {
            writer.set(format!("{arch}.{key}"), value as u32);
        }
        writer.set(format!("{arch}.rope.freq_base"), 1e4f32);
        writer.set(format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-6f32);
        if arch.ends_with("vl") {
            let quarter = (self.head_dim / 8) as i32;
            let sections = vec![self.head_dim as i32 / 2 - 2 * quarter, quarter, quarter, 0];
            writer.set(format!("{arch}.rope.dimension_sections"), sections);
        }
        let tensors = self.tensors();
        for (name, shape, _) in &tensors {
            let dtype = if shape.len() > 1 && !self.unpacked { self.dtype } else { GgmlType::F32 };
            writer.declare(name, shape, dtype).unwrap();
        }
        let mut stream = writer.start(Vec::new()).unwrap();
        for (name, shape, spread) in &tensors {
            let n = shape.iter().product::<u64>() as usize;
            let mut rng = Rng::keyed(&[name
                .bytes()
                .fold(7, |key: u64, byte| key.wrapping_mul(31).wrapping_add(u64::from(byte)))]);
            let mut values: Vec<f32> = (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32 * spread).collect();
            if name.ends_with("norm.weight") {
                values.iter_mut().for_each(|gain| *gain += 1.0);
            }
            if shape.len() == 1 || self.dtype == GgmlType::F32 {
                stream.write_tensor(name, bytemuck::cast_slice(&values)).unwrap();
                continue;
            }
            let packed = quantize_rows(self.dtype, shape[0] as usize, &values).unwrap();
            match self.unpacked {
                false => stream.write_tensor(name, &packed).unwrap(),
                true => {
                    let values = dequantize_rows(self.dtype, &packed).unwrap();
                    stream.write_tensor(name, bytemuck::cast_slice(&values)).unwrap();
                }
            }
        }
        Arc::new(GgufFile::from_bytes(stream.finish().unwrap()).unwrap())
    }

    /// Names, shapes and spreads, in the order of the file.
    fn tensors(&self) -> Vec<(String, Vec<u64>, f32)> {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize], spread: f32| {
            tensors.push((name, shape.iter().map(|&n| n as u64).collect(), spread));
        };
        let (query, key) = (self.n_head * self.head_dim, self.n_head_kv * self.head_dim);
        let (n_embd, n_ff) = (self.n_embd, self.n_ff);
        let spread = |n_in: usize| (3.0 / n_in as f32).sqrt();
        add("token_embd.weight".into(), &[n_embd, self.n_vocab], 1.0);
        add("output_norm.weight".into(), &[n_embd], 0.5);
        if !self.tied {
            add("output.weight".into(), &[n_embd, self.n_vocab], 2.0 * spread(n_embd));
        }
        for layer in 0..self.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            for (part, n_in, n_out) in [
                ("attn_q", n_embd, query),
                ("attn_k", n_embd, key),
                ("attn_v", n_embd, key),
                ("attn_output", query, n_embd),
                ("ffn_gate", n_embd, n_ff),
                ("ffn_up", n_embd, n_ff),
                ("ffn_down", n_ff, n_embd),
            ] {
                add(name(&format!("{part}.weight")), &[n_in, n_out], 2.0 * spread(n_in));
                if self.architecture.starts_with("qwen2") && ["attn_q", "attn_k", "attn_v"].contains(&part) {
                    add(name(&format!("{part}.bias")), &[n_out], 0.5);
                }
            }
            add(name("attn_norm.weight"), &[n_embd], 0.5);
            add(name("ffn_norm.weight"), &[n_embd], 0.5);
            if self.architecture.starts_with("qwen3") {
                add(name("attn_q_norm.weight"), &[self.head_dim], 0.5);
                add(name("attn_k_norm.weight"), &[self.head_dim], 0.5);
            }
        }
        tensors
    }

    /// A prompt of `n` tokens, around a picture of 3 x 2 tokens if the model takes pictures.
    pub(crate) fn prompt(&self, n: usize) -> EncodedPrompt {
        let tokens = self.tokens(n, 1);
        if self.n_deepstack == 0 {
            return EncodedPrompt::from_tokens(tokens);
        }
        let (grid_w, grid_h) = (3, 2);
        let width_embd = self.n_embd * (1 + self.n_deepstack);
        let mut rng = Rng::keyed(&[3]);
        let data = (0..6 * width_embd).map(|_| (rng.uniform() * 2.0 - 1.0) as f32).collect();
        let image = ImageEmbedding { n_tokens: 6, grid_w, grid_h, width_embd, data, encode_ms: 0.0 };
        let (before, after) = tokens.split_at(n / 2);
        let [before, after] = [before, after].map(|tokens| Segment::Tokens(tokens.to_vec()));
        EncodedPrompt { segments: vec![before, Segment::Image(Arc::new(image)), after] }
    }

    /// `n` random tokens; others for another `key`.
    pub(crate) fn tokens(&self, n: usize, key: u64) -> Vec<TokenId> {
        let mut rng = Rng::keyed(&[key, 17]);
        (0..n).map(|_| (rng.uniform() * self.n_vocab as f64) as TokenId).collect()
    }
}

/// An adapter over `tensors` with both factors random, so that every gradient counts.
pub(crate) fn adapter(tensors: &[(String, usize, usize)], rank: usize, targets: &[Target]) -> LoraWeights {
    let config = LoraConfig {
        rank,
        alpha: 2.0 * rank as f32,
        targets: targets.iter().copied().collect(),
        ..LoraConfig::default()
    };
    let mut lora = LoraWeights::init(&config, tensors, 5).unwrap();
    let mut rng = Rng::keyed(&[23]);
    lora.modules.iter_mut().flat_map(|module| &mut module.b).for_each(|b| *b = (rng.uniform() * 0.2 - 0.1) as f32);
    lora
}
