//! Status codes and error objects.

use std::ffi::{CString, c_char};

use owlet_runtime::{Error, ErrorKind};

use crate::{
    boundary,
    handle::{self, Handle},
    text::{c_string, pointer},
};

/// What a call came to. `owlet.h` has the numbers of [`ErrorKind::status`] as an enum of this name.
pub type owlet_status = u32;

/// cbindgen:ignore
pub const OWLET_STATUS_OK: owlet_status = 0;

/// Why a call failed.
///
/// Functions that can fail take a `owlet_error **` as their last argument. Where it is not NULL, `*error` is NULL after a
/// success and a new error object after a failure, which the caller frees by owlet_error_free(). What it held before is
/// overwritten, not freed. Error objects are never changed and may be read by several threads.
pub struct owlet_error {
    _opaque: (),
}

/// A failure, told to C.
pub(crate) struct Failure {
    status: owlet_status,
    text: CString,
    place: Option<CString>,
    got: Option<CString>,
    needed: Option<CString>,
}

impl Handle for owlet_error {
    type Target = Failure;
    const NAME: &'static str = "owlet_error";
}

impl Failure {
    pub(crate) fn new(error: &Error) -> Self {
        let mut text = error.to_string();
        for cause in error.causes() {
            text.push_str(": ");
            text.push_str(&cause);
        }
        Self {
            status: error.kind().status(),
            text: c_string(&text),
            place: error.place().map(c_string),
            got: error.found().map(c_string),
            needed: error.wanted().map(c_string),
        }
    }
}

/// The name of a status in lower case, such as "not_found"; "ok" for OWLET_STATUS_OK, "unknown" for numbers that stand for
/// nothing. The string is static. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn owlet_status_name(status: owlet_status) -> *const c_char {
    macro_rules! names {
        ($($(#[$doc:meta])* $kind:ident, $name:literal, $status:literal, $exit_code:literal;)*) => {
            match status {
                OWLET_STATUS_OK => c"ok",
                $($status => {
                    const NAME: &std::ffi::CStr =
                        match std::ffi::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => panic!("a name with a NUL"),
                        };
                    NAME
                })*
                _ => c"unknown",
            }
        };
    }
    owlet_runtime::error_kinds!(names).as_ptr()
}

/// The status that the failed call returned; OWLET_STATUS_OK for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_error_status(error: *const owlet_error) -> owlet_status {
    boundary::get(ErrorKind::Internal.status(), || handle::borrow(error).map_or(OWLET_STATUS_OK, |error| error.status))
}

/// The whole message: what failed, where, what was found, what was needed, and the causes underneath. For people and logs;
/// it never holds prompts, pictures or answers. The string belongs to the error and lives as long; "" for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_error_text(error: *const owlet_error) -> *const c_char {
    // SAFETY: the caller's contract.
    boundary::get(c"".as_ptr(), || unsafe { handle::peek(error) }.map_or(c"".as_ptr(), |error| error.text.as_ptr()))
}

/// Where it failed: a path, `path:line`, a tensor, an option; NULL where there is no such place, and for NULL. The string
/// belongs to the error and lives as long.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_error_place(error: *const owlet_error) -> *const c_char {
    // SAFETY: the caller's contract.
    pointer(unsafe { handle::peek(error) }.and_then(|error| error.place.as_deref()))
}

/// What was found in that place; NULL where it is not told, and for NULL. The string belongs to the error and lives as long.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_error_got(error: *const owlet_error) -> *const c_char {
    // SAFETY: the caller's contract.
    pointer(unsafe { handle::peek(error) }.and_then(|error| error.got.as_deref()))
}

/// What would have been accepted; NULL where it is not told, and for NULL. The string belongs to the error and lives as long.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_error_needed(error: *const owlet_error) -> *const c_char {
    // SAFETY: the caller's contract.
    pointer(unsafe { handle::peek(error) }.and_then(|error| error.needed.as_deref()))
}

/// Frees an error object and its strings. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_error_free(error: *mut owlet_error) {
    boundary::free(error);
}
