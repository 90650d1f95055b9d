//! The two classifications of a sample, with the strings of the reference's data sets.
//!
//! [`ProblemType`] says how an answer is scored and is the task of G2RPO's second stage; [`TaskType`] says which ability is
//! trained, and carries length envelopes, entropy bands and the rows of reports.

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

macro_rules! named_enum {
    ($(#[$meta:meta])* $type:ident, $what:literal { $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$variant_meta])* #[serde(rename = $name)] $variant,)*
        }

        impl $type {
            /// Every variant, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The string in data sets and configuration files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            /// Reads a name in any case.
            fn from_str(text: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|known| known.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
                    Error::new(ErrorKind::Unsupported, concat!("unknown ", $what))
                        .got(format!("{text:?}"))
                        .needed(format!("one of {}", known.join(", ")))
                })
            }
        }
    };
}

named_enum! {
    /// The ability that a sample trains (`task_type`).
    TaskType, "task_type" {
        /// Where something is, as a box.
        SpatialGrounding = "spatial_grounding",
        /// How things stand to each other.
        SpatialReasoning = "spatial_reasoning",
        /// General questions and science.
        GeneralVqa = "general_vqa_science_stem",
        /// Mathematics over a picture.
        MathReasoning = "math_reasoning",
        /// Charts and figures.
        ChartQa = "chart_figure_qa",
        /// Reading printed text.
        Ocr = "ocr",
    }
}

named_enum! {
    /// How an answer is scored (`problem_type`); the image types of the reference.
    ProblemType, "problem_type" {
        /// One of the options, by its letter.
        MultipleChoice = "multiple choice",
        /// A number, equal after rounding to two decimals.
        Numerical = "numerical",
        /// A number, by relative closeness.
        Regression = "regression",
        /// Transcribed text, by word error rate.
        Ocr = "OCR",
        /// Free text, by ROUGE.
        OpenEnded = "open-ended",
        /// A number or formula, by equivalence.
        Math = "math",
        /// A box, by intersection over union.
        SpatialGrounding = "spatial grounding",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_in_any_case() {
        for task in TaskType::ALL {
            assert_eq!(task.name().to_uppercase().parse::<TaskType>().expect("own name"), *task);
        }
        for problem in ProblemType::ALL {
            assert_eq!(problem.name().to_lowercase().parse::<ProblemType>().expect("own name"), *problem);
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let error = "rule-based".parse::<ProblemType>().expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("multiple choice, numerical, regression"), "{error}");
    }
}
