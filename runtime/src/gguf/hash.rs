//! The hash of a whole file: gigabytes, once, on all cores.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use sha2::{Digest, Sha256};

/// Bytes that a thread hashes at once.
const PIECE_BYTES: u64 = 4 << 20;
/// More threads than this wait for the disk.
const MAX_THREADS: usize = 8;

/// SHA-256 over the length and the SHA-256 of every piece of 4 MiB, in hexadecimal: as hard to fool as that of the whole, and
/// the pieces can be hashed side by side. `read` fills a buffer from an offset on.
///
/// # Errors
/// The first one of `read`.
pub(super) fn tree_hash(n_bytes: u64, read: &(dyn Fn(u64, &mut [u8]) -> io::Result<()> + Sync)) -> io::Result<String> {
    let n_pieces = n_bytes.div_ceil(PIECE_BYTES) as usize;
    let next = AtomicUsize::new(0);
    let digests = Mutex::new(vec![[0; 32]; n_pieces]);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES.min(n_bytes) as usize];
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= n_pieces {
                return Ok(());
            }
            let offset = piece as u64 * PIECE_BYTES;
            let bytes = &mut buffer[..PIECE_BYTES.min(n_bytes - offset) as usize];
            read(offset, bytes)?;
            let digest = Sha256::digest(bytes).into();
            digests.lock().unwrap_or_else(PoisonError::into_inner)[piece] = digest;
        }
    };
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS).min(n_pieces.max(1));
    thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, other| {
            result.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a thread that hashes ended early"))))
        })
    })?;
    let mut hasher = Sha256::new().chain_update(n_bytes.to_le_bytes());
    for digest in digests.into_inner().unwrap_or_else(PoisonError::into_inner) {
        hasher.update(digest);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> String {
        let read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        };
        tree_hash(bytes.len() as u64, &read).expect("memory can be read")
    }

    #[test]
    fn every_byte_counts_wherever_it_is() {
        let n = 2 * PIECE_BYTES as usize + 100;
        let mut bytes = vec![0; n];
        let whole = hash(&bytes);
        assert_eq!(whole, hash(&bytes));
        for place in [0, 5000, n / 2, PIECE_BYTES as usize - 1, PIECE_BYTES as usize, n - 1] {
            bytes[place] = 1;
            assert_ne!(hash(&bytes), whole, "{place}");
            bytes[place] = 0;
        }
        assert_ne!(hash(&bytes[..n - 1]), whole);
        assert_ne!(hash(&[]), hash(&[0]));
    }

    #[test]
    fn a_disk_that_fails_is_told() {
        let read = |offset: u64, _: &mut [u8]| if offset == 0 { Ok(()) } else { Err(io::Error::other("broken")) };
        assert_eq!(tree_hash(3 * PIECE_BYTES, &read).expect_err("it fails").to_string(), "broken");
    }
}
