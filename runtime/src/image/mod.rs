//! Pictures: decoded, turned upright and resized to the very bytes that Hugging Face's Qwen processor feeds its model.
//!
//! `file, bytes or raw pixels -> Image (RGB, upright) -> Image of the model's size (plan.rs, resize.rs) -> vision.rs`.
//! Pixels are rows of `width` x 3 bytes, RGB, top row first.

mod boxes;
mod budget;
mod decode;
mod jpeg;
mod orientation;
mod plan;
mod raw;
mod resize;
mod webp;

pub use boxes::{BoxCoordinates, BoxMap};
pub use budget::ImageBudget;
pub use decode::{DecodeOptions, ImageLimits};
pub use orientation::Orientation;
pub use plan::{GROUNDING_TOKENS, ImageOptions, ImagePlan, ImageWarning};
pub use raw::{Alpha, PixelFormat, RawImage};

use crate::{Error, ErrorKind, Result, cancel::CancelToken};

/// An RGB picture, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    /// How it was turned, for [`BoxMap`].
    orientation: Orientation,
}

impl Image {
    /// A picture of `rgb` bytes: `height` rows of `width` pixels of 3 bytes.
    ///
    /// # Errors
    /// `InvalidInput` when a side is 0 or the number of bytes is not `width * height * 3`.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        let needed = u64::from(width) * u64::from(height) * 3;
        if needed == 0 || rgb.len() as u64 != needed {
            let got = format!("{} bytes for {width}x{height}", rgb.len());
            return Err(Error::new(ErrorKind::InvalidInput, "bad picture").got(got).needed(format!("{needed} bytes")));
        }
        Ok(Self { width, height, rgb, orientation: Orientation::Upright })
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// How the file or buffer that it came from was turned to make it upright.
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// The pixels, `height * width * 3` bytes.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The picture at the size that `budget` gives it, stretched as Hugging Face does (no letterbox).
    ///
    /// # Errors
    /// As [`ImageBudget::size_for`].
    pub fn resize_for(&self, budget: &ImageBudget) -> Result<Self> {
        self.resize_until(budget, &CancelToken::new())
    }

    /// As [`Image::resize_for`], until `cancel` is cancelled: looked at every few rows.
    ///
    /// # Errors
    /// As [`Image::resize_for`]; `Cancelled`.
    pub fn resize_until(&self, budget: &ImageBudget, cancel: &CancelToken) -> Result<Self> {
        let (width, height) = budget.size_for(self.width, self.height)?;
        resize::bicubic(self, width, height, cancel)
    }

    /// The picture stretched to `width` x `height`, byte for byte as torchvision's `resize(BICUBIC, antialias=True)` of
    /// a `uint8` tensor. A side of 0 is taken as 1.
    #[must_use]
    pub fn resize(&self, width: u32, height: u32) -> Self {
        let resized = resize::bicubic(self, width.max(1), height.max(1), &CancelToken::new());
        resized.expect("nobody cancels, and nothing else fails")
    }
}

impl std::fmt::Debug for Image {
    // Pictures are private: a log shows their size, never their content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests;
