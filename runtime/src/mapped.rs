//! Read-only memory maps: the one place where a file becomes a byte slice without being copied.

use std::{
    fmt,
    fs::{self, File},
    io,
    ops::Deref,
    path::Path,
};

use crate::{Error, ErrorKind, Result};

/// The bytes of a file, mapped read-only; pages are read when they are touched.
///
/// As with every memory map, another process that truncates the file while it is mapped ends this process with SIGBUS.
/// Owlet's own writers never do that: they write beside the file and rename (see [`crate::AtomicFile`]).
pub struct MappedFile {
    map: memmap2::Mmap,
    /// The same file, whatever has its name by now.
    file: File,
}

impl MappedFile {
    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// `NotFound` or `Io` when it cannot be opened or mapped, `InvalidFile` when it is a directory or a device.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io("cannot open file", path, source);
        // Before it is opened: a pipe would wait for a writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            let error = Error::new(ErrorKind::InvalidFile, "cannot open file").at(path.display());
            return Err(error.needed("a regular file"));
        }
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the map is read-only and private to this value. That nobody truncates or rewrites the file in place
        // meanwhile cannot be enforced by any call; it is the documented condition above.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        Ok(Self { map, file })
    }

    /// Fills `buffer` from `offset` on without touching the map: bytes that are needed once would stay in this process's
    /// memory as far as the system counts it.
    pub(crate) fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        {
            std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
        }
        #[cfg(not(unix))]
        {
            use io::{Read as _, Seek as _};
            let mut file = self.file.try_clone()?;
            // Handles that share a position: one reader at a time.
            static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.seek(io::SeekFrom::Start(offset))?;
            file.read_exact(buffer)
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({} bytes)", self.len())
    }
}
