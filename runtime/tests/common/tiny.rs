//! A seeded Qwen3-VL of 2 layers, its projector and adapters for it, written at test time: no files, no downloads, and
//! every part can be made wrong on purpose.

use std::path::{Path, PathBuf};

use owlet_runtime::{
    EncodedPrompt, Model, ModelOptions, Session, SessionOptions,
    gguf::{GgmlType, GgufWriter, Value},
    rng::Rng,
};
use tempfile::TempDir;

pub const N_EMBD: u64 = 32;
pub const N_FF: u64 = 64;
pub const HEAD_DIM: u64 = 16;
pub const N_HEAD: u64 = 2;
pub const N_HEAD_KV: u64 = 1;
pub const N_LAYER: u64 = 2;
pub const SPECIAL: [&str; 6] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"];
pub const N_VOCAB: u64 = 256 + SPECIAL.len() as u64;

/// A GGUF file before it is written: metadata, and tensors that get seeded random data.
#[derive(Clone)]
pub struct Draft {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(String, Vec<u64>, GgmlType)>,
    pub seed: u64,
    /// Standard deviation of the data of matrices; vectors are 1 plus a tenth of it.
    pub deviation: f64,
}

impl Draft {
    fn new(seed: u64) -> Self {
        Self { metadata: Vec::new(), tensors: Vec::new(), seed, deviation: 0.3 }
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.remove_key(key);
        self.metadata.push((key.into(), value.into()));
        self
    }

    pub fn remove_key(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(name, _)| name != key);
        self
    }

    pub fn tensor(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        self.remove_tensor(name);
        self.tensors.push((name.into(), shape.to_vec(), GgmlType::F32));
        self
    }

    pub fn remove_tensor(&mut self, name: &str) -> &mut Self {
        self.tensors.retain(|(other, _, _)| other != name);
        self
    }

    fn linear(&mut self, name: &str, n_in: u64, n_out: u64) {
        self.tensor(&format!("{name}.weight"), &[n_in, n_out]).tensor(&format!("{name}.bias"), &[n_out]);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.set(key.clone(), value.clone());
        }
        for (name, shape, dtype) in &self.tensors {
            writer.declare(name, shape, *dtype).expect("a good tensor");
        }
        let mut stream = writer.start(Vec::new()).expect("writes");
        for (index, (name, shape, dtype)) in self.tensors.iter().enumerate() {
            let mut rng = Rng::keyed(&[self.seed, index as u64]);
            let n: u64 = shape.iter().product();
            let (mean, deviation) = if shape.len() > 1 { (0.0, self.deviation) } else { (1.0, self.deviation / 10.0) };
            let data: Vec<u8> = match dtype {
                GgmlType::F32 => {
                    (0..n).flat_map(|_| ((mean + deviation * rng.normal()) as f32).to_le_bytes()).collect()
                }
                other => vec![0; other.tensor_bytes(shape).expect("a good shape") as usize],
            };
            stream.write_tensor(name, &data).expect("writes");
        }
        stream.finish().expect("complete")
    }

    pub fn write(&self, path: &Path) -> PathBuf {
        std::fs::write(path, self.bytes()).expect("writes");
        path.to_owned()
    }
}

