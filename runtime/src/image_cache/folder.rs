//! Embeddings in a folder: one checked file each, and no more bytes than the folder may have.
//!
//! A file appears whole or not at all, and its time of modification is that of its last use. Processes that share the folder need
//! no lock: whoever writes removes what is oldest by what lies there at that moment, and a file that somebody else removed first
//! is a picture that is encoded again.

use std::{
    fs::{self, File},
    io::{self, ErrorKind as IoErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use super::DIGEST;
use crate::{AtomicFile, Error, ErrorKind, Result, prompt::ImageEmbedding};

/// First bytes of a file: of this format and version.
const MAGIC: &[u8; 8] = b"OWLETIM1";
/// What the names of files end in, behind the digits of the key.
const SUFFIX: &str = ".embedding";
/// Files under construction that are older were left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A folder with a limit.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    max_bytes: u64,
}

impl Folder {
    /// Makes the folder where it does not exist.
    pub(super) fn open(path: PathBuf, max_bytes: u64) -> Result<Self> {
        fs::create_dir_all(&path).map_err(|source| Error::io("cannot make a folder for pictures", &path, source))?;
        Ok(Self { path, max_bytes })
    }

    /// The embedding of `key` of the right width, which counts as a use; `None` where there is none, or a damaged one.
    pub(super) fn load(&self, key: &[u8; DIGEST], width: usize) -> Option<ImageEmbedding> {
        let path = self.path.join(file_name(key));
        let read = || {
            let bytes = match self.read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(Error::io("cannot read file", &path, source)),
            };
            parse(&bytes, width)
                .map(Some)
                .ok_or_else(|| Error::new(ErrorKind::InvalidFile, "damaged embedding of a picture").at(path.display()))
        };
        let found = read().unwrap_or_else(|error| {
            tracing::warn!(%error, "a picture is encoded again");
            None
        })?;
        // A file that keeps its old time goes earlier, no more.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(found)
    }

    /// The file at `path`, cut where it is longer than any that the folder takes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(self.max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes `embedding`, unless it is larger than the whole folder may be, and makes room for it.
    ///
    /// # Errors
    /// `Io` when the file cannot be written.
    pub(super) fn store(&self, key: &[u8; DIGEST], embedding: &ImageEmbedding) -> Result<()> {
        let bytes = to_bytes(embedding);
        if bytes.len() as u64 > self.max_bytes {
            return Ok(());
        }
        let path = self.path.join(file_name(key));
        let mut file = AtomicFile::create(&path)?;
        file.write_all(&bytes).map_err(|source| Error::io("cannot write file", &path, source))?;
        file.commit()?;
        self.trim(&path);
        Ok(())
    }

    /// Removes what was not used for the longest time until the limit holds, but not `newest`.
    fn trim(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let (name, Ok(metadata)) = (entry.file_name(), entry.metadata()) else { continue };
            let (name, Ok(used)) = (name.to_string_lossy(), metadata.modified()) else { continue };
            if is_embedding(&name) {
                files.push((used, entry.path(), metadata.len()));
            } else if is_under_construction(&name) && now.duration_since(used).is_ok_and(|age| age > ABANDONED) {
                // Removed by somebody else, or in use after all: both are well.
                let _ = fs::remove_file(entry.path());
            }
        }
        let mut n_bytes: u64 = files.iter().map(|(_, _, n_bytes)| n_bytes).sum();
        files.sort();
        for (_, path, length) in files.into_iter().filter(|(_, path, _)| path != newest) {
            if n_bytes <= self.max_bytes {
                return;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != IoErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "an old picture cannot be removed");
                }
                _ => n_bytes -= length,
            }
        }
    }
}

fn file_name(key: &[u8; DIGEST]) -> String {
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    digits + SUFFIX
}

fn is_embedding(name: &str) -> bool {
    let is_digits = |digits: &str| digits.len() == 2 * DIGEST && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.strip_suffix(SUFFIX).is_some_and(is_digits)
}

/// Whether `name` is one that [`AtomicFile`] gives.
fn is_under_construction(name: &str) -> bool {
    name.starts_with(".owlet-") && name.ends_with(".part")
}

/// Magic bytes, grid and width (u32), milliseconds of encoding (f64), floats, SHA-256 of all before; little-endian.
fn to_bytes(embedding: &ImageEmbedding) -> Vec<u8> {
    let ImageEmbedding { grid_w, grid_h, width_embd, data, encode_ms, .. } = embedding;
    let mut bytes = MAGIC.to_vec();
    for number in [*grid_w, *grid_h, *width_embd as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(encode_ms.to_le_bytes());
    bytes.extend_from_slice(bytemuck::cast_slice(data));
    bytes.extend(Sha256::digest(&bytes));
    bytes
}

fn parse(bytes: &[u8], width: usize) -> Option<ImageEmbedding> {
    let (content, digest) = bytes.split_last_chunk::<DIGEST>()?;
    if Sha256::digest(content)[..] != digest[..] {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (grid_w, rest) = rest.split_first_chunk()?;
    let (grid_h, rest) = rest.split_first_chunk()?;
    let (width_embd, rest) = rest.split_first_chunk()?;
    let (encode_ms, data) = rest.split_first_chunk()?;
    let [grid_w, grid_h, width_embd] = [*grid_w, *grid_h, *width_embd].map(u32::from_le_bytes);
    let n_tokens = usize::try_from(u64::from(grid_w).checked_mul(u64::from(grid_h))?).ok()?;
    let n_bytes = n_tokens.checked_mul(width)?.checked_mul(size_of::<f32>())?;
    let is_right = width_embd as usize == width && data.len() == n_bytes && n_tokens > 0;
    is_right.then(|| ImageEmbedding {
        n_tokens,
        grid_w,
        grid_h,
        width_embd: width,
        data: bytemuck::pod_collect_to_vec(data),
        encode_ms: f64::from_le_bytes(*encode_ms),
    })
}
