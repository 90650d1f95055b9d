//! What becomes of a question that no longer fits the context together with what was said before.

use serde::{Deserialize, Serialize};

use super::{ChatMessage, ConversationOptions};
use crate::{Error, ErrorKind, Result, prompt::Role};

/// What becomes of a question that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OverflowPolicy {
    /// It is refused with `ContextOverflow` and the numbers, and the conversation stays as it is.
    #[default]
    Refuse,
    /// The oldest turns (question, pictures and answer) are forgotten until it fits. The instructions stay. What is left
    /// is computed anew from there on. A question that does not even fit alone is refused, what a tool found where it does not
    /// fit with the turn that called the tool.
    DropOldestTurns,
}

/// Messages up to the end of the oldest turn in `messages` that `question` can do without; `None` when there is none. What a
/// tool found belongs to the turn that called it.
pub(super) fn oldest_turn(messages: &[ChatMessage], question: Role) -> Option<usize> {
    let later = messages.iter().skip(1).position(|message| message.role == Role::User);
    let whole = (question != Role::Tool && !messages.is_empty()).then_some(messages.len());
    later.map(|behind_first| behind_first + 1).or(whole)
}

impl ConversationOptions {
    /// Refuses a prompt of `n_tokens` that leaves no room for an answer in a context of `n_ctx`.
    pub(super) fn check_room(&self, n_tokens: usize, n_ctx: usize) -> Result<()> {
        // Without any room not even the first token can be decoded.
        let room = self.answer_room.min(self.answer.max_new_tokens).max(1);
        if n_tokens.saturating_add(room) <= n_ctx {
            return Ok(());
        }
        let error = Error::new(ErrorKind::ContextOverflow, "the conversation does not fit the context");
        let got = format!("{n_tokens} tokens and {room} for the answer");
        Err(error.got(got).needed(format!("at most {n_ctx}")))
    }
}
