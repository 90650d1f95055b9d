//! The numbers that fix a language model's shape, read from its GGUF and checked before llama.cpp sees the file.
//!
//! llama.cpp ends the process on contradictions that a file can contain (zero heads, an unknown RoPE scaling, expert
//! counts that do not fit), so each of those is an error here.

use crate::{
    Error, ErrorKind, Result,
    gguf::{GgufFile, Value},
};

/// llama.cpp's LLAMA_MAX_LAYERS.
const MAX_LAYERS: u32 = 512;

/// Architectures that Owlet loads, by llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Llama,
    Qwen2,
    Qwen2Vl,
    Qwen3,
    Qwen3Vl,
}

impl Architecture {
    const ALL: [Self; 5] = [Self::Llama, Self::Qwen2, Self::Qwen2Vl, Self::Qwen3, Self::Qwen3Vl];

    /// llama.cpp's name; Qwen2.5-VL files carry `qwen2vl` too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Vl => "qwen2vl",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Vl => "qwen3vl",
        }
    }

    fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::Unsupported, "unknown model architecture").got(name).needed(names)
        })
    }

    /// Whether pictures can go in: positions have three axes (M-RoPE) and a projector exists.
    pub(crate) fn is_vision(self) -> bool {
        matches!(self, Self::Qwen2Vl | Self::Qwen3Vl)
    }

    /// Whether queries and keys are normalised per head.
    pub(crate) fn has_qk_norm(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Qwen3Vl)
    }
}

/// Hyperparameters, checked against each other.
#[derive(Clone, Debug)]
pub(crate) struct Hyperparameters {
    pub(crate) architecture: Architecture,
    pub(crate) n_layer: u32,
    pub(crate) n_embd: u32,
    pub(crate) n_head: u32,
    pub(crate) n_head_kv: u32,
    /// Width of one head, of keys and values alike.
    pub(crate) head_dim: u32,
    pub(crate) n_ff: u32,
    pub(crate) n_ctx_train: u32,
    /// Layers whose output takes a share of the image embedding (Qwen3-VL's deepstack); 0 elsewhere.
    pub(crate) n_deepstack: u32,
}

impl Hyperparameters {
    /// Reads and checks the metadata of `file`.
    ///
    /// # Errors
    /// `InvalidFile` for missing, mistyped or contradicting keys, `Unsupported` for what is well formed but another kind
    /// of file, architecture or variant.
    pub(crate) fn read(file: &GgufFile) -> Result<Self> {
        check_kind(file)?;
        let architecture = Architecture::from_name(file.str("general.architecture")?)?;
        let keys = Keys { file, prefix: architecture.name() };
        refuse_variants(&keys)?;
        let n_layer = keys.within("block_count", 1, MAX_LAYERS)?;
        let n_embd = keys.within("embedding_length", 1, 1 << 20)?;
        let n_head = keys.within("attention.head_count", 1, 1 << 16)?;
        let n_head_kv = keys.within_or("attention.head_count_kv", n_head, 1, n_head)?;
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(keys.wrong("attention.head_count_kv", n_head_kv, &format!("a divisor of {n_head} heads")));
        }
        let head_dim = keys.within_or("attention.key_length", n_embd / n_head, 2, 1 << 16)?;
        for (key, default) in [("attention.value_length", n_embd / n_head), ("rope.dimension_count", head_dim)] {
            let value = keys.within_or(key, default, 1, 1 << 16)?;
            if value != head_dim {
                return Err(keys.wrong(key, value, &format!("{head_dim}, the key length")));
            }
        }
        if !head_dim.is_multiple_of(2) {
            return Err(keys.wrong("attention.key_length", head_dim, "an even number"));
        }
        let n_deepstack = match architecture {
            Architecture::Qwen3Vl => keys.within_or("n_deepstack_layers", 0, 0, n_layer)?,
            _ => 0,
        };
        keys.check_epsilon()?;
        if architecture.is_vision() {
            keys.check_rope_sections(head_dim)?;
        }
        Ok(Self {
            architecture,
            n_layer,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_ff: keys.within("feed_forward_length", 1, 1 << 24)?,
            n_ctx_train: keys.within("context_length", 1, i32::MAX as u32)?,
            n_deepstack,
        })
    }
}

