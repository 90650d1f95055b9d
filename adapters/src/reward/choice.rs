//! Multiple choice: the letter of the option, however it is dressed.

/// 1 if `answer` names the options of `truth`, otherwise 0.
///
/// `truth` is a letter, a list of letters (a set: the order does not matter), or a word such as `yes`. The answer may be
/// the letter in brackets, bold, `\boxed{}` or a sentence such as `Option A` or `the answer is A`; the letter with the
/// text of its option; or the text of the option alone. An answer that names two options for one is wrong. Texts are
/// compared with the sign, point or comparison that they begin with: `-5`, `.5` and `< 5` are three answers.
pub(super) fn score(answer: &str, truth: &str, options: &[String]) -> f64 {
    let is_right = same_text(answer, truth)
        || letters(undress(truth)).is_some_and(|truth| match letters(undress(answer)) {
            Some(letters) => letters == truth,
            None => named_letter(answer, options).is_some_and(|letter| truth == [letter]),
        });
    f64::from(u8::from(is_right))
}

/// What `answer` names: letters in order, such as `A` or `AC`, or else its text in lower case. `None` for an answer of neither
/// letters nor digits, or where `options` are known and it names none of them.
pub(crate) fn canonical(answer: &str, options: &[String]) -> Option<String> {
    if let Some(letters) = letters(undress(answer)) {
        let has = |letter| options.iter().any(|option| split_label(option).is_some_and(|(label, _)| label == letter));
        let is_known = options.is_empty() || letters.iter().all(|&letter| has(letter));
        return is_known.then(|| letters.into_iter().collect());
    }
    if let Some(letter) = named_letter(answer, options) {
        return Some(letter.to_string());
    }
    let text = signed(answer);
    (options.is_empty() && !undress(&text).is_empty()).then_some(text)
}

/// LaTeX around an answer, without its backslash.
const WRAPPERS: [&str; 5] = ["boxed{", "text{", "mathrm{", "textbf{", "mathbf{"];

/// Removes LaTeX wrappers and everything at the ends that is neither letter nor digit: `(A)`, `**A**`, `$A$`, `A.`.
fn undress(text: &str) -> &str {
    let trimmed = text.trim_matches(|c: char| !c.is_alphanumeric());
    for wrapper in WRAPPERS {
        if let Some(inner) = trimmed.strip_prefix(wrapper) {
            return undress(inner);
        }
    }
    trimmed
}

/// Whether both are the same but for dress and case; texts without a letter or digit never are.
fn same_text(left: &str, right: &str) -> bool {
    let right = signed(right);
    !undress(&right).is_empty() && signed(left) == right
}

/// The undressed text in lower case, with the marks before it that make it another one.
fn signed(text: &str) -> String {
    let first = text.find(char::is_alphanumeric).unwrap_or(text.len());
    let (dress, rest) = text.split_at(first);
    let mut signed = String::new();
    for (index, mark) in dress.char_indices() {
        let next = dress[index + mark.len_utf8()..].chars().next().or(rest.chars().next());
        match mark {
            // A dash before white space is a bullet, one before another is a rule.
            '-' | '\u{2212}' if next.is_some_and(|next| !next.is_whitespace() && next != '-') => signed.push('-'),
            '.' if next.is_some_and(|next| next.is_ascii_digit()) => signed.push_str("0."),
            '<' | '>' | '=' | '≤' | '≥' | '≠' | '±' | '√' | '¬' => signed.push(mark),
            _ => {}
        }
    }
    let inner = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper));
    signed + &inner.map_or_else(|| undress(rest).to_lowercase(), self::signed)
}

/// The sorted option letters of a text that is nothing else: `A`, `b`, `A,B`, `A and C`.
fn letters(text: &str) -> Option<Vec<char>> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == ';' || c == '&').map(undress);
    let mut letters = words
        .filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("and"))
        .map(single_letter)
        .collect::<Option<Vec<char>>>()?;
    letters.sort_unstable();
    letters.dedup();
    (!letters.is_empty()).then_some(letters)
}

fn single_letter(word: &str) -> Option<char> {
    let mut chars = word.chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    chars.next().is_none().then_some(letter.to_ascii_uppercase())
}

