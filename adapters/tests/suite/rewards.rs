//! Rewards against the golden cases of the reference, with the deviations that we mean.

use crate::golden::{golden, report};
use owlet_adapters::{
    data::Sample,
    reward::{Composition, Reward, RewardParts, VerifiableReward, parse},
    task::TaskType,
};
use proptest::prelude::*;
use serde_json::Value;

/// Golden cases where the reference is wrong by its own intent: id, our accuracy, our format and structure.
/// The rules are in the table of `reward/mod.rs`.
const DEVIATIONS: &[(&str, f64, f64, f64)] = &[
    // Letters in other dress, lists as sets.
    ("multiple-choice-006", 1.0, 1.0, 0.5),
    ("multiple-choice-008", 1.0, 1.0, 0.5),
    ("multiple-choice-009", 1.0, 1.0, 0.5),
    ("multiple-choice-011", 1.0, 1.0, 0.5),
    ("multiple-choice-016", 1.0, 1.0, 0.5),
    ("multiple-choice-020", 1.0, 1.0, 0.5),
    // Two answers: no longer well formed; one inside the thinking does not count.
    ("multiple-choice-034", 0.0, 0.0, 0.0),
    ("multiple-choice-035", 1.0, 0.0, 0.0),
    // Numbers as people write them, and only those.
    ("numerical-007", 0.0, 1.0, 0.5),
    ("numerical-017", 1.0, 1.0, 0.5),
    ("numerical-025", 1.0, 1.0, 0.5),
    ("numerical-029", 0.0, 1.0, 0.5),
    ("numerical-036", 0.0, 1.0, 0.5),
    ("numerical-039", 1.0, 1.0, 0.5),
    ("numerical-048", 1.0, 1.0, 0.5),
    // Decimal halves.
    ("numerical-009", 1.0, 1.0, 0.5),
    ("numerical-043", 1.0, 1.0, 0.5),
    // White space around < and > belongs to the answer.
    ("ocr-019", 1.0, 1.0, 0.5),
    ("ocr-020", 1.0, 1.0, 0.5),
    // One word, and letters beyond ASCII.
    ("open-ended-002", 1.0, 1.0, 0.5),
    ("open-ended-003", 1.0, 1.0, 0.5),
    ("open-ended-004", 1.0, 1.0, 0.5),
    ("open-ended-015", 1.0, 1.0, 0.5),
    ("open-ended-030", 1.0, 1.0, 0.5),
    // Bare LaTeX, Unicode, tuples, scientific notation, degrees in functions.
    ("math-019", 1.0, 1.0, 0.5),
    ("math-024", 1.0, 1.0, 0.5),
    ("math-045", 1.0, 1.0, 0.5),
    ("math-056", 1.0, 1.0, 0.5),
    ("math-081", 1.0, 1.0, 0.5),
    // Letters and words.
    ("math-057", 1.0, 1.0, 0.5),
    ("math-060", 1.0, 1.0, 0.5),
    ("math-062", 1.0, 1.0, 0.5),
    ("math-063", 1.0, 1.0, 0.5),
    // JSON has no NaN, and true is no number.
    ("spatial-grounding-026", 0.0, 1.0, 0.0),
    ("spatial-grounding-027", 0.0, 1.0, 0.0),
];

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().expect("a string")
}

fn sample(case: &Value) -> Sample {
    Sample {
        id: text(case, "id").to_owned(),
        place: String::new(),
        problem: String::new(),
        images: Vec::new(),
        answer: parse(text(case, "ground_truth")).answer.to_owned(),
        problem_type: text(case, "problem_type").parse().expect("an image type"),
        task_type: text(case, "task_type").parse().expect("a known task"),
        options: Vec::new(),
        response: None,
    }
}

#[test]
fn rewards_match_the_reference_but_for_the_listed_deviations() {
    let cases = golden("rewards.jsonl");
    let mut failures = Vec::new();
    let mut unused: Vec<_> = DEVIATIONS.iter().map(|(id, ..)| *id).collect();
    for case in &cases {
        let number = |field: &str| case["expected"][field].as_f64().expect("a number");
        let (id, sample) = (text(case, "id"), sample(case));
        let reference =
            RewardParts { accuracy: number("accuracy"), format: number("format"), structure: number("structure") };
        let expected = match DEVIATIONS.iter().find(|(deviating, ..)| *deviating == id) {
            Some(&(id, accuracy, format, structure)) => {
                unused.retain(|other| *other != id);
                let ours = RewardParts { accuracy, format, structure };
                if ours == reference {
                    failures.push(format!("{id} is no deviation"));
                }
                ours
            }
            None => reference,
        };
        let got = VerifiableReward.score(text(case, "response"), &sample).expect("never fails");
        // Regression accuracies of the reference are f32.
        let near = |left: f64, right: f64| (left - right).abs() < 1e-6;
        let overall = Composition::default().overall(&got, sample.task_type, 0);
        if !near(got.accuracy, expected.accuracy)
            || got.format != expected.format
            || got.structure != expected.structure
            || (expected == reference && !near(overall, number("overall")))
        {
            failures.push(format!("{id} ({}): {got:?} instead of {expected:?}", text(case, "note")));
        }
    }
    failures.extend(unused.iter().map(|id| format!("{id}: no such case")));
    report(&failures, cases.len());
}

proptest! {
    #[test]
    fn any_text_is_scored_in_range(answer in ".{0,200}", truth in "[ -~]{1,40}", wrapped in any::<bool>()) {
        let response = if wrapped { format!("<thinking></thinking><answer>{answer}</answer>") } else { answer };
        for problem_type in owlet_adapters::task::ProblemType::ALL {
            let sample = Sample {
                id: String::new(),
                place: String::new(),
                problem: String::new(),
                images: Vec::new(),
                answer: truth.clone(),
                problem_type: *problem_type,
                task_type: TaskType::Ocr,
                options: vec!["A. cat".to_owned(), "B. dog".to_owned()],
                response: None,
            };
            let parts = VerifiableReward.score(&response, &sample).expect("never fails");
            prop_assert!((0.0..=1.0).contains(&parts.accuracy), "{problem_type}: {parts:?}");
        }
    }

    #[test]
    fn formulas_of_any_shape_are_scored(answer in r"[-+*/^_(){}\[\],.<>=%°$0-9xyesin \\a-z]{0,60}") {
        let sample = Sample {
            id: String::new(),
            place: String::new(),
            problem: String::new(),
            images: Vec::new(),
            answer: "2".to_owned(),
            problem_type: owlet_adapters::task::ProblemType::Math,
            task_type: TaskType::MathReasoning,
            options: Vec::new(),
            response: None,
        };
        VerifiableReward.score(&answer, &sample).expect("never fails");
    }
}
