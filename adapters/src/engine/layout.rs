//! How the tokens of a group lie in memory: the prompt once, then the completions one after the other without padding.
//!
//! Linear layers see all T tokens as one batch, and so does attention on the CPU. On other devices it works in blocks of
//! queries: [`Block`]s of the prompt, and blocks that take the same stretch of several completions side by side, padded to the
//! longest. Keys of a completion are the prompt's, which all share, and its own.
//!
//! Keys and values of the first tokens of the prompt may be given instead of computed: such frozen tokens have no place in
//! the batch. Keys are numbered with the frozen ones first, then the batch.
//!
//! The last token of a completion predicts nothing, so it is left out: a completion of C tokens takes C - 1 places, and
//! its first token is predicted by the last token of the prompt.

use std::{ops::Range, sync::Arc};

use owlet_runtime::ggml::Branches;

use super::family::Decoder;

/// Rows of packed matrix operands come in multiples of this where padding is free.
pub(super) const KEY_MULTIPLE: usize = 16;
const QUERY_MULTIPLE: usize = 4;

/// Queries of one sequence in a block. Keys behind the last query of a block are left out of it, so a long prompt costs
/// little more than the half of its scores that count.
const MAX_QUERIES: usize = 128;

/// Where the tokens of a group lie, and the blocks in which they attend.
pub(super) struct Layout {
    /// Tokens of the prompt before the batch.
    pub n_frozen: usize,
    /// Tokens of the prompt in the batch.
    pub n_prompt: usize,
    /// Length T of the packed batch.
    pub n_tokens: usize,
    /// The same for attention.
    pub branches: Arc<Branches>,
    /// Blocks of attention, where the device has none of our own; else empty. In the order in which gradients of keys must be
    /// added up: for every key, the block that sees all keys of its sequence comes first.
    pub blocks: Vec<Block>,
}

/// Queries that attend together: `n` sequences, `n_queries` each, over `n_keys` keys each, both padded.
pub(super) struct Block {
    pub sequences: Vec<Sequence>,
    /// Leading keys that are frozen.
    pub n_frozen: usize,
    /// Leading keys that are the prompt's, seen by all queries: the frozen ones and, for completions, those in the batch.
    pub n_prefix: usize,
    /// Place inside its sequence of the first query.
    pub first_query: usize,
    /// Queries of each sequence, padded.
    pub n_queries: usize,
    /// Keys of each sequence, padded.
    pub n_keys: usize,
}

/// The part of a sequence that a block works on, as places in the packed batch.
pub(super) struct Sequence {
    pub queries: Range<usize>,
    /// Keys of its own, without the shared prefix.
    pub keys: Range<usize>,
    /// Whether these are all the keys of the sequence; true in its first block.
    pub sees_all: bool,
}

impl Layout {
    /// Lays out a prompt of `n_prompt` tokens behind `n_frozen` others and completions of `lengths` tokens, all but the
    /// frozen ones at least 1, without blocks.
    pub(super) fn new(n_frozen: usize, n_prompt: usize, lengths: &[usize]) -> Self {
        let lengths = lengths.iter().map(|length| length - 1).collect();
        let branches = Branches { n_frozen, n_common: n_prompt, lengths };
        Self { n_frozen, n_prompt, n_tokens: branches.n_tokens(), branches: Arc::new(branches), blocks: Vec::new() }
    }

    /// The same with attention in blocks of at most `max_scores` scores, where that is possible.
    pub(super) fn with_blocks(self, decoder: &Decoder, max_scores: usize) -> Self {
        let Self { n_frozen, n_prompt, .. } = self;
        let mut cutter = Cutter { blocks: Vec::new(), n_frozen, n_head: decoder.n_head, max_scores };
        cutter.add(std::slice::from_ref(&(0..n_prompt)), n_frozen);
        let starts = self.branches.lengths.iter().scan(n_prompt, |end, length| {
            *end += length;
            Some(*end - length..*end)
        });
        cutter.add(&starts.collect::<Vec<_>>(), n_frozen + n_prompt);
        Self { blocks: cutter.blocks, ..self }
    }

    /// Rows of the last hidden states that predict tokens: the last one of the prompt, and all of the completions.
    pub(super) fn predicting(&self) -> Range<usize> {
        self.n_prompt - 1..self.n_tokens
    }
}

impl Block {
    /// Places of the queries in the packed batch, `[n_queries]` for each sequence; padding repeats the last query.
    pub(super) fn query_rows(&self) -> Vec<i32> {
        let rows = |sequence: &Sequence| {
            let Range { start, end } = sequence.queries;
            (start..start + self.n_queries).map(move |row| row.min(end - 1) as i32)
        };
        self.sequences.iter().flat_map(rows).collect()
    }

    /// Numbers of the keys, `[n_keys]` for each sequence: prefix, own, padding.
    pub(super) fn key_rows(&self) -> Vec<i32> {
        let rows = |sequence: &Sequence| {
            let Range { start, end } = sequence.keys;
            let own = (start..start + self.n_keys - self.n_prefix).map(move |row| self.n_frozen + row.min(end - 1));
            (0..self.n_prefix).chain(own).map(|row| row as i32)
        };
        self.sequences.iter().flat_map(rows).collect()
    }

