//! Tensor types of ggml and the description of one tensor in a file.

use std::{fmt, str::FromStr};

use super::MAX_DIMS;
use crate::{Error, ErrorKind, Result};

macro_rules! ggml_types {
    ($($variant:ident = $id:literal, $name:literal, $block_size:literal, $block_bytes:literal;)*) => {
        /// How the numbers of a tensor are stored: plain, or packed in blocks that share scales.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum GgmlType {
            $(#[doc = concat!("`", $name, "`: ", $block_size, " weight(s) in ", $block_bytes, " byte(s).")] $variant,)*
        }

        impl GgmlType {
            /// All types that ggml 0.26 stores in files.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The type with ggml's number `id`; `None` for removed and future ones.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// ggml's number, as files store it.
            pub fn id(self) -> u32 {
                match self { $(Self::$variant => $id,)* }
            }

            /// ggml's name: `f16`, `q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Weights in one block; 1 for plain types. A row is a whole number of blocks.
            pub fn block_size(self) -> u64 {
                match self { $(Self::$variant => $block_size,)* }
            }

            /// Bytes of one block.
            pub fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $block_bytes,)* }
            }
        }
    };
}

ggml_types! {
    F32 = 0, "f32", 1, 4;
    F16 = 1, "f16", 1, 2;
    Q4_0 = 2, "q4_0", 32, 18;
    Q4_1 = 3, "q4_1", 32, 20;
    Q5_0 = 6, "q5_0", 32, 22;
    Q5_1 = 7, "q5_1", 32, 24;
    Q8_0 = 8, "q8_0", 32, 34;
    Q8_1 = 9, "q8_1", 32, 36;
    Q2K = 10, "q2_K", 256, 84;
    Q3K = 11, "q3_K", 256, 110;
    Q4K = 12, "q4_K", 256, 144;
    Q5K = 13, "q5_K", 256, 176;
    Q6K = 14, "q6_K", 256, 210;
    Q8K = 15, "q8_K", 256, 292;
    Iq2Xxs = 16, "iq2_xxs", 256, 66;
    Iq2Xs = 17, "iq2_xs", 256, 74;
    Iq3Xxs = 18, "iq3_xxs", 256, 98;
    Iq1S = 19, "iq1_s", 256, 50;
    Iq4Nl = 20, "iq4_nl", 32, 18;
    Iq3S = 21, "iq3_s", 256, 110;
    Iq2S = 22, "iq2_s", 256, 82;
    Iq4Xs = 23, "iq4_xs", 256, 136;
    I8 = 24, "i8", 1, 1;
    I16 = 25, "i16", 1, 2;
    I32 = 26, "i32", 1, 4;
    I64 = 27, "i64", 1, 8;
    F64 = 28, "f64", 1, 8;
    Iq1M = 29, "iq1_m", 256, 56;
    BF16 = 30, "bf16", 1, 2;
    Tq1_0 = 34, "tq1_0", 256, 54;
    Tq2_0 = 35, "tq2_0", 256, 66;
    Mxfp4 = 39, "mxfp4", 32, 17;
    Nvfp4 = 40, "nvfp4", 64, 36;
    Q1_0 = 41, "q1_0", 128, 18;
    Q2_0 = 42, "q2_0", 64, 18;
}

impl GgmlType {
    /// Whether weights are packed in blocks.
    pub fn is_quantized(self) -> bool {
        self.block_size() > 1
    }

    /// Bytes of a row of `n` weights; `None` when `n` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        if !n.is_multiple_of(self.block_size()) {
            return None;
        }
        (n / self.block_size()).checked_mul(self.block_bytes())
    }

    /// Bytes of a tensor of `shape` (ggml order).
    ///
    /// # Errors
    /// `InvalidFile` when there are not 1 to 4 dimensions, one of them is 0, `shape[0]` is not a whole number of
    /// blocks, or the size does not fit 63 bits.
    pub fn tensor_bytes(self, shape: &[u64]) -> Result<u64> {
        let refused = || Error::new(ErrorKind::InvalidFile, "bad tensor shape").got(format!("{shape:?} of {self}"));
        if shape.is_empty() || shape.len() > MAX_DIMS {
            return Err(refused().needed("1 to 4 dimensions"));
        }
        if shape.contains(&0) {
            return Err(refused().needed("no dimension of 0"));
        }
        if !shape[0].is_multiple_of(self.block_size()) {
            return Err(refused().needed(format!("rows of a multiple of {}", self.block_size())));
        }
        // Both counts are kept below 2^63: ggml computes them in signed 64-bit integers.
        let small = |count: &u64| *count <= i64::MAX as u64;
        let elements = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n)).filter(small);
        let bytes = elements.and_then(|n| (n / self.block_size()).checked_mul(self.block_bytes())).filter(small);
        bytes.ok_or_else(|| refused().needed("a size below 2^63"))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for GgmlType {
    type Err = Error;

    /// Reads ggml's name in any case.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|dtype| dtype.name()).collect();
            Error::new(ErrorKind::Unsupported, "unknown tensor type").got(name).needed(names.join(", "))
        })
    }
}

/// One tensor of a file: what it is called and where its data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Unique name, at most 63 bytes: `blk.0.attn_q.weight`.
    pub name: String,
    /// 1 to 4 dimensions, `shape[0]` the row length.
    pub shape: Vec<u64>,
    /// How the weights are stored.
    pub dtype: GgmlType,
    /// First byte, counted from the start of the data section; a multiple of the file's alignment.
    pub offset: u64,
    /// Bytes of the data, without padding.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Number of weights.
    pub fn n_elements(&self) -> u64 {
        // Cannot overflow: construction went through `GgmlType::tensor_bytes`.
        self.shape.iter().product()
    }

    /// Rows of `shape[0]` weights.
    pub fn n_rows(&self) -> u64 {
        self.shape[1..].iter().product()
    }
}
