//! What the converter will write: every tensor with its source, its new shape and the order of its rows.

use owlet_runtime::{Error, ErrorKind, Result, gguf::GgmlType, quantize::QuantType};

/// One tensor of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedTensor {
    /// Name in the GGUF file.
    pub(crate) name: String,
    /// Shape in ggml order, row length first.
    pub(crate) shape: Vec<u64>,
    /// Name in the checkpoint.
    pub(crate) source: String,
    /// Shape in the checkpoint, contiguous dimension last.
    pub(crate) source_shape: Vec<usize>,
    pub(crate) order: RowOrder,
    pub(crate) rule: TypeRule,
}

/// Which source row goes where. A row is the contiguous part that is moved as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As in the source.
    Same,
    /// Rows of a query or key matrix, per head from (first halves, second halves) to interleaved pairs: Hugging Face
    /// rotates dimension i with i + head_dim/2, llama.cpp's `llama` architecture with its neighbour.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
    },
    /// One of `count` frames of a video kernel `[out, channels, frames, height, width]`; a row is a picture.
    Frame {
        /// Which one.
        index: usize,
        /// How many there are.
        count: usize,
    },
}

impl RowOrder {
    /// The source row of row `row` of the output.
    pub(crate) fn source_row(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { head_dim } => {
                let (head, inner) = (row / head_dim, row % head_dim);
                head * head_dim + (inner % 2) * (head_dim / 2) + inner / 2
            }
            Self::Frame { index, count } => row * count + index,
        }
    }
}

/// How the type of a tensor follows from the type asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeRule {
    /// Matrices: the type asked for, F16 where its blocks do not fit the rows.
    Weight,
    /// Always F32: vectors, norms, position tables.
    Float,
    /// F16 where that is asked for, else F32: convolution kernels.
    Kernel,
}

impl TypeRule {
    /// The tensor's type when the file is written as `asked`, one of F32, F16, BF16 and Q8_0.
    pub(crate) fn apply(self, asked: GgmlType, shape: &[u64]) -> GgmlType {
        match self {
            Self::Float => GgmlType::F32,
            Self::Kernel if asked == GgmlType::F16 => GgmlType::F16,
            Self::Kernel => GgmlType::F32,
            Self::Weight if shape[0].is_multiple_of(asked.block_size()) => asked,
            Self::Weight => GgmlType::F16,
        }
    }
}

impl PlannedTensor {
    /// A matrix `[n_out, n_in]`.
    pub(crate) fn matrix(name: impl Into<String>, source: impl Into<String>, n_out: u32, n_in: u32) -> Self {
        Self {
            name: name.into(),
            shape: vec![n_in.into(), n_out.into()],
            source: source.into(),
            source_shape: vec![n_out as usize, n_in as usize],
            order: RowOrder::Same,
            rule: TypeRule::Weight,
        }
    }

    /// A vector of `n`.
    pub(crate) fn vector(name: impl Into<String>, source: impl Into<String>, n: u32) -> Self {
        Self {
            name: name.into(),
            shape: vec![n.into()],
            source: source.into(),
            source_shape: vec![n as usize],
            order: RowOrder::Same,
            rule: TypeRule::Float,
        }
    }

    /// The same with another order of rows.
    pub(crate) fn ordered(self, order: RowOrder) -> Self {
        Self { order, ..self }
    }

    /// The same with another rule for its type.
    pub(crate) fn ruled(self, rule: TypeRule) -> Self {
        Self { rule, ..self }
    }

    /// Number of weights.
    pub(crate) fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The plain type that the converter writes for `dtype` itself; `None` where llama.cpp's quantizer takes over.
pub(crate) fn direct_type(dtype: QuantType) -> Option<GgmlType> {
    matches!(dtype, QuantType::F32 | QuantType::F16 | QuantType::BF16 | QuantType::Q8_0).then(|| dtype.base_type())
}

/// [`direct_type`], or the error that says which types a converter's file can have.
pub(crate) fn require_direct(dtype: QuantType, what: &str) -> Result<GgmlType> {
    direct_type(dtype).ok_or_else(|| {
        let error = Error::new(ErrorKind::Unsupported, format!("unsupported type for {what}"));
        error.got(dtype).needed("F32, F16, BF16 or Q8_0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_pairs_each_row_with_the_one_half_a_head_on() {
        let order = RowOrder::Interleaved { head_dim: 4 };
        let rows: Vec<_> = (0..8).map(|row| order.source_row(row)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn a_frame_is_every_nth_picture() {
        let order = RowOrder::Frame { index: 1, count: 2 };
        assert_eq!([order.source_row(0), order.source_row(5)], [1, 11]);
    }

    #[test]
    fn types_follow_the_rules() {
        let cases = [
            (TypeRule::Weight, GgmlType::Q8_0, 64, GgmlType::Q8_0),
            (TypeRule::Weight, GgmlType::Q8_0, 48, GgmlType::F16),
            (TypeRule::Weight, GgmlType::BF16, 3, GgmlType::BF16),
            (TypeRule::Float, GgmlType::Q8_0, 64, GgmlType::F32),
            (TypeRule::Kernel, GgmlType::F16, 16, GgmlType::F16),
            (TypeRule::Kernel, GgmlType::BF16, 16, GgmlType::F32),
            (TypeRule::Kernel, GgmlType::Q8_0, 16, GgmlType::F32),
        ];
        for (rule, asked, row, expected) in cases {
            assert_eq!(rule.apply(asked, &[row, 2]), expected, "{rule:?} {asked} {row}");
        }
    }
}
