//! Cancelling long work from another thread.

use std::{
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{Error, ErrorKind, Result};

/// A flag that every clone shares: one side sets it, the working side looks at it between graph nodes and tokens.
///
/// A cancelled call returns [`ErrorKind::Cancelled`] and leaves its session as it was before the call. The flag stays
/// set; take a new token for new work.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`CancelToken::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns an error once cancelled, for use with `?` between steps.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Self::error()) } else { Ok(()) }
    }

    /// The error of a call that saw the flag.
    pub(crate) fn error() -> Error {
        Error::new(ErrorKind::Cancelled, "cancelled")
    }

    /// The flag's address as callback data of [`abort_requested`]; valid while this token lives.
    pub(crate) fn as_callback_data(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast::<c_void>().cast_mut()
    }
}

/// ggml's abort callback: true stops the graph after the current node.
///
/// # Safety
/// `data` is [`CancelToken::as_callback_data`] of a token that is alive.
pub(crate) unsafe extern "C" fn abort_requested(data: *mut c_void) -> bool {
    // SAFETY: by the contract above `data` points to an `AtomicBool`, which any thread may read.
    unsafe { (*data.cast::<AtomicBool>()).load(Ordering::Relaxed) }
}
