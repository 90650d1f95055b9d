//! Picture files to upright RGB, with limits that hold before the first pixel is decoded.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Cursor, Read, Seek},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, metadata::Orientation};

use super::Image;
use crate::{Error, ErrorKind, Result};

/// What a picture file may cost: a few kilobytes can claim to unpack to many gigabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most pixels; default 64 * 2^20 (a 12-megapixel photo passes five times). Decoding takes 3 to 8 bytes for each.
    pub max_pixels: u64,
    /// Longest file read; default 256 MiB.
    pub max_file_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_pixels: 64 << 20, max_file_bytes: 256 << 20 }
    }
}

/// What errors about files begin with.
const WHAT: &str = "cannot read picture";
/// Scratch that a decoder may take beyond its output.
const DECODER_SCRATCH_BYTES: u64 = 64 << 20;
/// Bytes of the widest pixel that decoders put out: four channels of 16 bits.
const WIDEST_PIXEL_BYTES: u64 = 8;

impl Image {
    /// Reads a PNG, JPEG, WebP, GIF (first frame) or BMP file; see [`Image::from_encoded`].
    ///
    /// # Errors
    /// `NotFound`, `Io`, `InvalidInput` for what is not a regular file, and those of [`Image::from_encoded`] with the
    /// path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &ImageLimits::default())
    }

    /// As [`Image::open`] with limits of the caller's choice.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_with(path: impl AsRef<Path>, limits: &ImageLimits) -> Result<Self> {
        let path = path.as_ref();
        check_length(path, limits)?;
        let mut bytes = Vec::new();
        // The file may have grown since.
        let file = File::open(path).and_then(|file| file.take(limits.max_file_bytes).read_to_end(&mut bytes));
        file.map_err(|source| Error::io(WHAT, path, source))?;
        Self::from_encoded_with(&bytes, limits).map_err(|error| error.at(path.display()))
    }

    /// Width and height that [`Image::open`] would give, from the header alone: no pixel is decoded. A file that passes
    /// may still be damaged further on.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn probe(path: impl AsRef<Path>) -> Result<(u32, u32)> {
        let path = path.as_ref();
        let limits = ImageLimits::default();
        check_length(path, &limits)?;
        let file = File::open(path).map_err(|source| Error::io(WHAT, path, source))?;
        let probed = header(BufReader::new(file), &limits).and_then(|mut decoder| {
            let (width, height) = decoder.dimensions();
            Ok(match decoder.orientation().map_err(refused)? {
                Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH => (height, width),
                _ => (width, height),
            })
        });
        probed.map_err(|error| error.at(path.display()))
    }

    /// Decodes the bytes of a picture file. The format is told from the content.
    ///
    /// The EXIF orientation is applied. As in Hugging Face's processors (`PIL.Image.convert("RGB")`) alpha is dropped,
    /// not blended; grey and palette pictures become RGB.
    ///
    /// # Errors
    /// `InvalidFile` for what is not a picture or is damaged, `Unsupported` for a variant that is not decoded, `Limit`
    /// for more pixels than [`ImageLimits`] allow.
    pub fn from_encoded(bytes: &[u8]) -> Result<Self> {
        Self::from_encoded_with(bytes, &ImageLimits::default())
    }

    /// As [`Image::from_encoded`] with limits of the caller's choice.
    ///
    /// # Errors
    /// As [`Image::from_encoded`].
    pub fn from_encoded_with(bytes: &[u8], limits: &ImageLimits) -> Result<Self> {
        let mut decoder = header(Cursor::new(bytes), limits)?;
        let orientation = decoder.orientation().map_err(refused)?;
        let mut decoded = DynamicImage::from_decoder(decoder).map_err(refused)?;
        decoded.apply_orientation(orientation);
        let upright = decoded.into_rgb8();
        Self::from_rgb(upright.width(), upright.height(), upright.into_raw())
    }
}

fn check_length(path: &Path, limits: &ImageLimits) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|source| Error::io(WHAT, path, source))?;
    if !metadata.is_file() {
        // A device or a pipe has no length, and may have no end.
        let error = Error::new(ErrorKind::InvalidInput, WHAT).at(path.display());
        return Err(error.got("a folder or a device").needed("a regular file"));
    }
    let length = metadata.len();
    if length <= limits.max_file_bytes {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Limit, WHAT).at(path.display()).got(format!("{length} bytes"));
    Err(error.needed(format!("at most {} bytes", limits.max_file_bytes)))
}

/// A decoder that has read the header and nothing more, of a picture within the limits.
fn header<'a, R: BufRead + Seek + 'a>(source: R, limits: &ImageLimits) -> Result<impl ImageDecoder + use<'a, R>> {
    let mut reader = ImageReader::new(source);
    let mut allocation = Limits::no_limits();
    allocation.max_alloc =
        Some(limits.max_pixels.saturating_mul(WIDEST_PIXEL_BYTES).saturating_add(DECODER_SCRATCH_BYTES));
    reader.limits(allocation);
    let reader = reader.with_guessed_format().map_err(|error| refused(ImageError::IoError(error)))?;
    if reader.format().is_none() {
        let error = Error::new(ErrorKind::InvalidFile, "not a picture");
        return Err(error.needed("PNG, JPEG, WebP, GIF or BMP"));
    }
    let decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    let n_pixels = u64::from(width) * u64::from(height);
    if n_pixels > limits.max_pixels {
        let error = Error::new(ErrorKind::Limit, "picture too large").got(format!("{width}x{height} pixels"));
        return Err(error.needed(format!("at most {} pixels", limits.max_pixels)));
    }
    Ok(decoder)
}

fn refused(error: ImageError) -> Error {
    let kind = match &error {
        ImageError::Unsupported(_) => ErrorKind::Unsupported,
        ImageError::Limits(_) => ErrorKind::Limit,
        _ => ErrorKind::InvalidFile,
    };
    Error::new(kind, "cannot decode picture").got(&error).source(error)
}
