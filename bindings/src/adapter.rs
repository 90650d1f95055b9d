//! Adapters for inference.

use std::sync::Arc;

use owlet_host::background;
use owlet_runtime as runtime;

use crate::{
    error::{CancelToken, Result, token},
    model::Model,
};

/// An adapter that sessions of its model can use.
#[derive(Debug, uniffi::Object)]
pub struct Adapter(pub(crate) Arc<runtime::Adapter>);

/// What an adapter holds.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct AdapterInfo {
    /// The largest rank of its modules.
    pub rank: u64,
    /// Its strength: updates are scaled by `alpha / rank`.
    pub alpha: f32,
    /// Weight matrices that it changes.
    pub n_modules: u64,
    /// Numbers in it.
    pub n_params: u64,
    /// Whether it acts only from its invocation in a prompt on (activated LoRA).
    pub is_activated: bool,
    /// A hash of its file, by which saved sessions know it.
    pub hash: String,
}

/// An adapter in use.
#[derive(Clone, Debug, uniffi::Record)]
pub struct ActiveAdapter {
    /// The adapter.
    pub adapter: Arc<Adapter>,
    /// What its updates are multiplied by; default 1.
    #[uniffi(default = 1.0)]
    pub scale: f32,
}

#[uniffi::export]
impl Adapter {
    /// Reads an adapter file for `model`, on this thread.
    ///
    /// Throws `NotFound`, `Io`; `InvalidFile` for damaged files; `Unsupported` for other kinds of adapters; `Mismatch` for an
    /// adapter of another model.
    #[uniffi::constructor]
    pub fn open(model: &Model, path: String) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Arc::new(runtime::Adapter::open(&model.0, path)?))))
    }

    /// The same of the bytes of an adapter file.
    #[uniffi::constructor]
    pub fn from_bytes(model: &Model, bytes: Vec<u8>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Arc::new(runtime::Adapter::from_bytes(&model.0, &bytes)?))))
    }

    /// What it holds.
    pub fn info(&self) -> AdapterInfo {
        let &runtime::AdapterInfo { rank, alpha, n_modules, n_params } = self.0.info();
        let is_activated = self.0.invocation().is_some();
        AdapterInfo { rank, alpha, n_modules: n_modules as u64, n_params, is_activated, hash: self.0.hash().to_owned() }
    }

    /// The largest difference that it makes to the logits after a short question, `scale` times.
    ///
    /// Throws `NoEffect` when there is none; `InvalidFile` for an adapter whose numbers are broken.
    #[uniffi::method(default(scale = 1.0, n_threads = 0, cancel = None))]
    pub async fn check_effect(&self, scale: f32, n_threads: u32, cancel: Option<Arc<CancelToken>>) -> Result<f32> {
        let adapter = Arc::clone(&self.0);
        let checked =
            background("owlet-check", &token(cancel), move |_| adapter.check_effect(scale, n_threads as usize));
        Ok(checked.await?)
    }
}

/// The adapters as the host layer takes them.
pub(crate) fn in_use(adapters: Vec<ActiveAdapter>) -> owlet_host::Adapters {
    adapters.into_iter().map(|used| (Arc::clone(&used.adapter.0), used.scale)).collect()
}
