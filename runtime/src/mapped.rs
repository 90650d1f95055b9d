//! Read-only memory maps: the one place where a file becomes a byte slice without being copied.

use std::{fmt, fs::File, ops::Deref, path::Path};

use crate::{Error, ErrorKind, Result};

/// The bytes of a file, mapped read-only; pages are read when they are touched.
///
/// As with every memory map, another process that truncates the file while it is mapped ends this process with SIGBUS.
/// Owlet's own writers never do that: they write beside the file and rename (see [`crate::AtomicFile`]).
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// `NotFound` or `Io` when it cannot be opened or mapped, `InvalidFile` when it is a directory or a device.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io("cannot open file", path, source);
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidFile, "cannot open file")
                .at(path.display())
                .needed("a regular file"));
        }
        // SAFETY: the map is read-only and private to this value. That nobody truncates or rewrites the file in place
        // meanwhile cannot be enforced by any call; it is the documented condition above.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        Ok(Self(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({} bytes)", self.len())
    }
}
