//! A Qwen3-VL checkpoint of a few thousand weights: one layer, one vision block, a vocabulary of letters.

use std::{collections::BTreeMap, fs, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// Sizes that the configuration and the tensors share.
pub(crate) const N_EMBD: usize = 64;
const N_FFN: usize = 96;
const N_VOCAB: usize = 32;
const HEAD_DIM: usize = 32;
pub(crate) const N_VISION: usize = 32;
pub(crate) const PATCH: usize = 4;
const N_POSITIONS: usize = 16;

/// Everything that goes into the directory; tests spoil parts of it before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Synthetic {
    pub(crate) config: Value,
    pub(crate) tokenizer: Value,
    pub(crate) tokenizer_config: Value,
    pub(crate) preprocessor: Value,
    /// Shape (contiguous dimension last) and weights.
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Synthetic {
    pub(crate) fn qwen3vl() -> Self {
        let mut synthetic = Self {
            config: config(),
            tokenizer: tokenizer(),
            tokenizer_config: json!({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
            preprocessor: json!({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}),
            tensors: BTreeMap::new(),
        };
        for (name, shape) in shapes() {
            let n = shape.iter().product();
            let seed = synthetic.tensors.len();
            // Small and exact in every type; the values differ between tensors and positions.
            let weights = (0..n).map(|i| ((i * 31 + seed * 17) % 255) as f32 / 128.0 - 1.0).collect();
            synthetic.tensors.insert(name, (shape, weights));
        }
        synthetic
    }

    pub(crate) fn write(&self, directory: &Path) {
        let write = |name: &str, value: &Value| {
            fs::write(directory.join(name), value.to_string()).expect("writable");
        };
        write("config.json", &self.config);
        write("tokenizer.json", &self.tokenizer);
        write("tokenizer_config.json", &self.tokenizer_config);
        write("preprocessor_config.json", &self.preprocessor);
        fs::write(directory.join("model.safetensors"), self.safetensors()).expect("writable");
    }

    pub(crate) fn safetensors(&self) -> Vec<u8> {
        let bytes: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, (shape, weights))| {
                let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
                (name, shape.clone(), bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("sizes fit"))
        });
        safetensors::serialize(views, None).expect("serializable")
    }
}

fn config() -> Value {
    json!({
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "tie_word_embeddings": true,
        "text_config": {
            "hidden_act": "silu", "hidden_size": N_EMBD, "intermediate_size": N_FFN, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HEAD_DIM, "vocab_size": N_VOCAB,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_theta": 10000, "rope_type": "default", "mrope_interleaved": true, "mrope_section": [6, 5, 5]
            },
        },
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh", "hidden_size": N_VISION, "intermediate_size": N_FFN, "depth": 1,
            "num_heads": 2, "num_position_embeddings": N_POSITIONS, "out_hidden_size": N_EMBD, "patch_size": PATCH,
            "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [0],
        },
    })
}

fn tokenizer() -> Value {
    let mut vocabulary: serde_json::Map<_, _> =
        ('a'..='z').enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    vocabulary.insert("th".to_owned(), json!(26));
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": [added(27, "<|endoftext|>"), added(28, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": ["t h"],
        },
    })
}

fn shapes() -> Vec<(String, Vec<usize>)> {
    let text = "model.language_model";
    let (layer, visual) = (format!("{text}.layers.0"), "model.visual");
    let merged = 4 * N_VISION;
    let mut shapes = vec![
        (format!("{text}.embed_tokens.weight"), vec![N_VOCAB, N_EMBD]),
        (format!("{text}.norm.weight"), vec![N_EMBD]),
        (format!("{layer}.input_layernorm.weight"), vec![N_EMBD]),
        (format!("{layer}.post_attention_layernorm.weight"), vec![N_EMBD]),
        (format!("{layer}.self_attn.q_proj.weight"), vec![2 * HEAD_DIM, N_EMBD]),
        (format!("{layer}.self_attn.k_proj.weight"), vec![HEAD_DIM, N_EMBD]),
        (format!("{layer}.self_attn.v_proj.weight"), vec![HEAD_DIM, N_EMBD]),
        (format!("{layer}.self_attn.o_proj.weight"), vec![N_EMBD, 2 * HEAD_DIM]),
        (format!("{layer}.self_attn.q_norm.weight"), vec![HEAD_DIM]),
        (format!("{layer}.self_attn.k_norm.weight"), vec![HEAD_DIM]),
        (format!("{layer}.mlp.gate_proj.weight"), vec![N_FFN, N_EMBD]),
        (format!("{layer}.mlp.up_proj.weight"), vec![N_FFN, N_EMBD]),
        (format!("{layer}.mlp.down_proj.weight"), vec![N_EMBD, N_FFN]),
        (format!("{visual}.patch_embed.proj.weight"), vec![N_VISION, 3, 2, PATCH, PATCH]),
        (format!("{visual}.patch_embed.proj.bias"), vec![N_VISION]),
        (format!("{visual}.pos_embed.weight"), vec![N_POSITIONS, N_VISION]),
    ];
    let mut linear = |name: String, n_out: usize, n_in: usize| {
        shapes.push((format!("{name}.weight"), vec![n_out, n_in]));
        shapes.push((format!("{name}.bias"), vec![n_out]));
    };
    let block = format!("{visual}.blocks.0");
    linear(format!("{block}.attn.qkv"), 3 * N_VISION, N_VISION);
    linear(format!("{block}.attn.proj"), N_VISION, N_VISION);
    linear(format!("{block}.mlp.linear_fc1"), N_FFN, N_VISION);
    linear(format!("{block}.mlp.linear_fc2"), N_VISION, N_FFN);
    for merger in [format!("{visual}.merger"), format!("{visual}.deepstack_merger_list.0")] {
        linear(format!("{merger}.linear_fc1"), merged, merged);
        linear(format!("{merger}.linear_fc2"), N_EMBD, merged);
    }
    let norms = [
        (format!("{block}.norm1"), N_VISION),
        (format!("{block}.norm2"), N_VISION),
        (format!("{visual}.merger.norm"), N_VISION),
        (format!("{visual}.deepstack_merger_list.0.norm"), merged),
    ];
    for (name, n) in norms {
        shapes.push((format!("{name}.weight"), vec![n]));
        shapes.push((format!("{name}.bias"), vec![n]));
    }
    shapes
}
