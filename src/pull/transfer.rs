//! One file from a server to a part that is whole and checked.

use std::{
    io::{self, Read as _},
    path::Path,
    time::{Duration, Instant},
};

use owlet_runtime::{CancelToken, Error, ErrorKind, Result};
use ureq::http::header;

use super::{
    PullEvent, PullOptions,
    client::{Client, Response},
    part::{Part, folder_of, key_of},
    patience::Patience,
    source::without_secrets,
    trouble::Trouble,
};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Fewer bytes within the stall timeout are a stall too, however steadily they drip.
const MIN_BYTES_A_STALL: u64 = 1 << 10;
/// Room that a download leaves on the disk.
const DISK_MARGIN_BYTES: u64 = 16 << 20;

/// What is to be fetched.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) client: &'a Client,
    pub(super) url: &'a str,
    /// The name for events.
    pub(super) name: &'a str,
    pub(super) target: &'a Path,
    /// Length and hash, where a list of files told them.
    pub(super) n_bytes: Option<u64>,
    pub(super) sha256: Option<&'a str>,
    pub(super) options: &'a PullOptions,
    pub(super) cancel: &'a CancelToken,
}

/// A whole file, not yet under its name.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) part: Part,
    pub(super) sha256: String,
    /// Whether somebody told what the hash should be.
    pub(super) verified: bool,
    /// Bytes that an earlier run had brought.
    pub(super) n_resumed: u64,
}

/// What a server tells before the body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where in the file the body begins.
    start: u64,
    /// Length of the whole file.
    total: Option<u64>,
    /// What the content is known by: a hash or a strong ETag.
    identity: Option<String>,
    /// SHA-256 that the hub tells.
    sha256: Option<String>,
}

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its body goes on where the part ends.
    Append,
    /// Its body is the whole file.
    FromStart,
    /// It is of no use beside the part: ask for the whole file.
    AskForAll,
}

