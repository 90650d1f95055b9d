//! The one error type of all Owlet crates: what failed, where, what was found, what was needed.
//!
//! A message reads `cannot load adapter: tensor blk.3.attn_q.weight.lora_a: got [2048, 8], needed [3072, 8]`.
//! The kind is what programs branch on (C status codes, Swift and Kotlin error cases and CLI exit codes follow it);
//! the text is for people.

use std::{fmt, io, path::Path};

/// Result of every fallible Owlet call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or directory does not exist.
    NotFound,
    /// The operating system refused a read or a write.
    Io,
    /// A file is not what its format demands: truncated, lying lengths, not an image, malformed JSON.
    InvalidFile,
    /// Well formed, but something Owlet does not handle: an architecture, a tensor type, an option's value.
    Unsupported,
    /// Two things that must fit do not: projector and model, adapter and model, checkpoint and data set.
    Mismatch,
    /// An argument is out of its documented range.
    InvalidInput,
    /// The tokens asked for do not fit the context.
    ContextOverflow,
    /// Something exceeds a stated limit: pixels of an image, bytes of memory.
    Limit,
    /// The caller cancelled the work.
    Cancelled,
    /// A server was not reached, broke off, or refused.
    Network,
    /// Somebody else is using it: another process writes to the same folder.
    Busy,
    /// A training whose numbers left their range, again and again.
    Diverged,
    /// An adapter that changes nothing: it was never trained, or its scale is too small to matter.
    NoEffect,
    /// llama.cpp or ggml failed for a reason it did not tell.
    Backend,
    /// Owlet broke a rule of its own: please report it.
    Internal,
}

/// What failed, where, what was found and what was needed.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    what: String,
    place: Option<String>,
    got: Option<String>,
    needed: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `what` says what could not be done, in lower case, without a full stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), place: None, got: None, needed: None, source: None }))
    }

    /// An input/output error at `path`; a missing file becomes [`ErrorKind::NotFound`].
    pub fn io(what: impl Into<String>, path: &Path, source: io::Error) -> Self {
        let kind = if source.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Self::new(kind, what).at(path.display()).source(source)
    }

    /// Where: a path, `path:line`, a tensor, a key. Each call is the place around the one before; a place that the
    /// error begins with already is not said twice, so whoever knows a file may name it.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        let place = place.to_string();
        self.0.place = Some(match self.0.place.take() {
            Some(inner) if inner == place || inner.starts_with(&format!("{place}: ")) => inner,
            Some(inner) => format!("{place}: {inner}"),
            None => place,
        });
        self
    }

    /// What was found.
    #[must_use]
    pub fn got(mut self, got: impl fmt::Display) -> Self {
        self.0.got = Some(got.to_string());
        self
    }

    /// What would have been accepted.
    #[must_use]
    pub fn needed(mut self, needed: impl fmt::Display) -> Self {
        self.0.needed = Some(needed.to_string());
        self
    }

    /// The error underneath.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { what, place, got, needed, .. } = &*self.0;
        f.write_str(what)?;
        if let Some(place) = place {
            write!(f, ": {place}")?;
        }
        match (got, needed) {
            (Some(got), Some(needed)) => write!(f, ": got {got}, needed {needed}"),
            (Some(got), None) => write!(f, ": got {got}"),
            (None, Some(needed)) => write!(f, ": needed {needed}"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
