//! HTTP for downloads: redirects followed with open eyes, timeouts on every wait, and a token that stays with its host.

use std::{cell::Cell, net::IpAddr, time::Duration};

use owlet_runtime::{Error, ErrorKind, Result};
use ureq::http::{HeaderMap, Uri, header};

use super::{
    proxy::Proxies,
    source::{segment, segments, without_secrets},
    trouble::{TokenUse, Trouble},
};

/// Redirects that are followed: the hub needs one, renamed repositories another.
const MAX_REDIRECTS: usize = 8;
/// Most bytes of a list of files; that of the largest repositories takes a few hundred kilobytes.
const MAX_LISTING_BYTES: u64 = 32 << 20;

/// One server of models and whatever it redirects to.
pub(super) struct Client {
    agent: ureq::Agent,
    proxies: Proxies,
    endpoint: String,
    token: Option<String>,
    /// Whether anything has answered yet, a redirect included.
    reached: Cell<bool>,
}

/// A response with its body still to come.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// SHA-256 by which the hub names the file, told on the way (`x-linked-etag`).
    pub(super) linked_sha256: Option<String>,
    pub(super) body: ureq::Body,
}

impl Client {
    /// `stall` bounds every single wait: for a connection, for a response, for the next bytes.
    ///
    /// # Errors
    /// `InvalidInput` for an endpoint that is no `http` or `https` address.
    pub(super) fn new(endpoint: &str, token: Option<&str>, stall: Duration) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        parse(&endpoint)?;
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("owlet/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(stall))
            .timeout_connect(Some(stall))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall));
        Ok(Self {
            agent: config.build().into(),
            proxies: Proxies::from_env(),
            endpoint,
            token: token.map(str::to_owned),
            reached: Cell::new(false),
        })
    }

    /// Whether any server has answered any request: then there is a network.
    pub(super) fn was_reached(&self) -> bool {
        self.reached.get()
    }

    /// A handle that ends every transfer from another thread.
    pub(super) fn agent(&self) -> ureq::Agent {
        self.agent.clone()
    }

    /// The address of the list of a repository's files.
    pub(super) fn listing_url(&self, repo: &str, revision: &str) -> String {
        format!("{}/api/models/{repo}/revision/{}?blobs=true", self.endpoint, segment(revision))
    }

    /// The address of a file of a repository.
    pub(super) fn file_url(&self, repo: &str, commit: &str, path: &str) -> String {
        format!("{}/{repo}/resolve/{}/{}", self.endpoint, segment(commit), segments(path))
    }

    /// The whole body of a short document.
    pub(super) fn document(&self, url: &str) -> Result<Vec<u8>, Trouble> {
        let mut response = self.get(url, 0)?;
        let read = response.body.with_config().limit(MAX_LISTING_BYTES).read_to_vec();
        read.map_err(|source| Trouble::of_request(url, source))
    }

    /// Asks for `url` from byte `offset` on; success is 200, 206 or 416.
    pub(super) fn get(&self, url: &str, offset: u64) -> Result<Response, Trouble> {
        let mut url = url.to_owned();
        let mut linked_sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let token = self.token_for(&url)?;
            let proxy = self.proxies.of(&parse(&url)?)?;
            let mut request = self.agent.get(&url).config().proxy(proxy).build();
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            if let TokenUse::Sent(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|source| Trouble::of_request(&url, source))?;
            self.reached.set(true);
            let (parts, body) = response.into_parts();
            linked_sha256 = linked_sha256.or_else(|| linked(&parts.headers));
            let status = parts.status;
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                url = next(&url, &parts.headers)?;
                continue;
            }
            if !matches!(status.as_u16(), 200 | 206 | 416) {
                return Err(Trouble::of_status(&url, status, &parts.headers, token));
            }
            return Ok(Response { status: status.as_u16(), headers: parts.headers, linked_sha256, body });
        }
        let error = Error::new(ErrorKind::Network, "redirected in circles").at(without_secrets(&url));
        Err(error.needed(format!("a file within {MAX_REDIRECTS} redirects")).into())
    }

    /// The token, for addresses of the endpoint's own scheme, host and port.
    fn token_for(&self, url: &str) -> Result<TokenUse<'_>> {
        let (url, endpoint) = (parse(url)?, parse(&self.endpoint)?);
        let is_private = endpoint.scheme_str() == Some("https") || is_this_machine(&endpoint);
        Ok(match &self.token {
            None => TokenUse::None,
            Some(_) if origin(&url) != origin(&endpoint) => TokenUse::AnotherServer,
            Some(_) if !is_private => TokenUse::InTheClear,
            Some(token) => TokenUse::Sent(token),
        })
    }
}

