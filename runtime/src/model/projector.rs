//! Image projector files (mmproj): found beside the model, and checked on their own and against the model.

mod tensors;

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::hyper::Hyperparameters;
use crate::{Error, ErrorKind, Result, gguf::GgufFile, image::ImageBudget};

/// Pixels that the published Qwen3-VL processors keep, for projector files that name none.
const PUBLISHED_PIXELS: (u64, u64) = (65_536, 16_777_216);
/// Upper bound on blocks of a tower.
const MAX_LAYERS: u32 = 512;

/// What the rest of the runtime needs to know of a projector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProjectorInfo {
    /// Side of the square of pixels behind one token: patch size x merge size.
    pub(crate) factor: u32,
    pub(crate) tower: TowerShape,
    /// Pixel limits of the processor that the model was trained with, where the file names them.
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    /// Most tokens of a picture that the family's published processors make, where they count tokens.
    published_tokens: Option<u64>,
    /// Boxes are in pixels of the resized picture, not in thousandths of its sides.
    pub(crate) has_absolute_boxes: bool,
}

impl ProjectorInfo {
    /// The pixels of a picture by default: the projector file's numbers, else those of the published models.
    pub(crate) fn default_budget(&self) -> ImageBudget {
        let (published_min, published_max) = PUBLISHED_PIXELS;
        let token_pixels = u64::from(self.factor).pow(2);
        let published_max = self.published_tokens.map_or(published_max, |n_tokens| n_tokens * token_pixels);
        ImageBudget {
            factor: self.factor,
            min_pixels: self.min_pixels.unwrap_or(published_min),
            max_pixels: self.max_pixels.unwrap_or(published_max),
        }
    }
}

/// The projector beside `model`: `mmproj*.gguf` or `*mmproj*.gguf` in the same directory.
///
/// Of several, the one that carries the model's name (quantization suffixes apart) is taken; `None` when there is none.
///
/// # Errors
/// `InvalidInput` that lists the candidates when the choice is open, `Io` when the directory cannot be read.
pub(super) fn find_beside(model: &Path) -> Result<Option<PathBuf>> {
    let directory = match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let what = "cannot look for an image projector";
    let entries = fs::read_dir(directory).map_err(|source| Error::io(what, directory, source))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| Error::io(what, directory, source))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.contains("mmproj") && name.ends_with(".gguf") && path != model {
            found.push(path);
        }
    }
    found.sort();
    if found.len() > 1 {
        let wanted = base_name(model);
        let named: Vec<_> = found.iter().filter(|path| base_name(path) == wanted).cloned().collect();
        if named.len() == 1 {
            found = named;
        }
    }
    if found.len() > 1 {
        let names: Vec<_> =
            found.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
        let error = Error::new(ErrorKind::InvalidInput, "several image projectors beside the model");
        return Err(error.at(directory.display()).got(names.join(", ")).needed("one of them by name"));
    }
    Ok(found.pop())
}

/// The file name in lower case without `mmproj` and without a trailing quantization: `mmproj-Owl-2B-F16.gguf` and
/// `Owl-2B-Q4_K_M.gguf` are both `owl-2b`.
fn base_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem = stem.replace("mmproj", "");
    let stem = stem.trim_matches(['-', '_', '.']);
    let is_quantization = |word: &str| {
        ["f16", "f32", "bf16"].contains(&word)
            || (word.starts_with('q') || word.starts_with("iq")) && word.contains(|c: char| c.is_ascii_digit())
    };
    match stem.rsplit_once(['-', '.']) {
        Some((base, last)) if is_quantization(last) => base.trim_end_matches(['-', '_', '.']).to_owned(),
        _ => stem.to_owned(),
    }
}

