//! Prompts: messages of text and pictures, and what becomes of them: tokens and image embeddings with positions.

mod common;
mod digest;
mod encode;
mod guard;
mod split;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use self::encode::{Chat, Outline, Piece, encode, generation_prompt, interleave, outline, resize, runs};
use crate::{
    Error, ErrorKind, Result,
    image::Image,
    model::TokenId,
    tools::{ToolCall, Tools},
};

/// Where a picture goes in a text, as the data sets of OpenVLThinker spell it.
pub const IMAGE_MARK: &str = "<image>";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The name that chat templates use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text, taken literally: `<image>` and control tokens in it are only text.
    Text(String),
    /// A picture.
    Image(Image),
}

/// What one side said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said, in order.
    pub parts: Vec<Part>,
    /// Tools that the model called behind that.
    pub calls: Vec<ToolCall>,
}

impl Message {
    /// A message of text.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, parts: vec![Part::Text(text.into())], calls: Vec::new() }
    }

    /// What a person says with pictures. Every [`IMAGE_MARK`] in `text` is replaced by the next picture; without any mark the
    /// pictures come first.
    ///
    /// # Errors
    /// `InvalidInput` when there are marks, but not as many as pictures.
    pub fn user(text: &str, images: Vec<Image>) -> Result<Self> {
        let n_marks = text.matches(IMAGE_MARK).count();
        let mut images = images.into_iter();
        let mut parts = Vec::with_capacity(2 * images.len() + 1);
        if n_marks == 0 {
            parts.extend(images.by_ref().map(Part::Image));
            parts.push(Part::Text(text.to_owned()));
        } else if n_marks == images.len() {
            for (index, piece) in text.split(IMAGE_MARK).enumerate() {
                if index > 0 {
                    parts.extend(images.next().map(Part::Image));
                }
                if !piece.is_empty() {
                    parts.push(Part::Text(piece.to_owned()));
                }
            }
        } else {
            let error =
                Error::new(ErrorKind::InvalidInput, format!("`{IMAGE_MARK}` marks and pictures differ in number"));
            return Err(error
                .got(format!("{n_marks} marks"))
                .needed(format!("{}, one for each picture", images.len())));
        }
        Ok(Self { role: Role::User, parts, calls: Vec::new() })
    }
}

/// A conversation that ends where the model shall answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Tools,
    /// Whether the model shall think before it answers, for templates that know how to tell it (their variable
    /// `enable_thinking`, as in Qwen3's); others refuse it. Default `None`: what the template does by itself.
    pub thinking: Option<bool>,
}

impl Prompt {
    /// A question with pictures: [`Message::user`] alone.
    ///
    /// # Errors
    /// As [`Message::user`].
    pub fn user(text: &str, images: Vec<Image>) -> Result<Self> {
        Ok(Self { messages: vec![Message::user(text, images)?], ..Self::default() })
    }

    /// The same conversation after the instructions `text`.
    #[must_use]
    pub fn with_system(mut self, text: impl Into<String>) -> Self {
        self.messages.insert(0, Message::text(Role::System, text));
        self
    }
}

/// What the language model sees of one picture.
#[derive(Clone, PartialEq)]
pub struct ImageEmbedding {
    /// `grid_w * grid_h`.
    pub n_tokens: usize,
    /// Tokens per row of the picture.
    pub grid_w: u32,
    /// Rows of tokens.
    pub grid_h: u32,
    /// Floats per token: the model's width x (1 + deepstack layers); the first share is the input of the first layer,
    /// the others are added to the outputs of the layers that follow.
    pub width_embd: usize,
    /// `[n_tokens, width_embd]`, row by row of the picture.
    pub data: Vec<f32>,
    /// Milliseconds that encoding took.
    pub encode_ms: f64,
}

impl std::fmt::Debug for ImageEmbedding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageEmbedding({}x{} tokens)", self.grid_w, self.grid_h)
    }
}

/// A run of tokens, or a picture in their place.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Tokens of the vocabulary.
    Tokens(Vec<TokenId>),
    /// One picture; shared, since a group of answers and the training step all use it.
    Image(Arc<ImageEmbedding>),
}

/// A prompt as the model takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EncodedPrompt {
    /// The pieces in order; no two runs of tokens are neighbours.
    pub segments: Vec<Segment>,
}

impl EncodedPrompt {
    /// A prompt of bare tokens.
    pub fn from_tokens(tokens: Vec<TokenId>) -> Self {
        Self { segments: vec![Segment::Tokens(tokens)] }
    }

    /// Places in the context that the prompt takes.
    pub fn n_tokens(&self) -> usize {
        self.segments.iter().map(Segment::n_tokens).sum()
    }

    /// Milliseconds that its pictures took to encode.
    pub fn image_encode_ms(&self) -> f64 {
        let ms = |segment: &Segment| match segment {
            Segment::Tokens(_) => 0.0,
            Segment::Image(image) => image.encode_ms,
        };
        self.segments.iter().map(ms).sum()
    }

    /// Positions `[time, height, width, 0]` of every token, from 0.
    ///
    /// M-RoPE of Qwen2-VL (arXiv 2409.12191, section 2.1): text counts all three axes up together; a picture that starts
    /// at p has time p throughout, height p + row, width p + column. For text alone this is the plain position, three
    /// times.
    pub fn positions(&self) -> Vec<[i32; 4]> {
        let mut positions = Vec::with_capacity(self.n_tokens());
        let mut next = 0;
        for segment in &self.segments {
            segment.append_positions(next, &mut positions);
            next += segment.n_positions();
        }
        positions
    }

    /// Position of the first token of the answer: after a picture, its longer side further on.
    pub fn next_position(&self) -> i32 {
        self.segments.iter().map(Segment::n_positions).sum()
    }
}

impl Segment {
    /// Places in the context.
    pub fn n_tokens(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Image(image) => image.n_tokens,
        }
    }

    /// How far the position after the segment is from the one at its start.
    pub(crate) fn n_positions(&self) -> i32 {
        match self {
            Self::Tokens(tokens) => tokens.len() as i32,
            Self::Image(image) => image.grid_w.max(image.grid_h) as i32,
        }
    }

    /// Appends the positions of a segment that starts at position `start`.
    pub(crate) fn append_positions(&self, start: i32, positions: &mut Vec<[i32; 4]>) {
        match self {
            Self::Tokens(tokens) => positions.extend((start..).take(tokens.len()).map(|p| [p, p, p, 0])),
            Self::Image(image) => {
                for row in 0..image.grid_h as i32 {
                    positions.extend((0..image.grid_w as i32).map(|column| [start, start + row, start + column, 0]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
