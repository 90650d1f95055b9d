//! Token bytes to text while they stream: characters may be split across tokens.

/// Collects bytes and gives out whole characters.
#[derive(Clone, Debug, Default)]
pub struct TextDecoder {
    /// The start of a character whose end has not come yet: at most three bytes.
    pending: Vec<u8>,
}

impl TextDecoder {
    /// Takes the bytes of a token and returns the text that is complete; bytes that are no UTF-8 become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut consumed = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            consumed += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                break;
            }
            let is_last = consumed + invalid.len() == self.pending.len();
            if is_last && is_unfinished(invalid) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            consumed += invalid.len();
        }
        self.pending.drain(..consumed);
        text
    }

    /// Ends the stream: what is still unfinished becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Whether `bytes`, which are no character, may become one with more bytes.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_split_across_tokens_come_out_whole() {
        for text in ["plain", "naïve 東京 🚀🦙!", ""] {
            for size in 1..5 {
                let mut decoder = TextDecoder::default();
                let mut streamed: String = text.as_bytes().chunks(size).map(|bytes| decoder.push(bytes)).collect();
                streamed += &decoder.finish();
                assert_eq!(streamed, text, "{size} bytes at a time");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let mut decoder = TextDecoder::default();
        assert_eq!(decoder.push(b"a\xffb\xe6\x9d"), "a\u{fffd}b");
        assert_eq!(decoder.push(b"c"), "\u{fffd}c");
        assert_eq!(decoder.push(b"\xf0\x9f"), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
        assert_eq!(decoder.finish(), "");
    }
}
