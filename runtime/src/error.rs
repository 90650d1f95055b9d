//! The one error type of all Owlet crates: what failed, where, what was found, what was needed.
//!
//! A message reads `cannot load adapter: tensor blk.3.attn_q.weight.lora_a: got [2048, 8], needed [3072, 8]`.
//! The kind is what programs branch on ([`ErrorKind`] has the one table of it); the text is for people.

mod kind;

use std::{fmt, io, path::Path};

pub use self::kind::ErrorKind;

/// Result of every fallible Owlet call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

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

    /// Where, as the calls of [`Error::at`] put it together.
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }

    /// What was found, as [`Error::got`] said.
    pub fn found(&self) -> Option<&str> {
        self.0.got.as_deref()
    }

    /// What would have been accepted, as [`Error::needed`] said.
    pub fn wanted(&self) -> Option<&str> {
        self.0.needed.as_deref()
    }

    /// The texts of the errors underneath, from the outermost on. Some errors repeat their source's words in their own:
    /// those are left out.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut told = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            let text = source.to_string();
            if !told.contains(&text) {
                causes.push(text.clone());
                told = text;
            }
            cause = source.source();
        }
        causes
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
