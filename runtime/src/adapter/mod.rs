//! LoRA adapters for inference: checked against the model, then loaded by llama.cpp.
//!
//! Updates are `W x + scale * (alpha / rank) * B (A x)`; a session adds up those of all adapters it is given.

mod check;
mod effect;
mod invocation;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod memory_file;

use std::{path::Path, ptr::NonNull};

use llama_cpp_sys_2 as sys;

pub use self::invocation::{INVOCATION_KEY, MAX_INVOCATION_TOKENS, read_invocation};
use crate::{
    Result, backend,
    gguf::{GgufFile, Value},
    model::{Model, TokenId, c_path},
};

/// What an adapter holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The largest rank of its modules.
    pub rank: u64,
    /// `adapter.lora.alpha`; 0 means that updates are not scaled by `alpha / rank`.
    pub alpha: f32,
    /// Weight matrices that it changes.
    pub n_modules: usize,
    /// Numbers in all its A and B.
    pub n_params: u64,
}

/// A loaded adapter. Sessions hold it by `Arc` while they use it.
pub struct Adapter {
    raw: NonNull<sys::llama_adapter_lora>,
    model: Model,
    info: AdapterInfo,
    invocation: Option<Vec<TokenId>>,
    metadata: Vec<(String, Value)>,
    hash: String,
}

// SAFETY: llama.cpp only reads an adapter once it is loaded; loading and freeing, which change the model's list, hold
// the model's lock.
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// Loads the adapter file at `path` for `model`.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` for damaged files and incomplete pairs; `Unsupported` for other kinds of GGUF and
    /// of adapters; `Mismatch` when a tensor or a token of the invocation does not fit the model; `Backend`.
    pub fn open(model: &Model, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let c_path = c_path(path)?;
        let file = GgufFile::open(path)?;
        let load = || {
            // SAFETY: model and path are alive; the caller of `load` holds the lock of the model's adapters.
            Ok(unsafe { sys::llama_adapter_lora_init(model.raw().as_ptr(), c_path.as_ptr()) })
        };
        Self::new(model, &file, load).map_err(|error| error.at(path.display()))
    }

    /// Loads the bytes of an adapter file for `model`. On Linux and Android they never reach a disk.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn from_bytes(model: &Model, bytes: &[u8]) -> Result<Self> {
        let file = GgufFile::from_bytes(bytes.to_vec())?;
        Self::new(model, &file, || Self::load_bytes(model, bytes))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn load_bytes(model: &Model, bytes: &[u8]) -> Result<*mut sys::llama_adapter_lora> {
        let stream = memory_file::MemoryFile::new(bytes)?;
        // SAFETY: model and stream are alive; the caller holds the lock of the model's adapters.
        Ok(unsafe { sys::llama_adapter_lora_init_from_file_ptr(model.raw().as_ptr(), stream.as_ptr().cast()) })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn load_bytes(model: &Model, bytes: &[u8]) -> Result<*mut sys::llama_adapter_lora> {
        use std::io::Write;
        let failed = |source| crate::Error::io("cannot hand over adapter", &std::env::temp_dir(), source);
        let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(failed)?;
        let c_path = c_path(file.path())?;
        // SAFETY: model and path are alive; the caller holds the lock of the model's adapters.
        Ok(unsafe { sys::llama_adapter_lora_init(model.raw().as_ptr(), c_path.as_ptr()) })
    }

    fn new(
        model: &Model,
        file: &GgufFile,
        load: impl FnOnce() -> Result<*mut sys::llama_adapter_lora>,
    ) -> Result<Self> {
        let (info, invocation) = check::check(file, model.gguf())?;
        let hash = file.content_hash()?.to_owned();
        let raw = {
            let _alone = model.change_adapters();
            let mut failed = None;
            let loaded = backend::explain("cannot load adapter", || match load() {
                Ok(raw) => NonNull::new(raw),
                Err(error) => {
                    failed = Some(error);
                    None
                }
            });
            match failed {
                Some(error) => return Err(error),
                None => loaded?,
            }
        };
        Ok(Self { raw, model: model.clone(), info, invocation, metadata: file.metadata().to_vec(), hash })
    }

    /// What it holds.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// The tokens that invoke it, of an activated adapter: it acts from their last occurrence in a prompt on, those tokens
    /// included. `None` for a plain adapter, which acts on every token.
    pub fn invocation(&self) -> Option<&[TokenId]> {
        self.invocation.as_deref()
    }

    /// The metadata of its file.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The hash of its whole file, as [`Model::content_hash`] tells models apart.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The model it was opened for.
    pub fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn raw(&self) -> NonNull<sys::llama_adapter_lora> {
        self.raw
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let _alone = self.model.change_adapters();
        // SAFETY: loaded in `new`, freed once, before the model that keeps it in its list; no context refers to it, since
        // sessions hold an `Arc`.
        unsafe { sys::llama_adapter_lora_free(self.raw.as_ptr()) }
    }
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let AdapterInfo { rank, n_modules, .. } = self.info;
        write!(f, "Adapter(rank {rank}, {n_modules} modules)")
    }
}
