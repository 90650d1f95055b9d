//! Prefixes on disk, of the engine and of the sampler's sessions: one file each, named by its key.
//!
//! `OWLETKV1`, the key, the number of values as u64, their SHA-256, the values (f32, or bytes of sessions); all little-endian. Whatever is not
//! exactly that is as good as no file: the caller computes again and writes over it.

use std::{
    fs,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytemuck::Pod;
use owlet_runtime::{AtomicFile, Error, PromptStore, Result};
use sha2::{Digest, Sha256};

use super::prefix::PrefixKey;

const MAGIC: &[u8; 8] = b"OWLETKV1";
/// Bytes in front of the values.
const PREAMBLE: usize = MAGIC.len() + 32 /* key */ + 8 /* number */ + 32 /* digest */;
const EXTENSION: &str = "kv";
/// Time without a write after which a file under construction is nobody's any more; a whole one takes seconds.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Where the prefix with `key` is in `directory`.
pub(super) fn path(directory: &Path, key: PrefixKey) -> PathBuf {
    directory.join(format!("{key}.{EXTENSION}"))
}

/// What sessions keep in a folder, beside the engine's.
pub(crate) struct PromptFolder {
    pub(crate) directory: PathBuf,
    /// Of all files in it.
    pub(crate) max_bytes: u64,
}

impl PromptStore for PromptFolder {
    fn load(&self, key: &[u8; 32]) -> Option<Vec<u8>> {
        let path = path(&self.directory, PrefixKey(*key));
        let n_bytes = fs::metadata(&path).ok()?.len().checked_sub(PREAMBLE as u64)?;
        read(&path, PrefixKey(*key), usize::try_from(n_bytes).ok()?)
    }

    fn store(&self, key: &[u8; 32], bytes: &[u8]) {
        if let Err(error) = write(&self.directory, PrefixKey(*key), bytes, self.max_bytes) {
            tracing::warn!(%error, "cannot keep keys and values of a prompt");
        }
    }
}

/// The values in the file at `path`, if it is whole, of `key`, and has `n_values` of them.
pub(super) fn read<T: Pod>(path: &Path, key: PrefixKey, n_values: usize) -> Option<Vec<T>> {
    let file = fs::File::open(path).ok()?;
    let n_bytes = file.metadata().ok()?.len();
    match read_from(&mut BufReader::new(file), n_bytes, key, n_values) {
        Ok(Some(values)) => Some(values),
        outcome => {
            let reason = outcome.err().map_or_else(|| "not what was written".to_owned(), |error| error.to_string());
            tracing::warn!(path = %path.display(), reason, "keys and values of a prompt are computed again");
            None
        }
    }
}

fn read_from<T: Pod>(
    input: &mut impl Read,
    n_bytes: u64,
    key: PrefixKey,
    n_values: usize,
) -> io::Result<Option<Vec<T>>> {
    let expected = header(key, n_values);
    let mut found = vec![0; expected.len()];
    let mut digest = [0; 32];
    // The length first: nothing is allocated for what a damaged file claims.
    if n_bytes != (expected.len() + digest.len() + n_values * size_of::<T>()) as u64 {
        return Ok(None);
    }
    input.read_exact(&mut found)?;
    input.read_exact(&mut digest)?;
    if found != expected {
        return Ok(None);
    }
    let mut values = vec![T::zeroed(); n_values];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
    input.read_exact(bytes)?;
    let is_whole = <[u8; 32]>::from(Sha256::digest(&*bytes)) == digest;
    to_little_endian::<T>(bytes);
    Ok(is_whole.then_some(values))
}

/// Writes `values` into `directory`, which is made if it is missing, beside the file's place and renamed. The oldest files
/// go until all have at most `max_bytes`.
///
/// # Errors
/// `Io`.
pub(super) fn write<T: Pod>(directory: &Path, key: PrefixKey, values: &[T], max_bytes: u64) -> Result<()> {
    let failed = |source| Error::io("cannot write keys and values", directory, source);
    fs::create_dir_all(directory).map_err(failed)?;
    let header = header(key, values.len());
    let n_bytes = (header.len() + 32 + size_of_val(values)) as u64;
    if n_bytes > max_bytes {
        return Ok(());
    }
    make_room(directory, max_bytes - n_bytes).map_err(failed)?;
    let mut bytes = bytemuck::cast_slice(values).to_vec();
    to_little_endian::<T>(&mut bytes);
    let mut output = BufWriter::new(AtomicFile::create(&path(directory, key))?);
    [&header, Sha256::digest(&bytes).as_slice(), &bytes]
        .iter()
        .try_for_each(|part| output.write_all(part))
        .map_err(failed)?;
    output.into_inner().map_err(|error| failed(error.into_error()))?.commit()
}

/// Turns values of type `T` from this processor's order of bytes to the file's, or back.
fn to_little_endian<T>(bytes: &mut [u8]) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
    }
}

