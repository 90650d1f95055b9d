//! Stop strings: texts that end an answer where they begin.

use crate::{Error, ErrorKind, Result};

/// Most stop strings of an answer.
const MAX_STRINGS: usize = 64;
/// Most bytes of a stop string.
const MAX_BYTES: usize = 1024;

/// # Errors
/// `InvalidInput` for an empty stop string, `Limit` for too many or too long ones.
pub(super) fn check(strings: &[String]) -> Result<()> {
    let limit = |got: String, needed: String| {
        Err(Error::new(ErrorKind::Limit, "stop strings out of bounds").at("stop").got(got).needed(needed))
    };
    if strings.len() > MAX_STRINGS {
        return limit(format!("{} strings", strings.len()), format!("at most {MAX_STRINGS}"));
    }
    match strings.iter().map(String::len).find(|n| !(1..=MAX_BYTES).contains(n)) {
        Some(0) => Err(Error::new(ErrorKind::InvalidInput, "empty stop string").at("stop")),
        Some(n) => limit(format!("one of {n} bytes"), format!("at most {MAX_BYTES} bytes")),
        None => Ok(()),
    }
}

/// Looks for stop strings in text that comes in pieces, and holds back what may become one.
#[derive(Clone, Debug, Default)]
pub(super) struct StopScanner {
    strings: Vec<String>,
    /// The end of the text, which some stop string begins with.
    held: String,
}

/// What may be told of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) text: String,
    /// The stop string that `text` ends before.
    pub(super) found: Option<usize>,
}

impl StopScanner {
    pub(super) fn new(strings: &[String]) -> Self {
        Self { strings: strings.to_vec(), held: String::new() }
    }

    /// Bytes that are held back.
    pub(super) fn n_held(&self) -> usize {
        self.held.len()
    }

    /// Takes the next piece. The string that is complete first ends the text, the longest of those that are complete at the
    /// same character, so the pieces make no difference.
    pub(super) fn push(&mut self, piece: &str) -> Scanned {
        self.held.push_str(piece);
        let ends = |(index, string): (usize, &String)| {
            let start = self.held.find(string)?;
            Some((start + string.len(), start, index))
        };
        if let Some((_, start, index)) = self.strings.iter().enumerate().filter_map(ends).min() {
            self.held.truncate(start);
            return Scanned { text: std::mem::take(&mut self.held), found: Some(index) };
        }
        let n_free = self.held.len() - self.n_undecided();
        Scanned { text: self.held.drain(..n_free).collect(), found: None }
    }

    /// Ends the text: what was held back became no stop string.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the text that some stop string begins with.
    fn n_undecided(&self) -> usize {
        let n = |string: &String| {
            let longest = self.held.len().min(string.len() - 1);
            let begins = |n: &usize| self.held.as_bytes().ends_with(&string.as_bytes()[..*n]);
            (1..=longest).rev().find(begins).unwrap_or(0)
        };
        self.strings.iter().map(n).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_before_the_string_that_is_complete_first_however_they_are_cut() {
        struct Case {
            stop: &'static [&'static str],
            text: &'static str,
            kept: &'static str,
            found: Option<usize>,
        }
        let cases = [
            Case { stop: &["\n\n"], text: "a\nb\n\nc", kept: "a\nb", found: Some(0) },
            Case { stop: &["abab"], text: "xababab", kept: "x", found: Some(0) },
            // Overlapping.
            Case { stop: &["abcd", "bc"], text: "abcd", kept: "a", found: Some(1) },
            Case { stop: &["bc", "abc"], text: "abcd", kept: "", found: Some(1) },
            Case { stop: &["aab"], text: "aaaab", kept: "aa", found: Some(0) },
            Case { stop: &["same", "same"], text: "the same", kept: "the ", found: Some(0) },
            // At the ends.
            Case { stop: &["x"], text: "x", kept: "", found: Some(0) },
            Case { stop: &["end"], text: "the en", kept: "the en", found: None },
            Case { stop: &["end"], text: "the end", kept: "the ", found: Some(0) },
            Case { stop: &["🦉"], text: "owl 🦊🦉!", kept: "owl 🦊", found: Some(0) },
            Case { stop: &[], text: "no stops", kept: "no stops", found: None },
        ];
        for Case { stop, text, kept, found } in cases {
            let strings: Vec<_> = stop.iter().map(|&string| string.to_owned()).collect();
            check(&strings).expect("good strings");
            let characters: Vec<char> = text.chars().collect();
            for size in 1..=characters.len() {
                let mut scanner = StopScanner::new(&strings);
                let (mut told, mut got) = (String::new(), None);
                for piece in characters.chunks(size) {
                    let scanned = scanner.push(&piece.iter().collect::<String>());
                    told += &scanned.text;
                    // What was told is never taken back.
                    assert!(kept.starts_with(&told), "{told:?} of {text:?}, {size} at a time");
                    got = scanned.found;
                    if got.is_some() {
                        break;
                    }
                }
                if got.is_none() {
                    told += &scanner.finish();
                }
                assert_eq!((told.as_str(), got), (kept, found), "{text:?}, {size} at a time");
            }
        }
    }

    #[test]
    fn bad_stop_strings_are_refused() {
        let kind = |strings: &[String]| check(strings).expect_err("refused").kind();
        assert_eq!(kind(&["a".into(), String::new()]), ErrorKind::InvalidInput);
        assert_eq!(kind(&vec!["a".into(); MAX_STRINGS + 1]), ErrorKind::Limit);
        assert_eq!(kind(&["a".repeat(MAX_BYTES + 1)]), ErrorKind::Limit);
    }
}
