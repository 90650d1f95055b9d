//! What the crate tells while it works and afterwards.

use std::path::PathBuf;

use owlet_runtime::quantize::{QuantType, TensorChange};

/// How far the work is; for a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes of weights read in this stage, or drawn.
    pub done_bytes: u64,
    /// Bytes of weights that this stage will read or draw.
    pub total_bytes: u64,
}

/// The part of the work. Each has its own total; a stage may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Hugging Face weights are written as GGUF.
    Convert,
    /// llama.cpp packs a GGUF file.
    Quantize,
    /// Random weights are drawn, packed and written.
    Draw,
}

/// One file that was written, or would be in a dry run.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// Where.
    pub path: PathBuf,
    /// The type or mixture.
    pub dtype: QuantType,
    /// Every tensor with its type before and after.
    pub tensors: Vec<TensorChange>,
    /// Bytes of the weights in the input.
    pub bytes_before: u64,
    /// Bytes of the weights in the file; names and vocabulary come on top.
    pub bytes_after: u64,
    /// Number of weights.
    pub n_weights: u64,
}

impl FileReport {
    pub(crate) fn new(path: PathBuf, dtype: QuantType, tensors: Vec<TensorChange>) -> Self {
        let sum = |value: fn(&TensorChange) -> u64| tensors.iter().map(value).sum();
        Self {
            bytes_before: sum(|tensor| tensor.from_bytes),
            bytes_after: sum(|tensor| tensor.to_bytes),
            n_weights: sum(|tensor| tensor.shape.iter().product()),
            path,
            dtype,
            tensors,
        }
    }

    /// Mean bits of a weight in the file.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes_after as f64 * 8.0 / self.n_weights as f64
    }
}

/// Result of [`crate::convert`].
#[derive(Clone, Debug)]
pub struct ConvertReport {
    /// llama.cpp's name of the architecture: `qwen3vl`.
    pub architecture: &'static str,
    /// The language model.
    pub model: FileReport,
    /// The vision tower, where one was asked for.
    pub mmproj: Option<FileReport>,
}

/// The number of weights as GGUF files state it: `677K`, `1.7M`, `8.2B`.
pub(crate) fn size_label(n_weights: u64) -> String {
    let (unit, suffix) = match n_weights {
        0..=999_999 => (1e3, "K"),
        1_000_000..=999_999_999 => (1e6, "M"),
        1_000_000_000..=999_999_999_999 => (1e9, "B"),
        _ => (1e12, "T"),
    };
    let scaled = n_weights as f64 / unit;
    // Two digits at least.
    let decimals = if scaled.round() < 10.0 { 1 } else { 0 };
    format!("{scaled:.decimals$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_labels_have_two_digits_or_more() {
        let cases = [
            (676_992, "677K"),
            (1_712_000, "1.7M"),
            (9_960_000, "10M"),
            (8_190_735_360, "8.2B"),
            (630_167_424, "630M"),
        ];
        for (n, label) in cases {
            assert_eq!(size_label(n), label);
        }
    }
}
