//! What callers pass: pointers, lengths, strings and option structs, checked where they come in.

use std::{
    ffi::{CStr, c_char},
    path::PathBuf,
};

use owlet_runtime::{Error, ErrorKind, Result};

use crate::boundary::null;

/// Most elements of an array of handles, strings or structs: what is longer is a length that went wrong.
const MAX_ELEMENTS: usize = 1 << 20;

/// A string.
///
/// # Errors
/// `InvalidInput` for NULL and for what is not UTF-8.
///
/// # Safety
/// `text` is NULL or NUL-terminated and lives for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: by the contract above.
    unsafe { optional_text(text, name) }?.ok_or_else(|| null(name))
}

/// As [`text()`]; `None` for NULL.
///
/// # Errors
/// `InvalidInput` for what is not UTF-8.
///
/// # Safety
/// As [`text()`].
pub(crate) unsafe fn optional_text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by the contract above.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|error| {
        let place = format!("bytes that are no UTF-8 from place {}", error.valid_up_to());
        Error::new(ErrorKind::InvalidInput, "bad string").at(name).got(place).needed("UTF-8")
    })
}

/// A path: any bytes on Unix, UTF-8 elsewhere.
///
/// # Errors
/// `InvalidInput` for NULL, for an empty path, and for what is not UTF-8 elsewhere.
///
/// # Safety
/// As [`text()`].
pub(crate) unsafe fn path(path: *const c_char, name: &str) -> Result<PathBuf> {
    // SAFETY: by the contract above.
    unsafe { optional_path(path, name) }?.ok_or_else(|| null(name))
}

/// As [`path()`]; `None` for NULL.
///
/// # Errors
/// As [`path()`].
///
/// # Safety
/// As [`text()`].
pub(crate) unsafe fn optional_path(path: *const c_char, name: &str) -> Result<Option<PathBuf>> {
    if path.is_null() {
        return Ok(None);
    }
    #[cfg(unix)]
    let path = {
        // SAFETY: by the contract above.
        let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
        PathBuf::from(std::ffi::OsStr::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes)))
    };
    #[cfg(not(unix))]
    // SAFETY: by the contract above.
    let path = PathBuf::from(unsafe { text(path, name) }?);
    if path.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "empty path").at(name));
    }
    Ok(Some(path))
}

/// Bytes; none for a length of 0, whatever the pointer.
///
/// # Errors
/// `InvalidInput` for NULL with a length; `Limit` for more than `max` bytes, before any is read.
///
/// # Safety
/// `data` is NULL or points to `n` bytes that live for `'a`.
pub(crate) unsafe fn bytes<'a>(data: *const u8, n: usize, max: usize, name: &str) -> Result<&'a [u8]> {
    if n == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(name));
    }
    if n > max.min(isize::MAX as usize) {
        let error = Error::new(ErrorKind::Limit, "too many bytes").at(name).got(n);
        return Err(error.needed(format!("at most {max}")));
    }
    // SAFETY: by the contract above; the length is in range.
    Ok(unsafe { std::slice::from_raw_parts(data, n) })
}

/// An array; none for a length of 0, whatever the pointer.
///
/// # Errors
/// `InvalidInput` for NULL with a length and for a pointer that is not aligned; `Limit` for more than 2^20 elements.
///
/// # Safety
/// `data` is NULL or points to `n` values of `T`, which any bytes are, that live for `'a`.
pub(crate) unsafe fn array<'a, T: Copy>(data: *const T, n: usize, name: &str) -> Result<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(name));
    }
    if n > MAX_ELEMENTS {
        let error = Error::new(ErrorKind::Limit, "too many elements").at(name).got(n);
        return Err(error.needed(format!("at most {MAX_ELEMENTS}")));
    }
    if !data.is_aligned() {
        return Err(Error::new(ErrorKind::InvalidInput, "array is not aligned").at(name));
    }
    // SAFETY: by the contract above; the length is in range.
    Ok(unsafe { std::slice::from_raw_parts(data, n) })
}

/// A struct whose first field, a `size_t`, says how long the caller's version of it is. All bytes 0 is a value of it.
///
/// # Safety
/// Implementors are `#[repr(C)]`, begin with a `usize`, and any bytes are a value of them.
pub(crate) unsafe trait Versioned: Copy {
    /// Its name in C.
    const NAME: &'static str;
}

/// Implements [`Versioned`] for structs of numbers, raw pointers and optional functions.
macro_rules! versioned {
    ($($type:ident),+ $(,)?) => {$(
        // SAFETY: `#[repr(C)]` with `struct_size: usize` first; numbers, raw pointers and optional functions only.
        unsafe impl crate::input::Versioned for $type {
            const NAME: &'static str = stringify!($type);
        }
        const _: () = assert!(std::mem::offset_of!($type, struct_size) == 0);
    )+};
}
pub(crate) use versioned;

/// The caller's struct; fields that its version of the header did not have are 0. For NULL all of them are.
///
/// # Errors
/// `InvalidInput` for a `struct_size` that was not set, `Unsupported` for one of a newer header than this library.
///
/// # Safety
/// `options` is NULL or points to as many bytes as its `struct_size` says.
pub(crate) unsafe fn options<T: Versioned>(options: *const T) -> Result<T> {
    // SAFETY: by the contract above.
    unsafe { versioned_struct(options) }.map(|options| options.unwrap_or_else(zeroed))
}