/// Checks the projector in `file`, and that it fits the language model `hyper`.
///
/// # Errors
/// `InvalidFile`, `Unsupported` for what is no projector of the Qwen-VL family, `Mismatch` when it belongs to another
/// model.
pub(crate) fn check(file: &GgufFile, hyper: &Hyperparameters) -> Result<ProjectorInfo> {
    let architecture = file.opt_str("general.architecture")?.unwrap_or("none");
    if architecture != "clip" || file.opt_bool("clip.has_vision_encoder")? != Some(true) {
        let error = Error::new(ErrorKind::Unsupported, "not an image projector").got(format!("{architecture} file"));
        return Err(error.needed("an mmproj GGUF with a vision encoder"));
    }
    check_keys(file)?;
    file.check_alignment()?;
    let kind = match file.opt_str("clip.projector_type")? {
        Some(kind) => kind,
        None => file.str("clip.vision.projector_type")?,
    };
    let needed = match hyper.architecture.name() {
        "qwen3vl" => &[Kind::Qwen3][..],
        _ => &[Kind::Qwen25, Kind::Qwen2],
    };
    let Some(&kind) = needed.iter().find(|needed| needed.name() == kind) else {
        let error = Error::new(ErrorKind::Mismatch, "image projector is for another model").at("clip.projector_type");
        let names: Vec<_> = needed.iter().map(|kind| kind.name()).collect();
        return Err(error.got(kind).needed(names.join(" or ")));
    };
    let tower = Tower::read(file, kind)?;
    let n_text = u64::from(hyper.n_embd);
    let n_deepstack = tower.check_tensors(file, n_text)?;
    if n_deepstack != u64::from(hyper.n_deepstack) {
        let error = Error::new(ErrorKind::Mismatch, "image projector is for another model").at("deepstack layers");
        return Err(error.got(n_deepstack).needed(hyper.n_deepstack));
    }
    let width = u64::from(file.u32("clip.vision.projection_dim")?);
    if width != n_text {
        let error = Error::new(ErrorKind::Mismatch, "image projector is for another model");
        return Err(error.at("clip.vision.projection_dim").got(width).needed(n_text));
    }
    Ok(ProjectorInfo {
        factor: (tower.patch * tower.merge) as u32,
        tower: TowerShape { n_embd: tower.n_embd, n_ff: tower.n_ff, patch: tower.patch, merge: tower.merge },
        min_pixels: file.opt_u32("clip.vision.image_min_pixels")?.map(u64::from),
        max_pixels: file.opt_u32("clip.vision.image_max_pixels")?.map(u64::from),
        // llama.cpp's limit too; attention without windows takes memory by the square.
        published_tokens: (kind != Kind::Qwen3).then_some(4096),
        // Qwen2.5-VL (arXiv 2502.13923, section 2.1.2) alone: the families before and after it count relatively.
        has_absolute_boxes: kind == Kind::Qwen25,
    })
}

/// Every key that clip.cpp reads for these projectors: its getters end the process on another type than this one.
const KEYS: [(&str, &str, bool /* required */); 24] = [
    ("general.name", "string", false),
    ("general.description", "string", false),
    ("clip.has_vision_encoder", "bool", true),
    ("clip.has_audio_encoder", "bool", false),
    ("clip.has_gen_audio_encoder", "bool", false),
    ("clip.projector_type", "string", false),
    ("clip.use_gelu", "bool", false),
    ("clip.use_silu", "bool", false),
    ("clip.minicpmv_version", "i32", false),
    ("clip.minicpmv_query_num", "u32", false),
    ("clip.vision.projector_type", "string", false),
    ("clip.vision.mm_patch_merge_type", "string", false),
    ("clip.vision.embedding_length", "u32", true),
    ("clip.vision.feed_forward_length", "u32", true),
    ("clip.vision.block_count", "u32", true),
    ("clip.vision.projection_dim", "u32", true),
    ("clip.vision.image_size", "u32", true),
    ("clip.vision.patch_size", "u32", true),
    ("clip.vision.spatial_merge_size", "u32", false),
    ("clip.vision.n_wa_pattern", "u32", false),
    ("clip.vision.attention.head_count", "u32", true),
    ("clip.vision.attention.head_count_kv", "u32", false),
    ("clip.vision.attention.head_dim", "u32", false),
    ("clip.vision.attention.layer_norm_epsilon", "f32", true),
];

fn check_keys(file: &GgufFile) -> Result<()> {
    for (key, needed, is_required) in KEYS {
        if is_required && file.get(key).is_none() {
            return Err(Error::new(ErrorKind::InvalidFile, "missing metadata").at(key).needed(needed));
        }
        file.demand_type(key, needed)?;
    }
    for key in ["clip.has_audio_encoder", "clip.has_gen_audio_encoder"] {
        if file.opt_bool(key)? == Some(true) {
            let error = Error::new(ErrorKind::Unsupported, "projector of more than pictures").at(key);
            return Err(error.got(true).needed(false));
        }
    }
    Ok(())
}

/// The projectors of the Qwen-VL family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Qwen2,
    Qwen25,
    Qwen3,
}

impl Kind {
    /// llama.cpp's name.
    fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2vl_merger",
            Self::Qwen25 => "qwen2.5vl_merger",
            Self::Qwen3 => "qwen3vl_merger",
        }
    }

    /// The largest patch: Qwen2.5-VL attends in windows of 112 pixels, which hold no merged patch of a larger one, and
    /// llama.cpp counts the pixels of the largest picture in an `int`.
    fn max_patch(self) -> u32 {
        if self == Self::Qwen25 { 56 } else { 64 }
    }
}

/// Sizes of the vision tower that decide about memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TowerShape {
    pub(crate) n_embd: u64,
    pub(crate) n_ff: u64,
    pub(crate) patch: u64,
    merge: u64,
}

impl TowerShape {
    /// Pixels on a side of a token.
    pub(crate) fn factor(&self) -> u32 {
        (self.patch * self.merge) as u32
    }
}

