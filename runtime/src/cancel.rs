//! Cancelling long work from another thread, and doing it in slices.

use std::{
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
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

/// Until when a slice of long work may go on. Work that is done in slices looks at it after every unit, such as a token of
/// all running answers or a layer, and does at least one unit a slice, so that short slices get there too.
#[derive(Clone, Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    cancel: CancelToken,
}

impl Deadline {
    /// As long as the work takes.
    pub fn never() -> Self {
        Self::default()
    }

    /// Until `at`.
    pub fn at(at: Instant) -> Self {
        Self { at: Some(at), ..Self::default() }
    }

    /// For `duration` from now.
    pub fn after(duration: Duration) -> Self {
        // What overflows the clock is never.
        Self { at: Instant::now().checked_add(duration), ..Self::default() }
    }

    /// The same, or until `cancel` is cancelled: then not even one more unit is done, and on CPU the running one stops.
    #[must_use]
    pub fn or_cancelled(self, cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Whether the slice is over.
    pub fn is_over(&self) -> bool {
        self.is_cancelled() || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Whether the slice was cancelled, whatever the time.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The token that ends the slice; of no consequence where none was given.
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
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
