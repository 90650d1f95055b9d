//! Transcription: one minus the word error rate.

/// `max(0, 1 - word edits / words of the truth)`, case sensitive; words are separated by white space.
///
/// An empty truth is matched by an empty answer alone.
pub(super) fn score(answer: &str, truth: &str) -> f64 {
    let answer: Vec<&str> = answer.split_whitespace().collect();
    let truth: Vec<&str> = truth.split_whitespace().collect();
    // With twice the words at least one edit per word of the truth is needed, so the distance need not be computed: that
    // bounds the work by the truth and not by what a model produces.
    if answer.len() >= 2 * truth.len() {
        return f64::from(u8::from(truth.is_empty() && answer.is_empty()));
    }
    (1.0 - edit_distance(&answer, &truth) as f64 / truth.len() as f64).max(0.0)
}

/// Levenshtein distance between two lists of words.
fn edit_distance(left: &[&str], right: &[&str]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, word) in left.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(word != other);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_edits_are_counted() {
        for (answer, truth, expected) in [
            ("a b c d", "a b c d", 1.0),
            ("a c d", "a b c d", 0.75),
            ("a x c d", "a b c d", 0.75),
            ("a b x c d", "a b c d", 0.75),
            ("d c b a", "a b c d", 0.0),
            ("a b c d a b c d", "a b c d", 0.0),
            ("", "", 1.0),
            ("a", "", 0.0),
            ("", "a", 0.0),
        ] {
            assert_eq!(score(answer, truth), expected, "{answer:?} {truth:?}");
        }
    }
}
