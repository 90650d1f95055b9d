//! Policy loss, KL estimates and entropy band against the golden cases, and the loss against finite differences.

use crate::golden::{golden, numbers, report};
use owlet_adapters::{
    entropy::EntropyBand,
    loss::{
        Average, BatchSize, KlEstimate, KlPenalty, LossOptions, LossStats, Objective, PolicyLoss, Sequence,
        likelihood_loss, policy_loss,
    },
    method::Method,
    task::TaskType,
};
use owlet_runtime::{ErrorKind, rng::Rng};
use serde_json::Value;

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("an array of rows").iter().map(numbers).collect()
}

/// `values[row][token]` where the mask is 1.
fn masked(values: &[Vec<f64>], mask: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let keep = |(row, mask): (&Vec<f64>, &Vec<f64>)| {
        row.iter().zip(mask).filter(|(_, mask)| **mask == 1.0).map(|(value, _)| *value).collect()
    };
    values.iter().zip(mask).map(keep).collect()
}

fn average(mode: &Value) -> Average {
    if mode == "seq" { Average::Seq } else { Average::Token }
}

/// The options of a case; the reference ignores the gspo types, which EasyR1 has.
fn options(case: &Value) -> LossOptions {
    let config = &case["config"];
    let number = |name: &str| config[name].as_f64().expect("a number");
    let objective = match config["loss_type"].as_str().expect("a name") {
        "gspo" | "gspo_token" if case["reference"] == "easyr1-head" => Objective::Gspo,
        "cispo" => Objective::Cispo,
        "sapo" => Objective::Sapo { tau_positive: number("tau_positive"), tau_negative: number("tau_negative") },
        _ => Objective::Clipped,
    };
    LossOptions {
        objective,
        clip_low: number("clip_ratio_low"),
        clip_high: number("clip_ratio_high"),
        clip_dual: Some(number("clip_ratio_dual")),
        average: average(&config["loss_avg_mode"]),
        kl: None,
    }
}

/// Masked rows of a case; advantages a token are given as rows of one token, which is the same mean in token mode.
struct Batch {
    logprobs: Vec<Vec<f64>>,
    old: Vec<Vec<f64>>,
    advantages: Vec<f64>,
}

fn batch(case: &Value) -> Batch {
    let mask = rows(&case["response_mask"]);
    let logprobs = masked(&rows(&case["log_probs"]), &mask);
    let old = masked(&rows(&case["old_log_probs"]), &mask);
    if case["advantages"][0].is_number() {
        return Batch { logprobs, old, advantages: numbers(&case["advantages"]) };
    }
    let single = |rows: Vec<Vec<f64>>| rows.concat().into_iter().map(|value| vec![value]).collect();
    let advantages = masked(&rows(&case["advantages"]), &mask).concat();
    Batch { logprobs: single(logprobs), old: single(old), advantages }
}

fn evaluate(options: &LossOptions, batch: &Batch) -> PolicyLoss {
    evaluate_against(options, batch, None)
}

fn evaluate_against(options: &LossOptions, batch: &Batch, references: Option<&[Vec<f64>]>) -> PolicyLoss {
    let sequences: Vec<_> = (0..batch.logprobs.len())
        .map(|row| Sequence {
            advantage: batch.advantages[row],
            logprobs: &batch.logprobs[row],
            old_logprobs: &batch.old[row],
            reference_logprobs: references.map(|references| references[row].as_slice()),
        })
        .collect();
    let size = BatchSize::of(batch.logprobs.iter().map(Vec::len));
    policy_loss(options, size, &sequences).expect("lengths agree")
}

/// One absolute and relative 1e-9: f64 on both sides.
fn differ(got: f64, expected: f64) -> bool {
    (got - expected).abs() > 1e-9 * (1.0 + expected.abs())
}

#[test]
fn policy_losses_and_gradients_match_the_reference() {
    let cases = golden("policy_loss.jsonl");
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| case["kind"] != "kl") {
        let got = evaluate(&options(case), &batch(case));
        let expected = &case["expected"];
        let mut check = |what: &str, got: f64, expected: f64| {
            if differ(got, expected) {
                failures.push(format!("{} {what}: {got} instead of {expected}", case["id"]));
            }
        };
        check("loss", got.loss, expected["loss"].as_f64().expect("a number"));
        let gradient = masked(&rows(&expected["grad"]), &rows(&case["response_mask"])).concat();
        assert_eq!(gradient.len(), got.stats.n_tokens);
        for (index, (got, expected)) in got.coefficients.concat().iter().zip(gradient).enumerate() {
            check(&format!("gradient [{index}]"), *got, expected);
        }
        let metric = |name: &str| expected["metrics"][name].as_f64();
        check("ppo_kl", got.stats.mean(got.stats.sum_old_kl), metric("ppo_kl").expect("a number"));
        for (name, n) in [("pg_clipfrac_higher", got.stats.n_clipped), ("pg_clipfrac_lower", got.stats.n_dual_clipped)]
        {
            if let Some(expected) = metric(name) {
                check(name, got.stats.mean(n as f64), expected);
            }
        }
    }
    report(&failures, cases.len());
}

