//! Image projectors (mmproj) with random weights, of the Qwen3-VL family: what makes a synthetic decoder see.

use std::path::Path;

use owlet_runtime::{
    Error, ErrorKind, Result,
    gguf::{GgmlType, GgufWriter},
};

use super::{
    SynthModel, SynthOptions,
    model::{Family, Role, SynthTensor},
    write_tensors,
};
use crate::report::Progress;

/// Patches on a side of the square that becomes one token.
const MERGE: u32 = 2;
/// Pixels on a side of a patch.
const PATCH: u32 = 16;
/// Side of the grid of learned positions.
const N_POSITIONS: u32 = 48;

/// An image encoder to be written with random weights.
#[derive(Clone, Debug, PartialEq)]
pub struct SynthTower {
    /// Transformer layers, at least as many as the decoder takes features from.
    pub n_layers: u32,
    /// Width of the hidden states.
    pub n_embd: u32,
    /// Width of the feed-forward layer.
    pub n_ff: u32,
    /// Heads, a divisor of `n_embd`.
    pub n_heads: u32,
    /// Most pixels of a picture that the file states.
    pub max_pixels: u32,
}

impl SynthTower {
    /// Four layers, for the tiny decoder.
    pub fn tiny() -> Self {
        Self { n_layers: 4, n_embd: 128, n_ff: 256, n_heads: 4, max_pixels: 1 << 20 }
    }

    /// The tower of Qwen3-VL-2B and 4B.
    pub fn qwen3_vl() -> Self {
        Self { n_layers: 24, n_embd: 1024, n_ff: 4096, n_heads: 16, max_pixels: 1 << 24 }
    }

    fn validate(&self, decoder: &SynthModel) -> Result<()> {
        let bad = |name: &str, got: u32, needed: String| {
            Err(Error::new(ErrorKind::InvalidInput, "no image encoder has this shape").at(name).got(got).needed(needed))
        };
        if decoder.family != Family::Qwen3Vl {
            let error = Error::new(ErrorKind::Unsupported, "synthetic image encoders are of Qwen3-VL");
            return Err(error.got(decoder.family).needed(Family::Qwen3Vl));
        }
        let n_deepstack = decoder.n_deepstack();
        if !(n_deepstack.max(1)..=512).contains(&self.n_layers) {
            return bad("layers", self.n_layers, format!("{}..=512", n_deepstack.max(1)));
        }
        // Rotations of a head are shared by two axes, in pairs.
        if self.n_heads == 0
            || !self.n_embd.is_multiple_of(self.n_heads)
            || !(self.n_embd / self.n_heads).is_multiple_of(4)
        {
            return bad("heads", self.n_heads, format!("a divisor of {} into multiples of 4", self.n_embd));
        }
        if self.n_ff == 0 || self.n_embd == 0 {
            return bad("embd", self.n_embd, "at least 4".to_owned());
        }
        Ok(())
    }

    /// With their types: matrices in F16 and vectors in F32, as llama.cpp's converter has them.
    fn tensors(&self, decoder: &SynthModel) -> Vec<(SynthTensor, GgmlType)> {
        let (width, n_text) = (self.n_embd, decoder.n_embd);
        let merged = MERGE * MERGE * width;
        let mut list = List(Vec::new());
        for name in ["v.patch_embd.weight", "v.patch_embd.weight.1"] {
            list.push(name.to_owned(), vec![PATCH, PATCH, 3, width], Role::Matrix);
        }
        list.push("v.patch_embd.bias".to_owned(), vec![width], Role::Bias);
        list.push("v.position_embd.weight".to_owned(), vec![width, N_POSITIONS * N_POSITIONS], Role::Matrix);
        // It is interpolated, not multiplied with.
        if let Some((_, dtype)) = list.0.last_mut() {
            *dtype = GgmlType::F32;
        }
        for layer in 0..self.n_layers {
            let name = |part: &str| format!("v.blk.{layer}.{part}");
            list.linear(&name("attn_qkv"), width, 3 * width);
            list.linear(&name("attn_out"), width, width);
            list.linear(&name("ffn_up"), width, self.n_ff);
            list.linear(&name("ffn_down"), self.n_ff, width);
            list.norm(&name("ln1"), width);
            list.norm(&name("ln2"), width);
        }
        list.norm("v.post_ln", width);
        for layer in 0..decoder.n_deepstack() {
            list.norm(&format!("v.deepstack.{layer}.norm"), merged);
            list.linear(&format!("v.deepstack.{layer}.fc1"), merged, merged);
            list.linear(&format!("v.deepstack.{layer}.fc2"), merged, n_text);
        }
        list.linear("mm.0", merged, merged);
        list.linear("mm.2", merged, n_text);
        list.0
    }

    fn header(&self, decoder: &SynthModel) -> GgufWriter {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "clip").set("general.type", "mmproj").set("general.name", "random tower");
        writer.set("clip.has_vision_encoder", true).set("clip.projector_type", "qwen3vl_merger");
        writer.set("clip.use_gelu", true);
        for (key, value) in [
            ("projection_dim", decoder.n_embd),
            ("image_size", N_POSITIONS * PATCH),
            ("patch_size", PATCH),
            ("embedding_length", self.n_embd),
            ("feed_forward_length", self.n_ff),
            ("block_count", self.n_layers),
            ("attention.head_count", self.n_heads),
            ("spatial_merge_size", MERGE),
            ("image_min_pixels", 1 << 16),
            ("image_max_pixels", self.max_pixels.max(1 << 16)),
        ] {
            writer.set(format!("clip.vision.{key}"), value);
        }
        writer.set("clip.vision.attention.layer_norm_epsilon", 1e-6f32);
        writer.set("clip.vision.image_mean", vec![0.5f32; 3]).set("clip.vision.image_std", vec![0.5f32; 3]);
        let has_feature = |layer| layer < decoder.n_deepstack();
        let features: Vec<bool> = (0..self.n_layers).map(has_feature).collect();
        writer.set("clip.vision.is_deepstack_layers", features);
        writer
    }
}

/// Writes `tower` for `decoder` with random weights to `output`. An older file of that name is replaced.
///
/// # Errors
/// `Unsupported` for a decoder that is not of the Qwen3-VL family; `InvalidInput` for a shape that no encoder has; `Io`;
/// `Cancelled`.
pub fn synthesize_tower(
    tower: &SynthTower,
    decoder: &SynthModel,
    output: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    decoder.validate()?;
    tower.validate(decoder)?;
    write_tensors(tower.header(decoder), &tower.tensors(decoder), output, options, progress)
}

/// Tensors in the order of the file.
struct List(Vec<(SynthTensor, GgmlType)>);

impl List {
    fn push(&mut self, name: String, shape: Vec<u32>, role: Role) {
        let shape: Vec<u64> = shape.into_iter().map(u64::from).collect();
        let dtype = if role == Role::Matrix { GgmlType::F16 } else { GgmlType::F32 };
        self.0.push((SynthTensor::new(name, shape, role), dtype));
    }

    fn linear(&mut self, name: &str, n_in: u32, n_out: u32) {
        self.push(format!("{name}.weight"), vec![n_in, n_out], Role::Matrix);
        self.push(format!("{name}.bias"), vec![n_out], Role::Bias);
    }

    fn norm(&mut self, name: &str, n: u32) {
        self.push(format!("{name}.weight"), vec![n], Role::Gain);
        self.push(format!("{name}.bias"), vec![n], Role::Bias);
    }
}
