//! What a synthetic model looks like: its shape, and the tensors and keys that follow from it.

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result, gguf::GgufWriter};

use super::vocabulary::N_WORKING_TOKENS;

/// A family of decoders, by llama.cpp's name of the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama, SmolLM2: neighbouring elements rotate together.
    Llama,
    /// Qwen2 and Qwen2.5: halves of a head rotate together; queries, keys and values have biases.
    Qwen2,
    /// The text decoder of Qwen2-VL and Qwen2.5-VL: as Qwen2, with positions of three axes.
    Qwen2Vl,
    /// Qwen3: queries and keys are normalised per head.
    Qwen3,
    /// The text decoder of Qwen3-VL: as Qwen3, with positions of three axes, interleaved.
    Qwen3Vl,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Llama, Self::Qwen2, Self::Qwen2Vl, Self::Qwen3, Self::Qwen3Vl];

    /// llama.cpp's name, which files carry as `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Vl => "qwen2vl",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Vl => "qwen3vl",
        }
    }

    /// Whether queries and keys are normalised per head.
    fn normalises_heads(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Qwen3Vl)
    }

    /// How `n` rotations are shared by time, height and width, in the proportions of the published models; `None` for
    /// families with one axis.
    fn rope_sections(self, n: u32) -> Option<[u32; 3]> {
        let side = match self {
            Self::Qwen2Vl => n * 3 / 8,
            Self::Qwen3Vl => n * 5 / 16,
            Self::Llama | Self::Qwen2 | Self::Qwen3 => return None,
        };
        Some([n - 2 * side, side, side])
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Family {
    type Err = Error;

    /// Reads llama.cpp's name; `Unsupported` for others.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::Unsupported, "unknown model family").got(name).needed(names)
        })
    }
}

/// A decoder to be written with random weights.
#[derive(Clone, Debug, PartialEq)]
pub struct SynthModel {
    /// The family.
    pub family: Family,
    /// Transformer layers, 1..=512.
    pub n_layers: u32,
    /// Width of the hidden states, at least 2.
    pub n_embd: u32,
    /// Width of the feed-forward layer, at least 1.
    pub n_ff: u32,
    /// Query heads, at least 1.
    pub n_heads: u32,
    /// Key and value heads, a divisor of `n_heads`.
    pub n_kv_heads: u32,
    /// Width of a head, even; at least 16 in families with three axes.
    pub head_dim: u32,
    /// Tokens, at least 262. The first 256 are bytes, six are special, the others are there to be computed with.
    pub n_vocab: u32,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Whether queries, keys and values have biases.
    pub biased: bool,
    /// Base of the rotations' frequencies.
    pub rope_base: f32,
    /// Whether a tensor divides these frequencies, as in Llama 3; of that family only.
    pub rope_factors: bool,
    /// Context length that the file states.
    pub n_context: u32,
}

/// What a tensor does, which decides how its numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Matrix,
    /// A matrix of which logits are made.
    Logits,
    Gain,
    Bias,
    /// Divisors of frequencies.
    Divisor,
}

/// One tensor of the file.
#[derive(Clone, Debug)]
pub(super) struct SynthTensor {
    pub(super) name: String,
    /// In ggml's order: the length of a row first.
    pub(super) shape: Vec<u64>,
    pub(super) role: Role,
}

impl SynthTensor {
    pub(super) fn new(name: String, shape: Vec<u64>, role: Role) -> Self {
        Self { name, shape, role }
    }

    pub(super) fn row_len(&self) -> usize {
        self.shape[0] as usize
    }

    /// 1 for vectors.
    pub(super) fn n_rows(&self) -> usize {
        self.shape[1..].iter().product::<u64>() as usize
    }
}

impl SynthModel {
    /// A model of `family` of two layers and 270,000 weights, of widths that all types can pack.
    pub fn tiny(family: Family) -> Self {
        Self {
            family,
            n_layers: 2,
            n_embd: 256,
            n_ff: 256,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            n_vocab: 320,
            tied: true,
            biased: matches!(family, Family::Qwen2 | Family::Qwen2Vl),
            rope_base: 10_000.0,
            rope_factors: false,
            n_context: 4096,
        }
    }