    /// What is added to the scores, `[n_queries, n_keys]`: 0 where the query may look, else minus infinity. It also hides
    /// the padding: padded keys lie behind every query that exists.
    pub(super) fn mask(&self) -> Vec<f32> {
        let row = |query: usize| {
            let n_visible = self.n_prefix + self.first_query + query + 1;
            (0..self.n_keys).map(move |key| if key < n_visible { 0.0 } else { f32::NEG_INFINITY })
        };
        (0..self.n_queries).flat_map(row).collect()
    }

    /// 1 for every query that exists and 0 for padding, `[n_queries]` for each sequence; `None` without padding.
    pub(super) fn existing_queries(&self) -> Option<Vec<f32>> {
        let exists = |sequence: &Sequence| {
            let n = sequence.queries.len();
            (0..self.n_queries).map(move |query| if query < n { 1.0 } else { 0.0 })
        };
        let is_padded = self.sequences.iter().any(|sequence| sequence.queries.len() < self.n_queries);
        is_padded.then(|| self.sequences.iter().flat_map(exists).collect())
    }
}

/// Cuts sequences into blocks.
struct Cutter {
    blocks: Vec<Block>,
    n_frozen: usize,
    n_head: usize,
    max_scores: usize,
}

impl Cutter {
    /// Adds `sequences`, which share `n_prefix` keys: side by side while they fit, along the queries where one alone does
    /// not.
    fn add(&mut self, sequences: &[Range<usize>], n_prefix: usize) {
        let longest = sequences.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        if longest == 0 {
            return;
        }
        let n_keys = (n_prefix + longest).next_multiple_of(KEY_MULTIPLE);
        let n_rows = (self.max_scores / (n_keys * self.n_head)).max(KEY_MULTIPLE);
        let n_queries = n_rows.min(longest).min(MAX_QUERIES);
        let n_sequences = (n_rows / longest).max(1);
        for group in sequences.chunks(n_sequences) {
            let longest = group.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
            for first_query in (0..longest).step_by(n_queries).rev() {
                let end = (first_query + n_queries).min(longest);
                let part = |sequence: &Range<usize>| {
                    let length = sequence.len().min(end);
                    let queries = sequence.start + first_query.min(length)..sequence.start + length;
                    let sees_all = length == sequence.len();
                    Sequence { queries, keys: sequence.start..sequence.start + length, sees_all }
                };
                // A sequence that has ended before these queries takes no part; its own last part saw all its keys.
                let sequences: Vec<_> = group.iter().map(part).filter(|part| !part.queries.is_empty()).collect();
                self.blocks.push(Block {
                    sequences,
                    n_frozen: self.n_frozen,
                    n_prefix,
                    first_query,
                    n_queries: (end - first_query).next_multiple_of(QUERY_MULTIPLE),
                    n_keys: (n_prefix + end).next_multiple_of(KEY_MULTIPLE),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which keys every query of the packed batch attends to, read off the blocks as attention does.
    fn visible(layout: &Layout) -> Vec<Vec<usize>> {
        let mut visible = vec![Vec::new(); layout.n_tokens];
        for block in &layout.blocks {
            let (mask, keys) = (block.mask(), block.key_rows());
            for (index, sequence) in block.sequences.iter().enumerate() {
                for (query, row) in sequence.queries.clone().enumerate() {
                    assert_eq!(block.query_rows()[index * block.n_queries + query] as usize, row);
                    assert!(visible[row].is_empty(), "query {row} is in two blocks");
                    let seen = (0..block.n_keys).filter(|key| mask[query * block.n_keys + key] == 0.0);
                    visible[row].extend(seen.map(|key| keys[index * block.n_keys + key] as usize));
                }
            }
        }
        visible
    }

    #[test]
    fn every_query_sees_the_prompt_and_its_own_past_whatever_the_blocks() {
        let decoder = super::super::family::tests::decoder();
        for lengths in [&[1, 1][..], &[5], &[3, 40, 1, 17, 40], &[2; 9]] {
            for max_scores in [1, 3000, 9000, usize::MAX / 2] {
                for n_frozen in [0, 1, 32] {
                    // The same keys are seen wherever the batch begins.
                    let n_prompt = 37 - n_frozen;
                    let layout = Layout::new(n_frozen, n_prompt, lengths).with_blocks(&decoder, max_scores);
                    assert_eq!(layout.n_tokens, n_prompt + lengths.iter().map(|n| n - 1).sum::<usize>());
                    let visible = visible(&layout);
                    let mut start = n_prompt;
                    for (row, visible) in visible.iter().take(n_prompt).enumerate() {
                        assert_eq!(visible, &(0..=n_frozen + row).collect::<Vec<_>>());
                    }
                    for length in lengths {
                        for (row, visible) in visible.iter().enumerate().skip(start).take(length - 1) {
                            let expected: Vec<_> = (0..37).chain(n_frozen + start..=n_frozen + row).collect();
                            assert_eq!(visible, &expected, "{lengths:?}, {max_scores}, row {row}");
                        }
                        start += length - 1;
                    }
                    check_order(&layout);
                }
            }
        }
    }

    /// The first block that touches a key must set its gradient, all others add to it.
    fn check_order(layout: &Layout) {
        let mut touched = vec![false; layout.n_tokens];
        for block in &layout.blocks {
            assert!(touched[..block.n_prefix - block.n_frozen].iter().all(|&touched| touched));
            for sequence in &block.sequences {
                for key in sequence.keys.clone() {
                    assert_eq!(touched[key], !sequence.sees_all, "key {key}");
                    touched[key] = true;
                }
            }
        }
        assert!(touched.iter().all(|&touched| touched));
    }
}