/// The one deviation: a task type without a row adds 0, not 0.2 (token mode) or NaN (seq mode, see `rest`).
#[test]
fn entropy_bands_match_the_reference_but_for_absent_tasks() {
    let cases = golden("policy_loss.jsonl");
    let band = EntropyBand::default();
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| case["kind"] == "policy_loss+entropy") {
        let average = average(&case["config"]["loss_avg_mode"]);
        let logprobs = batch(case).logprobs;
        let tasks: Vec<TaskType> =
            numbers(&case["task_index"]).iter().map(|&index| TaskType::ALL[index as usize]).collect();
        let sequences: Vec<_> = tasks.iter().copied().zip(logprobs.iter().map(Vec::as_slice)).collect();
        let plan = band.plan(average, &sequences);
        let n_absent = TaskType::ALL.iter().filter(|task| !tasks.contains(task)).count();
        let mut check = |what: &str, got: f64, expected: f64| {
            if differ(got, expected) {
                failures.push(format!("{} {what}: {got} instead of {expected}", case["id"]));
            }
        };
        match case["expected"]["entropy_reg"].as_f64() {
            Some(reg) => check("penalty", plan.penalty, band.coefficient * (reg - band.low * n_absent as f64)),
            None => assert!(n_absent > 0 && plan.penalty.is_finite(), "only absent tasks make the reference NaN"),
        }
        let gradient = masked(&rows(&case["expected"]["entropy_reg_grad"]), &rows(&case["response_mask"]));
        for ((&task, logprobs), row) in tasks.iter().zip(&logprobs).zip(gradient) {
            for expected in row {
                check("gradient", plan.coefficient(task, logprobs.len()), band.coefficient * expected);
            }
        }
    }
    report(&failures, cases.len());
}

#[test]
fn kl_estimates_match_the_reference() {
    let cases = golden("policy_loss.jsonl");
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| case["kind"] == "kl") {
        let estimate = match case["kl_penalty"].as_str().expect("a name") {
            "kl" => KlEstimate::K1,
            "abs" => KlEstimate::Abs,
            "mse" => KlEstimate::K2,
            "low_var_kl" => KlEstimate::K3,
            _ => continue,
        };
        let mask = rows(&case["response_mask"]);
        let (logprobs, references) = (rows(&case["log_probs"]), rows(&case["ref_log_probs"]));
        let (values, slopes) = (rows(&case["expected"]["kl"]), rows(&case["expected"]["grad"]));
        let size = BatchSize::of(mask.iter().map(|row| row.iter().sum::<f64>() as usize));
        for row in 0..mask.len() {
            let n: f64 = mask[row].iter().sum();
            let weight = match average(&case["loss_avg_mode"]) {
                Average::Seq => 1.0 / (size.n_sequences as f64 * n),
                _ => 1.0 / size.n_tokens as f64,
            };
            for token in 0..mask[row].len() {
                let (value, slope) = estimate.at(logprobs[row][token], references[row][token]);
                let slope = slope * weight * mask[row][token];
                // The reference computes this in f32.
                let near = |got: f64, expected: f64| (got - expected).abs() <= 2e-6 * (1.0 + expected.abs());
                if !near(value, values[row][token]) || !near(slope, slopes[row][token]) {
                    failures.push(format!("{} [{row}][{token}]: {value}, {slope}", case["id"]));
                }
            }
        }
    }
    report(&failures, cases.len());
}

/// Every method, with every mean and every penalty, against its own scalar.
#[test]
fn gradients_are_difference_quotients() {
    const STEP: f64 = 1e-6;
    let averages = [Average::Token, Average::Seq, Average::Fixed { n_tokens: 7 }];
    let penalties = || [None].into_iter().chain(KlEstimate::ALL.map(Some));
    let mut failures = Vec::new();
    let mut n_cases = 0;
    for (method, average) in Method::ALL.into_iter().flat_map(|method| averages.map(|average| (method, average))) {
        for estimate in penalties() {
            let kl = estimate.map(|estimate| KlPenalty { estimate, coefficient: 0.2 });
            let options = LossOptions { average, kl, ..method.parts(7).1 };
            let mut batch = random_batch();
            let references: Vec<Vec<f64>> =
                batch.old.iter().map(|row| row.iter().map(|old| old - 0.3).collect()).collect();
            let coefficients = evaluate_against(&options, &batch, Some(&references)).coefficients;
            for (row, coefficients) in coefficients.iter().enumerate() {
                for (token, got) in coefficients.iter().enumerate() {
                    let mut at = |shift: f64| {
                        // CISPO holds its weights constant: the old log-probability moves along.
                        let old_shift = if options.objective == Objective::Cispo { shift } else { 0.0 };
                        batch.logprobs[row][token] += shift;
                        batch.old[row][token] += old_shift;
                        let loss = evaluate_against(&options, &batch, Some(&references)).loss;
                        batch.logprobs[row][token] -= shift;
                        batch.old[row][token] -= old_shift;
                        loss
                    };
                    let quotient = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                    n_cases += 1;
                    if (got - quotient).abs() > 1e-6 * (1.0 + got.abs()) {
                        failures.push(format!("{method} {average:?} {estimate:?} [{row}][{token}]: {got} {quotient}"));
                    }
                }
            }
        }
    }
    report(&failures, n_cases);
}