    /// Names of the published shapes.
    pub const PRESETS: [&str; 5] = ["smollm2-135m", "llama-3.2-1b", "qwen2.5-vl-3b", "qwen3-0.6b", "qwen3-vl-2b"];

    /// A published shape (of vision models the text decoder) by name.
    ///
    /// # Errors
    /// `Unsupported` with the names that there are.
    pub fn preset(name: &str) -> Result<Self> {
        let qwen = |family, n_layers, n_embd, n_ff, n_heads, n_kv_heads| Self {
            n_layers,
            n_embd,
            n_ff,
            n_heads,
            n_kv_heads,
            head_dim: 128,
            n_vocab: 151_936,
            n_context: 32_768,
            rope_base: 1e6,
            ..Self::tiny(family)
        };
        Ok(match name {
            "smollm2-135m" => Self {
                n_layers: 30,
                n_embd: 576,
                n_ff: 1536,
                n_heads: 9,
                n_kv_heads: 3,
                n_vocab: 49_152,
                rope_base: 1e5,
                n_context: 8192,
                ..Self::tiny(Family::Llama)
            },
            "llama-3.2-1b" => Self {
                n_layers: 16,
                n_embd: 2048,
                n_ff: 8192,
                n_heads: 32,
                n_kv_heads: 8,
                n_vocab: 128_256,
                rope_base: 5e5,
                rope_factors: true,
                n_context: 131_072,
                ..Self::tiny(Family::Llama)
            },
            "qwen2.5-vl-3b" => qwen(Family::Qwen2Vl, 36, 2048, 11_008, 16, 2),
            "qwen3-0.6b" => qwen(Family::Qwen3, 28, 1024, 3072, 16, 8),
            "qwen3-vl-2b" => Self { rope_base: 5e6, ..qwen(Family::Qwen3Vl, 28, 2048, 6144, 16, 8) },
            _ => {
                let error = Error::new(ErrorKind::Unsupported, "unknown preset").got(name);
                return Err(error.needed(Self::PRESETS.join(", ")));
            }
        })
    }

