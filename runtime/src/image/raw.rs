//! Pixels that an app has decoded already: camera frames and bitmaps, with padded rows and alpha.

use super::{Image, Orientation};
use crate::{Error, ErrorKind, Result};

/// Order of the bytes of a pixel, 8 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// One byte of brightness.
    Gray8,
    /// Brightness and alpha.
    GrayAlpha8,
    /// Red, green, blue.
    Rgb8,
    /// Red, green, blue, alpha: Android's `ARGB_8888`, in memory.
    Rgba8,
    /// Blue, green, red, alpha: Core Video's `32BGRA`.
    Bgra8,
}

/// What becomes of pixels that are not opaque.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Alpha {
    /// Colours are taken as they are stored, as Hugging Face's processors do (`PIL.Image.convert("RGB")`): what was
    /// transparent shows the colour that lies under it, often black. The default, for the same pixels as theirs.
    #[default]
    Drop,
    /// Laid over white, to the byte as `qwen_vl_utils` does for RGBA. The better choice for drawings and screenshots: dark
    /// lettering on a transparent ground stays legible.
    OverWhite,
}

/// A view of decoded pixels; see [`Image::from_raw`].
#[derive(Clone, Copy)]
pub struct RawImage<'a> {
    /// The rows, top first. Bytes behind the last pixel of the last row may be missing.
    pub data: &'a [u8],
    /// Pixels per row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// Bytes from the start of a row to that of the next one; at least a row's pixels.
    pub stride: usize,
    /// What a pixel is made of.
    pub format: PixelFormat,
    /// Colours are multiplied by alpha already, as in the bitmaps of iOS and Android. Ignored without alpha.
    pub is_premultiplied: bool,
    /// How the picture must be turned to be seen upright.
    pub orientation: Orientation,
}

impl std::fmt::Debug for RawImage<'_> {
    // As for `Image`: never the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, height, stride, format, .. } = self;
        write!(f, "RawImage({width}x{height} {format:?}, {stride} bytes a row)")
    }
}

impl PixelFormat {
    /// Bytes of a pixel.
    pub fn n_bytes(self) -> usize {
        match self {
            Self::Gray8 => 1,
            Self::GrayAlpha8 => 2,
            Self::Rgb8 => 3,
            Self::Rgba8 | Self::Bgra8 => 4,
        }
    }

    /// Appends the pixels of `row` to `rgb`.
    pub(super) fn append_rgb(self, row: &[u8], alpha: Alpha, is_premultiplied: bool, rgb: &mut Vec<u8>) {
        let opaque = |colour: [u8; 3], a: u8| colour.map(|value| without_alpha(value, a, alpha, is_premultiplied));
        match self {
            Self::Gray8 => rgb.extend(row.iter().flat_map(|&value| [value; 3])),
            Self::GrayAlpha8 => rgb.extend(row.as_chunks().0.iter().flat_map(|&[value, a]| opaque([value; 3], a))),
            Self::Rgb8 => rgb.extend_from_slice(row),
            Self::Rgba8 => rgb.extend(row.as_chunks().0.iter().flat_map(|&[r, g, b, a]| opaque([r, g, b], a))),
            Self::Bgra8 => rgb.extend(row.as_chunks().0.iter().flat_map(|&[b, g, r, a]| opaque([r, g, b], a))),
        }
    }
}

/// One colour of a pixel as it is seen.
fn without_alpha(value: u8, a: u8, alpha: Alpha, is_premultiplied: bool) -> u8 {
    let (value, a) = (u32::from(value), u32::from(a));
    let seen = match (alpha, is_premultiplied) {
        (Alpha::Drop, false) => value,
        // Colours under full transparency are lost.
        (Alpha::Drop, true) => (value * 255 + a / 2).checked_div(a).unwrap_or(0),
        (Alpha::OverWhite, true) => value + 255 - a,
        (Alpha::OverWhite, false) => {
            // Division by 255 with rounding, as Pillow's `paste` does it.
            let sum = value * a + 255 * (255 - a) + 128;
            ((sum >> 8) + sum) >> 8
        }
    };
    seen.min(255) as u8
}

impl Image {
    /// Copies decoded pixels and turns them upright.
    ///
    /// # Errors
    /// `InvalidInput` when a side is 0, the stride is shorter than a row or the data is shorter than the rows.
    pub fn from_raw(raw: &RawImage<'_>, alpha: Alpha) -> Result<Self> {
        let row_bytes = u64::from(raw.width) * raw.format.n_bytes() as u64;
        let bad = |got: String, needed: String| {
            Err(Error::new(ErrorKind::InvalidInput, "bad picture").at(format!("{raw:?}")).got(got).needed(needed))
        };
        if raw.width == 0 || raw.height == 0 {
            return bad("no pixels".to_owned(), "sides of at least 1".to_owned());
        }
        if (raw.stride as u64) < row_bytes {
            return bad(format!("a stride of {}", raw.stride), format!("at least {row_bytes} bytes"));
        }
        let needed = u128::from(raw.height - 1) * raw.stride as u128 + u128::from(row_bytes);
        if (raw.data.len() as u128) < needed {
            return bad(format!("{} bytes", raw.data.len()), format!("{needed} bytes"));
        }
        // The data has as many pixels: three bytes for each are at most three times what is there already.
        let mut rgb = Vec::with_capacity(raw.width as usize * raw.height as usize * 3);
        for row in raw.data.chunks(raw.stride).take(raw.height as usize) {
            raw.format.append_rgb(&row[..row_bytes as usize], alpha, raw.is_premultiplied, &mut rgb);
        }
        let (width, height) = raw.orientation.size(raw.width, raw.height);
        let rgb = raw.orientation.turn(rgb, raw.width, raw.height);
        Ok(Self { width, height, rgb, orientation: raw.orientation })
    }
}
