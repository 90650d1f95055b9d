//! Owner of a `llama_context` and of the threads that compute for it.

use std::{ptr::NonNull, slice};

use llama_cpp_sys_2 as sys;

use super::{FlashAttention, KvType, SessionOptions, wants_all_logits};
use crate::{
    Error, ErrorKind, Result, backend,
    cancel::{CancelToken, abort_requested},
    model::Model,
};

/// A context with its thread pool. One thread uses it at a time.
pub(super) struct Context {
    raw: NonNull<sys::llama_context>,
    threads: NonNull<sys::ggml_threadpool>,
    /// Keeps the flag of the abort callback alive.
    cancel: CancelToken,
    model: Model,
}

// SAFETY: neither the context nor the pool is tied to the thread that made it, and `&mut self` (or the lack of `Sync`)
// keeps calls apart.
unsafe impl Send for Context {}

/// How llama.cpp answered a decode call that did not succeed.
pub(super) enum DecodeFailure {
    /// The abort callback stopped it.
    Cancelled,
    /// No room in the cache.
    Full,
    /// Anything else.
    Failed(i32),
}

impl Context {
    pub(super) fn new(model: &Model, options: &SessionOptions) -> Result<Self> {
        let n_threads = backend::resolve_threads(options.n_threads)?;
        let cancel = CancelToken::new();
        let params = context_params(options, n_threads, wants_all_logits(model), &cancel);
        let unchanged = model.keep_adapters();
        let raw = backend::explain("cannot make a session", || {
            // SAFETY: the model is alive and outlives the context (the session owns both); the callback data is kept by
            // `cancel`.
            NonNull::new(unsafe { sys::llama_init_from_model(model.raw().as_ptr(), params) })
        })?;
        drop(unchanged);
        let mut pool = pool_params(n_threads);
        // SAFETY: the parameters are the library's own defaults.
        let Some(threads) = NonNull::new(unsafe { sys::ggml_threadpool_new(&raw mut pool) }) else {
            // SAFETY: made above, freed once.
            unsafe { sys::llama_free(raw.as_ptr()) };
            return Err(Error::new(ErrorKind::Backend, "cannot start threads").got(n_threads));
        };
        // SAFETY: both are alive; `drop` frees the context before the pool.
        unsafe { sys::llama_attach_threadpool(raw.as_ptr(), threads.as_ptr(), threads.as_ptr()) };
        Ok(Self { raw, threads, cancel, model: model.clone() })
    }

    /// Makes `cancel` the flag that stops calls.
    pub(super) fn set_cancel(&mut self, cancel: CancelToken) {
        // SAFETY: the data is kept alive by `self.cancel`, which is replaced after the callback no longer uses it.
        unsafe {
            sys::llama_set_abort_callback(self.raw.as_ptr(), Some(abort_requested), cancel.as_callback_data());
        }
        self.cancel = cancel;
    }

    /// Lets calls run to their end whatever is cancelled, without the callback's look at every node.
    pub(super) fn ignore_cancel(&mut self) {
        // SAFETY: the context is alive; without a callback there is no data to be kept.
        unsafe { sys::llama_set_abort_callback(self.raw.as_ptr(), None, std::ptr::null_mut()) };
    }

    pub(super) fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// Runs a batch.
    ///
    /// # Safety
    /// The pointers of `batch` are valid and describe `n_tokens` entries with tokens of the vocabulary (or embedding
    /// rows of the model's input width and four positions each), sequences of this context, and no more tokens than its
    /// batch size.
    pub(super) unsafe fn decode(&mut self, batch: sys::llama_batch) -> Result<(), DecodeFailure> {
        let _unchanged = self.model.keep_adapters();
        // SAFETY: by the contract above.
        match unsafe { sys::llama_decode(self.raw.as_ptr(), batch) } {
            0 => Ok(()),
            1 => Err(DecodeFailure::Full),
            2 => Err(DecodeFailure::Cancelled),
            status => Err(DecodeFailure::Failed(status)),
        }
    }

