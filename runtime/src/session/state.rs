//! Keys and values of a sequence outside of its session: to be computed once and used again, in other sequences, sessions
//! and runs.
//!
//! llama.cpp writes and reads them; what surrounds them in its format (the number of the sequence and of its neighbours) is
//! left out, so a state fits every sequence of every session of the same model and precision. Restored keys and values are
//! the bits that were saved, in the order of the tokens from the first cell on, as a prompt that is computed in an
//! empty sequence has them: what follows has the same bits too.

mod file;

use std::fmt;

use super::{AdapterUse, KvType, Sequence, Session, adapters::Activation};
use crate::{Error, ErrorKind, Result, model::Model, prompt::EncodedPrompt};

/// Bytes of llama.cpp's format in front of the cells: a magic number, the number of the sequence, that of the streams.
const HEADER: usize = 12;
/// Bytes of the number of cells of a stream; streams without cells have nothing else.
const COUNT: usize = size_of::<u32>();

/// Keys and values of a sequence, what they are of, and the adapters that took part in them.
#[derive(Clone, PartialEq)]
pub struct SequenceState {
    /// [`crate::Model::content_hash`].
    model: String,
    kv_type: KvType,
    n_layer: usize,
    n_tokens: usize,
    /// [`EncodedPrompt::digest`].
    content: [u8; 32],
    /// Those that acted, the activated ones only from a place on.
    adapters: Vec<AdapterUse>,
    activation: Activation,
    /// Positions, keys and values in llama.cpp's format.
    cells: Vec<u8>,
}

impl SequenceState {
    /// Tokens, those of pictures included.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes of memory.
    pub fn n_bytes(&self) -> usize {
        let adapters: usize = self.adapters.iter().map(|used| used.hash.capacity() + size_of::<AdapterUse>()).sum();
        self.cells.capacity() + self.model.capacity() + adapters + size_of::<Self>()
    }

    /// The adapters that acted on it.
    pub fn adapters(&self) -> &[AdapterUse] {
        &self.adapters
    }

    /// Whether the cells are those of the tokens of `content`, each at its position and of one sequence. llama.cpp would end
    /// the process on some of the others.
    fn has_cells_of(&self, content: &EncodedPrompt, has_grid: bool) -> bool {
        // `None` where any number will do: the token, and the number that the sequence had.
        let cell = |[time, height, width, _]: [i32; 4]| {
            let grid = [Some(width), Some(height), None].into_iter().filter(move |_| has_grid);
            [Some(time), Some(1 /* sequence */)].into_iter().chain(grid).chain([None])
        };
        let n_cells = content.n_tokens() as i32;
        let expected = std::iter::once(Some(n_cells)).chain(content.positions().into_iter().flat_map(cell));
        let mut found = self.cells.chunks_exact(4).map(|bytes| i32::from_le_bytes([0, 1, 2, 3].map(|at| bytes[at])));
        expected.into_iter().all(|number| found.next().is_some_and(|found| number.is_none_or(|number| number == found)))
    }
}

impl fmt::Debug for SequenceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SequenceState({} tokens, {} bytes)", self.n_tokens, self.cells.len())
    }
}

impl Session {
    /// The keys and values of sequence `seq`, which holds `content` and nothing else.
    ///
    /// # Errors
    /// `InvalidInput` for a sequence out of range; `Mismatch` when it holds another number of tokens or positions than
    /// `content`; `Unsupported` where activated adapters acted on parts of it, which a state does not tell; `ContextOverflow` for a full
    /// sequence that was forked and not decoded since; `Backend`.
    pub fn save(&mut self, seq: usize, content: &EncodedPrompt) -> Result<SequenceState> {
        let Sequence { n_tokens, next_position, activation, .. } = *self.sequence(seq)?;
        if (n_tokens, next_position) != (content.n_tokens(), content.next_position()) {
            let error = Error::new(ErrorKind::Mismatch, "sequence holds something else").at(format!("sequence {seq}"));
            return Err(error.got(format!("{n_tokens} tokens")).needed(format!("{}", content.n_tokens())));
        }
        if activation == Activation::InParts {
            let error = Error::new(ErrorKind::Unsupported, "keys and values of several invocations cannot be saved");
            return Err(error.at(format!("sequence {seq}")).needed("one prompt, or a plain adapter"));
        }
        let mut adapters = AdapterUse::of(&self.adapters);
        adapters.retain(|used| !used.is_activated || activation != Activation::Never);
        self.settle(seq)?;
        let mut cells = self.context.state(seq)?;
        let n_behind = COUNT * (self.options.n_seq - 1 - seq);
        cells.truncate(cells.len().saturating_sub(n_behind));
        cells.drain(..(HEADER + COUNT * seq).min(cells.len()));
        cells.shrink_to_fit();
        // Each cell names the sequence it is of, at its end.
        let records = cells.get_mut(COUNT..COUNT + n_tokens * cell_bytes(&self.model)).unwrap_or_default();
        for record in records.chunks_exact_mut(cell_bytes(&self.model)) {
            record.iter_mut().rev().take(4).for_each(|byte| *byte = 0);
        }
        let model = self.model.gguf().content_hash_until(self.context.cancel())?.to_owned();
        let (kv_type, n_layer) = (self.options.kv_type, self.model.info().n_layer);
        let content = content.digest();
        Ok(SequenceState { model, kv_type, n_layer, n_tokens, content, adapters, activation, cells })
    }

