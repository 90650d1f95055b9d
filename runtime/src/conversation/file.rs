//! Whole conversations on disk: what was said, pictures as the model sees them, keys and values.
//!
//! A file is the magic bytes with the version, the length of the header (u64), the header (JSON), the floats of the pictures
//! one after the other, the state of the sequence ([`SequenceState::to_bytes`]), and the SHA-256 of all that; little-endian.
//! The header names the model, its projector, the adapters and the precision of keys and values: a conversation goes on
//! only where all of them are the same.

use std::{fs, io::Write, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ChatMessage, ChatPart, Conversation, ConversationOptions};
use crate::{
    AtomicFile, Error, ErrorKind, Result,
    adapter::Adapter,
    cancel::CancelToken,
    model::TokenId,
    prompt::{EncodedPrompt, ImageEmbedding, Role, Segment},
    session::{AdapterUse, KvType, SequenceState, Session},
    tools::ToolCall,
};

/// First bytes of every version.
const MAGIC: &[u8; 7] = b"OWLETCV";
/// Behind them, the version.
const VERSION: u8 = b'1';
/// Bytes of a SHA-256.
const DIGEST: usize = 32;

#[derive(Serialize, Deserialize)]
struct Header {
    /// [`crate::Model::content_hash`].
    model: String,
    /// [`Model::projector_hash`].
    mmproj: Option<String>,
    kv_type: KvType,
    adapters: Vec<AdapterUse>,
    options: ConversationOptions,
    n_turns: u64,
    messages: Vec<Message>,
    /// What the sequence holds.
    held: Vec<Piece>,
    pictures: Vec<Picture>,
}

#[derive(Serialize, Deserialize)]
struct Message {
    role: Role,
    parts: Vec<Part>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    calls: Vec<ToolCall>,
}

/// Pictures are told by their place in [`Header::pictures`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Text(String),
    Picture(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Piece {
    Tokens(Vec<TokenId>),
    Picture(usize),
}

#[derive(Serialize, Deserialize)]
struct Picture {
    grid_w: u32,
    grid_h: u32,
    /// Floats per token.
    width: usize,
    encode_ms: f64,
}

impl Conversation {
    /// Writes the whole conversation to `path`, in place of an older file and only when it is complete. Pictures are in it as
    /// the model sees them, adapters by their hashes and scales.
    ///
    /// # Errors
    /// `Io`, `NotFound`, `InvalidInput` when the file cannot be written; `Backend` when llama.cpp does not give keys and values.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_until(path, &CancelToken::new())
    }

    /// As [`Conversation::save`], until `cancel` is cancelled: looked at while another conversation has the session, and
    /// while model and projector are read for their hashes, once for all times.
    ///
    /// # Errors
    /// As [`Conversation::save`]; `Cancelled`.
    pub fn save_until(&self, path: impl AsRef<Path>, cancel: &CancelToken) -> Result<()> {
        let mut shared = self.seat.lock_until(&self.adapters, cancel)?;
        // A question whose `on_event` panicked left more.
        shared.session.cut_back(self.seat.seq(), &self.held);
        let is_empty = self.held.n_tokens() == 0;
        let state = if is_empty { None } else { Some(shared.session.save(self.seat.seq(), &self.held)?) };
        let model = shared.session.model();
        let mut pictures = Album::default();
        let messages = self.messages.iter().map(|message| pictures.message(message)).collect();
        let held = self.held.segments.iter().map(|segment| pictures.segment(segment)).collect();
        let header = Header {
            model: model.gguf().content_hash_until(cancel)?.to_owned(),
            mmproj: model.projector_hash_until(cancel)?.map(str::to_owned),
            kv_type: shared.session.options().kv_type,
            adapters: AdapterUse::of(&self.adapters),
            options: self.options.clone(),
            n_turns: self.n_turns,
            messages,
            held,
            pictures: pictures.0.iter().map(|picture| Picture::of(picture)).collect(),
        };
        drop(shared);
        write(path.as_ref(), &header, &pictures.0, state.as_ref())
    }
}