    /// The logits of entry `index` of the last batch; `None` when it asked for none.
    pub(super) fn logits(&self, index: usize) -> Option<&[f32]> {
        // SAFETY: the call checks the index and answers NULL to a wrong one.
        let row = NonNull::new(unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), index as i32) })?;
        // SAFETY: a row has one float for each token of the vocabulary and lives until the next `&mut self` call.
        Some(unsafe { slice::from_raw_parts(row.as_ptr(), self.model.info().n_vocab) })
    }

    /// Removes what sequence `sequence` holds at positions from `start` on.
    pub(super) fn truncate(&mut self, sequence: usize, start: i32) {
        // SAFETY: the session only passes its own sequences. Models with a K/V cache can always cut the end off.
        unsafe {
            sys::llama_memory_seq_rm(self.memory(), sequence as i32, start, -1 /* to the end */);
        }
    }

    /// Makes `target` a copy of `source`.
    pub(super) fn copy(&mut self, source: usize, target: usize) {
        // SAFETY: the session only passes its own, different sequences; whole sequences are copied.
        unsafe {
            sys::llama_memory_seq_rm(self.memory(), target as i32, -1, -1);
            sys::llama_memory_seq_cp(self.memory(), source as i32, target as i32, -1, -1);
        }
    }

    /// What `sequence` holds, in llama.cpp's format.
    pub(super) fn state(&mut self, sequence: usize) -> Result<Vec<u8>> {
        let failed = || Error::new(ErrorKind::Backend, "llama.cpp cannot save a sequence").at(sequence);
        // SAFETY: the session only passes its own sequences.
        let n_bytes = unsafe { sys::llama_state_seq_get_size_ext(self.raw.as_ptr(), sequence as i32, NO_FLAGS) };
        let mut bytes = vec![0; n_bytes];
        // SAFETY: as above; the call writes at most `n_bytes`.
        let n_written = unsafe {
            sys::llama_state_seq_get_data_ext(self.raw.as_ptr(), bytes.as_mut_ptr(), n_bytes, sequence as i32, NO_FLAGS)
        };
        if n_bytes == 0 || n_written != n_bytes { Err(failed()) } else { Ok(bytes) }
    }

    /// Puts what [`Context::state`] gave into `sequence`; `false` when llama.cpp refuses it.
    pub(super) fn set_state(&mut self, sequence: usize, bytes: &[u8]) -> bool {
        // SAFETY: the session only passes its own sequences, and positions that it checked; llama.cpp checks lengths.
        let n_read = unsafe {
            sys::llama_state_seq_set_data_ext(self.raw.as_ptr(), bytes.as_ptr(), bytes.len(), sequence as i32, NO_FLAGS)
        };
        n_read == bytes.len()
    }

    /// Sets the adapters of this context.
    ///
    /// # Safety
    /// The adapters belong to the context's model and stay alive until the next call of this function or the end of
    /// the context.
    pub(super) unsafe fn set_adapters(&mut self, adapters: &mut [*mut sys::llama_adapter_lora], scales: &mut [f32]) {
        debug_assert_eq!(adapters.len(), scales.len());
        let _unchanged = self.model.keep_adapters();
        // SAFETY: by the contract above; llama.cpp copies both lists.
        unsafe {
            sys::llama_set_adapters_lora(self.raw.as_ptr(), adapters.as_mut_ptr(), adapters.len(), scales.as_mut_ptr());
        }
    }

    fn memory(&mut self) -> sys::llama_memory_t {
        // SAFETY: the context is alive.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both were made in `new` and are freed once, the context first since it refers to the pool.
        unsafe {
            sys::llama_free(self.raw.as_ptr());
            sys::ggml_threadpool_free(self.threads.as_ptr());
        }
    }
}

fn pool_params(n_threads: usize) -> sys::ggml_threadpool_params {
    // SAFETY: plain data.
    unsafe { sys::ggml_threadpool_params_default(n_threads as i32) }
}

fn context_params(
    options: &SessionOptions,
    n_threads: usize,
    all_logits: bool,
    cancel: &CancelToken,
) -> sys::llama_context_params {
    // SAFETY: plain data.
    let mut params = unsafe { sys::llama_context_default_params() };
    let n_ctx_seq = (options.n_ctx as u32).next_multiple_of(CELL_BLOCK);
    params.n_ctx = n_ctx_seq * options.n_seq as u32;
    params.n_seq_max = options.n_seq as u32;
    // Each sequence has cells of its own: in a shared cache every token would look at the cells of all sequences.
    params.kv_unified = false;
    // llama.cpp plans its buffers for batches that all sequences share evenly.
    params.n_batch = (options.n_ubatch as u32).next_multiple_of(params.n_seq_max);
    params.n_ubatch = params.n_batch;
    // A buffer for the logits of a whole batch would be hundreds of megabytes at 150k tokens.
    let n_logits = params.n_seq_max.max(options.n_logits as u32);
    params.n_outputs_max = if all_logits { params.n_batch } else { n_logits };
    params.n_threads = n_threads as i32;
    params.n_threads_batch = n_threads as i32;
    params.type_k = options.kv_type.ggml();
    params.type_v = options.kv_type.ggml();
    params.flash_attn_type = match options.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    params.abort_callback = Some(abort_requested);
    params.abort_callback_data = cancel.as_callback_data();
    params.no_perf = true;
    params
}

/// Of a state: all of it, in memory of the host.
const NO_FLAGS: sys::llama_state_seq_flags = 0;

/// llama.cpp makes caches of a multiple of this many cells.
const CELL_BLOCK: u32 = 256;

impl KvType {
    /// Its number in the files of a sequence's state.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::F32, Self::F16, Self::Q8_0].into_iter().find(|kv_type| kv_type.code() == code)
    }

    fn ggml(self) -> sys::ggml_type {
        match self {
            Self::F32 => sys::GGML_TYPE_F32,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
        }
    }
}
