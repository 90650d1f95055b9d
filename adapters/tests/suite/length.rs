//! The length envelope against the golden cases.

use crate::golden::{golden, report};
use owlet_adapters::length::LengthEnvelope;

#[test]
fn envelopes_match_the_reference() {
    let cases = golden("length_envelope.jsonl");
    let mut failures = Vec::new();
    for case in &cases {
        let envelope: LengthEnvelope = serde_json::from_value(case["envelope"].clone()).expect("four lengths");
        let disordered = case["id"].as_str().is_some_and(|id| id.starts_with("disordered"));
        if envelope.validate().is_err() != disordered {
            failures.push(format!("{}: validity", case["id"]));
        }
        // The reference scores negative lengths and disordered envelopes; here neither can exist.
        let (Some(length), false) = (case["length"].as_u64(), disordered) else { continue };
        let (got, expected) = (envelope.score(length as usize), case["expected"].as_f64().expect("a number"));
        if (got - expected).abs() > 1e-12 {
            failures.push(format!("{}: {got} instead of {expected}", case["id"]));
        }
    }
    report(&failures, cases.len());
}
