//! The picture of a sample: a file, the bytes of one, or pixels.

use std::{borrow::Cow, fmt, fs, path::PathBuf, sync::Arc};

use owlet_runtime::{Error, Image, Result};

/// Stands before pixels in the hash; no file of a picture begins like this.
const PIXELS_KEY: &[u8] = b"\xffpixels";

/// Where a sample's picture comes from. Samples are copied here and there; their pictures are shared.
#[derive(Clone, PartialEq, Eq)]
pub enum Picture {
    /// A file, which is read whenever its sample is asked and must stay as it is meanwhile.
    File(PathBuf),
    /// The bytes of a PNG, JPEG, WebP, GIF or BMP file, for data that an app keeps elsewhere. To a data set's hash it is the
    /// file with these bytes.
    Encoded(Arc<[u8]>),
    /// Pixels, such as a camera's, 3 bytes each. Large ones are better encoded: they take memory for the whole run.
    Pixels(Arc<Image>),
}

impl Picture {
    /// Width and height, by the header alone where there is one.
    ///
    /// # Errors
    /// Those of [`Image::probe`].
    pub fn probe(&self) -> Result<(u32, u32)> {
        match self {
            Self::File(path) => Image::probe(path),
            Self::Encoded(bytes) => Image::probe_encoded(bytes),
            Self::Pixels(image) => Ok((image.width(), image.height())),
        }
    }

    /// The picture, decoded.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn open(&self) -> Result<Image> {
        match self {
            Self::File(path) => Image::open(path),
            Self::Encoded(bytes) => Image::from_encoded(bytes),
            Self::Pixels(image) => Ok(Image::clone(image)),
        }
    }

    /// What of it goes into a data set's hash: a head and a body.
    pub(crate) fn content(&self) -> Result<(Vec<u8>, Cow<'_, [u8]>)> {
        Ok(match self {
            Self::File(path) => {
                let bytes = fs::read(path).map_err(|source| Error::io("cannot read image", path, source))?;
                (Vec::new(), bytes.into())
            }
            Self::Encoded(bytes) => (Vec::new(), (&**bytes).into()),
            Self::Pixels(image) => {
                let size = [image.width().to_le_bytes(), image.height().to_le_bytes()].concat();
                ([PIXELS_KEY, &size].concat(), image.rgb().into())
            }
        })
    }
}

impl From<PathBuf> for Picture {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl fmt::Debug for Picture {
    // Pictures are private: a log shows where they are or their size, never their content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Encoded(bytes) => write!(f, "Encoded({} bytes)", bytes.len()),
            Self::Pixels(image) => image.fmt(f),
        }
    }
}
