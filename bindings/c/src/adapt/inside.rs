//! Whether a thread is inside a callback of a job or a gate: waiting there for the same one would be waiting for oneself.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

use owlet_runtime::{Error, ErrorKind, Result};

thread_local! {
    /// Number of the object whose callback runs on this thread; 0 for none.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// A number of its own for a job or a gate.
pub(super) fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// Marks this thread as inside a callback of object `number`, until it is dropped.
pub(super) struct Inside(u64);

impl Inside {
    pub(super) fn of(number: u64) -> Self {
        Self(INSIDE.replace(number))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

/// # Errors
/// `Busy` inside a callback of object `number`.
pub(super) fn check(number: u64) -> Result<()> {
    if INSIDE.get() == number {
        let error = Error::new(ErrorKind::Busy, "a callback cannot use the object that it is called by");
        return Err(error.needed("a call after the callback returned, or by another thread"));
    }
    Ok(())
}
