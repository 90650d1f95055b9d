//! The Porter stemmer with the extensions of NLTK, which is what `rouge_score` uses.
//!
//! Porter, "An algorithm for suffix stripping", Program 14 (1980), steps 1a to 5b; the extensions are a table of irregular
//! forms and changed rules for short words, marked below. Works on lower-case ASCII. Compared with NLTK on 68,000 words.

/// Irregular forms of NLTK.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffixes of step 2 and what replaces them where the stem has a measure above 0.
const STEP_2: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a lower-case ASCII word.
pub(super) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let mut word = step_1b(step_1a(word));
    step_1c(&mut word);
    let word = step_2(word);
    let word = replace_first(&word, &STEP_3, 0).unwrap_or(word);
    step_5(step_4(word))
}

fn step_1a(word: &str) -> String {
    let cut = |n: usize| word[..word.len() - n].to_owned();
    // NLTK: "ties" becomes "tie".
    if (word.ends_with("ies") && word.len() == 4) || (word.ends_with('s') && !word.ends_with("ss")) {
        let n = if word.ends_with("sses") || (word.ends_with("ies") && word.len() != 4) { 2 } else { 1 };
        return cut(n);
    }
    word.to_owned()
}

fn step_1b(word: String) -> String {
    let cut = |n: usize| &word[..word.len() - n];
    // NLTK: "died" becomes "die".
    if word.ends_with("ied") {
        return if word.len() == 4 { cut(1) } else { cut(2) }.to_owned();
    }
    if word.ends_with("eed") {
        return if measure(cut(3)) > 0 { cut(1).to_owned() } else { word };
    }
    let stripped = ["ed", "ing"].iter().find_map(|suffix| word.strip_suffix(suffix).filter(|stem| has_vowel(stem)));
    let Some(stem) = stripped else { return word };
    if ["at", "bl", "iz"].iter().any(|suffix| stem.ends_with(suffix)) {
        return format!("{stem}e");
    }
    if ends_with_double_consonant(stem) {
        return if stem.ends_with(['l', 's', 'z']) { stem.to_owned() } else { stem[..stem.len() - 1].to_owned() };
    }
    if measure(stem) == 1 && ends_short(stem) { format!("{stem}e") } else { stem.to_owned() }
}

/// NLTK: y becomes i after a consonant that is not the first letter.
fn step_1c(word: &mut String) {
    if let Some(stem) = word.strip_suffix('y')
        && stem.len() > 1
        && is_consonant(stem.as_bytes(), stem.len() - 1)
    {
        let length = stem.len();
        word.replace_range(length.., "i");
    }
}

fn step_2(word: String) -> String {
    // NLTK: "alli" is replaced first, and the rest of the step sees the result.
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return step_2(format!("{stem}al"));
    }
    if let Some(replaced) = replace_first(&word, &STEP_2, 0) {
        return replaced;
    }
    // NLTK: the l of "logi" belongs to the stem that is measured.
    match word.strip_suffix("ogi") {
        Some(stem) if stem.ends_with('l') && measure(stem) > 0 => format!("{stem}og"),
        _ => word,
    }
}

fn step_4(word: String) -> String {
    let Some((suffix, stem)) = STEP_4.iter().find_map(|suffix| Some((*suffix, word.strip_suffix(suffix)?))) else {
        return word;
    };
    let applies = measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't']));
    if applies { stem.to_owned() } else { word }
}

fn step_5(mut word: String) -> String {
    if let Some(stem) = word.strip_suffix('e') {
        let measure = measure(stem);
        if measure > 1 || (measure == 1 && !ends_short(stem)) {
            word.pop();
        }
    }
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
    word
}

/// Applies the first rule whose suffix fits; `None` where none fits. A rule that fits but whose stem is too short ends the
/// search without a change.
fn replace_first(word: &str, rules: &[(&str, &str)], above: usize) -> Option<String> {
    let (stem, replacement) = rules.iter().find_map(|(suffix, new)| Some((word.strip_suffix(suffix)?, *new)))?;
    Some(if measure(stem) > above { format!("{stem}{replacement}") } else { word.to_owned() })
}

fn is_consonant(word: &[u8], index: usize) -> bool {
    match word[index] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => index == 0 || !is_consonant(word, index - 1),
        _ => true,
    }
}

fn has_vowel(stem: &str) -> bool {
    (0..stem.len()).any(|index| !is_consonant(stem.as_bytes(), index))
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    let follows = |index: &usize| is_consonant(stem.as_bytes(), *index) && !is_consonant(stem.as_bytes(), index - 1);
    (1..stem.len()).filter(follows).count()
}

fn ends_with_double_consonant(stem: &str) -> bool {
    let bytes = stem.as_bytes();
    bytes.len() >= 2 && bytes[bytes.len() - 1] == bytes[bytes.len() - 2] && is_consonant(bytes, bytes.len() - 1)
}

/// Porter's *o: consonant, vowel, consonant other than w, x, y. NLTK: also a vowel and a consonant alone.
fn ends_short(stem: &str) -> bool {
    let (bytes, n) = (stem.as_bytes(), stem.len());
    match n {
        0 | 1 => false,
        2 => !is_consonant(bytes, 0) && is_consonant(bytes, 1),
        _ => {
            is_consonant(bytes, n - 3)
                && !is_consonant(bytes, n - 2)
                && is_consonant(bytes, n - 1)
                && !matches!(bytes[n - 1], b'w' | b'x' | b'y')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_are_those_of_nltk() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "tie"),
            ("cats", "cat"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("conflated", "conflat"),
            ("hopping", "hop"),
            ("hissing", "hiss"),
            ("filing", "file"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("relational", "relat"),
            ("conditional", "condit"),
            ("formality", "formal"),
            ("hopefulness", "hope"),
            ("triplicate", "triplic"),
            ("electrical", "electr"),
            ("adjustment", "adjust"),
            ("adoption", "adopt"),
            ("probate", "probat"),
            ("cease", "ceas"),
            ("controlling", "control"),
            ("studies", "studi"),
            ("flying", "fli"),
            ("dying", "die"),
            ("running", "run"),
            ("biology", "biolog"),
            ("generally", "gener"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }
}
