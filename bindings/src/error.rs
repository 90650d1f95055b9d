//! The one error of the bindings, and the kinds that apps branch on: the table of `owlet_runtime::error_kinds`.

use std::sync::Arc;

use owlet_runtime as runtime;

/// Result of every fallible call.
pub(crate) type Result<T, E = OwletError> = std::result::Result<T, E>;

macro_rules! mirror {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $status:literal, $exit_code:literal;)*) => {
        /// What sort of thing went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, uniffi::Enum)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl From<runtime::ErrorKind> for ErrorKind {
            fn from(kind: runtime::ErrorKind) -> Self {
                match kind {
                    $(runtime::ErrorKind::$kind => Self::$kind,)*
                    // The table is the same one, so there is no other.
                    _ => Self::Internal,
                }
            }
        }

        impl From<ErrorKind> for runtime::ErrorKind {
            fn from(kind: ErrorKind) -> Self {
                match kind {
                    $(ErrorKind::$kind => Self::$kind,)*
                }
            }
        }
    };
}
runtime::error_kinds!(mirror);

/// What failed, where, what was found and what was needed.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ErrorInfo {
    /// What programs branch on.
    pub kind: ErrorKind,
    /// The whole text for people, in English, without the causes.
    pub text: String,
    /// Where: a path, `path:line`, a tensor, an option.
    #[uniffi(default)]
    pub place: Option<String>,
    /// What was found.
    #[uniffi(default)]
    pub got: Option<String>,
    /// What would have been accepted.
    #[uniffi(default)]
    pub needed: Option<String>,
    /// The errors underneath, outermost first.
    #[uniffi(default)]
    pub causes: Vec<String>,
}

/// Every failure of Owlet. Functions of the app that Owlet calls may throw it too.
#[derive(Clone, Debug, thiserror::Error, uniffi::Error)]
pub enum OwletError {
    /// Something failed.
    #[error("{}", info.text)]
    Failure {
        /// What, and why.
        info: ErrorInfo,
    },
}

impl From<runtime::Error> for OwletError {
    fn from(error: runtime::Error) -> Self {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let info = ErrorInfo {
            kind: error.kind().into(),
            text: error.to_string(),
            place: own(error.place()),
            got: own(error.found()),
            needed: own(error.wanted()),
            causes: error.causes(),
        };
        Self::Failure { info }
    }
}

impl From<uniffi::UnexpectedUniFFICallbackError> for OwletError {
    /// What an app throws that is no [`OwletError`].
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        runtime::Error::new(runtime::ErrorKind::Callback, "a function of the app failed").got(error.reason).into()
    }
}

/// The error of a call within which the app's function `place` failed.
pub(crate) fn callback(place: &str, error: OwletError) -> runtime::Error {
    let OwletError::Failure { info } = &error;
    let outer = runtime::Error::new(runtime::ErrorKind::Callback, "a function of the app failed").at(place);
    match &info.got {
        // Without the words that say the same again.
        Some(got) if info.kind == ErrorKind::Callback => outer.got(got.clone()),
        _ => outer.got(info.text.clone()).source(error),
    }
}

/// A kind of error as all surfaces of Owlet know it.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ErrorKindInfo {
    /// The kind.
    pub kind: ErrorKind,
    /// Its name in logs and in C: `not_found`.
    pub name: String,
    /// Its number in C.
    pub status: u32,
    /// What the command line ends with.
    pub exit_code: u8,
}

/// All kinds of errors.
#[uniffi::export]
pub fn error_kinds() -> Vec<ErrorKindInfo> {
    let info = |&kind: &runtime::ErrorKind| ErrorKindInfo {
        kind: kind.into(),
        name: kind.name().to_owned(),
        status: kind.status(),
        exit_code: kind.exit_code(),
    };
    runtime::ErrorKind::ALL.iter().map(info).collect()
}

/// A token that cancels calls from any thread, and at a time of its own. Every call also ends when the task that awaits it is
/// cancelled; then no token is needed.
#[derive(Debug, uniffi::Object)]
pub struct CancelToken(pub(crate) runtime::CancelToken);

#[uniffi::export]
impl CancelToken {
    /// A token that is not cancelled.
    #[uniffi::constructor]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(runtime::CancelToken::new()))
    }

    /// A token that cancels itself after so many milliseconds.
    #[uniffi::constructor]
    pub fn after_ms(milliseconds: u64) -> Arc<Self> {
        Arc::new(Self(runtime::CancelToken::after(std::time::Duration::from_millis(milliseconds))))
    }

    /// Asks all calls that have this token to stop. It stays cancelled: take a new token for new calls.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it was cancelled or its time is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// The token of a call; one that nobody cancels where there is none.
pub(crate) fn token(cancel: Option<Arc<CancelToken>>) -> runtime::CancelToken {
    cancel.map_or_else(runtime::CancelToken::new, |cancel| cancel.0.clone())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn every_kind_crosses_and_is_told_with_its_name_and_numbers() {
        let infos = error_kinds();
        assert_eq!(infos.len(), runtime::ErrorKind::ALL.len());
        for (info, &kind) in infos.iter().zip(runtime::ErrorKind::ALL) {
            let OwletError::Failure { info: crossed } = runtime::Error::new(kind, "cannot").into();
            assert_eq!(crossed.kind, info.kind);
            assert_eq!(runtime::ErrorKind::from(crossed.kind), kind, "{}", info.name);
            assert_eq!((&*info.name, info.status, info.exit_code), (kind.name(), kind.status(), kind.exit_code()));
        }
    }

    #[test]
    fn an_error_crosses_with_all_its_parts() {
        let cause = io::Error::new(io::ErrorKind::UnexpectedEof, "file ends early");
        let error = runtime::Error::new(runtime::ErrorKind::InvalidFile, "cannot load").at("a.gguf");
        let OwletError::Failure { info } = error.got(3).needed("more").source(cause).into();
        let own = |text: &str| Some(text.to_owned());
        let expected = ErrorInfo {
            kind: ErrorKind::InvalidFile,
            text: "cannot load: a.gguf: got 3, needed more".to_owned(),
            place: own("a.gguf"),
            got: own("3"),
            needed: own("more"),
            causes: vec!["file ends early".to_owned()],
        };
        assert_eq!(info, expected);
    }

    #[test]
    fn what_the_app_throws_is_a_callback_error_that_says_where() {
        let unexpected = uniffi::UnexpectedUniFFICallbackError::new("ValueError: no");
        let error = callback("Reward.score", unexpected.into());
        assert_eq!(error.kind(), runtime::ErrorKind::Callback);
        assert_eq!(error.to_string(), "a function of the app failed: Reward.score: got ValueError: no");
        // One of ours, from a call that the app made in its function.
        let inner = runtime::Error::new(runtime::ErrorKind::Limit, "too large").got(7);
        let error = callback("Reward.score", inner.into());
        assert_eq!(error.to_string(), "a function of the app failed: Reward.score: got too large: got 7");
        assert_eq!(error.kind(), runtime::ErrorKind::Callback);
    }
}
