//! Files that appear whole or not at all: written to a temporary sibling, then renamed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{Error, ErrorKind, Result};

/// What names of files under construction begin and end with.
const PREFIX: &str = ".owlet-";
const SUFFIX: &str = ".part";

/// A file under construction. [`AtomicFile::commit`] gives it its name; dropping it removes it.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl AtomicFile {
    /// Starts the file that will be `target`; the temporary sibling is in the same directory, which must exist.
    ///
    /// # Errors
    /// `NotFound` or `Io` when the directory does not take a new file, `InvalidInput` when `target` is a directory.
    pub fn create(target: &Path) -> Result<Self> {
        let what = "cannot write file";
        if target.is_dir() || target.file_name().is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, what).at(target.display()).got("a directory"));
        }
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // tempfile's default of 0600 would stay on the final file; the umask narrows this one as for any new file.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(directory).map_err(|source| Error::io(what, target, source))?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// Whether `name` is one of a file under construction; a process that was killed leaves it behind.
    pub fn is_temporary(name: &str) -> bool {
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    }

    /// Where the bytes are until the commit, for writers that want a path.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// Flushes to the disk and renames to the target, replacing an older file of that name.
    ///
    /// # Errors
    /// `Io` when the disk is full or the rename is refused; the temporary file is then removed.
    pub fn commit(self) -> Result<()> {
        let failed = |source| Error::io("cannot write file", &self.target, source);
        self.temporary.as_file().sync_all().map_err(failed)?;
        self.temporary.persist(&self.target).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

impl io::Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("readable");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_committed_file_replaces_the_old_one() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let target = directory.path().join("a.bin");
        fs::write(&target, b"old").expect("writable");
        let mut file = AtomicFile::create(&target).expect("created");
        file.write_all(b"new").expect("written");
        assert_eq!(fs::read(&target).expect("readable"), b"old");
        file.commit().expect("committed");
        assert_eq!(fs::read(&target).expect("readable"), b"new");
        assert_eq!(names(directory.path()), ["a.bin"]);
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        drop(AtomicFile::create(&directory.path().join("a.bin")).expect("created"));
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_missing_directory_and_a_directory_as_target_are_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let missing = AtomicFile::create(&directory.path().join("no/a.bin")).expect_err("refused");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(AtomicFile::create(directory.path()).expect_err("refused").kind(), ErrorKind::InvalidInput);
    }
}
