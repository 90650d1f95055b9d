//! Free text: the mean of ROUGE-1, ROUGE-2 and ROUGE-L, each as F measure (Lin, "ROUGE", 2004), with stemming.
//!
//! Tokens are runs of letters and digits in lower case, stemmed where longer than three ASCII letters. Unlike
//! `rouge_score`, which knows ASCII only, letters of other alphabets count, and each character of a script without spaces
//! is a token; and ROUGE-2 is left out where neither side has a bigram, so that a right answer of one word is worth 1.

use std::collections::HashMap;

use super::stem::stem;

/// Answers are read up to this many tokens, which bounds the quadratic work of ROUGE-L.
const MAX_TOKENS: usize = 4096;

/// The mean F measure in 0..=1.
pub(super) fn score(answer: &str, truth: &str) -> f64 {
    let (answer, truth) = (tokens(answer), tokens(truth));
    let mut measures = vec![overlap(&answer, &truth, 1)];
    if answer.len() >= 2 || truth.len() >= 2 {
        measures.push(overlap(&answer, &truth, 2));
    }
    measures.push(f_measure(longest_common_subsequence(&answer, &truth), answer.len(), truth.len()));
    measures.iter().sum::<f64>() / measures.len() as f64
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let lower = text.to_lowercase();
    for run in lower.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        let mut rest = run;
        while let Some(first) = rest.chars().next() {
            let end = if is_unspaced(first) { first.len_utf8() } else { rest.find(is_unspaced).unwrap_or(rest.len()) };
            let (token, tail) = rest.split_at(end);
            tokens.push(if token.len() > 3 && token.is_ascii() { stem(token) } else { token.to_owned() });
            rest = tail;
        }
    }
    tokens.truncate(MAX_TOKENS);
    tokens
}

/// Characters of scripts that do not separate words: Thai to Khmer, kana, Han.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// F measure of the n-grams that both have, each counted as often as in the one that has fewer.
fn overlap(answer: &[String], truth: &[String], n: usize) -> f64 {
    let mut counts: HashMap<&[String], usize> = HashMap::new();
    for gram in truth.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    let mut common = 0;
    for gram in answer.windows(n) {
        if let Some(count) = counts.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    let grams = |tokens: &[String]| (tokens.len() + 1).saturating_sub(n);
    f_measure(common, grams(answer), grams(truth))
}

fn f_measure(common: usize, n_answer: usize, n_truth: usize) -> f64 {
    if common == 0 { 0.0 } else { 2.0 * common as f64 / (n_answer + n_truth) as f64 }
}

fn longest_common_subsequence(left: &[String], right: &[String]) -> usize {
    let mut row = vec![0; right.len() + 1];
    for word in left {
        let mut diagonal = 0;
        for (j, other) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_answers_are_worth_one_in_any_script() {
        for text in ["Paris", "two dogs", "北京", "café", "Привет, мир", "x"] {
            assert_eq!(score(text, text), 1.0, "{text}");
        }
        assert_eq!(score("北京市", "北京"), (0.8 + 2.0 / 3.0 + 0.8) / 3.0);
        assert_eq!(score("", "Paris"), 0.0);
        assert_eq!(score("London", "Paris"), 0.0);
    }
}
