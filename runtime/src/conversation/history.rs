//! What was said: texts as they were, pictures as the model sees them.

use std::sync::Arc;

use crate::{
    prompt::{ImageEmbedding, Outline, Piece, Role},
    tools::ToolCall,
};

/// What one side said.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What was said, in order. Answers are one text, with their thinking and its tags.
    pub parts: Vec<ChatPart>,
    /// Tools that the model called behind that.
    pub calls: Vec<ToolCall>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatPart {
    /// Text.
    Text(String),
    /// A picture; its pixels are not kept.
    Picture(Arc<ImageEmbedding>),
}

impl ChatMessage {
    pub(super) fn outline(&self) -> Outline<'_> {
        Outline { role: self.role, pieces: self.parts.iter().map(ChatPart::piece).collect(), calls: &self.calls }
    }

    pub(super) fn pictures(&self) -> impl Iterator<Item = &Arc<ImageEmbedding>> {
        self.parts.iter().filter_map(|part| match part {
            ChatPart::Text(_) => None,
            ChatPart::Picture(picture) => Some(picture),
        })
    }
}

impl ChatPart {
    fn piece(&self) -> Piece<'_> {
        match self {
            Self::Text(text) => Piece::Text(text),
            Self::Picture(_) => Piece::Picture,
        }
    }
}
