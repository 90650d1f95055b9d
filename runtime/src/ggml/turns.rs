//! Work that threads take in turn, so that one that is held up does not hold up the others.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What is left of the pieces `0..n` of one operation. Which thread gets which piece depends on their pace; what a piece
/// gives must not depend on the thread.
#[derive(Debug, Default)]
pub(super) struct Turns(AtomicUsize);

impl Turns {
    /// The next pieces of `0..n` for one of `n_threads` threads: many at first and fewer towards the end, `range` at a time
    /// as long as there are so many. `None` when all are taken.
    pub(super) fn take(&self, n: usize, n_threads: usize, range: Range<usize>) -> Option<Range<usize>> {
        let mut start = self.0.load(Ordering::Relaxed);
        loop {
            let left = n.checked_sub(start).filter(|&left| left > 0)?;
            // A thread that comes last at a piece of an eighth of what was left keeps the others waiting for no longer.
            let count = (left / (4 * n_threads)).clamp(range.start, range.end).min(left);
            match self.0.compare_exchange_weak(start, start + count, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(start..start + count),
                Err(now) => start = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_taken_once() {
        for (n, n_threads, range) in [(0, 1, 1..8), (1, 4, 1..8), (48, 2, 1..8), (1537, 3, 8..8), (7, 2, 8..8)] {
            let turns = Turns::default();
            let taken: Vec<_> = std::iter::from_fn(|| turns.take(n, n_threads, range.clone())).collect();
            assert!(taken.iter().all(|part| !part.is_empty() && part.len() <= range.end.max(range.start)));
            let pieces: Vec<_> = taken.into_iter().flatten().collect();
            assert_eq!(pieces, (0..n).collect::<Vec<_>>());
        }
    }
}
