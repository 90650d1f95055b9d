//! Which library this is.

use std::ffi::{CStr, c_char};

/// The version of the library that is loaded, such as "0.1.0". Compare it with OWLET_VERSION, that of the header. The string
/// is static. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn owlet_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version with a NUL"),
    };
    VERSION.as_ptr()
}

/// The version of the library that is loaded as one number, as OWLET_VERSION_NUMBER of the header: 10000 times the major
/// version, 100 times the minor one, and the patch. May be called from any thread.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn owlet_version_number() -> u32 {
    const NUMBER: u32 = 10_000 * digits(env!("CARGO_PKG_VERSION_MAJOR"))
        + 100 * digits(env!("CARGO_PKG_VERSION_MINOR"))
        + digits(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

const fn digits(text: &str) -> u32 {
    match u32::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("cargo gives a number"),
    }
}
