//! What a command returns when it cannot go on, and what the shell and the person are told about it.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done; also when the reader of our output went away |
//! | 1 | something given to us is wrong, the command line included |
//! | 2 | Owlet or llama.cpp failed |
//! | 130 | stopped by Ctrl-C, SIGTERM or `--time-limit` |
//!
//! [`ErrorKind::exit_code`] has the table of it.

use std::{fmt::Write as _, io};

use owlet::{Error, ErrorKind};

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error, with what might help.
    Error { error: Error, hints: Vec<String> },
    /// Whoever read our output has had enough (`owlet … | head -1`): no failure at all.
    BrokenPipe,
}

impl Failure {
    /// A wrong argument: `what` the argument is, what it was and what it may be.
    pub(crate) fn argument(what: &str, got: impl std::fmt::Display, needed: impl std::fmt::Display) -> Self {
        Error::new(ErrorKind::InvalidInput, what).got(got).needed(needed).into()
    }

    /// A failed write to stdout.
    pub(crate) fn stdout(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Error::new(ErrorKind::Io, "cannot write to standard output").source(source).into()
    }

    /// Adds what might help.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Error { hints, .. } = &mut self {
            hints.push(hint.into());
        }
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Error { error, .. } => error.kind().exit_code(),
        }
    }

    /// The lines for stderr: `error: …`, its causes, then `hint: …`; `None` when there is nothing to tell.
    pub(crate) fn message(&self) -> Option<String> {
        let Self::Error { error, hints } = self else { return None };
        let mut text = format!("error: {error}");
        for cause in error.causes() {
            let _ = write!(text, "\n  caused by: {cause}");
        }
        for hint in hints.iter().map(String::as_str).chain(general_hint(error.kind())) {
            let _ = write!(text, "\nhint: {hint}");
        }
        Some(text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error { error, hints: Vec::new() }
    }
}

/// Adds what might help to an error on its way up.
pub(crate) trait Teach<T> {
    /// Adds `hint` when the error is of `kind`.
    fn hint(self, kind: ErrorKind, hint: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Failure>> Teach<T> for std::result::Result<T, E> {
    fn hint(self, kind: ErrorKind, hint: impl Into<String>) -> Result<T> {
        self.map_err(|error| {
            let failure = error.into();
            let is_meant = matches!(&failure, Failure::Error { error, .. } if error.kind() == kind);
            if is_meant { failure.with_hint(hint) } else { failure }
        })
    }
}

/// What helps with every error of a kind.
fn general_hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Backend => Some("run again with `--verbose` to read llama.cpp's own messages"),
        ErrorKind::Internal => Some("this is a bug of Owlet: please report it, with the output of `--verbose`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_table() {
        for &kind in ErrorKind::ALL {
            assert_eq!(Failure::from(Error::new(kind, "x")).exit_code(), kind.exit_code(), "{}", kind.name());
        }
        assert_eq!(Failure::BrokenPipe.exit_code(), 0);
    }

    #[test]
    fn a_message_is_the_error_its_causes_and_the_hints_of_its_kind() {
        let cause = io::Error::new(io::ErrorKind::UnexpectedEof, "file ends early");
        let error = Error::new(ErrorKind::InvalidFile, "cannot load model").at("a.gguf").source(cause);
        let failed: std::result::Result<(), Error> = Err(error);
        let failure = failed
            .hint(ErrorKind::InvalidFile, "download it again")
            .hint(ErrorKind::NotFound, "not for this kind")
            .expect_err("it stays an error");
        assert_eq!(
            failure.message().expect("an error has a message"),
            "error: cannot load model: a.gguf\n  caused by: file ends early\nhint: download it again"
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::stdout(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.message().is_none());
        assert_eq!(failure.exit_code(), 0);
    }
}
