//! A file of SmolLM2-135M's shape with random weights.

use std::path::Path;

use owlet_runtime::{
    gguf::{GgmlType, GgufWriter},
    quantize::quantize_rows,
    rng::Rng,
};

pub(crate) const N_EMBD: usize = 576;
pub(crate) const N_VOCAB: usize = 49_152;
const N_FF: usize = 1536;
const KEY_WIDTH: usize = 192;

pub(crate) struct Shape {
    pub(crate) n_layers: usize,
    /// Type of the matrices.
    pub(crate) dtype: GgmlType,
}

impl Shape {
    pub(crate) fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "llama");
        for (key, value) in [
            ("block_count", self.n_layers as u32),
            ("embedding_length", N_EMBD as u32),
            ("feed_forward_length", N_FF as u32),
            ("attention.head_count", 9),
            ("attention.head_count_kv", 3),
        ] {
            writer.set(format!("llama.{key}"), value);
        }
        writer.set("llama.rope.freq_base", 1e5f32).set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        let mut tensors = vec![("token_embd".to_owned(), N_EMBD, N_VOCAB), ("output_norm".to_owned(), N_EMBD, 1)];
        for layer in 0..self.n_layers {
            for (part, n_in, n_out) in [
                ("attn_norm", N_EMBD, 1),
                ("attn_q", N_EMBD, N_EMBD),
                ("attn_k", N_EMBD, KEY_WIDTH),
                ("attn_v", N_EMBD, KEY_WIDTH),
                ("attn_output", N_EMBD, N_EMBD),
                ("ffn_norm", N_EMBD, 1),
                ("ffn_gate", N_EMBD, N_FF),
                ("ffn_up", N_EMBD, N_FF),
                ("ffn_down", N_FF, N_EMBD),
            ] {
                tensors.push((format!("blk.{layer}.{part}"), n_in, n_out));
            }
        }
        // As llama.cpp's mixtures do, types whose blocks do not fit the rows give way.
        let dtype_of = |n_in: usize, n_out: usize| match n_out {
            1 => GgmlType::F32,
            _ if n_in.is_multiple_of(self.dtype.block_size() as usize) => self.dtype,
            _ => GgmlType::Q8_0,
        };
        for (name, n_in, n_out) in &tensors {
            let shape = [*n_in as u64, *n_out as u64];
            let shape = if *n_out == 1 { &shape[..1] } else { &shape[..] };
            writer.declare(&format!("{name}.weight"), shape, dtype_of(*n_in, *n_out)).unwrap();
        }
        let mut stream = writer.create(path).unwrap();
        for (index, (name, n_in, n_out)) in tensors.iter().enumerate() {
            let mut rng = Rng::keyed(&[index as u64]);
            let spread = (3.0 / *n_in as f64).sqrt();
            let values: Vec<f32> = match n_out {
                1 => vec![1.0; *n_in],
                _ => (0..n_in * n_out).map(|_| ((rng.uniform() * 2.0 - 1.0) * spread) as f32).collect(),
            };
            let packed = quantize_rows(dtype_of(*n_in, *n_out), *n_in, &values).unwrap();
            stream.write_tensor(&format!("{name}.weight"), &packed).unwrap();
        }
        stream.commit().unwrap();
    }
}