/// Ratios on both sides of every clip: near 1 in row 0, beyond the clamp of the log ratio in rows 3 and 4.
fn random_batch() -> Batch {
    let mut rng = Rng::keyed(&[1]);
    let mut draw = |n: usize| (0..n).map(|_| -2.0 * rng.uniform()).collect::<Vec<f64>>();
    let lengths = [3, 5, 0, 2, 1];
    let (mut logprobs, mut old) = (lengths.map(&mut draw), lengths.map(&mut draw));
    old[0] = logprobs[0].iter().map(|logprob| logprob - 1e-4).collect();
    logprobs[3][0] = -35.0;
    logprobs[4][0] = -45.0;
    old[4][0] = -1.0;
    Batch { logprobs: logprobs.to_vec(), old: old.to_vec(), advantages: vec![1.2, -0.7, 0.3, -2.0, 0.9] }
}

#[test]
fn one_ratio_for_a_sequence_is_clipped_as_a_whole() {
    let options = LossOptions { clip_low: 0.1, clip_high: 0.1, ..Method::Gspo.parts(7).1 };
    let old = vec![vec![-1.0, -2.0], vec![-1.0, -2.0]];
    // The geometric mean of e^0.4 and e^-0.3 is inside the clip, that of e^0.4 and e^-0.1 outside.
    let batch = Batch { logprobs: vec![vec![-0.6, -2.3], vec![-0.6, -2.1]], old, advantages: vec![1.0, 1.0] };
    let loss = evaluate(&options, &batch);
    let ratio = 0.05f64.exp();
    // As near as the reference's 1e-8 in the counts allows.
    let near = |got: f64, expected: f64| (got - expected).abs() < 1e-7;
    assert!(near(loss.loss, -(ratio + 1.1) / 2.0), "{loss:?}");
    assert!(loss.coefficients[0].iter().all(|slope| near(*slope, -ratio / 4.0)), "{loss:?}");
    assert_eq!(loss.coefficients[1], [0.0, 0.0]);
    assert_eq!(loss.stats.n_clipped, 2);
}

/// One update a step: the methods differ in what they do about ratios other than 1.
#[test]
fn where_nothing_was_updated_the_ratio_makes_no_difference() {
    let Batch { logprobs, advantages, .. } = random_batch();
    let batch = Batch { old: logprobs.clone(), logprobs, advantages };
    let gradient = |method: Method| evaluate(&method.parts(7).1, &batch).coefficients.concat();
    for (method, others) in [(Method::Grpo, vec![Method::Gspo, Method::Sapo]), (Method::Dapo, vec![Method::Cispo])] {
        for other in others {
            let (one, two) = (gradient(method), gradient(other));
            assert!(one.iter().zip(&two).all(|(one, two)| !differ(*two, *one)), "{method} {one:?}, {other} {two:?}");
        }
    }
    assert_ne!(gradient(Method::Grpo), gradient(Method::Dapo), "the mean does");
}

/// CISPO bounds a weight and not the gradient, whatever the sign of the advantage.
#[test]
fn ratios_beyond_the_bounds_of_cispo_are_counted() {
    let options = LossOptions { clip_low: 0.5, clip_high: 1.0, ..Method::Cispo.parts(7).1 };
    let old = vec![vec![-1.0, -1.0, -1.0], vec![-1.0, -1.0, -1.0]];
    // Ratios of about 2.5, 1.1 and 0.4.
    let logprobs = vec![vec![-0.1, -0.9, -2.0]; 2];
    let loss = evaluate(&options, &Batch { logprobs, old, advantages: vec![1.0, -1.0] });
    assert_eq!((loss.stats.n_clipped, loss.stats.n_dual_clipped), (4, 0));
    assert!(loss.coefficients.iter().flatten().all(|slope| *slope != 0.0), "{loss:?}");
}