impl Job<'_> {
    /// Fetches and checks the hash.
    ///
    /// # Errors
    /// `Network` when tries are used up, `InvalidFile` for a wrong hash (the part is gone then), `Mismatch` for a server that
    /// contradicts itself, `Limit` for too little room, `Busy`, `Io`, `Cancelled`.
    pub(super) fn fetch(&self, on_event: &mut dyn FnMut(PullEvent<'_>)) -> Result<Fetched> {
        let mut part = Part::find(self.target, self.cancel)?;
        loop {
            let fetched = self.fetch_bytes(&mut part, on_event);
            if let (Err(_), Some(kept)) = (&fetched, part.as_ref().filter(|part| part.can_go_on())) {
                on_event(PullEvent::Kept { file: self.name, n_bytes: kept.n_bytes() });
            }
            let told = fetched?;
            let Some(whole) = part.take() else {
                return Err(Error::new(ErrorKind::Internal, "a download ended without a part").at(self.name));
            };
            let sha256 = whole.sha256();
            let n_resumed = if whole.from_before { whole.n_bytes() } else { 0 };
            let needed = self.options.sha256.as_deref().or(self.sha256).map(str::to_owned).or(told);
            match needed {
                Some(needed) if !needed.eq_ignore_ascii_case(&sha256) => {
                    let from_before = whole.from_before;
                    whole.remove();
                    if !from_before {
                        let error = Error::new(ErrorKind::InvalidFile, "the checksum (SHA-256) is wrong").at(self.name);
                        return Err(error.got(sha256).needed(needed));
                    }
                    // A part of before a power cut may have holes.
                    on_event(PullEvent::StartedOver { file: self.name, why: "the part of an earlier run was damaged" });
                }
                needed => return Ok(Fetched { part: whole, sha256, verified: needed.is_some(), n_resumed }),
            }
        }
    }

    /// Length and hash that the server tells of the file, without its body.
    pub(super) fn look(&self) -> Result<(Option<u64>, Option<String>)> {
        let mut patience = Patience::new(self.client, self.options, self.cancel);
        loop {
            match self.client.get(self.url, 0).and_then(|response| Ok(self.head(&response, 0)?)) {
                Ok(head) => return Ok((head.total, head.sha256)),
                Err(trouble) => patience.endure(trouble, 0, &mut |_, _| {})?,
            }
        }
    }

    /// Fills the part, through as many connections as it takes; the hash that the server told.
    fn fetch_bytes(&self, part: &mut Option<Part>, on_event: &mut dyn FnMut(PullEvent<'_>)) -> Result<Option<String>> {
        let mut patience = Patience::new(self.client, self.options, self.cancel);
        // A server that makes every try start over brings nothing new until it gets further than ever.
        let mut furthest = part.as_ref().map_or(0, Part::n_bytes);
        loop {
            match self.attempt(part, on_event) {
                Ok(sha256) => return Ok(sha256),
                Err(trouble) => {
                    let reached = part.as_ref().map_or(0, Part::n_bytes);
                    let n_new = reached.saturating_sub(furthest);
                    furthest = furthest.max(reached);
                    patience.endure(trouble, n_new, &mut |error, pause| {
                        on_event(PullEvent::Retrying { file: self.name, error, pause_s: pause.as_secs_f64() });
                    })?;
                }
            }
        }
    }

    fn attempt(
        &self,
        part: &mut Option<Part>,
        on_event: &mut dyn FnMut(PullEvent<'_>),
    ) -> Result<Option<String>, Trouble> {
        let offset = part.as_ref().map_or(0, Part::n_bytes);
        let mut response = self.client.get(self.url, offset)?;
        let mut head = self.head(&response, offset)?;
        let mut step = head.step(offset, part.as_ref().map(Part::key));
        if step == Step::AskForAll {
            response = self.client.get(self.url, 0)?;
            head = self.head(&response, 0)?;
            step = head.step(0, None);
        }
        if step != Step::Append && offset > 0 {
            let why = "the server has another version of the file, or does not go on within one";
            on_event(PullEvent::StartedOver { file: self.name, why });
        }
        let mut kept = match (part.take(), step) {
            (Some(kept), Step::Append) => {
                if kept.from_before {
                    on_event(PullEvent::Resumed { file: self.name, n_bytes: kept.n_bytes() });
                }
                kept
            }
            (old, Step::FromStart) => {
                if let Some(old) = old {
                    old.remove();
                }
                Part::create(self.target, &key_of(head.identity.as_deref().unwrap_or_default()))?
            }
            (_, Step::Append | Step::AskForAll) => {
                let error = Error::new(ErrorKind::Network, "the server does not send the whole file");
                return Err(error.at(without_secrets(self.url)).got(format!("status {}", head.status)).into());
            }
        };
        let total = head.total.or(self.n_bytes);
        let room = match total {
            Some(total) => ensure_room(folder_of(self.target), total.saturating_sub(kept.n_bytes())),
            None => Ok(()),
        };
        if let Err(error) = room {
            match kept.n_bytes() {
                0 => kept.remove(),
                _ => *part = Some(kept),
            }
            return Err(error.into());
        }
        let done = self.copy(response, total, &mut kept, on_event);
        *part = Some(kept);
        done.map(|()| head.sha256)
    }

    /// The body to the end of the part.
    fn copy(
        &self,
        response: Response,
        total: Option<u64>,
        part: &mut Part,
        on_event: &mut dyn FnMut(PullEvent<'_>),
    ) -> Result<(), Trouble> {
        let mut body = response.body.into_reader();
        let mut piece = vec![0; 256 << 10];
        let (started, first) = (Instant::now(), part.n_bytes());
        let mut told = None;
        let mut stall = (started, first);
        loop {
            self.cancel.check()?;
            let n = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Trouble::of_body(self.url, part.n_bytes(), total, Some(source))),
            };
            if total.is_some_and(|total| part.n_bytes() + n as u64 > total) {
                let error = Error::new(ErrorKind::Mismatch, "the server sends more than it announced").at(self.name);
                return Err(error.needed(format!("{} bytes", total.unwrap_or(0))).into());
            }
            part.write(&piece[..n])?;
            let now = Instant::now();
            if told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY) || total == Some(part.n_bytes()) {
                told = Some(now);
                let rate = (part.n_bytes() - first) as f64 / now.duration_since(started).as_secs_f64().max(1e-3);
                let seconds_left = total.map(|total| (total - part.n_bytes()) as f64 / rate.max(1.0));
                on_event(PullEvent::Progress {
                    file: self.name,
                    n_bytes: part.n_bytes(),
                    total_bytes: total,
                    bytes_per_s: rate,
                    seconds_left,
                });
            }
            if now.duration_since(stall.0) >= self.options.stall {
                if part.n_bytes() - stall.1 < MIN_BYTES_A_STALL {
                    let drip = io::Error::new(io::ErrorKind::TimedOut, "only a few bytes within the stall timeout");
                    return Err(Trouble::of_body(self.url, part.n_bytes(), total, Some(drip)));
                }
                stall = (now, part.n_bytes());
            }
        }
        match total {
            Some(total) if part.n_bytes() < total => Err(Trouble::of_body(self.url, part.n_bytes(), Some(total), None)),
            _ => Ok(()),
        }
    }

    /// Reads what stands before the body of a response to a request from `offset` on.
    fn head(&self, response: &Response, offset: u64) -> Result<Head> {
        let text = |name: header::HeaderName| response.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let error = Error::new(ErrorKind::Unsupported, "the server sends the file encoded").at(self.name);
            return Err(error.got(encoding).needed("the bytes as they are"));
        }
        if let (Some(listed), Some(linked)) = (self.sha256, &response.linked_sha256)
            && !listed.eq_ignore_ascii_case(linked)
        {
            let error = Error::new(ErrorKind::Mismatch, "the file changed since the list of files was made");
            return Err(error.at(self.name).got(linked).needed(listed));
        }
        let (start, total) = match response.status {
            206 => text(header::CONTENT_RANGE).and_then(content_range).unwrap_or((u64::MAX, None)),
            _ => (0, text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok())),
        };
        let strong = text(header::ETAG).filter(|tag| tag.starts_with('"')).map(str::to_owned);
        let sha256 = response.linked_sha256.clone().or_else(|| self.sha256.map(str::to_ascii_lowercase));
        let head = Head { status: response.status, start, total, identity: sha256.clone().or(strong), sha256 };
        if let (Some(total), Some(listed)) = (head.total, self.n_bytes)
            && total != listed
            && response.status != 416
        {
            let error = Error::new(ErrorKind::Mismatch, "the server announces another length than its list of files");
            return Err(error.at(self.name).got(format!("{total} bytes")).needed(format!("{listed} bytes")));
        }
        if response.status == 206 && offset == 0 {
            let error = Error::new(ErrorKind::Network, "the server sends a part that nobody asked for");
            return Err(error.at(without_secrets(self.url)));
        }
        Ok(head)
    }
}

