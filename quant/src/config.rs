//! `config.json`: which architecture, and its sizes, in the shapes that transformers 4 and 5 write.

use owlet_runtime::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::json::Section;

/// Upper bounds that no real model reaches; products of two of them stay far below 2^63.
const MAX_LAYERS: u32 = 512;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_VOCABULARY: u32 = 1 << 24;

/// The model families that are converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Qwen3Vl,
    Qwen3,
    Qwen2,
    Llama,
}

impl Architecture {
    const ALL: [Self; 4] = [Self::Qwen3Vl, Self::Qwen3, Self::Qwen2, Self::Llama];

    /// The class name in `config.json`.
    fn class(self) -> &'static str {
        match self {
            Self::Qwen3Vl => "Qwen3VLForConditionalGeneration",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
        }
    }

    /// llama.cpp's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qwen3Vl => "qwen3vl",
            Self::Qwen3 => "qwen3",
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
        }
    }

    fn read(config: &Section<'_>) -> Result<Self> {
        let classes = config.array("architectures")?;
        let class = classes.first().and_then(Value::as_str).unwrap_or_default();
        Self::ALL.into_iter().find(|known| known.class() == class).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|known| known.class()).collect();
            let error = Error::new(ErrorKind::Unsupported, "unsupported architecture").at(config.at("architectures"));
            error.got(format!("{class:?}")).needed(format!("one of {}", names.join(", ")))
        })
    }
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) architecture: Architecture,
    pub(crate) text: TextConfig,
    pub(crate) vision: Option<VisionConfig>,
}

/// Sizes of the language model.
#[derive(Clone, Debug)]
pub(crate) struct TextConfig {
    pub(crate) n_layers: u32,
    pub(crate) n_embd: u32,
    pub(crate) n_ffn: u32,
    pub(crate) n_heads: u32,
    pub(crate) n_kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) n_vocab: u32,
    pub(crate) n_context: u32,
    pub(crate) norm_eps: f32,
    pub(crate) rope_theta: f32,
    /// Frequencies for time, height and width (M-RoPE); only models that see.
    pub(crate) rope_sections: Option<[u32; 3]>,
    /// Whether the embedding is the output matrix; `None` where the file does not say.
    pub(crate) is_tied: Option<bool>,
}

/// Sizes of the vision tower.
#[derive(Clone, Debug)]
pub(crate) struct VisionConfig {
    pub(crate) n_layers: u32,
    pub(crate) n_embd: u32,
    pub(crate) n_ffn: u32,
    pub(crate) n_heads: u32,
    pub(crate) patch_size: u32,
    pub(crate) merge_size: u32,
    /// Side of the square grid of learned positions.
    pub(crate) grid: u32,
    /// Blocks whose output goes into the first layers of the language model, ascending.
    pub(crate) deepstack: Vec<u32>,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// `Unsupported` for another architecture or an option that would change the computation; `InvalidFile` for
    /// missing or absurd values; `Mismatch` for values that contradict each other.
    pub(crate) fn read(config: &Value) -> Result<Self> {
        let config = Section::new(config, "config.json");
        let architecture = Architecture::read(&config)?;
        config.only("quantization_config", &[])?;
        let (text, vision) = match architecture {
            Architecture::Qwen3Vl => (config.section("text_config")?, Some(config.section("vision_config")?)),
            _ => (config.clone(), None),
        };
        let mut text = TextConfig::read(&text, architecture)?;
        text.is_tied = config.opt_bool("tie_word_embeddings")?.or(text.is_tied);
        let vision = vision.map(|section| VisionConfig::read(&section, &text)).transpose()?;
        Ok(Self { architecture, text, vision })
    }
}

impl TextConfig {
    fn read(config: &Section<'_>, architecture: Architecture) -> Result<Self> {
        config.only("hidden_act", &[json!("silu")])?;
        config.only("use_sliding_window", &[json!(false)])?;
        config.only("mlp_bias", &[json!(false)])?;
        config.only("attention_bias", &[json!(false)])?;
        let n_embd = config.count("hidden_size", MAX_WIDTH)?;
        let n_heads = config.count("num_attention_heads", MAX_WIDTH)?;
        let n_kv_heads = config.opt_count("num_key_value_heads", n_heads)?.unwrap_or(n_heads);
        let head_dim = config.opt_count("head_dim", MAX_WIDTH)?.unwrap_or((n_embd / n_heads).max(1));
        let is_wide = u64::from(n_heads) * u64::from(head_dim) > u64::from(MAX_WIDTH);
        if !n_heads.is_multiple_of(n_kv_heads) || !head_dim.is_multiple_of(2) || is_wide {
            let error =
                Error::new(ErrorKind::Mismatch, "attention sizes do not fit").at(config.at("num_attention_heads"));
            let got = format!("{n_heads} heads of {head_dim}, {n_kv_heads} for keys and values");
            return Err(error.got(got).needed("a multiple, an even head size, a product below 2^20"));
        }
        let rope = Rope::read(config, architecture, head_dim)?;
        Ok(Self {
            n_layers: config.count("num_hidden_layers", MAX_LAYERS)?,
            n_embd,
            n_ffn: config.count("intermediate_size", MAX_WIDTH)?,
            n_heads,
            n_kv_heads,
            head_dim,
            n_vocab: config.count("vocab_size", MAX_VOCABULARY)?,
            n_context: config.count("max_position_embeddings", i32::MAX as u32)?,
            norm_eps: config.positive("rms_norm_eps")?,
            rope_theta: rope.theta,
            rope_sections: rope.sections,
            is_tied: config.opt_bool("tie_word_embeddings")?,
        })
    }
}