#[test]
fn a_fixed_length_weighs_all_tokens_alike_whatever_the_responses() {
    let options = LossOptions { average: Average::Fixed { n_tokens: 10 }, ..LossOptions::default() };
    let tokens = |n: usize| vec![-1.0; n];
    let logprobs = vec![tokens(2), tokens(8)];
    let batch = Batch { old: logprobs.clone(), logprobs, advantages: vec![-1.0, -1.0] };
    let loss = evaluate(&options, &batch);
    assert!(loss.coefficients.iter().flatten().all(|slope| !differ(*slope, 1.0 / 20.0)), "{loss:?}");
}

/// Responses of a quarter of the fixed length: over that length, their 0.5 nats would be 0.125 and look too sure.
#[test]
fn an_entropy_band_is_in_nats_of_a_token_whatever_the_loss_is_the_mean_of() {
    let band = EntropyBand::default();
    let responses = |nats: f64| vec![vec![-nats; 3], vec![-nats; 5]];
    for average in [Average::Token, Average::Seq, Average::Fixed { n_tokens: 16 }] {
        for (nats, penalty, sign) in [(0.5, 0.0, 0.0), (0.1, 0.02 * 0.1, 1.0), (1.6, 0.02 * 1.0, -1.0)] {
            let responses = responses(nats);
            let sequences: Vec<_> = responses.iter().map(|logprobs| (TaskType::Ocr, logprobs.as_slice())).collect();
            let plan = band.plan(average, &sequences);
            assert!((plan.penalty - penalty).abs() < 1e-9, "{average:?}, {nats} nats: {}", plan.penalty);
            let total: f64 = [3, 5].iter().map(|&n| n as f64 * plan.coefficient(TaskType::Ocr, n)).sum();
            // All tokens together move the mean of -logprob by -1.
            assert!((total - sign * 0.02).abs() < 1e-9, "{average:?}, {nats} nats: {total}");
        }
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let base = LossOptions::default();
    for options in [
        LossOptions { clip_low: 1.1, ..base },
        LossOptions { clip_low: f64::NAN, ..base },
        LossOptions { clip_high: -0.1, ..base },
        LossOptions { clip_dual: Some(1.0), ..base },
        LossOptions { average: Average::Fixed { n_tokens: 0 }, ..base },
        LossOptions { kl: Some(KlPenalty { coefficient: -1.0, ..KlPenalty::default() }), ..base },
        LossOptions { objective: Objective::Sapo { tau_positive: 0.0, tau_negative: 1.0 }, ..base },
    ] {
        let error = policy_loss(&options, BatchSize::default(), &[]).expect_err("out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{options:?}");
    }
}

#[test]
fn the_likelihood_of_given_responses_is_averaged_as_asked() {
    let sequences: [&[f64]; 2] = [&[-1.0], &[-2.0, -3.0, -4.0]];
    let size = BatchSize::of(sequences.iter().map(|sequence| sequence.len()));
    for (average, loss, slopes) in [
        (Average::Token, 10.0 / 4.0, [1.0 / 4.0, 1.0 / 4.0]),
        (Average::Seq, (1.0 + 3.0) / 2.0, [1.0 / 2.0, 1.0 / 6.0]),
        (Average::Fixed { n_tokens: 5 }, 10.0 / 10.0, [1.0 / 10.0, 1.0 / 10.0]),
    ] {
        let got = likelihood_loss(average, size, &sequences);
        // As near as the reference's 1e-8 in the counts allows.
        let near = |got: f64, expected: f64| (got - expected).abs() < 1e-7;
        assert!(near(got.loss, loss), "{average:?}: {got:?}");
        for (row, slope) in got.coefficients.iter().zip(slopes) {
            assert!(row.iter().all(|got| near(*got, -slope)), "{average:?}: {row:?}");
        }
    }
}

#[test]
fn the_parts_of_a_batch_add_up() {
    let options = LossOptions { average: Average::Seq, ..LossOptions::default() };
    let case = golden("policy_loss.jsonl").into_iter().find(|case| case["id"] == "default-token-basic");
    let batch = batch(&case.expect("the first golden case"));
    let whole = evaluate(&options, &batch);
    let size = BatchSize::of(batch.logprobs.iter().map(Vec::len));
    let (mut loss, mut stats, mut coefficients) = (0.0, LossStats::default(), Vec::new());
    for row in 0..batch.logprobs.len() {
        let sequence = Sequence {
            advantage: batch.advantages[row],
            logprobs: &batch.logprobs[row],
            old_logprobs: &batch.old[row],
            reference_logprobs: None,
        };
        let part = policy_loss(&options, size, &[sequence]).expect("lengths agree");
        loss += part.loss;
        stats.add(&part.stats);
        coefficients.extend(part.coefficients);
    }
    assert!(!differ(loss, whole.loss));
    assert_eq!(coefficients, whole.coefficients);
    assert_eq!(stats.n_tokens, whole.stats.n_tokens);
}
