//! Where a constrained answer begins: behind the thinking and the tags, which the grammar knows nothing of.
//!
//! At the door the model may begin the answer or a tag, in any tokens: that which completes the tag of thinking may have more
//! of it. Tokens that fit both leave it open until they fit one only. Behind a tag come up to [`MAX_BLANKS`] tokens of blank space, which models
//! are used to write there; they belong to no one.

use super::{constraint::Constraint, grammar::GrammarText};
use crate::{
    Error, ErrorKind, Result,
    model::{Model, TokenId},
    think::{ANSWER_TAG, THINK_TAGS},
};

/// Tokens of blank space between a tag and the answer.
const MAX_BLANKS: usize = 2;

/// What all answers under a constraint begin with.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    model: Model,
    start: GrammarText,
}

impl Entrance {
    /// # Errors
    /// As [`GrammarText::new`]; `Unsupported` when no token of the model begins such an answer, or none is complete but the
    /// empty one.
    pub(super) fn new(model: &Model, constraint: &Constraint) -> Result<Self> {
        let start = GrammarText::new(model, constraint)?;
        let n_vocab = model.info().n_vocab as TokenId;
        if !(0..n_vocab).any(|token| !model.is_eog(token) && start.allows(token)) {
            let error = Error::new(ErrorKind::Unsupported, "the constraint leaves no answer");
            return Err(error.got("no token of the model that begins one"));
        }
        Ok(Self { model: model.clone(), start })
    }

    /// The answer that begins with `text`, if one does.
    fn begin(&self, text: &str) -> Option<GrammarText> {
        let mut begun = self.start.clone();
        for token in self.model.grammar_tokens().spell(text) {
            if !begun.allows(token) {
                return None;
            }
            begun.push(token);
        }
        Some(begun)
    }

    /// Before an answer, which the model may think about first if it `may_think`. An answer that begins in its thoughts gets to
    /// the door at [`Gate::reopen`].
    pub(super) fn gate(&self, may_think: bool) -> Gate {
        let mut gate = Gate { entrance: self.clone(), place: Place::Inside(self.start.clone()), may_think };
        gate.place = gate.door(0);
        gate
    }
}

/// How far a constrained answer is.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    entrance: Entrance,
    place: Place,
    /// Whether the model may think before it answers.
    may_think: bool,
}

#[derive(Clone, Debug)]
enum Place {
    /// Nothing is decided.
    Door {
        /// Tags that begin with what was written here.
        tags: Vec<&'static str>,
        /// Bytes written here.
        n_written: usize,
        /// The answer that begins with them, if one does.
        text: Option<GrammarText>,
        /// Blank tokens that may still come.
        n_blanks: usize,
    },
    /// In the answer.
    Inside(GrammarText),
}

impl Gate {
    fn door(&self, n_blanks: usize) -> Place {
        let mut tags = vec![ANSWER_TAG];
        if self.may_think {
            tags.extend(THINK_TAGS.iter().map(|tags| tags.opening));
        }
        Place::Door { tags, n_written: 0, text: Some(self.entrance.start.clone()), n_blanks }
    }

    /// The thinking ended, and begins again only if it `may_think`. `held` is what the token of the tag had behind it, if a tag
    /// may begin with it.
    pub(super) fn reopen(&mut self, may_think: bool, held: &str) {
        self.may_think = may_think;
        self.place = self.door(MAX_BLANKS);
        if let Place::Door { tags, n_written, text, .. } = &mut self.place
            && !held.is_empty()
        {
            tags.retain(|tag| tag.starts_with(held));
            *n_written = held.len();
            *text = self.entrance.begin(held);
        }
    }

    /// Whether `token` may come next, outside of thoughts.
    pub(super) fn allows(&self, token: TokenId) -> bool {
        match &self.place {
            Place::Inside(text) => text.allows(token),
            Place::Door { tags, n_written, text, n_blanks } => {
                let bytes = self.entrance.model.grammar_tokens().bytes(token);
                tags.iter().any(|tag| continues(tag, *n_written, bytes))
                    || text.as_ref().is_some_and(|text| text.allows(token))
                    || (*n_blanks > 0 && *n_written == 0 && self.entrance.model.grammar_tokens().is_blank(token))
            }
        }
    }

    /// Notes `token`, which is allowed. Returns whether the answer is decided upon: all text since the last tag belongs to it,
    /// and tags in it are text.
    pub(super) fn push(&mut self, token: TokenId) -> bool {
        let (tags, n_written, text, n_blanks) = match &mut self.place {
            Place::Inside(text) => {
                text.push(token);
                return true;
            }
            Place::Door { tags, n_written, text, n_blanks } => (tags, n_written, text, n_blanks),
        };
        let fits = text.as_ref().is_some_and(|text| text.allows(token));
        let bytes = self.entrance.model.grammar_tokens().bytes(token);
        let is_of_tag = |tag: &&'static str| continues(tag, *n_written, bytes);
        if !fits && !tags.iter().any(is_of_tag) {
            // Only blank space fits neither.
            *n_blanks = n_blanks.saturating_sub(1);
            return false;
        }
        tags.retain(is_of_tag);
        *n_written += bytes.len();
        match text {
            Some(begun) if fits => begun.push(token),
            _ => *text = None,
        }
        if tags.iter().any(|tag| tag.len() <= *n_written) {
            // Behind `<answer>` come no more tags; of thinking the end is what counts, see `reopen`.
            let text = Some(self.entrance.start.clone());
            self.place = Place::Door { tags: Vec::new(), n_written: 0, text, n_blanks: MAX_BLANKS };
            return false;
        }
        if tags.is_empty()
            && let Some(begun) = text.take()
        {
            self.place = Place::Inside(begun);
            return true;
        }
        false
    }

    /// Notes `text`, the end of the token that ended the thinking. Returns whether an answer can begin with it.
    pub(super) fn push_text(&mut self, text: &str) -> bool {
        let Some(begun) = self.entrance.begin(text) else { return false };
        self.place = Place::Inside(begun);
        true
    }

    /// Whether the answer may end here.
    pub(super) fn is_complete(&self) -> bool {
        match &self.place {
            Place::Inside(text) => text.is_complete(),
            Place::Door { text, .. } => text.as_ref().is_some_and(GrammarText::is_complete),
        }
    }
}

/// Whether `bytes` of a token continue `tag`, of which `n_written` bytes were written.
fn continues(tag: &str, n_written: usize, bytes: &[u8]) -> bool {
    let rest = &tag.as_bytes()[n_written..];
    let may_go_on = THINK_TAGS.iter().any(|tags| tags.opening == tag);
    !bytes.is_empty() && (rest.starts_with(bytes) || (may_go_on && bytes.starts_with(rest)))
}
