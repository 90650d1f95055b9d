//! What a task of attention works on.

use std::ops::Range;

use super::{super::product::ROWS, BATCH, Branches};

/// Queries of one sequence, those of the heads that share keys side by side.
#[derive(Debug)]
pub(super) struct QueryPanel {
    /// The head of the keys.
    pub head: usize,
    /// Token, relative to the first of the batch, and query head of every lane, at most [`ROWS`].
    pub lanes: Vec<(usize, usize)>,
    /// Keys of its sequence that each lane sees; those of the first are the fewest.
    pub n_visible: Vec<usize>,
    /// Keys that the last lane sees, in order; one stretch or two.
    pub keys: [Range<usize>; 2],
}

/// Keys of one sequence, at most [`ROWS`].
#[derive(Debug)]
pub(super) struct KeyPanel {
    pub head: usize,
    /// Tokens of the batch whose keys they are.
    pub tokens: Range<usize>,
    /// Tokens that see them, or some of them.
    pub queries: Range<usize>,
}

/// The panels of all queries.
pub(super) fn query_panels(branches: &Branches, n_head: usize, n_head_kv: usize) -> Vec<QueryPanel> {
    let n_sharing = n_head / n_head_kv;
    let mut panels = Vec::new();
    for head in 0..n_head_kv {
        for (tokens, n_prefix) in sequences(branches) {
            let n_rows = tokens.len() * n_sharing;
            for first in (0..n_rows).step_by(ROWS) {
                let rows = first..(first + ROWS).min(n_rows);
                let lanes =
                    rows.clone().map(|row| (tokens.start + row / n_sharing, head * n_sharing + row % n_sharing));
                let n_visible: Vec<_> = rows.map(|row| n_prefix + row / n_sharing + 1).collect();
                let n_last = n_visible.last().copied().unwrap_or(0);
                let own = branches.n_frozen + tokens.start;
                // Keys of the common beginning follow the frozen ones.
                let keys = match own == n_prefix {
                    true => [0..n_last, 0..0],
                    false => [0..n_prefix, own..own + n_last - n_prefix],
                };
                panels.push(QueryPanel { head, lanes: lanes.collect(), n_visible, keys });
            }
        }
    }
    panels
}

/// The panels of all keys of the batch.
pub(super) fn key_panels(branches: &Branches, n_head_kv: usize) -> Vec<KeyPanel> {
    let mut panels = Vec::new();
    for head in 0..n_head_kv {
        for (tokens, _) in sequences(branches) {
            // The tokens of all branches see the common beginning.
            let end = if tokens.start < branches.n_common { branches.n_tokens() } else { tokens.end };
            for first in tokens.clone().step_by(ROWS) {
                let tokens = first..(first + ROWS).min(tokens.end);
                panels.push(KeyPanel { head, tokens, queries: first..end });
            }
        }
    }
    panels
}

/// Cuts `range` at the multiples of [`BATCH`].
pub(super) fn batches(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let indices = range.start / BATCH..range.end.div_ceil(BATCH);
    let cut = move |index: usize| range.start.max(index * BATCH)..range.end.min((index + 1) * BATCH);
    indices.map(cut).filter(|batch| !batch.is_empty())
}

/// Tokens of the common beginning and of each branch, and keys that all of them see.
fn sequences(branches: &Branches) -> impl Iterator<Item = (Range<usize>, usize)> {
    let Branches { n_frozen, n_common, .. } = *branches;
    let ends = branches.lengths.iter().scan(n_common, move |end, length| {
        *end += length;
        Some((*end - length..*end, n_frozen + n_common))
    });
    std::iter::once((0..n_common, n_frozen)).chain(ends).filter(|(tokens, _)| !tokens.is_empty())
}