/// The language model.
pub fn model() -> Draft {
    let mut draft = Draft::new(1);
    draft.set("general.architecture", "qwen3vl").set("general.type", "model").set("general.name", "tiny");
    for (key, value) in [
        ("block_count", N_LAYER),
        ("context_length", 4096),
        ("embedding_length", N_EMBD),
        ("feed_forward_length", N_FF),
        ("attention.head_count", N_HEAD),
        ("attention.head_count_kv", N_HEAD_KV),
        ("attention.key_length", HEAD_DIM),
        ("attention.value_length", HEAD_DIM),
        ("n_deepstack_layers", 1),
    ] {
        draft.set(&format!("qwen3vl.{key}"), value as u32);
    }
    draft.set("qwen3vl.rope.dimension_sections", vec![3, 3, 2, 0]);
    draft.set("qwen3vl.rope.freq_base", 10_000f32);
    draft.set("qwen3vl.attention.layer_norm_rms_epsilon", 1e-6f32);
    vocabulary(&mut draft, &[]);
    draft.tensor("token_embd.weight", &[N_EMBD, N_VOCAB]).tensor("output_norm.weight", &[N_EMBD]);
    for layer in 0..N_LAYER {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for (part, n_in, n_out) in linear_parts() {
            draft.tensor(&name(part), &[n_in, n_out]);
        }
        for (part, n) in
            [("attn_norm", N_EMBD), ("ffn_norm", N_EMBD), ("attn_q_norm", HEAD_DIM), ("attn_k_norm", HEAD_DIM)]
        {
            draft.tensor(&name(part), &[n]);
        }
    }
    draft
}

/// [`model`] with more control tokens, which come last.
pub fn with_tokens(control: &[&str]) -> Draft {
    let mut draft = model();
    vocabulary(&mut draft, control);
    draft.tensor("token_embd.weight", &[N_EMBD, N_VOCAB + control.len() as u64]);
    draft
}

/// [`model`] with more tokens of text, spelled as byte-level BPE does, which come last and which no text is tokenized to.
pub fn with_words(words: &[&str]) -> Draft {
    let mut draft = with_tokens(words);
    let mut types = vec![1i32; 256];
    types.resize(N_VOCAB as usize, 3);
    types.resize(N_VOCAB as usize + words.len(), 1);
    draft.set("tokenizer.ggml.token_type", types);
    draft
}

fn linear_parts() -> [(&'static str, u64, u64); 7] {
    let (n_q, n_kv) = (N_HEAD * HEAD_DIM, N_HEAD_KV * HEAD_DIM);
    [
        ("attn_q", N_EMBD, n_q),
        ("attn_k", N_EMBD, n_kv),
        ("attn_v", N_EMBD, n_kv),
        ("attn_output", n_q, N_EMBD),
        ("ffn_gate", N_EMBD, N_FF),
        ("ffn_up", N_EMBD, N_FF),
        ("ffn_down", N_FF, N_EMBD),
    ]
}

/// One token for each byte, as byte-level BPE spells them, the special ones and more of them.
fn vocabulary(draft: &mut Draft, control: &[&str]) {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut n_shifted = 0;
    let mut tokens: Vec<String> = (0..256)
        .map(|byte| {
            let code = if printable(byte) { byte } else { 256 + n_shifted };
            n_shifted += u32::from(!printable(byte));
            char::from_u32(code).expect("a character").to_string()
        })
        .collect();
    tokens.extend(SPECIAL.iter().chain(control).map(|&token| token.to_owned()));
    let mut types = vec![1i32; 256];
    types.resize(tokens.len(), 3);
    draft.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "qwen2");
    draft.set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.token_type", types);
    draft.set("tokenizer.ggml.merges", Vec::<String>::new());
    draft.set("tokenizer.ggml.eos_token_id", 258u32).set("tokenizer.ggml.add_bos_token", false);
}

/// Width, layers and largest picture of an image encoder.
#[derive(Clone, Copy)]
pub struct Tower {
    pub width: u64,
    pub n_layers: u64,
    pub max_pixels: u64,
}

/// The projector that fits [`model`].
pub fn mmproj() -> Draft {
    mmproj_of(Tower { width: 32, n_layers: 2, max_pixels: 65_536 })
}

