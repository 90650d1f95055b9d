//! Finds the thinking and the answer in a response.

/// A response taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The answer, trimmed: the first complete `<answer>` block after the thinking, or the first one anywhere, or the
    /// whole response where there is none.
    pub answer: &'a str,
    /// Whether the response is `<thinking>..</thinking><answer>..</answer>` and nothing else but white space; each tag
    /// once.
    pub well_formed: bool,
}

/// Takes a response apart. Tags may have white space inside (`< / answer >`), which small models like to produce.
pub fn parse(response: &str) -> Parsed<'_> {
    let tags = tags(response);
    let kinds: Vec<_> = tags.iter().map(|tag| tag.kind).collect();
    let mut gaps = [(0, tags.first()), (1, tags.get(2)), (3, None)].into_iter().map(|(after, before)| {
        let start = if after == 0 { 0 } else { tags.get(after).map_or(0, |tag| tag.end) };
        &response[start..before.map_or(response.len(), |tag| tag.start)]
    });
    let well_formed = kinds == [Kind::Thinking, Kind::EndThinking, Kind::Answer, Kind::EndAnswer]
        && gaps.all(|gap| gap.trim().is_empty());
    let thought = kinds.iter().rposition(|kind| *kind == Kind::EndThinking).map_or(0, |index| index + 1);
    let answer = block(response, &tags[thought..]).or_else(|| block(response, &tags)).unwrap_or(response);
    Parsed { answer: answer.trim(), well_formed }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    EndThinking,
    Answer,
    EndAnswer,
}

#[derive(Clone, Copy, Debug)]
struct Tag {
    kind: Kind,
    start: usize,
    end: usize,
}

/// The text of the first answer block that is closed.
fn block<'a>(response: &'a str, tags: &[Tag]) -> Option<&'a str> {
    let open = tags.iter().position(|tag| tag.kind == Kind::Answer)?;
    let close = tags[open..].iter().find(|tag| tag.kind == Kind::EndAnswer)?;
    Some(&response[tags[open].end..close.start])
}

fn tags(response: &str) -> Vec<Tag> {
    let starts = response.match_indices('<').map(|(start, _)| start);
    starts.filter_map(|start| tag_at(response, start)).collect()
}

fn tag_at(response: &str, start: usize) -> Option<Tag> {
    let inside = response[start + 1..].trim_start();
    let (closing, inside) = match inside.strip_prefix('/') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, inside),
    };
    let (thinking, rest) = match inside.strip_prefix("thinking") {
        Some(rest) => (true, rest),
        None => (false, inside.strip_prefix("answer")?),
    };
    let rest = rest.trim_start().strip_prefix('>')?;
    let kind = match (thinking, closing) {
        (true, false) => Kind::Thinking,
        (true, true) => Kind::EndThinking,
        (false, false) => Kind::Answer,
        (false, true) => Kind::EndAnswer,
    };
    Some(Tag { kind, start, end: response.len() - rest.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_in_all_shapes() {
        for (response, answer, well_formed) in [
            ("<thinking>x</thinking><answer> A </answer>", "A", true),
            (" <thinking>\n</thinking>\n<answer>A</answer>\n", "A", true),
            ("< thinking >x< / thinking > < answer > A < / answer >", "A", true),
            ("<thinking></thinking><answer></answer>", "", true),
            ("<thinking>a < b</thinking><answer>a < b / c</answer>", "a < b / c", true),
            ("<thinking>x</thinking><answer>B</answer><answer>A</answer>", "B", false),
            ("<thinking>maybe <answer>B</answer></thinking><answer>A</answer>", "A", false),
            ("<answer>A</answer><thinking>x</thinking>", "A", false),
            ("x<thinking>x</thinking><answer>A</answer>", "A", false),
            ("<thinking>x</thinking>so<answer>A</answer>", "A", false),
            ("<thinking>x</thinking><answer>A</answer>.", "A", false),
            ("<thinking>x</thinking><answer>A", "<thinking>x</thinking><answer>A", false),
            ("<answer>A</answer>", "A", false),
            ("A", "A", false),
            ("", "", false),
            ("<ANSWER>A</ANSWER>", "<ANSWER>A</ANSWER>", false),
            ("<é<answer>é</answer>", "é", false),
        ] {
            assert_eq!(parse(response), Parsed { answer, well_formed }, "{response:?}");
        }
    }
}
