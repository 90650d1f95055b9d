//! The state of a sequence as bytes.

use super::{Activation, AdapterUse, SequenceState};
use crate::{Error, ErrorKind, Result, session::KvType};

const MAGIC: &[u8; 8] = b"OWLETSQ2";
/// Bytes of [`crate::Model::content_hash`] and of [`crate::Adapter::hash`].
const HASH: usize = 64;
/// Stands for a place where nothing was activated.
const NEVER: u32 = u32::MAX;

impl SequenceState {
    /// As bytes: `OWLETSQ2`, hash of the model, precision (u8), layers, tokens, digest of the content, place of the activation
    /// (2^32 - 1 for none), adapters (their number, then of each hash, scale and whether it is an activated one), cells. Numbers
    /// are little-endian u32 or f32. They carry no checksum: whoever stores them adds one.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.preamble()[..], &self.cells].concat()
    }

    /// [`SequenceState::to_bytes`] is what this gives, and behind it the cells.
    pub(crate) fn preamble(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.model.as_bytes());
        bytes.push(self.kv_type.code());
        bytes.extend((self.n_layer as u32).to_le_bytes());
        bytes.extend((self.n_tokens as u32).to_le_bytes());
        bytes.extend(self.content);
        let place = match self.activation {
            Activation::From(place) => place as u32,
            Activation::Never | Activation::InParts => NEVER,
        };
        bytes.extend(place.to_le_bytes());
        bytes.extend((self.adapters.len() as u32).to_le_bytes());
        for AdapterUse { hash, scale, is_activated } in &self.adapters {
            bytes.extend(hash.as_bytes());
            bytes.extend(scale.to_le_bytes());
            bytes.push((*is_activated).into());
        }
        bytes
    }

    /// Positions, keys and values.
    pub(crate) fn cells(&self) -> &[u8] {
        &self.cells
    }

    /// The state in `bytes`, which [`SequenceState::to_bytes`] made. What it is of is compared when it is restored.
    ///
    /// # Errors
    /// `InvalidFile` for bytes of another form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::InvalidFile, "not the state of a sequence");
        let mut rest = Reader(bytes);
        if rest.take().ok_or_else(wrong)? != *MAGIC {
            return Err(wrong());
        }
        let parsed = rest.state();
        let state = parsed.ok_or_else(wrong)?;
        Ok(Self { cells: rest.0.to_vec(), ..state })
    }
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn hash(&mut self) -> Option<String> {
        String::from_utf8(self.take::<HASH>()?.to_vec()).ok()
    }

    /// All behind the magic bytes but the cells.
    fn state(&mut self) -> Option<SequenceState> {
        let model = self.hash()?;
        let [precision] = self.take()?;
        let kv_type = KvType::from_code(precision)?;
        let (n_layer, n_tokens) = (self.number()? as usize, self.number()? as usize);
        let content = self.take()?;
        let activation = match self.number()? {
            NEVER => Activation::Never,
            place => Activation::From(place as usize),
        };
        let n_adapters = self.number()?;
        let mut adapters = Vec::new();
        for _ in 0..n_adapters {
            let hash = self.hash()?;
            let scale = f32::from_le_bytes(self.take()?);
            let [flag] = self.take()?;
            adapters.push(AdapterUse { hash, scale, is_activated: flag != 0 });
        }
        Some(SequenceState { model, kv_type, n_layer, n_tokens, content, adapters, activation, cells: Vec::new() })
    }
}
