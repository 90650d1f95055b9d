//! Embeddings of pictures, kept for the next time that a picture is shown: in memory, and in a folder if one is given.
//!
//! The key is all that decides an embedding: pixels, projector, budget, and what computes it. A picture that is found is
//! neither resized nor encoded.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::{
    AtomicFile, Error, ErrorKind, Result,
    image::{Image, ImageBudget},
    lru::Lru,
    model::Model,
    prompt::{ImageEmbedding, resize},
};

/// First bytes of a file: of this format and version.
const MAGIC: &[u8; 8] = b"OWLETIM1";
/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// Embeddings of pictures, shared by whoever holds it: sessions and conversations, of any models.
#[derive(Debug)]
pub struct ImageCache {
    kept: Mutex<Kept>,
    folder: Option<PathBuf>,
}

#[derive(Debug)]
struct Kept {
    embeddings: Lru<[u8; DIGEST], Arc<ImageEmbedding>>,
    stats: ImageCacheStats,
}

/// Where embeddings came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageCacheStats {
    /// Found in memory.
    pub n_found: u64,
    /// Read from the folder.
    pub n_loaded: u64,
    /// Encoded.
    pub n_encoded: u64,
}

impl ImageCache {
    /// Room for `max_bytes` of embeddings; those that were not used for the longest time go first. A token of Qwen3-VL-2B
    /// takes 32 KiB, so a picture of 1,024 tokens takes 32 MiB.
    pub fn new(max_bytes: usize) -> Self {
        let kept = Kept { embeddings: Lru::new(max_bytes), stats: ImageCacheStats::default() };
        Self { kept: Mutex::new(kept), folder: None }
    }

    /// The same cache with `folder` behind it, which is made where it does not exist: what is encoded is written there, and
    /// what memory does not have is looked for. Files are checked as they are read; damaged ones are encoded again and
    /// replaced. Nothing in the folder is ever deleted.
    ///
    /// # Errors
    /// `Io` when the folder cannot be made.
    pub fn with_folder(self, folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)
            .map_err(|source| Error::io("cannot make a folder for pictures", &folder, source))?;
        Ok(Self { folder: Some(folder), ..self })
    }

    /// Where embeddings came from so far.
    pub fn stats(&self) -> ImageCacheStats {
        self.kept().stats
    }

    /// Bytes of memory that it holds.
    pub fn n_bytes(&self) -> usize {
        self.kept().embeddings.n_bytes()
    }

    /// The embedding of `image` at the size of `budget`, from memory, the folder or the encoder of `model`. `encode_ms` tells
    /// what encoding took when it was done.
    ///
    /// # Errors
    /// `Unsupported` for a model without projector, `InvalidInput` for a picture that cannot be resized, `Backend` when the
    /// encoder fails. A folder that cannot be read or written costs time and nothing else.
    pub fn embed(&self, model: &Model, image: &Image, budget: &ImageBudget) -> Result<Arc<ImageEmbedding>> {
        let key = key(model, image, budget)?;
        if let Some(found) = self.in_memory(key) {
            return Ok(found);
        }
        let path = self.folder.as_deref().map(|folder| folder.join(file_name(&key)));
        if let Some(loaded) = path.as_deref().and_then(|path| load(path, model.input_width())) {
            let loaded = Arc::new(loaded);
            self.keep(key, &loaded, |stats| stats.n_loaded += 1);
            return Ok(loaded);
        }
        let encoded = Arc::new(model.encode_image(&resize(image, budget)?)?);
        if let Some(path) = path
            && let Err(error) = store(&path, &encoded)
        {
            tracing::warn!(%error, "the embedding of a picture is not kept");
        }
        self.keep(key, &encoded, |stats| stats.n_encoded += 1);
        Ok(encoded)
    }

    fn in_memory(&self, key: [u8; DIGEST]) -> Option<Arc<ImageEmbedding>> {
        let mut kept = self.kept();
        let found = kept.embeddings.get(key)?;
        kept.stats.n_found += 1;
        Some(found)
    }

    fn keep(&self, key: [u8; DIGEST], embedding: &Arc<ImageEmbedding>, count: impl FnOnce(&mut ImageCacheStats)) {
        let mut kept = self.kept();
        let n_bytes = size_of_val(embedding.data.as_slice());
        kept.embeddings.insert(key, Arc::clone(embedding), n_bytes);
        count(&mut kept.stats);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(model: &Model, image: &Image, budget: &ImageBudget) -> Result<[u8; DIGEST]> {
    let ImageBudget { factor, min_pixels, max_pixels } = budget;
    let (version, processor) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let (projector, (_, gpu_layers)) = (model.projector_hash()?.unwrap_or_default(), model.kernels());
    let (width, height) = (image.width(), image.height());
    let context =
        format!("{version} {processor} {projector} {gpu_layers} {factor} {min_pixels} {max_pixels} {width}x{height} ");
    Ok(Sha256::new().chain_update(context).chain_update(image.rgb()).finalize().into())
}

fn file_name(key: &[u8; DIGEST]) -> String {
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    digits + ".embedding"
}

/// Magic bytes, grid and width (u32), milliseconds of encoding (f64), floats, SHA-256 of all before; little-endian.
fn store(path: &Path, embedding: &ImageEmbedding) -> Result<()> {
    let ImageEmbedding { grid_w, grid_h, width_embd, data, encode_ms, .. } = embedding;
    let mut bytes = MAGIC.to_vec();
    for number in [*grid_w, *grid_h, *width_embd as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(encode_ms.to_le_bytes());
    bytes.extend_from_slice(bytemuck::cast_slice(data));
    bytes.extend(Sha256::digest(&bytes));
    let mut file = AtomicFile::create(path)?;
    file.write_all(&bytes).map_err(|source| Error::io("cannot write file", path, source))?;
    file.commit()
}

/// The embedding of a file of the right width; `None` where there is none, or a damaged one.
fn load(path: &Path, width: usize) -> Option<ImageEmbedding> {
    let read = || {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io("cannot read file", path, source)),
        };
        parse(&bytes, width)
            .map(Some)
            .ok_or_else(|| Error::new(ErrorKind::InvalidFile, "damaged embedding of a picture").at(path.display()))
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(%error, "a picture is encoded again");
        None
    })
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