fn write(path: &Path, header: &Header, pictures: &[Arc<ImageEmbedding>], state: Option<&SequenceState>) -> Result<()> {
    let header = serde_json::to_vec(header)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write a conversation").source(error))?;
    let preamble = state.map(SequenceState::preamble).unwrap_or_default();
    let length = (header.len() as u64).to_le_bytes();
    let mut pieces: Vec<&[u8]> = vec![MAGIC, std::slice::from_ref(&VERSION), &length, &header];
    pieces.extend(pictures.iter().map(|picture| bytemuck::cast_slice::<f32, u8>(&picture.data)));
    pieces.extend([&preamble[..], state.map_or(&[], SequenceState::cells)]);
    let mut file = AtomicFile::create(path)?;
    let mut hasher = Sha256::new();
    let failed = |source| Error::io("cannot write a conversation", path, source);
    for piece in pieces {
        hasher.update(piece);
        file.write_all(piece).map_err(failed)?;
    }
    file.write_all(&hasher.finalize()).map_err(failed)?;
    file.commit()
}

/// Pictures, each once.
#[derive(Default)]
struct Album(Vec<Arc<ImageEmbedding>>);

impl Album {
    fn number(&mut self, picture: &Arc<ImageEmbedding>) -> usize {
        let known = self.0.iter().position(|known| Arc::ptr_eq(known, picture));
        known.unwrap_or_else(|| {
            self.0.push(Arc::clone(picture));
            self.0.len() - 1
        })
    }

    fn message(&mut self, message: &ChatMessage) -> Message {
        let part = |part: &ChatPart| match part {
            ChatPart::Text(text) => Part::Text(text.clone()),
            ChatPart::Picture(picture) => Part::Picture(self.number(picture)),
        };
        let parts = message.parts.iter().map(part).collect();
        Message { role: message.role, parts, calls: message.calls.clone() }
    }

    fn segment(&mut self, segment: &Segment) -> Piece {
        match segment {
            Segment::Tokens(tokens) => Piece::Tokens(tokens.clone()),
            Segment::Image(picture) => Piece::Picture(self.number(picture)),
        }
    }
}

impl Picture {
    fn of(picture: &ImageEmbedding) -> Self {
        let ImageEmbedding { grid_w, grid_h, width_embd, encode_ms, .. } = *picture;
        Self { grid_w, grid_h, width: width_embd, encode_ms }
    }
}

/// A conversation that was read from a file and is whole.
pub struct SavedConversation {
    model: String,
    mmproj: Option<String>,
    kv_type: KvType,
    adapters: Vec<AdapterUse>,
    options: ConversationOptions,
    n_turns: u64,
    messages: Vec<ChatMessage>,
    held: EncodedPrompt,
    state: Option<SequenceState>,
}

