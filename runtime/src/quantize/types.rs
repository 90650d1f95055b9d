//! The mixtures by name.

use std::{fmt, str::FromStr};

use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result, gguf::GgmlType};

macro_rules! quant_types {
    ($($variant:ident = $name:literal, $ftype:ident, $base:ident;)*) => {
        /// A mixture: the type that most weights get, and llama.cpp's rules for the others.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum QuantType {
            $(#[doc = concat!("`", $name, "`.")] $variant,)*
        }

        impl QuantType {
            /// All mixtures that need no importance matrix, large to small.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The usual name: `Q4_K_M`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The type that most weights get.
            pub fn base_type(self) -> GgmlType {
                match self { $(Self::$variant => GgmlType::$base,)* }
            }

            /// llama.cpp's number, which files keep as `general.file_type`.
            pub fn file_type(self) -> u32 {
                match self { $(Self::$variant => sys::$ftype as u32,)* }
            }
        }
    };
}

quant_types! {
    F32 = "F32", LLAMA_FTYPE_ALL_F32, F32;
    F16 = "F16", LLAMA_FTYPE_MOSTLY_F16, F16;
    BF16 = "BF16", LLAMA_FTYPE_MOSTLY_BF16, BF16;
    Q8_0 = "Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0, Q8_0;
    Q6K = "Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K, Q6K;
    Q5_1 = "Q5_1", LLAMA_FTYPE_MOSTLY_Q5_1, Q5_1;
    Q5KM = "Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M, Q5K;
    Q5KS = "Q5_K_S", LLAMA_FTYPE_MOSTLY_Q5_K_S, Q5K;
    Q5_0 = "Q5_0", LLAMA_FTYPE_MOSTLY_Q5_0, Q5_0;
    Q4_1 = "Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1, Q4_1;
    Q4KM = "Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M, Q4K;
    Q4KS = "Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S, Q4K;
    Q4_0 = "Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0, Q4_0;
    Iq4Nl = "IQ4_NL", LLAMA_FTYPE_MOSTLY_IQ4_NL, Iq4Nl;
    Iq4Xs = "IQ4_XS", LLAMA_FTYPE_MOSTLY_IQ4_XS, Iq4Xs;
    Q3KL = "Q3_K_L", LLAMA_FTYPE_MOSTLY_Q3_K_L, Q3K;
    Q3KM = "Q3_K_M", LLAMA_FTYPE_MOSTLY_Q3_K_M, Q3K;
    Iq3M = "IQ3_M", LLAMA_FTYPE_MOSTLY_IQ3_M, Iq3S;
    Iq3S = "IQ3_S", LLAMA_FTYPE_MOSTLY_IQ3_S, Iq3S;
    Q3KS = "Q3_K_S", LLAMA_FTYPE_MOSTLY_Q3_K_S, Q3K;
    Q2K = "Q2_K", LLAMA_FTYPE_MOSTLY_Q2_K, Q2K;
    Tq2_0 = "TQ2_0", LLAMA_FTYPE_MOSTLY_TQ2_0, Tq2_0;
    Tq1_0 = "TQ1_0", LLAMA_FTYPE_MOSTLY_TQ1_0, Tq1_0;
}

/// Mixtures that llama.cpp refuses to make without an importance matrix.
const NEED_IMPORTANCE: [&str; 9] =
    ["IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S"];

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for QuantType {
    type Err = Error;

    /// Reads a name in any case. `Unsupported` for names that are unknown or need an importance matrix.
    fn from_str(name: &str) -> Result<Self> {
        if let Some(known) = Self::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(name)) {
            return Ok(*known);
        }
        let names: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
        let what = match NEED_IMPORTANCE.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            true => "quantization type needs an importance matrix, and there is none",
            false => "unknown quantization type",
        };
        Err(Error::new(ErrorKind::Unsupported, what).got(name).needed(format!("one of {}", names.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case() {
        for quant in QuantType::ALL {
            assert_eq!(quant.name().to_lowercase().parse::<QuantType>().expect("its own name"), *quant);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_list() {
        for (name, reason) in [("Q4_K_XXL", "unknown"), ("", "unknown"), ("iq2_xs", "importance matrix")] {
            let error = name.parse::<QuantType>().expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(reason) && error.to_string().contains("Q4_K_M"), "{error}");
        }
    }
}
