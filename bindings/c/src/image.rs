//! Pictures.

use std::ffi::c_char;

use owlet_runtime::{Alpha, DecodeOptions, Error, ErrorKind, Image, Orientation, PixelFormat, RawImage, Result};

use crate::{
    boundary::{self, Out},
    cancel::{self, owlet_cancel_token},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
};

/// A decoded picture, upright. It never changes and may be used by several threads and sessions.
pub struct owlet_image {
    _opaque: (),
}

impl Handle for owlet_image {
    type Target = Image;
    const NAME: &'static str = "owlet_image";
}

/// What becomes of pixels that are not opaque.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_alpha {
    /// Colours are taken as they are stored, as Hugging Face's processors do.
    Drop = 0,
    /// Laid over white: dark lettering on a transparent ground stays legible.
    OverWhite = 1,
}

/// Order of the bytes of a pixel, 8 bits each.
#[repr(u32)]
#[derive(Clone, Copy)]
pub enum owlet_pixel_format {
    /// One byte of brightness.
    Gray8 = 1,
    /// Brightness and alpha.
    GrayAlpha8 = 2,
    /// Red, green, blue.
    Rgb8 = 3,
    /// Red, green, blue, alpha: Android's ARGB_8888, in memory.
    Rgba8 = 4,
    /// Blue, green, red, alpha: Core Video's 32BGRA.
    Bgra8 = 5,
}

/// Pixels that an app has decoded already: a camera frame, a bitmap.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_pixels {
    /// sizeof(owlet_pixels), set by the caller.
    pub struct_size: usize,
    /// The rows, top first. Read during the call only.
    pub data: *const u8,
    /// Bytes of `data`. Those behind the last pixel of the last row may be missing.
    pub n_bytes: usize,
    /// Bytes from the start of a row to that of the next one; 0: rows follow each other without a gap.
    pub stride: usize,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// An owlet_pixel_format. There is no default.
    pub format: u32,
    /// How the picture must be turned to be seen upright: the value of EXIF's orientation tag, 1 to 8; 0 is 1: as it is.
    pub orientation: u32,
    /// An owlet_alpha.
    pub alpha: u32,
    /// Not 0: colours are multiplied by alpha already, as in the bitmaps of iOS and Android.
    pub is_premultiplied: u32,
}

versioned!(owlet_pixels);

/// Reads a PNG, JPEG, WebP, GIF (first frame) or BMP file; the format is told from the content, EXIF's orientation is
/// applied, at most 64 megapixels are decoded. `alpha` is an owlet_alpha. `cancel` may be NULL. The caller frees `*out` by
/// owlet_image_free(). May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_image_open(
    path: *const c_char,
    alpha: u32,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_image,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path) = unsafe { (Out::new(out)?, input::path(path, "path")?) };
        out.put(Image::open_until(path, &decode_options(alpha)?, &cancel::token(cancel)?)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Decodes the `n_bytes` bytes of a picture file; as owlet_image_open(). The bytes are read during the call only.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_image_from_bytes(
    data: *const u8,
    n_bytes: usize,
    alpha: u32,
    cancel: *const owlet_cancel_token,
    out: *mut *mut owlet_image,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let options = decode_options(alpha)?;
        let max = usize::try_from(options.limits.max_file_bytes).unwrap_or(usize::MAX);
        // SAFETY: the caller's contract.
        let (out, bytes) = unsafe { (Out::new(out)?, input::bytes(data, n_bytes, max, "data")?) };
        out.put(Image::from_encoded_until(bytes, &options, &cancel::token(cancel)?)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Copies decoded pixels and turns them upright. The caller frees `*out` by owlet_image_free(). May be called from any
/// thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_image_from_pixels(
    pixels: *const owlet_pixels,
    out: *mut *mut owlet_image,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, pixels) = unsafe { (Out::new(out)?, input::required(pixels)?) };
        let format = pixel_format(pixels.format)?;
        let row = (pixels.width as usize).saturating_mul(format.n_bytes());
        let exif = u8::try_from(input::or(pixels.orientation, 1)).ok().and_then(Orientation::from_exif);
        let orientation = exif.ok_or_else(|| {
            let error = Error::new(ErrorKind::InvalidInput, "bad orientation").got(pixels.orientation);
            error.needed("0 to 8")
        })?;
        let raw = RawImage {
            // SAFETY: the caller's contract.
            data: unsafe { input::bytes(pixels.data, pixels.n_bytes, isize::MAX as usize, "data") }?,
            width: pixels.width,
            height: pixels.height,
            stride: input::or(pixels.stride, row),
            format,
            is_premultiplied: pixels.is_premultiplied != 0,
            orientation,
        };
        out.put(Image::from_raw(&raw, pick_alpha(pixels.alpha)?)?);
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Pixels of a row, upright; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_image_width(image: *const owlet_image) -> u32 {
    boundary::get(0, || handle::borrow(image).map_or(0, |image| image.width()))
}

/// Rows, upright; 0 for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_image_height(image: *const owlet_image) -> u32 {
    boundary::get(0, || handle::borrow(image).map_or(0, |image| image.height()))
}

/// Frees a picture. NULL is ignored. What a session or a data set was given of it stays with them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_image_free(image: *mut owlet_image) {
    boundary::free(image);
}

fn decode_options(alpha: u32) -> Result<DecodeOptions> {
    Ok(DecodeOptions { alpha: pick_alpha(alpha)?, ..DecodeOptions::default() })
}

fn pick_alpha(number: u32) -> Result<Alpha> {
    let values = [(owlet_alpha::Drop as u32, Alpha::Drop), (owlet_alpha::OverWhite as u32, Alpha::OverWhite)];
    input::pick("alpha", number, &values)
}

fn pixel_format(number: u32) -> Result<PixelFormat> {
    let values = [
        (owlet_pixel_format::Gray8 as u32, PixelFormat::Gray8),
        (owlet_pixel_format::GrayAlpha8 as u32, PixelFormat::GrayAlpha8),
        (owlet_pixel_format::Rgb8 as u32, PixelFormat::Rgb8),
        (owlet_pixel_format::Rgba8 as u32, PixelFormat::Rgba8),
        (owlet_pixel_format::Bgra8 as u32, PixelFormat::Bgra8),
    ];
    input::pick("format", number, &values)
}