/// Refuses the other kinds of GGUF files that people mistake for a model, by their own name.
fn check_kind(file: &GgufFile) -> Result<()> {
    let kind = file.opt_str("general.type")?.unwrap_or("model");
    let architecture = file.opt_str("general.architecture")?;
    let got = match (kind, architecture) {
        ("adapter", _) => "an adapter",
        ("mmproj", _) | (_, Some("clip")) => "an image projector (mmproj)",
        ("imatrix", _) => "an importance matrix",
        ("model", None) => "a GGUF file without general.architecture",
        ("model", Some(_)) if file.tensors().is_empty() => "a vocabulary without weights",
        ("model", Some(_)) => return Ok(()),
        (other, _) => other,
    };
    Err(Error::new(ErrorKind::Unsupported, "not a language model").got(got).needed("a model GGUF"))
}

/// Refuses variants of the architectures that our checks, and the training engine, do not cover.
fn refuse_variants(keys: &Keys) -> Result<()> {
    for key in ["expert_count", "expert_used_count", "expert_group_count", "nextn_predict_layers"] {
        let count = keys.within_or(key, 0, 0, u32::MAX)?;
        if count != 0 {
            return Err(keys.unsupported(key, &count.to_string(), "0"));
        }
    }
    if keys.file.opt_bool(&keys.name("attention.causal"))? == Some(false) {
        return Err(keys.unsupported("attention.causal", "false", "true"));
    }
    if let Some(scaling) = keys.file.opt_str(&keys.name("rope.scaling.type"))?
        && !["none", "linear", "yarn"].contains(&scaling)
    {
        return Err(keys.unsupported("rope.scaling.type", scaling, "none, linear or yarn"));
    }
    let n_splits = keys.file.get("split.count").and_then(Value::as_integer).unwrap_or(0);
    if n_splits > 1 {
        let error = Error::new(ErrorKind::Unsupported, "model is split into several files");
        return Err(error.got(format!("{n_splits} parts")).needed("one file (llama-gguf-split --merge)"));
    }
    Ok(())
}

/// Access to the keys under the architecture's name.
struct Keys<'a> {
    file: &'a GgufFile,
    prefix: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn within(&self, key: &str, min: u32, max: u32) -> Result<u32> {
        let value = match self.file.get(&self.name(key)) {
            Some(Value::Array(_)) => self.uniform(key)?,
            _ => self.file.u32(&self.name(key))?,
        };
        if (min..=max).contains(&value) { Ok(value) } else { Err(self.wrong(key, value, &format!("{min} to {max}"))) }
    }

    fn within_or(&self, key: &str, default: u32, min: u32, max: u32) -> Result<u32> {
        match self.file.get(&self.name(key)) {
            None if (min..=max).contains(&default) => Ok(default),
            _ => self.within(key, min, max),
        }
    }

    /// The value of a per-layer array whose layers are all alike.
    fn uniform(&self, key: &str) -> Result<u32> {
        let values = self.file.opt_i32s(&self.name(key))?.unwrap_or_default();
        match values.split_first() {
            Some((&first, rest)) if first >= 0 && rest.iter().all(|&value| value == first) => Ok(first as u32),
            _ => Err(self.unsupported(key, &format!("{values:?}"), "the same value in every layer")),
        }
    }

    fn check_epsilon(&self) -> Result<()> {
        let key = "attention.layer_norm_rms_epsilon";
        let epsilon = self.file.f32(&self.name(key))?;
        if epsilon.is_finite() && epsilon >= 0.0 { Ok(()) } else { Err(self.wrong(key, epsilon, "a small number")) }
    }

    /// M-RoPE splits the `head_dim / 2` rotations among time, height and width.
    fn check_rope_sections(&self, head_dim: u32) -> Result<()> {
        let key = "rope.dimension_sections";
        let sections = self.file.opt_i32s(&self.name(key))?.unwrap_or_default();
        let total: i64 = sections.iter().map(|&section| i64::from(section)).sum();
        // llama.cpp reads four, and ggml demands that one of the first three turns anything.
        let good = sections.len() == 4
            && sections.iter().take(3).any(|&section| section > 0)
            && sections.iter().all(|&section| section >= 0)
            && (1..=i64::from(head_dim / 2)).contains(&total);
        let needed = format!("4 counts, one of the first 3 above 0, of sum at most {}", head_dim / 2);
        if good { Ok(()) } else { Err(self.wrong(key, format!("{sections:?}"), &needed)) }
    }

    fn wrong(&self, key: &str, got: impl std::fmt::Display, needed: &str) -> Error {
        Error::new(ErrorKind::InvalidFile, "wrong metadata").at(self.name(key)).got(got).needed(needed)
    }

    fn unsupported(&self, key: &str, got: &str, needed: &str) -> Error {
        Error::new(ErrorKind::Unsupported, "unsupported model variant").at(self.name(key)).got(got).needed(needed)
    }
}
