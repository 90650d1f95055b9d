//! Picture files to upright RGB, with limits that hold before the first pixel is decoded.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, metadata};

use super::{Alpha, Image, Orientation, PixelFormat, jpeg, webp};
use crate::{Error, ErrorKind, Result, cancel::CancelToken};

/// What a picture file may cost: a few kilobytes can claim to unpack to many gigabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Most pixels; default 64 * 2^20 (a 12-megapixel photo passes five times).
    pub max_pixels: u64,
    /// Longest file read; default 256 MiB.
    pub max_file_bytes: u64,
    /// Most bytes of the decoded pixels, of 1 to 8 bytes each; default 256 MiB (64 * 2^20 opaque pixels, half as many with
    /// alpha in 16 bits). Decoding takes up to twice as many and 64 MiB.
    pub max_decoded_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_pixels: 64 << 20, max_file_bytes: 256 << 20, max_decoded_bytes: 256 << 20 }
    }
}

/// How a picture file is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// What the file may cost.
    pub limits: ImageLimits,
    /// What becomes of transparent pixels; default [`Alpha::Drop`].
    pub alpha: Alpha,
}

/// What errors about files begin with.
const WHAT: &str = "cannot read picture";
/// Scratch that a decoder may take beyond its output.
const DECODER_SCRATCH_BYTES: u64 = 64 << 20;
/// How much of a file a decoder reads between two looks at the token.
const BYTES_BETWEEN_LOOKS: usize = 64 << 10;
/// What JPEG puts before an EXIF block, and some writers of the other formats too.
const EXIF_PREFIX: &[u8] = b"Exif\0\0";

impl Image {
    /// Reads a PNG, JPEG, WebP, GIF (first frame) or BMP file; see [`Image::from_encoded`].
    ///
    /// # Errors
    /// `NotFound`, `Io`, `InvalidInput` for what is not a regular file, and those of [`Image::from_encoded`] with the
    /// path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &DecodeOptions::default())
    }

    /// As [`Image::open`] with options of the caller's choice.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &DecodeOptions) -> Result<Self> {
        Self::open_until(path, options, &CancelToken::new())
    }

    /// As [`Image::open_with`], until `cancel` is cancelled; see [`Image::from_encoded_until`].
    ///
    /// # Errors
    /// As [`Image::open`]; `Cancelled`.
    pub fn open_until(path: impl AsRef<Path>, options: &DecodeOptions, cancel: &CancelToken) -> Result<Self> {
        let path = path.as_ref();
        check_length(path, &options.limits)?;
        let mut bytes = Vec::new();
        // The file may have grown since.
        let file = File::open(path).and_then(|file| file.take(options.limits.max_file_bytes).read_to_end(&mut bytes));
        file.map_err(|source| Error::io(WHAT, path, source))?;
        Self::from_encoded_until(&bytes, options, cancel).map_err(|error| error.at(path.display()))
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
        upright_size(BufReader::new(file), &limits).map_err(|error| error.at(path.display()))
    }

    /// As [`Image::probe`], of the bytes of a picture file.
    ///
    /// # Errors
    /// As [`Image::from_encoded`].
    pub fn probe_encoded(bytes: &[u8]) -> Result<(u32, u32)> {
        upright_size(io::Cursor::new(bytes), &ImageLimits::default())
    }

    /// Decodes the bytes of a picture file. The format is told from the content.
    ///
    /// The EXIF orientation is applied (in PNG, when its block comes before the pixels). Grey, palette and CMYK pictures
    /// become RGB; of 16 bits the upper 8 count, as in Pillow's RGB. Alpha is dropped, see [`Alpha`]. Of animations the
    /// first frame is taken. Colour profiles are not applied, as Hugging Face's processors do not.
    ///
    /// # Errors
    /// `InvalidFile` for what is not a picture, is damaged or cut short, `Unsupported` for a variant that is not decoded,
    /// `Limit` for more than [`ImageLimits`] allow.
    pub fn from_encoded(bytes: &[u8]) -> Result<Self> {
        Self::from_encoded_with(bytes, &DecodeOptions::default())
    }

    /// As [`Image::from_encoded`] with options of the caller's choice.
    ///
    /// # Errors
    /// As [`Image::from_encoded`].
    pub fn from_encoded_with(bytes: &[u8], options: &DecodeOptions) -> Result<Self> {
        Self::from_encoded_until(bytes, options, &CancelToken::new())
    }

    /// As [`Image::from_encoded_with`], until `cancel` is cancelled: looked at every 64 KiB that a decoder reads, and before
    /// the picture is turned. Decoders of JPEG and WebP read all before they decode, so those are not interrupted while
    /// they do (docs/cancellation.md).
    ///
    /// # Errors
    /// As [`Image::from_encoded`]; `Cancelled`.
    pub fn from_encoded_until(bytes: &[u8], options: &DecodeOptions, cancel: &CancelToken) -> Result<Self> {
        let decoded = Self::decode(bytes, options, cancel);
        // A decoder calls it a damaged file.
        cancel.check()?;
        decoded
    }

    fn decode(bytes: &[u8], options: &DecodeOptions, cancel: &CancelToken) -> Result<Self> {
        let (mut decoder, format) = header(Interruptible { bytes, position: 0, cancel }, &options.limits)?;
        if format == ImageFormat::Jpeg && !jpeg::is_whole(bytes) {
            let error =
                Error::new(ErrorKind::InvalidFile, "cannot decode picture").got("a JPEG file that is cut short");
            return Err(error.needed("its end marker"));
        }
        let orientation = orientation(&mut decoder)?;
        let decoded = DynamicImage::from_decoder(decoder).map_err(refused)?;
        cancel.check()?;
        let (width, height) = (decoded.width(), decoded.height());
        let rgb = orientation.turn(rgb(decoded, options.alpha), width, height);
        let (width, height) = orientation.size(width, height);
        Ok(Self { orientation, ..Self::from_rgb(width, height, rgb)? })
    }
}

