//! The vision tower of Qwen3-VL: the keys and tensors of llama.cpp's `qwen3vl_merger` projector.

use std::path::Path;

use owlet_runtime::{Error, ErrorKind, Result, gguf::GgufWriter};

use crate::{
    config::{TextConfig, VisionConfig},
    json::{self, Section},
    plan::{PlannedTensor, RowOrder, TypeRule},
};

/// Where the vision tower's tensors are in a checkpoint.
pub(crate) const PREFIX: &str = "model.visual";
/// transformers has this constant in the code of the tower, not in the configuration.
const NORM_EPS: f32 = 1e-6;
/// Frames that the patch embedding takes at once; `config.rs` has checked it.
const N_FRAMES: usize = 2;

/// How pictures reach the tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pixels {
    /// Mean of each channel, after scaling to 0..1.
    mean: [f32; 3],
    /// Standard deviation of each channel.
    std: [f32; 3],
    /// Fewest and most pixels that the processor resizes a picture to.
    limits: Option<(u32, u32)>,
}

impl Pixels {
    /// Reads `preprocessor_config.json` (transformers 4) or `processor_config.json` (5) of `directory`.
    ///
    /// # Errors
    /// `NotFound` without either, `InvalidFile` for wrong values.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let old = directory.join("preprocessor_config.json");
        let new = directory.join("processor_config.json");
        let (path, file) = match json::read_optional(&old)? {
            Some(file) => (old, file),
            None if new.exists() => (new.clone(), json::read(&new)?),
            None => {
                let error = Error::new(ErrorKind::NotFound, "missing picture settings").at(directory.display());
                return Err(error.needed("preprocessor_config.json or processor_config.json"));
            }
        };
        let section = Section::new(&file, path.display().to_string());
        let section = section.opt_section("image_processor")?.unwrap_or(section);
        Ok(Self { mean: section.numbers("image_mean")?, std: section.numbers("image_std")?, limits: limits(&section)? })
    }
}

/// The limits of the picture size: `size.shortest_edge` and `size.longest_edge`, which count pixels despite their names,
/// or the older `min_pixels` and `max_pixels`.
fn limits(section: &Section<'_>) -> Result<Option<(u32, u32)>> {
    let size = section.opt_section("size")?;
    let (section, least, most) = match &size {
        Some(size) if size.get("shortest_edge").is_some() => (size, "shortest_edge", "longest_edge"),
        _ => (section, "min_pixels", "max_pixels"),
    };
    Ok(section.opt_count(least, u32::MAX)?.zip(section.opt_count(most, u32::MAX)?))
}

/// The tensors of the tower, in the order of the computation.
pub(crate) fn tensors(vision: &VisionConfig, text: &TextConfig) -> Vec<PlannedTensor> {
    let mut tensors = vec![kernel(vision, 0), kernel(vision, 1)];
    let merged = vision.n_embd * vision.merge_size * vision.merge_size;
    let positions = PlannedTensor::matrix(
        "v.position_embd.weight",
        format!("{PREFIX}.pos_embed.weight"),
        vision.grid * vision.grid,
        vision.n_embd,
    );
    tensors.extend([
        PlannedTensor::vector("v.patch_embd.bias", format!("{PREFIX}.patch_embed.proj.bias"), vision.n_embd),
        positions.ruled(TypeRule::Float),
    ]);
    for layer in 0..vision.n_layers {
        let (from, to) = (format!("{PREFIX}.blocks.{layer}"), format!("v.blk.{layer}"));
        norm(&mut tensors, &format!("{to}.ln1"), &format!("{from}.norm1"), vision.n_embd);
        linear(&mut tensors, &format!("{to}.attn_qkv"), &format!("{from}.attn.qkv"), 3 * vision.n_embd, vision.n_embd);
        linear(&mut tensors, &format!("{to}.attn_out"), &format!("{from}.attn.proj"), vision.n_embd, vision.n_embd);
        norm(&mut tensors, &format!("{to}.ln2"), &format!("{from}.norm2"), vision.n_embd);
        linear(&mut tensors, &format!("{to}.ffn_up"), &format!("{from}.mlp.linear_fc1"), vision.n_ffn, vision.n_embd);
        linear(&mut tensors, &format!("{to}.ffn_down"), &format!("{from}.mlp.linear_fc2"), vision.n_embd, vision.n_ffn);
    }
    for (index, layer) in vision.deepstack.iter().enumerate() {
        let (from, to) = (format!("{PREFIX}.deepstack_merger_list.{index}"), format!("v.deepstack.{layer}"));
        norm(&mut tensors, &format!("{to}.norm"), &format!("{from}.norm"), merged);
        linear(&mut tensors, &format!("{to}.fc1"), &format!("{from}.linear_fc1"), merged, merged);
        linear(&mut tensors, &format!("{to}.fc2"), &format!("{from}.linear_fc2"), text.n_embd, merged);
    }
    norm(&mut tensors, "v.post_ln", &format!("{PREFIX}.merger.norm"), vision.n_embd);
    linear(&mut tensors, "mm.0", &format!("{PREFIX}.merger.linear_fc1"), merged, merged);
    linear(&mut tensors, "mm.2", &format!("{PREFIX}.merger.linear_fc2"), text.n_embd, merged);
    tensors
}

