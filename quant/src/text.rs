//! The language model: GGUF keys and tensor names of the Qwen and Llama families.

use owlet_runtime::gguf::GgufWriter;

use crate::{
    checkpoint::Checkpoint,
    config::{Architecture, Config, TextConfig},
    plan::{PlannedTensor, RowOrder},
};

/// Where the language model's tensors are in a checkpoint.
fn prefix(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Qwen3Vl => "model.language_model",
        _ => "model",
    }
}

/// The tensors of the language model, in the order of the file: embedding, layers, output.
pub(crate) fn tensors(config: &Config, checkpoint: &Checkpoint) -> Vec<PlannedTensor> {
    let (text, prefix) = (&config.text, prefix(config.architecture));
    let mut tensors = vec![PlannedTensor::matrix(
        "token_embd.weight",
        format!("{prefix}.embed_tokens.weight"),
        text.n_vocab,
        text.n_embd,
    )];
    for layer in 0..text.n_layers {
        let (from, to) = (format!("{prefix}.layers.{layer}"), format!("blk.{layer}"));
        layer_tensors(&mut tensors, config.architecture, text, &from, &to);
    }
    tensors.push(PlannedTensor::vector("output_norm.weight", format!("{prefix}.norm.weight"), text.n_embd));
    // Where the configuration does not say, the output matrix is there or it is the embedding.
    if !text.is_tied.unwrap_or_else(|| !checkpoint.contains("lm_head.weight")) {
        tensors.push(PlannedTensor::matrix("output.weight", "lm_head.weight", text.n_vocab, text.n_embd));
    }
    tensors
}

fn layer_tensors(
    tensors: &mut Vec<PlannedTensor>,
    architecture: Architecture,
    text: &TextConfig,
    from: &str,
    to: &str,
) {
    let matrix = |name: &str, source: &str, n_out, n_in| {
        PlannedTensor::matrix(format!("{to}.{name}.weight"), format!("{from}.{source}.weight"), n_out, n_in)
    };
    let vector =
        |name: &str, source: &str, n| PlannedTensor::vector(format!("{to}.{name}"), format!("{from}.{source}"), n);
    let order = match architecture {
        Architecture::Llama => RowOrder::Interleaved { head_dim: text.head_dim as usize },
        _ => RowOrder::Same,
    };
    let (n_q, n_kv) = (text.n_heads * text.head_dim, text.n_kv_heads * text.head_dim);
    tensors.extend([
        vector("attn_norm.weight", "input_layernorm.weight", text.n_embd),
        matrix("attn_q", "self_attn.q_proj", n_q, text.n_embd).ordered(order),
        matrix("attn_k", "self_attn.k_proj", n_kv, text.n_embd).ordered(order),
        matrix("attn_v", "self_attn.v_proj", n_kv, text.n_embd),
    ]);
    match architecture {
        Architecture::Qwen2 => tensors.extend([
            vector("attn_q.bias", "self_attn.q_proj.bias", n_q),
            vector("attn_k.bias", "self_attn.k_proj.bias", n_kv),
            vector("attn_v.bias", "self_attn.v_proj.bias", n_kv),
        ]),
        Architecture::Qwen3 | Architecture::Qwen3Vl => tensors.extend([
            vector("attn_q_norm.weight", "self_attn.q_norm.weight", text.head_dim),
            vector("attn_k_norm.weight", "self_attn.k_norm.weight", text.head_dim),
        ]),
        Architecture::Llama => {}
    }
    tensors.extend([
        matrix("attn_output", "self_attn.o_proj", text.n_embd, n_q),
        vector("ffn_norm.weight", "post_attention_layernorm.weight", text.n_embd),
        matrix("ffn_gate", "mlp.gate_proj", text.n_ffn, text.n_embd),
        matrix("ffn_up", "mlp.up_proj", text.n_ffn, text.n_embd),
        matrix("ffn_down", "mlp.down_proj", text.n_embd, text.n_ffn),
    ]);
}

/// Sets the keys that describe the model; the general ones and the vocabulary are the caller's.
pub(crate) fn write_keys(config: &Config, writer: &mut GgufWriter) {
    let text = &config.text;
    let name = config.architecture.name();
    let key = |rest: &str| format!("{name}.{rest}");
    writer
        .set(key("block_count"), text.n_layers)
        .set(key("context_length"), text.n_context)
        .set(key("embedding_length"), text.n_embd)
        .set(key("feed_forward_length"), text.n_ffn)
        .set(key("attention.head_count"), text.n_heads)
        .set(key("attention.head_count_kv"), text.n_kv_heads);
    if let Some([time, height, width]) = text.rope_sections {
        // ggml has a fourth section, for audio.
        writer.set(key("rope.dimension_sections"), vec![time as i32, height as i32, width as i32, 0]);
    }
    writer
        .set(key("rope.freq_base"), text.rope_theta)
        .set(key("attention.layer_norm_rms_epsilon"), text.norm_eps)
        .set(key("attention.key_length"), text.head_dim)
        .set(key("attention.value_length"), text.head_dim);
    if config.architecture == Architecture::Llama {
        writer.set(key("vocab_size"), text.n_vocab).set(key("rope.dimension_count"), text.head_dim);
    }
    if let Some(vision) = &config.vision {
        writer.set(key("n_deepstack_layers"), vision.deepstack.len() as u32);
    }
}
