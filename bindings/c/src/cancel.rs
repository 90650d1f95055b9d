//! Cancel tokens.

use std::time::Duration;

use owlet_runtime::{CancelToken, Result};

use crate::{
    boundary,
    handle::{self, Handle},
};

/// A wish to stop, given to calls that may take long. It may be cancelled by any thread while they run, and by the callbacks
/// of such a call. The call then returns OWLET_STATUS_CANCELLED, within the bounds of docs/cancellation.md, and leaves its
/// objects as they were before it. The wish stays: new work takes a new token.
pub struct owlet_cancel_token {
    _opaque: (),
}

impl Handle for owlet_cancel_token {
    type Target = CancelToken;
    const NAME: &'static str = "owlet_cancel_token";
}

/// A token that is not cancelled. The caller frees it by owlet_cancel_token_free(). NULL only if the library is broken.
/// May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn owlet_cancel_token_new() -> *mut owlet_cancel_token {
    boundary::get(std::ptr::null_mut(), || handle::give(CancelToken::new()))
}

/// A token that cancels itself so many milliseconds from now, for "at most ten seconds". As owlet_cancel_token_new().
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn owlet_cancel_token_after_ms(milliseconds: u64) -> *mut owlet_cancel_token {
    boundary::get(std::ptr::null_mut(), || handle::give(CancelToken::after(Duration::from_millis(milliseconds))))
}

/// Asks all work that was given the token to stop; does not wait for it. NULL is ignored. May be called from any thread, and
/// from callbacks. It takes a lock for a moment, so it is nothing for signal handlers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_cancel_token_cancel(token: *mut owlet_cancel_token) {
    boundary::get((), || {
        if let Ok(token) = handle::borrow(token) {
            token.cancel();
        }
    });
}

/// Whether the token was cancelled or its time is up; false for NULL. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_cancel_token_is_cancelled(token: *const owlet_cancel_token) -> bool {
    boundary::get(false, || handle::borrow(token).is_ok_and(|token| token.is_cancelled()))
}

/// Frees a token. NULL is ignored. Work that was given it goes on, and is not cancelled by that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_cancel_token_free(token: *mut owlet_cancel_token) {
    boundary::free(token);
}

/// The token of a call; one that nobody cancels for NULL.
pub(crate) fn token(token: *const owlet_cancel_token) -> Result<CancelToken> {
    Ok(handle::borrow_optional(token)?.map(|token| (*token).clone()).unwrap_or_default())
}