/// A projector that fits [`model`], of another size.
pub fn mmproj_of(Tower { width, n_layers, max_pixels }: Tower) -> Draft {
    let merged = 4 * width;
    let mut draft = Draft::new(2);
    draft.set("general.architecture", "clip").set("general.type", "mmproj");
    draft.set("clip.has_vision_encoder", true).set("clip.projector_type", "qwen3vl_merger");
    draft.set("clip.use_gelu", true);
    for (key, value) in [
        ("projection_dim", N_EMBD),
        ("image_size", 64),
        ("patch_size", 16),
        ("embedding_length", width),
        ("feed_forward_length", 2 * width),
        ("block_count", n_layers),
        ("attention.head_count", 2),
        ("spatial_merge_size", 2),
        ("image_min_pixels", 1024),
        ("image_max_pixels", max_pixels),
    ] {
        draft.set(&format!("clip.vision.{key}"), value as u32);
    }
    draft.set("clip.vision.attention.layer_norm_epsilon", 1e-6f32);
    draft.set("clip.vision.image_mean", vec![0.5f32; 3]).set("clip.vision.image_std", vec![0.5f32; 3]);
    draft.set("clip.vision.is_deepstack_layers", (0..n_layers).map(|layer| layer == 0).collect::<Vec<_>>());
    let kernel = [16, 16, 3, width];
    draft.tensor("v.patch_embd.weight", &kernel).tensor("v.patch_embd.weight.1", &kernel);
    draft.tensor("v.patch_embd.bias", &[width]).tensor("v.position_embd.weight", &[width, 16]);
    for layer in 0..n_layers {
        for (part, n_in, n_out) in [
            ("attn_qkv", width, 3 * width),
            ("attn_out", width, width),
            ("ffn_up", width, 2 * width),
            ("ffn_down", 2 * width, width),
        ] {
            draft.linear(&format!("v.blk.{layer}.{part}"), n_in, n_out);
        }
        for norm in ["ln1", "ln2"] {
            draft.tensor(&format!("v.blk.{layer}.{norm}.weight"), &[width]);
            draft.tensor(&format!("v.blk.{layer}.{norm}.bias"), &[width]);
        }
    }
    draft.tensor("v.post_ln.weight", &[width]).tensor("v.post_ln.bias", &[width]);
    draft.tensor("v.deepstack.0.norm.weight", &[merged]).tensor("v.deepstack.0.norm.bias", &[merged]);
    draft.linear("v.deepstack.0.fc1", merged, merged);
    draft.linear("v.deepstack.0.fc2", merged, N_EMBD);
    draft.linear("mm.0", merged, merged);
    draft.linear("mm.2", merged, N_EMBD);
    draft
}

/// A LoRA of rank 2 on two matrices of [`model`].
pub fn adapter() -> Draft {
    let mut draft = Draft::new(3);
    draft.set("general.architecture", "qwen3vl").set("general.type", "adapter");
    draft.set("adapter.type", "lora").set("adapter.lora.alpha", 4f32);
    for (name, n_in, n_out) in
        [("blk.0.attn_q.weight", N_EMBD, N_HEAD * HEAD_DIM), ("blk.1.ffn_down.weight", N_FF, N_EMBD)]
    {
        draft.tensor(&format!("{name}.lora_a"), &[n_in, 2]).tensor(&format!("{name}.lora_b"), &[2, n_out]);
    }
    draft
}

/// [`model`] and [`mmproj`] loaded from a directory of their own.
pub fn load() -> (Model, TempDir) {
    load_with(&mmproj())
}

/// [`model`] and `mmproj` loaded from a directory of their own.
pub fn load_with(mmproj: &Draft) -> (Model, TempDir) {
    let directory = tempfile::tempdir().expect("creates");
    mmproj.write(&directory.path().join("mmproj-tiny.gguf"));
    let path = model().write(&directory.path().join("tiny.gguf"));
    let model = Model::load(path, &ModelOptions { n_threads: 1, ..ModelOptions::default() }).expect("loads");
    (model, directory)
}

/// A session on one thread: tests share the cores.
pub fn session(model: &Model, n_seq: usize, n_ctx: usize) -> Session {
    let options = SessionOptions { n_seq, n_ctx, n_threads: 1, ..SessionOptions::default() };
    Session::new(model, &options).expect("makes a session")
}

/// The tokens of `text` as a prompt.
pub fn prompt(model: &Model, text: &str) -> EncodedPrompt {
    EncodedPrompt::from_tokens(model.tokenize(text, true).expect("tokenizes"))
}
