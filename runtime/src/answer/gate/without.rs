//! In place of gate.rs where the cargo feature `grammar` is off: constraints are refused.

use super::constraint::Constraint;
use crate::{
    Error, ErrorKind, Result,
    model::{Model, TokenId},
};

/// Cannot be made.
pub(super) enum Entrance {}

/// Cannot be made.
#[derive(Clone, Debug)]
pub(super) enum Gate {}

impl Entrance {
    /// # Errors
    /// `Unsupported`.
    pub(super) fn new(_: &Model, _: &Constraint) -> Result<Self> {
        let error = Error::new(ErrorKind::Unsupported, "constraints were left out of this build");
        Err(error.needed("the cargo feature `grammar`"))
    }

    pub(super) fn gate(&self, _: bool) -> Gate {
        match *self {}
    }
}

impl Gate {
    pub(super) fn reopen(&mut self, _: bool, _: &str) {
        match *self {}
    }

    pub(super) fn allows(&self, _: TokenId) -> bool {
        match *self {}
    }

    pub(super) fn push(&mut self, _: TokenId) -> bool {
        match *self {}
    }

    pub(super) fn push_text(&mut self, _: &str) -> bool {
        match *self {}
    }

    pub(super) fn is_complete(&self) -> bool {
        match *self {}
    }
}
