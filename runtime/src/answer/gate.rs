//! Where a constrained answer begins: behind the thinking and the tags, which the grammar knows nothing of.
//!
//! At the door the model may write the answer's first token or open a tag, as its tokenizer spells the tag. Tokens that fit
//! both leave it open until they fit one only. Behind a tag come up to [`MAX_BLANKS`] tokens of blank space, which models
//! are used to write there; they belong to no one.

use super::{constraint::Constraint, grammar::GrammarText};
use crate::{
    Error, ErrorKind, Result,
    model::{Model, TokenId},
};

/// Tokens of blank space between a tag and the answer.
const MAX_BLANKS: usize = 2;

/// What all answers under a constraint begin with.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    model: Model,
    start: GrammarText,
    thinking_tags: [Vec<TokenId>; 2],
    answer_tag: Vec<TokenId>,
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
        let tokens = |tag| model.tokenize(tag, true);
        let thinking_tags = [tokens("<think>")?, tokens("<thinking>")?];
        Ok(Self { model: model.clone(), start, thinking_tags, answer_tag: tokens("<answer>")? })
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
        tags: Vec<Vec<TokenId>>,
        /// Tokens written here.
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
        let mut tags = vec![self.entrance.answer_tag.clone()];
        if self.may_think {
            tags.extend(self.entrance.thinking_tags.iter().cloned());
        }
        Place::Door { tags, n_written: 0, text: Some(self.entrance.start.clone()), n_blanks }
    }

    /// The thinking ended, and begins again only if it `may`.
    pub(super) fn reopen(&mut self, may_think: bool) {
        self.may_think = may_think;
        self.place = self.door(MAX_BLANKS);
    }

    /// Whether `token` may come next, outside of thoughts.
    pub(super) fn allows(&self, token: TokenId) -> bool {
        match &self.place {
            Place::Inside(text) => text.allows(token),
            Place::Door { tags, n_written, text, n_blanks } => {
                tags.iter().any(|tag| tag.get(*n_written) == Some(&token))
                    || text.as_ref().is_some_and(|text| text.allows(token))
                    || (*n_blanks > 0 && *n_written == 0 && self.entrance.model.grammar_tokens().is_blank(token))
            }
        }
    }

    /// Notes `token`, which is allowed. Returns whether the answer is decided upon: all text since the last tag belongs to it,
    /// and tags in it are text.
    ///
    /// # Errors
    /// As [`GrammarText::push`].
    pub(super) fn push(&mut self, token: TokenId) -> Result<bool> {
        let (tags, n_written, text, n_blanks) = match &mut self.place {
            Place::Inside(text) => {
                text.push(token)?;
                return Ok(true);
            }
            Place::Door { tags, n_written, text, n_blanks } => (tags, n_written, text, n_blanks),
        };
        let fits = text.as_ref().is_some_and(|text| text.allows(token));
        let is_of_tag = |tag: &Vec<TokenId>| tag.get(*n_written) == Some(&token);
        if !fits && !tags.iter().any(is_of_tag) {
            // Only blank space fits neither.
            *n_blanks = n_blanks.saturating_sub(1);
            return Ok(false);
        }
        tags.retain(is_of_tag);
        *n_written += 1;
        match text {
            Some(begun) if fits => begun.push(token)?,
            _ => *text = None,
        }
        if tags.iter().any(|tag| tag.len() == *n_written) {
            // Behind `<answer>` come no more tags; of thinking the end is what counts, see `reopen`.
            let text = Some(self.entrance.start.clone());
            self.place = Place::Door { tags: Vec::new(), n_written: 0, text, n_blanks: MAX_BLANKS };
            return Ok(false);
        }
        if tags.is_empty()
            && let Some(begun) = text.take()
        {
            self.place = Place::Inside(begun);
            return Ok(true);
        }
        Ok(false)
    }

    /// Notes `text`, the end of the token that ended the thinking. Returns whether an answer can begin with it.
    ///
    /// # Errors
    /// As [`GrammarText::push`].
    pub(super) fn push_text(&mut self, text: &str) -> Result<bool> {
        let mut begun = self.entrance.start.clone();
        for token in self.entrance.model.grammar_tokens().spell(text) {
            if !begun.allows(token) {
                return Ok(false);
            }
            begun.push(token)?;
        }
        self.place = Place::Inside(begun);
        Ok(true)
    }

    /// Whether the answer may end here.
    pub(super) fn is_complete(&self) -> bool {
        match &self.place {
            Place::Inside(text) => text.is_complete(),
            Place::Door { text, .. } => text.as_ref().is_some_and(GrammarText::is_complete),
        }
    }
}
