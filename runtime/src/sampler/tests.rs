use super::*;

fn options(change: impl FnOnce(&mut SamplerOptions)) -> SamplerOptions {
    let mut options = SamplerOptions::default();
    change(&mut options);
    options
}

/// How often each token is picked in `n` draws.
fn counts(options: &SamplerOptions, logits: &[f32], answer: &[TokenId], n: u64) -> Vec<u64> {
    let mut sampler = Sampler::new(options, logits.len(), &[]).expect("good options");
    let mut counts = vec![0; logits.len()];
    for draw in 0..n {
        let sampled = sampler.sample(logits, answer, &mut Rng::keyed(&[1, draw])).expect("samples");
        counts[sampled.token as usize] += 1;
    }
    counts
}

#[test]
fn filters_leave_exactly_the_tokens_they_should() {
    // Probabilities 0.5, 0.25, 0.15, 0.1.
    let logits = [0.25f32.ln(), 0.5f32.ln(), 0.1f32.ln(), 0.15f32.ln()];
    struct Case {
        name: &'static str,
        options: SamplerOptions,
        left: &'static [usize],
    }
    let cases = [
        Case { name: "none", options: options(|_| ()), left: &[0, 1, 2, 3] },
        Case { name: "top-k 2", options: options(|o| o.top_k = 2), left: &[0, 1] },
        Case { name: "top-k 9", options: options(|o| o.top_k = 9), left: &[0, 1, 2, 3] },
        Case { name: "top-p 0.7", options: options(|o| o.top_p = 0.7), left: &[0, 1] },
        Case { name: "top-p tiny", options: options(|o| o.top_p = 1e-6), left: &[1] },
        // Entropy 1.21; surprises 0.69, 1.39, 1.90, 2.30: nearest is the second, then the first.
        Case { name: "typical 0.2", options: options(|o| o.typical_p = 0.2), left: &[0] },
        Case { name: "typical 0.7", options: options(|o| o.typical_p = 0.7), left: &[0, 1] },
        Case { name: "typical, min-p", options: options(|o| (o.typical_p, o.min_p) = (0.2, 1.0)), left: &[0] },
        Case {
            name: "bias",
            options: options(|o| (o.top_k, o.logit_bias) = (1, vec![(2, 9.0), (7, 1.0)])),
            left: &[2],
        },
        Case { name: "bias twice", options: options(|o| o.logit_bias = vec![(1, -500.0); 2]), left: &[0, 2, 3] },
        Case { name: "min-p 0.25", options: options(|o| o.min_p = 0.25), left: &[0, 1, 3] },
        Case { name: "ban", options: options(|o| o.banned = vec![1, 3, -1, 99]), left: &[0, 2] },
        Case { name: "greedy", options: SamplerOptions::greedy(), left: &[1] },
        Case { name: "greedy ban", options: options(|o| (o.temperature, o.banned) = (0.0, vec![1])), left: &[0] },
    ];
    for Case { name, options, left } in cases {
        let counts = counts(&options, &logits, &[], 2000);
        let seen: Vec<_> = (0..counts.len()).filter(|&token| counts[token] > 0).collect();
        assert_eq!(seen, left, "{name}: {counts:?}");
    }
}

#[test]
fn draws_follow_the_tempered_distribution() {
    let logits = [2.0f32, 1.0, 0.0, -1.0];
    for temperature in [0.5f32, 1.0, 2.0] {
        let n = 40_000;
        let counts = counts(&options(|o| o.temperature = temperature), &logits, &[], n);
        let weights = logits.map(|logit| f64::from(logit / temperature).exp());
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let p = weight / total;
            // Five standard deviations of a binomial count.
            let tolerance = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
            assert!((*count as f64 / n as f64 - p).abs() < tolerance, "temperature {temperature}: {counts:?}");
        }
    }
}

#[test]
fn log_probabilities_are_of_all_tokens_that_are_not_banned() {
    let logits = [1.0f32, 3.0, 2.0];
    let narrow = options(|o| (o.temperature, o.top_k, o.banned) = (2.0, 1, vec![1]));
    let mut sampler = Sampler::new(&narrow, 3, &[]).expect("good options");
    let sampled = sampler.sample(&logits, &[], &mut Rng::keyed(&[1])).expect("samples");
    let total: f64 = [0.5f64, 1.0].map(f64::exp).iter().sum();
    assert_eq!(sampled.token, 2);
    assert!((f64::from(sampled.logprob) - (1.0 - total.ln())).abs() < 1e-6, "{sampled:?}");
}

#[test]
fn the_penalty_makes_repeats_less_likely() {
    let penalized = options(|o| (o.temperature, o.repeat_penalty, o.repeat_window) = (0.0, 4.0, 2));
    let mut sampler = Sampler::new(&penalized, 3, &[]).expect("good options");
    let mut pick = |logits: [f32; 3], answer: &[TokenId]| {
        sampler.sample(&logits, answer, &mut Rng::keyed(&[1])).expect("samples").token
    };
    assert_eq!(pick([2.0, 1.0, 0.0], &[0]), 1, "a positive logit is divided");
    assert_eq!(pick([-1.0, -2.0, -3.0], &[0]), 1, "a negative logit is multiplied");
    assert_eq!(pick([2.0, 1.0, 0.0], &[0, 1, 2]), 0, "older tokens are forgotten");
}

