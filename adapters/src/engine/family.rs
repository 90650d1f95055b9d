//! What a decoder looks like: one layer shape for all supported families, their differences as data.
//!
//! A layer is: RMS norm, attention with rotary positions and grouped heads, residual, RMS norm, gated feed-forward layer,
//! residual. Families differ in how positions rotate, in whether queries and keys are normalised per head, and in whether
//! their files may stretch the rotations.

use owlet_runtime::{
    Error, ErrorKind, Result,
    ggml::{Rope, RopeMode},
    gguf::GgufFile,
};

use crate::lora::Target;

/// What distinguishes an architecture from the others.
struct Family {
    /// `general.architecture` of the file, and the prefix of its keys.
    architecture: &'static str,
    rope: RopeMode,
    /// Whether queries and keys are RMS-normalised per head before they are rotated.
    normalised_heads: bool,
    /// Whether a tensor of the file may divide the frequencies of the rotations, as in Llama 3.
    frequency_factors: bool,
}

const FAMILIES: [Family; 5] = [
    Family { architecture: "qwen3vl", rope: RopeMode::Interleaved, normalised_heads: true, frequency_factors: false },
    Family { architecture: "qwen3", rope: RopeMode::Neox, normalised_heads: true, frequency_factors: false },
    Family { architecture: "qwen2vl", rope: RopeMode::Multi, normalised_heads: false, frequency_factors: false },
    Family { architecture: "qwen2", rope: RopeMode::Neox, normalised_heads: false, frequency_factors: false },
    Family { architecture: "llama", rope: RopeMode::Normal, normalised_heads: false, frequency_factors: true },
];

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decoder {
    pub n_layers: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward layer.
    pub n_ff: usize,
    pub n_vocab: usize,
    /// Query heads; a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Key and value heads; head `h` of the queries uses head `h / (n_head / n_head_kv)`.
    pub n_head_kv: usize,
    pub head_dim: usize,
    /// Added to the mean square in RMS norms.
    pub eps: f32,
    pub rope: Rope,
    pub normalised_heads: bool,
    /// Whether the file may have divisors of the rotations' frequencies.
    pub frequency_factors: bool,
    /// Layers after which features of the pictures are added; 0 for text models.
    pub n_deepstack: usize,
}

impl Decoder {
    /// Reads the shape from the metadata of `file`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an architecture or a variant that the engine does not compute exactly,
    /// [`ErrorKind::InvalidFile`] for missing or contradictory metadata.
    pub(crate) fn read(file: &GgufFile) -> Result<Self> {
        let architecture = file.str("general.architecture")?;
        let family = FAMILIES.iter().find(|family| family.architecture == architecture).ok_or_else(|| {
            let names: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
            Error::new(ErrorKind::Unsupported, "cannot train this architecture")
                .at(file.path().display())
                .got(architecture)
                .needed(names.join(", "))
        })?;
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| file.u32(&key(name)).map(|n| n as usize);
        let optional = |name: &str, default: usize| Ok(file.opt_u32(&key(name))?.map_or(default, |n| n as usize));

        let n_embd = size("embedding_length")?;
        let n_head = size("attention.head_count")?;
        let n_head_kv = optional("attention.head_count_kv", n_head)?;
        let invalid = |what: &str| Error::new(ErrorKind::InvalidFile, what).at(file.path().display());
        if n_head == 0 || n_head_kv == 0 || !n_head.is_multiple_of(n_head_kv) {
            return Err(invalid("numbers of heads").got(format!("{n_head} over {n_head_kv}")));
        }
        let head_dim = optional("attention.key_length", n_embd / n_head)?;
        let value_dim = optional("attention.value_length", head_dim)?;
        let n_rotated = optional("rope.dimension_count", head_dim)?;
        if head_dim == 0 || value_dim != head_dim || n_rotated > head_dim || n_rotated % 2 != 0 || head_dim % 2 != 0 {
            return Err(
                invalid("width of heads").got(format!("{head_dim} keys, {value_dim} values, {n_rotated} rotated"))
            );
        }
        refuse_variants(file, architecture)?;

        let sections = match family.rope.positions_per_token() {
            1 => [0; 4],
            _ => {
                let key = key("rope.dimension_sections");
                let sections = file.opt_i32s(&key)?.unwrap_or_default();
                let fits = sections.len() <= 4 && sections.iter().all(|&n| (0..=head_dim as i32).contains(&n));
                let mut full = [0; 4];
                if !fits || sections.iter().sum::<i32>() > head_dim as i32 || sections.iter().take(3).all(|&n| n == 0) {
                    return Err(invalid("rope sections").at(key).got(format!("{sections:?}")));
                }
                full[..sections.len()].copy_from_slice(&sections);
                full
            }
        };
        let freq_base = file.opt_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        let eps = file.f32(&key("attention.layer_norm_rms_epsilon"))?;
        if !(freq_base > 1.0 && freq_base.is_finite() && (0.0..1.0).contains(&eps)) {
            return Err(invalid("rope base or norm epsilon").got(format!("{freq_base}, {eps}")));
        }
        let embedding =
            file.tensor("token_embd.weight").ok_or_else(|| invalid("missing tensor").at("token_embd.weight"))?;
        let n_layers = size("block_count")?;
        let n_deepstack = optional("n_deepstack_layers", 0)?;
        if n_layers == 0 || n_deepstack > n_layers {
            return Err(invalid("numbers of layers").got(format!("{n_layers}, {n_deepstack} with image features")));
        }
        Ok(Self {
            n_layers,
            n_embd,
            n_ff: size("feed_forward_length")?,
            n_vocab: embedding.n_rows() as usize,
            n_head,
            n_head_kv,
            head_dim,
            eps,
            rope: Rope { mode: family.rope, n_rotated, freq_base, sections },
            normalised_heads: family.normalised_heads,
            frequency_factors: family.frequency_factors,
            n_deepstack,
        })
    }