impl SavedConversation {
    /// Reads and checks the file at `path`, which [`Conversation::save`] wrote.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `InvalidFile` for a damaged file or one of another kind; `Unsupported` for one of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| Error::io("cannot read a conversation", path, source))?;
        Self::parse(&bytes).map_err(|error| error.at(path.display()))
    }

    /// The adapters that it needs, by the hashes of their files.
    pub fn adapters(&self) -> &[AdapterUse] {
        &self.adapters
    }

    /// What was said, the instructions apart.
    pub fn messages(&self) -> &[ChatMessage] {
        &self.messages
    }

    /// Goes on in the first sequence of `session`, which is emptied, under `adapters`, unless the session is cancelled: the next answer has the tokens that it
    /// would have had without the file.
    ///
    /// # Errors
    /// `Mismatch`, with what differs, for another model, projector, other adapters or scales, or another precision of keys and
    /// values; `ContextOverflow` when the session's sequences are too short; as [`Session::set_adapters`].
    pub fn resume(self, mut session: Session, adapters: &[(Arc<Adapter>, f32)]) -> Result<Conversation> {
        self.check(&session, adapters)?;
        session.set_adapters(adapters)?;
        let mut conversation = Conversation::new(session, self.options);
        if let Some(state) = &self.state {
            let seat = &conversation.seat;
            seat.lock(adapters).session.restore(seat.seq(), state, &self.held)?;
        }
        conversation.messages = self.messages;
        conversation.held = self.held;
        conversation.n_turns = self.n_turns;
        Ok(conversation)
    }

    fn check(&self, session: &Session, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
        let (model, kv_type, cancel) = (session.model(), session.options().kv_type, session.cancel());
        let hash = |hash: Option<&str>| hash.unwrap_or("none").to_owned();
        let facts = [
            ("model", self.model.clone(), model.gguf().content_hash_until(cancel)?.to_owned()),
            ("image projector", hash(self.mmproj.as_deref()), hash(model.projector_hash_until(cancel)?)),
            ("precision of keys and values", format!("{:?}", self.kv_type), format!("{kv_type:?}")),
        ];
        let refused = |what: &str, saved: String, given: String| {
            let error = Error::new(ErrorKind::Mismatch, "the conversation was saved with something else").at(what);
            Err(error.got(given).needed(saved))
        };
        for (what, saved, given) in facts {
            if saved != given {
                return refused(what, saved, given);
            }
        }
        let given = AdapterUse::of(adapters);
        if given != self.adapters {
            return refused("adapters", AdapterUse::names(&self.adapters), AdapterUse::names(&given));
        }
        Ok(())
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(ErrorKind::InvalidFile, "not a whole conversation file");
        let (content, digest) = bytes.split_last_chunk::<DIGEST>().ok_or_else(damaged)?;
        let (&version, rest) = content.strip_prefix(MAGIC).and_then(<[u8]>::split_first).ok_or_else(damaged)?;
        if version != VERSION {
            let error = Error::new(ErrorKind::Unsupported, "conversation file of another version");
            return Err(error.got(char::from(version)).needed(char::from(VERSION)));
        }
        if Sha256::digest(content)[..] != digest[..] {
            return Err(damaged().got("another checksum"));
        }
        let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
        let (header, mut rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(header).map_err(|error| damaged().source(error))?;
        let pictures = header.pictures.iter().map(|picture| picture.read(&mut rest).ok_or_else(damaged));
        let pictures = pictures.collect::<Result<Vec<_>>>()?;
        let picture = |index: &usize| pictures.get(*index).cloned().ok_or_else(damaged);
        let part = |part: Part| match part {
            Part::Text(text) => Ok(ChatPart::Text(text)),
            Part::Picture(index) => picture(&index).map(ChatPart::Picture),
        };
        let message = |Message { role, parts, calls }: Message| {
            Ok(ChatMessage { role, parts: parts.into_iter().map(part).collect::<Result<_>>()?, calls })
        };
        let segment = |piece: Piece| match piece {
            Piece::Tokens(tokens) => Ok(Segment::Tokens(tokens)),
            Piece::Picture(index) => picture(&index).map(Segment::Image),
        };
        let held = EncodedPrompt { segments: header.held.into_iter().map(segment).collect::<Result<_>>()? };
        let state = if rest.is_empty() { None } else { Some(SequenceState::from_bytes(rest)?) };
        if state.is_none() && held.n_tokens() > 0 {
            return Err(damaged().needed("keys and values"));
        }
        Ok(Self {
            model: header.model,
            mmproj: header.mmproj,
            kv_type: header.kv_type,
            adapters: header.adapters,
            options: header.options,
            n_turns: header.n_turns,
            messages: header.messages.into_iter().map(message).collect::<Result<_>>()?,
            held,
            state,
        })
    }
}

impl Picture {
    /// The picture whose floats `rest` begins with.
    fn read(&self, rest: &mut &[u8]) -> Option<Arc<ImageEmbedding>> {
        let &Self { grid_w, grid_h, width: width_embd, encode_ms } = self;
        let n_tokens = usize::try_from(u64::from(grid_w).checked_mul(u64::from(grid_h))?).ok()?;
        let n_bytes = n_tokens.checked_mul(width_embd)?.checked_mul(size_of::<f32>())?;
        // An empty picture could claim any number of tokens.
        let (data, behind) = rest.split_at_checked(n_bytes).filter(|_| n_bytes > 0)?;
        *rest = behind;
        let data = bytemuck::pod_collect_to_vec(data);
        Some(Arc::new(ImageEmbedding { n_tokens, grid_w, grid_h, width_embd, data, encode_ms }))
    }
}

impl std::fmt::Debug for SavedConversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SavedConversation({} messages, {} tokens)", self.messages.len(), self.held.n_tokens())
    }
}
