//! The line between C and Rust: what a function returns to C, whatever happens.

use std::panic::{AssertUnwindSafe, catch_unwind};

use owlet_runtime::{Error, ErrorKind, Result};

use crate::{
    error::{Failure, OWLET_STATUS_OK, owlet_error, owlet_status},
    handle::{self, Handle},
};

/// Runs `body` and gives its status to C, and its error to `error` unless that is NULL.
///
/// # Safety
/// `error` is NULL or points to a pointer that may be written.
pub(crate) unsafe fn call(error: *mut *mut owlet_error, body: impl FnOnce() -> Result<()>) -> owlet_status {
    if !error.is_null() {
        // SAFETY: by the contract above.
        unsafe { error.write(std::ptr::null_mut()) };
    }
    let Err(failed) = caught(body).and_then(|result| result) else { return OWLET_STATUS_OK };
    let status = failed.kind().status();
    if !error.is_null()
        && let Ok(failure) = caught(|| handle::give(Failure::new(&failed)))
    {
        // SAFETY: by the contract above.
        unsafe { error.write(failure) };
    }
    status
}

/// Runs `body`, which cannot fail; `fallback` where it panics.
pub(crate) fn get<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    caught(body).unwrap_or(fallback)
}

/// Frees `handle`.
pub(crate) fn free<H: Handle>(handle: *mut H) {
    get((), || handle::free(handle));
}

fn caught<T>(body: impl FnOnce() -> T) -> Result<T> {
    // What a panic leaves behind is looked at no more: sessions that broke say so (`Turnstile`).
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Error::new(ErrorKind::Internal, "Owlet panicked").got(text)
    })
}

/// Where a handle goes that a function makes.
pub(crate) struct Out<H: Handle>(*mut *mut H);

impl<H: Handle> Out<H> {
    /// A place for the result, which is NULL until there is one.
    ///
    /// # Errors
    /// `InvalidInput` for NULL.
    ///
    /// # Safety
    /// `out` is NULL or points to a pointer that may be written until the call of C returns.
    pub(crate) unsafe fn new(out: *mut *mut H) -> Result<Self> {
        // SAFETY: by the contract above.
        unsafe { Self::optional(out) }.ok_or_else(|| null("the place of the result"))
    }

    /// As [`Out::new`]; `None` for NULL.
    ///
    /// # Safety
    /// As [`Out::new`].
    pub(crate) unsafe fn optional(out: *mut *mut H) -> Option<Self> {
        if out.is_null() {
            return None;
        }
        // SAFETY: by the contract above.
        unsafe { out.write(std::ptr::null_mut()) };
        Some(Self(out))
    }

    /// Hands `value` out.
    pub(crate) fn put(self, value: H::Target) {
        // SAFETY: by the contract of `new`.
        unsafe { self.0.write(handle::give(value)) };
    }
}

/// A NULL that must be none.
pub(crate) fn null(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "NULL").at(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_internal_errors() {
        // SAFETY: NULL is allowed.
        let status = unsafe { call(std::ptr::null_mut(), || panic!("planted")) };
        assert_eq!(status, ErrorKind::Internal.status());
        let error = caught::<()>(|| panic!("planted {}", 7)).expect_err("panicked");
        assert_eq!(error.to_string(), "Owlet panicked: got planted 7");
        assert_eq!(get(7, || panic!("planted")), 7);
    }
}