/// The bytes of a file, which end in an error for who is cancelled.
struct Interruptible<'a> {
    bytes: &'a [u8],
    position: usize,
    cancel: &'a CancelToken,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Interruptible<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        Ok(&rest[..rest.len().min(BYTES_BETWEEN_LOOKS)])
    }

    fn consume(&mut self, n: usize) {
        self.position += n;
    }
}

impl Seek for Interruptible<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut cursor = io::Cursor::new(self.bytes);
        cursor.set_position(self.position as u64);
        let position = cursor.seek(to)?;
        // Behind the end nothing is read, wherever it is.
        self.position = usize::try_from(position).unwrap_or(usize::MAX);
        Ok(position)
    }
}

/// Width and height of the picture once it is turned, by its header.
fn upright_size<'a>(source: impl BufRead + Seek + 'a, limits: &ImageLimits) -> Result<(u32, u32)> {
    let (mut decoder, _) = header(source, limits)?;
    let (width, height) = decoder.dimensions();
    Ok(orientation(&mut decoder)?.size(width, height))
}

/// How EXIF says that the picture must be turned; upright where it says nothing or nonsense.
fn orientation(decoder: &mut impl ImageDecoder) -> Result<Orientation> {
    let exif = decoder.exif_metadata().map_err(refused)?.unwrap_or_default();
    let block = exif.strip_prefix(EXIF_PREFIX).unwrap_or(&exif);
    let found = metadata::Orientation::from_exif_chunk(block).map(metadata::Orientation::to_exif);
    Ok(found.and_then(Orientation::from_exif).unwrap_or_default())
}

/// The pixels of `decoded`, 3 bytes each.
fn rgb(decoded: DynamicImage, alpha: Alpha) -> Vec<u8> {
    let upper = |samples: Vec<u16>| samples.into_iter().map(|sample| (sample >> 8) as u8).collect();
    let (samples, format): (Vec<u8>, _) = match decoded {
        DynamicImage::ImageRgb8(pixels) => return pixels.into_raw(),
        DynamicImage::ImageLuma8(pixels) => (pixels.into_raw(), PixelFormat::Gray8),
        DynamicImage::ImageLumaA8(pixels) => (pixels.into_raw(), PixelFormat::GrayAlpha8),
        DynamicImage::ImageRgba8(pixels) => (pixels.into_raw(), PixelFormat::Rgba8),
        DynamicImage::ImageLuma16(pixels) => (upper(pixels.into_raw()), PixelFormat::Gray8),
        DynamicImage::ImageLumaA16(pixels) => (upper(pixels.into_raw()), PixelFormat::GrayAlpha8),
        DynamicImage::ImageRgb16(pixels) => return upper(pixels.into_raw()),
        DynamicImage::ImageRgba16(pixels) => (upper(pixels.into_raw()), PixelFormat::Rgba8),
        other => return other.into_rgb8().into_raw(),
    };
    let mut rgb = Vec::with_capacity(samples.len() / format.n_bytes() * 3);
    format.append_rgb(&samples, alpha, false, &mut rgb);
    rgb
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

/// A decoder that has read the header and nothing more, of a picture within the limits, and the format.
fn header<'a, R: BufRead + Seek + 'a>(
    mut source: R,
    limits: &ImageLimits,
) -> Result<(impl ImageDecoder + use<'a, R>, ImageFormat)> {
    let failed = |error| refused(ImageError::IoError(error));
    if !webp::is_whole(&mut source).map_err(failed)? {
        let error = Error::new(ErrorKind::InvalidFile, "cannot decode picture").got("a WebP file that is cut short");
        return Err(error.needed("all of its metadata"));
    }
    let mut reader = ImageReader::new(source);
    let mut allocation = Limits::no_limits();
    allocation.max_alloc = Some(limits.max_decoded_bytes.saturating_add(DECODER_SCRATCH_BYTES));
    reader.limits(allocation);
    let reader = reader.with_guessed_format().map_err(failed)?;
    let Some(format) = reader.format() else {
        let error = Error::new(ErrorKind::InvalidFile, "not a picture");
        return Err(error.needed("PNG, JPEG, WebP, GIF or BMP"));
    };
    let decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    let too_large = |most: String| {
        Err(Error::new(ErrorKind::Limit, "picture too large").got(format!("{width}x{height} pixels")).needed(most))
    };
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return too_large(format!("at most {} pixels", limits.max_pixels));
    }
    if decoder.total_bytes() > limits.max_decoded_bytes {
        return too_large(format!("at most {} bytes", limits.max_decoded_bytes));
    }
    Ok((decoder, format))
}

fn refused(error: ImageError) -> Error {
    let kind = match &error {
        ImageError::Unsupported(_) => ErrorKind::Unsupported,
        ImageError::Limits(_) => ErrorKind::Limit,
        _ => ErrorKind::InvalidFile,
    };
    Error::new(kind, "cannot decode picture").got(&error).source(error)
}
