//! Pictures, decoded once and shown as often as wanted.

use std::sync::Arc;

use owlet_runtime as runtime;

use crate::error::Result;

/// An upright picture of 8 bits a colour.
#[derive(Debug, uniffi::Object)]
pub struct Image(pub(crate) runtime::Image);

/// Order of the bytes of a pixel, 8 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Alpha {
    /// Colours are taken as they are stored, as the models' own processors do. The default.
    Drop,
    /// Laid over white: the better choice for drawings and screenshots.
    OverWhite,
}

/// How a stored picture must be turned to be seen upright; the number is the value of EXIF. Rotations are clockwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Orientation {
    /// As stored (1). The default.
    Upright,
    /// Mirrored left to right (2).
    FlipHorizontal,
    /// Turned by 180 degrees (3).
    Rotate180,
    /// Mirrored top to bottom (4).
    FlipVertical,
    /// Mirrored along the diagonal from the top left corner (5).
    Transpose,
    /// Turned by 90 degrees (6).
    Rotate90,
    /// Mirrored along the diagonal from the top right corner (7).
    Transverse,
    /// Turned by 270 degrees (8).
    Rotate270,
}

/// Pixels that the app has decoded already: camera frames and bitmaps.
#[derive(Clone, PartialEq, Eq, uniffi::Record)]
pub struct RawPixels {
    /// The rows, top first. Bytes behind the last pixel of the last row may be missing.
    pub bytes: Vec<u8>,
    /// Pixels per row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// What a pixel is made of.
    pub format: PixelFormat,
    /// Bytes from the start of a row to that of the next one; default 0: rows without padding.
    #[uniffi(default)]
    pub stride: u64,
    /// Colours are multiplied by alpha already, as in the bitmaps of iOS and Android; default no.
    #[uniffi(default)]
    pub is_premultiplied: bool,
    /// How the picture must be turned to be seen upright; default not at all.
    #[uniffi(default)]
    pub orientation: Option<Orientation>,
}

impl std::fmt::Debug for RawPixels {
    // Pictures are private: a log shows their size, never their content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawPixels({}x{} {:?})", self.width, self.height, self.format)
    }
}

/// A box in a picture, in pixels from its top left corner.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct BoundingBox {
    /// Left edge.
    pub x1: f64,
    /// Top edge.
    pub y1: f64,
    /// Right edge.
    pub x2: f64,
    /// Bottom edge.
    pub y2: f64,
}

#[uniffi::export]
impl Image {
    /// Decodes the bytes of a PNG, JPEG, WebP, GIF (first frame) or BMP file, on this thread. The orientation of EXIF is applied.
    ///
    /// Throws `InvalidFile` for what is no picture or damaged, `Unsupported`, `Limit`.
    #[uniffi::constructor(default(alpha))]
    pub fn from_bytes(bytes: Vec<u8>, alpha: Option<Alpha>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(runtime::Image::from_encoded_with(&bytes, &decode_options(alpha))?)))
    }

    /// Copies decoded pixels and turns them upright.
    ///
    /// Throws `InvalidInput` when a side is 0, the stride is shorter than a row or the bytes are fewer than the rows need.
    #[uniffi::constructor(default(alpha))]
    pub fn from_pixels(pixels: RawPixels, alpha: Option<Alpha>) -> Result<Arc<Self>> {
        let RawPixels { bytes, width, height, format, stride, is_premultiplied, orientation } = pixels;
        let format = runtime::PixelFormat::from(format);
        let row = width as usize * format.n_bytes();
        let raw = runtime::RawImage {
            data: &bytes,
            width,
            height,
            // What does not fit the address space is longer than any row.
            stride: if stride == 0 { row } else { usize::try_from(stride).unwrap_or(usize::MAX) },
            format,
            is_premultiplied,
            orientation: orientation.map_or_else(Default::default, Into::into),
        };
        Ok(Arc::new(Self(runtime::Image::from_raw(&raw, alpha.map_or_else(Default::default, Into::into))?)))
    }

    /// Reads and decodes a picture file, on this thread.
    ///
    /// Throws as `from_bytes`; `NotFound`, `Io`.
    #[uniffi::constructor(default(alpha))]
    pub fn open(path: String, alpha: Option<Alpha>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(runtime::Image::open_with(path, &decode_options(alpha))?)))
    }

    /// Pixels per row, upright.
    pub fn width(&self) -> u32 {
        self.0.width()
    }

    /// Number of rows, upright.
    pub fn height(&self) -> u32 {
        self.0.height()
    }
}

fn decode_options(alpha: Option<Alpha>) -> runtime::DecodeOptions {
    runtime::DecodeOptions { alpha: alpha.map_or_else(Default::default, Into::into), ..Default::default() }
}

crate::mirror_enum!(PixelFormat => runtime::PixelFormat { Gray8, GrayAlpha8, Rgb8, Rgba8, Bgra8 });
crate::mirror_enum!(Alpha => runtime::Alpha { Drop, OverWhite });
crate::mirror_enum!(Orientation => runtime::Orientation {
    Upright, FlipHorizontal, Rotate180, FlipVertical, Transpose, Rotate90, Transverse, Rotate270
});
