//! Text to tokens and back, on llama.cpp's tokenizer.

use llama_cpp_sys_2 as sys;

use crate::{Error, ErrorKind, Result, gguf::GgufFile, think::is_thinking_tag, tools::is_call_tag};

/// A token's number in the vocabulary.
pub type TokenId = i32;

/// Type of tokens that stand for nothing in `tokenizer.ggml.token_type`, as llama.cpp numbers it.
const UNUSED: i32 = 5;
/// Marks that only stand around or instead of pictures; some files call them ordinary tokens.
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
    /// Control tokens that spell tags of thinking or of calls: they are told as text, like everywhere else.
    tags: Vec<TokenId>,
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
        let id_of = |text: &str| tokens.iter().position(|token| token == text);
        // llama.cpp makes some tokens control tokens by their spelling, whatever the file calls them.
        let is_control = |&id: &usize| {
            // SAFETY: the vocabulary is alive (contract) and has all tokens of the file.
            let attributes = unsafe { sys::llama_vocab_get_attr(raw, id as TokenId) };
            attributes & (sys::LLAMA_TOKEN_ATTR_CONTROL | sys::LLAMA_TOKEN_ATTR_UNKNOWN) != 0
        };
        let control = (0..tokens.len()).filter(is_control).filter(|&id| !tokens[id].is_empty());
        // A control token inside an answer would begin a turn, or promise a picture that does not follow; only those that
        // end the answer are the model's to say.
        // SAFETY: as above.
        let is_end = |id: usize| unsafe { sys::llama_vocab_is_eog(raw, id as TokenId) };
        let mut never_sampled: Vec<_> = (0..types.len()).filter(|&id| types[id] == UNUSED).collect();
        never_sampled.extend(VISION_MARKS.iter().filter_map(|mark| id_of(mark)));
        let is_tag = |&id: &usize| is_thinking_tag(&tokens[id]) || is_call_tag(&tokens[id]);
        let tags = (0..tokens.len()).filter(is_control).filter(is_tag).map(|id| id as TokenId).collect();
        never_sampled.extend((0..tokens.len()).filter(is_control).filter(|id| !is_end(*id) && !is_tag(id)));
        never_sampled.sort_unstable();
        never_sampled.dedup();
        let spelling = |key: &str| {
            let id = file.opt_u32(key)?;
            Ok(id.and_then(|id| tokens.get(id as usize)).cloned())
        };
        Ok(Self {
            raw,
            n_tokens: tokens.len(),
            control: control.map(|id| tokens[id].clone()).collect(),
            never_sampled: never_sampled.into_iter().map(|id| id as TokenId).collect(),
            tags,
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
        let run = |ids: &mut Vec<TokenId>| {
            let capacity = i32::try_from(ids.len()).unwrap_or(i32::MAX);
            let (text, ids) = (text.as_ptr().cast(), ids.as_mut_ptr());
            // SAFETY: the vocabulary is alive (contract of `new`); pointers and lengths describe live buffers.
            unsafe { sys::llama_tokenize(self.raw, text, n_bytes, ids, capacity, false, parse_special) }
        };
        // Most texts need fewer; SentencePiece's marks for spaces, spelled by bytes, need three for each.
        let mut ids = vec![0; text.len() + 1];
        let mut n = run(&mut ids);
        // A negative answer is the room that the tokens need, the least number that they do not fit 2^31.
        if n < 0 && n != i32::MIN {
            ids.resize(n.unsigned_abs() as usize, 0);
            n = run(&mut ids);
        }
        let Ok(n) = usize::try_from(n) else {
            let error = Error::new(ErrorKind::Limit, "text too long").got(format!("{} bytes", text.len()));
            return Err(error.needed("less than 2^31 tokens"));
        };
        ids.truncate(n);
        Ok(ids)
    }

    /// Appends the bytes of `token`; control tokens have none, tags of thinking and of calls apart.
    pub(super) fn append_bytes(&self, token: TokenId, bytes: &mut Vec<u8>) {
        if !self.contains(token) {
            return;
        }
        let is_tag = self.tags.contains(&token);
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
                    0,      /* no strip */
                    is_tag, /* control */
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