/// As [`options`], which must not be NULL.
///
/// # Errors
/// As [`options`]; `InvalidInput` for NULL.
///
/// # Safety
/// As [`options`].
pub(crate) unsafe fn required<T: Versioned>(value: *const T) -> Result<T> {
    // SAFETY: by the contract above.
    unsafe { versioned_struct(value) }?.ok_or_else(|| null(T::NAME))
}

unsafe fn versioned_struct<T: Versioned>(value: *const T) -> Result<Option<T>> {
    if value.is_null() {
        return Ok(None);
    }
    // SAFETY: by the contract of the callers.
    let size = unsafe { checked_size(value) }?;
    let mut copy = zeroed::<T>();
    // SAFETY: the caller's struct has `size` bytes, which is at most what `T` has.
    unsafe { std::ptr::copy_nonoverlapping(value.cast::<u8>(), (&raw mut copy).cast::<u8>(), size) };
    Ok(Some(copy))
}

/// Writes as much of `value` to the caller's struct as it has room for; its `struct_size` stays.
///
/// # Errors
/// As [`required`].
///
/// # Safety
/// As [`required`], and the bytes may be written.
pub(crate) unsafe fn fill<T: Versioned>(out: *mut T, value: T) -> Result<()> {
    if out.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: by the contract above.
    let size = unsafe { checked_size(out) }?;
    let rest = size - size_of::<usize>();
    // SAFETY: both structs have `size` bytes, of which the first `usize` is left out; the pointers are of different objects.
    unsafe {
        let from = (&raw const value).cast::<u8>().add(size_of::<usize>());
        std::ptr::copy_nonoverlapping(from, out.cast::<u8>().add(size_of::<usize>()), rest);
    }
    Ok(())
}

/// `struct_size` of `value`, in range.
unsafe fn checked_size<T: Versioned>(value: *const T) -> Result<usize> {
    // SAFETY: every struct of this kind begins with its size; the caller's may lie anywhere.
    let size = unsafe { value.cast::<usize>().read_unaligned() };
    let (least, most) = (size_of::<usize>(), size_of::<T>());
    if size > most {
        let error =
            Error::new(ErrorKind::Unsupported, "struct of another version of owlet.h, or `struct_size` not set");
        return Err(error.at(T::NAME).got(format!("{size} bytes")).needed(format!("at most {most}")));
    }
    if size < least {
        let error = Error::new(ErrorKind::InvalidInput, "`struct_size` is not set").at(T::NAME).got(size);
        return Err(error.needed(format!("sizeof({})", T::NAME)));
    }
    Ok(size)
}

/// All bytes 0, but for the size.
pub(crate) fn zeroed<T: Versioned>() -> T {
    // SAFETY: any bytes are a value of a versioned struct.
    let mut value: T = unsafe { std::mem::zeroed() };
    // SAFETY: it begins with its size.
    unsafe { (&raw mut value).cast::<usize>().write(size_of::<T>()) };
    value
}

/// Structs in an array, whose stride is the `struct_size` of the first.
///
/// # Errors
/// As [`required`] and [`array`]; `InvalidInput` where sizes differ.
///
/// # Safety
/// `first` is NULL or points to `n` structs of the same `struct_size`.
pub(crate) unsafe fn structs<T: Versioned>(first: *const T, n: usize, name: &str) -> Result<Vec<T>> {
    // SAFETY: by the contract above; bytes are not looked at here.
    unsafe { array(first.cast::<u8>(), n, name) }?;
    if n == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: by the contract above.
    let size = unsafe { checked_size(first) }?;
    let element = |index: usize| {
        // SAFETY: by the contract above, there are `n` structs of `size` bytes.
        let value = unsafe { required(first.byte_add(index * size)) }?;
        // SAFETY: as above.
        if unsafe { checked_size(first.byte_add(index * size)) }? != size {
            return Err(Error::new(ErrorKind::InvalidInput, "structs of different `struct_size`").at(name));
        }
        Ok(value)
    };
    (0..n).map(element).collect()
}

/// One of the values of an enum.
///
/// # Errors
/// `InvalidInput` for a number that stands for none.
pub(crate) fn pick<T: Copy>(name: &str, number: u32, values: &[(u32, T)]) -> Result<T> {
    let found = values.iter().find(|(known, _)| *known == number).map(|&(_, value)| value);
    found.ok_or_else(|| {
        let known: Vec<_> = values.iter().map(|(number, _)| number.to_string()).collect();
        let error = Error::new(ErrorKind::InvalidInput, "number that stands for nothing").at(name).got(number);
        error.needed(format!("one of {}", known.join(", ")))
    })
}

/// `number`, or `default` for 0.
pub(crate) fn or<T: Default + PartialEq>(number: T, default: T) -> T {
    if number == T::default() { default } else { number }
}

/// A size in bytes.
///
/// # Errors
/// `Limit` for more than this machine can address.
pub(crate) fn size(number: u64, name: &str) -> Result<usize> {
    usize::try_from(number).map_err(|_| Error::new(ErrorKind::Limit, "number too large").at(name).got(number))
}