/// Sizes of the vision tower.
struct Tower {
    kind: Kind,
    n_embd: u64,
    n_ff: u64,
    n_layer: u64,
    patch: u64,
    merge: u64,
}

impl Tower {
    fn read(file: &GgufFile, kind: Kind) -> Result<Self> {
        let within = |key: &str, min: u32, max: u32| {
            let key = format!("clip.vision.{key}");
            let value = file.u32(&key)?;
            let range = min..=max;
            if range.contains(&value) { Ok(u64::from(value)) } else { Err(wrong(&key, value, &format!("{range:?}"))) }
        };
        let n_embd = within("embedding_length", 1, 1 << 16)?;
        let n_head = within("attention.head_count", 1, 1 << 12)?;
        // The rotary embedding splits a head in four.
        if !n_embd.is_multiple_of(n_head * 4) {
            return Err(wrong(
                "clip.vision.attention.head_count",
                n_head,
                &format!("heads of a multiple of 4 in {n_embd}"),
            ));
        }
        // llama.cpp's graph merges 2 x 2 and splits queries, keys and values alike, whatever the file says.
        let merge = 2;
        let fixed = [
            ("spatial_merge_size", merge),
            ("attention.head_dim", n_embd / n_head),
            ("attention.head_count_kv", n_head),
        ];
        for (key, needed) in fixed {
            let key = format!("clip.vision.{key}");
            if let Some(value) = file.opt_u32(&key)?.filter(|&value| u64::from(value) != needed) {
                return Err(wrong(&key, value, &needed.to_string()));
            }
        }
        match kind {
            Kind::Qwen25 => within("n_wa_pattern", 1, MAX_LAYERS).map(drop)?,
            // The graph would attend in windows whose masks nobody fills.
            _ => match file.opt_u32("clip.vision.n_wa_pattern")? {
                None | Some(0) => {}
                Some(other) => return Err(wrong("clip.vision.n_wa_pattern", other, "0")),
            },
        }
        for key in ["clip.vision.image_mean", "clip.vision.image_std"] {
            let values = file.get(key).and_then(|value| value.as_f32s()).unwrap_or_default();
            let good = values.len() >= 3 && values.iter().all(|value| value.is_finite());
            if !good || (key.ends_with("std") && values.contains(&0.0)) {
                return Err(wrong(key, format!("{values:?}"), "3 finite numbers, deviations not 0"));
            }
        }
        within("image_size", 1, 8192)?;
        let key = "clip.vision.attention.layer_norm_epsilon";
        let epsilon = file.f32(key)?;
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(wrong(key, epsilon, "a finite number, at least 0"));
        }
        Ok(Self {
            kind,
            n_embd,
            n_ff: within("feed_forward_length", 1, 1 << 20)?,
            n_layer: within("block_count", 1, MAX_LAYERS)?,
            patch: within("patch_size", 1, kind.max_patch())?,
            merge,
        })
    }
}

fn wrong(place: &str, got: impl std::fmt::Display, needed: &str) -> Error {
    Error::new(ErrorKind::InvalidFile, "wrong image projector").at(place).got(got).needed(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_pair_models_with_projectors() {
        for (file, base) in [
            ("Owl-2B-Q4_K_M.gguf", "owl-2b"),
            ("mmproj-Owl-2B-F16.gguf", "owl-2b"),
            ("Owl-2B.mmproj-f16.gguf", "owl-2b"),
            ("owl.gguf", "owl"),
            ("mmproj-f16.gguf", "f16"),
        ] {
            assert_eq!(base_name(Path::new(file)), base, "{file}");
        }
    }

    #[test]
    fn a_projector_is_found_when_the_choice_is_clear() {
        struct Case {
            files: &'static [&'static str],
            found: Result<Option<&'static str>, &'static str>,
        }
        let cases = [
            Case { files: &["a-q8_0.gguf"], found: Ok(None) },
            Case { files: &["a-q8_0.gguf", "mmproj-other.gguf"], found: Ok(Some("mmproj-other.gguf")) },
            Case {
                files: &["a-q8_0.gguf", "mmproj-a-f16.gguf", "mmproj-b.gguf"],
                found: Ok(Some("mmproj-a-f16.gguf")),
            },
            Case {
                files: &["a-q8_0.gguf", "mmproj-b.gguf", "mmproj-c.gguf"],
                found: Err("mmproj-b.gguf, mmproj-c.gguf"),
            },
        ];
        for Case { files, found } in cases {
            let directory = tempfile::tempdir().expect("creates");
            for file in files {
                fs::write(directory.path().join(file), b"").expect("writes");
            }
            match (find_beside(&directory.path().join("a-q8_0.gguf")), found) {
                (Ok(got), Ok(expected)) => {
                    assert_eq!(got, expected.map(|name| directory.path().join(name)), "{files:?}")
                }
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (got, expected) => panic!("{files:?}: {got:?}, expected {expected:?}"),
            }
        }
    }
}