/// The address as its parts.
fn parse(url: &str) -> Result<Uri> {
    let refused = || {
        let error = Error::new(ErrorKind::InvalidInput, "not an address to download from").got(without_secrets(url));
        error.needed("http://HOST/... or https://HOST/...")
    };
    let uri: Uri = without_fragment(url).parse().map_err(|_| refused())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
    if is_web { Ok(uri) } else { Err(refused()) }
}

fn without_fragment(url: &str) -> &str {
    url.split('#').next().unwrap_or_default()
}

fn origin(uri: &Uri) -> (Option<&str>, Option<String>, u16) {
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port(uri))
}

/// The port that is meant, said or not.
pub(super) fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// Whether the host is the machine itself.
pub(super) fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Where a redirect leads (RFC 9110, section 10.2.2); never from https to http.
fn next(url: &str, headers: &HeaderMap) -> Result<String> {
    let refused = |why: &str| Error::new(ErrorKind::Network, why).at(without_secrets(url));
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| refused("redirected to nowhere"))?;
    let here = parse(url)?;
    let scheme = here.scheme_str().unwrap_or("https");
    let authority = here.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let target = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = here.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    if scheme == "https" && !target.starts_with("https://") {
        return Err(refused("redirected from https to http"));
    }
    Ok(target)
}

/// The SHA-256 in the hub's `x-linked-etag`, which names large files; small ones have another hash.
fn linked(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get("x-linked-etag")?.to_str().ok()?.trim_matches('"');
    is_sha256(tag).then(|| tag.to_ascii_lowercase())
}

/// Whether `text` is a SHA-256 in hexadecimal.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say_but_not_out_of_https() {
        let cases = [
            ("https://a/x/y", "https://b/z?q=1", Some("https://b/z?q=1")),
            ("https://a/x/y", "/z", Some("https://a/z")),
            ("https://a:8/x/y?q", "z", Some("https://a:8/x/z")),
            ("https://a/x", "//c/z", Some("https://c/z")),
            ("http://a/x", "http://b/", Some("http://b/")),
            ("http://a/x", "https://b/", Some("https://b/")),
            ("https://a/x", "http://a/x", None),
        ];
        for (url, location, expected) in cases {
            let headers = HeaderMap::from_iter([(header::LOCATION, location.parse().expect("a header"))]);
            assert_eq!(next(url, &headers).ok().as_deref(), expected, "{url} to {location}");
        }
        assert!(next("https://a/x", &HeaderMap::new()).is_err());
    }

    #[test]
    fn the_token_goes_to_the_endpoint_alone_and_never_in_the_clear() {
        let cases = [
            ("https://hub", "https://hub/a", true),
            ("https://hub", "https://HUB:443/a", true),
            ("https://hub", "http://hub/a", false),
            ("https://hub", "https://hub.evil/a", false),
            ("https://hub", "https://hub:444/a", false),
            ("https://hub", "https://hub@evil/a", false),
            ("http://lan", "http://lan/a", false),
            ("http://127.0.0.1:5", "http://127.0.0.1:5/a", true),
        ];
        for (endpoint, url, expected) in cases {
            let client = Client::new(endpoint, Some("secret"), Duration::from_secs(1)).expect("a client");
            let token = client.token_for(url).expect("an address");
            assert_eq!(matches!(token, TokenUse::Sent("secret")), expected, "{endpoint} and {url}");
        }
        assert!(Client::new("ftp://hub", None, Duration::from_secs(1)).is_err());
    }
}
