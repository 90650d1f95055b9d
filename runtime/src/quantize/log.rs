//! What llama.cpp's quantizer says while it works: which tensor, and in a dry run which type.
//!
//! The log is the only place where it tells either; its wording is that of the pinned version, and a test of
//! [`super::plan_quantization`] compares it with what a real run writes.

use crate::gguf::GgmlType;

/// One piece of the log. A line arrives in two or three pieces.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Work on a tensor begins.
    Tensor(String),
    /// The current tensor becomes this type.
    Becomes(GgmlType),
    /// The current tensor stays as it is.
    Stays,
    /// Anything else.
    Other,
}

impl Piece {
    pub(super) fn parse(text: &str) -> Self {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix('[') {
            let name = rest.split_once("] ").and_then(|(_, rest)| rest.split_once(" - [")).map(|(name, _)| name.trim());
            return name.map_or(Self::Other, |name| Self::Tensor(name.to_owned()));
        }
        if !text.starts_with("size =") {
            return Self::Other;
        }
        if !text.contains("->") {
            return Self::Stays;
        }
        let name = text.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        name.and_then(|name| name.parse().ok()).map_or(Self::Other, Self::Becomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_apart() {
        let cases = [
            (
                "[   2/  35] token_embd.weight                    - [  128,   672,     1,     1], type =    f32, ",
                Piece::Tensor("token_embd.weight".to_owned()),
            ),
            ("size =     0.33 MiB ->     0.09 MiB (q8_0)\n", Piece::Becomes(GgmlType::Q8_0)),
            ("size =     0.33 MiB ->     0.09 MiB (q4_K)\n", Piece::Becomes(GgmlType::Q4K)),
            ("size =    0.001 MiB\n", Piece::Stays),
            ("size =     0.33 MiB ->     0.09 MiB\n", Piece::Other),
            ("llama_model_quantize_impl: quant size  =     1.00 MiB (8.50 BPW)\n", Piece::Other),
            ("[broken", Piece::Other),
            ("", Piece::Other),
        ];
        for (text, piece) in cases {
            assert_eq!(Piece::parse(text), piece, "{text:?}");
        }
    }
}