    /// # Errors
    /// `InvalidInput` naming the first number that is out of its documented range.
    pub fn validate(&self) -> Result<()> {
        let least_head = if self.family.rope_sections(16).is_some() { 16 } else { 2 };
        for (name, got, low, high) in [
            ("layers", self.n_layers, 1, 512),
            ("embd", self.n_embd, 2, 1 << 20),
            ("ff", self.n_ff, 1, 1 << 24),
            ("heads", self.n_heads, 1, 1 << 10),
            ("kv-heads", self.n_kv_heads, 1, self.n_heads),
            ("head-dim", self.head_dim, least_head, 1 << 12),
            ("vocab", self.n_vocab, N_WORKING_TOKENS, 1 << 24),
            ("context", self.n_context, 1, i32::MAX as u32),
        ] {
            if !(low..=high).contains(&got) {
                return Err(out_of_range(name).got(got).needed(format!("{low}..={high}")));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let needed = format!("a divisor of {} heads", self.n_heads);
            return Err(out_of_range("kv-heads").got(self.n_kv_heads).needed(needed));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(out_of_range("head-dim").got(self.head_dim).needed("an even number"));
        }
        if !(self.rope_base > 1.0 && self.rope_base.is_finite()) {
            return Err(out_of_range("rope-base").got(self.rope_base).needed("a finite number above 1"));
        }
        if self.rope_factors && self.family != Family::Llama {
            return Err(out_of_range("rope-factors").got(self.family).needed(Family::Llama));
        }
        Ok(())
    }

    /// Weights, vectors included.
    pub fn n_weights(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum()
    }

    /// Layers that take features of a picture: three in all published sizes; without a picture they change nothing.
    pub(super) fn n_deepstack(&self) -> u32 {
        3.min(self.n_layers - 1)
    }

    /// All tensors, in the order of the file.
    pub(super) fn tensors(&self) -> Vec<SynthTensor> {
        let (n_embd, n_ff, head_dim) = (self.n_embd, self.n_ff, self.head_dim);
        let (query, key) = (self.n_heads * head_dim, self.n_kv_heads * head_dim);
        let tensor = |name: String, row_len: u32, n_rows: u32, role| {
            let is_matrix = matches!(role, Role::Matrix | Role::Logits);
            let shape = [row_len, n_rows].map(u64::from);
            SynthTensor::new(name, shape[..if is_matrix { 2 } else { 1 }].to_vec(), role)
        };
        let mut tensors = vec![tensor("token_embd.weight".to_owned(), n_embd, self.n_vocab, Role::Logits)];
        for layer in 0..self.n_layers {
            let name = |part: &str, kind: &str| format!("blk.{layer}.{part}.{kind}");
            for (part, n_in, n_out) in [
                ("attn_q", n_embd, query),
                ("attn_k", n_embd, key),
                ("attn_v", n_embd, key),
                ("attn_output", query, n_embd),
                ("ffn_gate", n_embd, n_ff),
                ("ffn_up", n_embd, n_ff),
                ("ffn_down", n_ff, n_embd),
            ] {
                tensors.push(tensor(name(part, "weight"), n_in, n_out, Role::Matrix));
                if self.biased && ["attn_q", "attn_k", "attn_v"].contains(&part) {
                    tensors.push(tensor(name(part, "bias"), n_out, 1, Role::Bias));
                }
            }
            let norms = [("attn_norm", n_embd), ("ffn_norm", n_embd)];
            let head_norms = [("attn_q_norm", head_dim), ("attn_k_norm", head_dim)];
            let head_norms = head_norms.into_iter().filter(|_| self.family.normalises_heads());
            let gain = |(part, n)| tensor(name(part, "weight"), n, 1, Role::Gain);
            tensors.extend(norms.into_iter().chain(head_norms).map(gain));
        }
        tensors.push(tensor("output_norm.weight".to_owned(), n_embd, 1, Role::Gain));
        if self.rope_factors {
            tensors.push(tensor("rope_freqs.weight".to_owned(), head_dim / 2, 1, Role::Divisor));
        }
        if !self.tied {
            tensors.push(tensor("output.weight".to_owned(), n_embd, self.n_vocab, Role::Logits));
        }
        tensors
    }

    /// Sets the keys that describe the shape.
    pub(super) fn write_keys(&self, writer: &mut GgufWriter) {
        let family = self.family;
        writer.set("general.architecture", family.name()).set("general.type", "model");
        writer.set("general.name", format!("random {family}"));
        for (key, value) in [
            ("block_count", self.n_layers),
            ("context_length", self.n_context),
            ("embedding_length", self.n_embd),
            ("feed_forward_length", self.n_ff),
            ("attention.head_count", self.n_heads),
            ("attention.head_count_kv", self.n_kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.n_vocab),
        ] {
            writer.set(format!("{family}.{key}"), value);
        }
        if let Some([time, height, width]) = family.rope_sections(self.head_dim / 2) {
            // ggml has a fourth section, for audio.
            let sections = vec![time as i32, height as i32, width as i32, 0];
            writer.set(format!("{family}.rope.dimension_sections"), sections);
        }
        if family == Family::Qwen3Vl {
            writer.set(format!("{family}.n_deepstack_layers"), self.n_deepstack());
        }
        let eps = if family == Family::Llama { 1e-5f32 } else { 1e-6 };
        writer.set(format!("{family}.attention.layer_norm_rms_epsilon"), eps);
        writer.set(format!("{family}.rope.freq_base"), self.rope_base);
    }
}

fn out_of_range(name: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "no model has this shape").at(name)
}