/// ggml has no three-dimensional convolution: the kernel over two frames becomes two kernels whose results are added.
fn kernel(vision: &VisionConfig, frame: usize) -> PlannedTensor {
    let (n, side) = (vision.n_embd, vision.patch_size);
    PlannedTensor {
        name: if frame == 0 { "v.patch_embd.weight".to_owned() } else { format!("v.patch_embd.weight.{frame}") },
        shape: vec![side.into(), side.into(), 3, n.into()],
        source: format!("{PREFIX}.patch_embed.proj.weight"),
        source_shape: vec![n as usize, 3, N_FRAMES, side as usize, side as usize],
        order: RowOrder::Frame { index: frame, count: N_FRAMES },
        rule: TypeRule::Kernel,
    }
}

fn linear(tensors: &mut Vec<PlannedTensor>, to: &str, from: &str, n_out: u32, n_in: u32) {
    tensors.push(PlannedTensor::matrix(format!("{to}.weight"), format!("{from}.weight"), n_out, n_in));
    tensors.push(PlannedTensor::vector(format!("{to}.bias"), format!("{from}.bias"), n_out));
}

fn norm(tensors: &mut Vec<PlannedTensor>, to: &str, from: &str, n: u32) {
    tensors.push(PlannedTensor::vector(format!("{to}.weight"), format!("{from}.weight"), n));
    tensors.push(PlannedTensor::vector(format!("{to}.bias"), format!("{from}.bias"), n));
}

/// Sets the keys that describe the tower; the general ones are the caller's.
pub(crate) fn write_keys(vision: &VisionConfig, text: &TextConfig, pixels: Pixels, writer: &mut GgufWriter) {
    let is_deepstack: Vec<_> = (0..vision.n_layers).map(|layer| vision.deepstack.contains(&layer)).collect();
    writer
        .set("clip.has_vision_encoder", true)
        .set("clip.projector_type", "qwen3vl_merger")
        .set("clip.use_gelu", true)
        .set("clip.vision.projection_dim", text.n_embd)
        .set("clip.vision.image_size", vision.grid * vision.patch_size)
        .set("clip.vision.patch_size", vision.patch_size)
        .set("clip.vision.embedding_length", vision.n_embd)
        .set("clip.vision.feed_forward_length", vision.n_ffn)
        .set("clip.vision.block_count", vision.n_layers)
        .set("clip.vision.attention.head_count", vision.n_heads)
        .set("clip.vision.attention.layer_norm_epsilon", NORM_EPS)
        .set("clip.vision.image_mean", pixels.mean.to_vec())
        .set("clip.vision.image_std", pixels.std.to_vec())
        .set("clip.vision.spatial_merge_size", vision.merge_size)
        .set("clip.vision.is_deepstack_layers", is_deepstack);
    // llama.cpp's converter leaves these out for Qwen, so that readers guess; a model trained on small pictures then sees
    // them enlarged. Its own projectors of other families have the same keys.
    if let Some((least, most)) = pixels.limits {
        writer.set("clip.vision.image_min_pixels", least).set("clip.vision.image_max_pixels", most);
    }
}