/// The one letter that a longer answer names.
fn named_letter(answer: &str, options: &[String]) -> Option<char> {
    let option_text = |letter: char| {
        let labelled = options.iter().find_map(|option| split_label(option).filter(|(label, _)| *label == letter));
        labelled.map(|(_, text)| text)
    };
    if let Some((letter, text)) = split_label(undress(answer)) {
        let fits = match option_text(letter) {
            Some(option) => same_text(text, option),
            // Without the options at hand: no second label may hide in the text.
            None => !text.split_whitespace().any(|word| split_label(word).is_some() || single_letter(word).is_some()),
        };
        return fits.then_some(letter);
    }
    let by_text = options.iter().filter_map(|option| split_label(option));
    let mut matching = by_text.filter(|(_, text)| same_text(answer, text)).map(|(letter, _)| letter);
    if let Some(letter) = matching.next() {
        return matching.next().is_none().then_some(letter);
    }
    let lower = undress(answer).to_lowercase();
    let lead_ins =
        ["the answer is option ", "the correct answer is ", "the answer is ", "answer: ", "option ", "choice "];
    let rest = lead_ins.iter().find_map(|lead_in| lower.strip_prefix(lead_in))?;
    single_letter(undress(rest))
}

/// `A. text`, `A) text`, `(A) text` or `A: text` as the letter and the text.
fn split_label(text: &str) -> Option<(char, &str)> {
    let text = text.trim().trim_start_matches('(');
    let letter = text.chars().next().filter(char::is_ascii_alphabetic)?;
    let rest = text[1..].strip_prefix(['.', ')', ':'])?;
    Some((letter.to_ascii_uppercase(), rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_found_in_all_dresses() {
        let options = ["A. clothing".to_owned(), "B. two dogs".to_owned(), "C. a".to_owned()];
        for (answer, truth, expected) in [
            ("A", "A", 1.0),
            ("**a**", "A", 1.0),
            ("\\boxed{A}", "A", 1.0),
            ("$\\text{A}$", "A", 1.0),
            ("A. clothing", "A", 1.0),
            ("A) Clothing.", "A", 1.0),
            ("clothing", "A", 1.0),
            ("the answer is B", "B", 1.0),
            ("Option (B)", "B", 1.0),
            ("B and A", "A,B", 1.0),
            ("B. clothing", "A", 0.0),
            ("A. two dogs", "A", 0.0),
            ("A, B", "A", 0.0),
            ("A or B", "A", 0.0),
            ("AB", "A", 0.0),
            ("", "A", 0.0),
            ("clothing or dogs", "A", 0.0),
            ("Yes", "yes", 1.0),
        ] {
            assert_eq!(score(answer, truth, &options), expected, "{answer:?} {truth:?}");
        }
        assert_eq!(score("A. or B. dogs", "A", &[]), 0.0);
    }

    #[test]
    fn texts_keep_the_marks_that_tell_them_apart() {
        for (options, answer, truth, expected) in [
            (["A. -5", "B. 3"], "5", "A", 0.0),
            (["A. -5", "B. 3"], "-5", "A", 1.0),
            (["A. -5", "B. 3"], "\u{2212}5", "A", 1.0),
            (["A. -5", "B. 3"], "A. 5", "A", 0.0),
            (["A. -5", "B. 3"], "**A. -5**", "A", 1.0),
            (["A. 5", "B. -5"], "-5", "B", 1.0),
            (["A. 5", "B. -5"], "$-5$", "B", 1.0),
            (["A. 5", "B. -5"], "\\boxed{-5}", "B", 1.0),
            (["A. 5", "B. -5"], "-\\text{5}", "B", 1.0),
            (["A. 5", "B. -5"], "- 5", "A", 1.0),
            (["A. 5", "B. -5"], "5.", "A", 1.0),
            (["A. 5", "B. -5"], "+5", "A", 1.0),
            (["A. .5", "B. 5"], "5", "A", 0.0),
            (["A. .5", "B. 5"], "0.5", "A", 1.0),
            (["A. -.5", "B. -5"], "-.5", "A", 1.0),
            (["A. <5", "B. >5"], "> 5", "B", 1.0),
            (["A. <5", "B. >5"], "<5", "B", 0.0),
            (["A. -$5", "B. $5"], "-$5", "A", 1.0),
            (["A. -2x", "B. 2x"], "2x", "B", 1.0),
            (["A. -2x", "B. 2x"], "-A", "A", 1.0),
            (["A. cat", "B. dog"], "- **cat**", "A", 1.0),
            (["A. ?", "B. !"], "!", "B", 0.0),
        ] {
            let options = options.map(str::to_owned);
            assert_eq!(score(answer, truth, &options), expected, "{options:?}: {answer:?} for {truth:?}");
        }
        assert_eq!((score("5", "-5", &[]), score("-5", "-5", &[])), (0.0, 1.0));
    }
}
