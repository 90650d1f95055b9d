//! Strings for C.

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
};

use crate::{
    boundary,
    handle::{self, Handle},
};

/// A string that was made for the caller. It never changes and may be read by several threads.
pub struct owlet_string {
    _opaque: (),
}

impl Handle for owlet_string {
    type Target = CString;
    const NAME: &'static str = "owlet_string";
}

/// The text, UTF-8 and NUL-terminated. It belongs to `string` and lives as long; "" for NULL.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn owlet_string_text(string: *const owlet_string) -> *const c_char {
    // SAFETY: the caller's contract.
    boundary::get(c"".as_ptr(), || unsafe { handle::peek(string) }.map_or(c"".as_ptr(), |text| text.as_ptr()))
}

/// Frees a string. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn owlet_string_free(string: *mut owlet_string) {
    boundary::free(string);
}

/// `text` as C reads it: a NUL inside of it, which models can write, becomes U+FFFD.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).or_else(|_| CString::new(text.replace('\0', "\u{FFFD}"))).unwrap_or_default()
}

/// A pointer to `text`, or NULL.
pub(crate) fn pointer(text: Option<&CStr>) -> *const c_char {
    text.map_or(ptr::null(), CStr::as_ptr)
}
