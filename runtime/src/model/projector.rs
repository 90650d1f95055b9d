//! Image projector files (mmproj): found beside the model, and checked on their own and against the model.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    check::{matrix, vector},
    hyper::Hyperparameters,
};
use crate::{Error, ErrorKind, Result, gguf::GgufFile};

/// What the rest of the runtime needs to know of a projector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProjectorInfo {
    /// Side of the square of pixels behind one token: patch size x merge size.
    pub(crate) factor: u32,
    /// Pixel limits of the processor that the model was trained with, where the file names them.
    pub(crate) min_pixels: Option<u64>,
    pub(crate) max_pixels: Option<u64>,
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
pub(super) fn check(file: &GgufFile, hyper: &Hyperparameters) -> Result<ProjectorInfo> {
    let architecture = file.opt_str("general.architecture")?.unwrap_or("none");
    if architecture != "clip" || file.opt_bool("clip.has_vision_encoder")? != Some(true) {
        let error = Error::new(ErrorKind::Unsupported, "not an image projector").got(format!("{architecture} file"));
        return Err(error.needed("an mmproj GGUF with a vision encoder"));
    }
    let kind = match file.opt_str("clip.projector_type")? {
        Some(kind) => kind,
        None => file.str("clip.vision.projector_type")?,
    };
    let needed = match hyper.architecture.name() {
        "qwen3vl" => &["qwen3vl_merger"][..],
        _ => &["qwen2.5vl_merger", "qwen2vl_merger"],
    };
    if !needed.contains(&kind) {
        let error = Error::new(ErrorKind::Mismatch, "image projector is for another model").at("clip.projector_type");
        return Err(error.got(kind).needed(needed.join(" or ")));
    }
    let tower = Tower::read(file)?;
    let n_deepstack = tower.check_tensors(file, kind, u64::from(hyper.n_embd))?;
    if n_deepstack != u64::from(hyper.n_deepstack) {
        let error = Error::new(ErrorKind::Mismatch, "image projector is for another model").at("deepstack layers");
        return Err(error.got(n_deepstack).needed(hyper.n_deepstack));
    }
    Ok(ProjectorInfo {
        factor: (tower.patch * tower.merge) as u32,
        min_pixels: file.opt_u32("clip.vision.image_min_pixels")?.map(u64::from),
        max_pixels: file.opt_u32("clip.vision.image_max_pixels")?.map(u64::from),
    })
}

/// Sizes of the vision tower.
struct Tower {
    n_embd: u64,
    n_ff: u64,
    n_layer: u64,
    patch: u64,
    merge: u64,
}

impl Tower {
    fn read(file: &GgufFile) -> Result<Self> {
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
        let merge = match file.opt_u32("clip.vision.spatial_merge_size")? {
            None | Some(2) => 2,
            // llama.cpp's graph merges 2 x 2 whatever the file says.
            Some(other) => return Err(wrong("clip.vision.spatial_merge_size", other, "2")),
        };
        for key in ["clip.vision.image_mean", "clip.vision.image_std"] {
            let values = file.get(key).and_then(|value| value.as_f32s()).unwrap_or_default();
            let good = values.len() >= 3 && values.iter().all(|value| value.is_finite());
            if !good || (key.ends_with("std") && values.contains(&0.0)) {
                return Err(wrong(key, format!("{values:?}"), "3 finite numbers, deviations not 0"));
            }
        }
        within("image_size", 1, 1 << 16)?;
        file.f32("clip.vision.attention.layer_norm_epsilon")?;
        Ok(Self {
            n_embd,
            n_ff: within("feed_forward_length", 1, 1 << 20)?,
            n_layer: within("block_count", 1, 512)?,
            patch: within("patch_size", 1, 256)?,
            merge,
        })
    }

    /// Checks all tensors and returns the number of deepstack mergers. `n_text` is the language model's width.
    fn check_tensors(&self, file: &GgufFile, kind: &str, n_text: u64) -> Result<u64> {
        let n = self.n_embd;
        let merged = n * self.merge * self.merge;
        let is_qwen3 = kind == "qwen3vl_merger";
        let kernel = [self.patch, self.patch, 3, n];
        file.require("v.patch_embd.weight", &kernel)?;
        file.require("v.patch_embd.weight.1", &kernel)?;
        for layer in 0..self.n_layer {
            let name = |part: &str| format!("v.blk.{layer}.{part}");
            for norm in ["ln1", "ln2"] {
                vector(file, &name(&format!("{norm}.weight")), n)?;
                if kind != "qwen2.5vl_merger" {
                    vector(file, &name(&format!("{norm}.bias")), n)?;
                }
            }
            let mut linears = vec![("attn_out", n, n), ("ffn_up", n, self.n_ff), ("ffn_down", self.n_ff, n)];
            match is_qwen3 {
                true => linears.push(("attn_qkv", n, 3 * n)),
                false => linears.extend([("attn_q", n, n), ("attn_k", n, n), ("attn_v", n, n)]),
            }
            if kind == "qwen2.5vl_merger" {
                linears.push(("ffn_gate", n, self.n_ff));
            }
            for (part, n_in, n_out) in linears {
                linear(file, &name(part), n_in, n_out)?;
            }
        }
        vector(file, "v.post_ln.weight", n)?;
        linear(file, "mm.0", merged, merged)?;
        let width = file.tensor("mm.2.bias").map_or(0, |bias| bias.shape[0]);
        if width != n_text {
            let error = Error::new(ErrorKind::Mismatch, "image projector is for another model").at("mm.2.bias");
            return Err(error.got(format!("width {width}")).needed(format!("{n_text}, the model's embedding width")));
        }
        linear(file, "mm.2", merged, n_text)?;
        if !is_qwen3 {
            return Ok(0);
        }
        vector(file, "v.post_ln.bias", n)?;
        vector(file, "v.patch_embd.bias", n)?;
        self.check_positions(file)?;
        let mut n_deepstack = 0;
        for layer in 0..self.n_layer {
            let name = |part: &str| format!("v.deepstack.{layer}.{part}");
            if file.tensor(&name("fc1.weight")).is_some() {
                n_deepstack += 1;
                vector(file, &name("norm.weight"), merged)?;
                vector(file, &name("norm.bias"), merged)?;
                linear(file, &name("fc1"), merged, merged)?;
                linear(file, &name("fc2"), merged, n_text)?;
            }
        }
        Ok(n_deepstack)
    }

    /// Learned positions lie on a square grid, which is interpolated.
    fn check_positions(&self, file: &GgufFile) -> Result<()> {
        let name = "v.position_embd.weight";
        let rows = file.tensor(name).map_or(0, |tensor| tensor.n_rows());
        vectors(file, name, [self.n_embd, rows.max(1)])?;
        if rows.isqrt().pow(2) != rows {
            return Err(wrong(name, format!("{rows} positions"), "a square number"));
        }
        Ok(())
    }
}

fn linear(file: &GgufFile, name: &str, n_in: u64, n_out: u64) -> Result<()> {
    matrix(file, &format!("{name}.weight"), [n_in, n_out])?;
    vector(file, &format!("{name}.bias"), n_out)
}

/// A table of f32 rows.
fn vectors(file: &GgufFile, name: &str, shape: [u64; 2]) -> Result<()> {
    let tensor = file.require(name, &shape)?;
    if tensor.dtype == crate::gguf::GgmlType::F32 { Ok(()) } else { Err(wrong(name, tensor.dtype, "f32")) }
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