struct Rope {
    theta: f32,
    sections: Option<[u32; 3]>,
}

impl Rope {
    /// transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 one object `rope_parameters`.
    fn read(config: &Section<'_>, architecture: Architecture, head_dim: u32) -> Result<Self> {
        let parameters = config.opt_section("rope_parameters")?.or(config.opt_section("rope_scaling")?);
        let inner = parameters.as_ref().map(|section| section.opt_positive("rope_theta")).transpose()?.flatten();
        let theta = inner.or(config.opt_positive("rope_theta")?);
        // 10000 is the default of the classes that may leave it out.
        let theta = theta.unwrap_or(10_000.0);
        if let Some(section) = &parameters {
            for key in ["rope_type", "type"] {
                section.only(key, &[json!("default"), json!("mrope")])?;
            }
        }
        if architecture != Architecture::Qwen3Vl {
            return Ok(Self { theta, sections: None });
        }
        let parameters = match parameters {
            Some(section) => section,
            None => config.section("rope_parameters")?,
        };
        parameters.only("mrope_interleaved", &[json!(true)])?;
        let sections = parameters.counts("mrope_section", head_dim)?;
        let fits = sections.iter().sum::<u32>() == head_dim / 2;
        match <[u32; 3]>::try_from(sections) {
            Ok(sections) if fits => Ok(Self { theta, sections: Some(sections) }),
            _ => {
                let needed = format!("3 numbers whose sum is {}", head_dim / 2);
                let error = Error::new(ErrorKind::Mismatch, "rotary sections do not fit the heads");
                Err(error.at(parameters.at("mrope_section")).needed(needed))
            }
        }
    }
}

impl VisionConfig {
    fn read(config: &Section<'_>, text: &TextConfig) -> Result<Self> {
        config.only("hidden_act", &[json!("gelu_pytorch_tanh")])?;
        config.only("in_channels", &[json!(3)])?;
        // llama.cpp's patch embedding adds exactly two kernels.
        config.only("temporal_patch_size", &[json!(2)])?;
        config.only("out_hidden_size", &[json!(text.n_embd)])?;
        config.only("spatial_merge_size", &[json!(2)])?;
        let n_layers = config.count("depth", MAX_LAYERS)?;
        let n_positions = config.count("num_position_embeddings", MAX_VOCABULARY)?;
        let grid = n_positions.isqrt();
        let n_embd = config.count("hidden_size", MAX_WIDTH)?;
        let n_heads = config.count("num_heads", MAX_WIDTH)?;
        let deepstack = config.counts("deepstack_visual_indexes", n_layers - 1)?;
        let mismatch = |key: &str, got: String, needed: &str| {
            Error::new(ErrorKind::Mismatch, "vision sizes do not fit").at(config.at(key)).got(got).needed(needed)
        };
        if grid * grid != n_positions {
            return Err(mismatch("num_position_embeddings", n_positions.to_string(), "a square number"));
        }
        if !n_embd.is_multiple_of(n_heads) {
            return Err(mismatch("num_heads", format!("{n_heads} for {n_embd}"), "a divisor of hidden_size"));
        }
        if !deepstack.is_sorted_by(|a, b| a < b) || deepstack.len() > text.n_layers as usize {
            let needed = "ascending block numbers, at most one per layer of the language model";
            return Err(mismatch("deepstack_visual_indexes", format!("{deepstack:?}"), needed));
        }
        Ok(Self {
            n_layers,
            n_embd,
            n_ffn: config.count("intermediate_size", MAX_WIDTH)?,
            n_heads,
            patch_size: config.count("patch_size", 1024)?,
            merge_size: config.count("spatial_merge_size", 2)?,
            grid,
            deepstack,
        })
    }
}