    /// Makes sequence `seq` hold `state`, which is of `content`, in place of what it held; [`Session::prefill`] goes on from
    /// there.
    ///
    /// # Errors
    /// `InvalidInput` for a sequence out of range; `Mismatch` when `state` is of another model, precision or content, of
    /// other adapters or scales (what the base computed serves activated adapters too), or of a session with attention of
    /// another kind; `ContextOverflow` when the session's sequences are too short. The sequence is then as it was, or empty where
    /// llama.cpp refused the state or was cancelled.
    pub fn restore(&mut self, seq: usize, state: &SequenceState, content: &EncodedPrompt) -> Result<()> {
        self.sequence(seq)?;
        // First: what a damaged file claims to hold is not even read.
        self.check_room(&Sequence::default(), content.n_tokens())?;
        self.check_state(state, content)?;
        self.clear(seq)?;
        self.settle(seq)?;
        self.forget_logits();
        // As llama.cpp writes an empty sequence, with its number of cells replaced.
        let mut bytes = self.context.state(seq)?;
        let at = (HEADER + COUNT * seq).min(bytes.len());
        let behind = (at + COUNT).min(bytes.len());
        bytes.splice(at..behind, state.cells.iter().copied());
        if !self.context.set_state(seq, &bytes) {
            self.clear(seq)?;
            let error = Error::new(ErrorKind::Mismatch, "llama.cpp does not take these keys and values");
            return Err(error.needed("those of a session with the same options"));
        }
        let (n_tokens, activation) = (state.n_tokens, state.activation);
        let next_position = content.next_position();
        self.sequences[seq] = Sequence { n_tokens, next_position, activation, ..Sequence::default() };
        Ok(())
    }

    fn check_state(&self, state: &SequenceState, content: &EncodedPrompt) -> Result<()> {
        let info = self.model.info();
        let (kv_type, n_tokens) = (self.options.kv_type, content.n_tokens());
        let refused = |what: &str, got: String, needed: String| {
            Err(Error::new(ErrorKind::Mismatch, "state of a sequence is of something else")
                .at(what)
                .got(got)
                .needed(needed))
        };
        let hash = self.model.gguf().content_hash_until(self.context.cancel())?;
        if state.model != hash {
            return refused("model", state.model.clone(), hash.to_owned());
        }
        if state.n_layer != info.n_layer {
            return refused("layers", state.n_layer.to_string(), info.n_layer.to_string());
        }
        if state.kv_type != kv_type {
            return refused("precision", format!("{:?}", state.kv_type), format!("{kv_type:?}"));
        }
        let mut acting = AdapterUse::of(&self.adapters);
        acting.retain(|used| !used.is_activated || state.activation != Activation::Never);
        if state.adapters != acting {
            return refused("adapters", AdapterUse::names(&state.adapters), AdapterUse::names(&acting));
        }
        if (state.n_tokens, state.content) != (n_tokens, content.digest()) || n_tokens == 0 {
            return refused("content", format!("{} tokens", state.n_tokens), format!("{n_tokens} certain ones"));
        }
        if !state.has_cells_of(content, has_grid(&self.model)) {
            return refused("cells", "other positions".to_owned(), "those of the content".to_owned());
        }
        Ok(())
    }

    /// Has llama.cpp do what it put off: forks copy their data at the next decode call, which would write over what is
    /// restored, and is not there yet to be saved.
    fn settle(&mut self, seq: usize) -> Result<()> {
        if !self.sequences[seq].is_unsettled {
            return Ok(());
        }
        let before = self.sequences[seq];
        self.check_room(&before, 1)?;
        self.batch.clear();
        self.batch.push_token(0, before.next_position, seq, false);
        let result = self.run_token_batch();
        self.context.truncate(seq, before.next_position);
        result
    }
}

/// Bytes in which llama.cpp describes a cell: position, number of sequences, place in the picture and token, sequence.
fn cell_bytes(model: &Model) -> usize {
    4 * if has_grid(model) { 6 } else { 3 }
}

/// Whether llama.cpp keeps places in pictures (M-RoPE) beside positions.
fn has_grid(model: &Model) -> bool {
    model.hyper().architecture.is_vision()
}
