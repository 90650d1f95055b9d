//! A C stream over bytes in memory.

use std::{
    fs::File,
    io::{Seek, Write},
    os::fd::{FromRawFd, IntoRawFd, OwnedFd},
    path::Path,
    ptr::NonNull,
};

use crate::{Error, Result};

/// A file without a name or a disk (`memfd_create`), open as a C stream at its start.
pub(super) struct MemoryFile(NonNull<libc::FILE>);

impl MemoryFile {
    /// A stream that reads `bytes`.
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        let failed = |source| Error::io("cannot make a file in memory", Path::new("memfd"), source);
        let last_error = || failed(std::io::Error::last_os_error());
        // By number: bionic has the function only from Android 11 on, the kernel has the call since 3.17.
        // SAFETY: the name is NUL-terminated; the call takes no other memory.
        let descriptor = unsafe { libc::syscall(libc::SYS_memfd_create, c"owlet-adapter".as_ptr(), libc::MFD_CLOEXEC) };
        let descriptor = i32::try_from(descriptor).ok().filter(|&descriptor| descriptor >= 0).ok_or_else(last_error)?;
        // SAFETY: the descriptor was just opened and has no other owner.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        file.write_all(bytes).and_then(|()| file.rewind()).map_err(failed)?;
        let descriptor = file.into_raw_fd();
        // SAFETY: the descriptor is open and its ownership goes to the stream; the mode is NUL-terminated.
        match NonNull::new(unsafe { libc::fdopen(descriptor, c"rb".as_ptr()) }) {
            Some(stream) => Ok(Self(stream)),
            None => {
                let error = last_error();
                // SAFETY: the stream was not made, so the descriptor is still ours.
                drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
                Err(error)
            }
        }
    }

    pub(super) fn as_ptr(&self) -> *mut libc::FILE {
        self.0.as_ptr()
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, closed once.
        unsafe { libc::fclose(self.0.as_ptr()) };
    }
}