impl Head {
    /// What to do with a response to a request from `offset` on, beside a part of content with `key`.
    fn step(&self, offset: u64, key: Option<&str>) -> Step {
        let is_same = self.identity.as_deref().map(key_of).as_deref() == key && key.is_some();
        match self.status {
            206 if self.start == offset && is_same => Step::Append,
            200 => Step::FromStart,
            _ => Step::AskForAll,
        }
    }
}

/// `bytes 5-9/10` or `bytes 5-9/*`: the first position and the length of all (RFC 9110, section 14.4).
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

/// Fails where the disk has no room for `n_bytes` in `folder`.
///
/// # Errors
/// `Limit`, `Io`.
pub(super) fn ensure_room(folder: &Path, n_bytes: u64) -> Result<()> {
    let free = fs4::available_space(folder).map_err(|source| Error::io("cannot ask for free space", folder, source))?;
    if n_bytes.saturating_add(DISK_MARGIN_BYTES) <= free {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Limit, "too little room on the disk").at(folder.display());
    Err(error.got(format!("{free} free bytes")).needed(format!("{n_bytes} bytes and {DISK_MARGIN_BYTES} to spare")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_of_the_same_content_from_the_right_place_is_appended() {
        let same = key_of("\"a\"");
        let head = |status: u16, start: u64, identity: Option<&str>| Head {
            status,
            start,
            total: Some(10),
            identity: identity.map(str::to_owned),
            sha256: None,
        };
        let cases = [
            (head(206, 5, Some("\"a\"")), 5, Some(&*same), Step::Append),
            (head(206, 4, Some("\"a\"")), 5, Some(&*same), Step::AskForAll),
            (head(206, 5, Some("\"b\"")), 5, Some(&*same), Step::AskForAll),
            (head(206, 5, None), 5, Some(&*same), Step::AskForAll),
            (head(206, 5, None), 5, None, Step::AskForAll),
            (head(416, 0, Some("\"a\"")), 5, Some(&*same), Step::AskForAll),
            (head(200, 0, Some("\"a\"")), 5, Some(&*same), Step::FromStart),
            (head(200, 0, None), 0, None, Step::FromStart),
        ];
        for (head, offset, key, expected) in cases {
            assert_eq!(head.step(offset, key), expected, "{head:?} from {offset} beside {key:?}");
        }
    }

    #[test]
    fn ranges_of_content_are_read() {
        let cases = [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */10", None),
            ("5-9/10", None),
            ("bytes x-9/10", None),
        ];
        for (text, expected) in cases {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }
}
