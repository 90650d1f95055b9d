//! Embeddings of pictures, kept for the next time that a picture is shown: in memory, and in a folder if one is given.
//!
//! The key is all that decides an embedding: pixels, projector, budget, and what computes it. A picture that is found is
//! neither resized nor encoded.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::{
    Result,
    cancel::CancelToken,
    image::{Image, ImageBudget},
    lru::Lru,
    model::Model,
    prompt::{ImageEmbedding, resize},
};

mod folder;

use folder::Folder;

/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// Embeddings of pictures, shared by whoever holds it: sessions and conversations, of any models.
#[derive(Debug)]
pub struct ImageCache {
    kept: Mutex<Kept>,
    folder: Option<Folder>,
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
    /// replaced. Of files with embeddings the folder keeps `max_bytes`: whenever one is written, those that were not used for
    /// the longest time are removed, and files that a killed writer of Owlet's left a day ago. Several processes may share it;
    /// other files in it are left alone.
    ///
    /// # Errors
    /// `Io` when the folder cannot be made.
    pub fn with_folder(self, folder: impl Into<PathBuf>, max_bytes: u64) -> Result<Self> {
        Ok(Self { folder: Some(Folder::open(folder.into(), max_bytes)?), ..self })
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
    /// encoder fails, `Cancelled` with nothing kept. A folder that cannot be read or written costs time and nothing else.
    pub fn embed(
        &self,
        model: &Model,
        image: &Image,
        budget: &ImageBudget,
        cancel: &CancelToken,
    ) -> Result<Arc<ImageEmbedding>> {
        let key = key(model, image, budget, cancel)?;
        if let Some(found) = self.in_memory(key) {
            return Ok(found);
        }
        let folder = self.folder.as_ref();
        if let Some(loaded) = folder.and_then(|folder| folder.load(&key, model.input_width())) {
            let loaded = Arc::new(loaded);
            self.keep(key, &loaded, |stats| stats.n_loaded += 1);
            return Ok(loaded);
        }
        let encoded = Arc::new(model.encode_image(&resize(model, image, budget, cancel)?, cancel)?);
        if let Some(Err(error)) = folder.map(|folder| folder.store(&key, &encoded)) {
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

fn key(model: &Model, image: &Image, budget: &ImageBudget, cancel: &CancelToken) -> Result<[u8; DIGEST]> {
    let ImageBudget { factor, min_pixels, max_pixels } = budget;
    let (version, processor) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let (projector, (_, gpu_layers)) = (model.projector_hash_until(cancel)?.unwrap_or_default(), model.kernels());
    let (width, height) = (image.width(), image.height());
    let context =
        format!("{version} {processor} {projector} {gpu_layers} {factor} {min_pixels} {max_pixels} {width}x{height} ");
    Ok(Sha256::new().chain_update(context).chain_update(image.rgb()).finalize().into())
}
