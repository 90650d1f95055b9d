//! Where a model comes from, as a person names it: `hf:org/repo[@revision][:file-or-quant]`, or the address of a file.

use std::{fmt, str::FromStr};

use owlet_runtime::{Error, ErrorKind, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stays as it is in a segment of a path (RFC 3986, unreserved characters).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What a person may type.
const FORMS: &str = "hf:ORG/REPO, hf:ORG/REPO:Q8_0, hf:ORG/REPO@REVISION:FILE.gguf or https://HOST/FILE.gguf";

/// A repository of the Hugging Face Hub (or of a mirror that speaks its language), or one file anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A repository, of which the model that fits and its projector are pulled.
    Hub {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit; `main` when nothing is said.
        revision: String,
        /// The name of a file or of a type such as `Q8_0`.
        wanted: Option<String>,
    },
    /// A file at an `http` or `https` address.
    Url {
        /// The address as given.
        url: String,
        /// The file's name, decoded: a plain name that ends in `.gguf`.
        name: String,
    },
}

impl FromStr for Source {
    type Err = Error;

    /// # Errors
    /// `InvalidInput` for anything that is none of the forms, or whose names would lead out of the folder.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| Error::new(ErrorKind::InvalidInput, why).got(without_secrets(text)).needed(FORMS);
        if text.starts_with("https://") || text.starts_with("http://") {
            let path = text.split(['?', '#']).next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let name = percent_decode_str(name).decode_utf8().map_err(|_| refused("the file's name is not text"))?;
            if !name.ends_with(".gguf") {
                return Err(refused("the address is not one of a GGUF file"));
            }
            if !is_plain_name(&name) {
                return Err(refused("the file's name would lead out of the folder"));
            }
            return Ok(Self::Url { url: text.to_owned(), name: name.into_owned() });
        }
        let Some(rest) = text.strip_prefix("hf:") else { return Err(refused("unknown kind of source")) };
        let (rest, wanted) = match rest.split_once(':') {
            Some((_, "")) => return Err(refused("nothing follows the colon")),
            Some((rest, wanted)) => (rest, Some(wanted.to_owned())),
            None => (rest, None),
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let is_name = |part: &str| {
            let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            is_plain_name(part) && part.len() <= 96 && part.chars().all(is_safe)
        };
        let is_repo = repo.split_once('/').is_some_and(|(org, name)| is_name(org) && is_name(name));
        if !is_repo {
            return Err(refused("not the name of a repository"));
        }
        if !is_plain_path(revision) {
            return Err(refused("not the name of a revision"));
        }
        Ok(Self::Hub { repo: repo.to_owned(), revision: revision.to_owned(), wanted })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repo, revision, wanted: None } => write!(f, "hf:{repo}@{revision}"),
            Self::Hub { repo, revision, wanted: Some(wanted) } => write!(f, "hf:{repo}@{revision}:{wanted}"),
            Self::Url { url, .. } => f.write_str(&without_secrets(url)),
        }
    }
}

/// Whether `name` is that of a file within a folder, on every system: no separators, no way up, nothing that a terminal
/// would obey.
pub(super) fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(is_plain)
}

/// Whether `path` is one of plain names with `/` between them.
pub(super) fn is_plain_path(path: &str) -> bool {
    path.split('/').all(is_plain_name)
}

/// `text` as one segment of an address, slashes encoded.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// `path` as segments of an address.
pub(super) fn segments(path: &str) -> String {
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// An address for people: without the query, which is a key to the file in a signed one, and without name and password.
pub(super) fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let start = match url.find("://") {
        Some(colon) => colon + 3,
        None if url.starts_with("hf:") => return url.to_owned(),
        None => 0,
    };
    let (scheme, rest) = url.split_at(start);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_repositories_with_a_choice_or_addresses_of_files() {
        let hub = |repo: &str, revision: &str, wanted: Option<&str>| Source::Hub {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            wanted: wanted.map(str::to_owned),
        };
        let url = |url: &str, name: &str| Source::Url { url: url.to_owned(), name: name.to_owned() };
        let cases = [
            ("hf:a/b", Some(hub("a/b", "main", None))),
            ("hf:a/b-1.5:Q8_0", Some(hub("a/b-1.5", "main", Some("Q8_0")))),
            ("hf:a/b@refs/pr/1:x/y.gguf", Some(hub("a/b", "refs/pr/1", Some("x/y.gguf")))),
            ("https://h/x%20y.gguf?download=true", Some(url("https://h/x%20y.gguf?download=true", "x y.gguf"))),
            ("http://h:1/a/b.gguf", Some(url("http://h:1/a/b.gguf", "b.gguf"))),
            ("https://h/%2e%2e%2fx.gguf", None),
            ("https://h/..%5cx.gguf", None),
            ("https://h/%1b[2Jx.gguf", None),
            ("https://h/a/b", None),
            ("https://huggingface.co/a/b", None),
            ("hf:a", None),
            ("hf:a/b/c", None),
            ("hf:../b", None),
            ("hf:a/b@../x", None),
            ("hf:a/b:", None),
            ("ftp://h/x.gguf", None),
            ("a.gguf", None),
        ];
        for (text, expected) in cases {
            let found = text.parse::<Source>();
            if let Err(error) = &found {
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            }
            assert_eq!(found.ok(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        let cases = [
            ("https://hub/a/b.gguf", "https://hub/a/b.gguf"),
            ("http://u:secret@hub:1/a?key=secret#x", "http://hub:1/a"),
            ("http://u:se@cret@hub", "http://hub"),
            ("https://hub/a@b", "https://hub/a@b"),
            ("http://u:secret@hub?x", "http://hub"),
            ("u:secret@hub/a", "hub/a"),
            ("hf:a@b", "hf:a@b"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_secrets(url), shown, "{url}");
        }
        let error = "https://u:secret@hub/a.zip?key=secret".parse::<Source>().expect_err("no GGUF file");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn names_become_segments_of_an_address() {
        assert_eq!(segments("a b/ü#.gguf"), "a%20b/%C3%BC%23.gguf");
        assert_eq!(segment("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
