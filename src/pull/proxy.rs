//! Which proxy a request goes through: what the variables say that curl and others obey as well.

use std::{env, net::IpAddr};

use owlet_runtime::{Error, ErrorKind, Result};
use ureq::{Proxy, ProxyProtocol, http::Uri};

use super::client::{is_this_machine, port};

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` for what has none of its own, and `NO_PROXY`; names in lower case come first,
/// empty ones count as unset.
pub(super) struct Proxies {
    /// Proxies with the variables that name them; addresses may hold passwords.
    https: Option<Named>,
    http: Option<Named>,
    /// Hosts that are asked without a proxy, as written.
    exempt: Vec<String>,
}

type Named = (&'static str, String);

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self::new(|name| env::var(name).ok())
    }

    fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let find = |name: &'static str| {
            let spellings = [name.to_ascii_lowercase(), name.to_owned()];
            let values = spellings.iter().filter_map(|name| variable(name));
            values.map(|value| value.trim().to_owned()).find(|value| !value.is_empty()).map(|value| (name, value))
        };
        let exempt = find("NO_PROXY").map(|(_, list)| list).unwrap_or_default();
        Self {
            https: find("HTTPS_PROXY").or_else(|| find("ALL_PROXY")),
            http: find("HTTP_PROXY").or_else(|| find("ALL_PROXY")),
            exempt: exempt.split(',').map(|entry| entry.trim().to_ascii_lowercase()).collect(),
        }
    }

    /// The proxy for requests to `uri`; none to this machine, to which no proxy has a way.
    ///
    /// # Errors
    /// `InvalidInput` for a variable that holds no address, `Unsupported` for SOCKS.
    pub(super) fn of(&self, uri: &Uri) -> Result<Option<Proxy>> {
        let named = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        let Some((variable, address)) = named else { return Ok(None) };
        if is_this_machine(uri) || self.is_exempt(uri) {
            return Ok(None);
        }
        let needed = "http://HOST:PORT";
        let proxy = Proxy::new(address).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "not the address of a proxy").at(variable).needed(needed)
        })?;
        match proxy.protocol() {
            ProxyProtocol::Http | ProxyProtocol::Https => Ok(Some(proxy)),
            other => {
                let error = Error::new(ErrorKind::Unsupported, "an unsupported kind of proxy").at(variable);
                Err(error.got(other).needed(needed))
            }
        }
    }

    /// Whether `NO_PROXY` names the host of `uri`: `*`, a name with all below it, an address, or a block of addresses.
    fn is_exempt(&self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        self.exempt.iter().any(|entry| {
            // A colon in front of a port is the only one; an IPv6 address has several, or brackets.
            let (name, only_port) = match entry.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse::<u16>().ok()),
                _ => (&**entry, None),
            };
            let name = name.trim_matches(['[', ']']);
            let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
            let is_below = || host.strip_suffix(name).is_some_and(|head| head.ends_with('.'));
            let is_named = name == "*" || (!name.is_empty() && (host == name || is_below())) || is_within(&host, name);
            is_named && only_port.is_none_or(|only| only == port(uri))
        })
    }
}

/// Whether the address `host` lies in `block`, such as `10.0.0.0/8`.
fn is_within(host: &str, block: &str) -> bool {
    let Some((base, n_bits)) = block.split_once('/') else { return false };
    let (Ok(host), Ok(base), Ok(n_bits)) = (host.parse(), base.parse(), n_bits.parse::<u32>()) else { return false };
    match (host, base) {
        (IpAddr::V4(host), IpAddr::V4(base)) => n_bits <= (host.to_bits() ^ base.to_bits()).leading_zeros(),
        (IpAddr::V6(host), IpAddr::V6(base)) => n_bits <= (host.to_bits() ^ base.to_bits()).leading_zeros(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::new(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_proxy_is_chosen_by_the_address_of_the_request() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("HTTP_PROXY", "p:2")];
        let all = [("ALL_PROXY", "http://a:3"), ("http_proxy", " http://p:2 "), ("HTTP_PROXY", "http://no:9")];
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<&'a str>);
        let cases: [Case<'_>; 8] = [
            (&both, "https://hub/x", Some("s")),
            (&both, "http://hub/x", Some("p")),
            (&both, "http://127.0.0.1:8/x", None),
            (&both, "https://[::1]/x", None),
            (&all, "https://hub/x", Some("a")),
            (&all, "http://hub/x", Some("p")),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "http://s:1")], "https://hub/x", Some("s")),
            (&[("HTTP_PROXY", "http://p:2")], "https://hub/x", None),
        ];
        for (variables, url, expected) in cases {
            let proxy = proxies(variables).of(&url.parse().expect("an address")).expect("a proxy or none");
            assert_eq!(proxy.as_ref().map(Proxy::host), expected, "{variables:?} and {url}");
        }
    }

    #[test]
    fn exempt_hosts_are_asked_without_a_proxy() {
        let cases = [
            ("*", "https://hub/x", true),
            (" a , hub , b", "https://HUB/x", true),
            ("hub.co", "https://cdn.hub.co/x", true),
            (".hub.co", "https://hub.co/x", true),
            ("*.hub.co", "https://cdn.hub.co/x", true),
            ("hub.co", "https://nohub.co/x", false),
            ("hub:444", "https://hub/x", false),
            ("hub:443", "https://hub/x", true),
            ("10.0.0.0/8", "http://10.1.2.3/x", true),
            ("10.0.0.0/8", "http://11.1.2.3/x", false),
            ("10.0.0.0/99", "http://10.0.0.0/x", false),
            ("fe80::/10", "http://[fe80::7]:1/x", true),
            ("[fe80::7]:1", "http://[fe80::7]:1/x", true),
            ("", "https://hub/x", false),
            (",,", "https://hub/x", false),
        ];
        for (list, url, expected) in cases {
            let proxies = proxies(&[("ALL_PROXY", "http://a:3"), ("NO_PROXY", list)]);
            let proxy = proxies.of(&url.parse().expect("an address")).expect("a proxy or none");
            assert_eq!(proxy.is_none(), expected, "{list:?} and {url}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        let cases = [
            ("http://u:secret@", ErrorKind::InvalidInput),
            ("ftp://u:secret@p", ErrorKind::InvalidInput),
            ("socks5://u:secret@p", ErrorKind::Unsupported),
        ];
        for (address, kind) in cases {
            let error = proxies(&[("HTTPS_PROXY", address)]).of(&"https://hub/x".parse().expect("an address"));
            let error = error.expect_err("refused");
            assert_eq!(error.kind(), kind, "{address}");
            assert!(error.to_string().contains("HTTPS_PROXY") && !error.to_string().contains("secret"), "{error}");
        }
    }
}
