//! A folder that one process at a time writes to.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::Path,
};

use owlet_runtime::{Error, ErrorKind, Result};

/// Holds the lock, and the number of the process that does; stays when the folder is free.
const NAME: &str = "lock";

/// The error `ENOLCK`, for which Rust has no kind: NFS gives it where the server keeps no locks.
const NO_LOCKS: Option<i32> = if cfg!(target_os = "linux") {
    Some(37)
} else if cfg!(target_vendor = "apple") {
    Some(77)
} else {
    None
};

/// The folder is ours until this is dropped or the process ends, however it ends: the lock is the system's, not the file.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "open as long as the lock is held")] File);

impl FolderLock {
    /// Takes `directory`, which exists.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] with the owner's process number if it is taken; [`ErrorKind::Io`].
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        let path = directory.join(NAME);
        let failed = |source| Error::io("cannot lock folder", &path, source);
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Where locks keep readers out, the owner stays unknown.
                let _ = file.read_to_string(&mut owner);
                let owner = if owner.trim().is_empty() { "another one" } else { owner.trim() };
                let error = Error::new(ErrorKind::Busy, "another process is at work in the folder");
                return Err(error.at(directory.display()).got(format!("process {owner}")));
            }
            // Some network folders have no locks: a run there is possible, with nobody to watch over it.
            Err(TryLockError::Error(source))
                if source.kind() == io::ErrorKind::Unsupported
                    || NO_LOCKS.is_some() && source.raw_os_error() == NO_LOCKS =>
            {
                tracing::warn!(path = %path.display(), "the folder cannot be locked");
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().expect("temporary directory");
        for _ in 0..2 {
            let lock = FolderLock::take(folder.path()).expect("free");
            let error = FolderLock::take(folder.path()).expect_err("taken");
            assert_eq!(error.kind(), ErrorKind::Busy);
            if cfg!(unix) {
                assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
            }
            drop(lock);
        }
    }
}