#[test]
fn presence_counts_once_and_frequency_every_time() {
    let pick = |change: fn(&mut SamplerOptions), answer: &[TokenId]| {
        let penalized = options(|o| {
            o.temperature = 0.0;
            change(o);
        });
        let mut sampler = Sampler::new(&penalized, 3, &[]).expect("good options");
        sampler.sample(&[3.0, 2.0, 0.5], answer, &mut Rng::keyed(&[1])).expect("samples").token
    };
    let changes: [fn(&mut SamplerOptions); 2] = [|o| o.presence_penalty = 0.9, |o| o.frequency_penalty = 0.4];
    assert_eq!(changes.map(|change| pick(change, &[0, 2])), [0, 0]);
    assert_eq!(changes.map(|change| pick(change, &[0, 0, 0])), [0, 1]);
    assert_eq!(pick(|o| (o.presence_penalty, o.repeat_window) = (1.5, 1), &[0, 2]), 0, "older tokens are forgotten");
}

#[test]
fn what_narrows_the_choice_leaves_log_probabilities_as_they_are() {
    let logits = [1.0f32, 3.0, 2.0, 0.0];
    for temperature in [0.0, 0.7] {
        let options = options(|o| (o.temperature, o.banned) = (temperature, vec![3]));
        let mut sampler = Sampler::new(&options, 4, &[]).expect("good options");
        let scores = [0, 1, 2].map(|token| sampler.score(&logits, token).expect("a token"));
        let total: f64 = scores.iter().map(|score| f64::from(score.logprob).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6, "{scores:?}");
        assert_eq!(sampler.most_probable_of(&logits, 2), [scores[1], scores[2]]);
        assert_eq!(sampler.most_probable_of(&logits, 9), [scores[1], scores[2], scores[0]]);
        let mut among = |allowed: &[TokenId]| {
            let allowed = |token: TokenId| allowed.contains(&token);
            sampler.sample_among(&logits, &[], &allowed, &mut Rng::keyed(&[1])).expect("samples")
        };
        assert_eq!(among(&[0, 3]), Some(scores[0]));
        assert_eq!(among(&[3]), None, "banned stays banned");
        assert_eq!(sampler.score(&logits, 4).expect_err("no token").kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn bad_options_and_logits_are_refused() {
    for bad in [
        options(|o| o.temperature = -1.0),
        options(|o| o.temperature = f32::NAN),
        options(|o| o.top_p = 0.0),
        options(|o| o.min_p = 1.5),
        options(|o| o.repeat_penalty = 0.0),
        options(|o| o.typical_p = 0.0),
        options(|o| o.presence_penalty = f32::INFINITY),
        options(|o| o.logit_bias = vec![(0, 0.5), (1, f32::NEG_INFINITY)]),
        options(|o| o.banned = vec![0, 1, 2]),
    ] {
        assert_eq!(Sampler::new(&bad, 3, &[]).expect_err("refused").kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    let mut sampler = Sampler::new(&SamplerOptions::default(), 2, &[]).expect("good options");
    let mut sample = |logits: &[f32]| sampler.sample(logits, &[], &mut Rng::keyed(&[1]));
    assert_eq!(sample(&[0.0]).expect_err("too few").kind(), ErrorKind::InvalidInput);
    for logits in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY, f32::NEG_INFINITY]] {
        assert_eq!(sample(&logits).expect_err("not finite").kind(), ErrorKind::Backend, "{logits:?}");
    }
    // What is banned does not matter, however probable.
    let mut sampler = Sampler::new(&SamplerOptions::default(), 3, &[1]).expect("good options");
    let sampled = sampler.sample(&[-1e6, 1e6, -1e9], &[], &mut Rng::keyed(&[1])).expect("samples");
    assert_eq!((sampled.token, sampled.logprob), (0, 0.0));
    // One token that cannot follow is no fault.
    let mut sampler = Sampler::new(&SamplerOptions::default(), 2, &[]).expect("good options");
    let mut sample = |logits: &[f32]| sampler.sample(logits, &[], &mut Rng::keyed(&[1]));
    assert_eq!(sample(&[f32::NEG_INFINITY, 0.0]).expect("samples").token, 1);
}

#[test]
fn the_most_probable_are_named_in_order_at_low_temperatures_too() {
    // Beside the first one all weights are 0.
    let logits = [1.0f32, 2.0, 13.0, 20.0];
    let options = options(|o| o.temperature = 0.1);
    let mut sampler = Sampler::new(&options, 4, &[]).expect("good options");
    let scores = [3, 2, 1].map(|token| sampler.score(&logits, token).expect("a token"));
    assert_eq!(sampler.most_probable_of(&logits, 2), scores[..2]);
    assert_eq!(sampler.most_probable_of(&logits, 3), scores);
}

#[test]
fn a_banned_token_that_others_chose_has_the_probability_that_it_would_have() {
    for logits in [[1.0f32, 3.0, 2.0, 0.0], [80.0, 0.0, 0.0, 0.0], [-80.0, 0.0, 0.0, 0.0]] {
        let score = |banned: &[TokenId]| {
            Sampler::new(&SamplerOptions::default(), 4, banned)
                .and_then(|mut sampler| sampler.score(&logits, 0))
                .expect("a token")
                .logprob
        };
        assert!((score(&[0]) - score(&[])).abs() < 1e-5, "{logits:?}");
        assert!(score(&[0]) <= 0.0, "{logits:?}");
    }
}
