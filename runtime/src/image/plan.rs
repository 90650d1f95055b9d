//! What the pictures of one request get: their budget, their tokens, and what speaks against it, before any work.

use super::ImageBudget;
use crate::{Error, ErrorKind, Result};

/// Image tokens below which models of the family place boxes badly: the number below which llama.cpp warns that Qwen-VL
/// does not "function correctly on grounding tasks". At 32 pixels a token it is a picture of 1024 x 1024 pixels.
pub const GROUNDING_TOKENS: usize = 1024;

/// What one request asks of its pictures. Limits are for each picture and take the place of the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// Fewest pixels of a picture as the model sees it; less is enlarged.
    pub min_pixels: Option<u64>,
    /// Most pixels; more is reduced.
    pub max_pixels: Option<u64>,
    /// The same limits in tokens: give one or the other.
    pub min_tokens: Option<usize>,
    /// Most tokens of a picture.
    pub max_tokens: Option<usize>,
    /// Most tokens of all pictures of the request together; see [`ImageBudget::shared`].
    pub max_total_tokens: Option<usize>,
    /// The answer shall hold places in a picture (boxes, points): pictures of fewer than [`GROUNDING_TOKENS`] are warned of.
    /// Only the host knows; nothing is guessed from the words of a prompt.
    pub grounding: bool,
}

/// Something that a person should know of, and that is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageWarning {
    /// A picture has too few tokens for boxes that can be relied on.
    FewTokensForGrounding {
        /// Which picture of the request, from 0.
        picture: usize,
        /// Tokens that it has.
        n_tokens: usize,
        /// Pixels that would be enough, for [`ImageOptions::min_pixels`].
        min_pixels: u64,
    },
}

impl std::fmt::Display for ImageWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FewTokensForGrounding { picture, n_tokens, min_pixels } => write!(
                f,
                "boxes may be off: the model sees picture {} as {n_tokens} tokens, {GROUNDING_TOKENS} (at least {min_pixels} \
                 pixels) are advised",
                picture + 1
            ),
        }
    }
}

/// What the pictures of a request get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePlan {
    /// The budget of each, for [`crate::Model::encode_with`].
    pub budget: ImageBudget,
    /// Tokens of each.
    pub n_tokens: Vec<usize>,
    /// What the host should show.
    pub warnings: Vec<ImageWarning>,
}

impl ImagePlan {
    /// Plans pictures of `sizes` (width, height, upright) for a model whose own budget is `model`.
    ///
    /// # Errors
    /// `InvalidInput` for limits that contradict each other and pictures too narrow; `Limit` when the pictures do not fit
    /// into `max_total_tokens`.
    pub fn new(model: ImageBudget, sizes: &[(u32, u32)], options: &ImageOptions) -> Result<Self> {
        let limit = |pixels: Option<u64>, tokens: Option<usize>, name: &str| match (pixels, tokens) {
            (Some(_), Some(_)) => {
                let error = Error::new(ErrorKind::InvalidInput, "bad image budget").at(name);
                Err(error.got("pixels and tokens").needed("one of them"))
            }
            (pixels, tokens) => Ok(pixels.or(tokens.map(|n| (n as u64).saturating_mul(model.token_pixels())))),
        };
        let min = limit(options.min_pixels, options.min_tokens, "smallest picture")?;
        let max = limit(options.max_pixels, options.max_tokens, "largest picture")?;
        // One limit that is asked for moves the model's other one, which the request does not speak of.
        let min_pixels = min.unwrap_or_else(|| model.min_pixels.min(max.unwrap_or(u64::MAX)));
        let max_pixels = max.unwrap_or_else(|| model.max_pixels.max(min_pixels));
        let mut budget = ImageBudget { min_pixels, max_pixels, ..model };
        budget.check()?;
        if let Some(max_tokens) = options.max_total_tokens {
            budget = budget.shared(sizes, max_tokens)?;
        }
        let n_tokens = sizes.iter().map(|&(w, h)| budget.tokens_for(w, h)).collect::<Result<Vec<_>>>()?;
        let mut warnings = Vec::new();
        if options.grounding {
            let few = n_tokens.iter().enumerate().filter(|(_, n_tokens)| **n_tokens < GROUNDING_TOKENS);
            let min_pixels = GROUNDING_TOKENS as u64 * model.token_pixels();
            warnings.extend(few.map(|(picture, &n_tokens)| ImageWarning::FewTokensForGrounding {
                picture,
                n_tokens,
                min_pixels,
            }));
        }
        Ok(Self { budget, n_tokens, warnings })
    }
}
