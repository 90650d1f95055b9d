//! A file that is not whole yet: its bytes, what it will be of, and their running hash.
//!
//! The name of the part holds a digest of what identifies the content on the server, so bytes of two versions never meet
//! in one file, and a crash at any point leaves either a part that can be continued or one that is thrown away.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

/// Digits of the digest in the name.
const KEY_DIGITS: usize = 16;

/// A part, which nobody else writes to meanwhile.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    key: String,
    n_bytes: u64,
    hasher: Sha256,
    /// Whether its first bytes are of an earlier run.
    pub(super) from_before: bool,
}

/// The digest that stands for an identity of content.
pub(super) fn key_of(identity: &str) -> String {
    hexadecimal(&Sha256::digest(identity))[..KEY_DIGITS].to_owned()
}

impl Part {
    /// The newest part of `target` that an earlier run left, if any.
    ///
    /// # Errors
    /// `Busy` when another process is at it, `Io`, `Cancelled`.
    pub(super) fn find(target: &Path, cancel: &CancelToken) -> Result<Option<Self>> {
        let Some((key, _)) = newest(target)? else { return Ok(None) };
        let mut part = Self::open(target, &key)?;
        let failed = |source| Error::io("cannot read part", &part.path, source);
        // All but the last byte, so that a part that is whole is asked for as well: the answer tells that it is.
        let kept = part.file.metadata().map_err(failed)?.len().saturating_sub(1);
        part.file.set_len(kept).map_err(failed)?;
        part.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut piece = vec![0; 1 << 20];
        loop {
            cancel.check()?;
            let n = part.file.read(&mut piece).map_err(failed)?;
            if n == 0 {
                break;
            }
            part.hasher.update(&piece[..n]);
        }
        part.n_bytes = kept;
        part.from_before = true;
        Ok(Some(part))
    }

    /// An empty part of the content with `key`; what was there is thrown away.
    ///
    /// # Errors
    /// `Busy` when another process is at it, `NotFound` or `Io` when the folder takes no file.
    pub(super) fn create(target: &Path, key: &str) -> Result<Self> {
        let part = Self::open(target, key)?;
        part.file.set_len(0).map_err(|source| Error::io("cannot write part", &part.path, source))?;
        Ok(part)
    }

    fn open(target: &Path, key: &str) -> Result<Self> {
        let (folder, prefix) = place(target)
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "not the name of a file").at(target.display()))?;
        let path = folder.join(format!("{prefix}{key}.part"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| Error::io("cannot write part", &path, source))?;
        if !lock(&file, &path)? {
            return Err(Error::new(ErrorKind::Busy, "another process downloads the same file").at(target.display()));
        }
        Ok(Self { file, path, key: key.to_owned(), n_bytes: 0, hasher: Sha256::new(), from_before: false })
    }

    /// Where the bytes are.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of what it is of.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Bytes so far.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Whether a later call may go on with it: some bytes, of content that can be recognised.
    pub(super) fn can_go_on(&self) -> bool {
        self.n_bytes > 0 && self.key != key_of("")
    }

    /// Appends.
    ///
    /// # Errors
    /// `Io`, of which a full disk is one.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| Error::io("cannot write part", &self.path, source))?;
        self.hasher.update(bytes);
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }

    /// SHA-256 of the bytes so far, in hexadecimal.
    pub(super) fn sha256(&self) -> String {
        hexadecimal(&self.hasher.clone().finalize())
    }

    /// Gives the whole file its name, once it is on the disk. Only `force` takes the place of another file.
    ///
    /// # Errors
    /// `InvalidInput` for a file that appeared in the place meanwhile, `Io`; the part stays.
    pub(super) fn commit(self, target: &Path, force: bool) -> Result<()> {
        let failed = |source| Error::io("cannot write file", target, source);
        self.file.sync_all().map_err(failed)?;
        if !force && target.exists() {
            return Err(in_the_place(target));
        }
        fs::rename(&self.path, target).map_err(failed)
    }

    /// Throws it away.
    pub(super) fn remove(self) {
        // One that stays costs room and nothing else: its bytes are checked again before they get a name.
        let _ = fs::remove_file(&self.path);
    }
}

/// The key and the length of the newest part of `target`, if there is any.
///
/// # Errors
/// `Io`.
pub(super) fn newest(target: &Path) -> Result<Option<(String, u64)>> {
    let Some((folder, prefix)) = place(target) else { return Ok(None) };
    let entries = fs::read_dir(folder).map_err(|source| Error::io("cannot read folder", folder, source))?;
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let key = name.strip_prefix(&prefix)?.strip_suffix(".part")?.to_owned();
        let metadata = entry.metadata().ok()?;
        (key.len() == KEY_DIGITS && metadata.is_file() && metadata.len() > 1).then_some((
            metadata.modified().ok()?,
            key,
            metadata.len(),
        ))
    });
    Ok(found.max().map(|(_, key, n_bytes)| (key, n_bytes)))
}

/// What is told where a file stands that is not to be replaced.
pub(super) fn in_the_place(target: &Path) -> Error {
    let error = Error::new(ErrorKind::InvalidInput, "another file is in the place").at(target.display());
    error.needed("another folder by --out, or leave to replace it by --force")
}

/// Locks `file`, which was opened at `path`; whether it is ours now. It is not when another process has it, nor when one
/// renamed or removed it between our opening and our locking: then `file` may be the finished one.
fn lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(source)) => return Err(Error::io("cannot lock part", path, source)),
    }
    let failed = |source| Error::io("cannot read part", path, source);
    match fs::metadata(path) {
        Ok(there) => Ok(is_same_file(&there, &file.metadata().map_err(failed)?)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(unix)]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere the standard library tells no identity; two parts of one moment and length are as good as one.
#[cfg(not(unix))]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    (a.len(), a.created().ok()) == (b.len(), b.created().ok())
}

/// The folder that `target` is or will be in.
pub(super) fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder of `target`, and what the names of its parts begin with.
fn place(target: &Path) -> Option<(&Path, String)> {
    Some((folder_of(target), format!(".{}.", target.file_name()?.to_str()?)))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// `NotFound`, `Io`, `Cancelled`.
pub(super) fn sha256_of(path: &Path, cancel: &CancelToken) -> Result<String> {
    let failed = |source| Error::io("cannot read file", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        cancel.check()?;
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            n => hasher.update(&piece[..n]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_another_process_took_away_meanwhile_is_not_ours() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, target) = (folder.path().join(".a.part"), folder.path().join("a"));
        let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path).expect("opens");
        let ours = open();
        assert!(lock(&ours, &path).expect("looks"));
        assert!(!lock(&open(), &path).expect("looks"), "the first has it");
        drop(ours);

        let late = open();
        fs::rename(&path, &target).expect("another process finished it");
        assert!(!lock(&late, &path).expect("looks"), "it is the finished file");
        drop(late);

        let late = open();
        fs::remove_file(&path).expect("another process threw it away");
        let _fresh = open();
        assert!(!lock(&late, &path).expect("looks"), "it has no name any more");
    }
}
