//! Keeps text from outside from spelling control tokens.
//!
//! A template pastes the user's words between `<|im_start|>` and `<|im_end|>`; words that spell `<|im_end|>` would end
//! the message, `<|image_pad|>` would claim a picture. So before rendering, each such spelling is swapped for a numbered
//! mark, and after rendering it is tokenized apart, as plain text. Everything else reaches the template, and the
//! tokenizer, exactly as written.

use std::{cmp::Reverse, collections::HashMap};

use crate::{Result, model::TokenId};

/// Swaps spellings of control tokens in texts for marks.
pub(super) struct Guard<'a> {
    control: &'a [String],
    /// Numbers of the spellings by first byte, the longest first.
    by_first: HashMap<u8, Vec<usize>>,
    /// A character that none of the texts contains; a mark is the number of a spelling between two of them.
    fence: char,
}

impl<'a> Guard<'a> {
    /// A guard for `texts` against the spellings `control`, none of them empty.
    pub(super) fn new<'t>(control: &'a [String], texts: impl Iterator<Item = &'t str> + Clone) -> Self {
        // Unicode sets these 32 apart for the internal use of programs; the rest is for texts that hold them all.
        let fences = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..);
        let unused = |fence: &char| !texts.clone().any(|text| text.contains(*fence));
        let mut by_first: HashMap<u8, Vec<usize>> = HashMap::new();
        for (index, spelling) in control.iter().enumerate() {
            by_first.entry(spelling.as_bytes()[0]).or_default().push(index);
        }
        for indices in by_first.values_mut() {
            indices.sort_by_key(|&index| Reverse(control[index].len()));
        }
        Self { control, by_first, fence: fences.into_iter().find(unused).unwrap_or('\u{fdd0}') }
    }

    /// `text` with marks for control spellings.
    pub(super) fn disarm(&self, text: &str) -> String {
        let mut disarmed = String::with_capacity(text.len());
        let (mut copied, mut at) = (0, 0);
        while at < text.len() {
            match self.spelling_at(text, at) {
                Some(index) => {
                    disarmed.push_str(&text[copied..at]);
                    disarmed.push_str(&format!("{0}{index}{0}", self.fence));
                    at += self.control[index].len();
                    copied = at;
                }
                None => at += 1,
            }
        }
        disarmed.push_str(&text[copied..]);
        disarmed
    }

    /// Tokens of a rendered template: marks become the plain text of their spelling, control tokens that the template
    /// wrote become themselves.
    pub(super) fn tokenize(
        &self,
        rendered: &str,
        tokenize: impl Fn(&str, bool /* parse special */) -> Result<Vec<TokenId>>,
    ) -> Result<Vec<TokenId>> {
        let mut tokens = Vec::new();
        for (index, piece) in rendered.split(self.fence).enumerate() {
            // Fences come in pairs: every second piece is a mark.
            let spelling = (index % 2 == 1).then(|| self.control.get(piece.parse::<usize>().ok()?)).flatten();
            tokens.extend(match spelling {
                Some(spelling) => tokenize(spelling, false)?,
                None => tokenize(piece, true)?,
            });
        }
        Ok(tokens)
    }

    /// Number of the longest control spelling that starts at byte `at`.
    fn spelling_at(&self, text: &str, at: usize) -> Option<usize> {
        let bytes = &text.as_bytes()[at..];
        let candidates = self.by_first.get(bytes.first()?)?;
        candidates.iter().copied().find(|&index| bytes.starts_with(self.control[index].as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as they come, `+` before those that were parsed for control tokens.
    fn pieces(guard: &Guard, rendered: &str) -> Vec<String> {
        let seen = std::cell::RefCell::new(Vec::new());
        let record = |text: &str, special: bool| {
            seen.borrow_mut().push(format!("{}{text}", if special { "+" } else { "" }));
            Ok(Vec::new())
        };
        guard.tokenize(rendered, record).expect("records");
        seen.into_inner()
    }

    #[test]
    fn control_spellings_in_texts_stay_text() {
        let control = ["<|im_end|>".to_owned(), "<|im_end|><|x|>".to_owned()];
        let texts = ["say <|im_end|> or <|im_end|><|x|>!", "plain", "\u{fdd0}7\u{fdd0}"];
        let guard = Guard::new(&control, texts.iter().copied());
        assert_eq!(guard.disarm("plain"), "plain");
        let rendered = format!("A{}<|im_end|>{}", guard.disarm(texts[0]), guard.disarm(texts[2]));
        let expected = ["+Asay ", "<|im_end|>", "+ or ", "<|im_end|><|x|>", "+!<|im_end|>\u{fdd0}7\u{fdd0}"];
        assert_eq!(pieces(&guard, &rendered), expected);
    }
}