fn header(key: PrefixKey, n_values: usize) -> Vec<u8> {
    [&MAGIC[..], &key.0, &(n_values as u64).to_le_bytes()].concat()
}

/// Removes the oldest files until the rest have at most `max_bytes`, and what killed processes left half written.
fn make_room(directory: &Path, max_bytes: u64) -> io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    // Of files that others are writing just now.
    let mut n_bytes = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_part = is_part(&path);
        let is_ours = is_part || path.extension().is_some_and(|extension| extension == EXTENSION);
        // Files of others, and ones that another process removes meanwhile, do not count.
        let Some(metadata) = fs::metadata(&path).ok().filter(|_| is_ours) else { continue };
        let modified = metadata.modified()?;
        if !is_part {
            files.push((modified, metadata.len(), path));
        } else if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
            remove(&path)?;
        } else {
            n_bytes += metadata.len();
        }
    }
    files.sort();
    n_bytes += files.iter().map(|(_, n_bytes, _)| n_bytes).sum::<u64>();
    for (_, length, path) in files {
        if n_bytes <= max_bytes {
            break;
        }
        remove(&path)?;
        n_bytes -= length;
    }
    Ok(())
}

/// Whether `path` is named as [`AtomicFile`] names files under construction.
fn is_part(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(".owlet-") && name.ends_with(".part"))
}

/// Removes a file that another process may remove as well.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use owlet_runtime::EncodedPrompt;

    use super::*;

    fn key(token: i32) -> PrefixKey {
        PrefixKey::of("", &EncodedPrompt::from_tokens(vec![token]))
    }

    #[test]
    fn a_file_gives_back_its_values_to_the_bit_and_only_whole() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let directory = folder.path().join("made/on/demand");
        let values = [1.0f32, -0.0, f32::MIN_POSITIVE / 2.0, 3.5e8];
        write(&directory, key(1), &values, u64::MAX).expect("written");
        let path = path(&directory, key(1));
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(read(&path, key(1), 4).map(bits), Some(bits(values.to_vec())));
        assert_eq!(read::<f32>(&path, key(2), 4), None, "of another prompt");
        assert_eq!(read::<f32>(&path, key(1), 3), None, "of another length");
        assert_eq!(read::<f32>(&directory.join("missing"), key(1), 4), None);

        let whole = fs::read(&path).expect("readable");
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x10;
            fs::write(&path, &damaged).expect("writable");
            assert_eq!(read::<f32>(&path, key(1), 4), None, "byte {index}");
            fs::write(&path, &whole[..index]).expect("writable");
            assert_eq!(read::<f32>(&path, key(1), 4), None, "{index} bytes");
        }
        write(&directory, key(1), &values, u64::MAX).expect("written over");
        assert_eq!(fs::read(&path).expect("readable"), whole);
    }

    #[test]
    fn the_folder_stays_within_its_bytes_and_keeps_what_is_not_ours() {
        let folder = tempfile::tempdir().expect("temporary directory");
        fs::write(folder.path().join("notes.txt"), [0; 5000]).expect("writable");
        // 80 bytes before the values.
        let max_bytes = 2 * (80 + 400);
        for token in 0..4 {
            write(folder.path(), key(token), &[0.0f32; 100], max_bytes).expect("written");
        }
        let n_files = fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(n_files, 3, "two prefixes and the notes");
        assert!(read::<f32>(&path(folder.path(), key(3)), key(3), 100).is_some(), "the newest is there");
        write(folder.path(), key(9), &[0.0f32; 1000], max_bytes).expect("left out");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), n_files);
    }

    #[test]
    fn what_killed_processes_left_goes_and_what_others_write_counts() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let file = |name: &str, age: Duration| {
            let path = folder.path().join(name);
            fs::write(&path, [0; 480]).expect("writable");
            let file = fs::File::options().write(true).open(&path).expect("just written");
            file.set_modified(SystemTime::now() - age).expect("a clock");
            path
        };
        let (young, old) = (file(".owlet-a.part", Duration::ZERO), file(".owlet-b.part", 2 * ABANDONED));
        for token in 0..2 {
            write(folder.path(), key(token), &[0.0f32; 100], 2 * 480).expect("written");
        }
        assert!(young.exists() && !old.exists());
        assert!(!path(folder.path(), key(0)).exists() && path(folder.path(), key(1)).exists());
    }
}
