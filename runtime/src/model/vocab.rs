//! Text to tokens and back, on llama.cpp's tokenizer.

use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result, gguf::GgufFile};

/// A token's number in the vocabulary.
pub type TokenId = i32;

/// Types of tokens in `tokenizer.ggml.token_type`, as llama.cpp numbers them.
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;
/// Marks that only stand around or instead of pictures.
const VISION_MARKS: [&str; 5] =
    ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"];

/// The tokenizer of a loaded model, and what the file says about its tokens.
pub(super) struct Vocabulary {
    /// Owned by the model that this vocabulary is a part of.
    raw: *const sys::llama_vocab,
    n_tokens: usize,
    /// Spellings of control tokens: what text from outside must not be able to produce.
    control: Vec<String>,
    never_sampled: Vec<TokenId>,
    image_pad: Option<TokenId>,
    bos: Option<String>,
    eos: Option<String>,
}

impl Vocabulary {
    /// The vocabulary of the model behind `raw`, which was loaded from `file`.
    ///
    /// # Safety
    /// `raw` is valid as long as the result is used, and `file` passed `check_vocabulary`.
    pub(super) unsafe fn new(raw: *const sys::llama_vocab, file: &GgufFile) -> Result<Self> {
        let tokens = file.strings("tokenizer.ggml.tokens")?;
        let types = file.opt_i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
        let typed = |wanted: i32| {
            let ids = types.iter().enumerate().filter(move |&(_, &kind)| kind == wanted).map(|(id, _)| id);
            ids.collect::<Vec<_>>()
        };
        let id_of = |text: &str| tokens.iter().position(|token| token == text);
        let mut never_sampled: Vec<_> = typed(UNUSED);
        never_sampled.extend(VISION_MARKS.iter().filter_map(|mark| id_of(mark)));
        never_sampled.sort_unstable();
        let spelling = |key: &str| {
            let id = file.opt_u32(key)?;
            Ok(id.and_then(|id| tokens.get(id as usize)).cloned())
        };
        Ok(Self {
            raw,
            n_tokens: tokens.len(),
            control: typed(CONTROL).into_iter().map(|id| tokens[id].clone()).filter(|text| !text.is_empty()).collect(),
            never_sampled: never_sampled.into_iter().map(|id| id as TokenId).collect(),
            image_pad: id_of("<|image_pad|>").map(|id| id as TokenId),
            bos: spelling("tokenizer.ggml.bos_token_id")?,
            eos: spelling("tokenizer.ggml.eos_token_id")?,
        })
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    pub(super) fn control(&self) -> &[String] {
        &self.control
    }

    pub(super) fn never_sampled(&self) -> &[TokenId] {
        &self.never_sampled
    }

    pub(super) fn image_pad(&self) -> Option<TokenId> {
        self.image_pad
    }

    pub(super) fn bos(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    pub(super) fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    pub(super) fn tokenize(&self, text: &str, parse_special: bool) -> Result<Vec<TokenId>> {
        let Ok(n_bytes) = i32::try_from(text.len()) else {
            let error = Error::new(ErrorKind::Limit, "text too long").got(format!("{} bytes", text.len()));
            return Err(error.needed("less than 2^31 bytes"));
        };
        // A token is at least one byte, except for a space that some tokenizers put in front.
        let mut ids = vec![0; text.len() + 1];
        // SAFETY: the vocabulary is alive (contract of `new`); pointers and lengths describe live buffers.
        let n = unsafe {
            let capacity = ids.len() as i32;
            sys::llama_tokenize(
                self.raw,
                text.as_ptr().cast(),
                n_bytes,
                ids.as_mut_ptr(),
                capacity,
                false,
                parse_special,
            )
        };
        let Ok(n) = usize::try_from(n) else {
            return Err(Error::new(ErrorKind::Internal, "more tokens than bytes").got(format!("{} bytes", text.len())));
        };
        ids.truncate(n);
        Ok(ids)
    }

    /// Appends the bytes of `token`; control tokens have none.
    pub(super) fn append_bytes(&self, token: TokenId, bytes: &mut Vec<u8>) {
        if !self.contains(token) {
            return;
        }
        let mut room = 32;
        loop {
            let start = bytes.len();
            bytes.resize(start + room, 0);
            // SAFETY: the vocabulary is alive, `token` is one of it, and the buffer has `room` bytes behind `start`.
            let n = unsafe {
                let buffer = bytes.as_mut_ptr().add(start).cast();
                sys::llama_token_to_piece(
                    self.raw,
                    token,
                    buffer,
                    room as i32,
                    0,     /* no strip */
                    false, /* no control */
                )
            };
            // A negative answer is the room that the piece needs.
            let fits = usize::try_from(n);
            bytes.truncate(start + fits.unwrap_or(0));
            if fits.is_ok() {
                return;
            }
            room = n.unsigned_abs() as usize;
        }
    }

    pub(super) fn is_end(&self, token: TokenId) -> bool {
        // SAFETY: the vocabulary is alive, `token` is one of it.
        self.contains(token) && unsafe { sys::llama_vocab_is_eog(self.raw, token) }
    }

    pub(super) fn contains(&self, token: TokenId) -> bool {
        usize::try_from(token).is_ok_and(|token| token < self.n_tokens)
    }
}

// SAFETY: llama.cpp's vocabulary is not changed after loading; tokenizing builds its state per call.
unsafe impl Send for Vocabulary {}
// SAFETY: as above.
unsafe impl Sync for Vocabulary {}