    /// Widths of the input and the output of a linear layer.
    pub(crate) fn widths(&self, target: Target) -> (usize, usize) {
        match target {
            Target::Q => (self.n_embd, self.query_width()),
            Target::K | Target::V => (self.n_embd, self.key_width()),
            Target::O => (self.query_width(), self.n_embd),
            Target::Gate | Target::Up => (self.n_embd, self.n_ff),
            Target::Down => (self.n_ff, self.n_embd),
        }
    }

    /// Query heads that share one key and value head.
    pub(super) fn n_sharing(&self) -> usize {
        self.n_head / self.n_head_kv
    }

    /// Width of the queries of a token.
    pub(super) fn query_width(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Width of the keys, and of the values, of a token.
    pub(crate) fn key_width(&self) -> usize {
        self.n_head_kv * self.head_dim
    }
}

/// Keys that announce a computation which the engine lacks; without them it would train another model.
fn refuse_variants(file: &GgufFile, architecture: &str) -> Result<()> {
    let refused = |key: &str, got: String| {
        Error::new(ErrorKind::Unsupported, "cannot train this variant of the architecture")
            .at(key)
            .at(file.path().display())
            .got(got)
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let scaling = key("rope.scaling.type");
    let kind = file.opt_str(&scaling)?;
    if let Some(kind) = kind.filter(|kind| *kind != "none") {
        return Err(refused(&scaling, kind.to_owned()));
    }
    for name in ["expert_count", "attention.sliding_window", "nextn_predict_layers"] {
        let key = key(name);
        if let Some(n) = file.opt_u32(&key)?.filter(|&n| n > 0) {
            return Err(refused(&key, n.to_string()));
        }
    }
    if file.opt_bool(&key("attention.causal"))? == Some(false) {
        return Err(refused(&key("attention.causal"), "false".to_owned()));
    }
    // Without a type, llama.cpp takes a factor to be one of linear scaling.
    let factors = ["rope.scaling.factor", "rope.scale_linear"].into_iter().filter(|_| kind.is_none());
    let scales = [
        "rope.scaling.attn_factor",
        "rope.scaling.alpha",
        "attention.scale",
        "logit_scale",
        "residual_scale",
        "embedding_scale",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    ];
    for name in factors.chain(scales) {
        let key = key(name);
        // 0 and 1 say that there is none.
        if let Some(scale) = file.opt_f32(&key)?.filter(|scale| ![0.0, 1.0].contains(scale)) {
            return Err(refused(&key, scale.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small decoder for tests of what depends on its shape.
    pub(in crate::engine) fn decoder() -> Decoder {
        let rope = Rope { mode: RopeMode::Neox, n_rotated: 8, freq_base: 1e4, sections: [0; 4] };
        Decoder {
            n_layers: 2,
            n_embd: 32,
            n_ff: 48,
            n_vocab: 40,
            n_head: 4,
            n_head_kv: 2,
            head_dim: 8,
            eps: 1e-6,
            rope,
            normalised_heads: true,
            frequency_factors: false,
            n_deepstack: 0,
        }
    }
}
