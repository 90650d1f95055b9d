//! What goes wrong on a network, and whether another try may help.

use std::{io, time::Duration};

use owlet_runtime::{Error, ErrorKind};
use ureq::http::{HeaderMap, StatusCode, header};

use super::source::without_secrets;

/// A failure of one attempt.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether to try once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The same would happen.
    Never,
    /// If the server was reached before: otherwise there is no network, and waiting only hides it.
    IfReached,
    /// After a pause, at least as long as the server asked for.
    After(Duration),
}

/// What became of the token in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenUse<'a> {
    /// It was sent.
    Sent(&'a str),
    /// There is none.
    None,
    /// It was held back, since the endpoint would get it in the clear.
    InTheClear,
    /// It was held back, since this is not the endpoint.
    AnotherServer,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { error, again: Again::Never }
    }
}

impl Trouble {
    /// A failure that may pass.
    pub(super) fn passing(error: Error) -> Self {
        Self { error, again: Again::After(Duration::ZERO) }
    }

    /// What the client says of a request to `url`.
    pub(super) fn of_request(url: &str, source: ureq::Error) -> Self {
        let place = without_secrets(url);
        let network = |what: &str| Error::new(ErrorKind::Network, what).at(&place);
        let offline = "a connection to the host: check the network, HTTPS_PROXY, or name a mirror by --endpoint";
        match source {
            // Names are not found either while a network is away for a moment.
            ureq::Error::HostNotFound => {
                Self { error: network("cannot find the host").needed(offline), again: Again::IfReached }
            }
            ureq::Error::Timeout(_) | ureq::Error::Io(_) | ureq::Error::ConnectionFailed => Self {
                error: network("cannot reach the server, or it does not answer").needed(offline).source(source),
                again: Again::IfReached,
            },
            ureq::Error::ConnectProxyFailed(_) => {
                let needed = "a proxy that lets through to the host: check HTTPS_PROXY and NO_PROXY";
                Self { error: network("the proxy refused").needed(needed).source(source), again: Again::IfReached }
            }
            ureq::Error::Protocol(_) => Self::passing(network("the server's answer is no HTTP").source(source)),
            _ => network("cannot ask the server").source(source).into(),
        }
    }

    /// A body that broke off or stalled after `done` of `total` bytes.
    pub(super) fn of_body(url: &str, done: u64, total: Option<u64>, source: Option<io::Error>) -> Self {
        let total = total.map_or("an unknown number of".to_owned(), |total| total.to_string());
        let stalled = source.as_ref().is_some_and(is_timeout);
        let what = if stalled { "the transfer stalled" } else { "the connection was cut" };
        let error = Error::new(ErrorKind::Network, what).at(without_secrets(url)).got(format!("{done} bytes"));
        let error = error.needed(format!("{total} bytes"));
        Self::passing(match source {
            Some(source) => error.source(source),
            None => error,
        })
    }

    /// A response that is no success.
    pub(super) fn of_status(url: &str, status: StatusCode, headers: &HeaderMap, token: TokenUse<'_>) -> Self {
        let told = ["x-error-code", "x-error-message"].map(|name| text(headers, name)).into_iter().flatten();
        let mut got = status.to_string();
        for words in told {
            got = format!("{got} ({words})");
        }
        let access = match token {
            TokenUse::None => {
                "a token of an account that may read it in HF_TOKEN: the repository is gated, private or misspelt"
            }
            TokenUse::Sent(_) => {
                "access for the account of HF_TOKEN: accept the terms on the model's page, or check the name"
            }
            TokenUse::InTheClear => "an endpoint with https: HF_TOKEN was not sent, since http would show it to others",
            TokenUse::AnotherServer => "a server that asks for no token, or that of --endpoint: no other gets HF_TOKEN",
        };
        let needed = match status.as_u16() {
            401 | 403 => access,
            404 | 410 => "an existing repository, revision and file: check the spelling",
            429 => "fewer requests: wait some minutes, or set HF_TOKEN, which raises the limit",
            500.. => "a server in order: try again later, or name a mirror by --endpoint",
            _ => "a file",
        };
        let kind = if matches!(status.as_u16(), 404 | 410) { ErrorKind::NotFound } else { ErrorKind::Network };
        let error = Error::new(kind, "the server refused").at(without_secrets(url)).got(got).needed(needed);
        // Seconds; a date in its place is as good as nothing said.
        let asked = text(headers, header::RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        let again = match status.as_u16() {
            408 | 429 | 500.. => Again::After(Duration::from_secs(asked)),
            _ => Again::Never,
        };
        Self { error, again }
    }
}

/// Whether a read ended by a timeout: the client's own errors come in a wrapper.
fn is_timeout(error: &io::Error) -> bool {
    let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    error.kind() == io::ErrorKind::TimedOut || matches!(wrapped, Some(ureq::Error::Timeout(_)))
}

/// A header's text, without what a terminal would obey and no longer than a line.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().filter(|c| !c.is_control()).take(160).collect())
}
