//! How many pixels a picture may keep: Hugging Face's `smart_resize`.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Longest side over shortest side that the Qwen processors accept.
const MAX_ASPECT_RATIO: f64 = 200.0;

/// The pixels that the model may see of one picture. A picture costs `pixels / factor^2` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBudget {
    /// Both sides become multiples of this: patch size x merge size, 32 for Qwen3-VL.
    pub factor: u32,
    /// Smaller pictures are enlarged to about this many pixels.
    pub min_pixels: u64,
    /// Larger pictures are reduced below this many pixels.
    pub max_pixels: u64,
}

impl ImageBudget {
    /// Width and height of a picture of `width` x `height` as the model sees it.
    ///
    /// Each side is rounded to a multiple of the factor (halves to even, as Python does); where the product leaves
    /// `min_pixels..=max_pixels`, both sides are scaled alike and rounded inwards.
    ///
    /// # Errors
    /// `InvalidInput` for a side of 0, an aspect ratio above 200 or a budget that contradicts itself; `Limit` where a side
    /// passes 2^32 pixels.
    pub fn size_for(&self, width: u32, height: u32) -> Result<(u32, u32)> {
        self.check()?;
        let (w, h) = (f64::from(width), f64::from(height));
        if width == 0 || height == 0 || w.max(h) / w.min(h) > MAX_ASPECT_RATIO {
            let error = Error::new(ErrorKind::InvalidInput, "picture too narrow").got(format!("{width}x{height}"));
            return Err(error.needed(format!("sides of a ratio of at most {MAX_ASPECT_RATIO}")));
        }
        let factor = f64::from(self.factor);
        let (min_pixels, max_pixels) = (self.min_pixels as f64, self.max_pixels as f64);
        let round = |side: f64| (side / factor).round_ties_even() * factor;
        let (mut new_w, mut new_h) = (round(w), round(h));
        if new_w * new_h > max_pixels {
            let shrink = (w * h / max_pixels).sqrt();
            let fit = |side: f64| ((side / shrink / factor).floor() * factor).max(factor);
            (new_w, new_h) = (fit(w), fit(h));
        } else if new_w * new_h < min_pixels {
            let grow = (min_pixels / (w * h)).sqrt();
            let fill = |side: f64| (side * grow / factor).ceil() * factor;
            (new_w, new_h) = (fill(w), fill(h));
        }
        if new_w.max(new_h) > f64::from(u32::MAX) {
            let error = Error::new(ErrorKind::Limit, "picture too large").got(format!("{new_w}x{new_h} pixels"));
            return Err(error.needed(format!("sides of at most {}", u32::MAX)));
        }
        Ok((new_w as u32, new_h as u32))
    }

    /// Tokens that a picture of `width` x `height` costs.
    ///
    /// # Errors
    /// As [`ImageBudget::size_for`].
    pub fn tokens_for(&self, width: u32, height: u32) -> Result<usize> {
        let (w, h) = self.size_for(width, height)?;
        Ok((w / self.factor) as usize * (h / self.factor) as usize)
    }

    /// Pixels behind one token.
    pub fn token_pixels(&self) -> u64 {
        u64::from(self.factor).pow(2)
    }

    /// The largest budget, at most this one, that keeps the pictures of `sizes` (width, height) within `max_tokens`
    /// together. Small pictures stay as they are; the largest ones are reduced to about the same number of pixels, so none
    /// is starved for another.
    ///
    /// # Errors
    /// `Limit` when the pictures take more even at `min_pixels` each; those of [`ImageBudget::size_for`].
    pub fn shared(&self, sizes: &[(u32, u32)], max_tokens: usize) -> Result<Self> {
        let with_max = |max_pixels| Self { max_pixels, ..*self };
        let total = |budget: Self| sizes.iter().map(|&(w, h)| budget.tokens_for(w, h)).sum::<Result<usize>>();
        if total(*self)? <= max_tokens {
            return Ok(*self);
        }
        // More pixels for each never take fewer tokens: the border is found by halving.
        let mut fits = self.min_pixels.max(self.token_pixels());
        let least = total(with_max(fits))?;
        if least > max_tokens {
            let error = Error::new(ErrorKind::Limit, format!("{} pictures take too many tokens", sizes.len()));
            return Err(error.got(format!("{least} at {fits} pixels each")).needed(format!("at most {max_tokens}")));
        }
        let mut exceeds = self.max_pixels;
        while exceeds - fits > 1 {
            let middle = fits + (exceeds - fits) / 2;
            if total(with_max(middle))? <= max_tokens { fits = middle } else { exceeds = middle }
        }
        Ok(with_max(fits))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let area = self.token_pixels();
        if self.factor == 0 || self.min_pixels == 0 || self.max_pixels < area || self.min_pixels > self.max_pixels {
            let error = Error::new(ErrorKind::InvalidInput, "bad image budget").got(format!("{self:?}"));
            return Err(error.needed(format!("0 < min_pixels <= max_pixels, max_pixels >= {area}")));
        }
        Ok(())
    }
}
