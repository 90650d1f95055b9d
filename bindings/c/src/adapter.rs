//! Adapters.

use std::{ffi::c_char, sync::Arc};

use owlet_runtime::{Adapter, Result};

use crate::{
    boundary::{self, Out},
    error::{owlet_error, owlet_status},
    handle::{self, Handle},
    input::{self, versioned},
    model::{self, owlet_model},
};

/// Longest adapter that is taken from memory: longer ones are read from their files.
const MAX_BYTES: usize = 1 << 31;

/// A LoRA adapter, opened for one model. It never changes and may be used by several threads and sessions.
pub struct owlet_adapter {
    _opaque: (),
}

impl Handle for owlet_adapter {
    type Target = Arc<Adapter>;
    const NAME: &'static str = "owlet_adapter";
}

/// What an adapter holds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct owlet_adapter_info {
    /// sizeof(owlet_adapter_info), set by the caller.
    pub struct_size: usize,
    /// The largest rank of its modules.
    pub rank: u64,
    /// Numbers in all its modules.
    pub n_params: u64,
    /// Weight matrices that it changes.
    pub n_modules: usize,
    /// Its strength: updates are multiplied by alpha / rank; 0 means that they are not.
    pub alpha: f32,
    /// 1 if it acts from its invocation in a prompt on (activated LoRA), 0 if on every token.
    pub is_activated: u32,
}

versioned!(owlet_adapter_info);

/// Opens the adapter file at `path` for `model`, and checks that it fits. The caller frees `*out` by owlet_adapter_free().
/// May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_open(
    model: *const owlet_model,
    path: *const c_char,
    out: *mut *mut owlet_adapter,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, path) = unsafe { (Out::new(out)?, input::path(path, "path")?) };
        out.put(Arc::new(Adapter::open(&model::borrow(model)?, path)?));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Opens the `n_bytes` bytes of an adapter file, which are copied; as owlet_adapter_open().
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_from_bytes(
    model: *const owlet_model,
    data: *const u8,
    n_bytes: usize,
    out: *mut *mut owlet_adapter,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        // SAFETY: the caller's contract.
        let (out, bytes) = unsafe { (Out::new(out)?, input::bytes(data, n_bytes, MAX_BYTES, "data")?) };
        out.put(Arc::new(Adapter::from_bytes(&model::borrow(model)?, bytes)?));
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Tells what `adapter` holds in `*out`, whose `struct_size` the caller sets. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_get_info(
    adapter: *const owlet_adapter,
    out: *mut owlet_adapter_info,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let adapter = handle::borrow(adapter)?;
        let info = adapter.info();
        let info = owlet_adapter_info {
            rank: info.rank,
            n_params: info.n_params,
            n_modules: info.n_modules,
            alpha: info.alpha,
            is_activated: u32::from(adapter.invocation().is_some()),
            ..input::zeroed()
        };
        // SAFETY: the caller's contract.
        unsafe { input::fill(out, info) }
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Computes a short question with and without `adapter` at `scale`, and gives the largest difference between the logits in
/// `*out`, unless that is NULL. OWLET_STATUS_NO_EFFECT where there is none. `n_threads` of 0 is one per core. May be called
/// from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_adapter_check_effect(
    adapter: *const owlet_adapter,
    scale: f32,
    n_threads: usize,
    out: *mut f32,
    error: *mut *mut owlet_error,
) -> owlet_status {
    let body = || {
        let difference = handle::borrow(adapter)?.check_effect(scale, n_threads)?;
        if !out.is_null() {
            // SAFETY: the caller's contract.
            unsafe { out.write(difference) };
        }
        Ok(())
    };
    // SAFETY: the caller's contract.
    unsafe { boundary::call(error, body) }
}

/// Frees an adapter's handle. NULL is ignored. Sessions that use it keep it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_adapter_free(adapter: *mut owlet_adapter) {
    boundary::free(adapter);
}

/// Adapters with their scales.
///
/// # Safety
/// `adapters` is NULL or points to `n` pointers, `scales` is NULL or points to `n` numbers.
pub(crate) unsafe fn scaled(
    adapters: *const *const owlet_adapter,
    scales: *const f32,
    n: usize,
) -> Result<Vec<(Arc<Adapter>, f32)>> {
    // SAFETY: by the contract above.
    let adapters = unsafe { input::array(adapters, n, "adapters") }?;
    // SAFETY: by the contract above.
    let scales = if scales.is_null() { &[] } else { unsafe { input::array(scales, n, "scales") }? };
    let scaled = |(index, &adapter): (usize, &*const owlet_adapter)| {
        Ok((Arc::clone(&*handle::borrow(adapter)?), scales.get(index).copied().unwrap_or(1.0)))
    };
    adapters.iter().enumerate().map(scaled).collect()
}
